package dsn

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-message"
	"github.com/postrider/postrider/internal/mail"
)

// status writes the second part: what became of whom, for programs (RFC 3464).
func (r *Report) status(top *message.Writer, _ *original) error {
	contentType, encoding := "message/delivery-status", "7bit"
	if r.global() {
		contentType, encoding = "message/global-delivery-status", "8bit"
	}
	return part(top, contentType, nil, encoding, "Delivery report", func(w io.Writer) error {
		f := &fieldWriter{w: bufio.NewWriter(w), utf8: r.global()}
		r.messageFields(f)
		for i := range r.Recipients {
			f.end()
			r.recipientFields(f, &r.Recipients[i])
		}
		f.end()
		return f.w.Flush()
	})
}

// messageFields writes the per-message fields of RFC 3464 section 2.2.
func (r *Report) messageFields(f *fieldWriter) {
	m := r.Original
	if id, err := mail.DecodeXtext(m.ID); err == nil && id != "" {
		f.field("Original-Envelope-Id", id)
	}
	f.field("Reporting-MTA", reportingMTA(r.ReportingMTA))
	f.field("Arrival-Date", r.date(m.Arrival))
	if asked := m.Hold.Asked; asked != "" {
		f.field("Future-Release-Request", asked) // RFC 4865 section 7
	}
	f.date("Deliver-By-Date", r, m.DeliverBy.Deadline) // RFC 2852 section 6
	f.field("X-Postrider-Queue-ID", string(m.QueueID))
	f.field("X-Postrider-Sender", f.address(m.Sender))
}

// reportingMTA returns the name with its type: dns only for what can be a name in the DNS (RFC 3464 section 2.2.2).
func reportingMTA(name string) string {
	if !strings.Contains(name, ".") {
		return "x-local-hostname; " + name
	}
	return "dns; " + name
}

// recipientFields writes the per-recipient fields of RFC 3464 section 2.3.
func (r *Report) recipientFields(f *fieldWriter, rcpt *Recipient) {
	if rcpt.Original != "" {
		f.field("Original-Recipient", originalRecipient(rcpt.Original))
	}
	f.field("Final-Recipient", f.address(rcpt.Path))
	f.field("Action", r.Action.String())
	f.field("Status", rcpt.Result.Status().String())
	if host := remoteMTA(rcpt.Result.Relay); host != "" {
		f.field("Remote-MTA", "dns; "+host)
	}
	if text := rcpt.Result.Reply.String(); text != "" && r.hasReason(&rcpt.Result) {
		kind := "x-postrider; "
		if rcpt.Result.Remote {
			kind = "smtp; "
		}
		f.field("Diagnostic-Code", kind+text)
	}
	f.date("Last-Attempt-Date", r, rcpt.LastAttempt)
	f.field("Final-Log-Id", string(r.Original.QueueID))
	if r.Action == mail.Delayed {
		f.date("Will-Retry-Until", r, r.WillRetryUntil)
	}
}

// remoteMTA returns the name in "mx.example.net[192.0.2.1]:25", with the address as a comment; "" for a relay that is
// not a host, for then no MTA but ours was involved (RFC 3464 section 2.3.5).
func remoteMTA(relay string) string {
	name, rest, ok := strings.Cut(relay, "[")
	address, _, closed := strings.Cut(rest, "]:")
	if host, port, _ := strings.Cut(relay, ":"); !ok && port != "" && strings.Trim(port, "0123456789") == "" {
		return host // by way of a proxy, which alone knows the address
	}
	switch {
	case !ok || !closed || strings.Contains(name, "/"):
		return ""
	case name == "":
		return "[" + address + "]"
	}
	return name + " (" + address + ")"
}

// originalRecipient returns the value of ORCPT as the field wants it: decoded, unless it is an address of the utf-8
// type, whose own encoding stays (RFC 6533 section 3).
func originalRecipient(orcpt string) string {
	kind, address, _ := strings.Cut(orcpt, ";")
	if strings.EqualFold(kind, "utf-8") {
		return kind + "; " + utf8Xtext(address)
	}
	if decoded, err := mail.DecodeXtext(address); err == nil {
		address = decoded
	}
	return kind + "; " + address
}

// utf8Xtext returns the address in ASCII (RFC 6533 section 3, utf-8-addr-xtext).
func utf8Xtext(address string) string {
	var b strings.Builder
	for _, c := range clean(address) {
		if c >= 0x80 {
			fmt.Fprintf(&b, `\x{%X}`, c)
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// A fieldWriter writes fields that are folded, and clean whatever the value. The bufio.Writer keeps the first error.
type fieldWriter struct {
	w    *bufio.Writer
	utf8 bool // values may have characters that are not ASCII
}

// fieldWidth is how long the lines of a field are, in octets.
const fieldWidth = 76

// maxDiagnostic is how much of a value is shown, in octets. A reply is shorter, unless it is meant to do harm.
const maxDiagnostic = 8 << 10

func (f *fieldWriter) field(name, value string) {
	value = clean(value[:min(len(value), maxDiagnostic)])
	if !f.utf8 {
		value = toASCII(value)
	}
	f.w.WriteString(name)
	f.w.WriteByte(':')
	for i, line := range fold(value, fieldWidth-len(name)-2) {
		if i > 0 {
			f.w.WriteByte('\n')
		}
		f.w.WriteByte(' ')
		f.w.WriteString(line)
	}
	f.w.WriteByte('\n')
}

func (f *fieldWriter) date(name string, r *Report, t time.Time) {
	if !t.IsZero() {
		f.field(name, r.date(t))
	}
}

// end ends a group of fields.
func (f *fieldWriter) end() { f.w.WriteByte('\n') }

// address returns the path with its type (RFC 3464 section 2.3.2, RFC 6533 section 3).
func (f *fieldWriter) address(p mail.Path) string {
	switch {
	case p.IsASCII():
		return "rfc822; " + p.Address()
	case f.utf8:
		return "utf-8; " + p.Address()
	}
	return "utf-8; " + utf8Xtext(p.Address())
}
