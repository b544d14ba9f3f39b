package deliver

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// Bounds for looking at drop/ again while a file in it is being written. Its writer is about to sync it, or, where the
// file system knows no unnamed files, still waits for its input: a pass does not end just before the one, and does not
// wait for the other.
const (
	busyFirst = 10 * time.Millisecond
	busyMax   = time.Second
)

// lineAgain is when to look again for next hops while sessions are free and not all that are due have been in line. Not
// at once: what is due there may be in the hands of workers of other next hops, and then nobody gets a session.
const lineAgain = 10 * time.Millisecond

// overdueBatch is how many messages that waited too long for a next hop are given up at once.
const overdueBatch = 100

// A pass is the goroutine that owns the spool.
type pass struct {
	clerk
	events   chan event
	sessions int // workers running
	hops     map[string]*hopWork
	line     line
	retried  map[mail.ID]int // how often messages were given another session at once
	soft     context.Context // done when nothing more is to be begun
	calm     func()          // makes it so
	stopping bool
	began    time.Time
	usedUp   []spool.HopState       // next hops whose rate is, not yet written
	waiters  map[string][]string    // next hops that wait for a rate, by its name
	again    map[string]time.Time   // by name of a short rate: when it allows more, or has done so
	overdue  map[string]mail.Result // next hops whose old mail is to be given up, and why
	unsaved  []spool.Settlement     // results that could be kept neither in the index nor in a journal
	more     bool                   // not all that was submitted has been taken in
	busy     time.Duration          // when to look again for a submission that was being written; 0 if there was none
}

// An event is what a worker tells the pass. It may be several things at once.
type event struct {
	from       *worker // nil: the pass itself
	settlement *spool.Settlement
	lines      []string     // for the log, once the settlement is committed
	again      bool         // the session broke after it had been of use: another one may do better at once
	opened     bool         // a session was opened
	multiple   int          // with a server that takes so many recipients in one transaction; 0: nobody knows
	part       bool         // the settlement is of a part of a claim
	useful     bool         // and was of use, which ends whatever trouble there was
	unsent     bool         // the settlement is of a claim nothing of which was handed over, whatever it says of attempts
	failure    *mail.Result // no session could be had, or the last one broke before it was of use
	crowded    bool         // the next hop takes no further session beside those it has
	wants      chan<- []spool.Claim
	idle       bool // the worker has nothing to do, and keeps his session
	ended      bool
}

// maxGroup is how many events one commit takes together.
const maxGroup = 500

func newPass(s *spool.Spool, o Options) *pass {
	return &pass{
		clerk: clerk{&o, s, o.Retry}, events: make(chan event, maxGroup),
		hops: map[string]*hopWork{}, line: newLine(), retried: map[mail.ID]int{}, overdue: map[string]mail.Result{},
		waiters: map[string][]string{},
		began:   o.Now(), again: map[string]time.Time{},
	}
}

func (p *pass) run(ctx context.Context) error {
	// Sessions outlive ctx by the grace.
	hard, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	p.soft, p.calm = context.WithCancel(ctx)
	defer func() { p.calm() }()
	told, renew := ctx.Done(), p.renewal()
	for {
		next, err := p.look(hard)
		if err == nil && p.over(next) {
			return nil
		}
		var timer *time.Timer
		if err == nil {
			timer = time.NewTimer(p.pause(next))
			select {
			case e := <-p.events:
				err = p.commit(p.gather(e))
			case <-p.Wake:
				p.line.stale = true
			case <-timer.C:
				p.line.stale = true
			case <-told:
				told, renew, p.stopping = nil, nil, true
				time.AfterFunc(Grace, kill)
			case <-renew:
				renew = p.renew(ctx)
			case c := <-p.Change:
				err = p.change(ctx, c)
			}
			timer.Stop()
		}
		if err != nil {
			p.calm()
			kill()
			p.drain()
			return err
		}
		if p.sessions == 0 {
			clear(p.retried)
		}
	}
}

// renewal returns the channel that says when the pass has gone on for long enough.
func (p *pass) renewal() <-chan time.Time {
	if p.Renew == 0 {
		return nil
	}
	return time.After(p.Renew)
}

// renew begins to end the pass, which begins nothing more then, or has it go on: when sessions are left after a while, one
// of them must not hold up what all others could do. It returns the channel that says when to call it again.
func (p *pass) renew(ctx context.Context) <-chan time.Time {
	if !p.stopping {
		p.stopping = true
		p.calm()
		return time.After(Grace)
	}
	p.soft, p.calm = context.WithCancel(ctx)
	p.stopping, p.line.stale = false, true
	return p.renewal()
}

