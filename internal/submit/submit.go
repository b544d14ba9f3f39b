// Package submit turns what a program hands in into a message in the spool: it mends the content until it is valid
// Internet mail (RFC 5322), completes the envelope, and has the message file written. The command line of sendmail, and
// whatever else takes submissions, share it.
package submit

import (
	"errors"
	"io"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
)

// A Host is what the mending needs to know of the machine.
type Host struct {
	Name   string   // in Received and Message-ID fields
	Domain string   // appended to bare addresses, in lower case
	Local  []string // domains of this host, likewise, besides Domain: "root" in Rewrite is root at any of them

	// Rewrite has what takes the place of a sender, in envelope and header. Keys, in lower case, are an address, a name of
	// this host, "@domain", or "@.domain" for it and all domains below; values are an address or "@domain", which keeps
	// the local part.
	Rewrite map[string]string
	// ForceFrom is the address of every sender, whatever Rewrite says; "" for none.
	ForceFrom string

	MaxSize int64 // of a message in wire form, in octets; 0 means no limit
}

// A Submission is what a program hands in.
type Submission struct {
	// Envelope is taken as it is given, but bare addresses get the domain, the sender is rewritten, and recipients that
	// are named twice are served once. Arrival must be set.
	mail.Envelope
	Content io.Reader

	// Author returns who is named in a From field, if there is none. It is called only then.
	Author func() Author
	// HeaderRecipients adds the addresses in To, Cc and Bcc to the recipients; if there are any Resent-To, Resent-Cc or
	// Resent-Bcc, those instead. They get the Notify.
	HeaderRecipients bool
	Notify           mail.Notify
	// Dots lets a line of one dot end the content, and drops the first of two dots at the start of a line.
	Dots bool
	// AsIs keeps the header apart from what must never leave a machine: Bcc, Return-Path and Content-Length.
	AsIs bool

	// Client and Protocol are the from and with clauses of the Received field (RFC 5321 section 4.4), without these
	// words; "" for none.
	Client, Protocol string

	// Rejected are recipients that were named and are no addresses.
	Rejected mail.AddressErrors
	// Partly has a message sent to the others if some recipients are no addresses; a report goes to the sender. If there
	// is nobody to be told, and without Partly, it is refused.
	Partly bool
	// Returns has the sender told by mail, too, when the message is refused for good.
	Returns bool
}

// An Author is who is named in a From field that we write.
type Author struct {
	Login string // the address, if the sender of the envelope is null
	Name  string // display name, not encoded; "" for none
}

// A Pending is a message that has been written but is not in the queue. Every Pending ends with Commit or Abort.
type Pending struct {
	w *drop.Writer
	meter
	report *Pending // of recipients that are no addresses; nil if there are none
}

// Commit puts the message into the queue, under the ID it returns. When the error is nil the message is there for good;
// otherwise it is not there, and the error is an *Error.
func (p *Pending) Commit() (mail.ID, error) {
	if p.report != nil {
		// First: somebody left out and nobody told would be a loss. The other way round he is told twice.
		if _, err := p.report.Commit(); err != nil {
			return "", errors.Join(err, p.w.Abort())
		}
	}
	id, err := p.w.Commit(p.facts)
	if err != nil {
		return "", NotQueued(err)
	}
	return id, nil
}

// Abort forgets the message.
func (p *Pending) Abort() error {
	if p.report != nil {
		return errors.Join(p.report.Abort(), p.w.Abort())
	}
	return p.w.Abort()
}

// Receive reads the content to its end, and writes the message into dir. The error is an *Error; then nothing is left in
// dir but a report, if the sender is to be told, and some of the content may not have been read.
func (h *Host) Receive(dir *drop.Dir, s Submission) (*Pending, error) {
	m := mending{host: h, Submission: &s, given: h.qualify(s.Sender)}
	if s.Sender = h.Rewritten(m.given); s.Sender != m.given {
		s.OriginalSender = m.given
	}
	p, err := m.receive(dir)
	if err == nil || !s.Returns {
		return p, err
	}
	return nil, m.returned(dir, err)
}

func (m *mending) receive(dir *drop.Dir) (*Pending, error) {
	lines := newLineReader(m.Content, m.Dots)
	var err error
	if m.header, m.first, m.ends, err = readHeader(lines); err != nil {
		return nil, err
	}
	m.lines = lines
	if err := m.survey(); err != nil {
		return nil, err
	}
	if err := m.address(); err != nil {
		return nil, err
	}
	p, err := m.create(dir, m.Envelope)
	if err != nil {
		return nil, err
	}
	m.writeHeader(&p.meter, p.w.ID())
	p.endHeader()
	m.lines = nil
	p.piece(m.first, m.ends)
	err = p.copy(lines)
	if err == nil && len(m.Rejected) > 0 {
		p.report, err = m.report(dir, nil)
	}
	if err != nil {
		return nil, errors.Join(err, p.Abort())
	}
	return p, nil
}

// create starts a message file.
func (m *mending) create(dir *drop.Dir, env mail.Envelope) (*Pending, error) {
	w, err := dir.Create(&env)
	if errors.Is(err, drop.ErrEnvelope) {
		return nil, Refuse(ExitData, mail.EnhancedCode{5, 5, 3}, "%w", err)
	}
	if err != nil {
		return nil, NotQueued(err)
	}
	return &Pending{w: w, meter: meter{to: w, maxSize: m.host.MaxSize}}, nil
}

// A meter writes content, and measures it on the way.
type meter struct {
	to      io.Writer
	maxSize int64
	size    int64
	line    int // length of the current line so far
	facts   mail.Facts
	err     *Error // the first one met; nothing is written after it
}

// piece writes a piece of a line, and the line's end if it ends after it.
func (m *meter) piece(b []byte, ends bool) {
	m.line += len(b)
	m.facts.EightBit = m.facts.EightBit || hasHighBit(b)
	m.write(b)
	if ends {
		m.facts.LongestLine = max(m.facts.LongestLine, m.line)
		m.line = 0
		m.write([]byte("\r\n"))
	}
}

// copy writes the rest of the lines.
func (m *meter) copy(lines *lineReader) error {
	for {
		if m.err != nil {
			return m.err
		}
		piece, ends, err := lines.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return Unreadable(err)
		}
		m.piece(piece, ends)
	}
}

// endHeader writes the blank line after the header.
func (m *meter) endHeader() {
	m.facts.HeaderUTF8 = m.facts.EightBit
	m.piece(nil, true)
}

func (m *meter) write(b []byte) {
	if m.err != nil || len(b) == 0 {
		return
	}
	m.size += int64(len(b))
	if m.maxSize > 0 && m.size > m.maxSize {
		m.err = Refuse(ExitUnavailable, mail.EnhancedCode{5, 3, 4}, "message is larger than %d octets, which is all that is allowed here", m.maxSize)
		return
	}
	if _, err := m.to.Write(b); err != nil {
		m.err = NotQueued(err)
	}
}

func hasHighBit(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return true
		}
	}
	return false
}
