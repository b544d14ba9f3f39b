package submit

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
)

// wantsReport reports whether there is somebody to be told by mail, and he has not said that he does not want to be.
func (m *mending) wantsReport() bool {
	return !m.Sender.IsNull() && m.Notify.WantsFailure()
}

// returned puts a report about a message that is refused for good into the queue, and returns the refusal, which says so.
// If it cannot be written, the caller has the refusal, as he has otherwise.
func (m *mending) returned(dir *drop.Dir, err error) error {
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Code.Class() != 5 || !m.wantsReport() {
		return err
	}
	p, failed := m.report(dir, refusal)
	if failed == nil {
		_, failed = p.Commit()
	}
	if failed != nil {
		return err
	}
	told := *refusal
	told.Returned = true
	return &told
}

// report writes a message to the sender: the message was not accepted, for the reason given, or, with none, it is sent but
// not to those whom Rejected names. It is a report of RFC 3464, unless nobody was named whom it could be about.
func (m *mending) report(dir *drop.Dir, refusal *Error) (*Pending, error) {
	env := mail.Envelope{
		Arrival: drop.Now(), Sender: mail.NullSender, Recipients: []mail.Recipient{{Path: m.Sender}},
		Submitter: m.Submitter, SMTPUTF8: !m.Sender.IsASCII(),
	}
	p, err := m.create(dir, env)
	if err != nil {
		return nil, err
	}
	p.maxSize = 0
	about := ""
	if refusal == nil || len(m.Recipients)+len(m.Rejected) > 0 {
		about = m.status(env.Arrival, refusal)
	}
	back := m.returnable(refusal)
	boundary := fmt.Sprintf("=_%s_%016x", p.w.ID(), rand.Uint64())
	p.text(m.reportHeader(env.Arrival, p.w.ID(), boundary, about != ""))
	p.endHeader()
	p.text("--" + boundary + "\nContent-Type: text/plain; charset=us-ascii\nContent-Description: Notice\n\n" + m.notice(refusal, back.name) + "\n")
	if about != "" {
		p.text("--" + boundary + "\nContent-Type: message/delivery-status\nContent-Description: Delivery report\n\n" + about + "\n")
	}
	p.text("--" + boundary + "\nContent-Type: " + back.kind + "\nContent-Description: " + back.name + "\nContent-Transfer-Encoding: 8bit\n\n")
	p.field(back.content)
	p.text("\n--" + boundary + "--\n")
	if p.err != nil {
		return nil, errors.Join(p.err, p.Abort())
	}
	return p, nil
}

// text writes lines of ours, which end in LF.
func (m *meter) text(s string) {
	for line := range strings.Lines(s) {
		m.piece([]byte(strings.TrimSuffix(line, "\n")), true)
	}
}

func (m *mending) reportHeader(now time.Time, id mail.ID, boundary string, status bool) string {
	kind := "mixed"
	if status {
		kind = "report; report-type=delivery-status"
	}
	return fmt.Sprintf(`Date: %s
From: Mail Delivery %s
To: %s
Subject: Not sent: %s
Message-ID: <%s.%08x@%s>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/%s; boundary="%s"
`, now.Format(time.RFC1123Z), m.host.daemon(), m.Sender, m.subject(), id, rand.Uint32(), m.host.Name, kind, boundary)
}

// daemon returns the address that our reports come from.
func (h *Host) daemon() mail.Path {
	p, err := mail.ParsePath("MAILER-DAEMON@" + h.Name)
	if err != nil {
		return mail.NullSender
	}
	return h.Rewritten(p)
}

// subject returns that of the message if it can stand in another one as it is.
func (m *mending) subject() string {
	const most = 200
	for f := range fields(m.header) {
		if value := bytes.TrimSpace(f.value); bytes.EqualFold(f.raw[:bytes.IndexByte(f.raw, ':')], []byte("subject")) && len(value) > 0 {
			if len(value) > most || bytes.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
				break
			}
			return string(value)
		}
	}
	return "your message"
}

