package local

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// hashDigits is the length of the hash in a file name.
const hashDigits = 16

// errDelivered says that an earlier attempt did what this one was to do.
var errDelivered = errors.New("already delivered")

// deliver writes the file for recipient n and links it into new/, or says errDelivered. The link is durable only when
// new/ has been synced.
func (d *directories) deliver(m *mail.Message, n int, buf []byte) error {
	// The name in tmp/ is random, so that it never meets litter of an earlier attempt.
	tmp := fmt.Sprintf("%s_%d.%016x", m.QueueID, n, rand.Uint64())
	fd, err := unix.Openat(int(d.tmp.Fd()), tmp, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return pathError("create", filepath.Join(d.tmp.Name(), tmp), err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(d.tmp.Name(), tmp))
	hash, err := write(f, m, n, buf)
	if err == nil && d.found[hash] {
		d.moved = true
		err = errDelivered
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = d.link(tmp, fileName(m, n, hash))
	}
	if err == nil {
		d.found[hash] = true
	}
	// Whether linked or not, it has done its work; if it cannot be removed, it is litter, which harms nobody.
	_ = unix.Unlinkat(int(d.tmp.Fd()), tmp, 0)
	return wrap(err)
}

// link gives the file in tmp/ its name in new/.
func (d *directories) link(tmp, name string) error {
	err := unix.Linkat(int(d.tmp.Fd()), tmp, int(d.new.Fd()), name, 0)
	if errors.Is(err, unix.EEXIST) {
		return errDelivered
	}
	return pathError("link", filepath.Join(d.new.Name(), name), err)
}

// fileName returns the name of recipient n's file: the time of arrival, by which mail readers sort, then what makes it
// this message and no other.
func fileName(m *mail.Message, n int, hash uint64) string {
	return fmt.Sprintf("%d.%s_%d_%0*x%s", m.Arrival.Unix(), m.QueueID, n, hashDigits, hash, suffix)
}

// write writes the message as recipient n gets it, and returns its hash. The hash keeps apart what a queue ID alone would
// not: one that comes again, after a clock was set back or from another machine that shares the Maildir, must not pass
// for a message that has been delivered.
func write(f *os.File, m *mail.Message, n int, buf []byte) (uint64, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %d\n", m.QueueID, n)
	if err := copyMessage(io.MultiWriter(f, sum), heading(m, n), m, buf); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(sum.Sum(nil)), nil
}
