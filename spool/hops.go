package spool

import (
	"bytes"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// A HopState is what is known of a next hop after a try to open a session. Until zero forgets all trouble, or, with Full,
// only that it may not have more.
type HopState struct {
	Hop   string
	Until time.Time   // it is not to be tried before
	Last  mail.Result // why; one of scope OfUs is not the fault of the next hop
	Full  bool        // it was not tried: it may not have more at this time
}

func (x *tx) hop(name string) (h hop, ok bool, err error) {
	v := x.hops.Get([]byte(name))
	if v == nil {
		return h, false, nil
	}
	return h, true, h.decode([]byte(name), v)
}

func (s *Spool) putHops(x *tx, states []HopState) error {
	now := s.opts.Now()
	for _, st := range states {
		key := []byte(st.Hop)
		h, _, err := x.hop(st.Hop)
		if err != nil {
			return err
		}
		if st.Until.IsZero() {
			if err := x.relieve(h, st); err != nil {
				return err
			}
			continue
		}
		h.until, h.last, h.full = st.Until, st.Last, st.Full
		if longest := now.Add(s.opts.MaxWait); s.opts.MaxWait > 0 && h.until.After(longest) {
			h.until = longest // it would count as the error of a clock
		}
		if st.Full {
			if err := x.hops.Put(key, h.encode(key)); err != nil {
				return err
			}
			continue
		}
		h.tries++
		if st.Last.Scope == mail.OfUs {
			// Nothing is known of the next hop: the time that we were cut off must not count as time that it was dead.
			h.failures, h.since = 0, time.Time{}
		} else if h.failures++; h.failures == 1 || h.since.After(now) {
			h.since = now // in the future it was before the clock was set back
		}
		if err := x.hops.Put(key, h.encode(key)); err != nil {
			return err
		}
	}
	return nil
}

// relieve forgets the trouble of a next hop, or that it is full.
func (x *tx) relieve(h hop, st HopState) error {
	key := []byte(st.Hop)
	switch {
	case !st.Full, h.full && h.tries == 0:
		return x.hops.Delete(key)
	case h.full:
		h.until, h.full = time.Time{}, false
		return x.hops.Put(key, h.encode(key))
	}
	return nil
}

// Trouble is what is known of a next hop that takes no mail. Its zero value is none.
type Trouble struct {
	Tries    int       // to open a session, in a row, that have failed, whoever was to blame
	Failures int       // those of them that the next hop was to blame for
	Since    time.Time // the first of these
	Until    time.Time // it is not to be tried before
	Full     bool      // and that is because it may not have more
}

// HopTrouble returns the trouble with a next hop.
func (s *Spool) HopTrouble(name string) (t Trouble, err error) {
	err = s.view(func(x *tx) error {
		h, _, err := x.hop(name)
		t = Trouble{h.tries, h.failures, h.since, s.sane(name, h.until, s.opts.Now()), h.full}
		return err
	})
	return t, err
}

// forgetOldTrouble forgets, of some next hops from a key on, the trouble with those that nobody waits for, and returns
// where to go on; nil at the end. Nobody tries them, so that it would stay for ever; and whoever wants to go there one day
// would be given up for trouble of long ago.
func (s *Spool) forgetOldTrouble(x *tx, from []byte) (next []byte, err error) {
	now := s.opts.Now()
	var old [][]byte
	c := x.hops.Cursor()
	k, v := c.Seek(from)
	for i := 0; k != nil && i < rerouteBatch; i++ {
		var h hop
		if err := h.decode(k, v); err != nil {
			return nil, err
		}
		due := hopKey(string(k))
		if first, _ := x.due.Cursor().Seek(due); !bytes.HasPrefix(first, due) && !s.sane(string(k), h.until, now).After(now) {
			old = append(old, bytes.Clone(k))
		}
		k, v = c.Next()
	}
	next = append([]byte(nil), k...)
	for _, k := range old {
		if err := x.hops.Delete(k); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// Overdue returns recipients at a next hop in trouble whose message could be sent before the given time, as a claim would:
// their attempts are the tries of the next hop. They are of up to most messages, and no more than a claim takes.
func (s *Spool) Overdue(hop string, begun time.Time, most int) ([]Claim, error) {
	var claims []Claim
	err := s.view(func(x *tx) error {
		c := x.messages.Cursor()
		limit := string(mail.MakeID(begun, 0))
		recipients := 0
		for k, v := c.First(); k != nil && string(k) < limit && len(claims) < most && recipients < maxClaim; k, v = c.Next() {
			var m message
			if err := m.decode(k, v); err != nil {
				return err
			}
			if !m.begin.Before(begun) {
				continue
			}
			claim := Claim{ID: mail.ID(k), Pending: m.pending}
			err := x.eachRecipient(claim.ID, func(n int, p recipient) error {
				if p.hop == hop && !p.active && recipients < maxClaim {
					recipients++
					claim.Recipients = append(claim.Recipients, Claimed{n, p.attempts, p.told})
				}
				return nil
			})
			if err != nil {
				return err
			}
			if len(claim.Recipients) > 0 {
				claims = append(claims, claim)
			}
		}
		return nil
	})
	return claims, err
}
