// Package drop is the message file: its format, its durable creation, and reading it back without trusting it. It is
// all of the spool that a submitting program links, so it opens no database.
//
// A message file is one message. First comes the envelope as text, one field a line, ended by an empty line; then the
// content in wire form, every line ended by CRLF; then one line of fixed length with the size and a CRC of all before:
//
//	postrider-message 1
//	arrival: 2026-11-21T22:00:00.000001Z
//	submitter: 1000
//	sender: <ann@example.org>
//	recipient: notify=FAILURE orcpt=rfc822;bob@example.net <bob@example.net>
//
//	From: ann@example.org
//	...
//	end 000000002048 line 000000000072 flags -- crc32 89abcdef
//
// Its name is its queue ID, and its content never changes. The CRC is that of gzip: making the tables of CRC-32C takes
// longer than all else that a submission computes. Where the file system allows, the file is created without a name
// (O_TMPFILE), locked, written, linked under its name and then synced, once: ext4, XFS and Btrfs commit the name with
// the file that fsync is called on. Elsewhere the file is created under its name, and the directory is synced as well.
// Until the sync has returned, the file is locked by its creator, and whoever reads the directory passes it over; a
// file whose creator died has no lock and no valid last line. So exactly the complete, synced files are messages.
package drop

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// fileMode lets the spool's group read what its members and the set-group-ID program drop; the group comes from the
// directory.
const fileMode = 0o640

// A Dir is a directory in which message files are created.
type Dir struct {
	path string
	f    *os.File
	// syncNames is set where the sync of a file does not make its name durable.
	syncNames bool
	shelf     shelf
}

// Open opens the directory at path. It must exist and be readable: what cannot be read cannot be synced.
func Open(path string) (*Dir, error) {
	var fd int
	// os.OpenFile would try to have the directory polled, which a sendmail that writes one message need not pay for.
	err := retry(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return nil, errors.Join(&os.PathError{Op: "statfs", Path: path, Err: err}, f.Close())
	}
	switch fs.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		return &Dir{path: path, f: f}, nil
	}
	return &Dir{path: path, f: f, syncNames: true}, nil
}

// Check returns an error if we may not create files in the directory at path.
func Check(path string) error {
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	return nil
}

// Close closes the directory; files being written in it are not affected.
func (d *Dir) Close() error { return d.f.Close() }

// Sync makes the names in the directory durable.
func (d *Dir) Sync() error { return d.f.Sync() }

// A Writer is a message file being written. Every Writer ends with Commit or Abort.
type Writer struct {
	id    mail.ID
	dir   *Dir
	f     *os.File
	named bool // it has a name already, and a reader of the directory can see it
	buf   []byte
	crc   uint32
	size  int64 // of the content so far
	err   error // the first one met; Commit returns it
}

// bufferSize is how much is gathered before it is written: most messages leave in one write.
const bufferSize = 64 << 10

// writeBuffers keeps the buffers of Writers that have ended for the next ones: a server writes one message after another.
var writeBuffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Create starts a message file with the envelope. The ID is made from the arrival time; it is free to be used in the
// content, as in a Received field, by those who can bear that another message has it: Commit says which ID it became.
func (d *Dir) Create(env *mail.Envelope) (*Writer, error) {
	w := &Writer{dir: d, id: mail.MakeID(env.Arrival, uint8(rand.Uint32())), buf: writeBuffers.Get().(*[bufferSize]byte)[:0]}
	if err := w.open(); err != nil {
		return nil, err
	}
	// Blocking: nobody else holds the lock for longer than it takes to read the file.
	if err := retry(func() error { return unix.Flock(int(w.f.Fd()), unix.LOCK_EX) }); err != nil {
		return nil, errors.Join(w.error("lock", err), w.Abort())
	}
	text := appendEnvelope(nil, env)
	if len(text) > maxEnvelope {
		return nil, errors.Join(fmt.Errorf("%w: %d octets, at most %d are allowed", ErrEnvelope, len(text), maxEnvelope), w.Abort())
	}
	w.emit(text)
	return w, nil
}

func (w *Writer) open() error {
	fd, err := unix.Openat(int(w.dir.f.Fd()), ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, fileMode)
	if err == nil {
		w.f = os.NewFile(uintptr(fd), w.path())
		return w.chmod()
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return w.error("create", err)
	}
	return w.openNamed()
}

// openNamed is for file systems without O_TMPFILE.
func (w *Writer) openNamed() error {
	const how = unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_WRONLY | unix.O_CLOEXEC
	fd, err := unix.Openat(int(w.dir.f.Fd()), string(w.id), how, fileMode)
	for errors.Is(err, unix.EEXIST) {
		w.nextID()
		fd, err = unix.Openat(int(w.dir.f.Fd()), string(w.id), how, fileMode)
	}
	if err != nil {
		return w.error("create", err)
	}
	w.f, w.named = os.NewFile(uintptr(fd), w.path()), true
	return w.chmod()
}

