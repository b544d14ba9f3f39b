package deliver

import (
	"context"
	"errors"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// A worker has one session with one next hop.
type worker struct {
	clerk
	hop     string
	route   Route
	events  chan<- event
	soft    context.Context // done when no further session or message is to be begun
	session Session
	useful  bool // the session has answered for a message
	opened  bool // any session has been opened
	proven  bool // somebody else had one when this worker began
}

func (p *pass) newWorker(hop string, w *hopWork) *worker {
	return &worker{clerk: p.clerk, hop: hop, route: w.route, events: p.events, soft: p.soft, proven: w.proven}
}

// run makes the attempts claimed, and asks for more until there is none.
func (w *worker) run(ctx context.Context, claims []spool.Claim) {
	defer w.end()
	for len(claims) > 0 && w.route.Expander != nil {
		for _, c := range claims {
			w.events <- w.expand(ctx, c)
		}
		claims = <-w.ask()
	}
	for len(claims) > 0 {
		if failure := w.open(); failure != nil {
			w.refused(claims, failure)
			return
		}
		// Asked for now, the next claims are there when these are done; but not too many.
		var more <-chan []spool.Claim
		if len(claims) <= sessionPart {
			more = w.ask()
		}
		left, failure := w.serve(ctx, claims)
		claims = left
		if more != nil {
			claims = append(claims, <-more...)
		}
		if failure != nil || w.stopped() {
			w.giveBack(claims, failure)
			return
		}
		if len(claims) == 0 {
			// Once more, now that the last results are known: a report, say, may go the same way.
			claims = <-w.ask()
		}
	}
}

func (w *worker) end() {
	if w.session != nil {
		w.session.Close()
	}
	w.events <- event{hop: w.hop, ended: true}
}

func (w *worker) stopped() bool { return w.soft.Err() != nil }

// open makes sure that there is a session.
func (w *worker) open() *mail.Result {
	if w.session != nil {
		return nil
	}
	session, err := w.route.Open(w.soft, w.route.Domain)
	if err != nil {
		var f *mail.Failure
		if errors.As(err, &f) {
			return &f.Result
		}
		r := mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "%v", err)
		return &r
	}
	w.session, w.useful = session, false
	if !w.opened {
		w.opened = true
		w.events <- event{hop: w.hop, opened: true}
	}
	return nil
}

// ask asks the pass for more work. What it returns is closed when there is none.
func (w *worker) ask() <-chan []spool.Claim {
	more := make(chan []spool.Claim, 1)
	w.events <- event{hop: w.hop, wants: more}
	return more
}

// serve makes one attempt after another. It returns what is left when the session has ended, and why if the next hop is
// to blame: a session that ended after it was of use is no failure, since servers limit what they take in one.
func (w *worker) serve(ctx context.Context, claims []spool.Claim) (left []spool.Claim, failure *mail.Result) {
	for i, c := range claims {
		if w.stopped() {
			return claims[i:], nil
		}
		broken := w.attempt(ctx, c)
		if w.session.Usable() {
			continue
		}
		w.session.Close()
		w.session = nil
		if w.useful {
			broken = nil
		}
		return claims[i+1:], broken
	}
	return nil, nil
}

// attempt makes one attempt, and returns the result that speaks of the host, if one does.
func (w *worker) attempt(ctx context.Context, c spool.Claim) (broken *mail.Result) {
	f, err := w.spool.Read(c.ID)
	if err != nil {
		e := unreadable(c, err)
		e.hop = w.hop
		w.events <- e
		return nil
	}
	defer f.Close()
	results := w.deliver(ctx, &f.Message, positions(c))
	hostOnly := true
	for i := range results {
		if results[i].Action == mail.Delayed && results[i].Scope >= mail.OfHost {
			broken = &results[i]
		} else {
			hostOnly = false
		}
	}
	e := w.conclude(c, &f.Message, results)
	e.hop = w.hop
	e.again = broken != nil && (w.useful || !hostOnly) && !w.session.Usable()
	e.useful = !hostOnly && !w.useful
	w.useful = w.useful || !hostOnly
	w.events <- e
	return broken
}

// deliver calls the session. What a message makes our own code do must not end the pass for all others.
func (w *worker) deliver(ctx context.Context, m *mail.Message, recipients []int) (results []mail.Result) {
	defer func() {
		if p := recover(); p != nil {
			results = make([]mail.Result, len(recipients))
			for i := range results {
				results[i] = mail.Delay(mail.OfMessage, mail.EnhancedCode{4, 3, 0}, "internal error: %v", p)
			}
		}
	}()
	return w.session.Deliver(ctx, m, recipients)
}

func positions(c spool.Claim) []int {
	list := make([]int, len(c.Recipients))
	for i, r := range c.Recipients {
		list[i] = r.Recipient
	}
	return list
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
		w.events <- event{hop: w.hop, crowded: true}
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
		e.hop = w.hop
		w.events <- e
	}
	w.events <- event{hop: w.hop, failure: failure}
}

// giveBack returns claims as if they had not been made.
func (w *worker) giveBack(claims []spool.Claim, failure *mail.Result) {
	now := w.Now()
	for _, c := range claims {
		st := &spool.Settlement{Claim: c}
		for _, r := range c.Recipients {
			st.Dispositions = append(st.Dispositions, spool.Disposition{Recipient: r.Recipient, Next: now, Untried: true})
		}
		w.events <- event{hop: w.hop, settlement: st}
	}
	if failure != nil {
		w.events <- event{hop: w.hop, failure: failure}
	}
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
