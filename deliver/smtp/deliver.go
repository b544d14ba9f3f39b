package smtp

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider/deliver/idn"
	"github.com/postrider/postrider/deliver/recode"
	"github.com/postrider/postrider/internal/mail"
)

// Deliver sends m to these positions of m.Recipients, in as many transactions as the server wants, and returns a result
// for each, in their order. A recipient is Relayed by a 2xx to the end of the content and by nothing else.
//
// When ctx is done Deliver hangs up. When the server hangs up or falls silent after the content has been sent, nobody
// can know whether it has the message: the result is a deferral OfMessage that says so, and no other host should be
// tried at once. A session that was used before may fail OfHost only because the server has had enough of it; a new one
// tells.
func (s *Session) Deliver(ctx context.Context, m *mail.Message, recipients []int) []mail.Result {
	d := &delivery{Session: s, m: m, recipients: recipients, size: m.Size}
	d.results = make([]mail.Result, len(recipients))
	d.decided = make([]bool, len(recipients))
	if ctx.Err() != nil {
		return d.end(s.delay(mail.OfUs, mail.EnhancedCode{4, 3, 2}, "interrupted"))
	}
	if !s.Usable() {
		return d.end(s.delay(mail.OfHost, mail.EnhancedCode{4, 4, 2}, "the session with %s is over", s.server.Host))
	}
	if end := d.measure(); end != nil {
		return d.end(*end)
	}
	if refusal := d.inVain(); refusal != nil {
		return d.end(*refusal)
	}
	stop := s.conn.watch(ctx)
	defer stop()
	todo := d.addressable()
	for len(todo) > 0 {
		t := transaction{delivery: d, slots: todo[:min(len(todo), s.maxRecipients())]}
		todo = todo[len(t.slots):]
		end := t.run()
		t.elsewhere(end)
		if end != nil {
			return d.end(*end)
		}
		todo = append(t.again, todo...)
		if len(todo) > 0 && !s.Usable() {
			return d.end(d.noMore())
		}
	}
	return d.results
}

// noMore is for recipients that are left when the session is over. That is of the session, not of them: the next one takes
// them.
func (s *Session) noMore() mail.Result {
	if s.broken || s.conn.interrupted.Load() {
		return s.lost("sending to the next recipients", net.ErrClosed)
	}
	return s.delay(mail.OfHost, mail.EnhancedCode{4, 5, 3}, "%s takes no more than %d transactions in a session", s.server.Host, s.ext.mailMax)
}

// A delivery is one call of Deliver. A slot is a position in its recipients and results.
type delivery struct {
	*Session
	m          *mail.Message
	recipients []int
	results    []mail.Result
	decided    []bool // slots whose result stands, whatever happens to the others

	recode bool  // the server does not take the content as it is
	size   int64 // of what is sent, in octets
}

// measure finds out whether the content has to be recoded for the server, and how large it is then.
func (d *delivery) measure() *mail.Result {
	if d.recode = recode.Needed(d.m.Facts, d.ext.eightBit); !d.recode {
		return nil
	}
	var err error
	if d.size, err = recode.Size(d.m.Content, d.m.Size, d.ext.eightBit); err != nil {
		return d.unreadable(err)
	}
	return nil
}

// sender returns the reverse-path as it is sent.
func (d *delivery) sender() mail.Path { return idn.Path(d.m.Sender) }

// forward returns the forward-path of a slot as it is sent.
func (d *delivery) forward(slot int) mail.Path { return idn.Path(d.recipient(slot).Path) }

func (d *delivery) recipient(slot int) *mail.Recipient { return &d.m.Recipients[d.recipients[slot]] }

func (d *delivery) decide(slot int, r mail.Result) { d.results[slot], d.decided[slot] = r, true }

// end gives r to all that are undecided.
func (d *delivery) end(r mail.Result) []mail.Result {
	for slot := range d.results {
		if !d.decided[slot] {
			d.decide(slot, r)
		}
	}
	return d.results
}

