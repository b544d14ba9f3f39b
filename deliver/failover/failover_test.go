package failover

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/mx"
	"github.com/postrider/postrider/internal/mail"
)

// A world is hosts in memory. What becomes of a connection to an address is said by name:
//
//	dead    nobody answers
//	us      there is no network
//	login   the password is wrong
//	554     a greeting with this code; any other, too
//
// and what of a recipient by a function.
type world struct {
	*Transport
	t      *testing.T
	hosts  []mx.Host
	dials  map[string]string                  // by address
	judges map[string]func(n int) mail.Result // by address: the n-th recipient it is asked about, from 0

	mu    sync.Mutex
	tried []string // addresses, in order
	asked map[string]int
	slow  chan struct{} // if not nil, dialling waits for it
}

func newWorld(t *testing.T, hosts ...mx.Host) *world {
	w := &world{t: t, hosts: hosts, dials: map[string]string{}, judges: map[string]func(int) mail.Result{}, asked: map[string]int{}}
	w.Transport = &Transport{
		Find: func(context.Context, string) ([]mx.Host, error) { return w.hosts, nil },
		Dial: w.dial,
	}
	return w
}

func host(name string, addrs ...string) mx.Host {
	h := mx.Host{Name: name, Port: 25}
	for _, a := range addrs {
		h.Addrs = append(h.Addrs, netip.MustParseAddr(a))
	}
	return h
}

func (w *world) dial(ctx context.Context, h mx.Host) (deliver.Session, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	addr := h.Addrs[0].String()
	if !h.Addrs[0].IsValid() {
		addr = h.Name
	}
	w.tried = append(w.tried, addr)
	relay := h.Name + "[" + addr + "]:25"
	if w.slow != nil {
		w.mu.Unlock()
		select {
		case <-w.slow:
		case <-ctx.Done():
		}
		w.mu.Lock()
	}
	if ctx.Err() != nil {
		return nil, &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 2}, "interrupted")}
	}
	switch how := w.dials[addr]; how {
	case "dead":
		return nil, &mail.Failure{Result: mail.Delay(mail.OfHost, mail.EnhancedCode{4, 4, 1}, "cannot connect to %s", relay)}
	case "us":
		return nil, &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 4, 1}, "cannot connect to %s: no network", relay)}
	case "":
		return &conversation{w, addr, relay}, nil
	case "login":
		return nil, &mail.Failure{Result: mail.Result{Scope: mail.OfUs, Remote: true, Relay: relay, Reply: mail.Reply{Code: 535, Text: "who?"}}}
	default:
		code := 0
		fmt.Sscan(how, &code)
		return nil, &mail.Failure{Result: mail.Result{Scope: mail.OfHost, Remote: true, Relay: relay, Reply: mail.Reply{Code: code, Text: "go"}}}
	}
}

// A conversation takes one message after the other, and ends as soon as a result speaks of the host.
type conversation struct {
	*world
	addr, relay string
}

func (c *conversation) Deliver(_ context.Context, attempts <-chan mail.Attempt) error {
	for a := range attempts {
		var results []mail.Result
		over := false
		for range a.Positions {
			c.mu.Lock()
			n := c.asked[c.addr]
			c.asked[c.addr]++
			judge := c.judges[c.addr]
			c.mu.Unlock()
			r := taken
			if judge != nil {
				r = judge(n)
			}
			r.Relay = c.relay
			over = over || r.Scope >= mail.OfHost && r.Action == mail.Delayed
			results = append(results, r)
		}
		a.Done(results)
		if over {
			return &mail.Failure{Result: results[0]}
		}
	}
	return nil
}

var (
	taken    = mail.Result{Action: mail.Relayed, Remote: true, Reply: mail.Reply{Code: 250, Text: "taken"}}
	grey     = mail.Result{Remote: true, Scope: mail.OfRecipient, Elsewhere: true, Reply: mail.Reply{Code: 451, Text: "greylisted"}}
	busy     = mail.Result{Remote: true, Scope: mail.OfRecipient, Reply: mail.Reply{Code: 450, Text: "busy, others were taken"}}
	unknown  = mail.Result{Action: mail.Failed, Remote: true, Reply: mail.Reply{Code: 550, Text: "no such user"}}
	blocked  = mail.Result{Action: mail.Failed, Scope: mail.OfMessage, Remote: true, Reply: mail.Reply{Code: 550, Enhanced: mail.EnhancedCode{5, 7, 1}, Text: "blocked"}}
	tooLarge = mail.Result{Action: mail.Failed, Scope: mail.OfMessage, Elsewhere: true, Reply: mail.Reply{Enhanced: mail.EnhancedCode{5, 3, 4}, Text: "too large"}}
	closing  = mail.Result{Remote: true, Scope: mail.OfHost, Elsewhere: true, Reply: mail.Reply{Code: 421, Text: "closing"}}
	perhaps  = mail.Result{Scope: mail.OfMessage, Reply: mail.Reply{Enhanced: mail.EnhancedCode{4, 4, 2}, Text: "no answer after the content"}}
)

