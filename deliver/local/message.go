package local

import (
	"bytes"
	"io"
	"strings"

	"github.com/postrider/postrider/internal/mail"
)

// bufferSize is how much is read at once: most messages are written in one go.
const bufferSize = 64 << 10

// heading returns the fields that stand before a message in a mailbox: where it comes from (RFC 5321 section 4.4), whom it
// was meant for if an alias stands for somebody else, and whom it was delivered to.
func heading(m *mail.Message, n int) string {
	to := m.Recipients[n]
	s := "Return-Path: " + m.Sender.String() + "\n"
	if original := originalAddress(to); original != "" && original != to.Path.Address() {
		s += "X-Original-To: " + original + "\n"
	}
	return s + "Delivered-To: " + to.Path.Address() + "\n"
}

// originalAddress returns the address that the sender of a message wrote to, if it is known; "" if not.
func originalAddress(r mail.Recipient) string {
	kind, xtext, _ := strings.Cut(r.Original, ";")
	address, err := mail.DecodeXtext(xtext)
	if err != nil || !strings.EqualFold(kind, "rfc822") {
		return ""
	}
	p, err := mail.ParsePath(address) // which lets nothing through that could end a line
	if err != nil {
		return ""
	}
	return p.Address()
}

// copyMessage writes a message with lines that end in LF, and head before it.
func copyMessage(w io.Writer, head string, m *mail.Message, buf []byte) error {
	content := io.NewSectionReader(m.Content, 0, m.Size)
	r := &lineReader{r: content}
	used := copy(buf, head)
	for {
		got, err := r.Read(buf[used:])
		if _, err := w.Write(buf[:used+got]); err != nil {
			return err
		}
		used = 0
		if at, _ := content.Seek(0, io.SeekCurrent); err == io.EOF && at < m.Size {
			err = io.ErrUnexpectedEOF // the file has become shorter: this is not the message
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return &contentError{err}
		}
	}
}

// A contentError is trouble with reading the message, which is no fault of the mailbox.
type contentError struct{ err error }

func (e *contentError) Error() string { return "read message: " + e.err.Error() }
func (e *contentError) Unwrap() error { return e.err }

// A lineReader reads lines that end in LF where r has CRLF.
type lineReader struct {
	r  io.Reader
	cr bool // a CR has been read, and held back for what follows it
}

func (l *lineReader) Read(p []byte) (int, error) {
	used := 0
	if l.cr {
		p[0], used, l.cr = '\r', 1, false
	}
	n, err := l.r.Read(p[used:])
	n += used
	if err == nil && n > 0 && p[n-1] == '\r' {
		l.cr = true
		n--
	}
	return dropCR(p[:n]), err
}

// dropCR removes from p, in place, each CR before an LF, and returns how many octets are left.
func dropCR(p []byte) int {
	out := bytes.IndexByte(p, '\r')
	if out < 0 {
		return len(p)
	}
	for in := out; in < len(p); {
		if in+1 == len(p) || p[in+1] != '\n' {
			p[out] = '\r'
			out++
		}
		in++
		run := bytes.IndexByte(p[in:], '\r')
		if run < 0 {
			run = len(p) - in
		}
		copy(p[out:], p[in:in+run])
		out += run
		in += run
	}
	return out
}
