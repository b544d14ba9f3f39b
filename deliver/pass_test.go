package deliver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
)

// A server is a next hop in memory. Its zero value takes everything.
type server struct {
	refuse func() error                             // a session; called with the lock held
	answer func(m *mail.Message, n int) mail.Result // a recipient; nil: takes him
	breaks func(m *mail.Message) bool               // the session, with this message
	takes  time.Duration                            // for each message

	mu       sync.Mutex
	opened   int
	now, max int // sessions open
	got      []string
	begun    chan string // if not nil, gets the address of each attempt before it is answered
	hold     chan struct{}
}

func (s *server) Open(context.Context, string) (deliver.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	if s.refuse != nil {
		if err := s.refuse(); err != nil {
			return nil, err
		}
	}
	s.now++
	s.max = max(s.max, s.now)
	return deliver.OneByOne(&session{server: s, usable: true}), nil
}

type session struct {
	*server
	usable bool
}

func (s *session) Deliver(ctx context.Context, m *mail.Message, recipients []int) []mail.Result {
	var results []mail.Result
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
	}
	for _, n := range recipients {
		if s.begun != nil {
			s.begun <- m.Recipients[n].Path.Address()
		}
		if s.hold != nil {
			select {
			case <-s.hold:
			case <-ctx.Done():
				s.usable = false
				results = append(results, mail.Delay(mail.OfHost, mail.EnhancedCode{4, 4, 2}, "interrupted"))
				continue
			}
		}
		results = append(results, s.one(m, n))
	}
	return results
}

func (s *session) one(m *mail.Message, n int) mail.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.breaks != nil && s.breaks(m) {
		s.usable = false
		return mail.Delay(mail.OfHost, mail.EnhancedCode{4, 4, 2}, "connection lost")
	}
	if s.answer != nil {
		return s.answer(m, n)
	}
	s.got = append(s.got, m.Recipients[n].Path.Address())
	return mail.Result{Action: mail.Relayed, Relay: "server", Remote: true, Reply: mail.Reply{Code: 250, Text: "taken"}}
}

func (s *server) sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *server) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

func (s *server) has(rcpt string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.got, rcpt)
}

func (s *session) Usable() bool { return s.usable }

func (s *session) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now--
}

// A world is a spool, one next hop for each recipient domain, a clock and a log.
type world struct {
	t       *testing.T
	dir     string
	servers map[string]*server
	opts    deliver.Options
	// concurrency is that of every next hop; 0 is the default.
	concurrency int
	copies      int // of messages
	rate        spool.Rate
	retry       *deliver.Retry // of every next hop
	spoolOpts   func(o *spool.Options)

	mu   sync.Mutex
	now  time.Time
	live bool // the clock goes by itself
	log  []string
}

// memoryDir returns a directory in memory where there is one: these tests put thousands of messages on disk, and none of
// them says what is left there after a crash.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "postrider-test-")
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

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: filepath.Join(memoryDir(t), "spool"), servers: map[string]*server{}, now: time.Now()}
	w.opts = deliver.Options{
		Resolve: func(hop string) (deliver.Route, error) {
			s, ok := w.servers[hop]
			if !ok {
				return deliver.Route{}, errors.New("no route")
			}
			return deliver.Route{Transport: s, Domain: hop, Concurrency: w.concurrency, Rate: w.rate, RateName: "all", Retry: w.retry}, nil
		},
		Retry:    deliver.Retry{First: 10 * time.Minute, Factor: 2, MaxWait: 2 * time.Hour, Expire: 24 * time.Hour},
		Hostname: "here.example",
		Logf:     w.logf,
		Now:      w.clock,
	}
	if err := spool.Create(w.dir); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) logf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.live {
		return time.Now()
	}
	return w.now
}

