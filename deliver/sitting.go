package deliver

import (
	"cmp"
	"context"
	"sync"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
)

// A sitting is a worker's work with one session: he reads messages and hands them over, while the session tells what
// became of earlier ones.
type sitting struct {
	*worker
	attempts chan mail.Attempt
	over     chan struct{} // closed when the session has ended
	failure  *mail.Result  // why, if it ended by itself; read it when over is closed

	mu     sync.Mutex
	trials map[*trial]bool // taken by the session and not answered
	quiet  chan struct{}   // told when the last of them has been
	useful bool            // the session has answered for a message
}

// A trial is a claim that a session has.
type trial struct {
	claim spool.Claim
	file  *drop.File
}

// sit makes attempts until there are no more, or the session is over. It returns the claims that are left then, and why
// if the next hop is to blame: a session that ends after it was of use is no failure, since servers limit what they take
// in one.
func (w *worker) sit(ctx context.Context, session Session, claims []spool.Claim) (left []spool.Claim, failure *mail.Result) {
	s := &sitting{
		worker: w, attempts: make(chan mail.Attempt), over: make(chan struct{}),
		trials: map[*trial]bool{}, quiet: make(chan struct{}, 1),
	}
	go func() {
		defer close(s.over)
		s.failure = s.deliver(ctx, session)
	}()
	left = s.feed(claims)
	close(s.attempts)
	if s.stopped() {
		s.giveBack(left, nil) // they need not wait for the answers to others
		left = nil
	}
	<-s.over
	for t := range s.trials {
		s.answer(t, cmp.Or(s.failure, internalError("the session ended without an answer")))
	}
	if s.useful {
		return left, nil
	}
	return left, s.failure
}

// deliver lets the session work. What a message makes our own code do must not end the pass for all others.
func (s *sitting) deliver(ctx context.Context, session Session) (failure *mail.Result) {
	defer func() {
		if p := recover(); p != nil {
			failure = internalError(p)
		}
	}()
	if err := session.Deliver(ctx, s.attempts); err != nil {
		return failureResult(err)
	}
	return nil
}

func internalError(p any) *mail.Result {
	r := mail.Delay(mail.OfMessage, mail.EnhancedCode{4, 3, 0}, "internal error: %v", p)
	return &r
}

// feed hands over claims, and asks for more, until there are none. It returns what the session did not take.
func (s *sitting) feed(claims []spool.Claim) (left []spool.Claim) {
	for len(claims) > 0 {
		// Asked for now, the next claims are there when these are handed over; but not too many.
		var more <-chan []spool.Claim
		if len(claims) <= sessionPart {
			more = s.ask()
		}
		claims = s.offer(claims)
		ended := len(claims) > 0
		if more != nil {
			claims = append(claims, <-more...)
		}
		if ended {
			return claims
		}
		if len(claims) == 0 {
			// Once more, when the last results are known: a report, say, may go the same way.
			s.rest()
			for claims = <-s.ask(); len(claims) == 0 && s.linger(); {
				claims = <-s.ask()
			}
		}
	}
	return nil
}

// offer hands over claims. It returns those that the session did not take.
func (s *sitting) offer(claims []spool.Claim) (left []spool.Claim) {
	for i, c := range claims {
		t, ok := s.prepare(c)
		if !ok {
			continue
		}
		// Not before it was opened: that takes longest, and if we are told to stop meanwhile, a session that waits would
		// often get it.
		if s.stopped() {
			s.drop(t)
			return claims[i:]
		}
		select {
		case s.attempts <- t.attempt(s):
			continue
		case <-s.over:
		case <-s.soft.Done():
		}
		s.drop(t)
		return claims[i:]
	}
	return nil
}

// rest waits until everything that the session took is answered.
func (s *sitting) rest() {
	for {
		s.mu.Lock()
		n := len(s.trials)
		s.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-s.quiet:
		case <-s.over:
			return
		}
	}
}

// prepare opens the message of a claim. What cannot be read is answered for at once.
func (s *sitting) prepare(c spool.Claim) (*trial, bool) {
	f, err := s.spool.Read(c.ID)
	if err != nil {
		s.tell(unreadable(c, err))
		return nil, false
	}
	t := &trial{c, f}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trials[t] = true
	return t, true
}

func (t *trial) attempt(s *sitting) mail.Attempt {
	return mail.Attempt{Message: &t.file.Message, Positions: positions(t.claim), Attempts: attempts(t.claim), Done: func(results []mail.Result) { s.done(t, results) }}
}

// drop forgets a trial that is answered, or was not taken.
func (s *sitting) drop(t *trial) {
	_ = t.file.Close() // it was only read
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.trials, t)
	if len(s.trials) > 0 {
		return
	}
	select {
	case s.quiet <- struct{}{}:
	default:
	}
}

// answer is done with the same result for all recipients.
func (s *sitting) answer(t *trial, r *mail.Result) {
	results := make([]mail.Result, len(t.claim.Recipients))
	for i := range results {
		results[i] = *r
	}
	s.done(t, results)
}

// done tells the pass what became of a trial.
func (s *sitting) done(t *trial, results []mail.Result) {
	defer s.drop(t)
	if results == nil {
		s.giveBack([]spool.Claim{t.claim}, nil)
		return
	}
	broken, hostOnly := false, true
	for _, r := range results {
		switch {
		case r.Action == mail.Delayed && r.Scope == mail.OfHost:
			broken = true
		case r.Action == mail.Delayed && r.Scope == mail.OfUs:
		default:
			hostOnly = false
		}
	}
	e := s.conclude(t.claim, &t.file.Message, results, broken && (s.useful || !hostOnly))
	e.useful = !hostOnly && !s.useful
	s.useful = s.useful || !hostOnly
	s.tell(e)
}
