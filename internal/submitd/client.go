package submitd

import (
	"bufio"
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

// A Client hands in messages, one after the other, over a connection to a server.
type Client struct {
	conn  Conn
	in    *bufio.Reader
	out   *bufio.Writer
	chunk []byte // is gathered here
}

// NewClient returns a client that has the connection to itself.
func NewClient(conn Conn) *Client {
	return &Client{
		conn: conn, in: bufio.NewReaderSize(conn, maxAnswer), out: bufio.NewWriterSize(toServer{conn}, 2*chunkSize), chunk: make([]byte, chunkSize),
	}
}

const (
	chunkSize = 32 << 10 // of the content sent at once
	maxAnswer = 4 << 10
)

// serverTimeout is how long a server may be busy with others, or with its disk.
const serverTimeout = 5 * time.Minute

// toServer is the connection to a server, who does not keep us for ever.
type toServer struct{ Conn }

func (s toServer) Write(b []byte) (int, error) {
	if err := s.SetWriteDeadline(time.Now().Add(serverTimeout)); err != nil {
		return 0, err
	}
	return s.Conn.Write(b)
}

// A Pending is a message that the server has, but for the word that this is all of it.
type Pending struct{ c *Client }

// Receive sends a message. The error is a *submit.Error; unless the server is gone, another message may be sent.
func (c *Client) Receive(r Request) (*Pending, error) {
	// What cannot be written is an error from now on. A small message, its end included, is one write.
	_, err := c.out.Write(r.appendText(nil))
	if r.Dots {
		r.Content = submit.UntilDot(r.Content)
	}
	for err == nil {
		n, errRead := r.Content.Read(c.chunk)
		if n > 0 {
			_, err = c.out.WriteString(strconv.Itoa(n) + "\n")
		}
		if err == nil {
			_, err = c.out.Write(c.chunk[:n])
		}
		switch {
		case err != nil:
		case errors.Is(errRead, io.EOF):
			return &Pending{c}, nil
		case errRead != nil:
			return nil, errors.Join(submit.Unreadable(errRead), c.cancel())
		}
	}
	return nil, c.lost(err)
}

// Commit puts the message into the queue, under the ID it returns. The error is a *submit.Error: that the message is not
// there; if the server is gone, it may be there nevertheless.
func (p *Pending) Commit() (mail.ID, error) {
	if err := p.c.write("0\n"); err != nil {
		return "", p.c.lost(err)
	}
	return p.c.answer()
}

// Abort forgets the message.
func (p *Pending) Abort() error { return p.c.cancel() }

// cancel has the server forget the message. That it says so is no error.
func (c *Client) cancel() error {
	if err := c.write("cancel\n"); err != nil {
		return c.lost(err)
	}
	_, err := c.answer()
	var refusal *submit.Error
	if errors.As(err, &refusal) && refusal.Code == cancelled {
		return nil
	}
	return err
}

// cancelled is the code of the answer to that.
var cancelled = mail.EnhancedCode{4, 0, 0}

func (c *Client) write(s string) error {
	_, err := c.out.WriteString(s)
	return errors.Join(err, c.out.Flush())
}

// lost returns what the server said before it hung up, or that it did.
func (c *Client) lost(err error) error {
	if _, answer := c.answer(); !errors.Is(answer, errHungUp) && answer != nil {
		return answer
	}
	return submit.NotQueued(fmt.Errorf("%w: %w", errHungUp, err))
}

var errHungUp = errors.New("the server of the submission socket has hung up")

// answer reads the line that the server has for a message.
func (c *Client) answer() (mail.ID, error) {
	err := c.conn.SetReadDeadline(time.Now().Add(serverTimeout))
	var line []byte
	if err == nil {
		line, err = c.in.ReadSlice('\n')
	}
	if err != nil {
		return "", submit.NotQueued(fmt.Errorf("%w: %w", errHungUp, err))
	}
	status, rest, _ := strings.Cut(string(bytes.TrimSuffix(line, []byte("\n"))), " ")
	if status == "0" {
		id, err := mail.ParseID(rest)
		if err != nil {
			return "", submit.NotQueued(fmt.Errorf("the submission socket answers: %w", err))
		}
		return id, nil
	}
	return "", parseRefusal(status, rest)
}

func parseRefusal(status, rest string) error {
	code, rest, _ := strings.Cut(rest, " ")
	told, words, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(status, 10, 7)
	enhanced, ok := mail.ParseEnhancedCode(code)
	if err != nil || !ok {
		return submit.NotQueued(fmt.Errorf("the submission socket answers %q", status))
	}
	refusal := submit.Refuse(int(n), enhanced, "%s", words)
	refusal.Returned = told == wordTold
	return refusal
}

// Words of an answer that say whether the sender gets a report.
const (
	wordTold    = "told"
	wordNotTold = "-"
)
