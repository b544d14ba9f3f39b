package deliver_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// submitMany puts n messages to the recipient into drop/: one that was submitted, and copies of its file.
func (w *world) submitMany(n int, rcpt string) {
	w.t.Helper()
	first := w.submit("ann@example.org", rcpt)
	file, err := os.ReadFile(filepath.Join(w.dir, "drop", string(first)))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 1; i < n; i++ {
		w.copies++
		id := mail.MakeID(time.Unix(9e8, int64(w.copies)*1000), 0)
		if err := os.WriteFile(filepath.Join(w.dir, "drop", string(id)), file, 0o640); err != nil {
			w.t.Fatal(err)
		}
	}
}

// submitUrgent puts a message that is urgent into drop/.
func (w *world) submitUrgent(rcpt string) {
	w.t.Helper()
	w.submitWith(func(env *mail.Envelope) {
		env.Priority, env.Recipients[0].Path = 4, parse(w.t, rcpt)
	})
}

// during makes a pass inside a bubble that goes on until meanwhile returns.
func (w *world) during(meanwhile func(wake chan<- struct{})) {
	w.t.Helper()
	wake := make(chan struct{}, 1)
	w.opts.Wake, w.opts.Stay, w.live = wake, time.Hour, true
	sp := w.acquire()
	ended := make(chan error, 1)
	stop := make(chan struct{})
	ctx, cancel := context.WithCancel(w.t.Context())
	go func() { ended <- deliver.Pass(ctx, sp, w.opts) }()
	go func() { meanwhile(wake); close(stop) }()
	<-stop
	cancel()
	if err := <-ended; err != nil {
		w.t.Fatal(err)
	}
	if err := sp.End(); err != nil {
		w.t.Fatal(err)
	}
}

// A hole is a next hop that swallows whatever is sent to connect to it.
type hole struct{}

func (hole) Open(ctx context.Context, _ string) (deliver.Session, error) {
	select {
	case <-time.After(30 * time.Second):
	case <-ctx.Done():
	}
	return nil, refused()
}

// Many next hops that are known to be dead hold up no other for longer than a few of them take; but each is tried.
func TestDeadNextHopsHoldUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alive := &server{}
		w.opts.Resolve = func(hop string) (deliver.Route, error) {
			if hop == "alive.example" {
				return deliver.Route{Transport: alive, Domain: hop}, nil
			}
			return deliver.Route{Transport: hole{}, Domain: hop}, nil
		}
		const dead = 600
		var rcpts []string
		for i := range dead {
			rcpts = append(rcpts, fmt.Sprintf("bob@d%d.example", i))
		}
		w.submit("ann@example.org", rcpts...)
		w.during(func(wake chan<- struct{}) {
			time.Sleep(5*time.Minute + 7*time.Second) // all have been tried, and some are due again
			w.submit("ann@example.org", "cyd@alive.example")
			wake <- struct{}{}
			time.Sleep(time.Minute)
			synctest.Wait()
			w.want("delivered", alive.taken(), 1)
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			for i := range dead {
				if name := fmt.Sprintf("next hop d%d.example:", i); w.logged(name) < 2 {
					t.Errorf("%s %d tries", name, w.logged(name))
				}
			}
		})
	})
}

// A next hop with very much mail that takes all sessions holds up no other for longer than some messages of it take.
func TestOneNextHopStarvesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		big := &server{takes: time.Second}
		at := time.Time{}
		small := &server{answer: func(*mail.Message, int) mail.Result {
			at = time.Now()
			return mail.Result{Action: mail.Relayed}
		}}
		w.servers["big.example"], w.servers["small.example"] = big, small
		w.concurrency = 100
		w.submitMany(3000, "bob@big.example")
		w.during(func(wake chan<- struct{}) {
			time.Sleep(8 * time.Second)
			synctest.Wait()
			w.want("sessions of the big one", big.sessions(), 64)
			w.submit("ann@example.org", "cyd@small.example")
			asked := time.Now()
			wake <- struct{}{}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if waited := at.Sub(asked); at.IsZero() || waited > 5*time.Second {
				t.Errorf("the small one waited for %v", waited)
			}
			w.want("sessions of the big one, with one given back", big.sessions(), 64)
		})
	})
}

// Two next hops with much mail come to have about as many sessions each.
func TestSessionsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first, second := &server{takes: time.Second}, &server{takes: time.Second}
		w.servers["first.example"], w.servers["second.example"] = first, second
		w.concurrency = 100
		w.submitMany(4000, "bob@first.example")
		w.during(func(wake chan<- struct{}) {
			time.Sleep(10 * time.Second)
			w.submitMany(2000, "bob@second.example")
			wake <- struct{}{}
			a, b := 0, 0
			for range 40 {
				time.Sleep(time.Second)
				synctest.Wait()
				if a, b = first.sessions(), second.sessions(); min(a, b) >= 28 {
					return
				}
			}
			t.Errorf("sessions: %d and %d, want about as many each", a, b)
		})
	})
}

