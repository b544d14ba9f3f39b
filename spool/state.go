package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"

	"go.etcd.io/bbolt"
)

// state.db is for what no file can tell again. It is made when there is something to keep, and only the pass that has
// the spool opens it.
const (
	stateFile    = "state.db"
	stateVersion = 1
)

// The buckets of state.db.
var (
	bucketStateMeta = []byte("meta")  // version
	bucketRates     = []byte("rates") // name → window
)

// A state is a transaction at state.db.
type state struct{ meta, rates *bbolt.Bucket }

// viewState reads. Without a file there is nothing to read, and f is not called.
func (s *Spool) viewState(f func(*state) error) error {
	if s.noState() {
		return nil
	}
	err := s.stateTurn(false, f)
	if errors.Is(err, errDamaged) {
		return s.forgetState(err)
	}
	return err
}

// updateState writes. When it returns nil, what was written survives a crash. If the file is damaged, f is called again
// with a new one: it may have been called before.
func (s *Spool) updateState(f func(*state) error) error {
	if s.noState() {
		if err := s.newState(); err != nil {
			return err
		}
	}
	err := s.stateTurn(true, f)
	if !errors.Is(err, errDamaged) {
		return err
	}
	// What only a writer reads, the list of free pages for instance, no reader finds damaged.
	if err := errors.Join(s.forgetState(err), s.newState()); err != nil {
		return err
	}
	return s.stateTurn(true, f)
}

// noState reports whether there is no state.db. bbolt makes a database of what is empty, and cannot if it only reads.
func (s *Spool) noState() bool {
	st, err := os.Stat(s.path(stateFile))
	return errors.Is(err, fs.ErrNotExist) || err == nil && st.Size() == 0
}

// forgetState sets a damaged state.db aside. It cannot be made anew from anything, but mail must go on: what is left of it
// is kept for whoever can read it.
func (s *Spool) forgetState(why error) error {
	s.opts.Logf("ALARM: state.db is damaged, and what it said is forgotten: %v", why)
	return s.setAside("", stateFile, why)
}

// stateTurn opens state.db, calls f in one transaction, and closes it. One that makes bbolt panic stays open: nobody can
// close it then, and it is set aside.
func (s *Spool) stateTurn(write bool, f func(*state) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	db, err := openDB(s.path(stateFile), write)
	if err != nil {
		return err
	}
	in := db.View
	if write {
		in = db.Update
	}
	err = in(func(t *bbolt.Tx) error {
		x := &state{t.Bucket(bucketStateMeta), t.Bucket(bucketRates)}
		if x.meta == nil || x.rates == nil {
			return errDamaged
		}
		switch v := x.meta.Get(metaVersion); {
		case len(v) != 8:
			return errDamaged
		case binary.BigEndian.Uint64(v) > stateVersion:
			return errNewerState
		}
		return f(x)
	})
	return errors.Join(damage(err), db.Close())
}

var errNewerState = errors.New("state.db was written by a newer version of postrider")

// newState makes an empty state.db, which gets its name when it is complete.
func (s *Spool) newState() error {
	const unborn = stateFile + ".new"
	if err := os.Remove(s.path(unborn)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := bbolt.Open(s.path(unborn), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = db.Update(func(t *bbolt.Tx) error {
		meta, err := t.CreateBucket(bucketStateMeta)
		if err != nil {
			return err
		}
		if _, err := t.CreateBucket(bucketRates); err != nil {
			return err
		}
		return meta.Put(metaVersion, binary.BigEndian.AppendUint64(nil, stateVersion))
	})
	if err := errors.Join(err, db.Sync(), db.Close()); err != nil {
		return err
	}
	return s.replace(unborn, stateFile, 0o600)
}
