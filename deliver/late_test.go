package deliver_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
)

// submitWith drops a message from ann to bob@a.example with what change makes of its envelope.
func (w *world) submitWith(change func(env *mail.Envelope)) mail.ID {
	w.t.Helper()
	d, err := drop.Open(filepath.Join(w.dir, "drop"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	env := &mail.Envelope{
		Arrival: w.clock().Round(0).Truncate(time.Microsecond), Sender: parse(w.t, "ann@example.org"), Submitter: os.Getuid(),
		Recipients: []mail.Recipient{{Path: parse(w.t, "bob@a.example")}},
	}
	change(env)
	f, err := d.Create(env)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.WriteString(f, "Subject: figures\r\nMessage-ID: <1@example.org>\r\n\r\nhello\r\n"); err != nil {
		w.t.Fatal(err)
	}
	id, err := f.Commit(mail.Facts{})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func later(*mail.Message, int) mail.Result {
	return mail.Result{Reply: mail.Reply{Code: 452, Enhanced: mail.EnhancedCode{4, 2, 2}, Text: "full"}, Remote: true}
}

// newMailbox is a server for example.org that keeps what is written to it.
func newMailbox(t *testing.T) (s *server, letters *[]string) {
	letters = new([]string)
	return &server{answer: func(m *mail.Message, _ int) mail.Result {
		b, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Size))
		if err != nil {
			t.Error(err)
		}
		*letters = append(*letters, string(b))
		return mail.Result{Action: mail.Relayed, Relay: "home", Reply: mail.Reply{Code: 250, Text: "taken"}}
	}}, letters
}

// TestFutureRelease sends nothing before its time, and gives up no earlier for having waited.
func TestFutureRelease(t *testing.T) {
	w := newWorld(t)
	home, letters := newMailbox(t)
	a := &server{}
	w.servers["example.org"], w.servers["a.example"] = home, a
	w.submitWith(func(env *mail.Envelope) {
		env.Hold = mail.Hold{Until: w.clock().Add(72 * time.Hour).Truncate(time.Second), Asked: "for;259200"}
	})
	w.pass()
	w.later(71 * time.Hour)
	w.pass()
	w.want("tried before its time", len(a.got)+a.opened, 0)
	a.answer = later
	w.later(time.Hour)
	for range 20 {
		w.pass()
		w.later(time.Hour)
	}
	w.want("waiting after twenty hours", len(w.waiting()), 1)
	for range 10 {
		w.pass()
		w.later(time.Hour)
	}
	w.want("waiting after a day", w.waiting(), []string(nil))
	w.want("reports of delay and failure", len(*letters), 2)
	for _, letter := range *letters {
		if !strings.Contains(letter, "\r\nFuture-Release-Request: for;259200\r\n") {
			t.Errorf("a report does not say what was asked for:\n%s", letter)
		}
	}
}

// TestDeadline returns a message when its sender has no more use for it, wherever it waits.
func TestDeadline(t *testing.T) {
	for name, a := range map[string]*server{
		"a mailbox is full": {answer: later},
		"a dead next hop":   {refuse: refused},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			home, letters := newMailbox(t)
			w.servers["example.org"], w.servers["a.example"] = home, a
			for range 3 {
				w.submitWith(func(env *mail.Envelope) {
					env.DeliverBy = mail.DeliverBy{Deadline: w.clock().Add(2 * time.Hour), Return: true}
				})
			}
			w.pass()
			w.later(2*time.Hour - time.Minute)
			w.pass()
			w.want("waiting before", len(w.waiting()), 3)
			opened := a.opened
			w.later(time.Minute)
			w.pass()
			w.want("waiting after", w.waiting(), []string(nil))
			w.want("sessions for that", a.opened-opened, 0)
			w.want("reports", len(*letters), 3)
			w.want("bounced", w.logged("dsn=5.4.7, status=bounced"), 3)
			for _, field := range []string{"Action: failed", "Status: 5.4.7", "Deliver-By-Date: "} {
				if !strings.Contains((*letters)[0], "\r\n"+field) {
					t.Errorf("the report lacks %q:\n%s", field, (*letters)[0])
				}
			}
		})
	}
}

