package drop

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// ErrBusy is the error for a file that is locked: its submitter has not been told yet that it is accepted.
var ErrBusy = errors.New("message file is being written")

// A File is an open message file. One that is small has been read, and takes no descriptor.
type File struct {
	mail.Message
	path    string
	f       *os.File         // nil if all of it is in fixed
	fixed   *[smallFile]byte // the whole file, if it fits
	content int64            // offset of the content
	length  int64            // of the file
	owner   uint32
	crc     uint32
	shelf   *shelf // nil if the envelope is not to be shared
	shared  *shared
	identity
}

// buffers keeps the memory of closed files for the next ones: a pass reads one file after another.
var buffers = sync.Pool{New: func() any { return new([smallFile]byte) }}

// smallFile is up to which size a file is read at once. Most messages are this small.
const smallFile = 16 << 10

// maxEnvelope is how long an envelope may be: above a hundred thousand recipients.
const maxEnvelope = 64 << 20

// Read opens the message file name in d and reads its envelope and last line, not its content. The Content of the
// message is valid until Close. It refuses what is not a regular file with one name, and what is being written.
func (d *Dir) Read(name string) (*File, error) {
	f, err := d.read(name, (*File).lock, nil)
	if err != nil {
		return nil, err
	}
	if err := f.submitted(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", f.path, err), f.Close())
	}
	return f, nil
}

// submitted refuses what only we may say of a message: a submission that says it settles others would make them vanish.
func (m *File) submitted() error {
	if m.Settles != nil {
		return errors.New("a submission does not settle other messages")
	}
	for _, r := range m.Recipients {
		if r.Expanded {
			return errors.New("a submission does not say what aliases are")
		}
	}
	return nil
}

// ReadOwn is Read for a directory that nobody else can write to, where names appear only when their files are complete. A
// large envelope is shared by all who have the file open: nothing of it may be changed.
func (d *Dir) ReadOwn(name string) (*File, error) { return d.read(name, (*File).stat, &d.shelf) }

func (d *Dir) read(name string, check func(*File) error, shelf *shelf) (*File, error) {
	id, err := mail.ParseID(name)
	if err != nil {
		return nil, err
	}
	// Not blocking: a fifo must not hold up a pass.
	fd, err := unix.Openat(int(d.f.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: d.path + "/" + name, Err: err}
	}
	path := d.path + "/" + name
	m := &File{path: path, f: os.NewFile(uintptr(fd), path), fixed: buffers.Get().(*[smallFile]byte), shelf: shelf}
	m.QueueID = id
	if err := m.read(check); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", m.path, err), m.Close())
	}
	if m.length <= smallFile {
		_ = m.closeFile() // it was only read
	}
	return m, nil
}

// Close closes the file. The message's Content can no longer be read.
func (m *File) Close() error {
	if m.fixed != nil {
		buffers.Put(m.fixed)
		m.fixed, m.Content = nil, nil
	}
	if m.shared != nil {
		m.shelf.put(m.shared)
		m.shared = nil
	}
	return m.closeFile()
}

func (m *File) closeFile() error {
	if m.f == nil {
		return nil
	}
	f := m.f
	m.f = nil
	return f.Close()
}

func (m *File) read(check func(*File) error) error {
	if err := check(m); err != nil {
		return err
	}
	if err := m.readEnvelope(); err != nil {
		return err
	}
	return m.readTrailer()
}

// stat refuses what is not a regular file with one name.
func (m *File) stat() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(m.f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("not a regular file")
	}
	if st.Nlink == 0 {
		return os.ErrNotExist
	}
	if st.Nlink > 1 {
		return errors.New("more than one link")
	}
	m.length, m.owner = st.Size, st.Uid
	m.identity = identity{uint64(st.Dev), st.Ino, st.Size, st.Ctim}
	return nil
}

// lock makes sure, besides, that nobody is writing the file.
func (m *File) lock() error {
	if err := m.stat(); err != nil {
		return err
	}
	if err := unix.Flock(int(m.f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrBusy
		}
		return err
	}
	// Under the lock: a submitter whose sync failed has removed the name before it let go.
	return m.stat()
}