// inVain returns the refusal of a message that the server has announced not to take.
func (d *delivery) inVain() *mail.Result {
	var r mail.Result
	switch {
	case d.ext.size > 0 && d.size > d.ext.size:
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 3, 4}, "message of %d octets; %s takes at most %d", d.size, d.server.Host, d.ext.size)
	case !d.ext.utf8 && !d.sender().IsASCII():
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 6, 7}, "%s does not take addresses beyond ASCII (SMTPUTF8), and the sender's is one", d.server.Host)
	case !d.ext.utf8 && d.m.SMTPUTF8 && d.m.HeaderUTF8:
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 6, 9}, "%s does not take headers beyond ASCII (SMTPUTF8)", d.server.Host)
	default:
		return d.unkept(time.Now())
	}
	r.Elsewhere = true
	return &r
}

// addressable decides the recipients whose address the server has announced not to take, and returns the others' slots.
func (d *delivery) addressable() []int {
	slots := make([]int, 0, len(d.recipients))
	for slot := range d.recipients {
		if !d.ext.utf8 && !d.forward(slot).IsASCII() {
			r := d.fail(mail.OfRecipient, mail.EnhancedCode{5, 6, 7}, "%s does not take addresses beyond ASCII (SMTPUTF8)", d.server.Host)
			r.Elsewhere = true
			d.decide(slot, r)
			continue
		}
		slots = append(slots, slot)
	}
	return slots
}

func (s *Session) maxRecipients() int {
	if s.ext.rcptMax > 0 {
		return s.ext.rcptMax
	}
	return s.server.MaxRecipients
}

// appendMail appends the MAIL command. What is beyond ASCII in a header, or signed, is sent as it is to a server without
// 8BITMIME: all pass it on, and a bounce would help nobody. A header beyond ASCII makes the message need SMTPUTF8 only if
// the submitter says so (RFC 6531 section 3.4), since whoever comes later on the way may have to refuse it for that.
func (t *transaction) appendMail(b []byte) []byte {
	m := t.m
	b = append(b, "MAIL FROM:<"...)
	b = append(b, t.sender().Address()...)
	b = append(b, '>')
	if t.ext.sized {
		b = strconv.AppendInt(append(b, " SIZE="...), t.size, 10)
	}
	if t.ext.eightBit && (m.EightBit || m.HeaderUTF8) {
		b = append(b, " BODY=8BITMIME"...)
	}
	if t.ext.utf8 && t.beyondASCII() {
		b = append(b, " SMTPUTF8"...)
	}
	if t.ext.dsn {
		b = appendParam(b, " RET=", m.Return.String())
		b = appendParam(b, " ENVID=", m.Envelope.ID)
	}
	if t.authenticated {
		b = append(b, " AUTH=<>"...) // whose message it is we do not vouch for (RFC 4954 section 5)
	}
	b = t.appendWishes(b, time.Now())
	return append(b, "\r\n"...)
}

func (t *transaction) beyondASCII() bool {
	if !t.sender().IsASCII() || t.m.SMTPUTF8 && t.m.HeaderUTF8 {
		return true
	}
	for _, slot := range t.slots {
		if !t.forward(slot).IsASCII() {
			return true
		}
	}
	return false
}

// appendRcpt appends the RCPT command for a slot. The original recipient is what it is now, unless it was given
// (RFC 3461 section 5.2.1).
func (t *transaction) appendRcpt(b []byte, slot int) []byte {
	r, path := t.recipient(slot), t.forward(slot)
	b = append(b, "RCPT TO:<"...)
	b = append(b, path.Address()...)
	b = append(b, '>')
	if t.ext.dsn {
		b = appendParam(b, " NOTIFY=", r.Notify.String())
		if r.Original != "" {
			b = appendParam(b, " ORCPT=", r.Original)
		} else if path.IsASCII() {
			b = append(append(b, " ORCPT=rfc822;"...), mail.EncodeXtext(path.Address())...)
		}
	}
	return append(b, "\r\n"...)
}

// appendParam appends a parameter, unless there is none or its value could end it.
func appendParam(b []byte, name, value string) []byte {
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return b
	}
	return append(append(b, name...), value...)
}
