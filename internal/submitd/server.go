package submitd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
)

// A Server takes messages from one client.
type Server struct {
	UID    int                  // the user ID of the client, as the kernel says
	Author func() submit.Author // who that is
	// Submit takes a message. When the error is nil, it is in the queue for good; otherwise it is not there, and the
	// error should be a *submit.Error.
	Submit func(submit.Submission) (mail.ID, error)
	Now    func() time.Time // the clock of arrival times; deadlines are real
	// Turn calls serve when it is the client's turn to hand in a message; until then nothing is read of it. nil means
	// that it always is.
	Turn func(serve func() error) error
	// Idle is how long the client may take for the next request, and to send one without the message; 0 means any time.
	Idle time.Duration
}

const (
	// contentTimeout is how long the server waits for a chunk of a message. Programs pipe into sendmail what they
	// write while they work: a cron job may take hours between two lines.
	contentTimeout = 24 * time.Hour
	answerTimeout  = time.Minute
	// graceTime is what a request may take that was on its way when the server was told to end.
	graceTime = time.Second

	maxRequestLine = 8 << 10
	// maxRequest is for all lines of a request. A command line, where they come from, is seldom allowed 2 MiB.
	maxRequest = 4 << 20
)

// Serve answers requests until the client has no more of them, or ctx is done: then the one under way is the last. What
// is wrong with one message is told to the client; the error is about the connection, or about a client that does not
// keep to the protocol.
func (s *Server) Serve(ctx context.Context, conn Conn) error {
	in := bufio.NewReaderSize(conn, chunkSize)
	p := pause{conn: conn, idle: s.Idle}
	stop := context.AfterFunc(ctx, p.stop)
	defer stop()
	for {
		if err := p.begin(); err != nil {
			return err
		}
		if _, err := in.Peek(1); err != nil {
			if errors.Is(err, io.EOF) || p.stopped() {
				return nil
			}
			return err
		}
		err := s.turn(func() error {
			if err := p.end(); err != nil {
				return err
			}
			return s.serve(conn, in)
		})
		var refusal *submit.Error
		if errors.As(err, &refusal) {
			// What follows may be anything.
			return errors.Join(err, s.answer(conn, "", err))
		}
		if err != nil {
			return err
		}
	}
}

func (s *Server) turn(serve func() error) error {
	if s.Turn == nil {
		return serve()
	}
	return s.Turn(serve)
}

// serve takes one message. A *submit.Error says what is wrong with the request, or that it was not read.
func (s *Server) serve(conn Conn, in *bufio.Reader) error {
	r, err := readRequest(in)
	if err != nil {
		return err
	}
	c := content{in: in}
	if s.Idle > 0 {
		c.conn = conn
	}
	id, err := s.submit(r, &c)
	if err := c.rest(); err != nil {
		return err
	}
	if errors.Is(c.err, errCancelled) {
		err = submit.Refuse(submit.ExitTemporary, cancelled, "%w", errCancelled)
	}
	return s.answer(conn, id, err)
}

// A pause is the time between two messages, in which a server that is told to end can do so.
type pause struct {
	conn Conn
	idle time.Duration // until it is over; 0 means any time

	mu   sync.Mutex
	on   bool
	told bool // to end
}

func (p *pause) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.on = true
	return p.wait()
}

// end has the client send its request in the time that a pause may have.
func (p *pause) end() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.on = false
	return p.wait()
}

// stop ends a pause. It may be called at any time.
func (p *pause) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.told = true; p.on {
		_ = p.wait() // a connection without deadlines ends with its process
	}
}

func (p *pause) stopped() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.told
}

func (p *pause) wait() error {
	switch {
	case p.told && p.on:
		return p.conn.SetReadDeadline(time.Now().Add(graceTime))
	case p.idle > 0:
		return p.conn.SetReadDeadline(time.Now().Add(p.idle))
	}
	return nil
}

