package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// Compare brings index and queue/ together, in favour of the files:
//
//   - a file with neither record nor tombstone is a message: it gets a record, less what its journal says is final;
//   - a file with a tombstone is removed;
//   - a record without a file is an alarm, and is dropped;
//   - recipients that a journal, or a message we made of theirs, says are final become so;
//   - a journal without a message is removed;
//   - trouble with next hops that nobody waits for is forgotten.
func (s *Spool) Compare() error {
	s.comparing = true
	defer func() { s.comparing = false }()
	ids, others, err := s.queue.Names()
	if err != nil {
		return err
	}
	journals, err := s.sortOthers(others)
	if err != nil {
		return err
	}
	known, buried, err := s.indexed()
	if err != nil {
		return err
	}
	here := make(map[mail.ID]bool, len(ids))
	var unknown []mail.ID
	var dead []finished
	for _, id := range ids {
		here[id] = true
		switch {
		case buried[id]:
			dead = append(dead, finished{id, true})
		case !known[id]:
			unknown = append(unknown, id)
		}
	}
	if err := s.bury(buried, dead); err != nil {
		return err
	}
	if err := s.dropLost(known, here); err != nil {
		return err
	}
	if err := s.adopt(unknown); err != nil {
		return err
	}
	if err := s.applyJournals(journals, here, buried); err != nil {
		return err
	}
	if err := s.straighten(); err != nil {
		return err
	}
	if err := s.inBatches([]byte{}, s.forgetOldTrouble); err != nil {
		return err
	}
	return s.update(func(x *tx) error {
		if err := x.meta.Put(metaBoot, []byte(bootID())); err != nil {
			return err
		}
		return x.meta.Put(metaCompared, binary.BigEndian.AppendUint64(nil, uint64(s.opts.Now().UnixMicro())))
	})
}

// straighten takes back that recipients are being tried, since whoever did that is gone, and makes due whoever is not: a
// damaged page may have lost his entry, and without it nobody would ever look at him. Nor is anybody looked at who seems
// due later than this clock can have said, as long as others at his next hop are before him in line.
func (s *Spool) straighten() error {
	return s.inBatches([]byte{}, s.straightenBatch)
}