// notice says for people what happened, and what they get back.
func (m *mending) notice(refusal *Error, back string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "This is the mail system of %s.\n\n", m.host.Name)
	if refusal == nil {
		fmt.Fprintf(&b, "Your message of %s\nis being sent, but not to everybody it names:\n\n", m.date())
	} else {
		fmt.Fprintf(&b, "Your message of %s\nwas not accepted, and is being sent to nobody:\n\n", m.date())
	}
	if refusal == nil || len(m.Rejected) > 0 {
		named := m.Rejected[:min(len(m.Rejected), enoughRejected)]
		for _, err := range named {
			fmt.Fprintf(&b, "    %s\n", shown(err.Error()))
		}
		if n := len(m.Rejected) - len(named); n > 0 {
			fmt.Fprintf(&b, "    and %d more\n", n)
		}
	} else {
		fmt.Fprintf(&b, "    %s\n", shown(refusal.Error()))
	}
	if n := len(m.Recipients) - enoughNamed; refusal != nil && n > 0 {
		fmt.Fprintf(&b, "\nThe report below names %d of those it was for; there are %d more.\n", enoughNamed, n)
	}
	b.WriteString("\nMend this and send it again")
	if refusal == nil {
		b.WriteString(" to those who did not get it")
	}
	fmt.Fprintf(&b, ". %s follows.\n", back)
	return b.String()
}

// enoughNamed is how many recipients a report names: it must not be larger than what was refused.
const enoughNamed = 100

// status says the same for programs (RFC 3464). It names blind recipients, as a bounce does: it goes to whom they were
// named by.
func (m *mending) status(now time.Time, refusal *Error) string {
	var b strings.Builder
	kind := "dns"
	if !strings.Contains(m.host.Name, ".") {
		kind = "x-local-hostname" // RFC 3464 section 2.2.2
	}
	fmt.Fprintf(&b, "Reporting-MTA: %s; %s\nArrival-Date: %s\n", kind, m.host.Name, m.date())
	group := func(name, code, why string) {
		fmt.Fprintf(&b, "\nFinal-Recipient: rfc822; %s\nAction: failed\nStatus: %s\nDiagnostic-Code: x-postrider; %s\nLast-Attempt-Date: %s\n",
			shown(name), code, shown(why), now.Format(time.RFC1123Z))
	}
	for _, err := range m.Rejected[:min(len(m.Rejected), enoughRejected)] {
		group(err.Item, "5.1.3", "not an address: "+err.Err.Error())
	}
	if refusal != nil {
		for _, r := range m.Recipients[:min(len(m.Recipients), enoughNamed)] {
			group(r.Path.Address(), refusal.Code.String(), refusal.Error())
		}
	}
	return b.String()
}

// maxShown is how much of a word a report shows, so that its lines stay below the limit of RFC 5322 section 2.1.1.
const maxShown = 900

// shown returns the beginning of s, with what is not ASCII, or no character, replaced: the words may be a stranger's.
func shown(s string) string {
	if len(s) > maxShown {
		s = s[:maxShown] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// maxReturned is how much of a message a report returns: as much as a bounce does.
const maxReturned = 50_000

// A returnable is what a report shows of the message.
type returnable struct {
	name, kind string // in words, and as a type
	content    []byte
}

// returnable returns all of the message if it is sent to nobody, and is short: whoever wrote it into a pipe may have it
// nowhere else. Otherwise it returns the header.
func (m *mending) returnable(refusal *Error) returnable {
	header := returnable{"The header of your message", "text/rfc822-headers", m.excerpt()}
	if refusal == nil || m.lines == nil || m.Return == mail.ReturnHeaders || len(m.header) > maxExcerpt {
		return header
	}
	var b bytes.Buffer
	all := meter{to: &b, maxSize: maxReturned}
	all.field(header.content)
	all.endHeader()
	all.piece(m.first, m.ends)
	err := all.copy(m.lines)
	m.lines = nil
	// Lines that are too long could not be mended in there (RFC 2046 section 5.2.1).
	if err != nil || all.facts.LongestLine > maxLine {
		return header
	}
	return returnable{"Your message", "message/rfc822", b.Bytes()}
}

// maxExcerpt is how much of the header a report shows.
const maxExcerpt = 16 << 10

// maxLine is how long a line may be, without CRLF (RFC 5322 section 2.1.1).
const maxLine = 998

// excerpt returns the beginning of the header, without Bcc, since a report may be read by others, and without fields
// that have a line which no message should have.
func (m *mending) excerpt() []byte {
	var b []byte
	for f := range fields(m.header) {
		if len(b)+len(f.raw) > maxExcerpt {
			break
		}
		if f.name != bccName && !hasLongLine(f.raw) {
			b = append(b, f.raw...)
		}
	}
	return b
}

// hasLongLine reports whether a line is too long.
func hasLongLine(raw []byte) bool {
	for line := range bytes.Lines(raw) {
		if len(line) > maxLine+len("\r\n") {
			return true
		}
	}
	return false
}
