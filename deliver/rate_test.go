package deliver_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// What is above the rate waits, without an attempt, and says why; another pass goes on where this one was.
func TestRateLimit(t *testing.T) {
	w := newWorld(t)
	a, b := &server{}, &server{}
	w.servers["a.example"], w.servers["b.example"] = a, b
	w.rate = spool.Rate{Count: 5, Per: time.Hour}
	w.submit("ann@example.org", "u1@a.example", "u2@a.example", "u3@a.example")
	w.submit("ann@example.org", "u4@a.example", "u5@a.example", "u6@a.example", "u7@a.example")
	w.submit("ann@example.org", "u8@b.example")
	w.pass()
	w.want("handed over", a.taken()+b.taken(), 5)
	for _, s := range w.waiting() {
		if !strings.HasSuffix(s, " 0 no more than 5 recipients an hour: that is its rate") {
			t.Errorf("waiting: %q", s)
		}
	}
	w.want("waiting", len(w.waiting()), 3)
	w.later(59 * time.Minute)
	w.pass()
	w.want("within the hour", a.taken()+b.taken(), 5)
	w.later(3 * time.Minute)
	w.pass()
	w.want("after it", w.waiting(), []string(nil))
	w.want("deferred", w.logged("status=deferred"), 0)
	w.want("next hop in trouble", w.logged("next hop"), 0)
}

// What was claimed and could not be handed over does not count.
func TestRateCountsWhatIsHandedOver(t *testing.T) {
	w := newWorld(t)
	w.concurrency = 1
	w.rate = spool.Rate{Count: 10, Per: time.Hour}
	down := true
	s := &server{refuse: func() error {
		if down {
			return &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 4, 1}, "no network")}
		}
		return nil
	}}
	w.servers["a.example"] = s
	for range 10 {
		w.submit("ann@example.org", "bob@a.example")
	}
	for range 5 {
		w.pass()
		w.later(2 * time.Minute)
	}
	down = false
	w.later(10 * time.Minute)
	w.pass()
	w.want("handed over", s.taken(), 10)
}

// Nothing is handed over to a dead next hop: those that share its rate may have all of it.
func TestDeadNextHopsUseUpNoRate(t *testing.T) {
	w := newWorld(t)
	w.rate = spool.Rate{Count: 10, Per: time.Hour}
	for i := range 10 {
		name := fmt.Sprintf("dead%d.example", i)
		w.servers[name] = &server{refuse: refused}
		w.submit("ann@example.org", "bob@"+name)
	}
	w.pass()
	s := &server{}
	w.servers["a.example"] = s
	for range 10 {
		w.submit("ann@example.org", "bob@a.example")
	}
	w.pass()
	w.want("handed over", s.taken(), 10)
}

// A next hop whose rate is used up by what a session then does not take waits for its own trouble, and not for the rate.
func TestRateThatIsGivenBackIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.rate = spool.Rate{Count: 2, Per: 24 * time.Hour}
		s, broken := &server{takes: time.Second}, false
		s.breaks = func(*mail.Message) bool {
			first := !broken
			broken = true
			return first
		}
		w.servers["a.example"] = s
		for range 3 {
			w.submit("ann@example.org", "bob@a.example")
		}
		w.during(func(chan<- struct{}) {
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			w.want("handed over, of two", s.taken(), 1)
		})
		w.want("next hop in trouble", w.logged("next hop"), 1)
	})
}

// What a dead next hop gives back is for whoever waits for the rate, not only for itself.
func TestRateThatIsGivenBackIsForAll(t *testing.T) {
	w := newWorld(t)
	w.rate = spool.Rate{Count: 2, Per: 24 * time.Hour}
	s := &server{}
	w.servers["a.example"], w.servers["b.example"] = &server{refuse: refused}, s
	w.submit("ann@example.org", "bob@a.example", "cyd@a.example")
	w.submit("ann@example.org", "dan@b.example")
	w.pass()
	w.want("handed over", s.got, []string{"dan@b.example"})
}

