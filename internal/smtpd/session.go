package smtpd

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
)

// A session is one connection. Its methods return errEnd, or an error of the connection, when it is over.
type session struct {
	o  Options
	in *input

	hello    string // what the client calls itself
	extended bool   // it said EHLO
	bareLF   bool   // LF alone ends its lines
	bad      int    // commands that were wrong, since the last message
	idle     int    // commands that brought none nearer
	next     string // a command that was read and not carried out; "" if there is none
	secure   bool   // TLS is there
	user     string // who has logged in; "" if nobody
	logins   int    // attempts that failed

	// The transaction under way.
	inMail bool
	env    mail.Envelope
	length int // of what was said about recipients, in octets
}

var errEnd = errors.New("the session is over")

func newSession(conn Conn, o Options) *session {
	c := &session{o: o, in: newInput(conn, o.Now), hello: "unknown"}
	if o.Stranger {
		c.in.expect(o.Now().Add(loginTimeout))
	}
	return c
}

func (c *session) run() error {
	c.say("220 %s ESMTP postrider; %s", c.o.Hostname, c.o.Now().Format(time.RFC1123Z))
	for first := true; ; first = false {
		line, bare, err := c.command()
		if first {
			c.bareLF = c.o.Pipe && bare
		}
		switch {
		case err == nil:
			err = c.do(line)
		case errors.Is(err, errLong):
			err = c.garbled(line, "Line too long")
		}
		if err != nil {
			return c.over(err)
		}
	}
}

// command returns the next command.
func (c *session) command() (line string, bare bool, err error) {
	if line, c.next = c.next, ""; line != "" {
		return line, false, nil
	}
	if c.in.isStopped() {
		return "", false, errStop
	}
	return c.in.line()
}

// over says why the session ends, if there is anybody to hear it, and returns what Serve is to return.
func (c *session) over(err error) error {
	switch {
	case errors.Is(err, errEnd):
		return nil
	case c.in.isStopped() && (errors.Is(err, errStop) || isTimeout(err)):
		c.say("421 4.3.2 %s is being shut down", c.o.Hostname)
		return nil
	case isTimeout(err):
		c.say("421 4.4.2 %s has waited for too long", c.o.Hostname)
		return err
	case errors.Is(err, ErrCutOff) || !isEnd(err):
		return err
	}
	return nil
}

// errStop is the error of a session that has to end between two commands.
var errStop = errors.New("we were told to end")

// say writes a reply.
func (c *session) say(format string, args ...any) { c.in.say(oneLine(format, args...)) }

// oneLine returns a reply that stands on one line, whatever the arguments are.
func oneLine(format string, args ...any) []byte {
	line := fmt.Appendf(nil, format, args...)
	for i, b := range line {
		if b < ' ' || b == 0x7f {
			line[i] = ' '
		}
	}
	return line[:min(len(line), maxReply)]
}

// maxReply is how long a reply may be. RFC 5321 section 4.5.3.1.5 allows 512 octets with the line end.
const maxReply = 500

// wrong answers a command that should not have been sent, so often as one has patience.
func (c *session) wrong(format string, args ...any) error {
	c.say(format, args...)
	if c.bad++; c.bad < maxBad {
		return nil
	}
	c.say("421 4.7.0 Too many errors")
	return errEnd
}

// verbs are the commands that we know, all of four letters but for one.
var verbs = map[string]func(c *session, arg string) error{
	"HELO": idle(func(c *session, arg string) error { return c.greet(arg, false) }),
	"EHLO": idle(func(c *session, arg string) error { return c.greet(arg, true) }),
	"MAIL": (*session).mail,
	"RCPT": (*session).rcpt,
	"DATA": (*session).data,
	"BDAT": (*session).bdat,
	"RSET": idle(func(c *session, _ string) error { c.reset(); c.say("250 2.0.0 Forgotten"); return nil }),
	"NOOP": idle(func(c *session, _ string) error { c.say("250 2.0.0 Nothing done"); return nil }),
	"HELP": idle(func(c *session, _ string) error { c.say("214 2.0.0 See RFC 5321"); return nil }),
	"VRFY": idle((*session).verify),
	"QUIT": func(c *session, _ string) error { c.say("221 2.0.0 %s says goodbye", c.o.Hostname); return errEnd },

	"AUTH":     (*session).auth,
	"STARTTLS": (*session).startTLS,

	"BURL": absent, "ETRN": absent, "EXPN": absent, "SAML": absent, "SEND": absent, "SOML": absent,
	"TURN": absent, "VERB": absent, "XCLIENT": absent, "XFORWARD": absent,

	// A browser or a proxy that was sent here by somebody else, who has put commands into what it will say next.
	"CONNECT": foreign, "DELETE": foreign, "GET": foreign, "HEAD": foreign, "OPTIONS": foreign, "POST": foreign, "PUT": foreign,
}

// idle is for a command that can be repeated for ever and lead to nothing.
func idle(carryOut func(c *session, arg string) error) func(c *session, arg string) error {
	return func(c *session, arg string) error {
		if c.idle++; c.idle > maxIdle {
			c.say("421 4.7.0 Too many commands without a message")
			return errEnd
		}
		return carryOut(c, arg)
	}
}

// absent answers a command of an extension that we have not.
func absent(c *session, _ string) error { return c.wrong("502 5.5.1 Command not implemented") }

func foreign(c *session, _ string) error {
	c.say("421 4.7.0 This is SMTP")
	return errEnd
}

// do carries out a command.
func (c *session) do(line string) error {
	verb, arg := split(line)
	if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return c.garbled(line, "Control character in command")
	}
	if known := verbs[verb]; known != nil {
		return known(c, arg)
	}
	return c.wrong("500 5.5.1 Command not recognized")
}