func (w *world) later(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) submit(sender string, rcpts ...string) mail.ID {
	w.t.Helper()
	d, err := drop.Open(filepath.Join(w.dir, "drop"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	env := &mail.Envelope{Arrival: drop.Now(), Sender: parse(w.t, sender), Submitter: os.Getuid()}
	for _, r := range rcpts {
		env.Recipients = append(env.Recipients, mail.Recipient{Path: parse(w.t, r)})
	}
	f, err := d.Create(env)
	if err != nil {
		w.t.Fatal(err)
	}
	io.WriteString(f, "Subject: figures\r\nMessage-ID: <1@example.org>\r\n\r\nhello\r\n")
	id, err := f.Commit(mail.Facts{})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func parse(t *testing.T, s string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) acquire() *spool.Spool {
	w.t.Helper()
	o := spool.Options{
		Route: func(_, rcpt mail.Path, _ int, _ bool) string { return rcpt.Domain() },
		Now:   w.clock,
		Logf:  w.logf,
	}
	if w.spoolOpts != nil {
		w.spoolOpts(&o)
	}
	s, err := spool.Acquire(w.dir, o)
	if err != nil {
		w.t.Fatalf("Acquire: %v", err)
	}
	return s
}

func (w *world) pass() {
	w.t.Helper()
	s := w.acquire()
	if err := deliver.Pass(w.t.Context(), s, w.opts); err != nil {
		w.t.Fatalf("Pass: %v", err)
	}
	if err := s.End(); err != nil {
		w.t.Fatalf("End: %v", err)
	}
}

func (w *world) waiting() []string {
	w.t.Helper()
	var list []string
	for e, err := range spool.List(w.dir) {
		if err != nil {
			w.t.Fatalf("List: %v", err)
		}
		for _, r := range e.Recipients {
			list = append(list, fmt.Sprintf("%s %d %s", r.Path.Address(), r.Attempts, r.Reason))
		}
	}
	return list
}

func (w *world) want(what string, got, want any) {
	w.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func (w *world) logged(part string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, line := range w.log {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func refused() error {
	return &mail.Failure{Result: mail.Delay(mail.OfHost, mail.EnhancedCode{4, 4, 1}, "connection refused")}
}

func TestPassDelivers(t *testing.T) {
	w := newWorld(t)
	w.concurrency = 1 // with more, the second message may come to have a session of its own
	a, b := &server{}, &server{}
	w.servers["a.example"], w.servers["b.example"] = a, b
	w.submit("ann@example.org", "bob@a.example", "cyd@b.example", "dan@a.example")
	w.submit("ann@example.org", "eve@a.example")
	w.pass()
	w.want("a.example got", a.got, []string{"bob@a.example", "dan@a.example", "eve@a.example"})
	w.want("b.example got", b.got, []string{"cyd@b.example"})
	w.want("sessions with a.example", a.opened, 1)
	w.want("waiting", w.waiting(), []string(nil))
	w.want("log lines", w.logged("status=sent (250 taken)"), 4)
}

func TestDeferredRecipientIsTriedAgainOnSchedule(t *testing.T) {
	w := newWorld(t)
	s := &server{answer: func(*mail.Message, int) mail.Result {
		return mail.Result{Reply: mail.Reply{Code: 451, Enhanced: mail.EnhancedCode{4, 7, 1}, Text: "greylisted"}, Remote: true}
	}}
	w.servers["a.example"] = s
	w.submit("ann@example.org", "bob@a.example")
	w.pass()
	w.want("after one attempt", w.waiting(), []string{"bob@a.example 1 451 4.7.1 greylisted"})
	w.pass()
	w.want("not due", s.opened, 1)
	w.later(10*time.Minute + time.Second)
	w.pass()
	w.want("due", w.waiting(), []string{"bob@a.example 2 451 4.7.1 greylisted"})
	w.later(10*time.Minute + time.Second)
	w.pass()
	w.want("the second wait is twice as long", s.opened, 2)
	w.want("log", w.logged("dsn=4.7.1, status=deferred (451 4.7.1 greylisted)"), 2)
}

func TestRefusedRecipientIsReportedOnce(t *testing.T) {
	w := newWorld(t)
	home := &server{}
	w.servers["example.org"] = home
	w.servers["a.example"] = &server{answer: func(m *mail.Message, n int) mail.Result {
		return mail.Result{Action: mail.Failed, Remote: true, Relay: "a", Reply: mail.Reply{Code: 550, Enhanced: mail.EnhancedCode{5, 1, 1}, Text: "no such user"}}
	}}
	w.submit("ann@example.org", "bob@a.example", "cyd@a.example")
	w.pass()
	w.want("reports", home.got, []string{"ann@example.org"})
	w.want("waiting", w.waiting(), []string(nil))
	w.want("log", w.logged("dsn=5.1.1, status=bounced (550 5.1.1 no such user)"), 2)
}

func TestNullSenderIsNeverAnswered(t *testing.T) {
	w := newWorld(t)
	w.servers["a.example"] = &server{answer: func(*mail.Message, int) mail.Result {
		return mail.Result{Action: mail.Failed, Reply: mail.Reply{Code: 550, Text: "no"}}
	}}
	w.submit("", "bob@a.example")
	w.pass()
	w.want("waiting", w.waiting(), []string(nil))
	w.want("log", w.logged("status=bounced"), 1)
	w.want("log of what nobody is told", w.logged("nobody is told of the non-delivery"), 1)
}

func TestDeadNextHopCostsOneConnection(t *testing.T) {
	w := newWorld(t)
	dead, alive := &server{refuse: refused}, &server{}
	w.servers["dead.example"], w.servers["a.example"] = dead, alive
	for range 500 {
		w.submit("ann@example.org", "bob@dead.example")
	}
	w.submit("ann@example.org", "cyd@a.example")
	w.pass()
	w.want("connections", dead.opened, 1)
	w.want("the other next hop got", alive.got, []string{"cyd@a.example"})
	list := w.waiting()
	if len(list) != 500 || slices.ContainsFunc(list, func(s string) bool { return !strings.HasSuffix(s, "connection refused") }) {
		t.Errorf("%d waiting, first %q; want 500, all with the reason", len(list), list[0])
	}
	w.pass()
	w.want("left alone for a while", dead.opened, 1)

	dead.refuse = nil
	w.later(time.Minute + time.Second)
	w.pass()
	w.want("delivered when it is back, the probe as well", len(dead.got), 500)
}

// Who writes to a host that was dead when it was last tried, long ago, is not told at once that it has been dead ever since.
func TestOldTroubleBouncesNobody(t *testing.T) {
	w := newWorld(t)
	w.servers["dead.example"], w.servers["example.org"] = &server{refuse: refused}, &server{}
	w.submit("ann@example.org", "bob@dead.example")
	for range 30 {
		w.pass()
		w.later(time.Hour)
	}
	w.want("given up", w.waiting(), []string(nil))
	w.submit("ann@example.org", "cyd@dead.example")
	w.later(30 * 24 * time.Hour) // the machine is off
	w.pass()
	w.want("waiting", w.waiting(), []string{"cyd@dead.example 1 connection refused"})
}

// A clock that is set back has a next hop in trouble tried at once, and then left alone again.
func TestDeadNextHopAfterTheClockWasSetBack(t *testing.T) {
	w := newWorld(t)
	w.spoolOpts = func(o *spool.Options) { o.MaxWait = w.opts.Retry.MaxWait }
	dead := &server{}
	dead.refuse = func() error {
		if dead.opened > 5 {
			return nil
		}
		return refused()
	}
	w.servers["dead.example"] = dead
	w.submit("ann@example.org", "bob@dead.example")
	w.pass()
	w.later(-24 * time.Hour)
	w.pass()
	w.want("tries", dead.opened, 2)
	w.want("waiting", w.waiting(), []string{"bob@dead.example 2 connection refused"})
}

func TestOldMailForADeadNextHopBounces(t *testing.T) {
	w := newWorld(t)
	w.servers["example.org"], w.servers["dead.example"] = &server{}, &server{refuse: refused}
	for range 3 {
		w.submit("ann@example.org", "bob@dead.example")
	}
	w.pass()
	w.later(25 * time.Hour)
	w.pass()
	w.want("two tries are not enough, whatever the clock says", len(w.waiting()), 3)
	w.later(time.Hour)
	w.pass()
	w.want("waiting after the third", w.waiting(), []string(nil))
	w.want("reports", w.logged("sender notified of non-delivery"), 3)
}

func TestExpiredMessageBounces(t *testing.T) {
	w := newWorld(t)
	home := &server{}
	w.servers["example.org"] = home
	w.servers["a.example"] = &server{answer: func(*mail.Message, int) mail.Result {
		return mail.Result{Reply: mail.Reply{Code: 452, Enhanced: mail.EnhancedCode{4, 2, 2}, Text: "full"}, Remote: true}
	}}
	w.submit("ann@example.org", "bob@a.example")
	for range 40 {
		w.pass()
		w.later(time.Hour)
	}
	w.want("waiting", w.waiting(), []string(nil))
	w.want("one notice of delay and one of failure", home.got, []string{"ann@example.org", "ann@example.org"})
	w.want("delay", w.logged("sender notified of delay"), 1)
	w.want("bounce keeps the last word", w.logged("dsn=4.2.2, status=bounced (452 4.2.2 full)"), 1)
}

// Who waits for a host that is down is told of it once, and not again when the host is back and wants him to wait.
func TestDelayAtADeadNextHop(t *testing.T) {
	w := newWorld(t)
	home, down := &server{}, true
	s := &server{answer: later, refuse: func() error {
		if down {
			return refused()
		}
		return nil
	}}
	w.servers["example.org"], w.servers["a.example"] = home, s
	w.submit("ann@example.org", "bob@a.example")
	told := func() int { return w.logged("sender notified of delay") }
	for range 30 {
		w.pass()
		w.later(5 * time.Minute)
	}
	w.want("before the fifth attempt at a host that is up", told(), 0)
	w.later(30 * time.Minute)
	w.pass()
	w.want("when that is over", told(), 1)
	down = false
	for range 12 {
		w.later(time.Hour)
		w.pass()
	}
	w.want("in the end", told(), 1)
	w.want("waiting", len(w.waiting()), 1)
}

// Who gets another session at once, because the last one was at its end, is not delayed by that.
func TestNoDelayByTheEndOfASession(t *testing.T) {
	w := newWorld(t)
	w.concurrency = 1
	s, n := &server{}, 0
	s.breaks = func(*mail.Message) bool { n++; return n%3 == 0 }
	w.servers["example.org"], w.servers["a.example"] = &server{}, s
	for range 10 {
		w.submit("ann@example.org", "bob@a.example")
	}
	w.later(5 * time.Hour) // so long the host was down
	w.pass()
	w.want("delivered", s.taken(), 10)
	w.want("told", w.logged("sender notified"), 0)
}

// Nor does the first attempt after a night with the machine off make a delay.
func TestNoDelayByOneAttempt(t *testing.T) {
	w := newWorld(t)
	w.servers["example.org"], w.servers["a.example"] = &server{}, &server{refuse: refused}
	w.submit("ann@example.org", "bob@a.example")
	w.pass()
	w.later(9 * time.Hour)
	w.pass()
	w.want("told", w.logged("sender notified"), 0)
	w.later(2 * time.Minute)
	w.pass()
	w.want("told when that is not all", w.logged("sender notified"), 1)
}

// Nor is that the last attempt for who has waited for long.
func TestNoBounceByTheEndOfASession(t *testing.T) {
	w := newWorld(t)
	w.concurrency = 1
	s, n := &server{}, -6 // it refuses the first ones, and then takes one a session
	s.answer = func(m *mail.Message, _ int) mail.Result {
		if n <= 0 {
			return later(m, 0)
		}
		s.got = append(s.got, string(m.QueueID))
		return mail.Result{Action: mail.Relayed}
	}
	s.breaks = func(*mail.Message) bool { n++; return n > 0 && n%2 == 0 }
	w.servers["example.org"], w.servers["a.example"] = &server{}, s
	w.submit("ann@example.org", "bob@a.example")
	w.submit("ann@example.org", "cyd@a.example")
	for range 3 {
		w.pass()
		w.later(time.Hour)
	}
	w.later(24 * time.Hour)
	w.pass()
	w.want("bounced", w.logged("status=bounced"), 0)
	w.want("delivered", s.taken(), 2)
}

// Attempts at a host that is down do not use up the one after which a sender is told.
func TestDelayAfterADeadNextHop(t *testing.T) {
	w := newWorld(t)
	down := true
	w.servers["example.org"], w.servers["a.example"] = &server{}, &server{answer: later, refuse: func() error {
		if down {
			return refused()
		}
		return nil
	}}
	w.submit("ann@example.org", "bob@a.example")
	for range 20 {
		w.pass()
		w.later(5 * time.Minute)
	}
	down = false
	for range 12 {
		w.later(time.Hour)
		w.pass()
	}
	w.want("told", w.logged("sender notified of delay"), 1)
}

func TestLimitOfAttempts(t *testing.T) {
	w := newWorld(t)
	w.opts.Retry.Attempts = 2
	w.servers["example.org"] = &server{}
	w.servers["a.example"] = &server{answer: func(*mail.Message, int) mail.Result {
		return mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 0, 0}, "later")
	}}
	w.submit("ann@example.org", "bob@a.example")
	w.pass()
	w.later(time.Hour)
	w.pass()
	w.want("waiting", w.waiting(), []string(nil))
}

// A host that is down is tried as often as suits it, and uses up nobody's attempts.
func TestLimitOfAttemptsAtADeadNextHop(t *testing.T) {
	w := newWorld(t)
	w.opts.Retry.Attempts = 2
	w.servers["example.org"], w.servers["a.example"] = &server{}, &server{refuse: refused}
	w.submit("ann@example.org", "bob@a.example")
	for range 5 {
		w.pass()
		w.later(time.Hour)
	}
	w.want("waiting", w.waiting(), []string{"bob@a.example 5 connection refused"})
}

func TestServerThatLimitsMessagesInASession(t *testing.T) {
	w := newWorld(t)
	s, n := &server{}, 0
	s.breaks = func(*mail.Message) bool { n++; return n%3 == 0 }
	w.servers["a.example"] = s
	w.concurrency = 1
	for i := range 20 {
		w.submit("ann@example.org", fmt.Sprintf("u%d@a.example", i))
	}
	w.pass()
	w.want("waiting", w.waiting(), []string(nil))
	w.want("delivered once each", len(slices.Compact(slices.Sorted(slices.Values(s.got)))), 20)
	w.want("deliveries", len(s.got), 20)
}

func TestMessageThatBreaksSessionsHoldsUpNobody(t *testing.T) {
	w := newWorld(t)
	s := &server{breaks: func(m *mail.Message) bool { return m.Recipients[0].Path.Local() == "poison" }}
	w.servers["a.example"] = s
	w.submit("ann@example.org", "bob@a.example")
	w.submit("ann@example.org", "poison@a.example")
	w.submit("ann@example.org", "cyd@a.example")
	w.pass()
	w.later(2 * time.Minute)
	w.pass()
	w.want("others", slices.Sorted(slices.Values(s.got)), []string{"bob@a.example", "cyd@a.example"})
	w.want("poison waits", len(w.waiting()), 1)
}

func TestLoginRefusedBurnsNoAttempt(t *testing.T) {
	w := newWorld(t)
	w.servers["a.example"] = &server{refuse: func() error {
		return &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 7, 8}, "login refused")}
	}}
	w.submit("ann@example.org", "bob@a.example")
	w.pass()
	w.want("waiting", w.waiting(), []string{"bob@a.example 0 login refused"})
	w.want("log", w.logged("to=<bob@a.example>, relay=none, delay="), 1)
}

func TestNextHopThatTakesNoMail(t *testing.T) {
	w := newWorld(t)
	home := &server{}
	w.servers["example.org"] = home
	now, sure := &mail.Failure{Result: mail.Delay(mail.OfHost, mail.EnhancedCode{4, 4, 3}, "no answer")}, &mail.Failure{Result: mail.Result{
		Action: mail.Failed, Scope: mail.OfHost, Reply: mail.Reply{Enhanced: mail.EnhancedCode{5, 1, 2}, Text: "no such domain"},
	}}
	s := &server{refuse: func() error { return now }}
	w.servers["a.example"] = s
	for range 5 {
		w.submit("ann@example.org", "bob@a.example", "eve@a.example")
	}
	w.pass()
	w.want("deferred as long as nobody knows", len(w.waiting()), 10)
	s.refuse = func() error { return sure }
	w.later(10 * time.Minute)
	w.pass()
	w.want("waiting", w.waiting(), []string(nil))
	w.want("bounced", w.logged("relay=none, delay=10m0s, dsn=5.1.2, status=bounced (no such domain)"), 10)
	w.want("reports", len(home.got), 5)
	w.want("asked in either pass", s.opened <= 3, true)
	s.refuse = nil
	w.submit("ann@example.org", "bob@a.example")
	w.pass()
	w.want("the trouble of old is forgotten", s.got, []string{"bob@a.example"})
}

func TestMissingRouteDefers(t *testing.T) {
	w := newWorld(t)
	w.submit("ann@example.org", "bob@nowhere.example")
	w.pass()
	w.want("waiting", w.waiting(), []string{"bob@nowhere.example 0 no route"})
}

func TestManyMessagesGetSeveralSessions(t *testing.T) {
	w := newWorld(t)
	s := &server{}
	w.servers["a.example"] = s
	for range 500 {
		w.submit("ann@example.org", "bob@a.example")
	}
	w.pass()
	w.want("delivered", len(s.got), 500)
	if s.max < 2 || s.max > deliver.DefaultConcurrency {
		t.Errorf("%d sessions at once, want 2 to %d", s.max, deliver.DefaultConcurrency)
	}
	w.want("sessions left open", s.now, 0)
}

func TestPanicInASessionDefersOneMessage(t *testing.T) {
	w := newWorld(t)
	s := &server{answer: func(m *mail.Message, n int) mail.Result {
		if m.Recipients[n].Path.Local() == "bad" {
			panic("boom")
		}
		return mail.Result{Action: mail.Relayed}
	}}
	w.servers["a.example"] = s
	w.submit("ann@example.org", "bad@a.example")
	w.submit("ann@example.org", "good@a.example")
	w.pass()
	w.want("waiting", w.waiting(), []string{"bad@a.example 1 internal error: boom"})
}

func TestStopGivesBackWhatWasNotBegun(t *testing.T) {
	w := newWorld(t)
	w.concurrency = 1
	s := &server{begun: make(chan string, 10), hold: make(chan struct{})}
	w.servers["a.example"] = s
	for i := range 3 {
		w.submit("ann@example.org", fmt.Sprintf("u%d@a.example", i))
	}
	sp := w.acquire()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- deliver.Pass(ctx, sp, w.opts) }()
	<-s.begun
	stop()
	s.hold <- struct{}{}
	if err := <-ended; err != nil {
		t.Fatalf("Pass: %v", err)
	}
	if err := sp.End(); err != nil {
		t.Fatal(err)
	}
	w.want("what was begun is finished", s.got, []string{"u0@a.example"})
	w.want("the rest waits untried", w.waiting(), []string{"u1@a.example 0 ", "u2@a.example 0 "})
}

