package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// withSubmission adds the submission socket, unless it is there already. later reports that somebody else serves it.
func withSubmission(doors []door, path string) (all []door, later bool, err error) {
	for _, d := range doors {
		if d.Addr().String() == path {
			return doors, false, nil
		}
	}
	lock, err := lockSocket(path, unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return doors, true, nil
	}
	if err != nil {
		return doors, false, err
	}
	d, err := openSubmission(path, lock)
	if errors.Is(err, unix.EADDRINUSE) {
		return doors, true, nil
	}
	if err != nil {
		return doors, false, err
	}
	return append(doors, d), false, nil
}

// succeed hands over the submission socket when the daemon that serves it has ended, however it does. What systemd serves
// stays, while daemons come and go.
func succeed(ctx context.Context, path string, succession chan<- door, logf func(format string, args ...any)) {
	lock, err := lockSocket(path, 0)
	if err != nil {
		logf("no submission socket: %v", err)
		return
	}
	if ctx.Err() != nil {
		_ = lock.Close() // it was only locked
		return
	}
	awaitClosed(path)
	d, err := openSubmission(path, lock)
	if errors.Is(err, unix.EADDRINUSE) {
		return
	}
	if err != nil {
		logf("no submission socket: %v", err)
		return
	}
	logf("the daemon that served %s has ended: now it is served here", path)
	select {
	case succession <- d:
	case <-ctx.Done():
		_ = d.Close() // the next one replaces what is left
	}
}

// awaitClosed waits until nobody listens at the socket of who has let go of its lock: the files of a process that was
// killed are closed in any order.
func awaitClosed(path string) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return
	}
	defer conn.Close()
	if conn.SetReadDeadline(time.Now().Add(dyingTime)) == nil {
		_, _ = conn.Read(make([]byte, 1)) // who dies hangs up
	}
}

// dyingTime is more than a process takes to close its files.
const dyingTime = time.Second

// A submissionSocket is locked for as long as it is served, for those who wait to do so.
type submissionSocket struct {
	net.Listener
	made fs.FileInfo
	lock *os.File
}

// openSubmission makes the submission socket. Its lock is held from now on, or given back if there is an error.
func openSubmission(path string, lock *os.File) (door, error) {
	l, err := replaceAbandoned(path)
	if err != nil {
		return door{}, errors.Join(err, lock.Close())
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	made, err := os.Lstat(path)
	s := &submissionSocket{l, made, lock}
	if err == nil {
		// The umask is that of passes, too. But in the spool a name means what we make it mean.
		err = os.Chmod(path, 0o666)
	}
	if err != nil {
		return door{}, errors.Join(err, s.Close())
	}
	return door{Listener: s, submission: true}, nil
}

// Close removes the socket, but not what systemd has put in its place.
func (s *submissionSocket) Close() error {
	path := s.Addr().String()
	now, err := os.Lstat(path)
	if err == nil && os.SameFile(now, s.made) {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, s.Listener.Close(), s.lock.Close())
}
