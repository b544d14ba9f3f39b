package deliver_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/spool"
)

// A machine that dies during an attempt has made it: the next one is made when it would have been anyway.
func TestCrashDuringAnAttempt(t *testing.T) {
	w := newWorld(t)
	s := &server{begun: make(chan string), hold: make(chan struct{})}
	w.servers["a.example"] = s
	w.submit("ann@example.org", "bob@a.example")
	ended := make(chan struct{})
	go func() { defer close(ended); w.pass() }()
	<-s.begun
	left := filepath.Join(t.TempDir(), "spool") // what the disk has at this moment
	if err := os.CopyFS(left, os.DirFS(w.dir)); err != nil {
		t.Fatal(err)
	}
	close(s.hold)
	<-ended

	w.dir = left
	again := &server{}
	w.servers["a.example"] = again
	for range 5 {
		w.pass()
	}
	w.want("attempts right after the crash", again.opened, 0)
	w.want("waiting", w.waiting(), []string{"bob@a.example 1 "})
	w.later(10*time.Minute + time.Second)
	w.pass()
	w.want("attempts when it is due", again.got, []string{"bob@a.example"})
	w.want("waiting in the end", w.waiting(), []string(nil))
}

// A clock that jumps gives nobody up before his time, and makes no attempt follow the other at once.
func TestClockThatJumps(t *testing.T) {
	for _, tt := range []struct {
		name  string
		jump  time.Duration // after the first attempt
		hours int           // after that, in which nobody may be given up
		by    int           // after so many somebody must be
	}{
		{"back a day", -24 * time.Hour, 47, 50},
		{"ahead a week", 7 * 24 * time.Hour, 0, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			a := &server{answer: later, begun: make(chan string, 1000)}
			w.servers["a.example"], w.servers["example.org"] = a, &server{}
			w.spoolOpts = func(o *spool.Options) { o.MaxWait = w.opts.Retry.MaxWait }
			w.submit("ann@example.org", "bob@a.example")
			w.pass()
			w.later(tt.jump)
			for range 5 {
				w.pass()
			}
			w.want("attempts right after the jump", len(a.begun), 2)
			bounced := 0
			for hour := 1; hour <= tt.by && bounced == 0; hour++ {
				w.later(time.Hour)
				w.pass()
				if bounced = w.logged("status=bounced"); bounced > 0 && hour <= tt.hours {
					t.Errorf("given up %d hours after the jump", hour)
				}
			}
			if len(a.begun) < 3 {
				t.Errorf("%d attempts in all", len(a.begun))
			}
			w.want("given up in the end", bounced, 1)
		})
	}
}

// When a machine comes back after a week, all that has waited is due at once, and servers get no more sessions for that.
func TestAfterAWeekOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.concurrency = 3
		w.opts.Retry.Expire = 30 * 24 * time.Hour
		a, b := &server{answer: later}, &server{answer: later}
		w.servers["a.example"], w.servers["b.example"] = a, b
		w.submitMany(100, "bob@a.example")
		w.submitMany(100, "cyd@b.example")
		w.pass()
		w.want("waiting", len(w.waiting()), 200)
		w.later(7 * 24 * time.Hour)
		for _, s := range []*server{a, b} {
			s.answer, s.takes, s.max = nil, time.Second, 0
		}
		w.pass()
		w.want("waiting in the end", w.waiting(), []string(nil))
		w.want("delivered", []int{a.taken(), b.taken()}, []int{100, 100})
		w.want("sessions at once", []int{a.max, b.max}, []int{3, 3})
	})
}

// When all sessions are taken, the next hop that is one too many waits until one ends.
func TestOneNextHopTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, n = 64, 66
		w := newWorld(t)
		var rcpts []string
		for i := range n {
			name := fmt.Sprintf("h%d.example", i)
			w.servers[name] = &server{hold: make(chan struct{})}
			rcpts = append(rcpts, "bob@"+name)
		}
		w.submit("ann@example.org", rcpts...)
		ended := make(chan struct{})
		go func() { defer close(ended); w.pass() }()
		released := map[*server]bool{}
		for opened := limit; opened <= n; opened++ {
			time.Sleep(time.Second)
			synctest.Wait()
			open, ever := 0, 0
			var one *server
			for _, s := range w.servers {
				if open, ever = open+s.now, ever+s.opened; s.now > 0 && !released[s] {
					one = s
				}
			}
			w.want("sessions open, and ever opened", []int{open, ever}, []int{limit, opened})
			close(one.hold)
			released[one] = true
		}
		for _, s := range w.servers {
			if !released[s] {
				close(s.hold)
			}
		}
		<-ended
		w.want("waiting", w.waiting(), []string(nil))
	})
}

// Whoever asks for an attempt that is being made gets that one, however often he asks.
func TestAskedForDuringTheAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &server{answer: later, begun: make(chan string, 10), hold: make(chan struct{})}
		w.servers["a.example"] = s
		w.submit("ann@example.org", "bob@a.example")
		w.during(func(wake chan<- struct{}) {
			time.Sleep(time.Second)
			for range 3 {
				if err := spool.MakeDue(w.dir, spool.Selection{}, w.clock()); err != nil {
					t.Error(err)
				}
				wake <- struct{}{}
				time.Sleep(time.Second)
			}
			synctest.Wait()
			w.want("attempts while it is made", len(s.begun), 1)
			close(s.hold)
			time.Sleep(8 * time.Minute)
			synctest.Wait()
			w.want("attempts before the next is due", len(s.begun), 1)
			time.Sleep(3 * time.Minute)
			synctest.Wait()
			w.want("attempts after that", len(s.begun), 2)
		})
	})
}

// Attempts that were asked for count as others do.
func TestAskedForUpToTheLimit(t *testing.T) {
	w := newWorld(t)
	w.opts.Retry.Attempts = 3
	w.spoolOpts = func(o *spool.Options) { o.Only = &spool.Selection{} }
	home, letters := newMailbox(t)
	w.servers["example.org"], w.servers["a.example"] = home, &server{answer: later}
	w.submit("ann@example.org", "bob@a.example")
	for n := range 2 {
		w.pass()
		w.want("waiting", w.waiting(), []string{fmt.Sprintf("bob@a.example %d 452 4.2.2 full", n+1)})
	}
	w.pass()
	w.want("waiting after the third", w.waiting(), []string(nil))
	w.want("bounced", w.logged("dsn=4.2.2, status=bounced (452 4.2.2 full)"), 1)
	if len(*letters) != 1 || !strings.Contains((*letters)[0], "\r\nAction: failed\r\n") {
		t.Errorf("reports: %q", *letters)
	}
}
