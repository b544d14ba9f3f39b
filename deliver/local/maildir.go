// Package local delivers on this machine: into Maildirs and mbox files, and to programs.
//
// A Maildir delivery is exactly once, whatever is killed or loses power in between. The name of the file follows from
// the message and the recipient alone, so that a second attempt meets what the first one left behind:
//
//	state                        files                          a second attempt
//	being written                tmp/ID_n.random, incomplete    writes another; the old one is removed after 36 hours
//	written and synced           tmp/ID_n.random, complete      likewise
//	linked, tmp not yet removed  tmp/ID_n.random, new/NAME      finds new/NAME: delivered, once new/ is synced
//	linked                       new/NAME                       likewise
//	seen by the mail reader      cur/NAME:2,flags               finds cur/NAME: delivered, once cur/ is synced
//
// The content is synced before the name appears in new/, so a name is proof of a complete file. A message that the
// reader has deleted between two attempts of ours is delivered again: nothing is left to tell us.
//
// In an mbox file, which has no names, an earlier attempt that was killed is known by what it wrote:
//
//	state                 the file ends in                   a second attempt
//	being written         a part of the message              cuts it off, and writes the message
//	written, synced       the message                        finds it: delivered, once the file is synced
//	others have appended  the message, and theirs            finds it in the last megabyte: delivered
//
// If the reader has changed the message since, or more than that has come after it, it is delivered again. A dot lock that
// a killed attempt has left is removed by the next one.
package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// A Maildir is a session with the Maildir at Dir, for one goroutine. The directory is made when it is first used, if it
// is missing; its parent must exist, for a missing parent is rather a disk that is not mounted.
type Maildir struct {
	Dir string

	dirs   *directories
	broken bool
	buf    []byte
}

// Deliver writes one file for each of the recipients, who are positions in the envelope of m, and returns one result for
// each, in the same order.
func (d *Maildir) Deliver(ctx context.Context, m *mail.Message, recipients []int) []mail.Result {
	results := make([]mail.Result, len(recipients))
	if d.dirs == nil {
		dirs, err := openDirectories(filepath.Clean(d.Dir))
		if err != nil {
			d.broken = true
			return fill(results, d.failure(wrap(err)))
		}
		d.dirs = dirs
	}
	linked := false
	for i, n := range recipients {
		if err := context.Cause(ctx); err != nil {
			results[i] = d.from(mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 2}, "not delivered: %v", err))
			continue
		}
		results[i] = d.deliver(m, n)
		linked = linked || results[i].Action.Final()
	}
	if !linked {
		return results
	}
	// One sync for all: until then nobody is told that anything is delivered.
	if err := d.dirs.sync(); err != nil {
		d.broken = true
		for i := range results {
			if results[i].Action.Final() {
				results[i] = d.failure(err)
			}
		}
	}
	return results
}

// Usable reports whether another message may be delivered.
func (d *Maildir) Usable() bool { return !d.broken }

// Close ends the session.
func (d *Maildir) Close() {
	if d.dirs != nil {
		d.dirs.close()
	}
	d.dirs, d.broken = nil, true
}

// deliver makes the delivery for one recipient, all but the sync of new/.
func (d *Maildir) deliver(m *mail.Message, n int) mail.Result {
	if d.buf == nil {
		d.buf = make([]byte, bufferSize)
	}
	err := d.dirs.deliver(m, n, d.buf)
	switch {
	case err == nil:
		return d.from(delivered("delivered to the maildir"))
	case errors.Is(err, errDelivered):
		return d.from(delivered("delivered to the maildir by an earlier attempt"))
	}
	return d.failure(err)
}

func (d *Maildir) from(r mail.Result) mail.Result {
	r.Relay = "maildir:" + d.Dir
	return r
}

// failure returns the deferral for an error. Nothing that goes wrong here is the sender's fault, so nothing bounces.
func (d *Maildir) failure(err error) mail.Result {
	var content *contentError
	switch {
	case errors.As(err, &content):
		return d.from(mail.Delay(mail.OfMessage, mail.EnhancedCode{4, 3, 0}, "%v", err))
	case errors.Is(err, unix.EDQUOT):
		return d.from(mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 2, 2}, "%v", err))
	case errors.Is(err, unix.ENOSPC):
		// The session goes on: a smaller message may still fit.
		return d.from(mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 1}, "%v", err))
	}
	d.broken = true
	return d.from(mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "%v", err))
}

func fill(results []mail.Result, r mail.Result) []mail.Result {
	for i := range results {
		results[i] = r
	}
	return results
}

// pathError returns the error of a system call with what it was about; nil for nil.
func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// wrap says what we were doing when err happened; nil for nil.
func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("deliver to maildir: %w", err)
}