// straightenBatch does so for some recipients from a key on, and returns where to go on; nil at the end.
func (s *Spool) straightenBatch(x *tx, from []byte) ([]byte, error) {
	now := s.opts.Now()
	bent := map[string]recipient{}
	c := x.recipients.Cursor()
	k, v := c.Seek(from)
	for i := 0; k != nil && i < rerouteBatch; i++ {
		var p recipient
		if err := p.decode(k, v); err != nil {
			return nil, err
		}
		due := p.dueKey(mail.ID(k[:idLength]), recipientOf(k))
		next := s.sane(p.hop, p.next, now)
		if found, _ := x.due.Cursor().Seek(due); p.active || !bytes.Equal(found, due) || !next.Equal(p.next) {
			if err := x.due.Delete(due); err != nil {
				return nil, err
			}
			p.active, p.next = false, next
			bent[string(k)] = p
		}
		k, v = c.Next()
	}
	next := append([]byte(nil), k...)
	for key, p := range bent {
		if err := x.putRecipient(mail.ID(key[:idLength]), recipientOf([]byte(key)), &p); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// sortOthers returns the messages that have a journal, and sets aside what has no business in queue/.
func (s *Spool) sortOthers(names []string) (journals []mail.ID, err error) {
	for _, name := range names {
		stem, ok := strings.CutSuffix(name, journalSuffix)
		id, err := mail.ParseID(stem)
		if ok && err == nil {
			journals = append(journals, id)
			continue
		}
		if err := s.setAside("queue", name, errors.New("neither a message nor a journal")); err != nil {
			s.opts.Logf("queue/%s is left where it is: %v", printable(name), err)
		}
	}
	return journals, nil
}

// indexed returns the messages that have a record, and those that have a tombstone.
func (s *Spool) indexed() (known, buried map[mail.ID]bool, err error) {
	known, buried = map[mail.ID]bool{}, map[mail.ID]bool{}
	err = s.view(func(x *tx) error {
		err := x.messages.ForEach(func(k, _ []byte) error {
			known[mail.ID(k)] = true
			return nil
		})
		return errors.Join(err, x.tombstones.ForEach(func(k, _ []byte) error {
			buried[mail.ID(k)] = true
			return nil
		}))
	})
	return known, buried, err
}

// bury removes the files of messages that were over, and the tombstones.
func (s *Spool) bury(buried map[mail.ID]bool, dead []finished) error {
	if err := s.remove(dead); err != nil {
		return err
	}
	if len(buried) == 0 {
		return nil
	}
	s.sunk = nil
	all := make([]mail.ID, 0, len(buried))
	for id := range buried {
		all = append(all, id)
	}
	return s.update(func(x *tx) error { return x.forgetTombstones(all) })
}

// dropLost raises the alarm for records whose message is gone. Nobody but us removes files from queue/.
func (s *Spool) dropLost(known, here map[mail.ID]bool) error {
	var lost []mail.ID
	for id := range known {
		if !here[id] {
			lost = append(lost, id)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return s.update(func(x *tx) error {
		for _, id := range lost {
			s.opts.Logf("%s: the message is gone from queue/ although it was not finished", id)
			if err := x.forget(id); err != nil {
				return err
			}
		}
		return nil
	})
}

// forget drops the records of a message.
func (x *tx) forget(id mail.ID) error {
	var keys [][]byte
	err := x.eachRecipient(id, func(n int, p recipient) error {
		keys = append(keys, recipientKey(id, n))
		return x.due.Delete(p.dueKey(id, n))
	})
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := x.recipients.Delete(k); err != nil {
			return err
		}
	}
	m, ok, err := x.message(id)
	if err == nil && ok {
		err = x.dropDeadline(id, m.deadline)
	}
	if err != nil {
		return err
	}
	return x.messages.Delete(messageKey(id))
}

// adopt makes the records of messages that the index does not know: those that were made of others when all others are
// known.
func (s *Spool) adopt(ids []mail.ID) error {
	adopted := 0
	var children []mail.ID
	for len(ids) > 0 {
		var found []adoption
		recipients := 0
		for n := 0; n < batch && recipients < batchRecipients && len(ids) > 0; n++ {
			id := ids[0]
			ids = ids[1:]
			a, err := s.examine(id)
			if err != nil {
				return err
			}
			switch {
			case a == nil:
			case a.Envelope.Settles != nil:
				children = append(children, id)
			default:
				found = append(found, *a)
				recipients += len(a.Envelope.Recipients)
			}
		}
		if err := s.update(func(x *tx) error {
			for _, a := range found {
				if err := s.insertMessage(x, a.Taken, a.final, nil); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		adopted += len(found)
	}
	for _, id := range children {
		if err := s.adoptChild(id); err != nil {
			return err
		}
	}
	if n := adopted + len(children); n > 0 {
		s.opts.Logf("index: %d messages of queue/ were not in it and have been added", n)
	}
	return nil
}

// adoptChild makes the record of a message that was made of another one, and in the same turn makes final what it says of
// its parent: were it known before that, the next crash would leave nothing to tell it by.
func (s *Spool) adoptChild(id mail.ID) error {
	c, err := s.examine(id)
	if err != nil || c == nil {
		return err
	}
	final := map[int]bool{}
	for _, n := range c.Envelope.Settles.Recipients {
		final[n] = true
	}
	list, err := s.finalize(c.Envelope.Settles.Of, final)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		list = []Settlement{{Claim: Claim{ID: c.Envelope.Settles.Of}}}
	}
	list[0].Children = []Taken{c.Taken}
	return s.Settle(list, nil)
}

// adoption is a message that the index did not know, and what its journal says.
type adoption struct {
	Taken
	final map[int]bool
}

// examine reads a file of queue/ that the index does not know; nil if it had to be set aside.
func (s *Spool) examine(id mail.ID) (*adoption, error) {
	f, err := s.queue.ReadOwn(string(id))
	if err == nil {
		defer f.Close()
		err = f.Verify()
	}
	var errno unix.Errno
	if errors.As(err, &errno) || errors.Is(err, drop.ErrNewer) {
		// Not the message's fault, perhaps: the next comparison looks again.
		s.opts.Logf("queue/%s cannot be read: %v", id, err)
		return nil, nil
	}
	if err != nil {
		return nil, s.setAside("queue", string(id), err)
	}
	final, err := s.readJournal(id)
	if err != nil {
		return nil, err
	}
	return &adoption{Taken{ID: id, Size: f.Size, Envelope: f.Envelope}, final}, nil
}

// finalize returns the settlement that makes these recipients of a message final; none if they are already.
func (s *Spool) finalize(id mail.ID, final map[int]bool) ([]Settlement, error) {
	st := Settlement{Claim: Claim{ID: id}}
	err := s.view(func(x *tx) error {
		m, ok, err := x.message(id)
		if err != nil || !ok {
			return err
		}
		st.Pending = m.pending
		return x.eachRecipient(id, func(n int, _ recipient) error {
			if final[n] {
				done := mail.Result{Action: mail.Failed, Reply: mail.Reply{Text: "known to be final from an earlier pass"}}
				st.Dispositions = append(st.Dispositions, Disposition{Recipient: n, Result: done})
			}
			return nil
		})
	})
	// A message all of whose recipients were final when it was adopted has nobody left to dispose of.
	if err != nil || len(st.Dispositions) == 0 && (st.Pending > 0 || len(final) == 0) {
		return nil, err
	}
	return []Settlement{st}, nil
}

// applyJournals makes final what journals say, and removes those whose message is gone.
func (s *Spool) applyJournals(journals []mail.ID, here, buried map[mail.ID]bool) error {
	var list []Settlement
	for _, id := range journals {
		if !here[id] || buried[id] {
			if err := os.Remove(s.path("queue/" + string(id) + journalSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		final, err := s.readJournal(id)
		if err != nil {
			return err
		}
		st, err := s.finalize(id, final)
		if err != nil {
			return err
		}
		list = append(list, st...)
	}
	if len(list) == 0 {
		return nil
	}
	return s.Settle(list, nil)
}
