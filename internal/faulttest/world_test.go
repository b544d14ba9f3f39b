package faulttest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
)

// proof reports whether everything is to be tried.
func proof() bool { return os.Getenv("POSTRIDER_PROOF") != "" }

// A world is a spool, letters in it, and the engine that delivers them, here and there with a clock of its own.
type world struct {
	t       testing.TB
	dir     string
	letters []letter
	opts    deliver.Options
	reports mailbox // of the senders

	mu   sync.Mutex
	skew time.Duration
	log  []string
}

// A letter is a message, of which nothing is like in another one.
type letter struct {
	sender  string
	rcpts   []string
	content string
}

// There is time for a whole pass until anything is tried again.
const wait = 8 * time.Hour

// newWorld returns a world whose mail to others goes through transports by the domain, and reports to home.example.
func newWorld(t testing.TB, concurrency int, to map[string]deliver.Transport) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(scratch(t), "spool")}
	w.opts = deliver.Options{
		Resolve: func(hop string) (deliver.Route, error) {
			transport, ok := to[hop]
			if hop == "home.example" {
				transport, ok = &w.reports, true
			}
			if !ok {
				return deliver.Route{}, fmt.Errorf("no route to %s", hop)
			}
			return deliver.Route{Transport: transport, Domain: hop, Concurrency: concurrency}, nil
		},
		Retry:    deliver.Retry{First: wait, Factor: 1, MaxWait: wait, Expire: 30 * 24 * time.Hour},
		Hostname: "here.example",
		Logf:     w.logf,
		Now:      w.now,
	}
	if err := spool.Create(w.dir); err != nil {
		t.Fatal(err)
	}
	return w
}

// scratch returns a directory in memory, if there is such a place: no power is cut here.
func scratch(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "postrider-faults-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (w *world) logf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.skew)
}

func (w *world) later(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.skew += d
}

// write makes letter n, of about so many octets.
func (w *world) write(n, size int, rcpts ...string) {
	l := letter{sender: fmt.Sprintf("s%d@home.example", n), rcpts: rcpts}
	text := strings.Repeat(fmt.Sprintf("This is line after line of letter %d, until there is enough.\r\n", n), size/60+1)
	l.content = fmt.Sprintf("From: %s\r\nSubject: letter %d\r\n\r\n.\r\n%s..\r\n", l.sender, n, text)
	w.letters = append(w.letters, l)
}