func always(r mail.Result) func(int) mail.Result { return func(int) mail.Result { return r } }

// attempt hands one message for so many recipients to a session, and returns what became of it.
func attempt(t *testing.T, s deliver.Session, number, recipients int) (results []mail.Result, err error) {
	t.Helper()
	attempts := make(chan mail.Attempt, 1)
	a := mail.Attempt{Message: &mail.Message{}, Attempts: number, Done: func(r []mail.Result) { results = r }}
	for i := range recipients {
		a.Positions = append(a.Positions, i)
	}
	attempts <- a
	close(attempts)
	err = s.Deliver(t.Context(), attempts)
	if results == nil {
		t.Fatal("the attempt was not answered")
	}
	return results, err
}

func words(results []mail.Result) string {
	var list []string
	for _, r := range results {
		host, _, _ := strings.Cut(r.Relay, "[")
		list = append(list, strings.Trim(fmt.Sprintf("%s %s %s", r.Action, r.Reply, host), " "))
	}
	return strings.Join(list, "; ")
}

func (w *world) open(t *testing.T) deliver.Session {
	t.Helper()
	s, err := w.Open(t.Context(), "d.example")
	if err != nil {
		t.Fatalf("Open = %v", err)
	}
	return s
}

func TestOpen(t *testing.T) {
	const a, b = "192.0.2.1", "192.0.2.2"
	two := []mx.Host{host("mx1", a), host("mx2", b)}
	for _, tt := range []struct {
		name      string
		hosts     []mx.Host
		dials     map[string]string
		strangers bool
		want      string // the host that serves, or the failure
		tried     []string
	}{
		{"the first serves", two, nil, true, "mx1", []string{a}},
		{"the first is dead", two, map[string]string{a: "dead"}, true, "mx2", []string{a, b}},
		{"the first says no", two, map[string]string{a: "554"}, true, "mx2", []string{a, b}},
		{"all are dead", two, map[string]string{a: "dead", b: "dead"}, true, "delayed cannot connect to mx2[192.0.2.2]:25", []string{a, b}},
		{"who spoke says more", two, map[string]string{a: "554", b: "dead"}, true, "delayed 554 go", []string{a, b}},
		{"a dead host says more than no network", two, map[string]string{a: "dead", b: "us"}, true, "delayed cannot connect to mx1[192.0.2.1]:25", []string{a, b}},
		{"no network", two, map[string]string{a: "us", b: "us"}, true, "delayed of us cannot connect to mx2[192.0.2.2]:25: no network", []string{a, b}},
		{"never mail here", two, map[string]string{a: "521", b: "521"}, true, "failed 521 go", []string{a, b}},
		{"never mail at one", two, map[string]string{a: "521", b: "554"}, true, "delayed 554 go", []string{a, b}},
		{"never mail at our own relays", two, map[string]string{a: "521", b: "521"}, false, "delayed 521 go", []string{a, b}},
		{"the next address", []mx.Host{host("mx1", a, b)}, map[string]string{a: "dead"}, true, "mx1", []string{a, b}},
		{"a login is not tried at another address", []mx.Host{host("mx1", a, b), host("mx2", "192.0.2.3")}, map[string]string{a: "login"}, false, "mx2", []string{a, "192.0.2.3"}},
		{"no host", nil, nil, true, "delayed there is no host to try", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.hosts...)
			w.Strangers = tt.strangers
			if tt.dials != nil {
				w.dials = tt.dials
			}
			got := ""
			if s, err := w.Open(t.Context(), "d.example"); err == nil {
				results, _ := attempt(t, s, 1, 1)
				got, _, _ = strings.Cut(results[0].Relay, "[")
			} else {
				f := asFailure(err)
				got = f.Action.String() + map[bool]string{true: " of us"}[f.Scope == mail.OfUs] + " " + f.Reply.String()
			}
			if got != tt.want || !slices.Equal(w.tried, tt.tried) {
				t.Errorf("Open: %s, tried %q\nwant %s, %q", got, w.tried, tt.want, tt.tried)
			}
		})
	}
}

