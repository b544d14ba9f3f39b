package spool

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// batch is how many messages one turn at the index takes in or lists: some milliseconds. One with very many recipients
// ends it early.
const (
	batch           = 1000
	batchRecipients = 2000
)

// deadAge is how old a file without a valid end and without a lock must be before its writer counts as dead. A writer
// locks its file at once, but not in the same step that creates it.
const deadAge = time.Minute

// Taken is a message that was taken in.
type Taken struct {
	ID       mail.ID
	Size     int64
	Envelope mail.Envelope
}

// TakeIn accepts what lies in drop/: each complete file becomes a message of the queue, due at once. One call takes at
// most a thousand messages; more reports that others are left. busy reports that some file was still being written: call
// again soon. What is not a message is set aside.
func (s *Spool) TakeIn() (taken []Taken, more, busy bool, err error) {
	if s.failed != nil {
		return nil, false, false, s.failed
	}
	if len(s.arrived) == 0 {
		if err := s.lookIntoDrop(); err != nil {
			return nil, false, false, err
		}
	}
	recipients := 0
	for n := 0; n < batch && recipients < batchRecipients && len(s.arrived) > 0; n++ {
		id := s.arrived[0]
		s.arrived = s.arrived[1:]
		t, err := s.accept(id)
		switch {
		case err == nil:
			taken = append(taken, t)
			recipients += len(t.Envelope.Recipients)
		case errors.Is(err, errNotPicked):
			s.ignored[id] = true
		case errors.Is(err, drop.ErrBusy):
			busy = true
		case errors.Is(err, fs.ErrNotExist):
		default:
			s.refuse(id, err)
		}
	}
	if len(taken) == 0 {
		return nil, len(s.arrived) > 0, busy, nil
	}
	// The new names first: a crash between the two may leave both, never neither.
	if err := errors.Join(s.queue.Sync(), s.drop.Sync()); err != nil {
		s.failed = err
		return nil, false, false, err
	}
	return taken, len(s.arrived) > 0, busy, s.update(func(x *tx) error {
		if s.selective() {
			return s.insert(x, taken, s.opts.Only)
		}
		return s.insert(x, taken, nil)
	})
}

// lookIntoDrop lists what was submitted, and sets aside what cannot be.
func (s *Spool) lookIntoDrop() error {
	ids, others, err := s.drop.Names()
	if err != nil {
		return err
	}
	for _, name := range others {
		if err := s.setAside("drop", name, errors.New("not the name of a message")); err != nil {
			s.note(mail.ID(name), err)
		}
	}
	if s.selective() {
		ids = slices.DeleteFunc(ids, func(id mail.ID) bool { return s.ignored[id] || !s.opts.Only.id(id) })
	}
	s.arrived = ids
	return nil
}

// errNotPicked is for a submission that this pass is not for.
var errNotPicked = errors.New("not picked")

// accept moves one file from drop/ to queue/.
func (s *Spool) accept(id mail.ID) (Taken, error) {
	f, err := s.drop.Read(string(id))
	if err != nil {
		return Taken{}, err
	}
	defer f.Close()
	if s.selective() && !s.opts.Only.wants(id, &f.Envelope) {
		return Taken{}, errNotPicked
	}
	if err := f.Verify(); err != nil {
		return Taken{}, err
	}
	t := Taken{ID: id, Size: f.Size, Envelope: f.Envelope}
	for {
		err := unix.Renameat2(unix.AT_FDCWD, s.path("drop/"+string(id)), unix.AT_FDCWD, s.path("queue/"+string(t.ID)), unix.RENAME_NOREPLACE)
		if err == nil {
			return t, nil
		}
		if !errors.Is(err, unix.EEXIST) {
			return Taken{}, &os.PathError{Op: "take in", Path: s.path("drop/" + string(id)), Err: err}
		}
		// The clock was set back, and an older message has the ID: this one gets the next that is free.
		t.ID = nextID(t.ID)
		s.opts.Logf("%s: the ID is taken; it goes on as %s", id, t.ID)
	}
}

