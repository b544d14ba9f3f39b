// Package smtpd is the server's side of SMTP (RFC 5321): a session with one client, whose messages it hands on one by
// one. It says yes to a message only when whoever takes it has it for good.
//
// Of what the client sends nothing can be read in two ways. Data ends at CR LF "." CR LF and nowhere else; a bare CR or
// LF is content, which submit makes a line end. Only at a pipe, where nobody else can have a different opinion, programs
// that end their lines with bare LF are understood: if the first command does so, LF ends the lines of data, too. What
// follows BDAT (RFC 3030) is read, as many octets as it says, whether the chunk is wanted or not; if it does not say how
// many, the session ends, because what follows might be content that looks like commands.
//
// It announces PIPELINING, SIZE, 8BITMIME, SMTPUTF8, DSN, ENHANCEDSTATUSCODES, CHUNKING, FUTURERELEASE, DELIVERBY,
// MT-PRIORITY and LIMITS, and where there is something for it, STARTTLS and AUTH. Whom to let in without a login is decided
// before. REQUIRETLS (RFC 8689) is announced where nobody can listen: on this machine, and under TLS.
//
// The server of emersion/go-smtp, which has all these extensions, is not used: as of v0.25.1 it takes CR CR LF "." CR LF
// for content, and so what follows for the rest of the message; it runs the chunk of a BDAT command with a wrong second
// word as commands; it ends the session at a line of content longer than its limit for commands; and it drops the quotes
// of local parts, and knows no names without domain.
package smtpd

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/postrider/postrider/internal/login"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
)

// A Conn is a connection to a client. After a deadline, Read and Write return os.ErrDeadlineExceeded.
type Conn interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Options say what a session has to know.
type Options struct {
	Hostname string // ours, in the greeting
	MaxSize  int64  // of a message, in octets, to be announced; 0 means no limit
	// Client is the address of the client as Received fields have it, "[192.0.2.1]"; "" if it has none.
	Client string
	// Local is set if the client is on this machine: nobody can listen in between.
	Local bool
	// Urgent is set if the client's messages may go before those of others (RFC 6710 section 5.1).
	Urgent bool
	// Pipe is set if the client is a program that we have at our standard input.
	Pipe bool
	// Private is set if the connection is a unix socket: at an address of this machine, a tunnel may begin.
	Private bool

	// StartTLS makes the connection one that nobody else can read, and returns what the session goes on with; nil if that
	// is not possible. The connection has its deadlines.
	StartTLS func() (Conn, error)
	// Users returns who may log in; nil if nobody can.
	Users func() (login.Users, error)
	// LoggedIn is told who has logged in, or that somebody has tried to; it may be nil.
	LoggedIn func(name string, err error)
	// Stranger says that the client must log in before he sends mail, and soon.
	Stranger bool

	// Submit reads a message to its end: an envelope, the content, and the trace. The error should be a *submit.Error.
	Submit func(submit.Submission) (Pending, error)
	// AtOnce is how many messages are committed at the same time, for a client that does not wait for our word on one
	// before he sends the next; 0 and 1 are one after the other.
	AtOnce int
	Now    func() time.Time
}

// A Pending is a message that is not in the queue yet. Every Pending ends with Commit or Abort; these may be called from
// another goroutine than Submit.
type Pending interface {
	// Commit puts the message into the queue, under the ID it returns. When the error is nil the message is there for
	// good; otherwise it is not there, and the error should be a *submit.Error.
	Commit() (mail.ID, error)
	Abort() error
}

// Limits of what one client may ask for.
const (
	// maxLine is how long a command may be, with its line end. RFC 5321 section 4.5.3.1.4 asks for 512, and what the
	// extensions add comes to about 1,100.
	maxLine = 4096
	// maxRecipients is for one message. RFC 5321 section 4.5.3.1.8 asks for 100.
	maxRecipients = 1000
	// maxEnvelope is how long the RCPT commands for one message may be: they are kept in memory.
	maxEnvelope = 256 << 10
	// maxBad is how many commands may be wrong before we hang up. A message that is accepted makes up for all.
	maxBad = 20
	// maxIdle is how many commands a client may send that bring no message nearer, like NOOP, until he hands one in.
	maxIdle = 500

	commandTimeout = 5 * time.Minute  // for the next command, or the next piece of a message (RFC 5321 section 4.5.3.2.7)
	messageTimeout = 10 * time.Minute // for a whole message
	replyTimeout   = 2 * time.Minute  // for the client to take our replies
	loginTimeout   = 2 * time.Minute  // for a stranger to log in, from the greeting on
	lastReply      = 5 * time.Second  // for a stranger to take what we say when that time has passed
	stopTimeout    = 7 * time.Second  // for the rest of a message when we are told to end
)

// ErrCutOff is the error for input that ends in the middle of a message. That message was not taken.
var ErrCutOff = errors.New("the input ended in the middle of a message")

// Serve conducts a session until the client ends it, or ctx is done. Clients that come and go without a word of farewell
// are no error.
func Serve(ctx context.Context, conn Conn, o Options) error {
	c := newSession(conn, o)
	stop := context.AfterFunc(ctx, c.in.stop)
	defer stop()
	err := c.run()
	return errors.Join(err, c.in.flush())
}