func TestManyAddresses(t *testing.T) {
	var hosts []mx.Host
	w := newWorld(t)
	for i := range 10 {
		h := host(fmt.Sprintf("mx%d", i))
		for j := range 10 {
			a := netip.AddrFrom4([4]byte{192, 0, byte(i), byte(j)})
			h.Addrs = append(h.Addrs, a)
			w.dials[a.String()] = "dead"
		}
		hosts = append(hosts, h)
	}
	w.hosts = hosts
	if _, err := w.Open(t.Context(), "d.example"); err == nil {
		t.Error("a dead host served")
	}
	if len(w.tried) != maxTries || w.tried[5] != "192.0.1.0" {
		t.Errorf("tried %d addresses: %q", len(w.tried), w.tried)
	}
}

// TestSecondHost says what a second host is asked about, and whose word counts.
func TestSecondHost(t *testing.T) {
	const a, b = "192.0.2.1", "192.0.2.2"
	for _, tt := range []struct {
		name          string
		first, second func(int) mail.Result
		dial          string // how the second can be reached
		want          string
		asked         int // recipients at the second
	}{
		{"taken", nil, nil, "", "relayed 250 taken mx1; relayed 250 taken mx1", 0},
		{"greylisted", always(grey), nil, "", "relayed 250 taken mx2; relayed 250 taken mx2", 2},
		{"at both", always(grey), always(grey), "", "delayed 451 greylisted mx2; delayed 451 greylisted mx2", 2},
		{"one of two", func(n int) mail.Result { return []mail.Result{unknown, grey}[n] }, nil, "", "failed 550 no such user mx1; relayed 250 taken mx2", 1},
		{"refused by the second", always(grey), always(unknown), "", "failed 550 no such user mx2; failed 550 no such user mx2", 2},
		{"refused by the first", always(unknown), nil, "", "failed 550 no such user mx1; failed 550 no such user mx1", 0},
		{"no question to the second", always(busy), nil, "", "delayed 450 busy, others were taken mx1; delayed 450 busy, others were taken mx1", 0},
		{"never after the content", always(perhaps), nil, "", "delayed no answer after the content mx1; delayed no answer after the content mx1", 0},
		{"the second is dead", always(grey), nil, "dead", "delayed 451 greylisted mx1; delayed 451 greylisted mx1", 0},
		{"too large for the first", always(tooLarge), nil, "", "relayed 250 taken mx2; relayed 250 taken mx2", 2},
		{"too large for both", always(tooLarge), always(tooLarge), "", "failed too large mx2; failed too large mx2", 2},
		{"too large, and the second is dead", always(tooLarge), nil, "dead", "delayed cannot connect to mx2[192.0.2.2]:25; delayed cannot connect to mx2[192.0.2.2]:25", 0},
		{"greylisted, and too large for the second", always(grey), always(tooLarge), "", "delayed 451 greylisted mx1; delayed 451 greylisted mx1", 2},
		{"a farewell", always(closing), nil, "", "relayed 250 taken mx2; relayed 250 taken mx2", 2},
		{"from both", always(closing), always(closing), "", "delayed 421 closing mx2; delayed 421 closing mx2", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, host("mx1", a), host("mx2", b))
			w.judges[a], w.judges[b], w.dials[b] = tt.first, tt.second, tt.dial
			results, _ := attempt(t, w.open(t), 1, 2)
			if got := words(results); got != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
			if w.asked[b] != tt.asked {
				t.Errorf("the second was asked about %d recipients, want %d", w.asked[b], tt.asked)
			}
		})
	}
}

