package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/internal/submitd"
)

// configure replaces the settings that newWorld was given.
func (w *world) configure(from, to string) {
	w.t.Helper()
	text, err := os.ReadFile(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		w.t.Fatalf("no %q in the configuration", from)
	}
	if err := os.WriteFile(w.config, []byte(strings.Replace(string(text), from, to, 1)), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (b *background) hangUp() {
	b.t.Helper()
	if err := b.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		b.t.Fatal(err)
	}
}

// handIn has the daemon take a message for a bare name at the submission socket.
func (w *world) handIn(name string) {
	w.t.Helper()
	conn, err := submitd.Dial(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	rcpt, err := mail.ParsePath(name)
	if err != nil {
		w.t.Fatal(err)
	}
	r := submitd.Request{Submission: submit.Submission{Content: strings.NewReader("Subject: x\n\nhi\n")}, Unsigned: true}
	r.Recipients = []mail.Recipient{{Path: rcpt}}
	p, err := submitd.NewClient(conn).Receive(r)
	if err == nil {
		_, err = p.Commit()
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// A daemon that is hung up on goes on as the configuration says now: where mail goes, and what becomes of it. One with a
// mistake changes nothing, and the sockets stay.
func TestReload(t *testing.T) {
	first, second := smtptest.NewServer(t, smtptest.Options{}), smtptest.NewServer(t, smtptest.Options{})
	w := newWorld(t, "domain = \"one.example\"\n"+relayTo(first))
	b := w.start("--daemon", "--interval", "1h")
	w.submit("dan@example.net")
	b.until("to=<dan@example.net>") // it has begun
	w.handIn("ann")
	b.until("to=<ann@one.example>, relay=127.0.0.1[127.0.0.1]:" + fmt.Sprint(first.Port()))

	w.configure(relayTo(first), relayTo(second))
	w.configure("one.example", "two.example")
	b.hangUp()
	b.until("configuration read again")
	w.handIn("ann")
	b.until("to=<ann@two.example>, relay=127.0.0.1[127.0.0.1]:" + fmt.Sprint(second.Port()))

	w.configure("domain = ", "domian = ")
	b.hangUp()
	b.until("the configuration stays as it was: " + w.config + ":5:1: ")
	w.configure("domian = ", "listen.users = [\"no-such-user\"]\ndomain = ")
	b.hangUp()
	b.until("the configuration stays as it was: listen.users")
	w.configure("listen.users = [\"no-such-user\"]\n", "")
	w.configure(w.dir, filepath.Join(w.dir, "other"))
	b.hangUp()
	b.until("the spool is another one, which takes a restart")
	w.handIn("bob")
	b.until("to=<bob@two.example>, relay=127.0.0.1[127.0.0.1]:" + fmt.Sprint(second.Port()))

	w.configure(filepath.Join(w.dir, "other"), w.dir)
	w.configure("log = \"stderr\"", "log = \"syslog\"")
	b.hangUp()
	b.until("listen.smtp and log stay as they were until a restart")
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := b.wait(); status != 0 {
		t.Errorf("exit %d after SIGTERM", status)
	}
}

// A server that is slow to answer the end of a message when the daemon is hung up on is not sent it again.
func TestReloadCutsNothingOff(t *testing.T) {
	hold, at := make(chan struct{}), make(chan struct{}, 1)
	slow := smtptest.NewServer(t, smtptest.Options{OnCommand: func(line string) {
		if line == "." {
			at <- struct{}{}
			<-hold
		}
	}})
	quick := smtptest.NewServer(t, smtptest.Options{})
	w := newWorld(t, relayTo(slow))
	w.submit("ann@example.net")
	b := w.start("--daemon", "--interval", "1h")
	<-at
	w.configure(relayTo(slow), relayTo(quick))
	b.hangUp()
	b.until("configuration read again")
	w.submit("bob@example.net")
	b.until("to=<bob@example.net>, relay=127.0.0.1[127.0.0.1]:" + fmt.Sprint(quick.Port()))
	// What a second server takes while the first one has not answered shows that nothing was waited for; that nothing is
	// cut off ten seconds later, deliver.TestChangeCutsNothingOff.
	close(hold)
	b.until("to=<ann@example.net>, relay=127.0.0.1[127.0.0.1]:" + fmt.Sprint(slow.Port()))
	if n, m := len(slow.Messages()), len(quick.Messages()); n != 1 || m != 1 {
		t.Errorf("%d messages at the slow server and %d at the other one, want one each", n, m)
	}
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := b.wait(); status != 0 {
		t.Errorf("exit %d after SIGTERM", status)
	}
}

// A daemon that waits for the spool follows the configuration as well, as often as it changes.
func TestReloadWhileAnotherDaemonHasTheSpool(t *testing.T) {
	w := shortWorld(t)
	first := w.daemon("1")
	w.handIn("ann")
	first.until("to=<ann@") // it has the spool
	second := w.daemon("2")
	for range 3 {
		second.hangUp()
		second.until("configuration read again")
	}
}
