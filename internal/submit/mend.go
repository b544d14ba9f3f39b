package submit

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"mime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postrider/postrider/internal/mail"
)

// maxHops is how many Received fields a message may come with. RFC 5321 section 6.3 asks for a limit of at least 100.
const maxHops = 100

// A mending is the work on the header of one message.
type mending struct {
	host *Host
	*Submission
	header []byte
	lines  *lineReader // what has not been read; nil when that is no longer the whole rest of the body
	first  []byte      // the beginning of the body, which had to be read to find the end of the header
	ends   bool        // a line end follows it
	given  mail.Path   // the sender, before he was rewritten

	hops   int
	resent bool                     // the message is sent once more: what we add is about that (RFC 5322 section 3.6.6)
	has    [droppedName + 1][2]bool // by name, and by whether it is resent: the field is there and says something
	to     [2][][]byte              // values of To, Cc and Bcc, and of the same resent
}

// survey goes through the header once.
func (m *mending) survey() error {
	for f := range fields(m.header) {
		resent := 0
		if f.resent {
			resent, m.resent = 1, true
		}
		switch f.name {
		case receivedName:
			m.hops++
		case toName, ccName, bccName:
			if m.HeaderRecipients {
				m.to[resent] = append(m.to[resent], f.value)
			}
		}
		m.wish(f)
		m.has[f.name][resent] = m.has[f.name][resent] || m.says(f)
	}
	if m.hops > maxHops {
		return Refuse(ExitData, mail.EnhancedCode{5, 4, 6}, "too many hops: %d Received fields, at most %d are allowed; the mail is in a loop (5.4.6)", m.hops, maxHops)
	}
	return nil
}

// wish notes what a field says that a parameter of MAIL could have said, and does not overrule it.
func (m *mending) wish(f field) {
	switch f.name {
	case priorityName:
		if n, err := mail.ParsePriority(string(bytes.TrimSpace(f.value))); err == nil && m.Priority == 0 {
			m.Priority = n
		}
	case tlsRequiredName:
		// "No" is all that it can say; of several, all must (RFC 8689 section 5).
		no := bytes.EqualFold(bytes.TrimSpace(f.value), []byte("no"))
		if first := !m.has[tlsRequiredName][0]; no && first && m.TLS == mail.TLSUnsaid {
			m.TLS = mail.TLSNotRequired
		} else if !no && m.TLS == mail.TLSNotRequired {
			m.TLS = mail.TLSUnsaid
		}
	}
}

// says reports whether there is something in a field that no other need say in its place.
func (m *mending) says(f field) bool {
	if f.isEmpty() {
		return false
	}
	return f.name != fromName || m.AsIs || hasAddress(f)
}

// address completes the envelope.
func (m *mending) address() error {
	given := m.Recipients
	m.Recipients = make([]mail.Recipient, 0, len(given))
	seen := make(map[mail.Path]bool, len(given))
	add := func(r mail.Recipient) {
		r.Path = m.host.qualify(r.Path)
		if key := fold(r.Path); !seen[key] && len(m.Recipients) <= maxRecipients {
			seen[key] = true
			m.Recipients = append(m.Recipients, r)
		}
	}
	for _, r := range given {
		add(r)
	}
	values := m.to[0]
	if len(m.to[1]) > 0 {
		values = m.to[1]
	}
	for _, value := range values {
		err := mail.EachAddress(string(value), func(box mail.Mailbox) {
			if !box.Path.IsNull() {
				add(mail.Recipient{Path: box.Path, Notify: m.Notify})
			}
		})
		var each mail.AddressErrors
		if errors.As(err, &each) && len(m.Rejected) < enoughRejected {
			m.Rejected = append(m.Rejected, each...)
		}
	}
	if len(m.Recipients) > maxRecipients {
		return Refuse(ExitData, mail.EnhancedCode{5, 5, 3}, "more than %d recipients", maxRecipients)
	}
	if len(m.Rejected) > 0 && (len(m.Recipients) == 0 || !m.Partly || !m.wantsReport()) {
		return Refuse(ExitData, mail.EnhancedCode{5, 1, 3}, "not a recipient address: %w", m.Rejected)
	}
	if len(m.Recipients) > 0 {
		return nil
	}
	if m.HeaderRecipients {
		return Refuse(ExitUsage, mail.EnhancedCode{5, 5, 1}, "no recipients in the header")
	}
	return ErrNoRecipients
}

