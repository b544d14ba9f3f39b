package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A mailbox is an mbox file that is open and locked: nobody else who keeps to the customs writes to it.
type mailbox struct {
	*os.File
	dir    *os.File
	name   string
	dotted bool // the dot lock is ours
	made   bool // by us
}

// Bounds for waiting. Another delivery has the locks for milliseconds, a mail reader while it writes the mailbox anew.
const (
	lockPatience = 10 * time.Second
	firstPause   = 5 * time.Millisecond
	lastPause    = 250 * time.Millisecond
)

// staleAge is how old a dot lock has to be that whoever made it has surely forgotten it.
const staleAge = 500 * time.Second

// A busyError says that somebody else has the mailbox.
type busyError struct{ text string }

func (e *busyError) Error() string { return e.text }

func (b Mbox) acquire(ctx context.Context, dir *os.File) (*mailbox, error) {
	patience := b.patience
	if patience == 0 {
		patience = lockPatience
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		f, err := b.try(dir)
		var busy *busyError
		if !errors.As(err, &busy) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w, and there was no more time: %w", err, context.Cause(ctx))
		case <-limit.C:
			return nil, err
		case <-time.After(pause):
		}
	}
}

// try opens and locks the file, or neither. Of the two locks that mail programs use, it waits for none while it has the
// other, so it fits every order in which they are taken.
func (b Mbox) try(dir *os.File) (*mailbox, error) {
	f, err := b.open(dir)
	if err != nil {
		return nil, err
	}
	err = f.lock()
	if err == nil {
		// While we came here the reader may have put another file in its place.
		err = f.inPlace()
	}
	if err != nil {
		f.release()
		return nil, err
	}
	return f, nil
}

// open opens the file, or makes it. Whatever is wrong with it is found out before a byte is written: what has the name is
// looked at before it is opened, because opening a device can do things, and after it, because it can be another one.
func (b Mbox) open(dir *os.File) (*mailbox, error) {
	f := &mailbox{dir: dir, name: filepath.Base(b.Path)}
	var before unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), f.name, &before, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return f, f.create(b.Path)
	}
	if err != nil {
		return nil, pathError("stat", b.Path, err)
	}
	if err := b.acceptable(&before); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(int(dir.Fd()), f.name, unix.O_RDWR|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err == unix.ELOOP || err == unix.ENOENT {
		return nil, &busyError{b.Path + " was exchanged for something else"}
	}
	if err != nil {
		return nil, pathError("open", b.Path, err)
	}
	f.File = os.NewFile(uintptr(fd), b.Path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(pathError("stat", b.Path, err), f.Close())
	}
	if err := b.acceptable(&st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// create makes the file: for its owner alone, or, where the directory belongs to a group that handles mail, for that, too.
func (f *mailbox) create(path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.dir.Fd()), &st); err != nil {
		return pathError("stat", f.dir.Name(), err)
	}
	mode := uint32(0o600)
	if st.Mode&0o020 != 0 {
		mode = 0o660
	}
	fd, err := unix.Openat(int(f.dir.Fd()), f.name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err == unix.EEXIST {
		return &busyError{path + " has just been made by somebody else"}
	}
	if err != nil {
		return pathError("create", path, err)
	}
	f.File, f.made = os.NewFile(uintptr(fd), path), true
	// The umask keeps the group out.
	if err := unix.Fchmod(fd, mode); err != nil {
		return pathError("change the mode of", path, err)
	}
	return nil
}

// acceptable says whether mail may be written to a file.
func (b Mbox) acceptable(st *unix.Stat_t) error {
	kinds := map[uint32]string{
		unix.S_IFLNK: "a symbolic link, which is not followed", unix.S_IFDIR: "a directory", unix.S_IFIFO: "a pipe",
		unix.S_IFSOCK: "a socket", unix.S_IFCHR: "a device", unix.S_IFBLK: "a device",
	}
	kind, odd := kinds[st.Mode&unix.S_IFMT]
	switch {
	case odd:
		return refuse("%s is %s", b.Path, kind)
	case st.Nlink != 1:
		return refuse("%s has %d names; it could be somebody else's file", b.Path, st.Nlink)
	case int(st.Uid) != b.Owner && int(st.Uid) != os.Geteuid():
		return refuse("%s belongs to user %d", b.Path, st.Uid)
	case st.Mode&(0o111|unix.S_ISUID|unix.S_ISGID) != 0:
		return &refusal{b.Path + " is a program, not a mailbox", true}
	case st.Mode&0o002 != 0:
		return refuse("%s can be written to by everybody", b.Path)
	}
	return nil
}

// lock takes the lock of the kernel, which ends with the process, and the dot lock, which readers on other machines see.
func (f *mailbox) lock() error {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
	if err == unix.EAGAIN || err == unix.EACCES {
		return &busyError{f.Name() + " is locked"}
	}
	if err != nil {
		return pathError("lock", f.Name(), err)
	}
	err = f.dotLock()
	if err == unix.EEXIST && f.removeStale() {
		err = f.dotLock()
	}
	switch err {
	case nil, unix.EACCES, unix.EPERM, unix.EROFS:
		// Who may not make files here is not expected to: the mailbox is no one's inbox.
		return nil
	case unix.EEXIST:
		return &busyError{f.Name() + " is locked: there is " + f.lockName()}
	}
	return pathError("create", f.Name()+".lock", err)
}

func (f *mailbox) lockName() string { return f.name + ".lock" }

// dotLock makes the dot lock, in one step where the file system can, so that none without its text is ever left behind.
func (f *mailbox) dotLock() error {
	fd, err := unix.Openat(int(f.dir.Fd()), ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	unnamed := err == nil
	if err == unix.EOPNOTSUPP || err == unix.EISDIR || err == unix.EINVAL {
		fd, err = unix.Openat(int(f.dir.Fd()), f.lockName(), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	}
	if err != nil {
		return err
	}
	f.dotted = !unnamed
	lock := os.NewFile(uintptr(fd), f.lockName())
	_, err = io.WriteString(lock, lockText(os.Getpid()))
	if err == nil && unnamed {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), int(f.dir.Fd()), f.lockName(), unix.AT_SYMLINK_FOLLOW)
		f.dotted = err == nil
	}
	if failed := lock.Close(); err == nil {
		err = failed
	}
	return err
}

// lockText is what our dot locks hold: the process, first as is the custom, and where its number means that process.
func lockText(pid int) string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	space, _ := os.Readlink("/proc/self/ns/pid")
	return fmt.Sprintf("%d\npostrider %s %s\n", pid, bytes.TrimSpace(boot), space)
}