// stopping is an Expander during whose first lookup the pass is told to end.
type stopping struct{ stop func() }

func (s stopping) Expand(ctx context.Context, rcpt mail.Path) (deliver.Expansion, error) {
	s.stop()
	return deliver.Expansion{}, &mail.Failure{Result: mail.Result{Action: mail.Failed, Reply: mail.Reply{Enhanced: mail.EnhancedCode{5, 1, 1}, Text: "nobody"}}}
}

func TestStopLooksUpNobodyAnyMore(t *testing.T) {
	w := newWorld(t)
	w.submit("ann@example.org", "u0@a.example", "u1@a.example", "u2@a.example")
	sp := w.acquire()
	ctx, stop := context.WithCancel(t.Context())
	w.opts.Resolve = func(hop string) (deliver.Route, error) {
		return deliver.Route{Expander: stopping{stop}, Domain: hop, Concurrency: 1}, nil
	}
	if err := deliver.Pass(ctx, sp, w.opts); err != nil {
		t.Fatalf("Pass: %v", err)
	}
	if err := sp.End(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(fmt.Sprint(w.waiting()), "@a.example 0 "); n != 2 {
		t.Errorf("%d wait untried, want 2: %q\n%q", n, w.waiting(), w.log)
	}
}

func TestRunningPassTakesNewArrivals(t *testing.T) {
	w := newWorld(t)
	s := &server{begun: make(chan string)}
	w.servers["a.example"] = s
	wake := make(chan struct{}, 1)
	w.opts.Wake, w.opts.Stay = wake, time.Hour
	sp := w.acquire()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- deliver.Pass(ctx, sp, w.opts) }()
	for i := range 3 {
		w.submit("ann@example.org", fmt.Sprintf("u%d@a.example", i))
		wake <- struct{}{}
		w.want("begun", <-s.begun, fmt.Sprintf("u%d@a.example", i))
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatalf("Pass: %v", err)
	}
	if err := sp.End(); err != nil {
		t.Fatal(err)
	}
}