func TestThirdHost(t *testing.T) {
	w := newWorld(t, host("mx1", "192.0.2.1"), host("mx2", "192.0.2.2"), host("mx3", "192.0.2.3"))
	w.judges["192.0.2.1"], w.judges["192.0.2.2"] = always(grey), always(closing)
	results, err := attempt(t, w.open(t), 1, 1)
	if got := words(results); got != "relayed 250 taken mx3" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

// TestManyMessages hands over a hundred, of which the first host takes every other one.
func TestManyMessages(t *testing.T) {
	w := newWorld(t, host("mx1", "192.0.2.1"), host("mx2", "192.0.2.2"))
	w.judges["192.0.2.1"] = func(n int) mail.Result { return []mail.Result{taken, grey}[n%2] }
	attempts := make(chan mail.Attempt)
	var mu sync.Mutex
	got := map[string]int{}
	go func() {
		defer close(attempts)
		for range 100 {
			attempts <- mail.Attempt{Message: &mail.Message{}, Positions: []int{0}, Done: func(r []mail.Result) {
				if !mu.TryLock() {
					t.Error("two attempts are answered at once")
					mu.Lock()
				}
				defer mu.Unlock()
				got[words(r)]++
			}}
		}
	}()
	if err := w.open(t).Deliver(t.Context(), attempts); err != nil {
		t.Errorf("Deliver = %v", err)
	}
	if got["relayed 250 taken mx1"] != 50 || got["relayed 250 taken mx2"] != 50 {
		t.Errorf("%v", got)
	}
	if len(w.tried) != 2 {
		t.Errorf("connections to %q, want one to each", w.tried)
	}
}

// TestHostThatHasHadEnough gets another session, and the next host nothing.
func TestHostThatHasHadEnough(t *testing.T) {
	w := newWorld(t, host("mx1", "192.0.2.1"), host("mx2", "192.0.2.2"))
	w.judges["192.0.2.1"] = func(n int) mail.Result { return []mail.Result{taken, closing}[min(n, 1)] }
	attempts := make(chan mail.Attempt, 3)
	var got []string
	for range 3 {
		attempts <- mail.Attempt{Message: &mail.Message{}, Positions: []int{0}, Done: func(r []mail.Result) { got = append(got, words(r)) }}
	}
	err := w.open(t).Deliver(t.Context(), attempts)
	if err == nil || len(got) < 2 || got[1] != "delayed 421 closing mx1" || w.asked["192.0.2.2"] != 0 {
		t.Errorf("Deliver = %v; %q", err, got)
	}
	for _, g := range got[2:] {
		if g != "" {
			t.Errorf("what was not tried is answered with %q", g)
		}
	}
	w.tried = nil
	w.open(t)
	if !slices.Equal(w.tried, []string{"192.0.2.1"}) {
		t.Errorf("the next session was tried with %q", w.tried)
	}
}

func TestDeadHostIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const dead, good = "192.0.2.1", "192.0.2.2"
		w := newWorld(t, host("mx1", dead), host("mx2", good))
		w.dials[dead] = "dead"
		tries := func() (n int) {
			t.Helper()
			w.tried = nil
			w.open(t)
			for _, a := range w.tried {
				if a == dead {
					n++
				}
			}
			return n
		}
		for i, step := range []struct {
			after time.Duration
			want  int
		}{{0, 1}, {0, 0}, {time.Minute - 1, 0}, {1, 1}, {time.Minute, 0}, {time.Minute, 1}, {4 * time.Minute, 1}, {5 * time.Minute, 1}, {5*time.Minute - 1, 0}, {1, 1}} {
			time.Sleep(step.after)
			if n := tries(); n != step.want {
				t.Errorf("step %d: the dead host was tried %d times, want %d", i, n, step.want)
			}
		}
		w.hosts = w.hosts[:1]
		_, err := w.Open(t.Context(), "d.example")
		if f := asFailure(err); f.Remote || f.Reply.Text != "cannot connect to mx1[192.0.2.1]:25 (not tried again so soon)" || f.Status() != (mail.EnhancedCode{4, 4, 1}) {
			t.Errorf("Open = %+v", f)
		}
		w.dials[dead] = ""
		time.Sleep(5 * time.Minute)
		if n := tries(); n != 1 {
			t.Errorf("tried %d times when it was back", n)
		}
		if n := tries(); n != 1 {
			t.Errorf("tried %d times after that", n)
		}
	})
}

// TestThousandDomainsOfOneDeadHost begins them all while nothing is known.
func TestThousandDomainsOfOneDeadHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, host("mx1", "192.0.2.1"))
		w.dials["192.0.2.1"] = "dead"
		w.slow = make(chan struct{})
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if _, err := w.Open(t.Context(), "d.example"); err == nil {
					t.Error("a dead host served")
				}
			})
		}
		synctest.Wait()
		close(w.slow)
		all.Wait()
		if len(w.tried) != 1 {
			t.Errorf("%d connections", len(w.tried))
		}
	})
}

func TestWhoWaitsCanBeInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, host("mx1", "192.0.2.1"))
		w.slow = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				_, err := w.Open(ctx, "d.example")
				if err == nil || asFailure(err).Scope != mail.OfUs {
					t.Errorf("Open = %v", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		both.Wait()
		close(w.slow)
		w.open(t) // it was not the host's fault
	})
}

// Only the proxy knows the addresses of hosts that it connects us to.
func TestHostsWithoutAddress(t *testing.T) {
	w := newWorld(t, mx.Host{Name: "mx1", Addrs: []netip.Addr{{}}}, mx.Host{Name: "mx2", Addrs: []netip.Addr{{}}})
	w.dials["mx1"] = "dead"
	w.open(t)
	w.open(t)
	if !slices.Equal(w.tried, []string{"mx1", "mx2", "mx2"}) {
		t.Errorf("tried %q", w.tried)
	}
}

// TestWhoWaitsForWhom says who may try an address, who waits to hear of it, and who is told to leave it alone.
func TestWhoWaitsForWhom(t *testing.T) {
	const tries, waits, leaves = "tries", "waits", "leaves it alone"
	var m memory
	at := placeOf(host("mx1", "192.0.2.1"), netip.MustParseAddr("192.0.2.1"))
	now := time.Now()
	look := func() string {
		switch wait, failed := m.look(at, now); {
		case wait != nil:
			return waits
		case failed != nil:
			return leaves
		}
		return tries
	}
	dead := mail.Failure{Result: mail.Delay(mail.OfHost, mail.EnhancedCode{4, 4, 1}, "cannot connect")}
	for _, step := range []struct {
		what string
		do   func()
		want [2]string // of the next two
	}{
		{"nothing is known", func() {}, [2]string{tries, waits}},
		{"it is dead", func() { m.end(at, &dead, now) }, [2]string{leaves, leaves}},
		{"a minute later", func() { now = now.Add(downFirst) }, [2]string{tries, leaves}},
		{"it serves again", func() { m.end(at, nil, now) }, [2]string{tries, tries}},
	} {
		step.do()
		if got := [2]string{look(), look()}; got != step.want {
			t.Errorf("%s: one %s and another one %s, want %q", step.what, got[0], got[1], step.want)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var m memory
	for i := range maxKnown + 100 {
		at := placeOf(mx.Host{Port: 25}, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
		if failed := m.begin(t.Context(), at, time.Now); failed != nil {
			t.Fatal(failed)
		}
		m.end(at, nil, time.Now())
	}
	if len(m.known) > maxKnown {
		t.Errorf("%d addresses are remembered", len(m.known))
	}
}

// TestOtherFamily says which address is tried first after an earlier attempt.
func TestOtherFamily(t *testing.T) {
	const a, b, c, d = "2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"
	for _, tt := range []struct {
		name     string
		addrs    []string
		relay    string
		attempts int
		want     string
	}{
		{"the first attempt", []string{a, b}, "", 0, "[2001:db8::1 192.0.2.1]"},
		{"after one with IPv6", []string{a, b, c, d}, "mx1[2001:db8::1]:25", 1, "[192.0.2.1 192.0.2.2 2001:db8::1 2001:db8::2]"},
		{"after one with IPv4", []string{a, b, c, d}, "mx1[192.0.2.2]:25", 1, "[2001:db8::1 2001:db8::2 192.0.2.2 192.0.2.1]"},
		{"one family: the same again", []string{b, d}, "mx1[192.0.2.2]:25", 1, "[192.0.2.2 192.0.2.1]"},
		{"and then any", []string{b, d}, "mx1[192.0.2.2]:25", 2, "[192.0.2.1 192.0.2.2]"},
		{"another host", []string{a, b}, "mx2[2001:db8::1]:25", 1, "[2001:db8::1 192.0.2.1]"},
		{"a host whose name begins so", []string{a, b}, "mx1.example[2001:db8::1]:25", 1, "[2001:db8::1 192.0.2.1]"},
		{"not a relay", []string{a, b}, "mx1[nonsense]:25", 1, "[2001:db8::1 192.0.2.1]"},
		{"nor this", []string{a, b}, "mx1[", 1, "[2001:db8::1 192.0.2.1]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := fmt.Sprint(inTurn(host("mx1", tt.addrs...), tt.relay, tt.attempts)); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// TestPolicy defers the first refusal of a host that may think better of our other address.
func TestPolicy(t *testing.T) {
	dual, single := host("mx1", "2001:db8::1", "192.0.2.1"), host("mx1", "192.0.2.1")
	inContent := blocked
	inContent.Reply.Enhanced = mail.EnhancedCode{5, 6, 0}
	ofRecipient := blocked
	ofRecipient.Scope = mail.OfRecipient
	for _, tt := range []struct {
		name      string
		host      mx.Host
		strangers bool
		number    int
		result    mail.Result
		want      mail.Action
	}{
		{"both families, first attempt", dual, true, 1, blocked, mail.Delayed},
		{"second attempt", dual, true, 2, blocked, mail.Failed},
		{"one family", single, true, 1, blocked, mail.Failed},
		{"our own relay", dual, false, 1, blocked, mail.Failed},
		{"no matter of policy", dual, true, 1, inContent, mail.Failed},
		{"one recipient", dual, true, 1, ofRecipient, mail.Failed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.host)
			w.Strangers = tt.strangers
			for _, a := range tt.host.Addrs {
				w.judges[a.String()] = always(tt.result)
			}
			results, _ := attempt(t, w.open(t), tt.number, 1)
			if got := results[0].Action; got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// A breaking host takes one attempt, and then our own code panics.
type breaking struct{ deliver.Session }

func (breaking) Deliver(_ context.Context, attempts <-chan mail.Attempt) error {
	<-attempts
	panic("boom")
}

// TestPanic has our own code panic at the first host or at the second one. Whoever has a message does not get it again,
// and nobody is left waiting.
func TestPanic(t *testing.T) {
	const first, second = "192.0.2.1", "192.0.2.2"
	for _, tt := range []struct {
		name, at string
		asked    int // recipients of each of three messages
		want     []string
		panics   any
	}{
		{"first host", first, 1, []string{"", "", ""}, "boom"},
		{"second host", second, 2, []string{
			"relayed 250 taken mx1; delayed internal error: boom", "relayed 250 taken mx1; delayed 451 greylisted mx1", "relayed 250 taken mx1; delayed 451 greylisted mx1",
		}, nil},
		{"connection to the second host", "dial " + second, 2, []string{
			"relayed 250 taken mx1; delayed internal error: boom", "relayed 250 taken mx1; delayed 451 greylisted mx1", "relayed 250 taken mx1; delayed 451 greylisted mx1",
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, host("mx1", first), host("mx2", second))
				w.judges[first] = func(n int) mail.Result { return []mail.Result{taken, grey}[n%2] }
				w.Dial = func(ctx context.Context, h mx.Host) (deliver.Session, error) {
					if tt.at == "dial "+h.Addrs[0].String() {
						panic("boom")
					}
					s, err := w.dial(ctx, h)
					if h.Addrs[0].String() == tt.at {
						return breaking{s}, err
					}
					return s, err
				}
				s := w.open(t)
				got := make([]string, 3)
				attempts, over := make(chan mail.Attempt), make(chan any, 1)
				go func() {
					defer func() { over <- recover() }()
					_ = s.Deliver(t.Context(), attempts)
				}()
				for i := range got {
					a := mail.Attempt{Message: &mail.Message{}, Positions: []int{0, 1}[:tt.asked], Done: func(r []mail.Result) { got[i] += words(r) }}
					synctest.Wait()
					select {
					case attempts <- a:
					default:
					}
				}
				synctest.Wait() // the last one is answered without waiting for the end
				if !slices.Equal(got, tt.want) {
					t.Errorf("%q, want %q", got, tt.want)
				}
				close(attempts)
				if c := <-over; c != tt.panics {
					t.Errorf("Deliver panics with %v, want %v", c, tt.panics)
				}
				if tt.panics == nil {
					w.Dial = w.dial
					_, err := w.OpenAgain(t.Context(), "d.example", "", 0)
					if err != nil {
						t.Errorf("afterwards: %v", err)
					}
					w.dials[first] = "dead"
					if _, err := w.OpenAgain(t.Context(), "d.example", "", 0); err != nil {
						t.Errorf("the second host afterwards: %v", err)
					}
				}
			})
		})
	}
}
