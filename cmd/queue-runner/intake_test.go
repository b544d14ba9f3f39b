package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/spool"
)

// One client does not take what others need, and nothing is remembered of those who have gone.
func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShares(2)
		ctx := t.Context()
		start := time.Now()
		for range 2 {
			if !s.take(ctx, "ann", 0) {
				t.Error("ann does not get what is hers")
			}
		}
		if s.take(ctx, "ann", 0) || s.take(ctx, "ann", time.Minute) || time.Since(start) != time.Minute {
			t.Errorf("ann got three, or an answer after %v", time.Since(start))
		}
		if !s.take(ctx, "bob", 0) {
			t.Error("bob does not get what is his")
		}
		got := make(chan bool)
		go func() { got <- s.take(ctx, "ann", time.Minute) }()
		time.Sleep(time.Second)
		s.give("ann")
		if !<-got || time.Since(start) != time.Minute+time.Second {
			t.Errorf("ann waited until %v", time.Since(start))
		}
		ended, end := context.WithCancel(ctx)
		end()
		if s.take(ended, "ann", time.Hour) {
			t.Error("ann got one after the end")
		}
		for _, who := range []string{"ann", "ann", "bob"} {
			s.give(who)
		}
		if len(s.of) > 0 {
			t.Errorf("%d clients are remembered", len(s.of))
		}
	})
}

// Whoever is told to end while a client goes away, does both.
func TestAttendEnds(t *testing.T) {
	dir := t.TempDir()
	if err := spool.Create(dir); err != nil {
		t.Fatal(err)
	}
	in, err := newIntake(&config.Config{Spool: dir, Hostname: "here.example"}, true, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer in.dir.Close()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for n := range 50 {
		client, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ctx, end := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { in.attend(ctx, server, n%2 == 0) })
		all.Go(end)
		all.Go(func() { client.Close() })
		all.Wait()
	}
	if len(in.clients.of)+len(in.messages.of) > 0 {
		t.Error("somebody is still there")
	}
}

// Who may not send mail may log in, if anybody can, but leaves room for those who may.
func TestStrangers(t *testing.T) {
	dir := t.TempDir()
	if err := spool.Create(dir); err != nil {
		t.Fatal(err)
	}
	in, err := newIntake(&config.Config{Spool: dir, Hostname: "here.example"}, true, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.dir.Close() })
	in.guests.users = map[int]bool{} // not even us
	in.unknown = newShares(1)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var all sync.WaitGroup
	t.Cleanup(all.Wait) // after the clients have gone
	connect := func() *bufio.Reader {
		client, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		// First, since whoever is not let in is hung up on.
		if _, err := client.Write([]byte("MAIL FROM:<a@x>\r\n")); err != nil {
			t.Fatal(err)
		}
		all.Go(func() { in.attend(t.Context(), server, false) })
		return bufio.NewReader(client)
	}
	hears := func(r *bufio.Reader, want string) {
		t.Helper()
		if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, want) {
			t.Errorf("%q, %v; want %q", line, err, want)
		}
	}
	hears(connect(), "554 5.7.1 ")
	in.logins = filepath.Join(dir, "logins")
	first := connect()
	hears(first, "220 ")
	hears(first, "530 5.7.0 ")
	hears(connect(), "421 4.3.2 ")
}

// What breaks our own code while a message is committed beside the session ends neither the session nor all others.
func TestPanicOverACommit(t *testing.T) {
	dir := t.TempDir()
	if err := spool.Create(dir); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	in, err := newIntake(&config.Config{Spool: dir, Hostname: "here.example"}, true, func(format string, args ...any) { fmt.Fprintf(&log, format, args...) })
	if err != nil {
		t.Fatal(err)
	}
	defer in.dir.Close()
	in.wake = func() { panic("boom") }
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() { in.attend(t.Context(), server, false) })
	// What follows the end of the message lets the session go on meanwhile.
	if _, err := client.Write([]byte("MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n.\r\nQUIT\r\n")); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(client)
	all.Wait()
	if want := "\r\n451 4.3.0 cannot queue message: internal error\r\n221 "; err != nil || !strings.Contains(string(said), want) {
		t.Errorf("%q, %v; want %q in it", said, err, want)
	}
	if !strings.HasPrefix(log.String(), "internal error: boom\n") || len(in.messages.of) > 0 {
		t.Errorf("%d messages are under way; log: %s", len(in.messages.of), &log)
	}
}
