package smtpd

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// An input is what the client sends, and what we have to say. Replies are sent when there is nothing left to read: as
// many at once as the client has sent commands at once (RFC 2920 section 3.2).
type input struct {
	*bufio.Reader
	conn  Conn
	out   *bufio.Writer
	after []*promise // what follows what is in out, in this order
	now   func() time.Time

	mu      sync.Mutex
	message time.Time // when the message under way has to be complete; zero if there is none
	stopped time.Time // when we were told to end; zero if we were not
	login   time.Time // when the client has to have logged in; zero if he has, or need not
}

// readSize is how much is read at once: at least a command and its line end.
const readSize = 32 << 10

func newInput(conn Conn, now func() time.Time) *input {
	in := &input{conn: conn, now: now}
	in.Reader, in.out = bufio.NewReaderSize(source{in}, readSize), bufio.NewWriter(sink{in})
	return in
}

// A source reads from the connection for the buffer of an input.
type source struct{ *input }

func (s source) Read(p []byte) (int, error) {
	if err := s.flush(); err != nil {
		return 0, err
	}
	if err := s.setDeadline(); err != nil {
		return 0, err
	}
	return s.conn.Read(p)
}

// A sink writes what was in the buffer of an input, which may be full before there is nothing left to read.
type sink struct{ *input }

func (s sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	deadline := s.now().Add(replyTimeout)
	if !s.login.IsZero() && s.login.Add(lastReply).Before(deadline) {
		deadline = s.login.Add(lastReply)
	}
	s.mu.Unlock()
	if err := s.conn.SetWriteDeadline(deadline); err != nil {
		return 0, err
	}
	return s.conn.Write(p)
}

// flush sends all replies, and waits for those that are promised.
func (in *input) flush() error {
	in.settle(0)
	return in.out.Flush()
}

// A promise is a reply that nobody knows yet, and the replies that come after it.
type promise struct {
	reply chan []byte
	then  []byte
}

// maxThen is how much is kept of what comes after a promise.
const maxThen = 4 << 10

// promise has a reply found out while the session goes on. At most so many are found out at once.
func (in *input) promise(reply func() []byte, atOnce int) {
	in.settle(atOnce - 1)
	p := &promise{reply: make(chan []byte, 1)}
	in.after = append(in.after, p)
	go func() { p.reply <- reply() }()
}

// settle waits until no more than so many promises are left.
func (in *input) settle(most int) {
	for len(in.after) > most {
		p := in.after[0]
		in.after = in.after[1:]
		in.write(<-p.reply)
		_, _ = in.out.Write(p.then)
	}
}

// say adds a reply, which comes after all others.
func (in *input) say(line []byte) {
	if len(in.after) > 0 {
		p := in.after[len(in.after)-1]
		if len(p.then) < maxThen {
			p.then = append(append(p.then, line...), "\r\n"...)
			return
		}
		in.settle(0)
	}
	in.write(line)
}

// write adds a line to what is sent next. An error is kept by the writer until it is flushed.
func (in *input) write(line []byte) {
	_, _ = in.out.Write(line)
	_, _ = in.out.WriteString("\r\n")
}

func (in *input) setDeadline() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	deadline := in.now().Add(commandTimeout)
	if !in.message.IsZero() && in.message.Before(deadline) {
		deadline = in.message
	}
	if !in.login.IsZero() && in.login.Before(deadline) {
		deadline = in.login
	}
	if !in.stopped.IsZero() {
		end := in.stopped
		if !in.message.IsZero() {
			end = end.Add(stopTimeout)
		}
		if end.Before(deadline) {
			deadline = end
		}
	}
	return in.conn.SetReadDeadline(deadline)
}

// stop has the session end before the next command, and a message under way soon. It may be called at any time.
func (in *input) stop() {
	in.mu.Lock()
	in.stopped = in.now()
	in.mu.Unlock()
	// Whoever waits wakes up, and may wait again. A connection without deadlines ends with its process.
	_ = in.setDeadline()
}

func (in *input) isStopped() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return !in.stopped.IsZero()
}

// replace goes on with another connection; nothing that came by the last one is left.
func (in *input) replace(conn Conn) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.conn = conn
}

// limit gives both ends a time in which to do something with the connection themselves.
func (in *input) limit(d time.Duration) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	end := in.now().Add(d)
	if !in.login.IsZero() && in.login.Before(end) {
		end = in.login
	}
	if !in.stopped.IsZero() {
		end = in.stopped
	}
	return errors.Join(in.conn.SetReadDeadline(end), in.conn.SetWriteDeadline(end))
}

// expect gives the client until t to log in, for all that he says and does not say; with zero he has.
func (in *input) expect(t time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.login = t
}

// begin gives a message its time; end takes it back.
func (in *input) begin() { in.setMessage(in.now().Add(messageTimeout)) }
func (in *input) end()   { in.setMessage(time.Time{}) }

func (in *input) setMessage(t time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.message = t
}

// errLong is the error for a command that is longer than maxLine. All of it has been read.
var errLong = errors.New("command too long")

// line reads a command. bare says that it ended with LF alone. Of a command that is too long only the first word is
// returned.
func (in *input) line() (line string, bare bool, err error) {
	b, err := in.ReadSlice('\n')
	if len(b) > maxLine {
		line = string(b[:len(chunkVerb)])
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		return line, false, cmp.Or(err, errLong)
	}
	if err != nil {
		return "", false, err
	}
	text, crlf := bytes.CutSuffix(b, []byte("\r\n"))
	if !crlf {
		text = bytes.TrimSuffix(b, []byte("\n"))
	}
	return string(text), !crlf, nil
}

// isTimeout reports whether a client took too long, or we were told to end.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// isEnd reports whether the client went away.
func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