// maxRecipients is how many recipients a message may have: far above any mailing, and what fits into an envelope.
const maxRecipients = 200_000

// enoughRejected is how many recipients that are no addresses are worth naming.
const enoughRejected = 100

// ErrNoRecipients is the error for an envelope without recipients.
var ErrNoRecipients = &Error{
	Status: ExitUsage, Code: mail.EnhancedCode{5, 5, 1}, Err: errors.New("no recipients; name them on the command line or use -t"),
}

// fold returns what two paths to one mailbox have in common: the case of the domain means nothing, that of the local part
// is for its host to judge (RFC 5321 section 2.4).
func fold(p mail.Path) mail.Path {
	domain := p.Domain()
	if strings.HasSuffix(p.Address(), domain) {
		return p
	}
	folded, err := mail.ParsePath(p.Local() + "@" + domain)
	if err != nil {
		return p
	}
	return folded
}

// qualify appends the domain to a bare address.
func (h *Host) qualify(p mail.Path) mail.Path {
	if p.IsNull() || p.Domain() != "" {
		return p
	}
	full, err := mail.ParsePath(p.Address() + "@" + h.Domain)
	if err != nil {
		return p // too long with the domain: whoever it is sent to will say so
	}
	return full
}

// writeHeader writes the header with what is missing added, what must go left out, and addresses completed. id is the
// queue ID, which the Received field tells.
func (m *mending) writeHeader(w *meter, id mail.ID) {
	w.field(m.received(id))
	if !m.AsIs {
		m.writeMissing(w, id)
	}
	for f := range fields(m.header) {
		switch {
		case f.name == bccName, f.name == droppedName:
		case m.AsIs:
			w.field(f.raw)
		default:
			m.writeField(w, f)
		}
	}
}

// writeField writes a field with its addresses completed.
func (m *mending) writeField(w *meter, f field) {
	switch f.name {
	case fromName:
		if m.says(f) {
			m.writeFrom(w, f)
		} else if !f.resent && !f.isEmpty() && !m.has[originalFromName][0] {
			w.field(append([]byte("X-Original-"), f.raw...))
		}
	case senderName:
		w.fieldWithAddresses(f, m.host.Rewritten)
	case toName, ccName, replyToName:
		w.fieldWithAddresses(f, m.host.qualify)
	case dateName, messageIDName:
		if m.says(f) {
			w.field(f.raw) // else one of ours stands in its place
		}
	default:
		w.field(f.raw)
	}
}

// received is the trace of this step (RFC 5321 section 4.4). Who runs the machine looks for the user ID.
func (m *mending) received(id mail.ID) []byte {
	b := []byte("Received: ")
	if m.Client != "" {
		b = fmt.Appendf(b, "from %s\r\n\t", m.Client)
	}
	b = fmt.Appendf(b, "by %s (postrider", m.host.Name)
	if m.Submitter >= 0 {
		b = fmt.Appendf(b, ", from userid %d", m.Submitter)
	}
	b = append(b, ')')
	if m.Protocol != "" {
		b = fmt.Appendf(b, " with %s", m.Protocol)
	}
	return fmt.Appendf(b, "\r\n\tid %s; %s\r\n", id, m.date())
}

func (m *mending) date() string { return m.Arrival.Format(time.RFC1123Z) }

