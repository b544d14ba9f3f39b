package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/smtptest"
)

// drainSessions is how many connections a drain may have.
const drainSessions = 20

// A way is how messages go to servers of a dialect, and how many of them a second a connection then takes at most when
// an answer needs a round trip of RTT, whatever the processors could do.
type way struct {
	name    string
	dialect dialect
	formula string
	trips   float64 // for one message to one recipient
	flight  float64 // messages in one trip
}

var ways = []way{
	{"PIPELINING, CHUNKING", dialect{true, true}, "32 messages in flight: 32/RTT", 1, 32},
	{"PIPELINING", dialect{true, false}, "content, then MAIL RCPT DATA of the next: 1/RTT", 1, 1},
	{"CHUNKING", dialect{false, true}, "MAIL, RCPT, BDAT: 1/(3 RTT)", 3, 1},
	{"neither", dialect{}, "MAIL, RCPT, DATA, content: 1/(4 RTT)", 4, 1},
}

// drain measures passes to servers of all dialects at several distances.
func drain(b *bench) error {
	const full = 10_000
	for _, away := range []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond} {
		for _, w := range ways {
			n := full
			if away > 0 && w.flight == 1 {
				n = full / 5 // the rate does not depend on it, but the time that this takes
			}
			if err := b.drainBy(w, away, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) drainBy(w way, away time.Duration, n int) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	q, err := b.newQueue(fmt.Sprintf("drain-%v-%v-%v", w.dialect.Pipelining, w.dialect.Chunking, away), fmt.Sprintf(
		"[transport.out]\nurl = \"smtp://127.0.0.1:%d\"\nconcurrency = %d\n[[route]]\ntransport = \"out\"\n%s", port, drainSessions, soon))
	if err != nil {
		return err
	}
	if err := q.fill(n); err != nil {
		return err
	}
	if _, err := q.pass(); err != nil {
		return err
	}
	time.Sleep(2 * soonWait) // until they are due
	u, c, err := q.deliver(port, n, manner{Away: away, Dialect: &w.dialect})
	if err != nil {
		return err
	}
	bound := "no bound"
	if away > 0 {
		bound = fmt.Sprintf("at most %.0f/s on %d", w.flight/w.trips/away.Seconds()*float64(c.Most), c.Most)
	}
	fmt.Printf("  %s away, %s (%s; %s)\n", away, w.name, w.formula, bound)
	chunks := w.dialect.Pipelining && w.dialect.Chunking
	var rate, cpu *bar
	switch {
	case chunks && away == 0:
		rate, cpu = atLeast(10_000), atMost(100)
	case chunks && away == 50*time.Millisecond:
		rate = atLeast(2000)
	case w.dialect.Pipelining && away == 0:
		cpu = atMost(150)
	}
	b.row("  messages/s", float64(n)/u.wall.Seconds(), rate)
	b.row("  CPU of queue-runner for one message, µs", microseconds(u.cpu)/float64(n), cpu)
	b.row("  connections at once", float64(c.Most), atMost(drainSessions))
	return os.RemoveAll(q.dir)
}

// large measures what memory a large message takes.
func large(b *bench) error {
	for _, extensions := range [][]string{{"PIPELINING", "8BITMIME", "CHUNKING"}, {"PIPELINING", "8BITMIME"}} {
		srv, err := smtptest.Start(smtptest.Options{Certificate: smtptest.Valid, Discard: true, Extensions: extensions})
		if err != nil {
			return err
		}
		err = b.largeTo(srv, strings.Join(extensions, " "))
		if err := errors.Join(err, srv.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) largeTo(srv *smtptest.Server, offers string) error {
	q, err := b.newQueue("large", fmt.Sprintf("relay = \"smtp://%s\"\n", srv.Addr()))
	if err != nil {
		return err
	}
	cmd := b.command(q.config, "sendmail", "-f", "ann@example.org", "bob@example.net")
	cmd.Stdin = strings.NewReader(letter(100 << 20))
	if err := cmd.Run(); err != nil {
		return err
	}
	peak, err := b.compile("peak")
	if err != nil {
		return err
	}
	runner := b.command(q.config, "queue-runner")
	runner.Stderr = nil
	var out strings.Builder
	runner = under(runner, peak)
	runner.Stdout = &out
	u, err := measure(runner)
	if err != nil {
		return err
	}
	if srv.Accepted() != 1 {
		return errors.New("it has not arrived")
	}
	kib, err := strconv.ParseFloat(strings.TrimSpace(out.String()), 64)
	if err != nil {
		return err
	}
	b.row(offers+": peak resident memory, MB", kib/1024, atMost(32))
	b.row(offers+": MB/s", 100/u.wall.Seconds(), nil)
	return os.RemoveAll(q.dir)
}