// TestDeadlineForNotice tells the sender once that it is late, and goes on trying.
func TestDeadlineForNotice(t *testing.T) {
	for _, tt := range []struct {
		name   string
		notify mail.Notify
		want   int
	}{{"told", 0, 1}, {"does not want to be told", mail.NotifyNever, 0}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			home, letters := newMailbox(t)
			a := &server{answer: later}
			w.servers["example.org"], w.servers["a.example"] = home, a
			w.submitWith(func(env *mail.Envelope) {
				env.Recipients[0].Notify = tt.notify
				env.DeliverBy = mail.DeliverBy{Deadline: w.clock().Add(5 * time.Minute)}
			})
			w.pass()
			w.later(5 * time.Minute)
			w.pass()
			w.pass()
			w.want("waiting", w.waiting(), []string{"bob@a.example 1 452 4.2.2 full"})
			w.want("reports", len(*letters), tt.want)
			if tt.want > 0 && !strings.Contains((*letters)[0], "\r\nStatus: 4.4.7\r\n") {
				t.Errorf("the report:\n%s", (*letters)[0])
			}
			a.answer = nil
			w.later(time.Hour)
			w.pass()
			w.want("waiting in the end", w.waiting(), []string(nil))
			w.want("delivered", a.got, []string{"bob@a.example"})
		})
	}
}

// TestDeadlineEscapes tells the sender when the message has gone where nobody minds its deadline, or if he traces it.
func TestDeadlineEscapes(t *testing.T) {
	soon := time.Hour
	for _, tt := range []struct {
		name          string
		within        time.Duration
		trace, inTime bool
		notify        mail.Notify
		want          int
	}{
		{"no deadline", 0, false, false, 0, 0},
		{"nobody minds", soon, false, false, 0, 1},
		{"nobody minds, nor does the sender", soon, false, false, mail.NotifyNever, 0},
		{"nobody minds, and he wants to hear of success", soon, false, false, mail.NotifySuccess, 1},
		{"the server minds", soon, false, true, 0, 0},
		{"the server minds, and he traces it", soon, true, true, 0, 1},
	} {
		w := newWorld(t)
		home, letters := newMailbox(t)
		w.servers["example.org"] = home
		w.servers["a.example"] = &server{answer: func(*mail.Message, int) mail.Result {
			return mail.Result{Action: mail.Relayed, Relay: "a", Notifies: true, InTime: tt.inTime, Reply: mail.Reply{Code: 250, Text: "taken"}}
		}}
		w.submitWith(func(env *mail.Envelope) {
			env.Recipients[0].Notify = tt.notify
			if tt.within > 0 {
				env.DeliverBy = mail.DeliverBy{Deadline: w.clock().Add(tt.within), Trace: tt.trace}
			}
		})
		w.pass()
		if len(*letters) != tt.want || tt.want > 0 && !strings.Contains((*letters)[0], "\r\nAction: relayed\r\n") {
			t.Errorf("%s: %d reports, want %d\n%s", tt.name, len(*letters), tt.want, *letters)
		}
	}
}

// TestReportOnWhatNeedsTLS returns the header only, and wants TLS as well; what may go in clear says so.
func TestReportOnWhatNeedsTLS(t *testing.T) {
	for _, tt := range []struct {
		wish   mail.TLSWish
		body   bool
		header bool
	}{{mail.TLSUnsaid, true, false}, {mail.TLSRequired, false, false}, {mail.TLSNotRequired, true, true}} {
		w := newWorld(t)
		home, letters := newMailbox(t)
		var back []mail.TLSWish
		take := home.answer
		home.answer = func(m *mail.Message, n int) mail.Result { back = append(back, m.TLS); return take(m, n) }
		w.servers["example.org"] = home
		w.servers["a.example"] = &server{answer: func(*mail.Message, int) mail.Result {
			return mail.Result{Action: mail.Failed, Reply: mail.Reply{Code: 550, Text: "no"}}
		}}
		w.submitWith(func(env *mail.Envelope) { env.TLS = tt.wish })
		w.pass()
		if len(*letters) != 1 {
			t.Fatalf("%d reports", len(*letters))
		}
		w.want("wish of the report", back, []mail.TLSWish{tt.wish})
		if got := strings.Contains((*letters)[0], "\r\nhello\r\n"); got != tt.body {
			t.Errorf("TLS %q: the body is returned: %v", tt.wish, got)
		}
		if got := strings.Contains(strings.ToLower((*letters)[0]), "\r\ntls-required: no\r\n"); got != tt.header {
			t.Errorf("TLS %q: the report says that it needs no TLS: %v", tt.wish, got)
		}
	}
}