// An attempt may take longer than the wait after it: nobody else gets the recipient meanwhile.
func TestRecipientInFlightIsNotClaimedAgain(t *testing.T) {
	w := newWorld(t)
	s := &server{}
	s.answer = func(m *mail.Message, _ int) mail.Result {
		w.later(3 * time.Second) // the last of a claim is answered long after its next attempt would be due
		s.got = append(s.got, string(m.QueueID))
		return mail.Result{Action: mail.Relayed}
	}
	w.servers["a.example"] = s
	for range 450 {
		w.submit("ann@example.org", "bob@a.example")
	}
	w.pass()
	w.want("deliveries", len(s.got), 450)
	w.want("messages delivered", len(slices.Compact(slices.Sorted(slices.Values(s.got)))), 450)
}

// What servers have taken when the index fails is not sent again.
func TestRepliesOutliveTheIndex(t *testing.T) {
	w := newWorld(t)
	s := &server{}
	s.answer = func(m *mail.Message, n int) mail.Result {
		s.got = append(s.got, m.Recipients[n].Path.Address())
		if err := os.WriteFile(filepath.Join(w.dir, "index.db"), []byte("garbage"), 0o600); err != nil {
			t.Error(err)
		}
		return mail.Result{Action: mail.Relayed}
	}
	w.servers["a.example"] = s
	w.submit("ann@example.org", "bob@a.example")
	sp := w.acquire()
	if err := deliver.Pass(t.Context(), sp, w.opts); err == nil {
		t.Error("Pass over a broken index: no error")
	}
	if err := sp.Abandon(); err != nil {
		t.Fatal(err)
	}
	s.answer = nil
	w.later(time.Hour)
	w.pass()
	w.want("deliveries", s.got, []string{"bob@a.example"})
	w.want("waiting", w.waiting(), []string(nil))
}

