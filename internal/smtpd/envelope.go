package smtpd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postrider/postrider/internal/mail"
)

// mail begins a transaction: MAIL FROM:<reverse-path> parameters.
func (c *session) mail(arg string) error {
	switch {
	case c.inMail:
		return c.wrong("503 5.5.1 A sender was named already")
	case c.o.Stranger && c.user == "":
		return c.wrong("530 5.7.0 Log in first")
	}
	addr, parameters, ok := cutPath(arg, "FROM:")
	if !ok {
		return c.wrong("501 5.5.4 MAIL wants FROM:<address>")
	}
	path, err := parsePath(addr)
	if err != nil {
		return c.wrong("553 5.1.7 %v", err)
	}
	c.env = mail.Envelope{Sender: path}
	err = c.parameters(parameters, mailParameters)
	if err == nil {
		if err = c.env.CheckTimes(c.o.Now()); err != nil {
			err = fmt.Errorf("501 5.5.4 %w", err)
		}
	}
	if err != nil {
		c.reset()
		return c.wrong("%v", err)
	}
	if !path.IsASCII() && !c.env.SMTPUTF8 {
		c.reset()
		return c.wrong("550 5.6.7 An address that is not ASCII needs SMTPUTF8")
	}
	c.inMail = true
	if c.env.Priority > 0 && !c.o.Urgent {
		c.env.Priority = 0
		c.say("250 2.3.6 %s Sender accepted, with priority 0", path)
		return nil
	}
	c.say("250 2.1.0 %s Sender accepted", path)
	return nil
}

// rcpt adds a recipient: RCPT TO:<forward-path> parameters.
func (c *session) rcpt(arg string) error {
	if !c.inMail {
		return c.wrong("503 5.5.1 Name the sender first")
	}
	addr, parameters, ok := cutPath(arg, "TO:")
	if !ok {
		return c.wrong("501 5.5.4 RCPT wants TO:<address>")
	}
	if len(c.env.Recipients) >= maxRecipients || c.length+len(arg) > maxEnvelope {
		c.say("452 4.5.3 Enough recipients; send the rest in another message")
		return nil
	}
	path, err := parsePath(addr)
	if err == nil && path.IsNull() {
		err = errors.New("the recipient is nobody")
	}
	if err != nil {
		return c.wrong("553 5.1.3 %v", err)
	}
	if !path.IsASCII() && !c.env.SMTPUTF8 {
		return c.wrong("553 5.6.7 An address that is not ASCII needs SMTPUTF8")
	}
	recipients := c.env.Recipients
	c.env.Recipients = append(c.env.Recipients, mail.Recipient{Path: path})
	if err := c.parameters(parameters, rcptParameters); err != nil {
		c.env.Recipients = recipients
		return c.wrong("%v", err)
	}
	c.length += len(arg)
	c.say("250 2.1.5 %s Recipient accepted", path)
	return nil
}

// cutPath takes what stands between a keyword and the parameters. Blanks after the colon, and a path without angle
// brackets, are wrong, and common.
func cutPath(arg, keyword string) (path, parameters string, ok bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", "", false
	}
	arg = strings.TrimLeft(arg[len(keyword):], " ")
	quoted := false
	angle := strings.HasPrefix(arg, "<")
	for i := 0; i < len(arg); i++ {
		switch c := arg[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '>' && angle:
			rest := arg[i+1:]
			return arg[:i+1], rest, rest == "" || rest[0] == ' '
		case c == ' ' && !angle:
			return arg[:i], arg[i:], true
		}
	}
	return arg, "", arg != "" && !angle
}

var errNotAddress = errors.New("not an address")

// parsePath reads a path; a source route in it is dropped (RFC 5321 appendix C). It may be a bare name.
func parsePath(s string) (mail.Path, error) {
	if !utf8.ValidString(s) {
		return mail.Path{}, errNotAddress
	}
	list, err := mail.ParseAddressList(s)
	if err != nil {
		return mail.Path{}, fmt.Errorf("%w: %w", errNotAddress, err)
	}
	if len(list) != 1 {
		return mail.Path{}, errNotAddress
	}
	return list[0].Path, nil
}

// A parameter is one that follows a path, by its keyword. What set returns is the reply that refuses it.
type parameter struct {
	name string
	set  func(c *session, value string) error
}

var mailParameters = []parameter{
	{"SIZE", (*session).setSize},
	{"BODY", setBody},
	{"SMTPUTF8", (*session).setUTF8},
	{"RET", (*session).setReturn},
	{"ENVID", (*session).setEnvelopeID},
	{"HOLDFOR", (*session).setHoldFor},
	{"HOLDUNTIL", (*session).setHoldUntil},
	{"BY", (*session).setDeliverBy},
	{"MT-PRIORITY", (*session).setPriority},
	{"REQUIRETLS", (*session).setRequireTLS},
	{"AUTH", (*session).setAuthor},
}

var rcptParameters = []parameter{
	{"NOTIFY", (*session).setNotify},
	{"ORCPT", (*session).setOriginal},
}

// parameters carries out a list of parameters, each of which may stand there once.
func (c *session) parameters(list string, known []parameter) error {
	seen := ""
	// Blanks only: whatever else Unicode takes for one is part of the value.
	for word := range strings.SplitSeq(list, " ") {
		if word == "" {
			continue
		}
		name, value, _ := strings.Cut(word, "=")
		name = strings.ToUpper(name)
		p := find(known, name)
		if p == nil {
			return errors.New("555 5.5.4 Parameter not recognized")
		}
		if strings.Contains(seen, " "+name+" ") {
			return fmt.Errorf("501 5.5.4 %s stands there twice", name)
		}
		seen += " " + name + " "
		if err := p.set(c, value); err != nil {
			return err
		}
	}
	return nil
}

