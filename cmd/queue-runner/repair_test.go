package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/spool/drop"
)

// submitText hands a message in as the program of a user who has the login root, and with the configuration in force.
func (w *world) submitText(text string, rcpts ...string) {
	w.t.Helper()
	cfg, err := config.Load(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	dir, err := drop.Open(filepath.Join(w.dir, "drop"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer dir.Close()
	root := submit.Author{Login: "root"}
	s := submit.Submission{Content: strings.NewReader(text), Author: func() submit.Author { return root }}
	s.Arrival = drop.Now()
	if s.Sender, err = mail.ParsePath(root.Login); err != nil {
		w.t.Fatal(err)
	}
	for _, r := range rcpts {
		p, err := mail.ParsePath(r)
		if err != nil {
			w.t.Fatal(err)
		}
		s.Recipients = append(s.Recipients, mail.Recipient{Path: p})
	}
	p, err := submitHost(cfg).Receive(dir, s)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := p.Commit(); err != nil {
		w.t.Fatal(err)
	}
}

// TestCronMailAtAStrictServer sends what cron writes to a server that knows one sender, no 8BITMIME and no SMTPUTF8; its
// report comes back to that sender.
func TestCronMailAtAStrictServer(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{
		Strict: true, Extensions: []string{"PIPELINING", "SIZE"},
		Replies: map[string]string{"MAIL FROM:": "553 5.7.1 not your address", "MAIL FROM:<alerts@example.com>": "250 2.1.0 fine", "MAIL FROM:<>": "250 2.1.0 fine"},
	})
	w := newWorld(t, relayTo(s)+"domain = \"example.com\"\n[rewrite]\nroot = \"alerts@example.com\"\n\"@here.example\" = \"@example.com\"\n")
	line := strings.Repeat("<td>x</td>", 2000)
	w.submitText("From: root (Cron Daemon)\nTo: ops@b\u00fccher.example\nSubject: Cron <root@here> backup\nContent-Type: text/html; charset=UTF-8\n\n"+
		"caf\u00e9 "+line+"\n", "ops@b\u00fccher.example", "b\u00f6b@example.net")
	w.pass()
	w.wantLog(
		"from=<alerts@example.com>, orig_from=<root@example.com>, size=",
		"to=<ops@b\u00fccher.example>, relay=", "status=sent (250",
		"to=<b\u00f6b@example.net>, relay=", "dsn=5.6.7, status=bounced (",
	)
	messages := s.Messages()
	if len(messages) != 2 {
		t.Fatalf("%d messages have arrived, want the message and a report:\n%s", len(messages), w.log)
	}
	got := messages[0]
	if got.Sender != "alerts@example.com" || len(got.Recipients) != 1 || got.Recipients[0].Address != "ops@xn--bcher-kva.example" {
		t.Errorf("from %s to %v", got.Sender, got.Recipients)
	}
	text := string(got.Content)
	for _, want := range []string{
		"\r\nFrom: alerts@example.com (Cron Daemon)\r\nX-Original-From: root (Cron Daemon)\r\n",
		"\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\ncaf=C3=A9 <td>",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in what has arrived: %.1000q", want, text)
		}
	}
	if plain := strings.ReplaceAll(text, "=\r\n", ""); !strings.Contains(plain, line) {
		t.Error("the long line has not arrived")
	}
	for line := range strings.SplitSeq(text, "\r\n") {
		if len(line) > 998 {
			t.Errorf("a line of %d octets has arrived", len(line))
		}
	}
	report := messages[1]
	if report.Sender != "" || report.Recipients[0].Address != "alerts@example.com" || !strings.Contains(string(report.Content), "<MAILER-DAEMON@example.com>\r\n") {
		t.Errorf("report from <%s> to %v:\n%s", report.Sender, report.Recipients, report.Content)
	}
}

// The owner of an alias, in whose name its mail goes out, is a sender as any other.
func TestOwnersAreRewritten(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{Strict: true})
	w := newWorld(t, relayTo(s)+"force_from = \"alerts@example.com\"\n")
	w.aliases("staff: x@example.net, y@example.net\nowner-staff: boss")
	w.submit("staff@here.example")
	w.pass()
	if got := arrived(s); len(got) != 2 || got[0] != "alerts@example.com > x@example.net" {
		t.Errorf("arrived %q\n%s", got, w.log)
	}
}
