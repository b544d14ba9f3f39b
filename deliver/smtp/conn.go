package smtp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// A conn carries commands and replies, each with its deadline, and keeps the transcript. One goroutine may send while
// another one reads replies.
type conn struct {
	raw net.Conn // to close: never waits for anything
	rw  net.Conn // the same, or TLS over it
	r   *bufio.Reader
	log transcript

	// What is never shown, even if a server repeats it to us.
	secrets  []string
	replacer *strings.Replacer

	interrupted atomic.Bool // the caller has lost interest; raw is closed
	sending     chan error  // of a long group of commands on its way

	mu      sync.Mutex
	offered int64 // octets that were given to the network so far, or are about to be
	written int64 // and those that it has taken
	sendErr error // we cannot be heard any more, but may still hear
	wait    wait
}

// A wait is for a reply. Its deadline begins when the reply is first waited for and what it answers is out: however long
// it takes to send a message, the server has its full time to answer.
type wait struct {
	limit   time.Duration
	answers int64 // where that ends which the reply answers, among the octets sent
	began   bool  // somebody waits
	running bool  // the deadline is set
}

// never is the end of what has not been thought of yet.
const never = math.MaxInt64

func newConn(raw net.Conn) *conn {
	c := &conn{raw: raw, rw: raw}
	c.r = bufio.NewReaderSize(deadlineReader{c}, 2*maxLine)
	return c
}

// watch hangs up when ctx is done. The function it returns ends that.
func (c *conn) watch(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		c.interrupted.Store(true)
		_ = c.raw.Close()
	})
}

// close hangs up. TLS is not told: its farewell could block, and nobody waits for it.
func (c *conn) close() {
	_ = c.raw.Close() // whatever mattered has been answered
	if c.sending != nil {
		c.mute(<-c.sending)
		c.sending = nil
	}
}

// A deadlineReader gives all the reads of one reply one deadline, which begins with the first: a server that sends an
// octet now and then does not keep us longer than one that is silent.
type deadlineReader struct{ c *conn }

func (r deadlineReader) Read(p []byte) (int, error) {
	c := r.c
	c.mu.Lock()
	var err error
	if !c.wait.began {
		c.wait.began = true
		err = c.arm()
	}
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.rw.Read(p)
}

// arm sets the deadline of the reply that is waited for, if it has begun. The caller holds mu.
func (c *conn) arm() error {
	w := &c.wait
	if w.running = c.sendErr != nil || w.answers <= c.written; !w.running {
		return c.rw.SetReadDeadline(time.Time{})
	}
	limit := w.limit
	if c.sendErr != nil {
		limit = min(limit, lastWords)
	}
	return c.rw.SetReadDeadline(time.Now().Add(limit))
}

// expect says which reply is next. If somebody waits for one already, it is this.
func (c *conn) expect(answers int64, limit time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wait.answers, c.wait.limit = answers, limit
	c.rearm()
}

// expectNothing says that no reply is due.
func (c *conn) expectNothing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wait = wait{answers: never}
}

// rearm sets the deadline of a reply that is waited for without one, if it is time. An error would be that of a closed
// connection, which the reader sees by itself. The caller holds mu.
func (c *conn) rearm() {
	if c.wait.began && !c.wait.running {
		_ = c.arm()
	}
}

// wrote counts what the network has taken.
func (c *conn) wrote(n int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written += n
	if err != nil {
		c.sendErr, c.wait.running = err, false
	}
	c.rearm()
}

// mute says that we cannot be heard any more, unless err is nil.
func (c *conn) mute(err error) {
	if err != nil {
		c.wrote(0, err)
	}
}

// muted returns why we cannot be heard any more; nil if we can.
func (c *conn) muted() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendErr
}

// sentTo reports whether the network has been given what comes before this place, or may have been.
func (c *conn) sentTo(place int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return place <= c.offered
}

// took reports whether the network has taken all that comes before this place.
func (c *conn) took(place int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return place <= c.written
}

// reply reads the next reply to what has been sent, which may take as long as limit.
func (c *conn) reply(limit time.Duration) (mail.Reply, error) { return c.replyTo(0, limit) }

// replyTo reads the next reply, to what ends at a place among the octets sent.
func (c *conn) replyTo(place int64, limit time.Duration) (mail.Reply, error) {
	r, err := c.receive(place, limit)
	if err != nil {
		return r, err
	}
	r.Text = c.redact(r.Text)
	c.log.heard(r)
	return r, nil
}

// lastWords is how long a reply may take when we cannot be heard any more.
const lastWords = 5 * time.Second

func (c *conn) receive(place int64, limit time.Duration) (mail.Reply, error) {
	c.mu.Lock()
	c.wait = wait{limit: limit, answers: place}
	c.mu.Unlock()
	r, err := readReply(c.r)
	if stray, ok := errors.AsType[strayLine](err); ok {
		err = strayLine(c.redact(string(stray)))
	}
	return r, err
}

