package spool

import (
	"slices"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

func TestSelection(t *testing.T) {
	for _, tt := range []struct {
		name      string
		sel       Selection
		message   bool
		recipient bool
	}{
		{"everything", Selection{}, true, true},
		{"part of the ID", Selection{IDs: []string{"0F9"}}, true, true},
		{"the case of IDs counts", Selection{IDs: []string{"0f9"}}, false, true},
		{"one of two IDs", Selection{IDs: []string{"nope", "7UU"}}, true, true},
		{"not the ID", Selection{IDs: []string{"!7UU"}}, false, true},
		{"not another ID", Selection{IDs: []string{"!nope"}}, true, true},
		{"part of the sender, in any case", Selection{Senders: []string{"ANN@"}}, true, true},
		{"another sender", Selection{Senders: []string{"bob"}}, false, true},
		{"part of the recipient, in any case", Selection{Recipients: []string{"Example.NET"}}, true, true},
		{"not the recipient", Selection{Recipients: []string{"!example.net"}}, true, false},
		{"ID and sender", Selection{IDs: []string{"7UU"}, Senders: []string{"bob"}}, false, true},
	} {
		message := tt.sel.Message("7UU4F0F9BFZ", path(t, "ann@example.org"))
		recipient := tt.sel.Recipient(path(t, "cyd@example.net"))
		if message != tt.message || recipient != tt.recipient {
			t.Errorf("%s: message %v, recipient %v; want %v, %v", tt.name, message, recipient, tt.message, tt.recipient)
		}
	}
}

// deferAll takes in what was submitted, and has every attempt deferred.
func (w *world) deferAll(hops ...string) {
	s := w.acquire()
	w.takeIn(s)
	for _, hop := range hops {
		for _, c := range w.claim(s, hop) {
			w.settle(s, c, slices.Repeat([]mail.Action{mail.Delayed}, len(c.Recipients))...)
		}
	}
	w.end(s)
}

// dueHops returns what is due now.
func (w *world) dueHops(s *Spool) []string {
	w.t.Helper()
	hops, _, err := w.dueNow(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return hops
}

func TestPassForSomeOfTheQueue(t *testing.T) {
	w := newWorld(t)
	first := w.submit("bob@a.example", "cyd@b.example")
	w.submit("dan@a.example")
	w.deferAll("relay/a.example", "relay/b.example")
	due := w.submit("eve@a.example")
	other := w.submit("fay@c.example")

	w.opts.Only = &Selection{Recipients: []string{"bob@", "eve@"}}
	s := w.acquire()
	taken := w.takeIn(s)
	w.want("taken in", len(taken), 1)
	w.want("the message taken in", taken[0].ID, due)
	w.want("left alone, and not looked at again", len(w.takeIn(s)), 0)
	w.want("due", w.dueHops(s), []string{"relay/a.example"})
	claims := w.claim(s, "relay/a.example")
	w.want("claimed", claims, []Claim{
		{ID: due, Recipients: []Claimed{{Recipient: 0, Attempts: 1}}, Pending: 1},
		{ID: first, Recipients: []Claimed{{Recipient: 0, Attempts: 2}}, Pending: 2},
	})
	// What was not tried after all is tried again in this pass; what was deferred is not.
	untried := Disposition{Recipient: 0, Untried: true, Next: w.now}
	if err := s.Settle([]Settlement{{Claim: claims[0], Dispositions: []Disposition{untried}}}, nil); err != nil {
		t.Fatal(err)
	}
	w.settle(s, claims[1], mail.Delayed)
	w.want("claimed again", w.claim(s, "relay/a.example"), []Claim{{ID: due, Recipients: []Claimed{{Recipient: 0, Attempts: 1}}, Pending: 1}})
	w.want("nothing else", w.dueHops(s), []string(nil))
	w.end(s)
	w.want("in drop/", w.files("drop"), []string{string(other)})
}

func TestWakeUpIsLeftByAPassForSome(t *testing.T) {
	w := newWorld(t)
	w.opts.Only = &Selection{IDs: []string{"X"}}
	s := w.acquire()
	if err := Wake(w.dir); err != nil {
		t.Fatal(err)
	}
	if s.Woken() {
		t.Error("a pass for some of the queue took a wake-up for all of it")
	}
	w.end(s)
	if !Woken(w.dir) {
		t.Error("the wake-up is gone")
	}
}

func TestEverythingAtOnce(t *testing.T) {
	w := newWorld(t)
	w.submit("bob@a.example", "cyd@b.example")
	w.deferAll("relay/a.example")
	s := w.acquire()
	dead := HopState{Hop: "relay/b.example", Until: w.now.Add(time.Hour), Last: mail.Delay(mail.OfHost, mail.EnhancedCode{4, 4, 1}, "dead")}
	if err := s.Settle(nil, []HopState{dead}); err != nil {
		t.Fatal(err)
	}
	w.want("due by the schedule", w.dueHops(s), []string(nil))
	w.end(s)

	w.opts.Only = &Selection{}
	s = w.acquire()
	w.want("due at once", w.dueHops(s), []string{"relay/a.example", "relay/b.example"})
	got, err := s.HopTrouble("relay/b.example")
	if err != nil || got.Failures != 1 || !got.Until.IsZero() {
		t.Errorf("the next hop is in trouble as %+v, %v; want one failure, and not to be left alone", got, err)
	}
	w.end(s)
}

// Whoever finds a pass running leaves it what he wants.
func TestMakeDueBesideAPass(t *testing.T) {
	w := newWorld(t)
	id := w.submit("bob@a.example")
	w.submit("cyd@b.example")
	w.deferAll("relay/a.example", "relay/b.example")
	s := w.acquire()
	sel := Selection{IDs: []string{string(id)}}
	outstanding := func() bool {
		t.Helper()
		some, err := Outstanding(w.dir, sel, w.now)
		if err != nil {
			t.Fatal(err)
		}
		return some
	}
	w.want("outstanding before it is asked for", outstanding(), false)
	if err := MakeDue(w.dir, sel, w.now); err != nil {
		t.Fatal(err)
	}
	w.want("outstanding", outstanding(), true)
	w.want("due", w.dueHops(s), []string{"relay/a.example"})
	claims := w.claim(s, "relay/a.example")
	w.want("claimed", len(claims), 1)
	w.want("outstanding while it is tried", outstanding(), true)
	// What is being tried is not made due a second time.
	if err := MakeDue(w.dir, sel, w.now); err != nil {
		t.Fatal(err)
	}
	w.want("due while it is tried", w.dueHops(s), []string(nil))
	w.settle(s, claims[0], mail.Delayed)
	w.want("outstanding when it has been tried", outstanding(), false)
	w.submit("dan@c.example")
	sel = Selection{Recipients: []string{"dan@"}}
	w.want("outstanding in drop/", outstanding(), true)
	w.end(s)
}

// An attempt that a crash cut off counts as begun; asked for, it is made again.
func TestMakeDueAfterACrash(t *testing.T) {
	w := newWorld(t)
	w.submit("bob@a.example")
	s := w.acquire()
	w.takeIn(s)
	w.claim(s, "relay/a.example")
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	w.opts.Only = &Selection{}
	s = w.acquire()
	w.want("due", w.dueHops(s), []string{"relay/a.example"})
	w.end(s)
}

func TestMakeDueGoesThroughLongQueues(t *testing.T) {
	w := newWorld(t)
	var rcpts []string
	for range makeDueBatch + 10 {
		rcpts = append(rcpts, "bob@a.example")
	}
	w.submit(rcpts...)
	s := w.acquire()
	w.takeIn(s)
	for n := 0; n < len(rcpts); n += maxClaim {
		w.claim(s, "relay/a.example")
	}
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	w.opts.Only = &Selection{}
	s = w.acquire()
	n := 0
	for claims := w.claim(s, "relay/a.example"); len(claims) > 0; claims = w.claim(s, "relay/a.example") {
		n += len(claims[0].Recipients)
	}
	w.want("recipients due", n, len(rcpts))
	w.end(s)
}
