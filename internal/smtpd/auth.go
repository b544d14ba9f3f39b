package smtpd

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/login"
)

const (
	// maxLogins is how often a client may try.
	maxLogins = 3
	// maxRounds is for the challenges of one exchange.
	maxRounds = 5
	// handshakeTimeout is for TLS.
	handshakeTimeout = time.Minute
)

// startTLS goes on with a connection that nobody else can read (RFC 3207).
func (c *session) startTLS(arg string) error {
	switch {
	case c.o.StartTLS == nil:
		return absent(c, arg)
	case arg != "":
		return c.wrong("501 5.5.4 STARTTLS has no parameters")
	case c.secure:
		return c.wrong("503 5.5.1 TLS is there already")
	case c.in.Buffered() > 0:
		// It may be somebody else's, and would be taken for the client's later.
		c.say("503 5.5.1 Something was sent after STARTTLS")
		return errEnd
	}
	c.say("220 2.0.0 Begin")
	if err := c.in.flush(); err != nil {
		return err
	}
	if err := c.in.limit(handshakeTimeout); err != nil {
		return err
	}
	conn, err := c.o.StartTLS()
	if err != nil {
		return fmt.Errorf("STARTTLS: %v", err) // whatever it is, nothing can be said any more
	}
	c.in.replace(conn)
	// What was said before could have been said by anybody.
	c.reset()
	if c.o.Stranger && c.user != "" {
		c.in.expect(c.o.Now().Add(loginTimeout))
	}
	c.hello, c.extended, c.secure, c.user = "unknown", false, true, ""
	return nil
}

// mechanisms returns how the client may log in now.
func (c *session) mechanisms() []login.Mechanism {
	if c.o.Users == nil {
		return nil
	}
	return slices.DeleteFunc(login.Mechanisms(), func(m login.Mechanism) bool { return m.Shows && !c.secure && !c.o.Private })
}

// names returns those of mechanisms, as EHLO has them.
func names(mechanisms []login.Mechanism) string {
	var b strings.Builder
	for _, m := range mechanisms {
		b.WriteString(" " + m.Name)
	}
	return b.String()
}

// auth has the client log in (RFC 4954).
func (c *session) auth(arg string) error {
	word, initial, _ := strings.Cut(arg, " ")
	named := func(m login.Mechanism) bool { return strings.EqualFold(m.Name, word) }
	usable := c.mechanisms()
	n := slices.IndexFunc(usable, named)
	switch {
	case len(usable) == 0:
		return absent(c, arg)
	case !c.extended:
		return c.wrong("503 5.5.1 Say EHLO first")
	case c.user != "":
		return c.wrong("503 5.5.1 You have logged in already")
	case c.inMail:
		return c.wrong("503 5.5.1 End the message first")
	case n < 0 && slices.ContainsFunc(login.Mechanisms(), named):
		return c.wrong("538 5.7.11 Not where others can read it; say STARTTLS first")
	case n < 0:
		return c.wrong("504 5.5.4 Mechanism not recognized")
	}
	users, err := c.o.Users()
	if err != nil {
		c.say("454 4.7.0 Nobody can log in now")
		return nil
	}
	user, err := c.exchange(usable[n].Start(users), initial)
	if c.o.LoggedIn != nil && (err == nil || errors.Is(err, login.ErrRefused)) {
		c.o.LoggedIn(user, err)
	}
	switch {
	case err == nil:
		c.user = user
		c.in.expect(time.Time{})
		c.say("235 2.7.0 Welcome")
		return nil
	case errors.Is(err, errCancelled):
		return c.wrong("501 5.7.0 As you like")
	case errors.Is(err, login.ErrMalformed):
		return c.wrong("501 5.5.2 Malformed response")
	case !errors.Is(err, login.ErrRefused):
		return err
	}
	c.say("535 5.7.8 Wrong name or password")
	if c.logins++; c.logins == maxLogins {
		c.say("421 4.7.0 Too many attempts to log in")
		return errEnd
	}
	return nil
}

var errCancelled = errors.New("the client does not want to log in after all")

// exchange asks the client what the mechanism wants to know, and returns who he is.
func (c *session) exchange(e login.Exchange, initial string) (user string, err error) {
	var response []byte
	if initial != "" {
		if response, err = decode(initial); err != nil {
			return "", err
		}
	}
	for range maxRounds {
		challenge, user, err := e.Next(response)
		if err != nil || user != "" {
			return user, err
		}
		text := base64.StdEncoding.EncodeToString(challenge)
		if len(text) > maxReply-len("334 ") {
			return "", login.ErrMalformed // part of it is what the client has sent
		}
		c.say("334 %s", text)
		line, _, err := c.in.line()
		switch {
		case errors.Is(err, errLong):
			return "", login.ErrMalformed
		case err != nil:
			return "", err
		case line == "*":
			return "", errCancelled
		}
		if response, err = decode(line); err != nil {
			return "", err
		}
	}
	return "", login.ErrMalformed
}

// decode returns what stands in a response, which is never nil. "=" is nothing.
func decode(s string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "="))
	if err != nil {
		return nil, login.ErrMalformed
	}
	return append([]byte{}, b...), nil
}
