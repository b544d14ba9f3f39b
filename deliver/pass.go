package deliver

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// Sizes of claims. The first claim at a next hop is a probe; later ones are large enough that the commit which records
// them costs a message next to nothing, and small enough that a crash leaves few attempts without a result.
const (
	probeClaim  = 1
	sessionPart = 200
)

// Bounds for looking at drop/ again while a file in it is being written. Its writer is about to sync it, or, where the
// file system knows no unnamed files, still waits for its input: a pass does not end just before the one, and does not
// wait for the other.
const (
	busyFirst = 10 * time.Millisecond
	busyMax   = time.Second
)

// overdueBatch is how many messages that waited too long for a next hop are given up at once.
const overdueBatch = 100

// A pass is the goroutine that owns the spool.
type pass struct {
	clerk
	events   chan event
	sessions int // workers running
	hops     map[string]*hopWork
	retried  map[mail.ID]int // how often messages were given another session at once
	soft     context.Context // done when the pass is told to stop
	stopping bool
	more     bool          // not all that was submitted has been taken in
	busy     time.Duration // when to look again for a submission that was being written; 0 if there was none
}

// hopWork is what the pass knows of a next hop that has workers.
type hopWork struct {
	route   Route
	workers int
	proven  bool // a session has been opened: more may be
	more    bool // the last claim was full: there may be work for another session
}

// An event is what a worker tells the pass. It may be several things at once.
type event struct {
	hop        string
	settlement *spool.Settlement
	lines      []string     // for the log, once the settlement is committed
	again      bool         // the session broke after it had been of use: another one may do better at once
	opened     bool         // a session was opened
	failure    *mail.Result // no session could be had, or the last one broke before it was of use
	wants      chan<- []spool.Claim
	ended      bool
}

// maxGroup is how many events one commit takes together.
const maxGroup = 500

func newPass(s *spool.Spool, o Options) *pass {
	return &pass{
		clerk: clerk{&o, s}, events: make(chan event, maxGroup),
		hops: map[string]*hopWork{}, retried: map[mail.ID]int{},
	}
}

func (p *pass) run(ctx context.Context) error {
	// Sessions outlive ctx by the grace.
	hard, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	stop := ctx.Done()
	p.soft = ctx
	for {
		if !p.stopping {
			if err := p.look(); err != nil {
				return p.abort(kill, err)
			}
		}
		next, err := p.schedule(hard)
		if err != nil {
			return p.abort(kill, err)
		}
		if p.sessions == 0 && (p.stopping || p.Stay == 0 && !p.more && !p.busySoon() && !p.dueNow(next)) {
			return nil
		}
		timer := time.NewTimer(p.pause(next))
		select {
		case e := <-p.events:
			if err := p.commit(p.gather(e)); err != nil {
				return p.abort(kill, err)
			}
		case <-p.Wake:
			clear(p.retried)
		case <-timer.C:
			clear(p.retried)
		case <-stop:
			stop, p.stopping = nil, true
			time.AfterFunc(Grace, kill)
		}
		timer.Stop()
	}
}

// abort ends the sessions after an error of the spool: what they send is lost, so they must send no more.
func (p *pass) abort(kill func(), err error) error {
	kill()
	for p.sessions > 0 {
		e := <-p.events
		if e.wants != nil {
			close(e.wants)
		}
		if e.ended {
			p.sessions--
		}
	}
	return err
}

// look takes in what was submitted: some of it, so that delivery need not wait for the rest.
func (p *pass) look() error {
	p.spool.Woken()
	taken, more, busy, err := p.spool.TakeIn()
	if err != nil {
		return err
	}
	p.more = more
	p.busy = nextBusy(p.busy, busy)
	for _, t := range taken {
		from := t.Envelope.Sender.String()
		if was := t.Envelope.OriginalSender; !was.IsNull() {
			from += ", orig_from=" + was.String()
		}
		p.Logf("%s: uid=%d, from=%s, size=%d, nrcpt=%d (queued)", t.ID, t.Envelope.Submitter, from, t.Size, len(t.Envelope.Recipients))
	}
	return nil
}

// schedule starts workers for what is due, and returns when something will be due that is not now.
func (p *pass) schedule(ctx context.Context) (next time.Time, err error) {
	if p.stopping || p.sessions >= sessionLimit {
		return time.Time{}, nil
	}
	due, next, err := p.spool.Due(p.Now())
	if err != nil {
		return next, err
	}
	for _, hop := range due {
		if p.sessions >= sessionLimit {
			break
		}
		if err := p.start(ctx, hop); err != nil {
			return next, err
		}
	}
	return next, nil
}

// start gives the next hop a worker, or another one, if there is work for it.
func (p *pass) start(ctx context.Context, hop string) error {
	w := p.hops[hop]
	if w == nil {
		route, err := p.Resolve(hop)
		if err != nil {
			route = Route{Transport: nowhere{err}}
		}
		if route.Concurrency == 0 {
			route.Concurrency = DefaultConcurrency
		}
		w = &hopWork{route: route}
		p.hops[hop] = w
	}
	if w.workers > 0 && (!w.proven || !w.more || w.workers >= w.route.Concurrency) {
		return nil
	}
	claims, err := p.claim(hop, w, w.proven)
	if err != nil || len(claims) == 0 {
		return err
	}
	w.workers++
	p.sessions++
	go p.newWorker(hop, w.route, p.soft).run(ctx, claims)
	return nil
}

