package deliver_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/smtp"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
	"golang.org/x/sys/unix"
)

// A hurried next hop answers the first message of a session, and then three at a time.
type hurried struct {
	*server
	t        *testing.T
	breaks   func(three []mail.Attempt) error // answers them, and ends the session; nil: they are taken
	patience <-chan struct{}                  // closed when nothing more can come
}

func (h *hurried) Open(ctx context.Context, domain string) (deliver.Session, error) {
	_, err := h.server.Open(ctx, domain)
	return h, err
}

func (h *hurried) Deliver(_ context.Context, attempts <-chan mail.Attempt) error {
	defer (&session{server: h.server}).Close()
	n := 1
	for {
		var taken []mail.Attempt
		for range n {
			a, ok := h.next(attempts)
			if !ok {
				break
			}
			taken = append(taken, a)
		}
		n = 3
		if len(taken) == n {
			if err := h.breaks(taken); err != nil {
				return err
			}
		}
		for _, a := range taken {
			h.take(a)
		}
		if len(taken) == 0 {
			return nil
		}
	}
}

// next returns the next attempt, unless there are no more.
func (h *hurried) next(attempts <-chan mail.Attempt) (a mail.Attempt, ok bool) {
	select {
	case a, ok = <-attempts:
	case <-h.patience:
		h.t.Error("a session was given neither as many messages as it waits for nor its end")
	}
	return a, ok
}

func (h *hurried) take(a mail.Attempt) {
	var results []mail.Result
	for _, n := range a.Positions {
		results = append(results, (&session{server: h.server}).one(a.Message, n))
	}
	a.Done(results)
}

// hurriedWorld has messages for a.example, which takes one session at a time.
func hurriedWorld(t *testing.T, messages int, breaks func(h *hurried, three []mail.Attempt) error) (*world, *hurried) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	h := &hurried{server: &server{}, t: t, patience: ctx.Done()}
	h.breaks = func(three []mail.Attempt) error { return breaks(h, three) }
	w.opts.Resolve = func(string) (deliver.Route, error) { return deliver.Route{Transport: h, Concurrency: 1}, nil }
	for i := range messages {
		w.submit("ann@example.org", fmt.Sprintf("u%02d@a.example", i))
	}
	return w, h
}

var lost = mail.Delay(mail.OfHost, mail.EnhancedCode{4, 4, 2}, "connection lost")

// What was never sent because the session ended before it is tried again at once, however often that happens.
func TestSessionThatEndsWithSeveralMessages(t *testing.T) {
	w, h := hurriedWorld(t, 19, func(h *hurried, three []mail.Attempt) error {
		if h.opened > 9 {
			return nil
		}
		three[0].Done([]mail.Result{lost})
		three[1].Done(nil)
		three[2].Done(nil)
		return &mail.Failure{Result: lost}
	})
	w.pass()
	w.want("delivered, each once", len(slices.Compact(slices.Sorted(slices.Values(h.got)))), 19)
	w.want("deliveries", len(h.got), 19)
	w.want("sessions", h.opened, 10)
	w.want("waiting", w.waiting(), []string(nil))
}

// What may have arrived is not sent again at once.
func TestSessionThatEndsWithoutAWord(t *testing.T) {
	w, h := hurriedWorld(t, 19, func(h *hurried, three []mail.Attempt) error {
		perhaps := mail.Delay(mail.OfMessage, mail.EnhancedCode{4, 4, 2}, "it may arrive twice")
		three[0].Done([]mail.Result{perhaps})
		three[1].Done([]mail.Result{perhaps})
		three[2].Done(nil)
		return &mail.Failure{Result: lost}
	})
	w.pass()
	w.want("delivered", len(h.got), 7)
	w.want("waiting", len(w.waiting()), 12)
	w.want("deferred", w.logged("status=deferred (it may arrive twice)"), 12)
	w.want("sessions", h.opened, 7)
}

// Messages in flight when our own code breaks are deferred; the others go on.
func TestPanicWithSeveralMessages(t *testing.T) {
	broken := false
	w, h := hurriedWorld(t, 20, func(h *hurried, three []mail.Attempt) error {
		if broken {
			return nil
		}
		broken = true
		h.take(three[1])
		panic("boom")
	})
	w.pass()
	w.want("delivered", len(h.got), 18)
	w.want("waiting", len(w.waiting()), 2)
	w.want("deferred", w.logged("status=deferred (internal error: boom)"), 2)
}

