package smtpd

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// data takes a message that ends with a line of one dot.
func (c *session) data(arg string) error {
	switch {
	case arg != "":
		return c.wrong("501 5.5.4 DATA has no parameters")
	case !c.inMail:
		return c.wrong("503 5.5.1 Name the sender first")
	case len(c.env.Recipients) == 0:
		return c.wrong("554 5.5.1 No valid recipients")
	}
	c.say("354 End the message with a line of one dot")
	return c.take(&dotted{in: c.in, bareLF: c.bareLF, fresh: true})
}

// A dotted is content in which lines that start with a dot have one more (RFC 5321 section 4.5.2), up to the line that
// is only a dot.
type dotted struct {
	in     *input
	bareLF bool // LF alone ends a line, too

	piece []byte // of a line, not yet returned
	fresh bool   // the next octet starts a line
	cr    bool   // the last octet was a CR
	err   error
}

func (d *dotted) Read(p []byte) (int, error) {
	for len(d.piece) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		d.advance()
	}
	n := copy(p, d.piece)
	d.piece = d.piece[n:]
	return n, nil
}

// advance reads a line, or a piece of one that is very long.
func (d *dotted) advance() {
	b, err := d.in.ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		d.err = cutOff(err)
		return
	}
	if d.fresh && b[0] == '.' {
		if string(b) == ".\r\n" || d.bareLF && string(b) == ".\n" {
			d.err = io.EOF
			return
		}
		b = b[1:]
	}
	d.piece = b
	ended := bytes.HasSuffix(b, []byte("\r\n")) || d.cr && string(b) == "\n"
	d.fresh = ended || d.bareLF && bytes.HasSuffix(b, []byte("\n"))
	d.cr = bytes.HasSuffix(b, []byte("\r"))
}

// cutOff returns the error for a message whose end we shall not see.
func cutOff(err error) error {
	if isEnd(err) {
		return ErrCutOff
	}
	return err
}

func (d *dotted) rest() (bool, error) {
	for d.err == nil {
		d.advance()
	}
	if errors.Is(d.err, io.EOF) {
		return false, nil
	}
	return false, d.err
}

// bdat takes a message in chunks, the first of which follows.
func (c *session) bdat(arg string) error {
	chunk, last, ok, err := c.chunk(arg)
	if err != nil || !ok {
		return err
	}
	no := ""
	switch {
	case !c.inMail:
		no = "503 5.5.1 Name the sender first"
	case len(c.env.Recipients) == 0:
		no = "554 5.5.1 No valid recipients"
	}
	if no == "" {
		return c.take(&chunks{c: c, size: chunk, left: chunk, last: last})
	}
	if err := c.skip(chunk); err != nil {
		return err
	}
	return c.wrong("%s", no)
}

// chunk reads what follows BDAT. A command that is wrong is answered here, and ok is not set.
func (c *session) chunk(arg string) (size int64, last, ok bool, err error) {
	number, word, _ := strings.Cut(arg, " ")
	size, err = strconv.ParseInt(number, 10, 64)
	if err != nil || strings.Trim(number, "0123456789") != "" {
		c.say("501 5.5.4 BDAT wants a number of octets")
		return 0, false, false, c.lost()
	}
	last = strings.EqualFold(word, "LAST")
	if word == "" || last {
		return size, last, true, nil
	}
	if err := c.skip(size); err != nil {
		return 0, false, false, err
	}
	return 0, false, false, c.wrong("501 5.5.4 What follows the size is LAST or nothing")
}

// skip reads a chunk that nobody wants.
func (c *session) skip(size int64) error {
	c.in.begin()
	defer c.in.end()
	_, err := io.CopyN(io.Discard, c.in, size)
	return err
}

// A chunks is content that comes in chunks. When it needs the next one, it acknowledges the last one, and conducts the
// session until the client sends it.
type chunks struct {
	c    *session
	size int64 // of the chunk at hand
	left int64 // of it
	last bool  // no other one follows
	err  error
}

// errReset is the error of a message that the client does not want to be sent after all.
var errReset = errors.New("the client has given up the message")

func (k *chunks) Read(p []byte) (int, error) {
	for k.left == 0 {
		switch {
		case k.err != nil:
			return 0, k.err
		case k.last:
			return 0, io.EOF
		}
		k.next()
	}
	n, err := k.c.in.Read(p[:min(int64(len(p)), k.left)])
	k.left -= int64(n)
	if err != nil && n == 0 {
		k.left, k.err = 0, cutOff(err)
		return 0, k.err
	}
	return n, nil
}

// next answers for a chunk, and reads commands up to the next one.
func (k *chunks) next() {
	c := k.c
	c.say("250 2.0.0 %d octets received", k.size)
	for k.err == nil {
		line, _, err := c.in.line()
		verb, arg := split(line)
		switch {
		case errors.Is(err, errLong):
			k.err = c.garbled(line, "Line too long")
		case err != nil:
			k.err = cutOff(err)
		case verb == "BDAT":
			k.begin(arg)
			return
		case verb == "RSET" || verb == "HELO" || verb == "EHLO" || verb == "QUIT":
			c.next, k.err = line, errReset
		case verb == "MAIL" || verb == "RCPT" || verb == "DATA" || verb == "AUTH" || verb == "STARTTLS":
			k.err = c.wrong("503 5.5.1 Send the other chunks first")
		default:
			k.err = c.do(line)
		}
	}
}

// begin starts the chunk that follows BDAT.
func (k *chunks) begin(arg string) {
	size, last, ok, err := k.c.chunk(arg)
	switch {
	case err != nil:
		k.err = cutOff(err)
	case !ok:
		k.err = errReset
	default:
		k.size, k.left, k.last = size, size, last
	}
}

// rest reads what is left of the chunk at hand. Those that may follow belong to no message.
func (k *chunks) rest() (bool, error) {
	if errors.Is(k.err, errReset) {
		return true, nil
	}
	if k.err == nil {
		_, err := io.CopyN(io.Discard, k.c.in, k.left)
		k.left, k.err = 0, cutOff(err)
	}
	return false, k.err
}
