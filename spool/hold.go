package spool

import (
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// heldHop is where recipients wait whose message must not be sent yet (RFC 4865): a next hop that no Router names, so
// that neither trouble with another one, nor its recovery, nor who wants mail tried at once, has to do with them.
const heldHop = ">held"

// maxHeld is how long they wait at most, whatever the clock that a hold was reckoned with said.
const maxHeld = mail.MaxHold + 24*time.Hour

// holdOf returns when the recipients of a new message are due, and the next hop where they wait until then, if they do.
func holdOf(env *mail.Envelope, now time.Time) (hop string, due time.Time) {
	if env.Hold.Until.After(now) {
		return heldHop, earlier(env.Hold.Until, now.Add(maxHeld))
	}
	// Due since it could have been sent, which is the order of the queue; never in the future, whatever the submitter's
	// clock said.
	return "", earlier(env.Begin(), now)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Release gives the recipients whose hold is over to their next hops. A pass that is for some of the queue only leaves
// them alone.
func (s *Spool) Release(now time.Time) error {
	if s.selective() {
		return nil
	}
	for {
		over := false
		if err := s.view(func(x *tx) error {
			list, _ := s.allDue(x, heldHop, now, Most{Messages: 1, Recipients: 1})
			over = len(list) > 0
			return nil
		}); err != nil || !over {
			return err
		}
		if err := s.update(func(x *tx) error { return s.releaseSome(x, now) }); err != nil {
			return err
		}
	}
}

// releaseSome does so for some of them.
func (s *Spool) releaseSome(x *tx, now time.Time) error {
	list, _ := s.allDue(x, heldHop, now, Most{Messages: batch})
	for _, d := range list {
		p, ok, err := x.recipient(d.id, d.n)
		if err != nil {
			return err
		}
		m, found, err := x.message(d.id)
		if err != nil {
			return err
		}
		if err := x.due.Delete(d.key()); err != nil {
			return err
		}
		if !ok || !found {
			return errDamaged
		}
		p.hop = ""
		if err := s.route(x, &m, &p); err != nil {
			return err
		}
		if err := x.putRecipient(d.id, d.n, &p); err != nil {
			return err
		}
	}
	return nil
}
