package spool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is how often wake-ups are looked for where the kernel cannot tell of them.
const pollEvery = time.Second

// Watch signals on the channel it returns when something was submitted, and when a wake-up was left, until ctx is done.
// Signals that nobody takes collapse into one. Who takes one calls Woken before looking at what is due.
func Watch(ctx context.Context, dir string) <-chan struct{} {
	signal := make(chan struct{}, 1)
	events, err := inotify(dir)
	if err != nil {
		go poll(ctx, signal)
		return signal
	}
	go func() {
		<-ctx.Done()
		events.Close()
	}()
	go func() {
		buf := make([]byte, 4096)
		for {
			// What happened does not matter, and what is lost in an overflow was signalled before.
			if _, err := events.Read(buf); err != nil {
				return
			}
			tell(signal)
		}
	}()
	return signal
}

func tell(signal chan<- struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

func inotify(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "inotify")
	_, err = unix.InotifyAddWatch(fd, filepath.Join(dir, "drop"), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE)
	if err == nil {
		err = watchWake(fd, dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// watchWake watches the spool's own directory, where wake-ups are left. Little else is created in it.
func watchWake(fd int, dir string) error {
	_, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO)
	return err
}

func poll(ctx context.Context, signal chan<- struct{}) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			tell(signal)
		}
	}
}
