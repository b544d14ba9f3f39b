// Package dsn composes delivery status notifications: the multipart/report of RFC 6522 that tells a sender what became
// of the message, in words for people and in the fields of RFC 3464 for programs.
//
// What a remote server wrote, and what the message says of itself, is shown but never trusted: it reaches neither the
// header of the report nor the start of a line, and no control character of it survives.
package dsn

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"github.com/emersion/go-message"
	"github.com/postrider/postrider/internal/mail"
)

// A Report says what became of some recipients of one message. All of them had the same outcome, Action.
type Report struct {
	Action       mail.Action // any
	ReportingMTA string      // our host name
	Now          time.Time   // date of the report; its location is the one in which times are shown
	ID           mail.ID     // queue ID of the report itself
	MessageID    string      // of the report, without angle brackets
	From         mail.Path   // whose name the report bears, as MAILER-DAEMON@web1.example.com

	Original   *mail.Message // what the report is about; its sender receives the report
	Recipients []Recipient   // at least one

	WillRetryUntil time.Time // when a delayed message is given up; zero if that is not known
	MaxOriginal    int64     // up to which size the message is sent back whole, in octets; 0 means 50,000
}

// A Recipient is a recipient of the message, and how it fared.
type Recipient struct {
	mail.Recipient
	Result       mail.Result // of the last attempt
	Attempts     int         // how many were made; 0 if that is not known
	FirstAttempt time.Time   // zero if not known
	LastAttempt  time.Time   // likewise
}

// defaultMaxOriginal is Postfix's limit, too: enough for a letter, too little to fill a mailbox with bounces.
const defaultMaxOriginal = 50000

// Wanted reports whether the sender of a message is to be told of the outcome of a recipient. The null sender never
// is: two hosts could else bounce to each other for ever (RFC 5321 section 4.5.5).
func Wanted(action mail.Action, sender mail.Path, r mail.Recipient) bool {
	if sender.IsNull() {
		return false
	}
	switch action {
	case mail.Failed:
		return r.Notify.WantsFailure()
	case mail.Delayed:
		return r.Notify.WantsDelay()
	default: // success: only who asks is told (RFC 3461 section 5.2)
		return r.Notify&mail.NotifySuccess != 0
	}
}

// Compose writes the report in wire form and returns what a client must know of it. The report is to be sent from the
// null sender to the sender of the original. Errors are those of w and of reading the original.
func (r *Report) Compose(w io.Writer) (mail.Facts, error) {
	orig, err := readOriginal(r)
	if err != nil {
		return mail.Facts{}, fmt.Errorf("read message %s: %w", r.Original.QueueID, err)
	}
	var seen facts
	buf := bufio.NewWriter(io.MultiWriter(w, &seen))
	top, err := message.CreateWriter(buf, r.header(orig))
	if err != nil {
		return mail.Facts{}, fmt.Errorf("compose report: %w", err)
	}
	for _, write := range []func(*message.Writer, *original) error{r.notice, r.status, r.returned} {
		if err := write(top, orig); err != nil {
			return mail.Facts{}, fmt.Errorf("compose report: %w", err)
		}
	}
	if err := top.Close(); err != nil {
		return mail.Facts{}, fmt.Errorf("compose report: %w", err)
	}
	if err := buf.Flush(); err != nil {
		return mail.Facts{}, fmt.Errorf("compose report: %w", err)
	}
	return seen.Facts, nil
}

// header returns the header of the report. The last field added is written first.
func (r *Report) header(orig *original) message.Header {
	var h message.Header
	h.SetContentType("multipart/report", map[string]string{"report-type": "delivery-status", "boundary": orig.boundary})
	h.Set("MIME-Version", "1.0")
	h.Set("Auto-Submitted", "auto-replied") // RFC 3834 section 5.2: an answer, not auto-generated
	if id := orig.messageID(); id != "" {
		h.Set("References", id)
		h.Set("In-Reply-To", id)
	}
	if r.Original.TLS == mail.TLSNotRequired {
		h.Set("TLS-Required", "No") // as the original, rather in clear than not at all
	}
	h.Set("Message-ID", "<"+r.MessageID+">")
	h.SetText("Subject", r.subject(orig))
	h.Set("To", r.Original.Sender.String())
	h.Set("From", "Mail Delivery "+r.From.String())
	h.Set("Date", r.Now.Format(time.RFC1123Z))
	return h
}

func (r *Report) subject(orig *original) string {
	what := orig.subject()
	if what == "" {
		what = "your message to " + clean(r.Recipients[0].Path.Address())
	}
	return words[r.Action].subject + ": " + what
}

// words are how a report speaks of an outcome.
var words = map[mail.Action]struct {
	subject string
	message string // what became of the message
}{
	mail.Failed:    {"Not delivered", "could not be delivered to:"},
	mail.Delayed:   {"Not delivered yet", "has not been delivered yet to:"},
	mail.Delivered: {"Delivered", "was delivered to:"},
	mail.Relayed:   {"Passed on", "was passed on, to a server that will not say when it has arrived, for:"},
	mail.Expanded:  {"Passed on", "was sent on to those for whom these addresses stand:"},
}

// global reports whether the report has the types of RFC 6533, with UTF-8 in all parts. Only a report to an address
// that itself needs SMTPUTF8 surely travels by hosts that have it.
func (r *Report) global() bool { return !r.Original.Sender.IsASCII() }

// date formats a point in time where a field or the reader wants one.
func (r *Report) date(t time.Time) string { return t.In(r.Now.Location()).Format(time.RFC1123Z) }

// part writes one part of the report. Lines that body writes may end in LF; they become CRLF.
func part(top *message.Writer, contentType string, params map[string]string, encoding, description string, body func(io.Writer) error) error {
	var h message.Header
	h.Set("Content-Transfer-Encoding", encoding)
	h.Set("Content-Description", description)
	h.SetContentType(contentType, params)
	w, err := top.CreatePart(h)
	if err != nil {
		return err
	}
	if err := body(w); err != nil {
		return err
	}
	return w.Close()
}

// facts learns what mail.Facts tells from what is written to it.
type facts struct {
	mail.Facts
	line int  // octets in the current line so far
	body bool // the empty line after the header has passed
}

func (f *facts) Write(p []byte) (int, error) {
	for _, c := range p {
		switch {
		case c == '\n':
			f.body = f.body || f.line == 0
			f.line = 0
			continue
		case c == '\r':
			continue
		case c >= 0x80:
			f.EightBit = true
			f.HeaderUTF8 = f.HeaderUTF8 || !f.body
		}
		f.line++
		f.LongestLine = max(f.LongestLine, f.line)
	}
	return len(p), nil
}