// commits returns how many the index has had: the number of the last one is in either of the two pages that it begins with.
func (w *world) commits() (n uint64) {
	w.t.Helper()
	const at = 64
	f, err := os.ReadFile(filepath.Join(w.dir, "index.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	return max(binary.NativeEndian.Uint64(f[at:]), binary.NativeEndian.Uint64(f[os.Getpagesize()+at:]))
}

// Next hops that share a rate which is used up do not cost a commit each, and each says why it waits.
func TestManyNextHopsShareARate(t *testing.T) {
	w := newWorld(t)
	w.rate = spool.Rate{Count: 1, Per: time.Hour}
	var rcpts []string
	const n = 600
	for i := range n {
		name := fmt.Sprintf("h%d.example", i)
		w.servers[name] = &server{}
		rcpts = append(rcpts, "bob@"+name)
	}
	w.submit("ann@example.org", rcpts...)
	w.pass()
	if got := w.commits(); got > 50 {
		t.Errorf("%d commits", got)
	}
	told := 0
	for _, s := range w.waiting() {
		if strings.HasSuffix(s, " 0 no more than 1 recipient an hour: that is its rate") {
			told++
		}
	}
	w.want("waiting", told, n-1)
}

// Where it cannot be written what is handed over, nothing is, no attempt is made, and others go on. Then all goes as its rate
// allows.
func TestRateThatCannotBeCounted(t *testing.T) {
	w := newWorld(t)
	a, b := &server{}, &server{}
	w.servers["a.example"], w.servers["b.example"] = a, b
	resolve := w.opts.Resolve
	w.opts.Resolve = func(hop string) (deliver.Route, error) {
		r, err := resolve(hop)
		if hop == "a.example" {
			r.Rate, r.RateName = spool.Rate{Count: 5, Per: time.Hour}, "a"
		}
		return r, err
	}
	in := filepath.Join(w.dir, "state.db")
	for _, tt := range []struct {
		name   string
		before func() error
		after  func() error
	}{
		{"no room for a new one", func() error { return os.MkdirAll(in+".new/x", 0o700) }, func() error { return os.RemoveAll(in + ".new") }},
		{"one that cannot be opened", func() error { return os.Mkdir(in, 0o700) }, func() error { return os.Remove(in) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a.got, b.got = nil, nil
			if err := tt.before(); err != nil {
				t.Fatal(err)
			}
			for range 4 {
				w.submit("ann@example.org", "u1@a.example", "u2@a.example", "cyd@b.example")
			}
			for range 3 {
				w.pass()
				w.later(2 * time.Minute)
			}
			w.want("handed over uncounted", a.taken(), 0)
			w.want("handed over by others", b.taken(), 4)
			for _, s := range w.waiting() {
				if !strings.Contains(s, "@a.example 0 no more than 5 recipients an hour, which cannot be counted: ") {
					t.Errorf("waiting: %q", s)
				}
			}
			if err := tt.after(); err != nil {
				t.Fatal(err)
			}
			w.pass()
			w.want("handed over, counted", a.taken(), 5)
			w.later(62 * time.Minute)
			w.pass()
			w.want("at last", a.taken(), 8)
			w.later(62 * time.Minute)
			if err := os.Remove(in); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A pass that ends when it is done waits for rates by the second and by the minute, each as long as it takes, and not for
// those by the hour.
func TestPassWaitsForShortRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.live = true
		rates := map[string]spool.Rate{
			"second.example": {Count: 2, Per: time.Second}, "minute.example": {Count: 5, Per: time.Minute}, "hour.example": {Count: 4, Per: time.Hour},
		}
		resolve := w.opts.Resolve
		w.opts.Resolve = func(hop string) (deliver.Route, error) {
			r, err := resolve(hop)
			r.Rate, r.RateName = rates[hop], hop
			return r, err
		}
		for name := range rates {
			w.servers[name] = &server{}
			for range 11 {
				w.submit("ann@example.org", "bob@"+name)
			}
		}
		start := time.Now()
		w.pass()
		w.want("by the second", w.servers["second.example"].taken(), 11)
		w.want("by the minute", w.servers["minute.example"].taken(), 11)
		w.want("by the hour", w.servers["hour.example"].taken(), 4)
		if took := time.Since(start); took < 2*time.Minute || took > 130*time.Second {
			t.Errorf("that took %v", took)
		}
	})
}

// It does not wait for more than an hour.
func TestPassDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.live = true
		w.rate = spool.Rate{Count: 1, Per: time.Minute}
		s := &server{}
		w.servers["a.example"] = s
		w.submitMany(100, "bob@a.example")
		start := time.Now()
		w.pass()
		if took := time.Since(start); took < 59*time.Minute || took > 62*time.Minute {
			t.Errorf("the pass took %v", took)
		}
		if n := s.taken(); n < 55 || n > 61 {
			t.Errorf("%d handed over in an hour", n)
		}
		time.Sleep(5 * time.Minute)
		w.pass()
		w.want("in two, with a timer", s.taken(), 100)
	})
}

