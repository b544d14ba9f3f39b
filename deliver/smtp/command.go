package smtp

import (
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// A command is one of those that begin a transaction.
type command struct {
	verb string
	slot int // of RCPT
}

var (
	cmdRset = command{verb: "RSET"}
	cmdMail = command{verb: "MAIL"}
	cmdData = command{verb: "DATA"}
	cmdBdat = command{verb: "BDAT"} // with the content
)

func (c command) append(b []byte, t *transaction) []byte {
	switch c.verb {
	case "MAIL":
		return t.appendMail(b)
	case "RCPT":
		return t.appendRcpt(b, c.slot)
	default:
		return append(append(b, c.verb...), "\r\n"...)
	}
}

func (c command) limit(t *Timeouts) time.Duration {
	switch c.verb {
	case "MAIL":
		return t.Mail
	case "RCPT":
		return t.Recipient
	case "DATA":
		return t.Data
	case "BDAT":
		return t.Final
	default:
		return t.Reset
	}
}

// appendMail appends the MAIL command. What is beyond ASCII in a header, or signed, is sent as it is to a server without
// 8BITMIME: all pass it on, and a bounce would help nobody. A header beyond ASCII makes the message need SMTPUTF8 only if
// the submitter says so (RFC 6531 section 3.4), since whoever comes later on the way may have to refuse it for that.
func (t *transaction) appendMail(b []byte) []byte {
	m := t.Message
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
	if !t.sender().IsASCII() || t.SMTPUTF8 && t.HeaderUTF8 {
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

// appendBdat appends the command that the content follows, all of it (RFC 3030 section 2).
func (t *transaction) appendBdat(b []byte) []byte {
	return append(strconv.AppendInt(append(b, "BDAT "...), t.size, 10), " LAST\r\n"...)
}
