package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/postrider/postrider/internal/smtptest"
)

// What is asked for is tried at once, and nothing else.
func TestOnly(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{Strict: true, Replies: map[string]string{"RCPT": "451 4.2.0 greylisted"}})
	w := newWorld(t, relayTo(s))
	id := w.submit("bob@example.net", "cyd@example.net")
	w.submit("dan@example.net")
	w.pass()
	s.SetReply("RCPT", "")
	for _, tt := range []struct {
		args  []string
		takes string
	}{
		{nil, ""},
		{[]string{"--only-sender", "nobody"}, ""},
		{[]string{"--only-id", "!" + string(id)[:1]}, ""}, // the first one changes once in decades
		{[]string{"--only-id", string(id), "--only-recipient", "CYD@"}, "cyd@example.net"},
		{[]string{"--only-recipient", "!bob@", "--only-sender", "ann"}, "dan@example.net"},
		{[]string{"--now"}, "bob@example.net"},
	} {
		before := s.Accepted()
		if status := w.run(tt.args...); status != 0 {
			t.Fatalf("%q: exit %d:\n%s", tt.args, status, w.log)
		}
		taken := ""
		for _, m := range s.Messages()[before:] {
			for _, r := range m.Recipients {
				taken += r.Address
			}
		}
		if taken != tt.takes {
			t.Errorf("%q delivers to %q, want %q", tt.args, taken, tt.takes)
		}
	}
}

// A bounce of what was asked for goes along; a relay that is being left alone is tried.
func TestNow(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{Replies: map[string]string{"CONNECT": "421 4.3.2 not now"}})
	w := newWorld(t, relayTo(s))
	id := w.submit("bob@example.net")
	w.pass()
	w.pass()
	if n := s.Connections(); n != 1 {
		t.Fatalf("%d connections to a relay in trouble, want 1", n)
	}
	s.SetReply("CONNECT", "")
	s.SetReply("RCPT TO:<bob@", "550 5.1.1 unknown")
	if status := w.run("--only-id", string(id)); status != 0 {
		t.Fatalf("exit %d:\n%s", status, w.log)
	}
	if got := w.waiting(); len(got) != 0 || s.Accepted() != 1 {
		t.Errorf("%q wait, and the server has %d messages; want none, and the report:\n%s", got, s.Accepted(), w.log)
	}
}

func TestVerbose(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{})
	w := newWorld(t, relayTo(s))
	id := w.submit("bob@example.net")
	cmd := w.command("--verbose", "--only-id", string(id), "--wait")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	relay := "127.0.0.1[" + s.Host() + "]:" + fmt.Sprint(s.Port())
	for _, part := range []string{
		relay + "\n  S: 220 mx.invalid", "\n  C: EHLO ", "\n  C: RCPT TO:<bob@example.net>", "\n  C: QUIT\n",
		"\n" + string(id) + ": to=<bob@example.net>, relay=" + relay + ", ",
	} {
		if !strings.Contains(string(out), part) {
			t.Errorf("no %q in\n%s", part, out)
		}
	}
	if n := strings.Count(string(out), "to=<"); n != 1 {
		t.Errorf("the outcome is told %d times:\n%s", n, out)
	}
	// A reader who goes away stops nothing.
	w.submit("cyd@example.net")
	cmd = w.command("--verbose")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe.Close()
	if err := cmd.Run(); err != nil || s.Accepted() != 2 {
		t.Errorf("%v; the server has %d messages, want 2", err, s.Accepted())
	}
}

// Where a pass is running, it makes the attempts; who has asked for them may wait.
func TestAskingBesideAPass(t *testing.T) {
	connected, greylisted := make(chan struct{}, 10), make(chan struct{}, 10)
	slow := smtptest.NewServer(t, smtptest.Options{
		Replies:   map[string]string{"CONNECT": smtptest.Hang},
		OnCommand: func(string) { connected <- struct{}{} },
	})
	s := smtptest.NewServer(t, smtptest.Options{
		Replies: map[string]string{"RCPT TO:<bob@": "451 4.2.0 greylisted"},
		OnCommand: func(line string) {
			if strings.HasPrefix(line, "RCPT TO:<bob@") {
				greylisted <- struct{}{}
			}
		},
	})
	w := newWorld(t, relayTo(s)+slowly(slow))
	id := w.submit("bob@example.net")
	w.pass()
	<-greylisted
	w.submit("x@slow.example")
	b := w.start()
	<-connected
	ask := func(args ...string) {
		t.Helper()
		if status := w.run(args...); status != 0 {
			t.Fatalf("%q: exit %d:\n%s", args, status, w.log)
		}
	}
	for _, args := range [][]string{{"--only-id", string(id), "--wait", "--verbose"}, {"--only-recipient", "bob@", "--wait"}} {
		ask(args...)
		select {
		case <-greylisted:
		default:
			t.Errorf("%q: no attempt was made before it ended", args)
		}
	}
	ask("--now") // which does not wait: the other pass makes the attempt when it comes to it
	<-greylisted
	w.wantLog(string(id) + ": to=<bob@example.net>, attempts=2 (451 4.2.0 greylisted)")
	s.SetReply("RCPT TO:<bob@", "")
	ask("--only-id", string(id), "--wait", "--verbose")
	if s.Accepted() != 1 {
		t.Errorf("the server has %d messages, want 1", s.Accepted())
	}
	w.wantLog("another pass is done with this mail")
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	b.wait()
}

func TestOptionsThatExcludeEachOther(t *testing.T) {
	w := newWorld(t, "")
	for _, args := range [][]string{
		{"--daemon", "--now"}, {"--daemon", "--only-id", "x"}, {"--wait"}, {"--daemon", "--wait", "--now"},
	} {
		if status := w.run(args...); status != 64 {
			t.Errorf("%q: exit %d, want 64", args, status)
		}
	}
}
