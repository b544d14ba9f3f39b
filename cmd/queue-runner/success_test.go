package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// Who asks to be told of success is told by the last one who can know of it (RFC 3461 section 5.2).
func TestSuccessIsReported(t *testing.T) {
	const success, failure = mail.NotifySuccess, mail.NotifyFailure
	const aliases = "two: x@example.net, y@example.net\none: x@example.net\nnobody: /dev/null\n"
	for _, tt := range []struct {
		name, rcpt string
		notify     mail.Notify
		extensions []string // of the relay; nil: with DSN
		report     string   // its Action; "": none
	}{
		{"a relay that will", "bob@example.net", success, nil, ""},
		{"a relay that will not", "bob@example.net", success | failure, []string{}, "relayed"},
		{"nobody who wants to know", "bob@example.net", failure, []string{}, ""},
		{"an alias for several", "two@here.example", success, nil, "expanded"},
		{"an alias for one", "one@here.example", success, nil, ""},
		{"an alias for one, by way of a relay that will not", "one@here.example", success, []string{}, "relayed"},
		{"an alias for nobody", "nobody@here.example", success, nil, "delivered"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := smtptest.NewServer(t, smtptest.Options{Strict: true, Extensions: tt.extensions})
			w := newWorld(t, relayTo(s))
			w.aliases(aliases)
			w.submitNotify(tt.notify, tt.rcpt)
			w.pass()
			got := ""
			for _, m := range s.Messages() {
				for _, r := range m.Recipients {
					if m.Sender == "" && r.Address == "ann@example.org" {
						got += actions(m.Content)
					} else if tt.report == "expanded" && slices.Contains(r.Params, "NOTIFY=SUCCESS") {
						t.Errorf("%s is asked for a second report", r.Address)
					}
				}
			}
			if got != tt.report || len(w.waiting()) > 0 {
				t.Errorf("reported %q, want %q\n%s", got, tt.report, w.log)
			}
			if tt.report != "" {
				w.wantLog("sender notified of success")
			}
		})
	}
}

// A mailbox is where mail ends.
func TestDeliveryIsReported(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "Maildir")
	w := newWorld(t, "relay = \"maildir:"+dir+"\"\n")
	w.submitNotify(mail.NotifySuccess, "bob@example.net", "cyd@example.net")
	w.pass()
	files, err := filepath.Glob(filepath.Join(dir, "new", "*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%d messages in the Maildir, want two and one report (%v)\n%s", len(files), err, w.log)
	}
	got := ""
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got += actions(text)
	}
	if got != "delivereddelivered" {
		t.Errorf("reported %q", got)
	}
}

// actions returns what a message, if it is a report, says became of recipients.
func actions(content []byte) (all string) {
	for line := range strings.Lines(string(content)) {
		if action, ok := strings.CutPrefix(line, "Action: "); ok {
			all += strings.TrimSpace(action)
		}
	}
	return all
}
