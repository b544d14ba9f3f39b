package spool

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockPass takes the lock of the running pass. If another one holds it, that one is left a wake-up.
func lockPass(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = wakeHolder(f, dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// wakeHolder leaves a wake-up for the pass that holds the lock. The holder looks for wake-ups after it has let go: if it
// did so before ours was there, the lock is free now, and we have it.
func wakeHolder(lock *os.File, dir string) error {
	if err := Wake(dir); err != nil {
		return err
	}
	err := flock(lock, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrHeld
	}
	return err
}

// Wake leaves a wake-up for the running pass: it takes in what is new and tries what is due.
func Wake(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "wake"), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// Woken takes a wake-up, and reports whether there was one. A pass asks before it looks at what is due, and again after
// End: what was left in between, nobody else will see to.
func Woken(dir string) bool { return os.Remove(filepath.Join(dir, "wake")) == nil }

// Running reports whether a pass has the spool at dir.
func Running(dir string) bool {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close() // which lets go of the lock
	return errors.Is(flock(f, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

func openGate(dir string) (*os.File, error) {
	// Readable by the group, who may read the index; a lock needs no more than that.
	f, err := os.OpenFile(filepath.Join(dir, "gate"), os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// mark leaves the mark of a running pass, and reports whether one was there.
func (s *Spool) mark() (unclean bool, err error) {
	f, err := os.OpenFile(s.path("running"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, f.Close()
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
