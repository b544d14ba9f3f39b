package spool

import (
	"cmp"
	"slices"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"go.etcd.io/bbolt"
)

// A Ready is a next hop that has something due and may be tried.
type Ready struct {
	Hop     string
	Urgent  bool // something of it is urgent, or asked for
	Trouble bool // there was no session to be had when it was last tried
	class   class
	since   time.Time // when what is due there became so
}

// before orders next hops as Due returns them.
func (r Ready) before(other Ready) int {
	return cmp.Or(cmp.Compare(r.class, other.class), r.since.Compare(other.since))
}

// troubleStands is how much later those in trouble stand in line than when they may be tried. Each of them may take as long
// as it takes to give up: others need not wait for thousands of them, nor they for ever.
const troubleStands = 30 * time.Minute

func (h *hop) ready(first due) Ready {
	r := Ready{first.hop, first.class < classOf(0), h.tries > 0, first.class, first.time}
	if r.Trouble {
		r.since = later(r.since, h.until).Add(troubleStands)
	}
	return r
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Due returns up to most of the next hops that have something due at now and may be tried, those first whose mail is
// the most urgent and then the longest due, those in trouble behind others, and when the next one will have; the zero time
// if nothing waits. Those for which skip is true are left out.
func (s *Spool) Due(now time.Time, most int, skip func(hop string) bool) (ready []Ready, next time.Time, err error) {
	for from := []byte{}; from != nil; {
		if err := s.view(func(x *tx) (err error) {
			var some []Ready
			var at time.Time
			some, at, from, err = s.dueFrom(x, from, now, skip)
			ready = sorted(append(ready, some...), most)
			if !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next = at
			}
			return err
		}); err != nil {
			return nil, next, err
		}
	}
	return ready, next, nil
}

// dueHops is how many next hops one turn of Due looks at. The pages that it needs for each of them stay in memory as long
// as the turn goes on.
const dueHops = 1000

// dueFrom is Due for some next hops from the key on, and returns where to go on; nil at the end.
func (s *Spool) dueFrom(x *tx, from []byte, now time.Time, skip func(hop string) bool) (ready []Ready, next time.Time, on []byte, err error) {
	c := x.due.Cursor()
	k, _ := c.Seek(from)
	for n := 0; k != nil && n < dueHops; n++ {
		first, at, err := s.firstDue(c, k, now)
		if err != nil {
			return nil, next, nil, err
		}
		h, _, err := x.hop(first.hop)
		if err != nil {
			return nil, next, nil, err
		}
		if until := s.sane(first.hop, h.until, now); until.After(at) {
			at = until
		}
		switch {
		case at.After(now), first.hop == heldHop: // a hold that has ended since Release
			if !s.selective() && (next.IsZero() || at.Before(next)) {
				next = at
			}
		case s.selective() && first.class != classAsked:
		case skip == nil || !skip(first.hop):
			ready = append(ready, h.ready(first))
		}
		k, _ = c.Seek(afterHopKey(first.hop))
	}
	if k != nil {
		on = append(on, k...)
	}
	return ready, next, on, nil
}

func sorted(ready []Ready, most int) []Ready {
	slices.SortStableFunc(ready, Ready.before)
	return ready[:min(len(ready), most)]
}

// firstDue returns the first entry, in the order of a claim, that is due at the next hop whose entries begin with the
// key; if none is, that which will be first. at is when.
func (s *Spool) firstDue(c *bbolt.Cursor, k []byte, now time.Time) (first due, at time.Time, err error) {
	for k != nil {
		d, err := parseDueKey(k)
		if err != nil {
			return due{}, at, err
		}
		if first.hop != "" && d.hop != first.hop {
			break
		}
		when := s.dueAt(d, now)
		if !when.After(now) {
			return d, when, nil
		}
		if first.hop == "" || when.Before(at) {
			first, at = d, when
		}
		k, _ = c.Seek(classKey(d.hop, d.class+1))
	}
	return first, at, nil
}

// dueAt returns when an entry is due. Whom somebody has asked for is due whatever the schedule says.
func (s *Spool) dueAt(d due, now time.Time) time.Time {
	if d.class == classAsked {
		return time.Time{}
	}
	return s.sane(d.hop, d.time, now)
}

// sane returns t, when something is due at a next hop, or now if that is later than anything that this clock can have said.
func (s *Spool) sane(hop string, t, now time.Time) time.Time {
	most := s.opts.MaxWait
	if hop == heldHop {
		most = maxHeld
	}
	if most > 0 && t.After(now.Add(most)) {
		return now
	}
	return t
}

// A Claim is an attempt at some recipients of one message, recorded before it is made.
type Claim struct {
	ID         mail.ID
	Recipients []Claimed
	Pending    int    // recipients of the message that are not final, those of other next hops included
	Relay      string // with which the last attempt was made at the first of Recipients, as mail.Result has it; "" if there was none
	Cut        bool   // others of them are due at the same next hop, and were too many for this claim
}

// A claimKey names a recipient that is being tried.
type claimKey struct {
	id mail.ID
	n  int
}

// Claimed is one recipient of a Claim.
type Claimed struct {
	Recipient int  // position in the envelope
	Attempts  int  // made, this one included
	Told      bool // the sender has been told of the delay
}