func (p *pass) claim(hop string, w *hopWork, proven bool) ([]spool.Claim, error) {
	most := probeClaim
	if proven {
		most = sessionPart
	}
	claims, err := p.spool.Claim(hop, p.Now(), most, p.Retry.Wait)
	// A claim may end early at a message with very many recipients: then the worker's next question finds the rest.
	w.more = len(claims) == most
	return claims, err
}

// dueNow reports whether something is due that no worker has: then the pass is not over.
func (p *pass) dueNow(next time.Time) bool { return !next.IsZero() && !next.After(p.Now()) }

// pause returns how long to wait for events at most.
func (p *pass) pause(next time.Time) time.Duration {
	if p.more {
		return 0
	}
	if p.busy > 0 {
		return p.busy
	}
	wait := p.Stay
	if wait == 0 {
		wait = time.Minute
	}
	if !next.IsZero() {
		wait = min(wait, max(next.Sub(p.Now()), 0))
	}
	return wait
}

// nextBusy returns when to look again at what was being written: soon at first, then less and less often.
func nextBusy(last time.Duration, busy bool) time.Duration {
	if !busy {
		return 0
	}
	return min(max(2*last, busyFirst), busyMax)
}

// busySoon reports whether a submission that was being written is worth waiting for.
func (p *pass) busySoon() bool { return 0 < p.busy && p.busy < busyMax }

// gather returns the event and all others that have come meanwhile: they share one commit.
func (p *pass) gather(first event) []event {
	group := []event{first}
	for len(group) < maxGroup {
		select {
		case e := <-p.events:
			group = append(group, e)
		default:
			return group
		}
	}
	return group
}

// commit writes what a group of events says to the spool, and then answers them.
func (p *pass) commit(group []event) error {
	var settlements []spool.Settlement
	var hops []spool.HopState
	for _, e := range group {
		if e.again && p.retried[e.settlement.ID] < maxRetries {
			p.retried[e.settlement.ID]++
			p.tryAgain(e.settlement)
		}
		if e.settlement != nil {
			settlements = append(settlements, *e.settlement)
		}
		switch {
		case e.opened:
			hops = append(hops, spool.HopState{Hop: e.hop})
		case e.failure != nil:
			state, err := p.troubled(e)
			if err != nil {
				return err
			}
			if state != nil {
				hops = append(hops, *state)
			}
		}
	}
	if len(settlements)+len(hops) > 0 {
		if err := p.spool.Settle(settlements, hops); err != nil {
			return errors.Join(err, p.account(group, false))
		}
	}
	return p.account(group, true)
}

// maxRetries is how often a message gets another session at once after one broke on it. A server that limits what it
// takes in a session breaks on any message; a message that breaks the server must not go on for ever.
const maxRetries = 5

// tryAgain makes due at once what failed with the session and not by itself.
func (p *pass) tryAgain(st *spool.Settlement) {
	for i := range st.Dispositions {
		d := &st.Dispositions[i]
		if d.Result.Action == mail.Delayed && d.Result.Scope >= mail.OfHost {
			d.Untried, d.Next = true, p.Now()
		}
	}
}

// account does what follows a commit: log lines, new claims, the number of workers.
func (p *pass) account(group []event, committed bool) error {
	var errs []error
	for _, e := range group {
		if committed {
			for _, line := range e.lines {
				p.Logf("%s", line)
			}
			if e.opened {
				p.hops[e.hop].proven = true
			}
			if e.failure != nil {
				errs = append(errs, p.giveUpOverdue(e))
			}
		}
		if e.wants != nil {
			errs = append(errs, p.answer(e, committed))
		}
		if e.ended {
			p.sessions--
			w := p.hops[e.hop]
			if w.workers--; w.workers == 0 {
				delete(p.hops, e.hop)
			}
		}
	}
	return errors.Join(errs...)
}

// answer gives a worker more to do, or nothing, which ends it.
func (p *pass) answer(e event, committed bool) error {
	defer close(e.wants)
	if p.stopping || !committed {
		return nil
	}
	claims, err := p.claim(e.hop, p.hops[e.hop], true)
	if len(claims) > 0 && err == nil {
		e.wants <- claims
	}
	return err
}

// troubled returns the state of a next hop that took no session; nil if that is known already from another worker.
func (p *pass) troubled(e event) (*spool.HopState, error) {
	failures, until, err := p.spool.HopTrouble(e.hop)
	if err != nil || until.After(p.Now()) {
		return nil, err
	}
	wait := p.Retry.HopWait(failures + 1)
	p.Logf("next hop %s: %s; not tried again for %s", e.hop, e.failure.Reply, wait)
	return &spool.HopState{Hop: e.hop, Until: p.Now().Add(wait), Last: *e.failure}, nil
}

// giveUpOverdue bounces what has waited too long for a next hop in trouble. What is tried itself expires where its
// result is judged.
func (p *pass) giveUpOverdue(e event) error {
	failures, _, err := p.spool.HopTrouble(e.hop)
	if err != nil || failures < expireAttempts {
		return err
	}
	result := *e.failure
	result.Action = mail.Failed
	for {
		claims, err := p.spool.Overdue(e.hop, p.Now().Add(-p.Retry.Expire), overdueBatch)
		if err != nil {
			return err
		}
		var group []event
		bounced := false
		for _, c := range claims {
			done := p.concludeAll(c, result)
			bounced = bounced || slices.ContainsFunc(done.settlement.Dispositions, func(d spool.Disposition) bool { return d.Result.Action.Final() })
			group = append(group, done)
		}
		if !bounced {
			return nil
		}
		if err := p.commit(group); err != nil {
			return err
		}
	}
}