// submit drops the letters as sendmail does.
func (w *world) submit() {
	w.t.Helper()
	d, err := drop.Open(filepath.Join(w.dir, "drop"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	for _, l := range w.letters {
		env := &mail.Envelope{Arrival: drop.Now(), Sender: parse(w.t, l.sender), Submitter: os.Getuid()}
		for _, r := range l.rcpts {
			env.Recipients = append(env.Recipients, mail.Recipient{Path: parse(w.t, r)})
		}
		f, err := d.Create(env)
		if err != nil {
			w.t.Fatal(err)
		}
		_, err = io.WriteString(f, l.content)
		if err == nil {
			_, err = f.Commit(mail.Facts{LongestLine: 80})
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func parse(t testing.TB, s string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) pass() {
	w.t.Helper()
	s, err := spool.Acquire(w.dir, spool.Options{
		Route: func(_, rcpt mail.Path, _ int, _ bool) string { return rcpt.Domain() },
		Now:   w.now, Logf: w.logf,
	})
	if err != nil {
		w.t.Fatalf("Acquire: %v", err)
	}
	if err := deliver.Pass(w.t.Context(), s, w.opts); err != nil {
		w.t.Fatalf("Pass: %v", err)
	}
	if err := s.End(); err != nil {
		w.t.Fatalf("End: %v", err)
	}
}

// A fate is what is known of one recipient.
type fate struct {
	sent, bounced, deferred int  // lines of the log
	ambiguous               int  // of these, that it may arrive twice
	waiting                 bool // in the queue
	arrived                 int  // as often as servers have taken it
	reported                int  // to the sender
}

// attempted is a line of the log about an attempt.
var attempted = regexp.MustCompile(`(?s)^\S+: to=<([^>]*)>, relay=.*, status=(\w+) \((.*)\)$`)

// trace is what sendmail puts on top.
var trace = regexp.MustCompile(`^Received: .*\r\n([ \t].*\r\n)*`)

// perhaps is what the log says of a message that was sent to its end and not answered.
const perhaps = "it may arrive twice"

// fates returns what is known of each recipient, and complains of what no recipient may see: others' mail, or changed mail.
func (w *world) fates(taken []smtptest.Message) map[string]*fate {
	w.t.Helper()
	fates, letters := map[string]*fate{}, map[string]letter{}
	for _, l := range w.letters {
		for _, r := range l.rcpts {
			fates[r], letters[r] = &fate{}, l
		}
	}
	for _, line := range w.log {
		m := attempted.FindStringSubmatch(line)
		if m == nil || fates[m[1]] == nil {
			continue
		}
		f := fates[m[1]]
		switch m[2] {
		case "sent":
			f.sent++
		case "bounced":
			f.bounced++
		case "deferred":
			f.deferred++
		}
		if strings.Contains(m[3], perhaps) {
			f.ambiguous++
		}
	}
	for e, err := range spool.List(w.dir) {
		if err != nil {
			w.t.Fatalf("List: %v", err)
		}
		for _, r := range e.Recipients {
			if f := fates[r.Path.Address()]; f != nil {
				f.waiting = true
			} else {
				w.t.Errorf("%s waits", r.Path.Address())
			}
		}
	}
	for _, m := range taken {
		for _, r := range m.Recipients {
			f := fates[r.Address]
			if f == nil {
				w.t.Errorf("a server took mail for %s", r.Address)
				continue
			}
			f.arrived++
			if l := letters[r.Address]; m.Sender != l.sender || trace.ReplaceAllString(string(m.Content), "") != l.content {
				w.t.Errorf("what arrived for %s is from %s, %d octets; want %s, %d octets", r.Address, m.Sender, len(m.Content), l.sender, len(l.content))
			}
		}
	}
	for rcpt, f := range fates {
		f.reported = w.reports.about(letters[rcpt].sender, rcpt)
	}
	return fates
}

// A verdict is what servers say of the recipients. What they did not say cannot become of anybody.
type verdict struct {
	taken   []smtptest.Message
	refused func(rcpt string) bool // for good
	claimed func(rcpt string) bool // to be served, by a server that lies; nil: nobody
	blind   bool                   // nobody can know what was said of whom
}

// judge complains of what must not be after so many passes.
func (w *world) judge(passes int, v verdict) map[string]*fate {
	w.t.Helper()
	fates := w.fates(v.taken)
	for rcpt, f := range fates {
		for _, rule := range []struct {
			known  bool // from what servers say
			broken bool
			says   string
		}{
			{false, f.sent+f.bounced > 1, "has more than one end"},
			{false, f.waiting && f.sent+f.bounced > 0, "waits after the end"},
			{false, !f.waiting && f.sent+f.bounced == 0, "is lost: he neither waits nor has an end"},
			{true, f.sent > 0 && f.arrived == 0 && !(v.claimed != nil && v.claimed(rcpt)), "is lost: no server took what is logged as sent"},
			{true, f.arrived > min(passes, 1+f.ambiguous), "got it more often than anybody could account for"},
			{true, f.arrived > f.sent && f.ambiguous == 0, "got what is not logged as sent"},
			{true, f.bounced > 0 && !v.refused(rcpt), "bounced, and nobody refused him"},
			{true, f.bounced > 0 && f.arrived > 0 && f.ambiguous == 0, "bounced, and got it"},
			{false, f.reported > f.bounced, "was reported, and did not bounce, or not so often"},
			{false, f.reported < f.bounced && !f.waiting, "bounced, and nobody was told"},
		} {
			if rule.broken && !(rule.known && v.blind) {
				w.t.Errorf("after %d passes %s %s: %+v", passes, rcpt, rule.says, *f)
			}
		}
	}
	return fates
}

// judgeAll is judge when all has been well for a pass: nobody waits any more.
func (w *world) judgeAll(passes int, v verdict) {
	w.t.Helper()
	for rcpt, f := range w.judge(passes, v) {
		if f.waiting {
			w.t.Errorf("all has been well, and %s still waits: %+v", rcpt, *f)
		}
	}
	if w.t.Failed() {
		w.t.Logf("the log:\n%s", strings.Join(w.log, "\n"))
	}
}

// A mailbox takes everything. It is a deliver.Transport and its own session.
type mailbox struct {
	mu   sync.Mutex
	mail []smtptest.Message
}

func (b *mailbox) Open(context.Context, string) (deliver.Session, error) {
	return deliver.OneByOne(b), nil
}

func (b *mailbox) Usable() bool { return true }
func (b *mailbox) Close()       {}

func (b *mailbox) Deliver(_ context.Context, m *mail.Message, positions []int) []mail.Result {
	content, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Size))
	if err != nil {
		return slices.Repeat([]mail.Result{mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "%v", err)}, len(positions))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range positions {
		to := smtptest.Recipient{Address: m.Recipients[n].Path.Address()}
		b.mail = append(b.mail, smtptest.Message{Recipients: []smtptest.Recipient{to}, Content: content})
	}
	return slices.Repeat([]mail.Result{{Action: mail.Delivered}}, len(positions))
}

// about returns how many messages to somebody speak of somebody else.
func (b *mailbox) about(to, of string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.mail {
		if m.Recipients[0].Address == to && strings.Contains(string(m.Content), "Final-Recipient: rfc822; "+of+"\r\n") {
			n++
		}
	}
	return n
}
