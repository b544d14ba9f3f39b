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
	defer unix.Umask(unix.Umask(0o111)) // see listenUnix
	s, err := openSubmission(path, lock)
	if err == nil {
		return append(doors, door{Listener: s, submission: true}), false, nil
	}
	later = errors.Is(err, unix.EADDRINUSE)
	if later {
		err = nil
	}
	return doors, later, errors.Join(err, lock.Close())
}

// succeed hands over the submission socket when who serves it has ended: a daemon, however it does, or systemd.
func succeed(ctx context.Context, path string, succession chan<- door, logf func(format string, args ...any)) {
	s, err := inherit(ctx, path, logf)
	if err != nil {
		if ctx.Err() == nil {
			logf("no submission socket: %v", err)
		}
		return
	}
	select {
	case succession <- door{Listener: s, submission: true}:
		logf("who served %s has ended: now it is served here", path)
	case <-ctx.Done():
		_ = s.Close() // the next one replaces what is left
	}
}

// inherit waits for the lock of the submission socket, which daemons have while they serve it, and then for those who have
// it without, and makes it anew.
func inherit(ctx context.Context, path string, logf func(format string, args ...any)) (*submissionSocket, error) {
	seen, _ := os.Lstat(path)
	lock, err := lockSocket(path, unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		if lock, err = lockSocket(path, 0); err == nil && ctx.Err() == nil {
			awaitClosed(path)
			seen = nil
		}
	}
	if err != nil {
		return nil, err
	}
	for complained := false; ctx.Err() == nil; {
		// Who connects to see makes systemd start a program: not while the same socket is there.
		now, _ := os.Lstat(path)
		if seen == nil || now == nil || !os.SameFile(seen, now) {
			s, err := openSubmission(path, lock)
			if err == nil {
				// The umask is that of passes, too. But in the spool a name means what we make it mean.
				if err = os.Chmod(path, 0o666); err == nil {
					return s, nil
				}
				return nil, errors.Join(err, s.Close())
			}
			if seen = now; !errors.Is(err, unix.EADDRINUSE) && !complained {
				complained = true
				logf("no submission socket yet: %v", err)
			}
		}
		sleep(ctx, heldRetry)
	}
	return nil, errors.Join(ctx.Err(), lock.Close())
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

// openSubmission makes the submission socket, and keeps its lock unless there is an error.
func openSubmission(path string, lock *os.File) (*submissionSocket, error) {
	l, err := replaceAbandoned(path)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	made, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &submissionSocket{l, made, lock}, nil
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