// setSubmitter lets the file's owner be the submitter, whatever the file says: only files of our own user, who also
// writes for others (reports, submissions through a socket), are believed.
func (m *File) setSubmitter() {
	if int(m.owner) != os.Geteuid() {
		m.Submitter = int(m.owner)
	}
}

func (m *File) readEnvelope() error {
	n, err := m.f.ReadAt(m.fixed[:], 0)
	if err != nil && err != io.EOF {
		return err
	}
	env, length, err := parseEnvelope(m.fixed[:n])
	if err == ErrIncomplete && int64(n) < m.length {
		env, length, err = m.readLarge()
	}
	if err != nil {
		return err
	}
	m.Envelope, m.content = *env, int64(length)
	m.setSubmitter()
	return nil
}

// readLarge reads an envelope that is longer than a small file, unless somebody has it already.
func (m *File) readLarge() (env *mail.Envelope, length int, err error) {
	if m.shelf == nil {
		return m.parseLarge()
	}
	if m.shared, err = m.shelf.get(m.identity, m.parseLarge); err != nil {
		return nil, 0, err
	}
	return m.shared.env, m.shared.length, nil
}

func (m *File) parseLarge() (env *mail.Envelope, length int, err error) {
	for size := int64(smallFile) * 16; ; size *= 16 {
		text := make([]byte, min(size, m.length, maxEnvelope))
		if _, err := m.f.ReadAt(text, 0); err != nil {
			return nil, 0, err
		}
		env, length, err = parseEnvelope(text)
		if err == ErrIncomplete && len(text) >= maxEnvelope {
			return nil, 0, ErrEnvelope // and no better when more of it comes
		}
		if err != ErrIncomplete || int64(len(text)) == m.length {
			return env, length, err
		}
	}
}

func (m *File) readTrailer() error {
	if m.length < m.content+int64(trailerLength) {
		return ErrIncomplete
	}
	var b [trailerLength]byte
	whole := m.length <= smallFile
	if whole {
		copy(b[:], m.fixed[m.length-int64(trailerLength):m.length])
	} else if _, err := m.f.ReadAt(b[:], m.length-int64(trailerLength)); err != nil {
		return err
	}
	var err error
	if m.Size, m.Facts, m.crc, err = parseTrailer(b[:]); err != nil {
		return err
	}
	if err := checkSize(m.length, m.content, m.Size); err != nil {
		return err
	}
	if whole {
		m.Content = bytes.NewReader(m.fixed[m.content : m.content+m.Size])
		return nil
	}
	m.Content = io.NewSectionReader(m.f, m.content, m.Size)
	return nil
}

// Verify reads the whole file and compares it with its checksum.
func (m *File) Verify() error {
	body := m.length - int64(crcLength)
	if m.length <= smallFile {
		return m.compare(crc32.ChecksumIEEE(m.fixed[:body]))
	}
	buf := make([]byte, bufferSize)
	crc := uint32(0)
	for r := io.NewSectionReader(m.f, 0, body); ; {
		n, err := r.Read(buf)
		crc = crc32.Update(crc, crc32.IEEETable, buf[:n])
		if err == io.EOF {
			return m.compare(crc)
		}
		if err != nil {
			return err
		}
	}
}

func (m *File) compare(crc uint32) error {
	if crc != m.crc {
		return fmt.Errorf("%s: %w: checksum differs", m.path, ErrIncomplete)
	}
	return nil
}

// Names returns the names in the directory that have the form of a queue ID, in the order of arrival, and the other
// names.
func (d *Dir) Names() (messages []mail.ID, others []string, err error) {
	f, err := os.Open(d.path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if id, err := mail.ParseID(name); err == nil {
			messages = append(messages, id)
		} else {
			others = append(others, name)
		}
	}
	slices.Sort(messages)
	return messages, others, nil
}
