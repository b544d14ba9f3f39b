package smtp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"github.com/postrider/postrider/deliver/recode"
)

// blockSize is how much of a message is read and written at a time.
const blockSize = 32 << 10

// A readError says that content could not be read.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

// errAnswered says that the server has answered before it was sent everything.
var errAnswered = errors.New("answer before the end of the content")

// block reads the content from off on into the session's buffer.
func (d *delivery) block(off int64) ([]byte, error) {
	n := int(min(d.Size-off, blockSize))
	if cap(d.in) < n {
		d.in = make([]byte, n)
	}
	b := d.in[:n]
	read, err := d.Content.ReadAt(b, off)
	if read == n {
		return b, nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("at %d of %d octets: %w", off+int64(read), d.Size, err)
}

// eachBlock calls f for the content, block by block.
func (d *delivery) eachBlock(f func([]byte) error) error {
	for off := int64(0); off < d.Size; {
		b, err := d.block(off)
		if err != nil {
			return &readError{err}
		}
		if err := f(b); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

// measureChunk looks whether the content is sent as it is, or has to be mended, and returns the size that it has then.
func (d *delivery) measureChunk() (mend bool, size int64, err error) {
	var cr, lf, crlf int
	last := [2]byte{'\r', '\n'}
	err = d.eachBlock(func(b []byte) error {
		if last[1] == '\r' && b[0] == '\n' {
			crlf++
		}
		cr, lf, crlf = cr+bytes.Count(b, []byte{'\r'}), lf+bytes.Count(b, []byte{'\n'}), crlf+bytes.Count(b, []byte("\r\n"))
		if len(b) > 1 {
			last[0] = b[len(b)-2]
		} else {
			last[0] = last[1]
		}
		last[1] = b[len(b)-1]
		return nil
	})
	if err != nil || cr == crlf && lf == crlf && string(last[:]) == "\r\n" {
		return false, d.Size, err
	}
	var w wireWriter
	var out []byte
	err = d.eachBlock(func(b []byte) error {
		out = w.append(out[:0], b)
		size += int64(len(out))
		return nil
	})
	return true, size + int64(len(w.end(nil))), err
}

// A contentWriter puts the content of a transaction into the session's output, which it flushes when that is full.
type contentWriter struct {
	*transaction
	chunk bool // for BDAT
	flush func() error
	wire  wireWriter
	n     int64 // octets so far
}

// write writes all of the content; the end of it may remain in the output. A *readError is ours: then the server has to
// be told that this was not all.
func (w *contentWriter) write() error {
	w.wire.dots = !w.chunk
	if err := w.body(); err != nil {
		return err
	}
	before := len(w.out)
	w.out = w.wire.end(w.out)
	if w.n += int64(len(w.out) - before); w.chunk && w.n != w.size {
		return &readError{fmt.Errorf("it has %d octets, not the %d announced", w.n, w.size)}
	}
	note := append(strconv.AppendInt([]byte{'('}, w.size, 10), " octets of content"...)
	if !w.chunk {
		w.out = append(w.out, ".\r\n"...)
		note = append(note, ", and a dot"...)
	}
	w.conn.log.add("C: ", append(note, ')'))
	return nil
}

func (w *contentWriter) body() error {
	if w.recode {
		return recode.Write(w, content{w.Content}, w.Size, w.ext.eightBit)
	}
	if f, off := w.file(); f != nil {
		w.n = w.Size
		w.wire.inLine = false
		return w.sendFile(f, off)
	}
	return w.eachBlock(func(b []byte) error {
		_, err := w.Write(b)
		return err
	})
}

// Write writes a part of the content.
func (w *contentWriter) Write(p []byte) (int, error) {
	before := len(w.out)
	if w.chunk && !w.mend && !w.recode {
		w.out = append(w.out, p...)
	} else {
		w.out = w.wire.append(w.out, p)
	}
	w.n += int64(len(w.out) - before)
	if len(w.out) < blockSize {
		return len(p), nil
	}
	return len(p), w.flush()
}

// file returns the file that a large content is part of, and where, if the system can send it as it is.
func (w *contentWriter) file() (f *os.File, off int64) {
	section, ok := w.Content.(*io.SectionReader)
	if _, plain := w.conn.rw.(*net.TCPConn); !ok || !plain || !w.chunk || w.mend || w.Size <= blockSize {
		return nil, 0
	}
	outer, off, n := section.Outer()
	if f, ok = outer.(*os.File); !ok || n < w.Size {
		return nil, 0
	}
	return f, off
}

// filePart is how much of a file is sent at a time: each part has its own deadline.
const filePart = 256 << 10

// sendFile has the system send the content.
func (w *contentWriter) sendFile(f *os.File, off int64) error {
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		return &readError{err}
	}
	tcp := w.conn.rw.(*net.TCPConn)
	for left := w.Size; left > 0; {
		// What is in the output goes first; and whoever flushes looks whether the server has had enough.
		if err := w.flush(); err != nil {
			return err
		}
		part := min(left, filePart)
		var sent int64
		err := w.conn.transfer(part, w.server.Timeouts.Block, func() (n int64, err error) {
			sent, err = tcp.ReadFrom(&io.LimitedReader{R: f, N: part})
			return sent, err
		})
		if err != nil {
			return err
		}
		if left -= sent; sent < part {
			return &readError{fmt.Errorf("at %d of %d octets: %w", w.Size-left, w.Size, io.ErrUnexpectedEOF)}
		}
	}
	return nil
}

// content has its errors marked as ours.
type content struct{ io.ReaderAt }

func (c content) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF // nobody asks for what is beyond the end
	}
	return n, &readError{err}
}

// A wireWriter puts content into the form in which it is sent. Whatever the file has, every CR and LF leaves as part of a CRLF: a server that takes another sequence for the end of a line could
// otherwise be shown the end of the message, and a second message after it, within the first.
type wireWriter struct {
	dots    bool // a dot that begins a line is doubled (RFC 5321 section 4.5.2)
	inLine  bool // something was written since the last CRLF
	afterCR bool // a CR was read; its LF may follow
}

func (w *wireWriter) append(dst, src []byte) []byte {
	for len(src) > 0 {
		if w.afterCR {
			w.afterCR = false
			dst = append(dst, "\r\n"...)
			w.inLine = false
			if src[0] == '\n' {
				src = src[1:]
				continue
			}
		}
		if w.dots && !w.inLine && src[0] == '.' {
			dst = append(dst, '.')
		}
		end := bytes.IndexByte(src, '\n')
		line := src
		if end >= 0 {
			line = src[:end]
		}
		if cr := bytes.IndexByte(line, '\r'); cr >= 0 {
			dst = append(dst, line[:cr]...)
			w.inLine = w.inLine || cr > 0
			w.afterCR = true
			src = src[cr+1:]
			continue
		}
		dst = append(dst, line...)
		w.inLine = w.inLine || len(line) > 0
		if end < 0 {
			break
		}
		dst = append(dst, "\r\n"...)
		w.inLine = false
		src = src[end+1:]
	}
	return dst
}

// end ends the last line, if it has no end.
func (w *wireWriter) end(dst []byte) []byte {
	if w.afterCR || w.inLine {
		dst = append(dst, "\r\n"...)
	}
	return dst
}