// Most is how much a claim takes at most.
type Most struct {
	Messages   int
	Recipients int // 0 means a thousand, and so does more
	// Multiple is how many recipients the next hop takes at a time: of a message that is cut, a claim takes no part of
	// that if it can take a whole one. 0 means that nothing is known.
	Multiple int
}

// A Wanted is what a claim is made for: messages that are due at the next hop, the most urgent first and then the longest
// due, each with its recipients that are due there.
type Wanted struct {
	Hop string
	Most
	// Again says when the attempt after the given number of them is due if nothing is heard of this one.
	Again func(id mail.ID, attempts int) time.Time
}

// Claim records attempts, and returns them in the order of what was wanted. One turn does it for all.
func (s *Spool) Claim(now time.Time, wanted ...Wanted) ([][]Claim, error) {
	all := make([][]Claim, len(wanted))
	some := false
	if err := s.view(func(x *tx) error {
		for _, w := range wanted {
			list, _ := s.allDue(x, w.Hop, now, Most{Messages: 1, Recipients: 1})
			some = some || len(list) > 0
		}
		return nil
	}); err != nil || !some {
		return all, err
	}
	if err := s.update(func(x *tx) (err error) {
		for i, w := range wanted {
			if all[i], err = s.claimFor(x, w, now); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	for _, claims := range all {
		for _, c := range claims {
			for _, r := range c.Recipients {
				s.claimed[claimKey{c.ID, r.Recipient}] = true
			}
		}
	}
	return all, nil
}

// Claimable returns how many recipients Claim would take for what is wanted.
func (s *Spool) Claimable(now time.Time, w Wanted) (n int, err error) {
	err = s.view(func(x *tx) error {
		list, _ := s.allDue(x, w.Hop, now, w.Most)
		n = len(list)
		return nil
	})
	return n, err
}

// claimFor records the attempts at one next hop.
func (s *Spool) claimFor(x *tx, w Wanted, now time.Time) (claims []Claim, err error) {
	at := map[mail.ID]int{}
	list, cut := s.allDue(x, w.Hop, now, w.Most)
	for _, d := range list {
		claimed, pending, relay, err := s.claim(x, d, now, w.Again)
		if err != nil {
			return nil, err
		}
		i, ok := at[d.id]
		if !ok {
			i = len(claims)
			at[d.id] = i
			claims = append(claims, Claim{ID: d.id, Pending: pending, Relay: relay})
		}
		claims[i].Recipients = append(claims[i].Recipients, claimed)
	}
	if cut {
		claims[at[list[len(list)-1].id]].Cut = true
	}
	return claims, nil
}

// claim records an attempt for one recipient, and returns with whom the last one was made.
func (s *Spool) claim(x *tx, d due, now time.Time, again func(id mail.ID, attempts int) time.Time) (c Claimed, pending int, relay string, err error) {
	p, ok, err := x.recipient(d.id, d.n)
	if err != nil {
		return c, 0, "", err
	}
	m, found, err := x.message(d.id)
	if err != nil {
		return c, 0, "", err
	}
	if err := x.due.Delete(d.key()); err != nil {
		return c, 0, "", err
	}
	if !ok || !found {
		return c, 0, "", errDamaged
	}
	p.attempts++
	p.active, p.asked = true, false
	p.lastTime = now
	p.next = again(d.id, p.attempts)
	if err := s.route(x, &m, &p); err != nil {
		return c, 0, "", err
	}
	return Claimed{d.n, p.attempts, p.told}, m.pending, p.last.Relay, x.putRecipient(d.id, d.n, &p)
}

// maxClaim is how many recipients one claim takes at most.
const maxClaim = 1000

// allDue returns the entries of messages that are due at the next hop. cut reports that the last of these messages has
// others.
func (s *Spool) allDue(x *tx, hop string, now time.Time, most Most) (list []due, cut bool) {
	recipients := maxClaim
	if most.Recipients > 0 {
		recipients = min(most.Recipients, maxClaim)
	}
	c := x.due.Cursor()
	messages := 0
	for k, _ := c.Seek(hopKey(hop)); k != nil; {
		d, err := parseDueKey(k)
		if err != nil || d.hop != hop || s.selective() && d.class != classAsked {
			break
		}
		if s.dueAt(d, now).After(now) {
			k, _ = c.Seek(classKey(hop, d.class+1))
			continue
		}
		k, _ = c.Next()
		if s.claimed[claimKey{d.id, d.n}] {
			continue // an attempt that takes longer than the wait after it
		}
		same := len(list) > 0 && d.id == list[len(list)-1].id
		if len(list) == recipients {
			if same {
				return whole(list, most.Multiple)
			}
			break
		}
		if !same {
			if messages == most.Messages {
				break
			}
			messages++
		}
		list = append(list, d)
	}
	return list, false
}

// whole leaves out what a next hop that takes so many recipients at a time would get beside whole ones of the last
// message. One that comes to nothing by that is for the next claim, unless it is the only one.
func whole(list []due, multiple int) ([]due, bool) {
	first := len(list)
	for first > 0 && list[first-1].id == list[len(list)-1].id {
		first--
	}
	n := len(list) - first
	switch {
	case multiple <= 1 || n < multiple && first == 0:
		return list, true
	case n < multiple:
		return list[:first], false
	}
	return list[:len(list)-n%multiple], true
}