// chmod gives the mode whatever the caller's umask is.
func (w *Writer) chmod() error {
	if err := w.f.Chmod(fileMode); err != nil {
		return errors.Join(err, w.Abort())
	}
	return nil
}

// ID returns the queue ID that the message will have, unless another message gets it first.
func (w *Writer) ID() mail.ID { return w.id }

// Size returns how many octets of content have been written so far.
func (w *Writer) Size() int64 { return w.size }

// Write appends to the content, which must be in wire form. Errors are kept for Commit as well.
func (w *Writer) Write(p []byte) (int, error) {
	w.size += int64(len(p))
	w.emit(p)
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// emit adds to the buffer, and to the checksum when the buffer is written.
func (w *Writer) emit(p []byte) {
	for len(p) > 0 && w.err == nil {
		n := min(len(p), bufferSize-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		if len(w.buf) == bufferSize {
			w.flush()
		}
	}
}

func (w *Writer) flush() {
	if w.err != nil {
		return
	}
	w.crc = crc32.Update(w.crc, crc32.IEEETable, w.buf)
	_, w.err = w.f.Write(w.buf)
	w.buf = w.buf[:0]
}

// Commit ends the message and makes it durable. When it returns nil, the message survives a power failure under the
// ID it returns. After an error there is no message: the file has been removed, and must not be synced again, since
// the kernel reports a failed sync only once.
func (w *Writer) Commit(facts mail.Facts) (mail.ID, error) {
	if err := w.commit(facts); err != nil {
		return "", errors.Join(err, w.Abort())
	}
	// The message is durable, and will be sent: an error of Close must not tell the submitter otherwise.
	_ = w.close()
	return w.id, nil
}

// close ends the Writer.
func (w *Writer) close() error {
	err := w.f.Close()
	writeBuffers.Put((*[bufferSize]byte)(w.buf[:bufferSize]))
	w.f, w.buf = nil, nil
	return err
}

func (w *Writer) commit(facts mail.Facts) error {
	if len(w.buf)+trailerLength > bufferSize {
		w.flush()
	}
	w.emit(appendTrailer(nil, w.size, facts))
	w.emit(appendCRC(nil, crc32.Update(w.crc, crc32.IEEETable, w.buf)))
	w.flush()
	if w.err != nil {
		return w.err
	}
	if err := w.link(); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return err
	}
	if w.dir.syncNames {
		return w.dir.Sync()
	}
	return nil
}

// link gives an unnamed file its name.
func (w *Writer) link() error {
	if w.named {
		return nil
	}
	// The empty path needs a privilege on older kernels, the other one needs /proc.
	dirfd := int(w.dir.f.Fd())
	for {
		err := unix.Linkat(int(w.f.Fd()), "", dirfd, string(w.id), unix.AT_EMPTY_PATH)
		if errors.Is(err, unix.ENOENT) {
			err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(w.f.Fd())), dirfd, string(w.id), unix.AT_SYMLINK_FOLLOW)
		}
		if errors.Is(err, unix.EEXIST) {
			w.nextID()
			continue
		}
		if err != nil {
			return w.error("link", err)
		}
		w.named = true
		return nil
	}
}

// nextID takes the ID of the next microsecond: another message has this one. With a thousand submissions a second that
// happens a few times a minute.
func (w *Writer) nextID() {
	w.id = mail.MakeID(w.id.Time().Add(time.Microsecond), uint8(rand.Uint32()))
}

// Abort removes the file. It may be called again, and after Commit, without effect.
func (w *Writer) Abort() error {
	if w.f == nil {
		return nil
	}
	var err error
	if w.named {
		if e := unix.Unlinkat(int(w.dir.f.Fd()), string(w.id), 0); e != nil {
			err = w.error("remove", e)
		}
	}
	return errors.Join(err, w.close())
}

func (w *Writer) path() string { return filepath.Join(w.dir.path, string(w.id)) }

func (w *Writer) error(op string, err error) error {
	return &os.PathError{Op: op, Path: w.path(), Err: err}
}

// retry calls f again while a signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Now is the clock that arrival times are taken from. It drops the monotonic reading, which a file cannot keep.
func Now() time.Time { return time.Now().Round(0).Truncate(time.Microsecond) }

// checkSize is used by readers to tell a truncated file from one that has been added to.
func checkSize(file, envelope, content int64) error {
	if envelope+content+int64(trailerLength) != file {
		return fmt.Errorf("%w: %d octets where the last line says %d", ErrIncomplete, file-envelope-int64(trailerLength), content)
	}
	return nil
}