// However the index fails, the pass ends, and gives the spool back.
func TestPassEndsWhenTheIndexFails(t *testing.T) {
	for range 10 {
		w := newWorld(t)
		w.servers["a.example"] = &server{refuse: func() error {
			if err := os.WriteFile(filepath.Join(w.dir, "index.db"), []byte("garbage"), 0o600); err != nil {
				t.Error(err)
			}
			return refused()
		}}
		w.submit("ann@example.org", "bob@a.example")
		sp := w.acquire()
		if err := deliver.Pass(t.Context(), sp, w.opts); err == nil {
			t.Error("Pass over a broken index: no error")
		}
		if err := sp.Abandon(); err != nil {
			t.Fatal(err)
		}
	}
}

// A session that is busy with one message holds up no others, as long as more sessions are allowed.
func TestNewMailDoesNotWaitForABusySession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		wake := make(chan struct{})
		w.opts.Wake, w.opts.Stay = wake, time.Hour
		s := &server{begun: make(chan string, 9), hold: make(chan struct{})}
		w.servers["a.example"] = s
		w.submit("ann@example.org", "big@a.example")
		sp := w.acquire()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- deliver.Pass(ctx, sp, w.opts) }()
		w.want("first", <-s.begun, "big@a.example")
		synctest.Wait() // until nobody asks for more
		w.submit("ann@example.org", "small@a.example")
		wake <- struct{}{}
		w.want("second", <-s.begun, "small@a.example")
		close(s.hold)
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if err := sp.End(); err != nil {
			t.Fatal(err)
		}
	})
}

