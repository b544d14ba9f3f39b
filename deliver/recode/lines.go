package recode

import (
	"bytes"
	"errors"
	"io"
)

// windowSize is how much is read at once.
const windowSize = 32 << 10

// errEnd is the error for reading on at the end.
var errEnd = errors.New("end of content")

// A lineReader gives the lines of a content from any place on. An error other than errEnd ends all reading.
type lineReader struct {
	r      io.ReaderAt
	size   int64 // of the content
	pos    int64 // of the next line or piece of one
	limit  int64 // where to stop
	window []byte
	at     int64 // where the window stands in the content
	err    error
}

func newLineReader(r io.ReaderAt, size int64) *lineReader {
	return &lineReader{r: r, size: size, limit: size, window: make([]byte, 0, windowSize)}
}

// seek goes to an offset, to read up to another one.
func (r *lineReader) seek(off, limit int64) {
	r.pos, r.limit = off, limit
	if r.err == errEnd {
		r.err = nil
	}
}

func (r *lineReader) failed() bool { return r.err != nil && r.err != errEnd }

func (r *lineReader) fail(err error) {
	if err != nil && !r.failed() {
		r.err = err
	}
}

// next returns a line without its end, or if it is longer than the window, the first or next piece of it; ends is set if
// a line end follows, which is taken. A text is valid until the next call.
func (r *lineReader) next() (text []byte, ends bool, err error) {
	if r.err == nil && r.pos >= r.limit {
		r.err = errEnd
	}
	if r.err != nil {
		return nil, false, r.err
	}
	rest := r.rest()
	i := bytes.IndexByte(rest, '\n')
	if i < 0 && len(rest) < windowSize && r.pos+int64(len(rest)) < r.limit {
		if r.fill(); r.err != nil {
			return nil, false, r.err
		}
		rest = r.rest()
		i = bytes.IndexByte(rest, '\n')
	}
	if i >= 0 {
		r.pos += int64(i) + 1
		return bytes.TrimSuffix(rest[:i], []byte{'\r'}), true, nil
	}
	if n := len(rest) - 1; rest[n] == '\r' && n > 0 && r.pos+int64(n)+1 < r.limit {
		rest = rest[:n] // an LF may follow
	}
	r.pos += int64(len(rest))
	return rest, false, nil
}

// rest returns what is in the window of what comes next, up to the limit.
func (r *lineReader) rest() []byte {
	from := r.pos - r.at
	if from < 0 || from > int64(len(r.window)) {
		return nil
	}
	rest := r.window[from:]
	return rest[:min(int64(len(rest)), r.limit-r.pos)]
}

// fill moves the window to what comes next.
func (r *lineReader) fill() {
	n := int(min(r.size-r.pos, windowSize))
	read, err := r.r.ReadAt(r.window[:n], r.pos)
	r.window, r.at = r.window[:read], r.pos
	r.fail(whole(int64(read), int64(n), err))
}

// whole returns the error for having read n octets of so many; nil if that is all of them.
func whole(n, of int64, err error) error {
	switch {
	case n == of:
		return nil
	case err == nil || err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}
