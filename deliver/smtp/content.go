package smtp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/postrider/postrider/deliver/recode"
)

// blockSize is how much of a message is read and written at a time.
const blockSize = 32 << 10

// A readError says that content could not be read.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

// firstBlock reads the beginning of the content, before a server is bothered with a message that nobody can read.
func (t *transaction) firstBlock() ([]byte, error) { return t.block(0) }

// block reads the content from off on into the session's buffer.
func (t *transaction) block(off int64) ([]byte, error) {
	n := int(min(t.m.Size-off, blockSize))
	if cap(t.in) < n {
		t.in = make([]byte, n)
	}
	b := t.in[:n]
	read, err := t.m.Content.ReadAt(b, off)
	if read == n {
		return b, nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("at %d of %d octets: %w", off+int64(read), t.m.Size, err)
}

// sendContent sends the content, which begins with first, and the lone dot. It returns false if the server has answered
// before the dot was sent, which then was not. A *readError is ours.
func (t *transaction) sendContent(first []byte) (bool, error) {
	w := contentWriter{transaction: t}
	send := w.sendAll
	if t.recode {
		send = w.sendRecoded
	}
	if err := send(first); err == errAnswered {
		return false, nil
	} else if err != nil {
		return false, err
	}
	var note [64]byte
	t.conn.log.add("C: ", append(strconv.AppendInt(append(note[:0], '('), t.size, 10), " octets of content, and a dot)"...))
	return true, nil
}

// errAnswered says that the server has answered before it was sent everything.
var errAnswered = errors.New("answer before the end of the content")

// A contentWriter sends content block by block.
type contentWriter struct {
	*transaction
	wire wireWriter
}

// sendAll sends the content as it is.
func (w *contentWriter) sendAll(block []byte) error {
	for off := int64(0); ; {
		off += int64(len(block))
		last := off >= w.m.Size
		if err := w.send(block, last); err != nil || last {
			return err
		}
		var err error
		if block, err = w.block(off); err != nil {
			return &readError{err}
		}
	}
}

// sendRecoded sends the content as the server takes it.
func (w *contentWriter) sendRecoded([]byte) error {
	if err := recode.Write(w, content{w.m.Content}, w.m.Size, w.ext.eightBit); err != nil {
		return err
	}
	return w.send(nil, true)
}

func (w *contentWriter) Write(p []byte) (int, error) {
	if err := w.send(p, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *contentWriter) send(block []byte, last bool) error {
	w.out = w.wire.append(w.out[:0], block)
	if last {
		w.out = w.wire.appendEnd(w.out)
	}
	// An answer counts only if it comes after the dot.
	if w.conn.r.Buffered() > 0 {
		return errAnswered
	}
	return w.conn.write(w.out, w.server.Timeouts.Block)
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

// A wireWriter puts content into the form of RFC 5321 section 4.5.2: a dot that begins a line is doubled. Whatever the
// file has, every CR and LF leaves as part of a CRLF: a server that takes another sequence for the end of a line could
// otherwise be shown the end of the message, and a second message after it, within the first.
type wireWriter struct {
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
		if !w.inLine && src[0] == '.' {
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

// appendEnd ends the last line, if it has no end, and the content.
func (w *wireWriter) appendEnd(dst []byte) []byte {
	if w.afterCR || w.inLine {
		dst = append(dst, "\r\n"...)
	}
	*w = wireWriter{}
	return append(dst, ".\r\n"...)
}
