package failover

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/mx"
	"github.com/postrider/postrider/internal/mail"
)

// A session hands attempts to one host, and to the others what that one cannot take.
type session struct {
	*Transport
	inner  deliver.Session
	at     place
	others []mx.Host
	both   bool // the host has addresses of both families, and may judge us by that
	used   bool // it has answered for a message

	done sync.Mutex // held while an attempt is answered

	second     chan mail.Attempt // what goes to the others; nil as long as there was nothing
	secondOver chan struct{}     // closed when they have answered
	served     bool              // one of them has served; read when they have
}

// waiting is how many attempts may wait for another host.
const waiting = 16

// session returns the session to use with a host that serves: its own, if there is nothing that could be made better.
func (t *Transport) session(inner deliver.Session, h mx.Host, addr netip.Addr, others []mx.Host) deliver.Session {
	s := &session{Transport: t, inner: inner, at: placeOf(h, addr), others: others}
	for _, a := range h.Addrs {
		s.both = s.both || a.Is4() != addr.Is4()
	}
	s.both = s.both && t.Strangers
	if len(others) == 0 && !s.both {
		return inner
	}
	return s
}

// Deliver makes the attempts that come, as deliver.Session has it.
func (s *session) Deliver(ctx context.Context, attempts <-chan mail.Attempt) error {
	in, over := make(chan mail.Attempt), make(chan struct{})
	var forwarding sync.WaitGroup
	forwarding.Go(func() {
		defer close(in)
		s.forward(ctx, attempts, in, over)
	})
	err := func() error {
		defer close(over) // whatever becomes of it
		return s.inner.Deliver(ctx, in)
	}()
	forwarding.Wait()
	if s.second != nil {
		close(s.second)
		<-s.secondOver
		if s.served {
			return nil
		}
	}
	return err
}

// forward hands attempts to the host until there are no more or its session is over.
func (s *session) forward(ctx context.Context, attempts <-chan mail.Attempt, in chan<- mail.Attempt, over <-chan struct{}) {
	for {
		select {
		case a, ok := <-attempts:
			if !ok {
				return
			}
			watched := a
			watched.Done = func(results []mail.Result) { s.answered(ctx, a, results) }
			select {
			case in <- watched:
			case <-over:
				s.answer(a, nil)
				return
			}
		case <-over:
			return
		}
	}
}

// answer is the end of an attempt.
func (s *session) answer(a mail.Attempt, results []mail.Result) {
	s.done.Lock()
	defer s.done.Unlock()
	a.Done(results)
}

// answered looks at what the host made of an attempt. A host that has been of use and then hangs up has had enough of one
// session, and gets another one; for all else that it leaves open the next host is asked.
func (s *session) answered(ctx context.Context, a mail.Attempt, results []mail.Result) {
	fresh := !s.used
	var open []int
	results = slices.Clone(results) // the host's session may still look at its own
	for i := range results {
		r := &results[i]
		hosts := r.Action == mail.Delayed && r.Scope >= mail.OfHost
		s.used = s.used || !hosts
		if r.Elsewhere && (fresh || !hosts) {
			open = append(open, i)
		}
		if fresh && hosts && r.Scope == mail.OfHost {
			s.memory.broke(s.at, *r, s.now())
		}
		s.soften(a, r)
	}
	if len(open) == 0 || len(s.others) == 0 {
		s.answer(a, results)
		return
	}
	s.elsewhere(ctx, a, results, open)
}

// soften defers what a host refuses at the first attempt as a matter of policy. If it has addresses of both families the
// next attempt is made at the other one, from an address of ours that it may think better of.
func (s *session) soften(a mail.Attempt, r *mail.Result) {
	if s.both && a.Attempts == 1 && r.Action == mail.Failed && r.Remote && r.Scope == mail.OfMessage && r.Reply.Enhanced[1] == 7 {
		r.Action = mail.Delayed
	}
}

// elsewhere hands some recipients of an attempt to the other hosts. What those make of them counts unless it says less.
func (s *session) elsewhere(ctx context.Context, a mail.Attempt, results []mail.Result, open []int) {
	rest := a
	rest.Positions = nil
	for _, i := range open {
		rest.Positions = append(rest.Positions, a.Positions[i])
	}
	rest.Done = func(second []mail.Result) {
		for n, r := range second {
			if first := &results[open[n]]; outweighs(r, *first) {
				*first = r
			}
		}
		s.answer(a, results)
	}
	if s.second == nil {
		s.second, s.secondOver = make(chan mail.Attempt, waiting), make(chan struct{})
		go s.serve(ctx)
	}
	s.second <- rest
}

// outweighs reports whether what another host made of a recipient counts rather than what the first one did.
func outweighs(second, first mail.Result) bool {
	if second.Action == mail.Failed && second.Elsewhere {
		return first.Action == mail.Failed // it could not have taken the message, but the first one may later
	}
	return second.Action.Final() || second.Remote || !first.Remote
}

// serve has the other hosts make attempts, and answers for what they do not take.
func (s *session) serve(ctx context.Context) {
	defer close(s.secondOver)
	next, failed := s.open(ctx, s.others)
	if failed == nil {
		failed = s.sit(ctx, next)
	}
	for a := range s.second {
		a.Done(repeated(failed, len(a.Positions)))
	}
}

// sit is serve with a host that serves.
func (s *session) sit(ctx context.Context, next deliver.Session) (failed *mail.Failure) {
	s.served = true
	if err := next.Deliver(ctx, s.second); err != nil {
		s.served = false
		return asFailure(err)
	}
	return nil
}

// repeated returns the same result n times; nil if there is none.
func repeated(f *mail.Failure, n int) []mail.Result {
	if f == nil {
		return nil
	}
	results := make([]mail.Result, n)
	for i := range results {
		results[i] = f.Result
	}
	return results
}
