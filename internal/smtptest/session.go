package smtptest

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// A session is one connection. Its methods return errEnd, or an error of the connection, when it is over.
type session struct {
	server *Server
	conn   net.Conn
	r      *bufio.Reader
	w      *bufio.Writer
	number int

	hello     string
	tls       *tls.ConnectionState
	user      string
	inMail    bool
	messages  int
	message   Message // of the transaction under way
	pipelined bool    // a group arrived: more was there before the command was answered
}

var errEnd = errors.New("the session is over")

func newSession(s *Server, conn net.Conn, number int) *session {
	c := &session{server: s, number: number}
	c.use(conn)
	return c
}

func (c *session) use(conn net.Conn) {
	c.conn, c.r, c.w = conn, bufio.NewReaderSize(conn, 64<<10), bufio.NewWriter(conn)
}

// run serves the connection. Its end is nobody's error: clients come and go.
func (c *session) run() {
	defer func() { _ = c.w.Flush() }()
	if c.server.opts.ImplicitTLS && c.handshake() != nil {
		return
	}
	c.server.note("CONNECT")
	if _, err := c.answer("CONNECT", "220 "+c.server.opts.Hostname+" ESMTP"); err != nil {
		_ = c.w.Flush()
		return
	}
	for {
		line, err := c.line()
		if err != nil {
			return
		}
		c.server.note(line)
		if err := c.command(line); err != nil {
			return
		}
	}
}

func (c *session) command(line string) error {
	verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
	c.group(verb)
	switch verb {
	case "EHLO", "HELO", "LHLO":
		if (verb == "LHLO") != c.server.opts.LMTP {
			return c.say(line, "500 5.5.1 this is another protocol")
		}
		return c.greet(verb, line)
	case "STARTTLS":
		return c.startTLS(line)
	case "AUTH":
		return c.auth(line)
	case "MAIL":
		return c.mail(line)
	case "RCPT":
		return c.rcpt(line)
	case "DATA":
		return c.data(line)
	case "BDAT":
		return c.bdat(line)
	case "RSET":
		c.inMail = false
		return c.say(line, "250 2.0.0 forgotten")
	case "NOOP":
		return c.say(line, "250 2.0.0 fine")
	case "QUIT":
		if err := c.say(line, "221 2.0.0 bye"); err != nil {
			return err
		}
		return errEnd
	}
	c.server.violation("unknown command %q", line)
	return c.say(line, "500 5.5.1 no such command")
}

// group notes what came before the command was answered (RFC 2920 section 3.1).
func (c *session) group(verb string) {
	if c.pipelined = c.r.Buffered() > 0; !c.pipelined || verb == "BDAT" {
		return // what follows BDAT is its content
	}
	if !slices.Contains(c.server.opts.Extensions, "PIPELINING") {
		c.server.violation("more before %s was answered, without PIPELINING", verb)
	}
	switch verb {
	case "MAIL", "RCPT", "RSET":
	default:
		c.server.violation("more before %s was answered", verb)
	}
}

func (c *session) greet(verb, line string) error {
	c.hello = strings.TrimSpace(line[len(verb):])
	c.inMail = false
	if verb == "HELO" {
		return c.say(line, "250 "+c.server.opts.Hostname)
	}
	lines := append([]string{c.server.opts.Hostname + " greets you"}, c.server.opts.Extensions...)
	if c.server.tls != nil && c.tls == nil {
		lines = append(lines, "STARTTLS")
	}
	if len(c.server.opts.Mechanisms) > 0 && (c.tls != nil || c.server.opts.AuthInClear) {
		lines = append(lines, "AUTH "+strings.Join(c.server.opts.Mechanisms, " "))
	}
	return c.say(line, "250 "+strings.Join(lines, "\n"))
}

func (c *session) startTLS(line string) error {
	if c.server.tls == nil || c.tls != nil {
		return c.say(line, "502 5.5.1 no TLS here")
	}
	reply, err := c.answer(line, "220 2.0.0 go ahead")
	if err != nil || reply[0] != '2' {
		return err
	}
	if err := c.w.Flush(); err != nil {
		return err
	}
	c.hello, c.inMail, c.user = "", false, ""
	return c.handshake()
}

