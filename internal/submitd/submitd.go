// Package submitd speaks the protocol of the submission socket, both ends of it: a program that may not write into the
// spool hands a message to one that may. The server learns from the socket who the client is, and mends the message
// itself; what the client says is no more believed than a command line of sendmail. It is linked into sendmail, so it
// imports no network.
//
// A client says, in lines that end in LF, what sendmail's options say, ends that with an empty line, and sends the
// message in chunks, each after a line with its length. A chunk of no octets is the end of the message, so that what was
// cut off is never taken for a whole one. The server answers with one line, and waits for another message:
//
//	C: postrider-submit 1
//	C: sender: <ann@example.org>
//	C: recipient: notify=FAILURE <bob@example.net>
//	C:
//	C: 28
//	C: Subject: hello LF LF It works. LF
//	C: 0
//	S: 0 7UU4F9BFZU0
//
// The answer begins with 0 and the queue ID, if the message is in the queue for good. Otherwise it is the exit status of
// sysexits.h, the status code of RFC 3463, "told" if the sender gets a report by mail and "-" if not, and what is wrong.
// In the place of a length, "cancel" has the server forget the message.
package submitd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
)

// greeting is the first line of a request. The number is the version of the protocol.
const greeting = "postrider-submit 1"

// A Request is what a client asks for: a Submission, in which the server fills in who submits, and when. Dots are the
// client's business: only the message up to the last line is sent.
type Request struct {
	submit.Submission
	// Unsigned says that the client has named no sender: he is whoever the client is.
	Unsigned bool
	// FullName is the display name for a From field that is missing; "" for the one that the server knows.
	FullName string
}

// A Conn is one end of a connection. After a deadline, Read and Write return os.ErrDeadlineExceeded.
type Conn interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Patient is a connection without deadlines: for two programs of ours, neither of which outlives the other. Reading and
// writing that simply blocks takes a fraction of the time.
type Patient struct{ io.ReadWriter }

func (Patient) SetReadDeadline(time.Time) error  { return nil }
func (Patient) SetWriteDeadline(time.Time) error { return nil }

// A field is a line of a request: the key that starts it, what its value is, and what a value means. get returns a value
// for each line of the key that is needed.
type field struct {
	key string
	get func(r *Request) []string
	set func(r *Request, value string) error
}

const set = "yes"

// flag is a field that says yes or is not there.
func flag(key string, of func(r *Request) *bool) field {
	return field{
		key: key,
		get: func(r *Request) []string {
			if *of(r) {
				return []string{set}
			}
			return nil
		},
		set: func(r *Request, value string) error {
			*of(r) = true
			if value != set {
				return errValue
			}
			return nil
		},
	}
}

// text is a field with a value that may be missing, empty.
func text(key string, get func(r *Request) string, set func(r *Request, value string) error) field {
	return field{
		key: key,
		get: func(r *Request) []string {
			if v := get(r); v != "" {
				return []string{v}
			}
			return nil
		},
		set: set,
	}
}

var errValue = errors.New("not a value of this field")

// fields are what a request may say. Whatever else it says, it is refused.
var fields = []field{
	{"sender", func(r *Request) []string {
		if r.Unsigned {
			return nil
		}
		return []string{r.Sender.String()}
	}, func(r *Request, value string) (err error) {
		r.Unsigned = false
		r.Sender, err = mail.ParseBracketed(value)
		return err
	}},
	{"recipient", func(r *Request) (all []string) {
		for _, to := range r.Recipients {
			all = append(all, string(to.AppendText(nil)))
		}
		return all
	}, func(r *Request, value string) error {
		to, err := mail.ParseRecipient(value)
		to.Expanded = false // that is for the runner to say
		r.Recipients = append(r.Recipients, to)
		return err
	}},
	{"rejected", func(r *Request) (all []string) {
		for _, e := range r.Rejected {
			all = append(all, mail.EncodeXtext(e.Item)+" "+oneLine(e.Err.Error()))
		}
		return all
	}, func(r *Request, value string) error {
		item, why, _ := strings.Cut(value, " ")
		item, err := mail.DecodeXtext(item)
		r.Rejected = append(r.Rejected, &mail.AddressError{Item: item, Err: errors.New(why)})
		return err
	}},
	flag("header-recipients", func(r *Request) *bool { return &r.HeaderRecipients }),
	text("notify", func(r *Request) string { return r.Notify.String() }, func(r *Request, value string) (err error) {
		r.Notify, err = mail.ParseNotify(value)
		return err
	}),
	text("return", func(r *Request) string { return r.Return.String() }, func(r *Request, value string) (err error) {
		r.Return, err = mail.ParseReturn(value)
		return err
	}),
	text("envid", func(r *Request) string { return r.ID }, func(r *Request, value string) error {
		r.ID = value
		_, err := mail.DecodeXtext(value)
		return err
	}),
	flag("smtputf8", func(r *Request) *bool { return &r.SMTPUTF8 }),
	text("priority", func(r *Request) string {
		if r.Priority == 0 {
			return ""
		}
		return strconv.Itoa(r.Priority)
	}, func(r *Request, value string) (err error) {
		r.Priority, err = mail.ParsePriority(value)
		return err
	}),
	text("requiretls", func(r *Request) string { return r.TLS.String() }, func(r *Request, value string) (err error) {
		r.TLS, err = mail.ParseTLSWish(value)
		return err
	}),
	text("hold", func(r *Request) string { return r.Hold.String() }, func(r *Request, value string) (err error) {
		r.Hold, err = mail.ParseHold(value)
		return err
	}),
	text("deliver-by", func(r *Request) string { return r.DeliverBy.String() }, func(r *Request, value string) (err error) {
		r.DeliverBy, err = mail.ParseDeliverBy(value)
		return err
	}),
	text("name", func(r *Request) string { return r.FullName }, func(r *Request, value string) error { r.FullName = value; return nil }),
	text("protocol", func(r *Request) string { return r.Protocol }, func(r *Request, value string) error {
		r.Protocol = value
		const longest = 20 // of those that are registered, UTF8LMTPSA
		if len(value) > longest || strings.Trim(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
			return errValue
		}
		return nil
	}),
	flag("as-is", func(r *Request) *bool { return &r.AsIs }),
	flag("partly", func(r *Request) *bool { return &r.Partly }),
	flag("returns", func(r *Request) *bool { return &r.Returns }),
}

// appendText writes the lines of a request.
func (r *Request) appendText(b []byte) []byte {
	b = append(b, greeting+"\n"...)
	for _, f := range fields {
		for _, value := range f.get(r) {
			b = fmt.Appendf(b, "%s: %s\n", f.key, value)
		}
	}
	return append(b, '\n')
}

// parseLine reads one line, without its end.
func (r *Request) parseLine(line []byte) error {
	if bytes.ContainsFunc(line, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return mail.ErrControl
	}
	key, value, _ := strings.Cut(string(line), ": ")
	for _, f := range fields {
		if f.key == key {
			return f.set(r, value)
		}
	}
	return errors.New("unknown field")
}

// oneLine replaces control characters.
func oneLine(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}
