package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/postrider/postrider/spool"
)

// account is the user who owns a spool that root makes, if there is such a user.
const account = "postrider"

// becomeOwner lets root work as the user who owns the spool: never as root in a directory that others can write to. A
// spool that does not exist yet is made for the user postrider. For everybody else it does nothing.
func becomeOwner(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	uid, gid, err := owner(dir)
	if errors.Is(err, fs.ErrNotExist) {
		uid, gid, err = newOwner(dir)
	}
	if err != nil || uid == 0 {
		return err
	}
	if err := syscall.Setgroups([]int{gid}); err != nil {
		return fmt.Errorf("become user %d: %w", uid, err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("become user %d: %w", uid, err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("become user %d: %w", uid, err)
	}
	return nil
}

func owner(dir string) (uid, gid int, err error) {
	st, err := os.Stat(dir)
	if err != nil {
		return 0, 0, err
	}
	sys := st.Sys().(*syscall.Stat_t)
	return int(sys.Uid), int(sys.Gid), nil
}

// newOwner makes a spool and gives it to the user postrider, if there is one. The spool gets its name when it is
// complete: two first runs at once, or one that is killed, must not leave root's files in it.
func newOwner(dir string) (uid, gid int, err error) {
	u, err := user.Lookup(account)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return 0, 0, nil // root's own, which Acquire makes
	}
	if err != nil {
		return 0, 0, err
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	if gid, err = strconv.Atoi(u.Gid); err != nil {
		return 0, 0, err
	}
	unborn, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+"-")
	if err != nil {
		return 0, 0, err
	}
	if err := errors.Join(spool.Create(unborn), spool.Give(unborn, uid, gid)); err != nil {
		return 0, 0, errors.Join(err, os.RemoveAll(unborn))
	}
	// Over an empty directory at most: whoever was first has won.
	if err := os.Rename(unborn, dir); err != nil {
		if rm := os.RemoveAll(unborn); rm != nil || !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return 0, 0, errors.Join(err, rm)
		}
		return owner(dir)
	}
	return uid, gid, nil
}