func (c *session) handshake() error {
	c.server.note("TLS")
	if script := c.scripted("TLS", ""); script != "" {
		// Only when the client has begun, so that what is said is part of the handshake.
		if _, err := c.r.Peek(1); err != nil {
			return err
		}
		if _, err := c.perform(script); err != nil {
			return err
		}
		return errEnd
	}
	conn := tls.Server(c.conn, c.server.tls)
	if err := conn.Handshake(); err != nil {
		return err
	}
	state := conn.ConnectionState()
	c.tls = &state
	c.use(conn)
	return nil
}

func (c *session) mail(line string) error {
	o := &c.server.opts
	switch {
	case c.hello == "":
		return c.say(line, "503 5.5.1 who are you?")
	case c.inMail:
		c.server.violation("MAIL within a transaction")
		return c.say(line, "503 5.5.1 one at a time")
	case len(o.Users) > 0 && c.user == "":
		return c.say(line, "530 5.7.0 log in first")
	case o.MaxMessages > 0 && c.messages >= o.MaxMessages:
		return c.say(line, "421 4.7.0 enough of you")
	}
	pipelined := c.pipelined
	reply, err := c.answer(line, "250 2.1.0 sender fine")
	if err != nil || reply[0] != '2' {
		return err
	}
	path, params := argument(line, "MAIL FROM:")
	c.inMail = true
	c.message = Message{
		Connection: c.number, Hello: c.hello, TLS: c.tls != nil, Resumed: c.tls != nil && c.tls.DidResume, User: c.user,
		Sender: path, Params: params, Pipelined: pipelined,
	}
	return nil
}

func (c *session) rcpt(line string) error {
	if !c.inMail {
		return c.say(line, "503 5.5.1 no transaction")
	}
	usual := "250 2.1.5 recipient fine"
	if n := c.server.opts.MaxRecipients; n > 0 && len(c.message.Recipients) >= n {
		usual = cmp.Or(c.server.opts.TooMany, "452 4.5.3 too many recipients")
	}
	reply, err := c.answer(line, usual)
	if err != nil || reply[0] != '2' {
		return err
	}
	path, params := argument(line, "RCPT TO:")
	c.message.Recipients = append(c.message.Recipients, Recipient{path, params})
	return nil
}

func (c *session) data(line string) error {
	usual := "354 go ahead"
	if !c.inMail || len(c.message.Recipients) == 0 {
		usual = "554 5.5.1 no valid recipients"
	}
	reply, err := c.answer(line, usual)
	if err != nil || reply[0] != '3' {
		return err
	}
	content, err := c.content()
	if err != nil {
		return err
	}
	return c.end(content)
}

// end answers the end of the content.
func (c *session) end(content []byte) error {
	c.inMail = false
	c.server.note(".")
	if c.server.opts.LMTP {
		return c.endForEach(content)
	}
	reply, silently := strings.CutPrefix(c.scripted(".", "250 2.0.0 taken"), Took)
	if (silently || reply[0] == '2') && len(c.message.Recipients) > 0 {
		c.message.Content = content
		c.messages++
		c.server.keep(c.message) // before the client hears of it, so that a test that waits for it finds the message
	}
	_, err := c.perform(reply)
	return err
}

// endForEach answers the end of the content for each recipient, and keeps the message for those who get it.
func (c *session) endForEach(content []byte) error {
	var replies []string
	all := c.message.Recipients
	c.message.Recipients, c.message.Content = nil, content
	for _, r := range all {
		reply := c.scripted(". "+r.Address, "250 2.0.0 delivered")
		if replies = append(replies, reply); reply[0] == '2' {
			c.message.Recipients = append(c.message.Recipients, r)
		}
	}
	if len(c.message.Recipients) > 0 {
		c.messages++
		c.server.keep(c.message)
	}
	for _, reply := range replies {
		if _, err := c.perform(reply); err != nil {
			return err
		}
	}
	return nil
}

// bdat takes a chunk (RFC 3030 section 2), which has to be the last: what refuses it comes after it.
func (c *session) bdat(line string) error {
	var size int
	var last string
	if n, err := fmt.Sscanf(line, "BDAT %d %s", &size, &last); n != 2 || last != "LAST" || !slices.Contains(c.server.opts.Extensions, "CHUNKING") {
		c.server.violation("%q (%v), which this server does not take", line, err)
		return c.say(line, "501 5.5.4 what?")
	}
	usual := ""
	if !c.inMail || len(c.message.Recipients) == 0 {
		usual = "503 5.5.1 no valid recipients"
	}
	if script := c.scripted("BODY", ""); script != "" && usual == "" {
		if _, err := c.r.Peek(1); err != nil {
			return err
		}
		c.server.note("BODY")
		if reply, err := c.perform(script); err != nil || reply != "" {
			return errEnd
		}
	}
	content, err := c.chunk(size)
	if err != nil {
		return err
	}
	if reply := c.scripted(line, usual); reply != "" {
		_, err := c.perform(reply)
		return err
	}
	return c.end(content)
}

