package spool

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
)

// newSecond is newWorld at a full second, which is how exact holds and deadlines are.
func newSecond(t *testing.T) *world {
	w := newWorld(t)
	w.now = w.now.Truncate(time.Second)
	return w
}

// submitWith drops a message to bob with what change makes of its envelope.
func (w *world) submitWith(change func(env *mail.Envelope)) mail.ID {
	w.t.Helper()
	d, err := drop.Open(filepath.Join(w.dir, "drop"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	env := &mail.Envelope{
		Arrival: w.now.Round(0).Truncate(time.Microsecond), Sender: path(w.t, "ann@example.org"), Submitter: os.Getuid(),
		Recipients: []mail.Recipient{{Path: path(w.t, "bob@example.net")}},
	}
	change(env)
	f, err := d.Create(env)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.WriteString(f, "Subject: hello\r\n\r\nhello\r\n"); err != nil {
		w.t.Fatal(err)
	}
	id, err := f.Commit(mail.Facts{LongestLine: 14})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) release(s *Spool) {
	w.t.Helper()
	if err := s.Release(w.now); err != nil {
		w.t.Fatalf("Release: %v", err)
	}
}

// due returns the next hops that have something due, and when the next one has, after now.
func (w *world) due(s *Spool) string {
	w.t.Helper()
	hops, next, err := w.dueNow(s)
	if err != nil {
		w.t.Fatalf("Due: %v", err)
	}
	after := "-"
	if !next.IsZero() {
		after = next.Sub(w.now).Round(time.Second).String()
	}
	return fmt.Sprint(hops, " ", after)
}

const hold = 30 * 24 * time.Hour // far longer than any wait between attempts

func heldFor(d time.Duration, now time.Time) func(env *mail.Envelope) {
	return func(env *mail.Envelope) { env.Hold = mail.Hold{Until: now.Add(d), Asked: "for;1"} }
}

// TestHeldMessageWaits keeps a message from everybody until its time, and lets it go then, whoever asks, and whatever
// happens to the index.
func TestHeldMessageWaits(t *testing.T) {
	w := newSecond(t)
	w.opts.MaxWait = time.Hour
	id := w.submitWith(heldFor(hold, w.now))
	s := w.acquire()
	w.takeIn(s)
	w.release(s)
	w.want("due at first", w.due(s), "[] 720h0m0s")
	w.end(s)

	// Whoever wants all mail tried, or this one, does not get it.
	for _, sel := range []Selection{{}, {IDs: []string{string(id)}}} {
		if err := MakeDue(w.dir, sel, w.now); err != nil {
			t.Fatal(err)
		}
		w.opts.Only = &sel
		s = w.acquire()
		w.release(s)
		w.want("claimed", len(w.claim(s, "relay/example.net")), 0)
		w.end(s)
		w.opts.Only = nil
	}

	// Nor does another route, or the loss of the index, let it go.
	w.opts.Routes = "others"
	s = w.acquire()
	w.end(s)
	if err := os.Remove(filepath.Join(w.dir, "index.db")); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(hold - time.Second)
	s = w.acquire()
	w.release(s)
	w.want("due a second before", w.due(s), "[] 1s")
	for e, err := range List(w.dir) {
		if err != nil || !e.Held || !e.Recipients[0].Next.Round(time.Second).Equal(w.now.Add(time.Second).Round(time.Second)) {
			t.Errorf("listed as %+v, %v", e, err)
		}
	}

	w.now = w.now.Add(time.Second)
	w.release(s)
	w.want("due then", w.due(s), "[relay/example.net] -")
	w.want("claimed then", len(w.claim(s, "relay/example.net")), 1)
	for e, err := range List(w.dir) {
		if err != nil || e.Held {
			t.Errorf("listed as %+v, %v", e, err)
		}
	}
	w.end(s)
}

// TestManyAreReleased takes more than one turn.
func TestManyAreReleased(t *testing.T) {
	w := newSecond(t)
	w.submitWith(func(env *mail.Envelope) {
		heldFor(time.Hour, w.now)(env)
		for i := range 3 * maxClaim / 2 {
			env.Recipients = append(env.Recipients, mail.Recipient{Path: path(t, fmt.Sprintf("user%d@example.net", i))})
		}
	})
	s := w.acquire()
	w.takeIn(s)
	w.now = w.now.Add(time.Hour)
	w.release(s)
	w.want("due", w.due(s), "[relay/example.net] -")
	w.want("claimed", len(w.claim(s, "relay/example.net")[0].Recipients), maxClaim)
	w.want("claimed next", len(w.claim(s, "relay/example.net")[0].Recipients), maxClaim/2+1)
	w.end(s)
}

// TestClockOfAHold does not believe a clock that was a century ahead when the sender asked.
func TestClockOfAHold(t *testing.T) {
	w := newSecond(t)
	w.submitWith(heldFor(100*365*24*time.Hour, w.now))
	s := w.acquire()
	w.takeIn(s)
	w.now = w.now.Add(maxHeld)
	w.release(s)
	w.want("due", w.due(s), "[relay/example.net] -")
	w.end(s)
}

// TestAgeOfAHeldMessage counts from its release: it is not overdue when it has only waited for that.
func TestAgeOfAHeldMessage(t *testing.T) {
	w := newSecond(t)
	w.submitWith(heldFor(hold, w.now))
	s := w.acquire()
	w.takeIn(s)
	w.now = w.now.Add(hold)
	w.release(s)
	overdue := func(age time.Duration) int {
		claims, err := s.Overdue("relay/example.net", w.now.Add(-age), 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(claims)
	}
	w.want("overdue at once", overdue(5*24*time.Hour), 0)
	w.now = w.now.Add(5*24*time.Hour + time.Second)
	w.want("overdue after five days", overdue(5*24*time.Hour), 1)
	w.end(s)
}

// late returns how many recipients each late message has, and when the next deadline is, after now.
func (w *world) late(s *Spool) (claims []Claim, next string) {
	w.t.Helper()
	claims, at, err := s.Late(w.now, 10)
	if err != nil {
		w.t.Fatalf("Late: %v", err)
	}
	if at.IsZero() {
		return claims, "-"
	}
	return claims, at.Sub(w.now).Round(time.Second).String()
}

func by(deadline time.Time) func(env *mail.Envelope) {
	return func(env *mail.Envelope) { env.DeliverBy = mail.DeliverBy{Deadline: deadline, Return: true} }
}

// TestDeadline finds a message by its deadline, wherever it waits, until that is dealt with.
func TestDeadline(t *testing.T) {
	w := newSecond(t)
	first := w.submitWith(by(w.now.Add(time.Hour)))
	second := w.submitWith(by(w.now.Add(2 * time.Hour)))
	third := w.submitWith(by(w.now.Add(3 * time.Hour)))
	s := w.acquire()
	w.takeIn(s)
	claims, next := w.late(s)
	w.want("late at first", fmt.Sprint(len(claims), " ", next), "0 1h0m0s")

	// What is delivered is not late any more; what is being tried is so only when that has failed.
	tried := w.claim(s, "relay/example.net")
	of := func(id mail.ID) Claim {
		return tried[slices.IndexFunc(tried, func(c Claim) bool { return c.ID == id })]
	}
	w.settle(s, of(first), mail.Relayed)
	w.now = w.now.Add(150 * time.Minute)
	claims, next = w.late(s)
	w.want("late while it is being tried", fmt.Sprint(len(claims), " ", next), "0 30m0s")
	w.settle(s, of(second), mail.Delayed)
	w.settle(s, of(third), mail.Delayed)
	claims, next = w.late(s)
	if diff := cmp.Diff([]Claim{{ID: second, Recipients: []Claimed{{Recipient: 0, Attempts: 1}}, Pending: 1}}, claims); diff != "" || next != "30m0s" {
		t.Errorf("late after that, next %s (-want +got):\n%s", next, diff)
	}

	// The loss of the index changes nothing.
	w.end(s)
	if err := os.Remove(filepath.Join(w.dir, "index.db")); err != nil {
		t.Fatal(err)
	}
	s = w.acquire()
	claims, _ = w.late(s)
	w.want("late in a new index", len(claims), 1)
	if err := s.Settle([]Settlement{{Claim: claims[0], Told: true}}, nil); err != nil {
		t.Fatal(err)
	}
	claims, next = w.late(s)
	w.want("late when the sender knows", fmt.Sprint(len(claims), " ", next), "0 30m0s")
	w.end(s)
	w.want("still there", len(w.waiting()), 2)
}

// A hold may end between Release and Due: whose it was is not at a next hop yet that anybody could try.
func TestNobodyTriesWhereMailIsHeld(t *testing.T) {
	w := newSecond(t)
	w.submitWith(heldFor(hold, w.now))
	s := w.acquire()
	w.takeIn(s)
	w.release(s)
	w.now = w.now.Add(hold)
	w.want("due, and to be looked at again at once", w.due(s), "[] 0s")
	w.release(s)
	w.want("due when it is released", w.due(s), "[relay/example.net] -")
	w.end(s)
}
