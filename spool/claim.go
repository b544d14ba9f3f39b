package spool

import (
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// Due returns the next hops that have something due at now and may be tried, and when the next one will have; the zero
// time if nothing waits.
func (s *Spool) Due(now time.Time) (hops []string, next time.Time, err error) {
	err = s.view(func(x *tx) error {
		c := x.due.Cursor()
		for k, _ := c.First(); k != nil; {
			d, err := parseDueKey(k)
			if err != nil {
				return err
			}
			at := d.time
			h, ok, err := x.hop(d.hop)
			if err != nil {
				return err
			}
			if ok && h.until.After(at) {
				at = h.until
			}
			at = s.sane(d.hop, at, now)
			if s.isDue(d, now) && !at.After(now) {
				hops = append(hops, d.hop)
			} else if !s.selective() && (next.IsZero() || at.Before(next)) {
				next = at
			}
			k, _ = c.Seek(append([]byte(d.hop), 1))
		}
		return nil
	})
	return hops, next, err
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
	Pending    int // recipients of the message that are not final, those of other next hops included
}

// A claimKey names a recipient that is being tried.
type claimKey struct {
	id mail.ID
	n  int
}

// Claimed is one recipient of a Claim.
type Claimed struct {
	Recipient int // position in the envelope
	Attempts  int // made, this one included
}

// Claim records an attempt for up to most messages that are due at the next hop, the longest due first, each with all
// its recipients that are due there, up to a thousand in all. wait says when the attempt after the given number of them is due if nothing is heard of this one.
func (s *Spool) Claim(hop string, now time.Time, most int, wait func(attempts int) time.Duration) ([]Claim, error) {
	var claims []Claim
	some := false
	if err := s.view(func(x *tx) error {
		some = len(s.dueAt(x, hop, now, 1)) > 0
		return nil
	}); err != nil || !some {
		return nil, err
	}
	err := s.update(func(x *tx) error {
		at := map[mail.ID]int{}
		for _, d := range s.dueAt(x, hop, now, most) {
			p, ok, err := x.recipient(d.id, d.n)
			if err != nil {
				return err
			}
			m, found, err := x.message(d.id)
			if err != nil {
				return err
			}
			if err := x.due.Delete(dueKey(d.hop, d.time, d.id, d.n)); err != nil {
				return err
			}
			if !ok || !found {
				return errDamaged
			}
			p.attempts++
			p.active = true
			p.lastTime = now
			p.next = now.Add(wait(p.attempts))
			p.hop = s.opts.Route(m.sender, p.path, p.attempts, p.expanded)
			if err := x.putRecipient(d.id, d.n, &p); err != nil {
				return err
			}
			i, ok := at[d.id]
			if !ok {
				i = len(claims)
				at[d.id] = i
				claims = append(claims, Claim{ID: d.id, Pending: m.pending})
			}
			claims[i].Recipients = append(claims[i].Recipients, Claimed{d.n, p.attempts})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, c := range claims {
		for _, r := range c.Recipients {
			s.claimed[claimKey{c.ID, r.Recipient}] = true
		}
	}
	return claims, nil
}

// maxClaim is how many recipients one claim takes at most.
const maxClaim = 1000

// dueAt returns the entries of up to most messages that are due at the next hop.
func (s *Spool) dueAt(x *tx, hop string, now time.Time, most int) []due {
	var list []due
	prefix := append([]byte(hop), 0)
	c := x.due.Cursor()
	messages := 0
	for k, _ := c.Seek(prefix); k != nil && len(list) < maxClaim; k, _ = c.Next() {
		d, err := parseDueKey(k)
		if err != nil || d.hop != hop || !s.isDue(d, now) {
			break
		}
		if s.claimed[claimKey{d.id, d.n}] {
			continue // an attempt that takes longer than the wait after it
		}
		if len(list) == 0 || d.id != list[len(list)-1].id {
			if messages == most {
				break
			}
			messages++
		}
		list = append(list, d)
	}
	return list
}
