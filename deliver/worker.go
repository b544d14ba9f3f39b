package deliver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// A worker has one session after another with one next hop.
type worker struct {
	clerk
	hop    string
	work   *hopWork // the pass's: not to be looked at here
	route  Route
	events chan<- event
	soft   context.Context // done when no further session or message is to be begun
	opened bool            // any session has been opened
	proven bool            // somebody else had one when this worker began
	nudge  chan bool       // ends the rest of an idle session: there is more to do, or its place is wanted
}

func (p *pass) newWorker(hop string, w *hopWork) *worker {
	return &worker{clerk: clerk{p.Options, p.spool, w.retry}, hop: hop, work: w, route: w.route, events: p.events, soft: p.soft, proven: w.proven, nudge: make(chan bool, 1)}
}

// run makes the attempts claimed, and asks for more until there is none.
func (w *worker) run(ctx context.Context, claims []spool.Claim) {
	defer func() { w.tell(event{ended: true}) }()
	for len(claims) > 0 && w.route.Expander != nil {
		for _, c := range claims {
			w.tell(w.expand(ctx, c))
		}
		claims = <-w.ask()
	}
	for len(claims) > 0 {
		session, failure := w.open(claims[0])
		if failure != nil && failure.Action == mail.Failed {
			claims = w.failed(claims, failure)
			continue
		}
		if failure != nil {
			w.refused(claims, failure)
			return
		}
		w.fit(session, claims)
		claims, failure = w.sit(ctx, session, claims)
		if w.stopped() {
			w.giveBack(claims, nil) // a session that was cut off says nothing of the next hop
			return
		}
		if failure != nil {
			w.giveBack(claims, failure)
			return
		}
	}
}

// tell tells the pass something.
func (w *worker) tell(e event) {
	e.from = w
	w.events <- e
}

func (w *worker) stopped() bool { return w.soft.Err() != nil }

// open opens a session, first of all for the message of the claim.
func (w *worker) open(c spool.Claim) (Session, *mail.Result) {
	session, err := w.openFor(c)
	if err != nil {
		return nil, failureResult(err)
	}
	w.opened = true
	return session, nil
}

// fit tells the pass that there is a session, and gives back before what would make a transaction of its own of less than
// the server takes: the next claim has it, with others.
func (w *worker) fit(session Session, claims []spool.Claim) {
	multiple := 0
	if limited, ok := session.(Limited); ok {
		multiple = limited.MaxRecipients()
	}
	for i := range claims {
		c := &claims[i]
		if !c.Cut || multiple == 0 || len(c.Recipients) < multiple {
			continue
		}
		rest := *c
		n := len(c.Recipients) - len(c.Recipients)%multiple
		c.Recipients, rest.Recipients = c.Recipients[:n:n], c.Recipients[n:]
		if len(rest.Recipients) > 0 {
			st := untried(rest, c.ID.Time()) // before the others of the message
			w.tell(event{settlement: st, part: true})
		}
	}
	w.tell(event{opened: true, multiple: multiple})
}

// openFor is open. What a server makes our own code do must not end the pass for all others.
func (w *worker) openFor(c spool.Claim) (session Session, err error) {
	defer func() {
		if p := recover(); p != nil {
			session, err = nil, fmt.Errorf("internal error: %v", p)
		}
	}()
	if again, ok := w.route.Transport.(Retrier); ok && c.Relay != "" {
		return again.OpenAgain(w.soft, w.route.Domain, c.Relay, attempts(c)-1)
	}
	return w.route.Open(w.soft, w.route.Domain)
}

// failureResult returns what an error of a transport says; what is no *mail.Failure is trouble of our own.
func failureResult(err error) *mail.Result {
	var f *mail.Failure
	if errors.As(err, &f) {
		return &f.Result
	}
	r := mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "%v", err)
	return &r
}

// ask asks the pass for more work. What it returns is closed when there is none.
func (w *worker) ask() <-chan []spool.Claim {
	more := make(chan []spool.Claim, 1)
	w.tell(event{wants: more})
	return more
}

func positions(c spool.Claim) []int {
	list := make([]int, len(c.Recipients))
	for i, r := range c.Recipients {
		list[i] = r.Recipient
	}
	return list
}

// attempts returns how many have been made at any recipient of a claim, this one included.
func attempts(c spool.Claim) (most int) {
	for _, r := range c.Recipients {
		most = max(most, r.Attempts)
	}
	return most
}

// failed gives up what was claimed for a next hop that takes no mail at all, and asks for more of it.
func (w *worker) failed(claims []spool.Claim, failure *mail.Result) (more []spool.Claim) {
	for i, c := range claims {
		e := w.concludeAll(c, *failure)
		e.unsent, e.useful = true, i == 0 // what trouble there was, there is none any more
		w.tell(e)
	}
	return <-w.ask()
}

// refused settles what was claimed for a session that could not be had.
func (w *worker) refused(claims []spool.Claim, failure *mail.Result) {
	if w.stopped() {
		w.giveBack(claims, nil)
		return
	}
	if w.proven && !w.opened {
		// A server that takes no more sessions than it has is not in trouble.
		w.giveBack(claims, nil)
		w.tell(event{crowded: true})
		return
	}
	if w.opened {
		w.giveBack(claims, failure)
		return
	}
	// The probe: it waits for its next hop like all others, and counts as tried unless the trouble is ours.
	for _, c := range claims {
		e := w.concludeAll(c, *failure)
		for i := range e.settlement.Dispositions {
			d := &e.settlement.Dispositions[i]
			d.Next, d.Untried = w.Now(), failure.Scope == mail.OfUs
		}
		e.unsent = true
		w.tell(e)
	}
	w.tell(event{failure: failure})
}

// giveBack returns claims as if they had not been made.
func (w *worker) giveBack(claims []spool.Claim, failure *mail.Result) {
	now := w.Now()
	for _, c := range claims {
		w.tell(event{settlement: untried(c, now)})
	}
	if failure != nil {
		w.tell(event{failure: failure})
	}
}

// untried is a settlement as if a claim had not been made.
func untried(c spool.Claim, due time.Time) *spool.Settlement {
	st := &spool.Settlement{Claim: c}
	for _, r := range c.Recipients {
		st.Dispositions = append(st.Dispositions, spool.Disposition{Recipient: r.Recipient, Next: due, Untried: true})
	}
	return st
}

// nowhere is the transport of a next hop that no route leads to.
type nowhere struct{ err error }

func (n nowhere) Open(context.Context, string) (Session, error) {
	return nil, &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 5}, "%v", n.err)}
}

// elapsed rounds for people: milliseconds below a minute, seconds above.
func elapsed(d time.Duration) time.Duration {
	if d < time.Minute {
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Second)
}
