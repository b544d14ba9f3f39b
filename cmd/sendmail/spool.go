package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// account is the user who owns a spool that root makes, if there is such a user.
const account = "postrider"

// openDrop opens the directory of a spool that submissions go to. A spool that is missing is made where that is ours to
// do; all but this directory is left to queue-runner.
func openDrop(spool string) (*drop.Dir, error) {
	path := filepath.Join(spool, "drop")
	dir, err := drop.Open(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	if err := makeSpool(spool); err != nil {
		return nil, err
	}
	return drop.Open(path)
}

func makeSpool(spool string) error {
	uid, gid := -1, -1
	if os.Geteuid() == 0 {
		if u, ok := submit.UserNamed(account); ok {
			uid, gid = u.UID, u.GID
		}
	}
	if err := makeParents(filepath.Dir(spool)); err != nil {
		return err
	}
	if err := makeDir(spool, 0o755, uid, gid); err != nil {
		return err
	}
	return makeDir(filepath.Join(spool, "drop"), 0o770|fs.ModeSetgid, uid, gid)
}

// makeParents makes the directories that are missing above the spool.
func makeParents(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeParents(filepath.Dir(path)); err != nil {
		return err
	}
	return makeDir(path, 0o755, -1, -1)
}

// makeDir makes a directory in one that we own, and makes its name durable: a message below a name that a power failure
// takes away is lost. What exists is left as it is.
func makeDir(path string, mode fs.FileMode, uid, gid int) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	owner, err := ownerOf(parent)
	if err != nil {
		return err
	}
	if owner != os.Geteuid() && os.Geteuid() != 0 {
		return fmt.Errorf("%s does not exist, and %s is not ours to make it in", path, parent)
	}
	// Complete before it gets its name: another sendmail, or the next one if we are killed, must not find it half done.
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	if err := finishDir(tmp, path, mode, uid, gid); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(parent)
}

func finishDir(tmp, path string, mode fs.FileMode, uid, gid int) error {
	if err := os.Chown(tmp, uid, gid); err != nil {
		return err
	}
	if err := os.Chmod(tmp, mode); err != nil {
		return err
	}
	return moveDir(tmp, path, func(from, to string) error {
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	})
}

// moveDir gives the new directory its name, unless somebody else was faster. noReplace is a rename that says so; not all
// file systems have it, and then an empty directory, in which nobody has a message yet, may be replaced by another one.
func moveDir(tmp, path string, noReplace func(from, to string) error) error {
	err := noReplace(tmp, path)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = unix.Rename(tmp, path)
	}
	if errors.Is(err, fs.ErrExist) { // or not empty
		return os.Remove(tmp)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: tmp, New: path, Err: err}
	}
	return nil
}

func ownerOf(path string) (int, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return int(info.Sys().(*syscall.Stat_t).Uid), nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// wake has what was queued delivered, as far as we may and are told to. Nothing depends on it: the message is queued, and
// the next pass, whoever starts it, takes it along. So no error is worth telling.
func (o *options) wake(cfg *config.Config, id mail.ID, stdout *os.File) {
	switch how := o.when(cfg); {
	case how == 'q':
	case !mayDeliver(cfg):
		if o.verbose {
			fmt.Fprintf(stdout, "%s: queued; only root and the owner of %s see it delivered\n", id, cfg.Spool)
		}
	case how == 'b':
		o.wakePass(cfg)
	default:
		o.deliverNow(id, stdout)
	}
}

// when says when a message is to be delivered, in the letters of -od: b, i or q.
func (o *options) when(cfg *config.Config) byte {
	switch {
	case o.delivery != 0:
		return o.delivery
	case o.verbose:
		return 'i'
	case cfg.Delivery == config.DeliverBackground:
		return 'b'
	}
	return 'q'
}

// wakeForReport has a report about a message that was refused delivered. Nobody waits for that.
func (o *options) wakeForReport(cfg *config.Config) {
	queueOnly := o.delivery == 'q' || o.delivery == 0 && cfg.Delivery == config.DeliverQueue
	if !queueOnly && mayDeliver(cfg) {
		o.wakePass(cfg)
	}
}

// mayDeliver reports whether a pass that we start could do anything.
func mayDeliver(cfg *config.Config) bool {
	if os.Geteuid() == 0 {
		return true
	}
	owner, err := ownerOf(cfg.Spool)
	return err == nil && os.Geteuid() == owner || errors.Is(err, fs.ErrNotExist) // whoever makes it owns it
}

// wakePass has the running pass, or a new one, take along whatever is due.
func (o *options) wakePass(cfg *config.Config) {
	owner, err := ownerOf(cfg.Spool)
	if err != nil {
		return
	}
	// The wake-up comes first: a pass that ends while we look will see it after it has let go of the lock.
	if err := touch(filepath.Join(cfg.Spool, "wake"), owner); err != nil {
		return
	}
	if passRuns(filepath.Join(cfg.Spool, "lock")) {
		return
	}
	if p, err := start("queue-runner", nil, o.configArgs()...); err == nil {
		go p.Wait() // or, while a session in SMTP goes on, what has ended is not quite gone
	}
}

// deliverNow waits until one attempt has been made for each recipient of the message.
func (o *options) deliverNow(id mail.ID, stdout *os.File) {
	args := append(o.configArgs(), "--only-id", string(id), "--wait")
	if !o.verbose {
		stdout = nil
	} else {
		args = append(args, "--verbose")
	}
	if p, err := start("queue-runner", stdout, args...); err == nil {
		await(p)
	}
}

// touch makes an empty file that belongs to the spool's owner.
func touch(path string, owner int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if owner != os.Geteuid() {
		err = f.Chown(owner, -1)
	}
	return errors.Join(err, f.Close())
}

// passRuns reports whether a pass holds its lock.
func passRuns(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close() // which lets go of the lock
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}
