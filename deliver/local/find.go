package local

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// searched is how much of the end of a mailbox is looked at for what an earlier attempt has written, besides as much as
// the message itself takes.
const searched = 1 << 20

// signatureSize is by how much of a message, behind the heading, it is found again: the first field tells the queue ID.
const signatureSize = 256

// find looks for what an earlier attempt left that was killed before anybody knew of its success. It may be there, whole,
// even if others have appended since; or torn, at the very end: then torn is where it begins, otherwise -1.
func (f *mailbox) find(r *rendering, size int64) (whole bool, torn int64, err error) {
	sign, err := r.start()
	if err != nil {
		return false, -1, err
	}
	at := max(0, size-searched-2*r.m.Size-int64(len(sign)))
	for {
		at, err = f.index(sign, at, size)
		if err != nil || at < 0 {
			break
		}
		err = r.compare(&comparison{f: f, at: at, size: size})
		switch {
		case err == nil:
			return true, -1, f.sync(true)
		case errors.Is(err, errShorter):
			return false, at, nil
		case !errors.Is(err, errDiffers):
			return false, -1, err
		}
		at++
	}
	if err != nil {
		return false, -1, err
	}
	torn, err = f.tornStart(sign, size)
	return false, torn, err
}

func (r *rendering) compare(c *comparison) error {
	w := bufio.NewWriterSize(c, bufferSize)
	if err := r.to(w); err != nil {
		return err
	}
	return w.Flush()
}

// start returns how the rendering begins.
func (r *rendering) start() ([]byte, error) {
	s := &signature{size: len(fromLine(r.m)) + len(heading(r.m, r.n)) + signatureSize}
	if err := r.to(s); err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return s.text[:min(len(s.text), s.size)], nil
}

// A signature keeps the start of what is written to it.
type signature struct {
	text []byte
	size int
}

var errEnough = errors.New("enough")

func (s *signature) Write(p []byte) (int, error) {
	s.text = append(s.text, p...)
	if len(s.text) >= s.size {
		return 0, errEnough
	}
	return len(p), nil
}

// index returns where the file has sign at the start of a line, from octet at on; -1 if it has not.
func (f *mailbox) index(sign []byte, at, size int64) (int64, error) {
	buf := make([]byte, bufferSize+len(sign))
	for at < size {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if err != nil && err != io.EOF {
			return -1, err
		}
		for from := 0; ; from++ {
			i := bytes.Index(buf[from:n], sign)
			if i < 0 {
				break
			}
			from += i
			if at+int64(from) == 0 || from > 0 && buf[from-1] == '\n' {
				return at + int64(from), nil
			}
		}
		if n < len(buf) {
			return -1, nil
		}
		at += int64(bufferSize) - 1 // a line's end is seen together with what follows it
	}
	return -1, nil
}

// tornStart returns where the end of the file is a part of sign that is too short to be found; -1 if it is none.
func (f *mailbox) tornStart(sign []byte, size int64) (int64, error) {
	tail := make([]byte, min(int64(len(sign)), size))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return -1, err
	}
	for i := range tail {
		rest := tail[i:]
		atStart := i > 0 && tail[i-1] == '\n' || size == int64(len(rest))
		if atStart && len(rest) > len(fromSpace) && bytes.HasPrefix(sign, rest) {
			return size - int64(len(rest)), nil
		}
	}
	return -1, nil
}

var (
	errDiffers = errors.New("the mailbox holds something else")
	errShorter = errors.New("the mailbox ends before the message does")
)

// A comparison compares what is written to it with what the file holds from octet at on.
type comparison struct {
	f        *mailbox
	at, size int64
	buf      []byte
}

func (c *comparison) Write(p []byte) (int, error) {
	there := p[:min(int64(len(p)), c.size-c.at)]
	if len(c.buf) < len(there) {
		c.buf = make([]byte, len(there))
	}
	got := c.buf[:len(there)]
	if _, err := c.f.ReadAt(got, c.at); err != nil {
		return 0, err
	}
	c.at += int64(len(there))
	if !bytes.Equal(got, there) {
		return 0, errDiffers
	}
	if len(there) < len(p) {
		return 0, errShorter
	}
	return len(p), nil
}