// over reports whether the pass has nothing left to do.
func (p *pass) over(next time.Time) bool {
	if p.sessions > 0 {
		return false
	}
	return p.stopping || p.Stay == 0 && !p.more && !p.busySoon() && len(p.overdue) == 0 && !p.dueNow(next) && !p.line.stale && !p.rateSoon(next)
}

// drain waits for the sessions to end after an error of the spool. What servers have said by now is written where the
// next pass will look for it.
func (p *pass) drain() {
	for p.sessions > 0 {
		e := <-p.events
		if e.settlement != nil {
			p.salvage([]spool.Settlement{*e.settlement})
		}
		p.release(e)
	}
	// Once more: what was missing may have been descriptors, which the sessions have given back.
	for _, st := range p.unsaved {
		if err := p.spool.Salvage(st); err != nil {
			p.Logf("%s: results of an attempt are lost: %v", st.ID, err)
		}
	}
}

// salvage keeps results that the index was not told.
func (p *pass) salvage(settlements []spool.Settlement) {
	for _, st := range settlements {
		if p.spool.Salvage(st) != nil {
			p.unsaved = append(p.unsaved, st)
		}
	}
}

// release ends a worker's wait for more, and counts those who have ended.
func (p *pass) release(e event) {
	if e.wants != nil {
		close(e.wants)
	}
	if !e.ended {
		return
	}
	p.sessions--
	p.line.stale = true
	w := e.from.work
	delete(w.leaving, e.from)
	delete(w.idle, e.from)
	if w.workers--; w.workers == 0 && p.hops[e.from.hop] == w {
		delete(p.hops, e.from.hop)
	}
}

// look sees what there is to do, and returns when something will be due that is not now.
func (p *pass) look(hard context.Context) (next time.Time, err error) {
	if p.stopping {
		return time.Time{}, nil
	}
	if err := p.takeIn(); err != nil {
		return next, err
	}
	if err := p.spool.Release(p.Now()); err != nil {
		return next, err
	}
	deadline, err := p.meetDeadlines()
	if err != nil {
		return next, err
	}
	if err := p.giveUpOverdue(); err != nil {
		return next, err
	}
	next, err = p.schedule(hard)
	if next.IsZero() || !deadline.IsZero() && deadline.Before(next) {
		next = deadline
	}
	return next, err
}

// takeIn takes in what was submitted: some of it, so that delivery need not wait for the rest.
func (p *pass) takeIn() error {
	if p.spool.Woken() {
		p.line.hurry() // for some message in particular, perhaps
	}
	taken, more, busy, err := p.spool.TakeIn()
	if err != nil {
		return err
	}
	p.more = more
	p.busy = nextBusy(p.busy, busy)
	if len(taken) > 0 {
		p.line.stale, p.line.fresh = true, true
	}
	for _, t := range taken {
		if t.Envelope.Urgency(os.Geteuid()) > 0 {
			p.line.hurry()
		}
		from := t.Envelope.Sender.String()
		if was := t.Envelope.OriginalSender; !was.IsNull() {
			from += ", orig_from=" + was.String()
		}
		p.Logf("%s: uid=%d, from=%s, size=%d, nrcpt=%d (queued)", t.ID, t.Envelope.Submitter, from, t.Size, len(t.Envelope.Recipients))
	}
	return nil
}

// dueNow reports whether something is due that no worker has: then the pass is not over.
func (p *pass) dueNow(next time.Time) bool { return !next.IsZero() && !next.After(p.Now()) }

