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
	missed bool // a better host could not be had now

	done sync.Mutex     // held while an attempt is answered
	lent map[*loan]bool // what the others have not answered; with done

	second     chan mail.Attempt // what goes to the others; nil as long as there was nothing
	secondOver chan struct{}     // closed when they have answered
	served     bool              // one of them has served; read when they have
}

// waiting is how many attempts may wait for another host.
const waiting = 16

// session returns the session to use with a host that serves: its own, if there is nothing that could be made better.
func (t *Transport) session(inner deliver.Session, h mx.Host, addr netip.Addr, others []mx.Host, missed bool) deliver.Session {
	s := &session{Transport: t, inner: inner, at: placeOf(h, addr), others: others, missed: missed, lent: map[*loan]bool{}}
	for _, a := range h.Addrs {
		s.both = s.both || a.Is4() != addr.Is4()
	}
	s.both = s.both && t.Strangers
	if len(others) == 0 && !s.both && !missed {
		return inner
	}
	return s
}

// MaxRecipients returns how many the first host takes in one transaction, if it says so.
func (s *session) MaxRecipients() int {
	if limited, ok := s.inner.(deliver.Limited); ok {
		return limited.MaxRecipients()
	}
	return 0
}

// A loan is an attempt that is with the other hosts.
type loan struct {
	mail.Attempt
	results []mail.Result // for all recipients, as the first host left them
	open    []int         // those that the others are asked about
}

// Deliver makes the attempts that come, as deliver.Session has it.
func (s *session) Deliver(ctx context.Context, attempts <-chan mail.Attempt) (err error) {
	in, over := make(chan mail.Attempt), make(chan struct{})
	var left *mail.Attempt
	var forwarding sync.WaitGroup
	forwarding.Go(func() {
		defer close(in)
		left = s.forward(ctx, attempts, in, over)
	})
	// Also when the host's session panics: nobody may be left waiting, or answer later.
	defer func() {
		close(over)
		forwarding.Wait()
		if s.second != nil {
			close(s.second)
			<-s.secondOver
		}
		if left != nil {
			s.answer(*left, nil)
		}
		if s.served {
			err = nil
		}
	}()
	return s.inner.Deliver(ctx, in)
}

// forward hands attempts to the host until there are no more or its session is over. It returns one that was left then.
func (s *session) forward(ctx context.Context, attempts <-chan mail.Attempt, in chan<- mail.Attempt, over <-chan struct{}) (left *mail.Attempt) {
	for {
		select {
		case a, ok := <-attempts:
			if !ok {
				return nil
			}
			watched := a
			watched.Done = func(results []mail.Result) { s.answered(ctx, a, results) }
			select {
			case in <- watched:
			case <-over:
				return &a
			}
		case <-over:
			return nil
		}
	}
}

// answer is the end of an attempt.
func (s *session) answer(a mail.Attempt, results []mail.Result) {
	s.done.Lock()
	defer s.done.Unlock()
	s.hope(results)
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
	if s.both && a.Attempts == 1 && r.Action == mail.Failed && r.Remote && r.Scope == mail.OfMessage && r.Reply.Enhanced[1] == security {
		r.Action = mail.Delayed
	}
}

// hope defers what no host was safe enough for of those that could be had, if there is one that may be so another time.
func (s *session) hope(results []mail.Result) {
	for i := range results {
		if r := &results[i]; s.missed && r.Action == mail.Failed && r.Elsewhere && r.Reply.Enhanced[1] == security {
			r.Action = mail.Delayed
		}
	}
}

// elsewhere hands some recipients of an attempt to the other hosts.
func (s *session) elsewhere(ctx context.Context, a mail.Attempt, results []mail.Result, open []int) {
	l := &loan{a, results, open}
	rest := a
	rest.Positions = nil
	for _, i := range open {
		rest.Positions = append(rest.Positions, a.Positions[i])
	}
	rest.Done = func(second []mail.Result) { s.returned(l, second) }
	s.done.Lock()
	s.lent[l] = true
	s.done.Unlock()
	if s.second == nil {
		s.second, s.secondOver = make(chan mail.Attempt, waiting), make(chan struct{})
		go s.serve(ctx)
	}
	s.second <- rest
}

// returned is the end of a loan, unless it has had one. What the other hosts made of it counts unless it says less.
func (s *session) returned(l *loan, second []mail.Result) {
	s.done.Lock()
	defer s.done.Unlock()
	if !s.lent[l] {
		return
	}
	delete(s.lent, l)
	for n, r := range second {
		if first := &l.results[l.open[n]]; outweighs(r, *first) {
			*first = r
		}
	}
	s.hope(l.results)
	l.Done(l.results)
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
	failed := s.sit(ctx)
	for a := range s.second {
		a.Done(repeated(failed, len(a.Positions)))
	}
}

// sit is serve as long as one of them takes something. What our own code panics with is the end of that one only: the
// first host goes on, and who has the message from it does not get it again.
func (s *session) sit(ctx context.Context) (failed *mail.Failure) {
	defer func() {
		if p := recover(); p != nil {
			failed = &mail.Failure{Result: mail.Delay(mail.OfMessage, mail.EnhancedCode{4, 3, 0}, "internal error: %v", p)}
			s.served = false
			s.crashed(failed.Result)
		}
	}()
	next, failed := s.open(ctx, s.others)
	if failed != nil {
		theirs := *failed
		theirs.Elsewhere = true // if it is final, it is so for these hosts only
		return &theirs
	}
	s.served = true
	if err := next.Deliver(ctx, s.second); err != nil {
		s.served = false
		return asFailure(err)
	}
	return nil
}

// crashed returns all loans: a message that makes our own code panic must not come again at once, whatever the first host
// has said.
func (s *session) crashed(r mail.Result) {
	s.done.Lock()
	defer s.done.Unlock()
	for l := range s.lent {
		for _, i := range l.open {
			l.results[i] = r
		}
		l.Done(l.results)
	}
	clear(s.lent)
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