func find(known []parameter, name string) *parameter {
	for i := range known {
		if known[i].name == name {
			return &known[i]
		}
	}
	return nil
}

// setSize refuses a message that is announced as larger than we take (RFC 1870). Nothing else depends on it.
func (c *session) setSize(value string) error {
	const maxDigits = 20
	size, err := strconv.ParseInt(value, 10, 64)
	if len(value) > maxDigits || strings.Trim(value, "0123456789") != "" || value == "" {
		return errors.New("501 5.5.4 SIZE wants a number of octets")
	}
	if c.o.MaxSize > 0 && (err != nil || size > c.o.MaxSize) {
		return fmt.Errorf("552 5.3.4 Larger than %d octets, which is all that is allowed here", c.o.MaxSize)
	}
	return nil
}

// setBody takes the types of RFC 6152. What the body is, is seen from the body.
func setBody(_ *session, value string) error {
	if strings.EqualFold(value, "7BIT") || strings.EqualFold(value, "8BITMIME") {
		return nil
	}
	return errors.New("501 5.5.4 BODY is 7BIT or 8BITMIME")
}

func (c *session) setUTF8(value string) error {
	if value != "" {
		return errors.New("501 5.5.4 SMTPUTF8 has no value")
	}
	c.env.SMTPUTF8 = true
	return nil
}

func (c *session) setReturn(value string) (err error) {
	if c.env.Return, err = mail.ParseReturn(value); err != nil {
		return errors.New("501 5.5.4 RET is FULL or HDRS")
	}
	return nil
}

// Lengths that RFC 3461 sections 4.2 and 4.4 allow.
const (
	maxEnvelopeID = 100
	maxOriginal   = 500
)

func (c *session) setEnvelopeID(value string) error {
	if !isXtext(value) || len(value) > maxEnvelopeID {
		return fmt.Errorf("501 5.5.4 ENVID is xtext of at most %d octets", maxEnvelopeID)
	}
	c.env.ID = value
	return nil
}

// setAuthor takes who the client says has handed in the message (RFC 4954 section 5). We do not hand that on: nobody could
// know whether to believe it.
func (c *session) setAuthor(value string) error {
	switch {
	case c.o.Users == nil:
		return errors.New("555 5.5.4 Parameter not recognized")
	case value != "<>" && !isXtext(value):
		return errors.New("501 5.5.4 AUTH is xtext")
	}
	return nil
}

// isXtext reports whether s is not empty and stands for printable ASCII characters.
func isXtext(s string) bool {
	text, err := mail.DecodeXtext(s)
	return s != "" && err == nil && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

func (c *session) setHoldFor(value string) error { return c.setHold(mail.HoldFor, "HOLDFOR", value) }

func (c *session) setHoldUntil(value string) error {
	return c.setHold(mail.HoldUntil, "HOLDUNTIL", value)
}

func (c *session) setHold(parse func(string, time.Time) (mail.Hold, error), name, value string) error {
	hold, err := parse(value, c.o.Now())
	if err != nil {
		return fmt.Errorf("501 5.5.4 %s: %w", name, err)
	}
	if !c.env.Hold.Until.IsZero() {
		return errors.New("501 5.5.4 HOLDFOR and HOLDUNTIL do not stand together")
	}
	c.env.Hold = hold
	return nil
}

func (c *session) setDeliverBy(value string) (err error) {
	if c.env.DeliverBy, err = mail.ParseBy(value, c.o.Now()); err != nil {
		return fmt.Errorf("501 5.5.4 BY: %w", err)
	}
	return nil
}

func (c *session) setPriority(value string) (err error) {
	if c.env.Priority, err = mail.ParsePriority(value); err != nil {
		return fmt.Errorf("501 5.5.2 MT-PRIORITY: %w", err)
	}
	return nil
}

func (c *session) setRequireTLS(value string) error {
	if value != "" {
		return errors.New("501 5.5.4 REQUIRETLS has no value")
	}
	if !c.o.Local && !c.secure {
		return errors.New("555 5.5.4 REQUIRETLS is not offered on the way that you have come")
	}
	c.env.TLS = mail.TLSRequired
	return nil
}

// last is the recipient whose parameters are being read.
func (c *session) last() *mail.Recipient { return &c.env.Recipients[len(c.env.Recipients)-1] }

func (c *session) setNotify(value string) (err error) {
	if c.last().Notify, err = mail.ParseNotify(value); err != nil {
		return errors.New("501 5.5.4 NOTIFY is NEVER, or a list of SUCCESS, FAILURE and DELAY")
	}
	return nil
}

// setOriginal takes an address of the type rfc822, utf-8 or another one (RFC 3461 section 4.2, RFC 6533 section 3). It
// is kept as it is.
func (c *session) setOriginal(value string) error {
	kind, addr, _ := strings.Cut(value, ";")
	ok := isXtext(addr)
	if strings.EqualFold(kind, "utf-8") {
		// Not xtext: octets above 127 stand for themselves, and others are written as \x{HEX}.
		ok = addr != "" && utf8.ValidString(addr) && !strings.ContainsAny(addr, "+=") && (c.env.SMTPUTF8 || isASCII(addr))
	}
	if !ok || !isAtom(kind) || len(value) > maxOriginal {
		return fmt.Errorf("501 5.5.4 ORCPT is type;xtext of at most %d octets", maxOriginal)
	}
	c.last().Original = value
	return nil
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// isAtom reports whether s is an address type: letters, digits and hyphens.
func isAtom(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}