// pause returns how long to wait for events at most.
func (p *pass) pause(next time.Time) time.Duration {
	switch {
	case p.stopping:
		return time.Minute // only sessions are waited for
	case p.more || len(p.overdue) > 0 || p.sessions == 0 && p.line.stale:
		return 0
	case p.sessions < sessionLimit && p.line.stale:
		return lineAgain
	}
	if p.busy > 0 {
		return p.busy
	}
	wait := p.Stay
	if wait == 0 {
		wait = time.Minute
	}
	if !next.IsZero() && p.sessions < sessionLimit {
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
	settlements, hops, err := p.sum(group)
	if err == nil && len(settlements)+len(hops) > 0 {
		p.line.stale = p.line.stale || len(hops) > 0 || slices.ContainsFunc(settlements, makesDue)
		err = p.spool.Settle(settlements, hops)
	}
	if err == nil {
		return p.account(group)
	}
	p.salvage(settlements)
	for _, e := range group {
		p.release(e)
	}
	return err
}

// sum returns what a group of events says of messages and of next hops.
func (p *pass) sum(group []event) (settlements []spool.Settlement, hops []spool.HopState, err error) {
	seen := map[string]bool{}
	for _, e := range group {
		if e.again && p.retried[e.settlement.ID] < maxRetries {
			p.retried[e.settlement.ID]++
			p.tryAgain(e.settlement)
		}
		if e.settlement != nil {
			settlements = append(settlements, *e.settlement)
		}
		if p.former(e) {
			continue
		}
		if e.useful {
			hops = append(hops, spool.HopState{Hop: e.from.hop})
		}
		// Sessions that fail together are one failure.
		if e.failure == nil || seen[e.from.hop] || err != nil {
			continue
		}
		seen[e.from.hop] = true
		var state *spool.HopState
		if state, err = p.troubled(e.from.hop, e.failure); state != nil {
			hops = append(hops, *state)
		}
	}
	return settlements, hops, err
}

// maxRetries is how often a message gets another session at once after one broke on it. A server that limits what it
// takes in a session breaks on any message; a message that breaks the server must not go on for ever.
const maxRetries = 5

// tryAgain makes due at once what failed with the session and not by itself.
func (p *pass) tryAgain(st *spool.Settlement) {
	for i := range st.Dispositions {
		d := &st.Dispositions[i]
		if leftOpen(d.Result) {
			d.Untried, d.Next = true, p.Now()
		}
	}
}

// account does what follows a commit: log lines, new claims, the number of workers.
func (p *pass) account(group []event) error {
	errs := []error{p.relieve(group)}
	for _, e := range group {
		for _, line := range e.lines {
			p.Logf("%s", line)
		}
		if e.from != nil {
			e.from.work.learn(e, p.Now())
		}
		if e.failure != nil && e.failure.Scope != mail.OfUs && !p.former(e) {
			p.overdue[e.from.hop] = *e.failure
		}
		if e.wants != nil && !p.stopping {
			errs = append(errs, p.answer(e))
		}
		if e.idle {
			p.idle(e.from)
		}
		p.release(e)
	}
	return errors.Join(errs...)
}

// troubled returns the state of a next hop that took no session; nil if that is known already from another worker.
func (p *pass) troubled(hop string, failure *mail.Result) (*spool.HopState, error) {
	known, err := p.spool.HopTrouble(hop)
	if err != nil || !known.Full && known.Until.After(p.Now()) {
		return nil, err
	}
	wait := p.retryAt(hop).HopWait(hop, known.Tries+1)
	p.Logf("next hop %s: %s; not tried again for %s", hop, failure.Reply, wait.Round(time.Second))
	return &spool.HopState{Hop: hop, Until: p.Now().Add(wait), Last: *failure}, nil
}

// giveUpOverdue bounces some of what has waited too long for a next hop in trouble. What is tried itself expires where
// its result is judged.
func (p *pass) giveUpOverdue() error {
	for hop, result := range p.overdue {
		trouble, err := p.spool.HopTrouble(hop)
		if err != nil {
			return err
		}
		retry := p.retryAt(hop)
		if !retry.hopless(trouble, p.Now()) {
			delete(p.overdue, hop)
			continue
		}
		claims, err := p.spool.Overdue(hop, p.Now().Add(-retry.Expire), overdueBatch)
		if err != nil {
			return err
		}
		result.Action = mail.Failed
		group := make([]event, 0, len(claims))
		bounced := false
		for _, c := range claims {
			done := clerk{p.Options, p.spool, retry}.concludeAll(c, result)
			bounced = bounced || slices.ContainsFunc(done.settlement.Dispositions, final)
			group = append(group, done)
		}
		if !bounced {
			delete(p.overdue, hop)
			continue
		}
		return p.commit(group)
	}
	return nil
}

func final(d spool.Disposition) bool { return d.Result.Action.Final() }

// makesDue reports whether somebody may be due after a settlement who was not before it.
func makesDue(st spool.Settlement) bool {
	return len(st.Children) > 0 || slices.ContainsFunc(st.Dispositions, func(d spool.Disposition) bool { return !final(d) })
}
