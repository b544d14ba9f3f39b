package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// The buckets of index.db.
var (
	bucketMeta       = []byte("meta")       // see the keys below
	bucketMessages   = []byte("messages")   // ID → message
	bucketRecipients = []byte("recipients") // ID, position → recipient; those that are not final
	bucketDue        = []byte("due")        // next hop, class, time, ID, position → nothing
	bucketHops       = []byte("hops")       // next hop → hop; those in trouble
	bucketTombstones = []byte("tombstones") // ID → nothing
	bucketDeadlines  = []byte("deadlines")  // time, ID → nothing

	metaVersion  = []byte("version")
	metaBoot     = []byte("boot")     // boot ID at the last comparison
	metaCompared = []byte("compared") // time of it
	metaRoutes   = []byte("routes")   // Options.Routes that the next hops were asked with
	metaSchedule = []byte("schedule") // Options.Schedule likewise
)

// indexVersion is the version of the index format. An older index is rebuilt, a newer one refused.
const indexVersion = 4

// ErrNewer is the error for an index of a newer version of the program.
var ErrNewer = errors.New("index.db was written by a newer version of postrider")

// turnTimeout is how long a turn waits for the gate, and for a process that has the index without having come through it.
// Whoever keeps others out for so long is stopped or broken: to wait on would stop all mail without a word.
const turnTimeout = 10 * time.Second

// errNoIndex is the error of a turn that only reads when there is no index yet.
var errNoIndex = errors.New("no index")

// A tx is a transaction with its buckets at hand.
type tx struct {
	*bbolt.Tx
	meta, messages, recipients, due, hops, tombstones, deadlines *bbolt.Bucket
}

// turn opens the index, calls f in one transaction, and closes it. Turns pass through the gate one by one, so that
// bbolt's own lock, which is polled for, is free.
//
// Whatever a damaged file makes bbolt do, panic or reach beyond the end of the mapped file, becomes an error. The
// database is not closed then; the process has to end soon anyway, as no turn can be trusted any more.
func turn(dir string, gate *os.File, write bool, f func(*tx) error) (err error) {
	if err := passGate(gate); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, flock(gate, unix.LOCK_UN)) }()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	path := filepath.Join(dir, "index.db")
	// bbolt makes a database of what is missing or empty, even to read it. Somebody who deletes the index while a pass
	// runs must not make the pass write what it knows into a new one that knows nothing else.
	if st, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && st.Size() == 0 {
		return errNoIndex
	}
	db, err := openDB(path, write)
	if err != nil {
		return err
	}
	in := db.View
	if write {
		in = db.Update
	}
	err = in(func(t *bbolt.Tx) error {
		x, err := buckets(t)
		if err != nil {
			return err
		}
		return f(x)
	})
	return errors.Join(damage(err), db.Close())
}

// damage returns err as errDamaged if it comes of a damaged list of free pages: that has bbolt write where no file
// reaches, in each pass anew. What no system call was made for is called writeat: an offset below 0.
func damage(err error) error {
	var failed *os.PathError
	if !errors.As(err, &failed) || failed.Op != "writeat" && !(errors.Is(err, unix.EFBIG) && mayBeLarge()) {
		return err
	}
	return fmt.Errorf("%w: %v", errDamaged, err)
}

// mayBeLarge reports whether our caller has not limited the size of files.
func mayBeLarge() bool {
	var limit unix.Rlimit
	return unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) == nil && limit.Cur == unix.RLIM_INFINITY
}

// passGate waits for the gate. It is polled for: a blocking call could not be given up.
func passGate(gate *os.File) error {
	const longest = 5 * time.Millisecond
	for start, pause := time.Now(), 50*time.Microsecond; ; pause = min(2*pause, longest) {
		err := flock(gate, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			if err != nil {
				err = &os.PathError{Op: "lock", Path: gate.Name(), Err: err}
			}
			return err
		}
		if time.Since(start) > turnTimeout {
			return fmt.Errorf("%s has been kept locked by another process for %s", gate.Name(), turnTimeout)
		}
		time.Sleep(pause)
	}
}

// openDB opens a database. bbolt calls a file invalid that it could not read: only one which can be read, and is invalid
// twice, is damaged.
func openDB(path string, write bool) (*bbolt.DB, error) {
	for again := false; ; again = true {
		db, err := bbolt.Open(path, 0o640, &bbolt.Options{
			Timeout: turnTimeout, ReadOnly: !write, FreelistType: bbolt.FreelistMapType,
		})
		var errno unix.Errno
		if err == nil || errors.As(err, &errno) || errors.Is(err, bberrors.ErrTimeout) {
			return db, err
		}
		if again {
			return nil, fmt.Errorf("%w: %v", errDamaged, err)
		}
		if err := readable(path); err != nil {
			return nil, err
		}
	}
}

// readable reads where bbolt begins.
func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = f.ReadAt(make([]byte, 4096), 0)
	if err == io.EOF {
		err = nil
	}
	return errors.Join(err, f.Close())
}

func buckets(t *bbolt.Tx) (*tx, error) {
	x := &tx{Tx: t}
	for name, b := range x.table() {
		if *b = t.Bucket([]byte(name)); *b == nil {
			return nil, errNoIndex
		}
	}
	return x, nil
}