// writeMissing adds the fields that RFC 5322 section 3.6 demands, and Message-ID.
func (m *mending) writeMissing(w *meter, id mail.ID) {
	prefix, resent := "", 0
	if m.resent {
		prefix, resent = "Resent-", 1
	}
	if !m.has[dateName][resent] {
		w.field(fmt.Appendf(nil, "%sDate: %s\r\n", prefix, m.date()))
	}
	if !m.has[fromName][resent] {
		m.writeAuthor(w, prefix)
	}
	if !m.has[messageIDName][resent] {
		// The random part keeps apart machines that share a name.
		w.field(fmt.Appendf(nil, "%sMessage-ID: <%s.%08x@%s>\r\n", prefix, id, rand.Uint32(), m.host.Name))
	}
}

// writeAuthor writes a From field that is missing. Of one that names nobody, the words are his name.
func (m *mending) writeAuthor(w *meter, prefix string) {
	p, a := m.given, m.Author()
	if p.IsNull() {
		if login, err := mail.ParsePath(a.Login); err == nil {
			p = m.host.qualify(login)
		}
	}
	for f := range fields(m.header) {
		if name := nameIn(f.value); f.name == fromName && f.resent == (prefix != "") && formatPhrase(name) != "" {
			a.Name = name
		}
	}
	mailbox := p.Address()
	if phrase := formatPhrase(a.Name); phrase != "" {
		mailbox = phrase + " " + p.String()
	}
	mailbox = foldWords(mailbox, len(prefix+"From: "))
	m.writeFrom(w, newField(prefix+"From", mailbox))
}

// maxColumn is how long a line should be that we write ourselves (RFC 5322 section 2.1.1).
const maxColumn = 78

// foldWords folds a value of ours that starts at a column, where it has blanks.
func foldWords(value string, column int) string {
	var b strings.Builder
	for i, word := range strings.Split(value, " ") {
		if i > 0 && column+1+len(word) > maxColumn && word != "" {
			b.WriteString("\r\n")
			column = 0
		}
		if i > 0 {
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}

// maxName is how long a display name may be: encoded, it must still fit on one line. A longer one is none.
const maxName = 250

// formatPhrase returns a display name as a phrase (RFC 5322 section 3.2.5), encoded if need be (RFC 2047).
func formatPhrase(name string) string {
	name = strings.TrimSpace(name)
	plain, ascii := true, true
	for i := range len(name) {
		switch c := name[i]; {
		case c < ' ' || c == 0x7f:
			return ""
		case c >= 0x80:
			ascii = false
		case strings.IndexByte(`()<>[]:;@\,."`, c) >= 0:
			plain = false
		}
	}
	switch {
	case len(name) > maxName:
		return ""
	case !ascii && utf8.ValidString(name):
		return mime.BEncoding.Encode("utf-8", name)
	case !ascii:
		return mime.BEncoding.Encode("unknown-8bit", name) // RFC 1428 section 3
	case plain:
		return name
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `"`
}

// field writes a field, which comes with its line ends.
func (m *meter) field(raw []byte) {
	for line := range bytes.Lines(raw) {
		m.piece(bytes.TrimSuffix(line, []byte("\r\n")), true)
	}
}

// fieldWithAddresses writes a field with the addresses in it converted, and everything else as it is.
func (m *meter) fieldWithAddresses(f field, convert func(mail.Path) mail.Path) {
	start := len(f.raw) - len("\r\n") - len(f.value)
	done := 0 // octets of raw
	// What is no address stays as it is.
	_ = mail.EachAddress(string(f.value), func(box mail.Mailbox) {
		if to := convert(box.Path); to != box.Path {
			m.fragment(f.raw[done : start+box.Start])
			m.fragment([]byte(to.Address()))
			done = start + box.End
		}
	})
	m.fragment(f.raw[done:])
}

// fragment writes a part of a field that may begin and end within a line.
func (m *meter) fragment(raw []byte) {
	for line := range bytes.Lines(raw) {
		whole, ends := bytes.CutSuffix(line, []byte("\r\n"))
		m.piece(whole, ends)
	}
}