// challenge is reply for a step of AUTH. What the server asks then is kept out of the transcript, and comes as it is: by
// accident, it may contain a short password.
func (c *conn) challenge(limit time.Duration) (mail.Reply, error) {
	r, err := c.receive(0, limit)
	if err != nil {
		return r, err
	}
	if intermediate(r) {
		c.log.heard(mail.Reply{Code: r.Code, Text: "***"})
		return r, nil
	}
	r.Text = c.redact(r.Text)
	c.log.heard(r)
	return r, nil
}

// largeGroup is how much is written before replies are read. A server stops reading when nobody takes its replies, and
// then both would wait for each other (RFC 2920 section 3.1); so much always fits on the way.
const largeGroup = 8 << 10

// send writes commands. Errors show when their replies are read: a server that hangs up has often said why.
func (c *conn) send(commands []byte, limit time.Duration) {
	c.log.said(commands)
	c.sendQuietly(commands, limit)
}

// sendQuietly is send for what the transcript must not have.
func (c *conn) sendQuietly(commands []byte, limit time.Duration) {
	if len(commands) <= largeGroup {
		_ = c.write(commands, limit)
		return
	}
	if !c.sent(limit) {
		return
	}
	// No deadline: as long as replies come in time, the server is reading, if slowly; when they do not, the
	// connection is closed and the write ends.
	if err := c.rw.SetWriteDeadline(time.Time{}); err != nil {
		c.mute(err)
		return
	}
	c.sending = make(chan error, 1)
	commands = slices.Clone(commands) // the caller uses his buffer again as soon as he has the answers
	go func() {
		_, err := c.rw.Write(commands)
		c.sending <- err
	}()
}

// sent waits until a long group of commands is out, and reports whether we can still be heard.
func (c *conn) sent(limit time.Duration) bool {
	if c.sending != nil {
		c.mute(c.rw.SetWriteDeadline(time.Now().Add(limit)))
		c.mute(<-c.sending)
		c.sending = nil
	}
	return c.muted() == nil
}

// write sends p as it is.
func (c *conn) write(p []byte, limit time.Duration) error {
	if !c.sent(limit) {
		return c.muted()
	}
	return c.transfer(int64(len(p)), limit, func() (int64, error) {
		n, err := c.rw.Write(p)
		return int64(n), err
	})
}

// transfer gives n octets to the network, within limit.
func (c *conn) transfer(n int64, limit time.Duration, write func() (int64, error)) error {
	c.mu.Lock()
	c.offered += n
	c.mu.Unlock()
	err := c.rw.SetWriteDeadline(time.Now().Add(limit))
	if err == nil {
		n, err = write()
	} else {
		n = 0
	}
	c.wrote(n, err)
	return err
}

// hide keeps a secret out of everything that is shown from now on.
func (c *conn) hide(secret string) {
	if secret == "" {
		return
	}
	c.secrets = append(c.secrets, secret, "***")
	if shown := printable(secret); shown != secret {
		c.secrets = append(c.secrets, shown, "***") // as it is when a server has repeated it
	}
	c.replacer = strings.NewReplacer(c.secrets...)
}

func (c *conn) redact(s string) string {
	if c.replacer == nil {
		return s
	}
	return c.replacer.Replace(s)
}

// why puts an error of the connection into the words that a report may have.
func why(err error) string {
	var errno syscall.Errno
	var protocol protocolError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "timed out"
	case errors.As(err, &protocol):
		return string(protocol)
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, net.ErrClosed):
		return "connection closed"
	default:
		return err.Error()
	}
}

// unasked reads what the server says before it is asked: goodbye, most likely. Anything else is an error: it would be taken
// for the answer to what is asked next, and so on to the end of the session.
func (s *Session) unasked() (mail.Reply, error) {
	reply, err := s.conn.reply(s.server.Timeouts.Quit)
	if err == nil && !closing(reply) {
		err = outOfPlace(reply)
	}
	return reply, err
}

// lost says what it means that a reply did not come, or was none. doing ends "while ...".
func (s *Session) lost(doing string, err error) mail.Result {
	r := s.loss(doing, err)
	s.breakOff(r)
	return r
}

func (s *Session) loss(doing string, err error) mail.Result {
	var protocol protocolError
	switch {
	case s.conn.interrupted.Load():
		return s.delay(mail.OfUs, mail.EnhancedCode{4, 3, 2}, "interrupted while %s", doing)
	case errors.As(err, &protocol):
		return s.delay(mail.OfHost, mail.EnhancedCode{4, 5, 0}, "%s made a mistake while %s: %s", s.server.Host, doing, why(err))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return s.delay(mail.OfHost, mail.EnhancedCode{4, 4, 2}, "conversation with %s timed out while %s", s.server.Host, doing)
	default:
		return s.delay(mail.OfHost, mail.EnhancedCode{4, 4, 2}, "lost connection with %s while %s%s", s.server.Host, doing, detail(err))
	}
}

// detail returns the cause of a lost connection unless it is just that.
func detail(err error) string {
	if text := why(err); text != "EOF" && text != "unexpected EOF" && text != "connection closed" {
		return fmt.Sprintf(" (%s)", text)
	}
	return ""
}
