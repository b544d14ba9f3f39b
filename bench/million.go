package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
)

// A very large queue: each message goes to a hundred next hops, and each next hop has a hundred recipients.
const (
	manyMessages   = 10_000
	manyRecipients = 100 // of each
	manyHops       = 10_000
	deadHops       = 9_000
)

// millionCommand makes this program a pass over such a queue, so that its memory can be told from that of the rest.
const millionCommand = "million-pass"

// A millionResult is what such a pass says.
type millionResult struct {
	Tries     int // sessions that were asked for
	MostTries int // at one dead next hop
	DeadTried int
	Delivered int
	PeakKB    int // VmHWM
}

// million measures the schedule itself: next hops are in memory, and nothing is sent.
func million(b *bench) error {
	dir := filepath.Join(b.dir, "million")
	if err := errors.Join(spool.Create(dir), fillMillion(dir)); err != nil {
		return err
	}
	for _, pass := range []struct {
		name      string
		later     time.Duration
		delivered int
	}{{"taking it in, and one pass", 0, (manyHops - deadHops) * manyMessages * manyRecipients / manyHops}, {"a pass an hour later", time.Hour, 0}} {
		var out bytes.Buffer
		cmd := exec.CommandContext(b.ctx, os.Args[0], millionCommand, dir, strconv.Itoa(int(pass.later/time.Second)))
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		u, err := measure(cmd)
		if err != nil {
			return err
		}
		var r millionResult
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			return err
		}
		if r.DeadTried != deadHops || r.Delivered != pass.delivered {
			return fmt.Errorf("%s: %d dead next hops tried, %d recipients served", pass.name, r.DeadTried, r.Delivered)
		}
		index, err := os.Stat(filepath.Join(dir, "index.db"))
		if err != nil {
			return err
		}
		fmt.Printf("  %s:\n", pass.name)
		b.row("sessions asked for at one dead next hop", float64(r.MostTries), atMost(1))
		b.row("peak memory (VmHWM), MB", float64(r.PeakKB)/1024, atMost(200))
		b.row("index, MB", float64(index.Size())/(1<<20), atMost(500))
		b.row("wall, s", u.wall.Seconds(), nil)
		b.row("CPU, s", u.cpu.Seconds(), nil)
	}
	return os.RemoveAll(dir)
}

// fillMillion puts the messages into drop/, the first by the book, the others as files like it.
func fillMillion(dir string) error {
	d, err := drop.Open(filepath.Join(dir, "drop"))
	if err != nil {
		return err
	}
	defer d.Close() // it was only read, and is removed with all the rest
	for n := range manyMessages {
		if err := submitMany(d, n); err != nil {
			return err
		}
	}
	return nil
}

func submitMany(d *drop.Dir, n int) error {
	sender, err := mail.ParsePath("ann@example.org")
	if err != nil {
		return err
	}
	env := &mail.Envelope{Arrival: drop.Now(), Sender: sender, Submitter: os.Getuid()}
	for i := range manyRecipients {
		to, err := mail.ParsePath(fmt.Sprintf("user%d@host%d.example", n, (n*manyRecipients+i)%manyHops))
		if err != nil {
			return err
		}
		env.Recipients = append(env.Recipients, mail.Recipient{Path: to})
	}
	w, err := d.Create(env)
	if err != nil {
		return err
	}
	if _, err := w.Write([]byte("Subject: news\r\n\r\nnews\r\n")); err != nil {
		return errors.Join(err, w.Abort())
	}
	_, err = w.Commit(mail.Facts{LongestLine: 13})
	return err
}

// millionPass makes a pass over the spool at dir, so many seconds later than it is, and says what came of it.
func millionPass(dir, later string) error {
	seconds, err := strconv.Atoi(later)
	if err != nil {
		return err
	}
	// The clock stands still: on a slow machine what was deferred at first would be due again before the end.
	start := time.Now().Add(time.Duration(seconds) * time.Second)
	now := func() time.Time { return start }
	quiet := func(string, ...any) {}
	s, err := spool.Acquire(dir, spool.Options{
		Route:   func(_, to mail.Path, _ int, _ bool) string { return to.Domain() },
		Now:     now,
		MaxWait: 16 * time.Hour,
		Logf:    quiet,
	})
	if err != nil {
		return err
	}
	h := &hosts{tries: map[string]int{}}
	err = deliver.Pass(context.Background(), s, deliver.Options{
		Resolve: func(hop string) (deliver.Route, error) {
			return deliver.Route{Transport: h, Domain: hop, Concurrency: 5}, nil
		},
		Retry:    deliver.Retry{First: 450 * time.Second, Factor: 2, MaxWait: 16 * time.Hour, Expire: 120 * time.Hour},
		Hostname: "bench.example", Logf: quiet, Now: now,
	})
	if err != nil {
		return errors.Join(err, s.Abandon())
	}
	if err := s.End(); err != nil {
		return err
	}
	r := h.result()
	if r.PeakKB, err = peak(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// peak returns the VmHWM of this process (proc(5)), in KB.
func peak() (kb int, err error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	_, err = fmt.Sscan(rest, &kb)
	return kb, err
}

// hosts are next hops in memory. The first thousand take everything, the others nobody.
type hosts struct {
	mu        sync.Mutex
	tries     map[string]int
	delivered int
}

func isDead(domain string) bool {
	var n int
	_, err := fmt.Sscanf(domain, "host%d.example", &n)
	return err != nil || n >= manyHops-deadHops
}

func (h *hosts) Open(_ context.Context, domain string) (deliver.Session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tries[domain]++
	if isDead(domain) {
		return nil, &mail.Failure{Result: mail.Delay(mail.OfHost, mail.EnhancedCode{4, 4, 1}, "connection refused")}
	}
	return deliver.OneByOne(h), nil
}

func (h *hosts) Deliver(_ context.Context, _ *mail.Message, recipients []int) []mail.Result {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.delivered += len(recipients)
	results := make([]mail.Result, len(recipients))
	for i := range results {
		results[i] = mail.Result{Action: mail.Relayed, Relay: "memory", Reply: mail.Reply{Code: 250, Text: "taken"}}
	}
	return results
}

func (h *hosts) Usable() bool { return true }
func (h *hosts) Close()       {}

func (h *hosts) result() (r millionResult) {
	for domain, n := range h.tries {
		r.Tries += n
		if isDead(domain) {
			r.DeadTried++
			r.MostTries = max(r.MostTries, n)
		}
	}
	r.Delivered = h.delivered
	return r
}