// What no signal tells of is found when the pass looks around by itself, however busy its sessions are.
func TestPassLooksAroundByItself(t *testing.T) {
	for _, tt := range []struct {
		name string
		come func(w *world) // without a signal
	}{
		{"a submission", func(w *world) { w.submit("ann@example.org", "cyd@a.example") }},
		{"a recipient made due", func(w *world) {
			if err := spool.MakeDue(w.dir, spool.Selection{Recipients: []string{"bob@"}}, w.clock()); err != nil {
				w.t.Error(err)
			}
		}},
	} {
		for _, busy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, busy %v", tt.name, busy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.opts.Retry.First, w.opts.Retry.MaxWait = 12*time.Hour, 12*time.Hour
					a, b := &server{answer: later}, &server{hold: make(chan struct{})}
					w.servers["a.example"], w.servers["b.example"] = a, b
					w.submit("ann@example.org", "bob@a.example")
					if busy {
						w.submit("ann@example.org", "bob@b.example")
					}
					w.during(func(chan<- struct{}) {
						time.Sleep(time.Minute)
						tt.come(w)
						time.Sleep(w.opts.Stay - 2*time.Minute)
						synctest.Wait()
						_, opened, _ := a.counts()
						w.want("sessions before it looks", opened, 1)
						time.Sleep(2 * time.Minute)
						synctest.Wait()
						_, opened, _ = a.counts()
						w.want("sessions then", opened, 2)
						close(b.hold)
					})
				})
			})
		}
	}
}