// A next hop that breaks our own code before there is a session waits like one in trouble; the others go on.
func TestPanicBeforeTheSession(t *testing.T) {
	w := newWorld(t)
	good := &server{}
	w.servers["a.example"], w.servers["b.example"] = &server{refuse: func() error { panic("boom") }}, good
	w.submit("ann@example.org", "bob@a.example", "cyd@b.example")
	w.pass()
	w.want("delivered", good.got, []string{"cyd@b.example"})
	w.want("waiting", w.waiting(), []string{"bob@a.example 0 internal error: boom"})
}

// breakable is an Expander that one address is too much for.
type breakable struct{}

func (breakable) Expand(_ context.Context, rcpt mail.Path) (deliver.Expansion, error) {
	if rcpt.Local() == "bad" {
		panic("boom")
	}
	return deliver.Expansion{Found: true}, nil
}

// An address that breaks our own code while it is looked up waits; the others of its message go on.
func TestPanicOverAnAlias(t *testing.T) {
	w := newWorld(t)
	w.opts.Resolve = func(string) (deliver.Route, error) { return deliver.Route{Expander: breakable{}, Concurrency: 1}, nil }
	w.submit("ann@example.org", "u0@a.example", "bad@a.example", "u1@a.example")
	w.pass()
	w.want("waiting", w.waiting(), []string{"bad@a.example 1 internal error: boom"})
}

// A silent next hop takes no session, or a message, and answers nothing until it is hung up on.
type silent struct {
	opens bool // a session
	begun chan struct{}
}

func (s *silent) Open(ctx context.Context, _ string) (deliver.Session, error) {
	if s.opens {
		return s, nil
	}
	return nil, s.wait(ctx)
}

func (s *silent) wait(ctx context.Context) error {
	select {
	case s.begun <- struct{}{}:
		<-ctx.Done()
	case <-ctx.Done(): // another session was begun before the pass was told
	}
	return &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 2}, "interrupted")}
}

func (s *silent) Deliver(ctx context.Context, attempts <-chan mail.Attempt) error {
	a := <-attempts
	defer a.Done(nil)
	return s.wait(ctx)
}

// A session that is cut off because we stop, or before there is one, is no trouble of its next hop. It is within ten seconds,
// however silent the server.
func TestStopIsNoTroubleOfTheNextHop(t *testing.T) {
	for _, opens := range []bool{false, true} {
		t.Run(fmt.Sprintf("session %v", opens), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := newWorld(t), &silent{opens, make(chan struct{})}
				w.opts.Resolve = func(string) (deliver.Route, error) { return deliver.Route{Transport: s}, nil }
				w.submit("ann@example.org", "bob@a.example")
				sp := w.acquire()
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- deliver.Pass(ctx, sp, w.opts) }()
				<-s.begun
				stop()
				told := time.Now()
				if err := <-ended; err != nil {
					t.Fatal(err)
				}
				if took := time.Since(told); took > 10*time.Second {
					t.Errorf("the pass took %v to end", took)
				}
				if err := sp.End(); err != nil {
					t.Fatal(err)
				}
				w.want("next hop in trouble", w.logged("next hop"), 0)
				w.want("waiting", w.waiting(), []string{"bob@a.example 0 "})
			})
		})
	}
}

// overSMTP is a next hop that speaks SMTP.
type overSMTP struct{ to *smtp.Server }

func (o overSMTP) Open(ctx context.Context, _ string) (deliver.Session, error) {
	session, err := smtp.Open(ctx, o.to)
	if err != nil {
		return nil, err
	}
	return session, nil
}

// Wherever a server goes silent, a pass that is told to stop has ended within ten seconds.
func TestStopDuringADialogue(t *testing.T) {
	const perhaps = "bob@a.example 1 the message was sent, but 127.0.0.1 did not say whether it took it (interrupted): it may arrive twice"
	for _, tt := range []struct {
		name    string
		stage   string // at which the pass is told
		replies map[string]string
		waiting []string
	}{
		{"at its greeting", "CONNECT", map[string]string{"CONNECT": smtptest.Hang}, []string{"bob@a.example 0 "}},
		{"before a message", "MAIL", map[string]string{"MAIL": smtptest.Hang}, []string{"bob@a.example 0 "}},
		{"in a message", "BODY", map[string]string{"BODY": smtptest.Stall}, []string{perhaps}},
		{"after a message", ".", map[string]string{".": smtptest.Hang}, []string{perhaps}},
		{"at QUIT", "QUIT", map[string]string{"QUIT": smtptest.Hang}, nil},
		{"at QUIT, when it took seven seconds for the message", ".", map[string]string{".": smtptest.Drip + "900ms 250 ok\r\n", "QUIT": smtptest.Hang}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				var told time.Time
				srv := smtptest.NewPipe(t, smtptest.Options{Replies: tt.replies, OnCommand: func(line string) {
					// Once: the next session may be begun before the pass hears of it.
					if strings.HasPrefix(line, tt.stage) && ctx.Err() == nil {
						told = time.Now()
						stop()
					}
				}})
				w := newWorld(t)
				to := overSMTP{&smtp.Server{Host: "127.0.0.1", Dial: srv.Dial}}
				w.opts.Resolve = func(string) (deliver.Route, error) { return deliver.Route{Transport: to}, nil }
				w.submit("ann@example.org", "bob@a.example")
				s := w.acquire()
				if err := deliver.Pass(ctx, s, w.opts); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(told); took > 10*time.Second {
					t.Errorf("the pass took %v to end", took)
				}
				if err := s.End(); err != nil {
					t.Fatal(err)
				}
				w.want("waiting", w.waiting(), tt.waiting)
			})
		})
	}
}

