package main

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/postrider/postrider/spool"
	"golang.org/x/sys/unix"
)

// A listing is a form in which the queue is printed. Queues can be long, so it appends rather than formats.
type listing interface {
	appendEntry(b []byte, e *spool.Entry) []byte
	appendEnd(b []byte) []byte
}

// enough is how much is gathered before it is written, in octets.
const enough = 32 << 10

// printQueue prints the entries as they come, the first at once. When an entry is an error, what came before is printed
// and the error returned. A reader who has seen enough is none.
func printQueue(w io.Writer, entries iter.Seq2[spool.Entry, error], l listing) error {
	buf := make([]byte, 0, enough+enough/2)
	first := true
	var failure error
	for e, err := range entries {
		if err != nil {
			failure = fmt.Errorf("read the queue: %w", err)
			break
		}
		if buf = l.appendEntry(buf, &e); first || len(buf) >= enough {
			if err := write(w, buf); err != nil {
				return ignorePipe(err)
			}
			first, buf = false, buf[:0]
		}
	}
	if failure == nil {
		buf = l.appendEnd(buf)
	}
	if err := write(w, buf); err != nil {
		return errors.Join(failure, ignorePipe(err))
	}
	return failure
}

func write(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}

func ignorePipe(err error) error {
	if errors.Is(err, unix.EPIPE) {
		return nil
	}
	return fmt.Errorf("write: %w", err)
}

// senderOf returns the sender as Postfix shows it.
func senderOf(e *spool.Entry) string {
	if e.Sender.IsNull() {
		return "MAILER-DAEMON"
	}
	return e.Sender.Address()
}
