package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
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

// newOwner makes a spool and gives it to the user postrider, if there is one.
func newOwner(dir string) (uid, gid int, err error) {
	if err := spool.Create(dir); err != nil {
		return 0, 0, err
	}
	u, err := user.Lookup(account)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return 0, 0, nil
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
	return uid, gid, spool.Give(dir, uid, gid)
}