// A greedy session leaves no descriptors for anything else from its first message to its end. Later ones do.
type greedy struct {
	*session
	limit func(most uint64)
}

func (g *greedy) Open(context.Context, string) (deliver.Session, error) {
	return deliver.OneByOne(g), nil
}

func (g *greedy) Deliver(ctx context.Context, m *mail.Message, recipients []int) []mail.Result {
	synctest.Wait() // all else that wants a descriptor has had it
	if g.taken() == 0 {
		g.limit(0)
	}
	return g.session.Deliver(ctx, m, recipients)
}

func (g *greedy) Close() { g.limit(math.MaxUint64) }

// When there are no descriptors left to write down what a server has taken, that is done when there are.
func TestResultsOutliveAFullTableOfFiles(t *testing.T) {
	var usual unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &usual); err != nil {
		t.Fatal(err)
	}
	g := &greedy{&session{server: &server{}, usable: true}, func(most uint64) {
		l := unix.Rlimit{Cur: min(most, usual.Cur), Max: usual.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Error(err)
		}
	}}
	t.Cleanup(g.Close)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.opts.Resolve = func(string) (deliver.Route, error) { return deliver.Route{Transport: g}, nil }
		w.submit("ann@example.org", "bob@a.example")
		s := w.acquire()
		if err := deliver.Pass(t.Context(), s, w.opts); !errors.Is(err, unix.EMFILE) {
			t.Errorf("Pass: %v", err)
		}
		if err := s.Abandon(); err != nil {
			t.Error(err)
		}
		w.later(time.Hour)
		w.pass()
		w.want("taken", g.got, []string{"bob@a.example"})
		w.want("waiting", w.waiting(), []string(nil))
	})
}

// When our own code breaks over the report, who has the message does not get it again.
func TestPanicOverTheResults(t *testing.T) {
	w := newWorld(t)
	w.concurrency = 1 // with more, the second message may be the first one to arrive
	s := &server{}
	s.answer = func(m *mail.Message, n int) mail.Result {
		if rcpt := m.Recipients[n].Path.Address(); rcpt != "eve@a.example" {
			s.got = append(s.got, rcpt)
			return mail.Result{Action: mail.Relayed, Remote: true, Reply: mail.Reply{Code: 250}}
		}
		return mail.Result{Action: mail.Failed, Scope: mail.OfRecipient, Remote: true, Reply: mail.Reply{Code: 550}}
	}
	w.servers["a.example"] = s
	w.opts.Rewritten = func(mail.Path) mail.Path { panic("boom") }
	w.submit("ann@example.org", "bob@a.example", "eve@a.example", "cyd@a.example")
	w.submit("ann@example.org", "dan@a.example")
	w.pass()
	w.want("delivered", s.got, []string{"bob@a.example", "cyd@a.example", "dan@a.example"})
	w.want("waiting", w.waiting(), []string{"eve@a.example 1 cannot write a report to the sender: internal error: boom"})
}

// Nor does that end the pass where nobody has a session.
func TestPanicOverAReportWithoutASession(t *testing.T) {
	w := newWorld(t)
	good := &server{}
	w.servers["b.example"], w.servers["a.example"] = good, &server{refuse: func() error {
		return &mail.Failure{Result: mail.Result{Action: mail.Failed, Scope: mail.OfHost, Reply: mail.Reply{Text: "no such domain"}}}
	}}
	w.opts.Rewritten = func(mail.Path) mail.Path { panic("boom") }
	w.submit("ann@example.org", "bob@a.example")
	w.submit("ann@example.org", "cyd@b.example")
	w.pass()
	w.want("delivered", good.got, []string{"cyd@b.example"})
	w.want("waiting", w.waiting(), []string{"bob@a.example 1 cannot write a report to the sender: internal error: boom"})
}