// More next hops than there are sessions, each with more mail than a turn: everybody has his turn before anybody has his
// third.
func TestNextHopsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var hops []*server
		const n = 66
		for i := range n {
			s := &server{takes: time.Second}
			hops = append(hops, s)
			name := fmt.Sprintf("h%d.example", i)
			w.servers[name] = s
			w.submitMany(40, "bob@"+name)
		}
		w.concurrency = 1
		w.during(func(chan<- struct{}) {
			for slices.ContainsFunc(hops, func(s *server) bool { return s.taken() == 0 }) {
				time.Sleep(time.Second)
				synctest.Wait()
			}
			for i, s := range hops {
				if s.taken() > 30 {
					t.Errorf("next hop %d has had %d messages, before another had any", i, s.taken())
				}
			}
			for slices.ContainsFunc(hops, func(s *server) bool { return s.taken() < 40 }) {
				time.Sleep(time.Second)
				synctest.Wait()
			}
		})
	})
}

// Urgent mail overtakes a mailing at the same next hop, which is at its limit of sessions.
func TestMailingDoesNotHoldUpAnUrgentMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &server{takes: time.Second}
		w.servers["a.example"] = s
		w.concurrency = 2
		w.submitMany(600, "bob@a.example")
		w.during(func(wake chan<- struct{}) {
			time.Sleep(time.Minute)
			synctest.Wait()
			before := s.taken()
			w.submitUrgent("cyd@a.example")
			wake <- struct{}{}
			for range 100 {
				time.Sleep(time.Second)
				synctest.Wait()
				if s.has("cyd@a.example") {
					break
				}
			}
			if n := s.taken() - before; !s.has("cyd@a.example") || n > 20 {
				t.Errorf("%d others went before it", n)
			}
		})
	})
}

// When all sessions are taken by servers that do not answer, urgent mail has some of its own.
func TestSilentServersDoNotHoldUpAnUrgentMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var rcpts []string
		for i := range 300 {
			name := fmt.Sprintf("silent%d.example", i)
			w.servers[name] = &server{takes: 5 * time.Minute}
			rcpts = append(rcpts, "bob@"+name)
		}
		s := &server{}
		w.servers["zz.example"] = s
		w.submit("ann@example.org", rcpts...)
		w.during(func(wake chan<- struct{}) {
			time.Sleep(time.Minute)
			w.submit("ann@example.org", "dan@zz.example")
			w.submitUrgent("cyd@zz.example")
			wake <- struct{}{}
			time.Sleep(time.Second)
			synctest.Wait()
			w.want("at once", s.has("cyd@zz.example"), true)
		})
	})
}

// A server that answers 421 when it has more than three sessions gets no more for a while, and all its mail.
func TestPaceOfAServerThatIsOverloaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &server{takes: time.Second}
		s.answer = func(m *mail.Message, n int) mail.Result {
			if s.now > 3 {
				return mail.Result{Scope: mail.OfMessage, Remote: true, Reply: mail.Reply{Code: 450, Enhanced: mail.EnhancedCode{4, 7, 0}, Text: "slow down"}}
			}
			return mail.Result{Action: mail.Relayed}
		}
		w.servers["a.example"] = s
		w.concurrency = 20
		w.submitMany(200, "bob@a.example")
		w.during(func(chan<- struct{}) { time.Sleep(3 * time.Minute) })
		if n := w.logged("slow down"); n == 0 || n > 120 {
			t.Errorf("%d of 200 messages deferred", n)
		}
	})
}

// Next hops whose rate is used up stand before others in line: sessions that are free are for those.
func TestUsedUpRateHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.servers["a.example"] = &server{takes: 20 * time.Minute}
		s := &server{}
		w.servers["z.example"] = s
		resolve := w.opts.Resolve
		w.opts.Resolve = func(hop string) (deliver.Route, error) {
			r, err := resolve(hop)
			if hop != "z.example" && hop != "a.example" {
				r.Rate = spool.Rate{Count: 1, Per: time.Hour}
			}
			return r, err
		}
		rcpts := []string{"bob@a.example"}
		for i := range 600 {
			name := fmt.Sprintf("r%d.example", i)
			w.servers[name] = &server{}
			rcpts = append(rcpts, "bob@"+name)
		}
		w.submit("ann@example.org", rcpts...)
		time.Sleep(time.Second)
		w.submit("ann@example.org", "cyd@z.example")
		w.during(func(chan<- struct{}) {
			time.Sleep(time.Minute)
			synctest.Wait()
			w.want("delivered", s.has("cyd@z.example"), true)
		})
	})
}

// Urgent mail for a next hop that has had its turn does not wait until all others have had theirs.
func TestUrgentMailAfterATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.concurrency = 1
		for i := range 100 {
			name := fmt.Sprintf("h%d.example", i)
			w.servers[name] = &server{takes: time.Second}
			w.submitMany(30, "bob@"+name)
		}
		w.during(func(wake chan<- struct{}) {
			yielded := ""
			for yielded == "" {
				time.Sleep(time.Second)
				synctest.Wait()
				for name, s := range w.servers {
					if got, _, now := s.counts(); got >= 20 && now == 0 {
						yielded = name
					}
				}
			}
			w.submitUrgent("cyd@" + yielded)
			wake <- struct{}{}
			time.Sleep(3 * time.Second)
			synctest.Wait()
			w.want("delivered", w.servers[yielded].has("cyd@"+yielded), true)
		})
	})
}
