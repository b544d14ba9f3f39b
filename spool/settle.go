package spool

import (
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// A Settlement is what became of a Claim.
type Settlement struct {
	Claim
	Dispositions []Disposition
	// Children are messages, made with CreateChild, that take the place of recipients who are final because of them.
	Children []Taken
	// Told says that the deadline of the message is dealt with: its sender knows, or does not want to.
	Told bool
}

// A Disposition is what becomes of one recipient.
type Disposition struct {
	Recipient int
	Result    mail.Result
	// Next is when a recipient that is not final is due; zero leaves the time that the claim set.
	Next time.Time
	// Untried takes the attempt back: nothing was sent, for a reason that is not the recipient's.
	Untried bool
	// Expanded says that no alias stands for the recipient: the Router is told so from now on.
	Expanded bool
	// Told says that the sender has been told of the delay.
	Told bool
}

// Settle commits results, all of them or none. Messages whose recipients are all final are removed. Children must be
// durable already.
func (s *Spool) Settle(settlements []Settlement, hops []HopState) error {
	if s.failed != nil {
		return s.failed
	}
	for _, st := range settlements {
		if err := s.journalIfStays(st); err != nil {
			// The index will know: on a disk that is full, rather that than to send it all again.
			s.opts.Logf("%s: cannot write the journal: %v", st.ID, err)
		}
	}
	var done []finished
	err := s.update(func(x *tx) error {
		if err := x.forgetTombstones(s.sunk); err != nil {
			return err
		}
		if err := s.putHops(x, hops); err != nil {
			return err
		}
		for _, st := range settlements {
			over, journal, err := s.settle(x, st)
			if err != nil {
				return err
			}
			if over {
				done = append(done, finished{st.ID, journal})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.sunk = nil
	for _, st := range settlements {
		for _, r := range st.Recipients {
			delete(s.claimed, claimKey{st.ID, r.Recipient})
		}
		for _, d := range st.Dispositions {
			delete(s.claimed, claimKey{st.ID, d.Recipient})
		}
	}
	if err := s.remove(done); err != nil {
		return err
	}
	return s.failOver(hops)
}

// journalIfStays writes the journal unless these results are certain to end the message.
func (s *Spool) journalIfStays(st Settlement) error {
	var final []Disposition
	for _, d := range st.Dispositions {
		if d.Result.Action.Final() {
			final = append(final, d)
		}
	}
	if len(final) == 0 || len(final) == st.Pending {
		return nil
	}
	return s.appendJournal(st.ID, final)
}

// settle applies one settlement, and reports whether the message is over, and has a journal.
func (s *Spool) settle(x *tx, st Settlement) (over, journal bool, err error) {
	var askedFor *Selection
	if s.selective() {
		askedFor = &Selection{} // what comes of what was asked for
	}
	if err := s.insert(x, st.Children, askedFor); err != nil {
		return false, false, err
	}
	m, ok, err := x.message(st.ID)
	if err == nil && !ok && len(st.Dispositions) > 0 {
		err = errDamaged // what was claimed from this index is not in it any more
	}
	if err != nil || !ok {
		return false, false, err
	}
	final, err := s.dispose(x, &m, st)
	if err != nil {
		return false, false, err
	}
	if st.Told || m.pending == 0 {
		if err := x.dropDeadline(st.ID, m.deadline); err != nil {
			return false, false, err
		}
		m.deadline = time.Time{}
	}
	m.journal = m.journal || final > 0 && final < st.Pending
	return m.pending == 0, m.journal, x.finish(st.ID, m)
}

// dispose applies the dispositions of one settlement, and returns how many recipients became final.
func (s *Spool) dispose(x *tx, m *message, st Settlement) (final int, err error) {
	for _, d := range st.Dispositions {
		p, ok, err := x.recipient(st.ID, d.Recipient)
		if err != nil {
			return final, err
		}
		if !ok {
			continue
		}
		if err := x.due.Delete(p.dueKey(st.ID, d.Recipient)); err != nil {
			return final, err
		}
		if d.Result.Action.Final() {
			final++
			m.pending--
			if err := x.recipients.Delete(recipientKey(st.ID, d.Recipient)); err != nil {
				return final, err
			}
			continue
		}
		if err := s.amend(x, &p, m, d); err != nil {
			return final, err
		}
		if err := x.putRecipient(st.ID, d.Recipient, &p); err != nil {
			return final, err
		}
	}
	return final, nil
}

// amend writes the result of an attempt that was not final into the record.
func (s *Spool) amend(x *tx, p *recipient, m *message, d Disposition) error {
	p.active = false
	p.expanded, p.told = p.expanded || d.Expanded, p.told || d.Told
	if d.Untried {
		p.attempts--
	} else {
		p.last = d.Result
	}
	if !d.Next.IsZero() {
		p.next = d.Next
	}
	p.asked = p.asked || d.Untried && s.selective()
	return s.route(x, m, p)
}

// finish stores the message record, or puts a tombstone in its place.
func (x *tx) finish(id mail.ID, m message) error {
	key := messageKey(id)
	if m.pending > 0 {
		return x.messages.Put(key, m.encode(key))
	}
	if err := x.messages.Delete(key); err != nil {
		return err
	}
	return x.tombstones.Put(key, nil)
}

// eachRecipient calls f for every recipient of the message that is not final, in order.
func (x *tx) eachRecipient(id mail.ID, f func(n int, p recipient) error) error {
	c := x.recipients.Cursor()
	for k, v := c.Seek(messageKey(id)); k != nil && string(k[:idLength]) == string(id); k, v = c.Next() {
		var p recipient
		if err := p.decode(k, v); err != nil {
			return err
		}
		if err := f(recipientOf(k), p); err != nil {
			return err
		}
	}
	return nil
}