// removeStale removes a dot lock that nobody is behind any more, and reports whether it has. The kernel's lock, which we
// have, keeps others of us from doing the same.
func (f *mailbox) removeStale() bool {
	fd, err := unix.Openat(int(f.dir.Fd()), f.lockName(), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	var text string
	if err == nil {
		lock := os.NewFile(uintptr(fd), f.lockName())
		b, _ := io.ReadAll(io.LimitReader(lock, 1024))
		text = string(b)
		lock.Close() // only read: closing cannot lose anything
	}
	var st unix.Stat_t
	if unix.Fstatat(int(f.dir.Fd()), f.lockName(), &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return true // gone by itself
	}
	old := time.Since(time.Unix(st.Mtim.Unix())) > staleAge
	return (old || ownerDied(text)) && unix.Unlinkat(int(f.dir.Fd()), f.lockName(), 0) == nil
}

// ownerDied reports whether a lock of ours was left behind: by a process that does not exist any more, or by this one,
// which could not remove it, for whoever else it could be would have the kernel's lock.
func ownerDied(text string) bool {
	first, _, _ := strings.Cut(text, "\n")
	pid, err := strconv.Atoi(first)
	return err == nil && pid > 0 && text == lockText(pid) && (pid == os.Getpid() || unix.Kill(pid, 0) == unix.ESRCH)
}

// inPlace sees that the file that we have locked is still the one that has the name.
func (f *mailbox) inPlace() error {
	var named, ours unix.Stat_t
	err := unix.Fstatat(int(f.dir.Fd()), f.name, &named, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &ours)
	}
	if err != nil && err != unix.ENOENT {
		return pathError("stat", f.Name(), err)
	}
	if err != nil || named.Dev != ours.Dev || named.Ino != ours.Ino || ours.Nlink != 1 {
		return &busyError{f.Name() + " was exchanged for something else"}
	}
	return nil
}

// sync makes the file durable, and its name if it may be new.
func (f *mailbox) sync(young bool) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if !f.made && !young {
		return nil
	}
	return f.dir.Sync()
}

// release gives the locks back. What cannot be removed gets stale; a file that has been synced loses nothing by closing.
func (f *mailbox) release() {
	if f.dotted {
		_ = unix.Unlinkat(int(f.dir.Fd()), f.lockName(), 0)
	}
	if f.File != nil {
		// Closing alone would not do while a child that is being started has the descriptor, too.
		_ = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK, Whence: io.SeekStart})
		_ = f.Close()
	}
}
