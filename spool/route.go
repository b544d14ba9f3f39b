package spool

import (
	"fmt"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// route sets where a recipient goes next. As long as a next hop is left alone, its failures count as attempts of whoever
// would go there: who has another way after so many takes it.
func (s *Spool) route(x *tx, m *message, p *recipient) error {
	if p.hop == heldHop {
		return nil
	}
	now := s.opts.Now()
	for attempts := p.attempts; ; {
		p.hop = s.nextHop(m, p, attempts)
		h, _, err := x.hop(p.hop)
		if err != nil || h.failures <= attempts || !s.sane(p.hop, h.until, now).After(now) {
			return err
		}
		attempts = h.failures
	}
}

// nextHop asks for the next hop of a recipient for whom so many attempts have been made.
func (s *Spool) nextHop(m *message, p *recipient, attempts int) string {
	hop := s.opts.Route(m.sender, p.path, attempts, p.expanded)
	if s.opts.ByTLS != nil && m.tls != mail.TLSUnsaid {
		hop = s.opts.ByTLS(hop, m.tls)
	}
	return hop
}

// failOver routes again what waits for next hops that have just failed, where that may make a difference.
func (s *Spool) failOver(hops []HopState) error {
	for _, st := range hops {
		if s.opts.FailOver == 0 || st.Until.IsZero() || st.Full {
			continue
		}
		failures := 0
		if err := s.view(func(x *tx) error {
			h, _, err := x.hop(st.Hop)
			failures = h.failures
			return err
		}); err != nil {
			return err
		}
		if failures < s.opts.FailOver {
			continue
		}
		if err := s.inBatches(hopKey(st.Hop), func(x *tx, from []byte) ([]byte, error) {
			return s.failOverBatch(x, st.Hop, from)
		}); err != nil {
			return err
		}
	}
	return nil
}

// inBatches calls f in one turn after another, with the key that it said to go on from, until that is nil.
func (s *Spool) inBatches(from []byte, f func(x *tx, from []byte) ([]byte, error)) error {
	for from != nil {
		if err := s.update(func(x *tx) (err error) {
			from, err = f(x, from)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

const rerouteBatch = 2000

// failOverBatch routes again some of what waits for the next hop.
func (s *Spool) failOverBatch(x *tx, hop string, from []byte) (next []byte, err error) {
	var moves []move
	c := x.due.Cursor()
	k, _ := c.Seek(from)
	for i := 0; k != nil && i < rerouteBatch; i++ {
		d, err := parseDueKey(k)
		if err != nil {
			return nil, err
		}
		if d.hop != hop {
			k = nil
			break
		}
		m := move{id: d.id, n: d.n, old: d.key()}
		var ok bool
		if m.p, ok, err = x.recipient(d.id, d.n); err != nil {
			return nil, err
		}
		msg, found, err := x.message(d.id)
		if err != nil {
			return nil, err
		}
		if !ok || !found {
			return nil, errDamaged
		}
		if err := s.route(x, &msg, &m.p); err != nil {
			return nil, err
		}
		if m.p.hop != hop {
			moves = append(moves, m)
		}
		k, _ = c.Next()
	}
	if k != nil {
		next = append(next, k...)
	}
	return next, x.move(moves)
}

// A move gives a recipient another place among what is due.
type move struct {
	id  mail.ID
	n   int
	p   recipient
	old []byte // key of his entry so far
}

func (x *tx) move(moves []move) error {
	for _, m := range moves {
		if err := x.due.Delete(m.old); err != nil {
			return err
		}
		if err := x.putRecipient(m.id, m.n, &m.p); err != nil {
			return err
		}
	}
	return nil
}

// Reconfigure has a spool go by other options, as if they were those of Acquire. They are for all of the queue.
func (s *Spool) Reconfigure(o Options) error {
	s.opts = o
	return s.follow()
}

// follow makes queued mail follow a configuration that has changed: all next hops are asked for again, and all times.
func (s *Spool) follow() error {
	var sameRoutes, sameSchedule bool
	if err := s.view(func(x *tx) error {
		sameRoutes = string(x.meta.Get(metaRoutes)) == s.opts.Routes
		sameSchedule = string(x.meta.Get(metaSchedule)) == s.opts.Schedule
		return nil
	}); err != nil || sameRoutes && sameSchedule {
		return err
	}
	if err := s.inBatches([]byte{}, s.followBatch); err != nil {
		return err
	}
	return s.update(func(x *tx) error {
		err := x.retryHops()
		if !sameRoutes {
			err = x.forgetHops()
		}
		if err != nil {
			return fmt.Errorf("follow the configuration: %w", err)
		}
		if err := x.meta.Put(metaRoutes, []byte(s.opts.Routes)); err != nil {
			return err
		}
		return x.meta.Put(metaSchedule, []byte(s.opts.Schedule))
	})
}

// followBatch does so for some recipients from the key on, and returns where to go on; nil at the end.
func (s *Spool) followBatch(x *tx, from []byte) (next []byte, err error) {
	var moves []move
	c := x.recipients.Cursor()
	k, v := c.Seek(from)
	for i := 0; k != nil && i < rerouteBatch; i++ {
		m := move{id: mail.ID(k[:idLength]), n: recipientOf(k)}
		if err := m.p.decode(k, v); err != nil {
			return nil, err
		}
		msg, ok, err := x.message(m.id)
		if err != nil {
			return nil, err
		}
		was := m.p
		m.old = was.dueKey(m.id, m.n)
		if ok && m.p.hop != heldHop {
			m.p.hop = s.nextHop(&msg, &m.p, m.p.attempts)
			m.p.next = s.reschedule(&msg, &m.p)
		}
		if m.p.hop != was.hop || !m.p.next.Equal(was.next) {
			moves = append(moves, m)
		}
		k, v = c.Next()
	}
	if k != nil {
		next = append(next, k...)
	}
	return next, x.move(moves)
}

// reschedule returns when a recipient is due who was scheduled by another configuration.
func (s *Spool) reschedule(m *message, p *recipient) time.Time {
	if s.opts.Reschedule == nil || p.attempts == 0 {
		return p.next
	}
	return s.opts.Reschedule(Waiting{p.hop, m.begin, p.attempts, p.lastTime, p.next}, s.opts.Now())
}

// retryHops lets every next hop be tried at once.
func (x *tx) retryHops() error {
	var names []string
	if err := x.hops.ForEach(func(k, _ []byte) error {
		names = append(names, string(k))
		return nil
	}); err != nil {
		return err
	}
	for _, name := range names {
		if err := x.retryHop(name); err != nil {
			return err
		}
	}
	return nil
}

// forgetHops does so too: what is known of them may be true of another server now.
func (x *tx) forgetHops() (err error) {
	if err := x.DeleteBucket(bucketHops); err != nil {
		return err
	}
	x.hops, err = x.CreateBucket(bucketHops)
	return err
}