func (x *tx) table() map[string]**bbolt.Bucket {
	return map[string]**bbolt.Bucket{
		string(bucketMeta): &x.meta, string(bucketMessages): &x.messages, string(bucketRecipients): &x.recipients,
		string(bucketDue): &x.due, string(bucketHops): &x.hops, string(bucketTombstones): &x.tombstones,
		string(bucketDeadlines): &x.deadlines,
	}
}

// view takes a turn that only reads.
func (s *Spool) view(f func(*tx) error) error {
	if s.failed != nil {
		return s.failed
	}
	return s.checked(turn(s.dir, s.gate, false, f))
}

// update takes a turn that writes. After an error nobody knows what of it is on disk: no further turn is taken.
func (s *Spool) update(f func(*tx) error) error {
	if s.failed != nil {
		return s.failed
	}
	err := turn(s.dir, s.gate, true, func(x *tx) error {
		s.pages, s.free = x.Size()/int64(x.DB().Info().PageSize), int64(x.DB().Stats().FreePageN)
		return f(x)
	})
	if err != nil {
		s.failed = fmt.Errorf("index: %w", err)
	}
	return s.checked(err)
}

// checked sets a damaged index aside, so that the next pass builds a new one.
func (s *Spool) checked(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("index: %w", err)
	if errors.Is(err, errDamaged) {
		s.failed = err
		return errors.Join(err, s.setAside("", "index.db", err))
	}
	return err
}

// openIndex makes sure that there is an index of this version. fresh means that it knows nothing of the queue.
func (s *Spool) openIndex() (fresh bool, err error) {
	err = s.view(func(x *tx) error {
		v := x.meta.Get(metaVersion)
		switch {
		case v == nil:
			return errNoIndex
		case len(v) != 8:
			return errDamaged
		case binary.BigEndian.Uint64(v) > indexVersion:
			return ErrNewer
		case binary.BigEndian.Uint64(v) < indexVersion:
			return errNoIndex
		}
		return nil
	})
	if errors.Is(err, errDamaged) {
		s.failed = nil
		err = errNoIndex
	}
	if !errors.Is(err, errNoIndex) {
		return false, err
	}
	return true, s.newIndex()
}

// newIndex replaces index.db by an empty one. It gets its name when it is complete: bbolt does not survive a power
// failure while it creates a file.
func (s *Spool) newIndex() error {
	const unborn = "index.db.new"
	if err := os.Remove(s.path(unborn)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := bbolt.Open(s.path(unborn), 0o640, &bbolt.Options{FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = db.Update(func(t *bbolt.Tx) error {
		for name := range new(tx).table() {
			if _, err := t.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		x, err := buckets(t)
		if err != nil {
			return err
		}
		return x.meta.Put(metaVersion, binary.BigEndian.AppendUint64(nil, indexVersion))
	})
	if err := errors.Join(err, db.Sync(), db.Close()); err != nil {
		return err
	}
	return s.replace(unborn, "index.db", 0o640)
}

// replace lets the complete file from become the file to.
func (s *Spool) replace(from, to string, mode fs.FileMode) error {
	if err := os.Chmod(s.path(from), mode); err != nil {
		return err
	}
	if err := os.Rename(s.path(from), s.path(to)); err != nil {
		return err
	}
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Bounds for compact: bbolt never gives pages back, and each commit writes the list of the free ones.
const (
	compactPages = 4096 // do not bother below 16 MiB
	compactShare = 2    // when less than one page in so many is in use
)

// compact rewrites the index if most of it is free. A pass does not fail for it: the next one tries again.
func (s *Spool) compact() {
	if s.pages <= compactPages || s.free <= s.pages-s.pages/compactShare {
		return
	}
	const smaller = "index.db.new"
	err := s.view(func(x *tx) error {
		if err := os.Remove(s.path(smaller)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		to, err := bbolt.Open(s.path(smaller), 0o640, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoSync: true})
		if err != nil {
			return err
		}
		if err := errors.Join(bbolt.Compact(to, x.DB(), compactBatch), to.Sync(), to.Close()); err != nil {
			return err
		}
		// Within the turn: what somebody else writes after it must not be lost with the old file.
		return s.replace(smaller, "index.db", 0o640)
	})
	if err != nil {
		s.opts.Logf("index: not compacted: %v", errors.Join(err, os.Remove(s.path(smaller))))
	}
}

// compactBatch is how many octets one transaction of compact holds in memory.
const compactBatch = 4 << 20

// compareDue reports whether the index is due to be compared with the files: after a boot, and now and then.
func (s *Spool) compareDue() (bool, error) {
	due := false
	err := s.view(func(x *tx) error {
		at := x.meta.Get(metaCompared)
		if len(at) != 8 {
			due = true
			return nil
		}
		age := s.opts.Now().Sub(time.UnixMicro(int64(binary.BigEndian.Uint64(at))))
		due = age < 0 || age > compareEvery || !bytes.Equal(x.meta.Get(metaBoot), []byte(bootID()))
		return nil
	})
	return due, err
}
