package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// submitFrom drops a message with this priority from the user with this ID.
func (w *world) submitFrom(uid, priority int, rcpt string) mail.ID {
	w.t.Helper()
	return w.submitWith(func(env *mail.Envelope) {
		env.Priority, env.Submitter, env.Recipients[0].Path = priority, uid, path(w.t, rcpt)
	})
}

func claimed(claims []Claim) (ids []mail.ID) {
	for _, c := range claims {
		ids = append(ids, c.ID)
	}
	return ids
}

func TestUrgentMailGoesFirst(t *testing.T) {
	w := newWorld(t)
	bulk := w.submitFrom(1234, -4, "bob@a.example")
	first := w.submit("bob@a.example")
	second := w.submit("bob@a.example")
	urgent := w.submitFrom(os.Getuid(), 4, "bob@a.example")
	later := w.submitFrom(0, 0, "bob@b.example")
	most := w.submitFrom(os.Getuid(), 9, "bob@c.example")
	s := w.acquire()
	defer w.end(s)
	w.takeIn(s)
	ready, _, err := s.Due(w.now, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.want("next hops", []string{ready[0].Hop, ready[1].Hop}, []string{"relay/c.example", "relay/a.example"})
	w.want("urgent", []bool{ready[0].Urgent, ready[1].Urgent}, []bool{true, true})
	w.want("next hops but those that are left out", w.dueBut(s, "relay/c.example", "relay/a.example"), []string{"relay/b.example"})
	w.want("at one next hop", claimed(w.claim(s, "relay/a.example")), []mail.ID{urgent, first, second, bulk})
	w.want("at others", claimed(append(w.claim(s, "relay/b.example"), w.claim(s, "relay/c.example")...)), []mail.ID{later, most})
}

// Those in trouble stand behind others, but not behind what comes half an hour after them; what is urgent goes first.
func TestTroubleStandsBehind(t *testing.T) {
	w := newWorld(t)
	s := w.acquire()
	defer w.end(s)
	w.submit("bob@a.example")
	w.takeIn(s)
	w.submitFrom(0, 4, "bob@b.example")
	w.takeIn(s)
	w.dead(s, "relay/a.example", mail.OfHost)
	w.dead(s, "relay/b.example", mail.OfUs)
	w.now = w.now.Add(20 * time.Minute)
	for i, want := range [][]string{
		{"relay/b.example", "relay/c.example", "relay/a.example"},
		{"relay/b.example", "relay/c.example", "relay/a.example", "relay/d.example"},
	} {
		w.submitWith(func(env *mail.Envelope) {
			env.Arrival, env.Recipients[0].Path = w.now, path(t, "bob@"+[]string{"c", "d"}[i]+".example")
		})
		w.takeIn(s)
		w.want("due", w.dueBut(s), want)
		w.now = w.now.Add(20 * time.Minute)
	}
}

func (w *world) dueBut(s *Spool, left ...string) (hops []string) {
	w.t.Helper()
	ready, _, err := s.Due(w.now, 10, func(hop string) bool {
		for _, l := range left {
			if l == hop {
				return true
			}
		}
		return false
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range ready {
		hops = append(hops, r.Hop)
	}
	return hops
}

// What is urgent and not due does not hide what is due.
func TestUrgentMailThatWaitsHoldsUpNobody(t *testing.T) {
	w := newWorld(t)
	urgent := w.submitFrom(os.Getuid(), 4, "bob@a.example")
	s := w.acquire()
	defer w.end(s)
	w.takeIn(s)
	w.settle(s, w.claim(s, "relay/a.example")[0], mail.Delayed)
	other := w.submit("bob@a.example")
	w.takeIn(s)
	hops, _, err := w.dueNow(s)
	if err != nil {
		t.Fatal(err)
	}
	w.want("due", hops, []string{"relay/a.example"})
	c := w.claim(s, "relay/a.example")
	w.want("claimed", claimed(c), []mail.ID{other})
	w.settle(s, c[0], mail.Relayed)
	_, next, err := w.dueNow(s)
	if err != nil {
		t.Fatal(err)
	}
	w.want("next", next.Sub(w.now).Round(time.Second), time.Hour)
	w.now = next
	w.want("claimed when it is due", claimed(w.claim(s, "relay/a.example")), []mail.ID{urgent})
}

func TestOnlyTheTrustedAreInHaste(t *testing.T) {
	const owner = 990
	for _, tt := range []struct{ priority, submitter, want int }{
		{4, 0, 4},
		{4, owner, 4},
		{4, 1000, 0},
		{4, -1, 0},
		{-4, 1000, -4},
		{0, 1000, 0},
		{99, 0, mail.MaxPriority},
		{-99, 1000, mail.MinPriority},
	} {
		env := mail.Envelope{Priority: tt.priority, Submitter: tt.submitter}
		if got := env.Urgency(owner); got != tt.want {
			t.Errorf("priority %d of user %d: %d, want %d", tt.priority, tt.submitter, got, tt.want)
		}
	}
}

// dead has tried the next hop, in vain.
func (w *world) dead(s *Spool, hop string, scope mail.Scope) {
	w.t.Helper()
	st := HopState{Hop: hop, Until: w.now.Add(time.Minute), Last: mail.Delay(scope, mail.EnhancedCode{4, 4, 1}, "no session")}
	if err := s.Settle(nil, []HopState{st}); err != nil {
		w.t.Fatal(err)
	}
}

// After two attempts mail goes to the second next hop; and if the first is dead, so does mail that was not tried itself.
func TestDeadNextHopHandsItsMailOn(t *testing.T) {
	w := newWorld(t)
	w.opts.FailOver = 2
	w.opts.Route = func(_, _ mail.Path, attempts int, _ bool) string {
		if attempts >= 2 {
			return "second"
		}
		return "first"
	}
	w.submit("bob@a.example")
	w.submit("cyd@a.example")
	s := w.acquire()
	defer w.end(s)
	w.takeIn(s)
	hops := func() []string {
		w.t.Helper()
		list, _, err := w.dueNow(s)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	w.dead(s, "first", mail.OfUs)
	w.dead(s, "first", mail.OfUs)
	w.dead(s, "first", mail.OfHost)
	w.want("one failure, and two that were ours", hops(), []string(nil))
	w.now = w.now.Add(2 * time.Minute)
	w.want("due again", hops(), []string{"first"})
	w.dead(s, "first", mail.OfHost)
	w.want("two failures", hops(), []string{"second"})
	w.submit("dan@a.example")
	w.takeIn(s)
	w.want("new mail", len(w.claim(s, "second")), 3)
	w.now = w.now.Add(2 * time.Minute)
	w.submit("eve@a.example")
	w.takeIn(s)
	w.want("the first is tried again, with what is new", hops(), []string{"first"})
	c := w.claim(s, "first")
	w.dead(s, "first", mail.OfHost)
	untried := []Disposition{{Recipient: 0, Untried: true, Next: w.now}}
	if err := s.Settle([]Settlement{{Claim: c[0], Dispositions: untried}}, nil); err != nil {
		t.Fatal(err)
	}
	w.want("the probe", hops(), []string{"second"})
}

// While we are cut off ourselves, a next hop is not dead.
func TestOurOwnTroubleIsNotTheNextHops(t *testing.T) {
	w := newWorld(t)
	s := w.acquire()
	defer w.end(s)
	for _, tt := range []struct {
		scope           mail.Scope
		tries, failures int
	}{{mail.OfHost, 1, 1}, {mail.OfHost, 2, 2}, {mail.OfUs, 3, 0}, {mail.OfUs, 4, 0}, {mail.OfHost, 5, 1}} {
		w.now = w.now.Add(time.Hour)
		w.dead(s, "first", tt.scope)
		got, err := s.HopTrouble("first")
		if err != nil || got.Tries != tt.tries || got.Failures != tt.failures {
			t.Errorf("HopTrouble = %+v, %v; want %d tries, %d failures", got, err, tt.tries, tt.failures)
		}
		if got.Since.IsZero() != (tt.failures == 0) || tt.failures == 1 && w.now.Sub(got.Since) > time.Second {
			t.Errorf("%d failures since %v", tt.failures, got.Since)
		}
	}
}

func TestQueuedMailFollowsTodaysSchedule(t *testing.T) {
	w := newWorld(t)
	w.submit("bob@a.example")
	s := w.acquire()
	w.takeIn(s)
	w.settle(s, w.claim(s, "relay/a.example")[0], mail.Delayed)
	w.submit("cyd@b.example")
	w.takeIn(s)
	w.dead(s, "relay/b.example", mail.OfHost)
	w.end(s)
	asked := 0
	w.opts.Schedule, w.opts.Reschedule = "changed", func(r Waiting, now time.Time) time.Time {
		asked++
		w.want("who waits", []any{r.Hop, r.Attempts, r.Next.Sub(r.Last)}, []any{"relay/a.example", 1, time.Hour})
		return now
	}
	s = w.acquire()
	hops, _, err := w.dueNow(s)
	if err != nil {
		t.Fatal(err)
	}
	w.want("due", hops, []string{"relay/a.example", "relay/b.example"})
	got, err := s.HopTrouble("relay/b.example")
	if err != nil || got.Failures != 1 {
		t.Errorf("HopTrouble = %+v, %v; want it to be known still", got, err)
	}
	w.end(s)
	w.end(w.acquire())
	w.want("asked", asked, 1)
}

// What was deferred before the clock was set back is due at once, also behind what has been deferred since then.
func TestDeferredBeforeTheClockWasSetBack(t *testing.T) {
	w := newWorld(t)
	w.opts.MaxWait = 16 * time.Hour
	const hop = "relay/a.example"
	s := w.acquire()
	w.submit("bob@a.example")
	w.takeIn(s)
	w.settle(s, w.claim(s, hop)[0], mail.Delayed)
	w.now = w.now.Add(-24 * time.Hour)
	w.submit("cyd@a.example")
	w.takeIn(s)
	in := func(mail.ID, int) time.Time { return w.now.Add(time.Hour) }
	claims, err := s.Claim(w.now, Wanted{hop, Most{Messages: 1}, in})
	if err != nil {
		t.Fatal(err)
	}
	w.settle(s, claims[0][0], mail.Delayed)
	w.end(s)
	s = w.acquire()
	hops, _, err := w.dueNow(s)
	if err != nil {
		t.Fatal(err)
	}
	w.want("due", hops, []string{hop})
	w.want("claimed", len(w.claim(s, hop)), 1)
	w.end(s)
}

// How long a next hop has been in trouble is not told by another clock.
func TestTroubleBeforeTheClockWasSetBack(t *testing.T) {
	w := newWorld(t)
	w.now = w.now.Truncate(time.Microsecond)
	s := w.acquire()
	for range 2 {
		last := mail.Delay(mail.OfHost, mail.EnhancedCode{4, 4, 1}, "refused")
		if err := s.Settle(nil, []HopState{{Hop: "a", Until: w.now.Add(time.Minute), Last: last}}); err != nil {
			t.Fatal(err)
		}
		trouble, err := s.HopTrouble("a")
		if err != nil {
			t.Fatal(err)
		}
		if !trouble.Since.Equal(w.now) {
			t.Errorf("in trouble since %v, at %v", trouble.Since, w.now)
		}
		w.now = w.now.Add(-24 * time.Hour)
	}
	w.end(s)
}

// Trouble is remembered for as long as it keeps somebody waiting, or anybody from being tried.
func TestOldTroubleIsForgotten(t *testing.T) {
	w := newWorld(t)
	s := w.acquire()
	w.submit("bob@a.example")
	w.takeIn(s)
	for _, hop := range []string{"relay/a.example", "relay/b.example", "relay/a.example2"} {
		w.dead(s, hop, mail.OfHost)
	}
	known := func() (hops []string) {
		t.Helper()
		if err := s.Compare(); err != nil {
			t.Fatal(err)
		}
		if err := s.view(func(x *tx) error {
			return x.hops.ForEach(func(k, _ []byte) error {
				hops = append(hops, string(k))
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
		return hops
	}
	w.want("at once", known(), []string{"relay/a.example", "relay/a.example2", "relay/b.example"})
	w.now = w.now.Add(2 * time.Minute)
	w.want("when it is over", known(), []string{"relay/a.example"})
	c := w.claim(s, "relay/a.example")[0]
	w.want("while somebody is being tried", known(), []string{"relay/a.example"})
	w.settle(s, c, mail.Failed)
	w.want("when nobody waits any more", known(), []string(nil))
	w.end(s)
}

// However many recipients have waited too long, they are given up bit by bit.
func TestOverdueInBits(t *testing.T) {
	w := newWorld(t)
	many := slices.Repeat([]string{"bob@a.example"}, maxClaim*3/4)
	s := w.acquire()
	defer w.end(s)
	for range 2 {
		w.submit(many...)
	}
	w.takeIn(s)
	claims, err := s.Overdue("relay/a.example", w.now.Add(time.Hour), 100)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range claims {
		n += len(c.Recipients)
	}
	w.want("recipients", n, maxClaim)
}

// One turn at the index adds few recipients, however many a message has.
func TestCompareTakesTurns(t *testing.T) {
	w := newWorld(t)
	many := slices.Repeat([]string{"bob@a.example"}, 2*batchRecipients)
	w.submit(many...)
	w.submit(many...)
	s := w.acquire()
	w.takeIn(s)
	w.takeIn(s)
	defer w.end(s)
	if err := os.Remove(filepath.Join(w.dir, "index.db")); err != nil {
		t.Fatal(err)
	}
	if err := s.newIndex(); err != nil {
		t.Fatal(err)
	}
	turns := func() (n int) {
		if err := s.view(func(x *tx) error { n = x.ID(); return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := turns()
	ids, _, err := s.queue.Names()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.adopt(ids); err != nil {
		t.Fatal(err)
	}
	w.want("turns", turns()-before, 2)
	w.want("waiting", len(w.waiting()), 2*len(many))
}

// Of a message with very many recipients a claim takes whole transactions, and the last one takes what is left.
func TestClaimOfMultiples(t *testing.T) {
	const hop = "relay/a.example"
	many := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf("u%d@a.example", i))
		}
		return list
	}
	for _, tt := range []struct {
		name     string
		messages []int // recipients of each
		most     Most
		want     string // of each claim: the recipients of each message, and whether the last one is cut
	}{
		{"one at a time", []int{2500}, Most{Messages: 9}, "[1000+] [1000+] [500]"},
		{"many at a time", []int{2500}, Most{Messages: 9, Multiple: 300}, "[900+] [900+] [700]"},
		{"behind another message", []int{400, 2000}, Most{Messages: 9, Multiple: 300}, "[400 600+] [900+] [500]"},
		{"without room behind another message", []int{400, 2000}, Most{Messages: 9, Multiple: 700}, "[400] [700+] [700+] [600]"},
		{"more than a claim has", []int{1500}, Most{Messages: 9, Multiple: 2000}, "[1000+] [500]"},
		{"a rate", []int{500}, Most{Messages: 9, Multiple: 100, Recipients: 250}, "[200+] [200+] [100]"},
		{"a rate that is less", []int{500}, Most{Messages: 9, Multiple: 400, Recipients: 250}, "[250+] [250]"},
		{"just full", []int{1000, 1}, Most{Messages: 9, Multiple: 300}, "[1000] [1]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			s := w.acquire()
			for _, n := range tt.messages {
				w.submit(many(n)...)
				w.takeIn(s)
				w.now = w.now.Add(time.Second)
			}
			got := ""
			for {
				claimed, err := s.Claim(w.now, Wanted{hop, tt.most, func(mail.ID, int) time.Time { return w.now.Add(time.Hour) }})
				if err != nil {
					t.Fatal(err)
				}
				var sizes []string
				for _, c := range claimed[0] {
					sizes = append(sizes, fmt.Sprint(len(c.Recipients))+map[bool]string{true: "+"}[c.Cut])
				}
				if len(sizes) == 0 {
					break
				}
				got += fmt.Sprint(" ", sizes)
			}
			w.want("claims", strings.TrimSpace(got), tt.want)
			w.end(s)
		})
	}
}
