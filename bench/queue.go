package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
)

// plainConfig queues; nothing is delivered unless a pass is made, and all mail waits for a smarthost where nobody is.
const plainConfig = `relay = "smtp://127.0.0.1:1"
`

// A queue is a spool with its configuration.
type queue struct {
	b      *bench
	dir    string
	config string // file
}

// newQueue makes an empty spool called name.
func (b *bench) newQueue(name, config string) (*queue, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return b.newQueueAt(dir, config)
}

func (b *bench) newQueueAt(dir, config string) (*queue, error) {
	q := &queue{b: b, dir: dir, config: filepath.Join(dir, "postrider.toml")}
	config = fmt.Sprintf("spool = %q\nhostname = \"bench.example\"\ndelivery = \"queue\"\nlog = \"stderr\"\n%s", q.spool(), config)
	return q, os.WriteFile(q.config, []byte(config), 0o600)
}

func (q *queue) spool() string { return filepath.Join(q.dir, "spool") }

func (q *queue) log() string { return filepath.Join(q.dir, "log") }

// logged returns how long the log of the passes is.
func (q *queue) logged() (int64, error) {
	st, err := os.Stat(q.log())
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// pass makes one pass; its log goes to a file, as it would go to a journal.
func (q *queue) pass() (usage, error) {
	log, err := os.OpenFile(q.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return usage{}, err
	}
	cmd := q.b.command(q.config, "queue-runner")
	cmd.Stderr = log
	u, err := measure(cmd)
	return u, errors.Join(err, log.Close())
}

// fill puts n messages of 2 KB for one recipient into drop/. Only the first is made by the book: a sync for each would
// take longer than all that is measured. The others are the same file under the IDs that follow.
func (q *queue) fill(n int) error {
	if _, err := q.pass(); err != nil { // makes the spool
		return err
	}
	dir := filepath.Join(q.spool(), "drop")
	first, err := firstMessage(dir)
	if err != nil {
		return err
	}
	file, err := os.ReadFile(filepath.Join(dir, string(first)))
	if err != nil {
		return err
	}
	for i := 1; i < n; i++ {
		id := mail.MakeID(first.Time().Add(time.Duration(i)*time.Microsecond), 0)
		if err := os.WriteFile(filepath.Join(dir, string(id)), file, 0o640); err != nil {
			return err
		}
	}
	return nil
}

func firstMessage(path string) (mail.ID, error) {
	dir, err := drop.Open(path)
	if err != nil {
		return "", err
	}
	sender, err := mail.ParsePath("ann@example.org")
	if err != nil {
		return "", err
	}
	to, err := mail.ParsePath("bob@example.net")
	if err != nil {
		return "", err
	}
	// Old enough that the IDs of all that follow are of the past, too.
	env := &mail.Envelope{Arrival: drop.Now().Add(-time.Minute), Sender: sender, Recipients: []mail.Recipient{{Path: to}}}
	w, err := dir.Create(env)
	if err != nil {
		return "", errors.Join(err, dir.Close())
	}
	if _, err := io.WriteString(w, strings.ReplaceAll(letter(smallMessage), "\n", "\r\n")); err != nil {
		return "", errors.Join(err, w.Abort(), dir.Close())
	}
	id, err := w.Commit(mail.Facts{LongestLine: 70})
	return id, errors.Join(err, dir.Close())
}

// waiting returns a queue of n messages, each of which a smarthost has deferred for hours. It is made once.
func (b *bench) waiting(n int) (*queue, error) {
	if q := b.queues[n]; q != nil {
		return q, nil
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	q, err := b.newQueue(fmt.Sprintf("waiting-%d", n), fmt.Sprintf("relay = \"smtp://127.0.0.1:%d\"\n[retry]\nfirst = \"12h\"\n", port))
	if err != nil {
		return nil, err
	}
	if err := q.fill(n); err != nil {
		return nil, err
	}
	s, err := startSink(port, manner{ToRcpt: deferring})
	if err != nil {
		return nil, err
	}
	u, err := q.pass()
	_, errStop := s.stop()
	if err := errors.Join(err, errStop); err != nil {
		return nil, err
	}
	fmt.Printf("  (taking in %d messages, each deferred by the smarthost: %.1f s, %.0f µs CPU each)\n",
		n, u.wall.Seconds(), microseconds(u.cpu)/float64(n))
	b.queues[n] = q
	return q, nil
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// freePort returns a port of the loopback interface where nobody listens.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
