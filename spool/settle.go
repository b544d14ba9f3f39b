package spool

import (
	"errors"
	"os"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
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
			at = s.sane(at, now)
			if s.isDue(d.time, now) && !at.After(now) {
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

// sane returns t, or now if t is later than anything that this clock can have said.
func (s *Spool) sane(t, now time.Time) time.Time {
	if s.opts.MaxWait > 0 && t.After(now.Add(s.opts.MaxWait)) {
		return now
	}
	return t
}

func (x *tx) hop(name string) (h hop, ok bool, err error) {
	v := x.hops.Get([]byte(name))
	if v == nil {
		return h, false, nil
	}
	return h, true, h.decode([]byte(name), v)
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
		if err != nil || d.hop != hop || !s.isDue(d.time, now) {
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

// A Settlement is what became of a Claim.
type Settlement struct {
	Claim
	Dispositions []Disposition
	// Children are messages, made with CreateChild, that take the place of recipients who are final because of them.
	Children []Taken
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
}

// A HopState is what is known of a next hop after a try to open a session. Until zero forgets all trouble.
type HopState struct {
	Hop   string
	Until time.Time
	Last  mail.Result
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
		for _, st := range settlements {
			over, journal, err := s.settle(x, st)
			if err != nil {
				return err
			}
			if over {
				done = append(done, finished{st.ID, journal})
			}
		}
		return x.putHops(hops, s.opts.Now())
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
	return s.remove(done)
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
		if err := x.due.Delete(dueKey(p.hop, p.next, st.ID, d.Recipient)); err != nil {
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
		s.amend(&p, m.sender, d)
		if err := x.putRecipient(st.ID, d.Recipient, &p); err != nil {
			return final, err
		}
	}
	return final, nil
}

// amend writes the result of an attempt that was not final into the record.
func (s *Spool) amend(p *recipient, sender mail.Path, d Disposition) {
	p.active = false
	p.expanded = p.expanded || d.Expanded
	if d.Untried {
		p.attempts--
	} else {
		p.last = d.Result
	}
	p.hop = s.opts.Route(sender, p.path, p.attempts, p.expanded)
	if !d.Next.IsZero() {
		p.next = d.Next
	}
	if d.Untried && s.selective() {
		p.next = asked
	}
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

func (x *tx) putHops(states []HopState, now time.Time) error {
	for _, st := range states {
		key := []byte(st.Hop)
		if st.Until.IsZero() {
			if err := x.hops.Delete(key); err != nil {
				return err
			}
			continue
		}
		h, ok, err := x.hop(st.Hop)
		if err != nil {
			return err
		}
		if !ok {
			h.since = now
		}
		h.failures++
		h.until, h.last = st.Until, st.Last
		if err := x.hops.Put(key, h.encode(key)); err != nil {
			return err
		}
	}
	return nil
}

// Trouble is what is known of a next hop that takes no mail. Its zero value is none.
type Trouble struct {
	Failures int       // in a row
	Since    time.Time // the first of them
	Until    time.Time // it is not to be tried before
}

// HopTrouble returns the trouble with a next hop.
func (s *Spool) HopTrouble(name string) (t Trouble, err error) {
	err = s.view(func(x *tx) error {
		h, _, err := x.hop(name)
		t = Trouble{h.failures, h.since, h.until}
		return err
	})
	return t, err
}

// A finished message is one whose files are to go.
type finished struct {
	id      mail.ID
	journal bool
}

// remove deletes the files of messages that are over, and makes that durable. Until it is, their tombstones stay: after
// an error no further turn may drop them.
func (s *Spool) remove(done []finished) (err error) {
	if len(done) == 0 {
		return nil
	}
	defer func() {
		if err != nil {
			s.failed = err
		}
	}()
	for _, f := range done {
		// The message first: without its journal it would be sent again.
		names := []string{string(f.id), string(f.id) + journalSuffix}
		if !f.journal && !s.comparing {
			names = names[:1]
		}
		for _, name := range names {
			path := s.path("queue/" + name)
			if err := unix.Unlink(path); err != nil && !errors.Is(err, unix.ENOENT) {
				return &os.PathError{Op: "remove", Path: path, Err: err}
			}
		}
		s.sunk = append(s.sunk, f.id)
	}
	return s.queue.Sync()
}

func (x *tx) forgetTombstones(ids []mail.ID) error {
	for _, id := range ids {
		if err := x.tombstones.Delete(messageKey(id)); err != nil {
			return err
		}
	}
	return nil
}

// dropTombstones forgets the messages whose files are gone for good.
func (s *Spool) dropTombstones() error {
	if len(s.sunk) == 0 {
		return nil
	}
	if err := s.update(func(x *tx) error { return x.forgetTombstones(s.sunk) }); err != nil {
		return err
	}
	s.sunk = nil
	return nil
}

// Overdue returns up to most recipients at a next hop in trouble whose message arrived before the given time, as a
// claim would: their attempts are the tries of the next hop.
func (s *Spool) Overdue(hop string, arrived time.Time, most int) ([]Claim, error) {
	var claims []Claim
	err := s.view(func(x *tx) error {
		c := x.messages.Cursor()
		limit := string(mail.MakeID(arrived, 0))
		for k, v := c.First(); k != nil && string(k) < limit && len(claims) < most; k, v = c.Next() {
			var m message
			if err := m.decode(k, v); err != nil {
				return err
			}
			claim := Claim{ID: mail.ID(k), Pending: m.pending}
			err := x.eachRecipient(claim.ID, func(n int, p recipient) error {
				if p.hop == hop && !p.active {
					claim.Recipients = append(claim.Recipients, Claimed{n, p.attempts})
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