// chunkVerb is the command that is followed by what is no command.
const chunkVerb = "BDAT"

// garbled answers what could not be read as a command. If a chunk follows, it must not be read as commands, either.
func (c *session) garbled(line, why string) error {
	if strings.EqualFold(line[:min(len(line), len(chunkVerb))], chunkVerb) {
		c.say("500 5.5.2 %s", why)
		return c.lost()
	}
	return c.wrong("500 5.5.2 %s", why)
}

// lost ends a session in which nobody knows where the next command is.
func (c *session) lost() error {
	c.say("421 4.5.0 Nobody knows where the next command is")
	return errEnd
}

// split returns the verb of a command in upper case, and what follows it.
func split(line string) (verb, arg string) {
	verb, arg, _ = strings.Cut(line, " ")
	return strings.ToUpper(verb), strings.Trim(arg, " ")
}

func (c *session) greet(name string, extended bool) error {
	c.reset()
	if name == "" {
		return c.wrong("501 5.5.4 Your name is missing")
	}
	c.hello, c.extended = "unknown", extended
	if isHostname(name) {
		c.hello = name
	}
	if !extended {
		c.say("250 %s", c.o.Hostname)
		return nil
	}
	size := "SIZE"
	if c.o.MaxSize > 0 {
		size = fmt.Sprintf("SIZE %d", c.o.MaxSize)
	}
	c.say("250-%s greets %s", c.o.Hostname, c.hello)
	for _, extension := range []string{"PIPELINING", size, "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING", c.futureRelease(), "DELIVERBY", "MT-PRIORITY"} {
		c.say("250-%s", extension)
	}
	if c.o.Local || c.secure {
		c.say("250-REQUIRETLS")
	}
	if c.o.StartTLS != nil && !c.secure {
		c.say("250-STARTTLS")
	}
	if m := c.mechanisms(); len(m) > 0 {
		c.say("250-AUTH%s", names(m))
	}
	c.say("250 LIMITS RCPTMAX=%d", maxRecipients)
	return nil
}

// futureRelease announces how long we hold a message, and what time that is now (RFC 4865 section 4).
func (c *session) futureRelease() string {
	latest := c.o.Now().Add(mail.MaxHold)
	return fmt.Sprintf("FUTURERELEASE %d %s", mail.MaxHold/time.Second, latest.UTC().Format(time.RFC3339))
}

// isHostname reports whether s could be the name of a host, or an address in brackets. It ends up in a header field.
func isHostname(s string) bool {
	return len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		return !letter && !strings.ContainsRune(".-_:[]", r)
	})
}

func (c *session) reset() { c.inMail, c.env, c.length = false, mail.Envelope{}, 0 }

// verify answers VRFY. Who exists here is nobody's business, nor do we know who exists elsewhere.
func (c *session) verify(arg string) error {
	if arg == "" {
		return c.wrong("501 5.5.4 An address is missing")
	}
	c.say("252 2.5.0 Send the message, and you will see")
	return nil
}

// A content is what a client sends as a message, to its end.
type content interface {
	io.Reader
	// rest reads what is left of it when nobody wants it, so that a command comes next. done is set if there is
	// nothing more to be said about the message.
	rest() (done bool, err error)
}

// take hands the message on, and answers for it.
func (c *session) take(from content) error {
	s := submit.Submission{Envelope: c.env, Content: from}
	s.Protocol = c.protocol()
	if c.o.Client != "" {
		s.Client = fmt.Sprintf("%s (%s)", c.hello, c.o.Client)
	}
	c.reset()
	c.in.begin()
	defer c.in.end()
	p, err := c.o.Submit(s)
	if done, errRest := from.rest(); done || errRest != nil {
		if err == nil {
			errRest = errors.Join(errRest, p.Abort())
		}
		return errRest
	}
	if err != nil {
		c.say("%s", refusal(err))
		return nil
	}
	c.bad, c.idle = 0, 0
	c.commit(p)
	return nil
}

// commit puts a message into the queue, and says so. What the client has sent meanwhile need not wait for that.
func (c *session) commit(p Pending) {
	reply := func() []byte {
		id, err := p.Commit()
		if err != nil {
			return oneLine("%s", refusal(err))
		}
		return oneLine("250 2.0.0 %s Message accepted for delivery", id)
	}
	if c.o.AtOnce < 2 || c.in.Buffered() == 0 {
		c.in.say(reply())
		return
	}
	c.in.promise(reply, c.o.AtOnce)
}

// protocol returns what the with clause of a Received field says (RFC 3848, RFC 6531 section 4.3).
func (c *session) protocol() string {
	if !c.extended {
		return "SMTP"
	}
	word := "ESMTP"
	if c.env.SMTPUTF8 {
		word = "UTF8SMTP"
	}
	if c.secure {
		word += "S"
	}
	if c.user != "" {
		word += "A"
	}
	return word
}

// refusal returns the reply for a message that was not taken. If nobody says why, it may be tried again.
func refusal(err error) string {
	code := mail.EnhancedCode{4, 3, 0}
	var e *submit.Error
	if errors.As(err, &e) {
		code = e.Code
	}
	reply := 451
	switch {
	case code == mail.EnhancedCode{4, 3, 1}:
		reply = 452
	case code == mail.EnhancedCode{5, 3, 4}:
		reply = 552
	case code == mail.EnhancedCode{5, 1, 3}:
		reply = 553
	case code.Class() == 5:
		reply = 554
	}
	return fmt.Sprintf("%d %s %v", reply, code, err)
}
