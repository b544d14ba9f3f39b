package smtp

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
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
	var w wireWriter
	for off := int64(0); ; {
		t.out = w.append(t.out[:0], first)
		off += int64(len(first))
		last := off >= t.m.Size
		if last {
			t.out = w.appendEnd(t.out)
		}
		// Its answer counts only if it comes after the dot.
		if t.conn.r.Buffered() > 0 {
			return false, nil
		}
		if err := t.conn.write(t.out, t.server.Timeouts.Block); err != nil {
			return false, err
		}
		if last {
			var note [64]byte
			t.conn.log.add("C: ", append(strconv.AppendInt(append(note[:0], '('), off, 10), " octets of content, and a dot)"...))
			return true, nil
		}
		var err error
		if first, err = t.block(off); err != nil {
			return false, &readError{err}
		}
	}
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