// nextID returns the ID of the next microsecond.
func nextID(id mail.ID) mail.ID { return mail.MakeID(id.Time().Add(time.Microsecond), 0) }

// refuse sets a file of drop/ aside, unless somebody may still be about to write it or the fault is ours. One odd file
// must not keep all others from being taken in.
func (s *Spool) refuse(id mail.ID, why error) {
	var errno unix.Errno
	ours := errors.As(why, &errno) && errno != unix.ELOOP && errno != unix.ENXIO
	if ours || errors.Is(why, drop.ErrNewer) {
		s.note(id, why)
		return
	}
	if errors.Is(why, drop.ErrIncomplete) {
		st, err := os.Lstat(s.path("drop/" + string(id)))
		if err != nil || s.opts.Now().Sub(st.ModTime()).Abs() < deadAge {
			return
		}
	}
	if err := s.setAside("drop", string(id), why); err != nil {
		s.note(id, err)
	}
}

// note logs trouble with a file of drop/, once in a pass.
func (s *Spool) note(id mail.ID, err error) {
	if !s.noted[id] {
		s.noted[id] = true
		s.opts.Logf("drop/%s is left where it is: %v", printable(string(id)), err)
	}
}

// insert makes the records of new messages, and makes every recipient due, those first whom somebody has asked for.
func (s *Spool) insert(x *tx, taken []Taken, askedFor *Selection) error {
	for _, t := range taken {
		if err := s.insertMessage(x, t, nil, askedFor); err != nil {
			return err
		}
	}
	return nil
}

// insertMessage makes the record of one message if there is none, leaving out recipients that are final.
func (s *Spool) insertMessage(x *tx, t Taken, final map[int]bool, askedFor *Selection) error {
	key := messageKey(t.ID)
	if x.messages.Get(key) != nil {
		return nil
	}
	// That of an older message, if the clock was set back: its file is gone, and this one has the name now.
	if err := x.tombstones.Delete(key); err != nil {
		return err
	}
	m := message{
		arrival: t.Envelope.Arrival, size: t.Size, sender: t.Envelope.Sender, journal: len(final) > 0,
		begin: t.Envelope.Begin(), deadline: t.Envelope.DeliverBy.Deadline, tls: t.Envelope.Wish(),
	}
	for n, r := range t.Envelope.Recipients {
		if final[n] {
			continue
		}
		m.pending++
		p := recipient{path: r.Path, expanded: r.Expanded, priority: t.Envelope.Urgency(os.Geteuid())}
		p.hop, p.next = holdOf(&t.Envelope, s.opts.Now())
		p.asked = askedFor != nil && askedFor.Recipient(r.Path) && p.hop != heldHop
		if err := s.route(x, &m, &p); err != nil {
			return err
		}
		if err := x.putRecipient(t.ID, n, &p); err != nil {
			return err
		}
	}
	if err := x.putDeadline(t.ID, m.deadline); err != nil {
		return err
	}
	return x.messages.Put(key, m.encode(key))
}

// putRecipient stores the record and makes the recipient due at the time it says.
func (x *tx) putRecipient(id mail.ID, n int, p *recipient) error {
	key := recipientKey(id, n)
	if err := x.recipients.Put(key, p.encode(key)); err != nil {
		return err
	}
	return x.due.Put(p.dueKey(id, n), nil)
}

// recipient reads a record; ok is false if there is none.
func (x *tx) recipient(id mail.ID, n int) (p recipient, ok bool, err error) {
	key := recipientKey(id, n)
	v := x.recipients.Get(key)
	if v == nil {
		return p, false, nil
	}
	return p, true, p.decode(key, v)
}

// message reads a record; ok is false if there is none.
func (x *tx) message(id mail.ID) (m message, ok bool, err error) {
	key := messageKey(id)
	v := x.messages.Get(key)
	if v == nil {
		return m, false, nil
	}
	return m, true, m.decode(key, v)
}