// chunk reads so many octets, and looks at their lines.
func (c *session) chunk(size int) ([]byte, error) {
	var content []byte
	afterCR := false
	for size > 0 {
		if c.r.Buffered() == 0 {
			if err := c.w.Flush(); err != nil {
				return nil, err
			}
		}
		if _, err := c.r.Peek(1); err != nil {
			return nil, err
		}
		b, err := c.r.Peek(min(size, c.r.Buffered()))
		if err != nil {
			return nil, err
		}
		if end := bytes.IndexByte(b, '\n'); end >= 0 {
			b = b[:end+1]
		}
		_, afterCR = c.checkLine(b, afterCR)
		if !c.server.opts.Discard {
			content = append(content, b...)
		}
		size -= len(b)
		if _, err := c.r.Discard(len(b)); err != nil {
			return nil, err
		}
	}
	if afterCR {
		c.server.violation("the content ends in a bare CR")
	}
	return content, nil
}

// content reads up to the lone dot. Only CRLF ends a line, so that a bare LF before a dot smuggles nothing.
func (c *session) content() ([]byte, error) {
	if err := c.w.Flush(); err != nil {
		return nil, err
	}
	if _, err := c.r.Peek(1); err != nil {
		return nil, err
	}
	if script := c.scripted("BODY", ""); script != "" {
		c.server.note("BODY")
		if reply, err := c.perform(script); err != nil || reply != "" {
			return nil, errEnd
		}
	}
	var content []byte
	atStart, afterCR := true, false
	for {
		b, err := c.r.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull {
			return nil, err
		}
		if atStart && b[0] == '.' {
			if string(b) == ".\r\n" {
				return content, nil
			}
			b = b[1:]
		}
		atStart, afterCR = c.checkLine(b, afterCR)
		if !c.server.opts.Discard {
			content = append(content, b...)
		}
	}
}

// checkLine looks for a CR without LF and a LF without CR in b, a line or a part of one that does not fit the buffer.
// It returns whether b ends a line, and whether it ends in a CR whose LF may follow.
func (c *session) checkLine(b []byte, afterCR bool) (ended, endsInCR bool) {
	text, hasLF := bytes.CutSuffix(b, []byte("\n"))
	if afterCR && len(text) > 0 {
		c.server.violation("bare CR in the content")
	}
	text, hasCR := bytes.CutSuffix(text, []byte("\r"))
	if bytes.IndexByte(text, '\r') >= 0 {
		c.server.violation("bare CR in the content")
	}
	ended = hasLF && (hasCR || afterCR && len(text) == 0)
	if hasLF && !ended {
		c.server.violation("bare LF in the content")
	}
	return ended, hasCR && !hasLF
}

// line returns the next command line without its end. Replies are kept back until the client has nothing more to say.
func (c *session) line() (string, error) {
	if c.r.Buffered() == 0 {
		if err := c.w.Flush(); err != nil {
			return "", err
		}
	}
	b, err := c.r.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	line, found := bytes.CutSuffix(b, []byte("\r\n"))
	if !found {
		c.server.violation("bare LF after command %q", b)
		line = b[:len(b)-1]
	}
	if bytes.ContainsAny(line, "\r\x00") {
		c.server.violation("bare CR or NUL in command %q", line)
	}
	return string(line), nil
}

// argument splits "MAIL FROM:<path> A=1 B" into path and parameters.
func argument(line, prefix string) (path string, params []string) {
	rest := strings.TrimSpace(line[min(len(prefix), len(line)):])
	quoted := false
	for i := 0; i < len(rest); i++ {
		switch {
		case rest[i] == '\\' && quoted:
			i++
		case rest[i] == '"':
			quoted = !quoted
		case rest[i] == '>' && !quoted:
			return strings.TrimPrefix(rest[:i], "<"), strings.Fields(rest[i+1:])
		}
	}
	return rest, nil
}