// A transport may have a schedule of its own.
func TestScheduleOfATransport(t *testing.T) {
	w := newWorld(t)
	w.servers["example.org"] = &server{}
	w.servers["a.example"] = &server{answer: later}
	w.retry = &deliver.Retry{First: time.Minute, Factor: 1, MaxWait: time.Minute, Attempts: 3, Expire: time.Hour}
	w.submit("ann@example.org", "bob@a.example")
	for range 3 {
		w.pass()
		w.later(time.Minute)
	}
	w.want("bounced", w.logged("status=bounced"), 1)
}

// Who waits for hours under one configuration is given up by the next pass of another one that has less patience.
func TestShorterExpiryHoldsForQueuedMail(t *testing.T) {
	w := newWorld(t)
	w.servers["example.org"] = &server{}
	w.servers["a.example"] = &server{answer: later}
	w.servers["b.example"] = &server{refuse: refused}
	w.opts.Retry.Expire = 5 * 24 * time.Hour
	w.submit("ann@example.org", "bob@a.example")
	w.submit("ann@example.org", "cyd@b.example")
	w.submit("ann@example.org", "dan@b.example")
	for range 60 {
		w.pass()
		w.later(time.Hour)
	}
	w.pass()
	w.want("waiting", len(w.waiting()), 3)
	w.opts.Retry.Expire = 24 * time.Hour
	w.spoolOpts = func(o *spool.Options) { o.Schedule, o.Reschedule = "a day", w.opts.Retry.Reschedule }
	w.pass()
	w.want("waiting for less", w.waiting(), []string(nil))
	w.want("bounced", w.logged("status=bounced"), 3)
}

// A host without a network for a week has tried nothing, and nobody is to blame when it is back.
func TestNoNetworkIsNoAttempt(t *testing.T) {
	w := newWorld(t)
	w.opts.Retry.Attempts = 3
	down := true
	s := &server{refuse: func() error {
		if down {
			return &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 4, 1}, "network is unreachable")}
		}
		return refused()
	}}
	w.servers["a.example"], w.servers["example.org"] = s, &server{}
	w.submit("ann@example.org", "bob@a.example")
	w.submit("ann@example.org", "cyd@a.example")
	for range 7 * 24 {
		w.pass()
		w.later(time.Hour)
	}
	w.want("waiting, untried", w.waiting(), []string{"bob@a.example 0 network is unreachable", "cyd@a.example 0 network is unreachable"})
	down = false
	w.pass()
	w.later(time.Hour)
	w.pass()
	w.want("bounced", w.logged("status=bounced"), 0)
}

// With a second server that takes over after two attempts, a dead first one costs its mail two tries in all.
func TestFailOverFromADeadNextHop(t *testing.T) {
	w := newWorld(t)
	first, second := &server{refuse: refused}, &server{}
	w.servers["first"], w.servers["second"] = first, second
	w.spoolOpts = func(o *spool.Options) {
		o.FailOver = 2
		o.Route = func(_, _ mail.Path, attempts int, _ bool) string {
			if attempts >= 2 {
				return "second"
			}
			return "first"
		}
	}
	for range 50 {
		w.submit("ann@example.org", "bob@a.example")
	}
	w.pass()
	w.want("after one failure", len(w.waiting()), 50)
	w.later(time.Minute)
	w.pass()
	w.want("after two", w.waiting(), []string(nil))
	w.want("taken by the second", second.taken(), 50)
	w.want("tries of the first", first.opened, 2)
}

func TestWaitsAreSpread(t *testing.T) {
	r := deliver.Retry{First: 10 * time.Minute, Factor: 2, MaxWait: time.Hour, Expire: 24 * time.Hour}
	now := time.Unix(1e9, 0)
	seen := map[time.Time]bool{}
	for i := range 100 {
		id := mail.MakeID(now.Add(time.Duration(i)*time.Microsecond), 0)
		at := r.Next(id, now, 1)
		if wait := at.Sub(now); wait < 9*time.Minute || wait > 10*time.Minute {
			t.Errorf("%s: wait of %v, want 9 to 10 minutes", id, wait)
		}
		if !at.Equal(r.Next(id, now, 1)) {
			t.Errorf("%s: two answers", id)
		}
		seen[at] = true
	}
	if len(seen) < 90 {
		t.Errorf("100 messages come back at %d times", len(seen))
	}
	// The last attempt is made when the message expires.
	id := mail.MakeID(now, 0)
	if at := r.Next(id, now.Add(23*time.Hour+50*time.Minute), 30); at.Sub(now).Round(time.Minute) != 24*time.Hour {
		t.Errorf("last attempt after %v", at.Sub(now))
	}
}
