package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/internal/submitd"
	"github.com/postrider/postrider/spool/drop"
)

// An entrance is a way into the spool.
type entrance interface {
	// receive reads a message to its end. The error is a *submit.Error.
	receive(s submit.Submission) (pending, error)
	close() error
}

// A pending is a message that is not in the queue yet.
type pending interface {
	Commit() (mail.ID, error)
}

// enter returns the first way in that there is: the directory of the spool, if we may write to it; else the submission
// socket, whose server writes for us. A spool that is missing is made, unless the socket is there: then somebody has left
// us nothing else on purpose.
func (o *options) enter(cfg *config.Config) (entrance, error) {
	path := filepath.Join(cfg.Spool, "drop")
	closed := drop.Check(path)
	if closed != nil && submitd.May(cfg.Spool) {
		return bySocket{cfg.Spool, !o.senderGiven, o.givenName()}, nil
	}
	if closed == nil || errors.Is(closed, fs.ErrNotExist) {
		dir, err := openDrop(cfg.Spool)
		if err == nil {
			return direct{cfg.Host(), dir}, nil
		}
		closed = err
	}
	if errors.Is(closed, fs.ErrPermission) {
		closed = fmt.Errorf("%w; sendmail must be set-group-ID to the group of the spool, or you a member of it, or somebody serve %s in it", closed, submitd.Socket)
	}
	return nil, submit.NotQueued(closed)
}

// direct is the directory of the spool.
type direct struct {
	host submit.Host
	dir  *drop.Dir
}

func (d direct) receive(s submit.Submission) (pending, error) {
	p, err := d.host.Receive(d.dir, s)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (d direct) close() error { return d.dir.Close() }

// bySocket is the server of the submission socket.
type bySocket struct {
	spool    string
	unsigned bool   // the caller has named no sender: the server knows better than we who he is
	name     string // the display name that he has named; "" for none
}

// gathered is how much of a message is read before the server is called. Most are shorter, and a job that writes for hours
// has nobody waiting, and no server that must not be restarted meanwhile.
const gathered = 256 << 10

func (b bySocket) receive(s submit.Submission) (pending, error) {
	r := submitd.Request{Submission: s, Unsigned: b.unsigned, FullName: b.name}
	if s.Dots {
		r.Content, r.Dots = submit.UntilDot(s.Content), false
	}
	head := make([]byte, gathered)
	n, err := io.ReadFull(r.Content, head)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		r.Content = bytes.NewReader(head[:n])
	case err != nil:
		return nil, submit.Unreadable(err)
	default:
		r.Content = io.MultiReader(bytes.NewReader(head), r.Content)
	}
	conn, err := submitd.Dial(b.spool)
	if err != nil {
		return nil, submit.NotQueued(err)
	}
	p, err := submitd.NewClient(conn).Receive(r)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return p, nil // the connection ends with us
}

func (bySocket) close() error { return nil }
