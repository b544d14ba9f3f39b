package spool

import (
	"errors"
	"os"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

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
