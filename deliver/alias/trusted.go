package alias

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links there may be on the way to a list.
const maxLinks = 40

// openTrusted opens a list that nobody but root and the user we run as can have put there. Every directory on the way is
// theirs, and no other can write to it, unless it is one like /tmp where what is theirs stays. The list itself has one
// name only, which is no symbolic link: otherwise it might be another file of theirs that was never meant for a list.
func openTrusted(file string) (*os.File, error) {
	at := file
	for range maxLinks {
		f, leadsTo, err := walk(at)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: file, Err: err}
		}
		if f != nil {
			return f, nil
		}
		at = leadsTo
	}
	return nil, &fs.PathError{Op: "open", Path: file, Err: unix.ELOOP}
}

// walk goes to a file one name after another. If one of the directories is a symbolic link it returns where the path
// leads instead: everything up to there is to be trusted, so nobody can change it meanwhile.
func walk(path string) (f *os.File, leadsTo string, err error) {
	dir, err := openNext(nil, "/")
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	done, rest := "/", strings.TrimPrefix(filepath.Clean(path), "/")
	for {
		name, after, more := strings.Cut(rest, "/")
		if !more {
			f, err := openLast(dir, name)
			return f, "", err
		}
		next, err := openNext(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, "", err
		}
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", filepath.Join(done, name), err)
		}
		target, err := linkTarget(next)
		if err != nil || target != "" {
			if !filepath.IsAbs(target) {
				target = filepath.Join(done, target)
			}
			return nil, filepath.Join(target, after), errors.Join(err, next.Close())
		}
		if err := dir.Close(); err != nil {
			return nil, "", errors.Join(err, next.Close())
		}
		dir, done, rest = next, filepath.Join(done, name), after
	}
}

// openNext opens a directory, or the symbolic link that is there instead.
func openNext(dir *os.File, name string) (*os.File, error) {
	at := unix.AT_FDCWD
	if dir != nil {
		at = int(dir.Fd())
	}
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = trusted(&st)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// trusted says why others may have a hand in what a directory leads to, or a symbolic link.
func trusted(st *unix.Stat_t) error {
	if int(st.Uid) != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, neither to root nor to us", st.Uid)
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return nil
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return unix.ENOTDIR
	case st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0:
		return errors.New("others than its owner can write to it")
	}
	return nil
}

// linkTarget returns what a symbolic link says; "" if f is none.
func linkTarget(f *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if errors.Is(err, unix.ENOENT) { // readlinkat(2): it is something else
		return "", nil
	}
	return string(buf[:max(n, 0)]), err
}

func openLast(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("it is a symbolic link")
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink != 1 {
		err = fmt.Errorf("it has %d names", st.Nlink)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