// submit completes a submission, and has it taken.
func (s *Server) submit(r *Request, c *content) (mail.ID, error) {
	author := s.Author
	if r.FullName != "" {
		author = func() submit.Author { return submit.Author{Login: s.Author().Login, Name: r.FullName} }
	}
	if r.Unsigned {
		login, err := mail.ParsePath(s.Author().Login)
		if err != nil {
			return "", submit.NotQueued(err)
		}
		r.Sender = login
	}
	r.Arrival, r.Submitter, r.Author, r.Content = s.Now(), s.UID, author, c
	if err := r.CheckTimes(r.Arrival); err != nil {
		return "", submit.Refuse(submit.ExitUsage, mail.EnhancedCode{5, 5, 4}, "%w", err)
	}
	return s.Submit(r.Submission)
}

func (s *Server) answer(conn Conn, id mail.ID, err error) error {
	if err := conn.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	line := fmt.Appendf(nil, "0 %s", id)
	if err != nil {
		line = appendRefusal(nil, err)
	}
	const most = maxAnswer - 1
	_, err = conn.Write(append(line[:min(len(line), most)], '\n'))
	return err
}

func appendRefusal(b []byte, err error) []byte {
	var refusal *submit.Error
	if !errors.As(err, &refusal) {
		refusal = submit.NotQueued(err)
	}
	told := wordNotTold
	if refusal.Returned {
		told = wordTold
	}
	return fmt.Appendf(b, "%d %s %s %s", refusal.Status, refusal.Code, told, oneLine(refusal.Error()))
}

// readRequest reads the lines before a message. A *submit.Error says what is wrong with them.
func readRequest(in *bufio.Reader) (*Request, error) {
	r := &Request{Unsigned: true}
	left := maxRequest
	for first := true; ; first = false {
		line, err := readLine(in)
		if err != nil {
			return nil, err
		}
		if left -= len(line); left < 0 {
			return nil, refuse(errors.New("request too long"))
		}
		switch {
		case first && string(line) != greeting:
			err = fmt.Errorf("%w: this is not %q", errProtocol, greeting)
		case first:
		case len(line) == 0:
			return r, nil
		default:
			err = r.parseLine(line)
		}
		if err != nil {
			return nil, refuse(fmt.Errorf("request line %q: %w", shorten(line), err))
		}
	}
}

var errProtocol = errors.New("another protocol")

func refuse(err error) error {
	return submit.Refuse(submit.ExitUsage, mail.EnhancedCode{5, 5, 2}, "%w", err)
}

func shorten(line []byte) []byte { return line[:min(len(line), 60)] }

// readLine returns a line without its end. It is valid until the next read.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull) || len(line) > maxRequestLine:
		return nil, refuse(fmt.Errorf("request line %q is too long", shorten(line)))
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF
	}
	return bytes.TrimSuffix(line, []byte("\n")), err
}

// A content is a message that comes in chunks.
type content struct {
	in   *bufio.Reader
	conn Conn  // whose deadline is moved; nil if it has none
	left int64 // of the chunk at hand
	err  error
}

var errCancelled = errors.New("the client has given up the message")

func (c *content) Read(p []byte) (int, error) {
	for c.left == 0 && c.err == nil {
		c.next()
	}
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.in.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if n == 0 && err != nil {
		c.err = cutOff(err)
	}
	return n, nil
}

// next reads the length of a chunk.
func (c *content) next() {
	if c.conn != nil {
		if c.err = c.conn.SetReadDeadline(time.Now().Add(contentTimeout)); c.err != nil {
			return
		}
	}
	line, err := readLine(c.in)
	if err != nil {
		c.err = err
		return
	}
	if string(line) == "cancel" {
		c.err = errCancelled
		return
	}
	const bits = 31
	n, err := strconv.ParseUint(string(line), 10, bits)
	switch {
	case err != nil:
		c.err = fmt.Errorf("%w: chunk of length %q", errProtocol, shorten(line))
	case n == 0:
		c.err = io.EOF
	default:
		c.left = int64(n)
	}
}

// cutOff returns the error for a message that ends before its end.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// rest reads what nobody wanted of the message. It returns an error if no other request can follow.
func (c *content) rest() error {
	for c.err == nil {
		n, err := io.CopyN(io.Discard, c.in, c.left)
		if c.left -= n; err != nil {
			c.err = cutOff(err)
			break
		}
		c.next()
	}
	if errors.Is(c.err, io.EOF) || errors.Is(c.err, errCancelled) {
		return nil
	}
	return c.err
}
