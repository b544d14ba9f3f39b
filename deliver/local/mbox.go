package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// An Mbox is a file that messages are appended to. It is made if it is missing; its directory must exist, for a missing
// one is rather a disk that is not mounted.
type Mbox struct {
	Path string
	// Owner is the user ID that the file has to belong to, unless it is our own: we never write into anybody else's.
	Owner int

	patience time.Duration // how long to wait for locks; 0 means lockPatience
}

// Deliver appends the message for the recipient at position n of its envelope.
func (b Mbox) Deliver(ctx context.Context, m *mail.Message, n int) mail.Result {
	earlier, err := b.deliver(ctx, m, n)
	r := b.failure(err)
	switch {
	case err == nil && earlier:
		r = delivered("delivered to the mailbox by an earlier attempt")
	case err == nil:
		r = delivered("delivered to the mailbox")
	}
	r.Relay = "mbox:" + b.Path
	return r
}

func (b Mbox) deliver(ctx context.Context, m *mail.Message, n int) (earlier bool, err error) {
	dir, err := openMailDirectory(filepath.Dir(b.Path))
	if err != nil {
		return false, err
	}
	defer dir.Close() // a directory has nothing to lose by it
	f, err := b.acquire(ctx, dir)
	if err != nil {
		return false, err
	}
	earlier, err = f.deliver(&rendering{m: m, n: n, buf: make([]byte, bufferSize)})
	// What was synced is delivered, whatever happens now.
	f.release()
	return earlier, err
}

// openMailDirectory opens the directory that a mailbox is in. Where everybody may make and remove files, nobody's mail
// is safe; the sticky bit is enough to leave each his own.
func openMailDirectory(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	dir := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(pathError("stat", path, err), dir.Close())
	}
	if st.Mode&0o002 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return nil, errors.Join(refuse("directory %s can be written to by everybody", path), dir.Close())
	}
	return dir, nil
}

// deliver appends what r renders, unless it is there already, and syncs it. After an error the file is as long as it was.
func (f *mailbox) deliver(r *rendering) (earlier bool, err error) {
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	size := st.Size()
	earlier, torn, err := f.find(r, size)
	if err != nil {
		return false, err
	}
	if torn >= 0 {
		if err := f.Truncate(torn); err != nil {
			return false, err
		}
		size = torn
	}
	if !earlier {
		if err := f.append(r, size); err != nil {
			if cut := f.Truncate(size); cut != nil {
				err = fmt.Errorf("%w; and the mailbox has now half of the message at its end: %v", err, cut)
			}
			return false, err
		}
	}
	return earlier, nil
}

// append writes and syncs.
func (f *mailbox) append(r *rendering, size int64) error {
	w := bufio.NewWriterSize(f, bufferSize)
	// A message of somebody else's that was cut off must not swallow ours.
	if gap, err := f.gap(size); err != nil {
		return err
	} else if _, err := w.WriteString(gap); err != nil {
		return err
	}
	if err := r.to(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.sync(size == 0)
}

// gap returns what is missing at the end of the file before another message can follow: an empty line is between two.
func (f *mailbox) gap(size int64) (string, error) {
	last := make([]byte, min(size, 2))
	if _, err := f.ReadAt(last, size-int64(len(last))); err != nil {
		return "", err
	}
	switch {
	case size == 0 || string(last) == "\n\n":
		return "", nil
	case last[len(last)-1] == '\n':
		return "\n", nil
	}
	return "\n\n", nil
}

// A rendering is a message as it stands in an mbox for one recipient: the line that begins with "From ", the heading, the
// quoted message, an empty line. It is the same at each attempt: the time is that of arrival, in UTC (RFC 4155).
type rendering struct {
	m   *mail.Message
	n   int
	buf []byte
}

// to writes the rendering.
func (r *rendering) to(w io.Writer) error {
	if _, err := io.WriteString(w, fromLine(r.m)+heading(r.m, r.n)); err != nil {
		return err
	}
	q := &quoter{w: w, ended: true}
	if err := copyMessage(q, "", r.m, r.buf); err != nil {
		return err
	}
	if err := q.flush(); err != nil {
		return err
	}
	end := "\n"
	if !q.ended {
		end = "\n\n"
	}
	_, err := io.WriteString(w, end)
	return err
}

// fromLine returns the line that begins a message. A blank in the sender would end him.
func fromLine(m *mail.Message) string {
	sender := strings.Map(func(c rune) rune {
		if c == ' ' {
			return '_'
		}
		return c
	}, m.Sender.Address())
	if m.Sender.IsNull() {
		sender = "MAILER-DAEMON"
	}
	return fromSpace + sender + " " + m.Arrival.UTC().Format(time.ANSIC) + "\n"
}

// A refusal is the error for a mailbox that mail is not to be written to. Somebody has to mend it.
type refusal struct {
	text  string
	final bool // the sender is told at once
}

func (r *refusal) Error() string { return r.text }

func refuse(format string, args ...any) error { return &refusal{text: fmt.Sprintf(format, args...)} }

// failure returns what an error means: nearly always that the mail waits.
func (b Mbox) failure(err error) mail.Result {
	var content *contentError
	var busy *busyError
	var no *refusal
	code := mail.EnhancedCode{4, 3, 0}
	scope := mail.OfUs
	switch {
	case errors.As(err, &no) && no.final:
		return mail.Result{Action: mail.Failed, Reply: mail.Reply{Enhanced: mail.EnhancedCode{5, 7, 1}, Text: no.text}}
	case errors.As(err, &content):
		scope = mail.OfMessage
	case errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG):
		code, scope = mail.EnhancedCode{4, 2, 2}, mail.OfRecipient
	case errors.Is(err, unix.ENOSPC):
		code = mail.EnhancedCode{4, 3, 1}
	case errors.As(err, &busy), errors.As(err, &no), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE):
		code, scope = mail.EnhancedCode{4, 2, 0}, mail.OfRecipient
	}
	return mail.Delay(scope, code, "deliver to mbox: %v", err)
}