// Results that come while others are being committed share the next commit.
func TestResultsShareACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		w := newWorld(t)
		for i := range n {
			hop := fmt.Sprintf("h%d.example", i)
			w.servers[hop] = &server{}
			w.submit("ann@example.org", "bob@"+hop)
		}
		var left []int // in the spool when a result is logged, which is after its commit
		w.opts.Logf = func(format string, args ...any) {
			if line := fmt.Sprintf(format, args...); !strings.Contains(line, "status=sent") {
				return
			}
			left = append(left, len(w.waiting()))
			if len(left) == 1 {
				time.Sleep(time.Second) // all the others come meanwhile
			}
		}
		w.pass()
		w.want("results", len(left), n)
		if commits := len(slices.Compact(left)); commits > 2 {
			t.Errorf("%d results took %d commits; want one for the first, and one for all that came meanwhile", n, commits)
		}
	})
}

func TestOurOwnTroubleNeverBounces(t *testing.T) {
	w := newWorld(t)
	w.opts.Retry.Attempts = 1
	w.servers["a.example"] = &server{refuse: func() error {
		return &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 7, 8}, "login refused")}
	}}
	w.submit("ann@example.org", "bob@a.example")
	for range 10 {
		w.pass()
		w.later(24 * time.Hour)
	}
	w.want("bounced", w.logged("status=bounced"), 0)
}

// A machine that slept for a week has not tried for a week.
func TestThreeTriesInMinutesDoNotMakeAHostHopeless(t *testing.T) {
	w := newWorld(t)
	w.servers["a.example"] = &server{refuse: refused}
	for range 3 {
		w.submit("ann@example.org", "bob@a.example")
	}
	w.later(8 * 24 * time.Hour)
	for range 4 {
		w.pass()
		w.later(2 * time.Minute)
	}
	w.want("bounced", w.logged("status=bounced"), 0)
}

func TestHostThatBreaksAfterItsGreeting(t *testing.T) {
	w := newWorld(t)
	s := &server{breaks: func(*mail.Message) bool { return true }}
	w.servers["a.example"], w.servers["example.org"] = s, &server{}
	for range 30 {
		w.submit("ann@example.org", "bob@a.example")
	}
	for range 48 * 2 {
		w.pass()
		w.later(30 * time.Minute)
	}
	w.want("still waiting after two days, when one is the limit", len(w.waiting()), 0)
}

// A server that takes one session is not in trouble when it refuses a second one.
func TestServerThatTakesOneSession(t *testing.T) {
	w := newWorld(t)
	s := &server{}
	s.refuse = func() error {
		if s.now > 0 {
			return refused()
		}
		return nil
	}
	w.servers["a.example"] = s
	for range 450 {
		w.submit("ann@example.org", "bob@a.example")
	}
	w.pass()
	w.want("delivered", len(s.got), 450)
	w.want("deferred", w.logged("status=deferred"), 0)
	w.want("next hop in trouble", w.logged("next hop"), 0)
}

func TestRenewalCutsNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.opts.Stay, w.opts.Renew = time.Hour, time.Minute
		s := &server{begun: make(chan string, 9), hold: make(chan struct{})}
		w.servers["a.example"] = s
		w.submit("ann@example.org", "bob@a.example")
		sp := w.acquire()
		ended := make(chan error, 1)
		go func() { ended <- deliver.Pass(t.Context(), sp, w.opts) }()
		<-s.begun
		time.Sleep(w.opts.Renew + 2*deliver.Grace)
		select {
		case err := <-ended:
			t.Errorf("the pass ended under a session: %v", err)
		default:
		}
		close(s.hold)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if err := sp.End(); err != nil {
			t.Fatal(err)
		}
		w.want("delivered", s.got, []string{"bob@a.example"})
	})
}

// A session that takes for ever keeps the pass from its renewal, and nobody else from his mail.
func TestRenewalWaitsForNoSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.opts.Renew = time.Hour
		silent, s := &server{takes: 3 * time.Hour}, &server{}
		w.servers["silent.example"], w.servers["a.example"] = silent, s
		w.submit("ann@example.org", "bob@silent.example")
		w.during(func(wake chan<- struct{}) {
			for n := range 5 {
				time.Sleep(30*time.Minute + time.Second)
				w.submit("ann@example.org", "cyd@a.example")
				wake <- struct{}{}
				time.Sleep(2 * deliver.Grace)
				synctest.Wait()
				w.want("delivered", s.taken(), n+1)
			}
			w.want("the silent one still has its session", silent.sessions(), 1)
			time.Sleep(time.Hour)
			synctest.Wait()
			w.want("and at last its message", silent.taken(), 1)
		})
	})
}

// A server that takes some recipients of its first message, and then ends the session, gets the others at once.
func TestSessionThatEndsAmidItsFirstMessage(t *testing.T) {
	w := newWorld(t)
	s, n := &server{}, 0
	s.breaks = func(*mail.Message) bool { n++; return n == 2 || n == 3 }
	w.servers["a.example"] = s
	w.submit("ann@example.org", "bob@a.example", "cyd@a.example", "dan@a.example")
	w.pass()
	w.want("delivered", slices.Sorted(slices.Values(s.got)), []string{"bob@a.example", "cyd@a.example", "dan@a.example"})
	w.want("waiting", w.waiting(), []string(nil))
}

// A server that takes a recipient in each session, and then ends it, does not get session after session without end.
func TestServerThatTakesOneRecipientInASession(t *testing.T) {
	w := newWorld(t)
	s, of := &server{}, 0
	s.breaks = func(*mail.Message) bool {
		first := s.opened != of
		of = s.opened
		return !first
	}
	w.servers["a.example"] = s
	var rcpts []string
	for i := range 20 {
		rcpts = append(rcpts, fmt.Sprintf("u%d@a.example", i))
	}
	w.submit("ann@example.org", rcpts...)
	w.pass()
	w.want("sessions, five of them again", s.opened, 1+5)
	w.want("delivered", len(s.got), 1+5)
	w.want("waiting", len(w.waiting()), 14)
	w.later(15 * time.Minute)
	w.pass()
	w.want("sessions in the next pass", s.opened, 2*(1+5))
}

// A wary server is told what was tried before.
type wary struct {
	*server
	told []string
}

func (s *wary) OpenAgain(ctx context.Context, domain, relay string, attempts int) (deliver.Session, error) {
	s.told = append(s.told, fmt.Sprintf("%s %s %d", domain, relay, attempts))
	return s.Open(ctx, domain)
}

func TestNextAttemptIsToldOfTheLast(t *testing.T) {
	w := newWorld(t)
	w.servers["example.org"] = &server{}
	later := mail.Result{Relay: "mx.a.example[192.0.2.1]:25", Remote: true, Reply: mail.Reply{Code: 451, Text: "later"}}
	s := &wary{server: &server{answer: func(*mail.Message, int) mail.Result { return later }}}
	resolve := w.opts.Resolve
	w.opts.Resolve = func(hop string) (deliver.Route, error) {
		if hop == "a.example" {
			return deliver.Route{Transport: s, Domain: hop}, nil
		}
		return resolve(hop)
	}
	w.submit("ann@example.org", "bob@a.example")
	w.pass()
	w.want("told at the first attempt", s.told, []string(nil))
	for range 2 {
		w.later(time.Hour)
		w.pass()
	}
	w.want("told at the next ones", s.told, []string{"a.example mx.a.example[192.0.2.1]:25 1", "a.example mx.a.example[192.0.2.1]:25 2"})
}
