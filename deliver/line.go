package deliver

import (
	"context"
	"slices"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// How many sessions a pass has open at once, over all next hops. Urgent mail gets some more when all are taken: they may
// be taken by servers that do not answer.
const (
	sessionLimit   = 64
	urgentSessions = 4
)

// Sizes of claims. The first claim at a next hop is a probe. Later ones are what a worker has done within claimTime: large
// enough at fast servers that the commit which records them costs a message next to nothing, but so small that a crash
// leaves few attempts without a result, and that urgent mail need not wait for long behind what workers have in hand.
const (
	probeClaim  = 1
	sessionPart = 200
	claimTime   = time.Second
)

// A turn is how many messages a next hop may hand over before it gives its only session to one that waits for its first.
const turn = 20

// lineLength is how many next hops stand in line at most.
const lineLength = 4 * sessionLimit

// A line is where next hops without a session stand when they have something due: the most urgent first, then those
// whose mail has been due for the longest time, those in trouble behind others. It is filled when it is empty, or
// something urgent may have come, or anything at all while those in trouble are first: so a pass over very many next hops
// does not look at all of them for each one.
//
// Sessions are shared so: a free one goes to the first in line, or, if nobody stands there, to the next hop that has the
// fewest, as its pace allows. When all are taken, a worker that asks for more gets nothing, and so ends, if its next hop
// has at least two sessions more than one that waits; or, when those in line have none, at the end of its turn. Then the
// next hop gets into line again when all others have been there.
type line struct {
	ready   []spool.Ready
	next    time.Time // when something will be due that is not now; zero: nothing will
	stale   bool      // something may be due that is not in line
	fresh   bool      // and was submitted since
	urgent  bool      // and is urgent
	filled  time.Time
	took    time.Duration   // to fill it
	yielded map[string]bool // next hops that have had their turn
	waiting int             // sessions that are wanted and cannot be had
	fewest  int             // of those that want one, the next hop with the fewest sessions has so many
}

func newLine() line { return line{stale: true, yielded: map[string]bool{}} }

// hurry has the line filled anew, because of something that may be urgent: also at a next hop that has had its turn.
func (l *line) hurry() {
	l.stale, l.urgent = true, true
	clear(l.yielded)
}

// hopWork is what the pass knows of a next hop that has workers.
type hopWork struct {
	route   Route
	retry   Retry
	pace    pace
	workers int
	leaving map[*worker]bool // those that get no more
	idle    map[*worker]bool // those that have nothing to do
	proven  bool             // a session has been opened: more may be
	busy    int              // messages that workers have and have not answered for
	more    bool             // something may be due that no worker has
	speed   int              // messages that were answered for within claimTime, some time ago
	recent  int              // those since then
	since   time.Time
	given   int // messages of all claims
	// multiple is how many recipients it takes in one transaction, as its last session said.
	multiple int
}

// retryAt returns the schedule of a next hop.
func (p *pass) retryAt(hop string) Retry {
	if w := p.hops[hop]; w != nil {
		return w.retry
	}
	route, err := p.Resolve(hop)
	if err != nil || route.Retry == nil {
		return p.Retry
	}
	return *route.Retry
}

func (p *pass) newHopWork(hop string) *hopWork {
	route, err := p.Resolve(hop)
	if err != nil {
		route = Route{Transport: nowhere{err}}
	}
	if route.Concurrency == 0 {
		route.Concurrency = DefaultConcurrency
	}
	w := &hopWork{route: route, retry: p.Retry, pace: newPace(route.Concurrency), since: p.Now(), leaving: map[*worker]bool{}, idle: map[*worker]bool{}}
	if route.Retry != nil {
		w.retry = *route.Retry
	}
	return w
}

// schedule starts workers for what is due, and returns when something will be due that is not now.
func (p *pass) schedule(ctx context.Context) (next time.Time, err error) {
	l := &p.line
	if err := p.fillLine(); err != nil {
		return l.next, err
	}
	for len(l.ready) > 0 && p.sessions < limit(l.ready[0]) {
		// Those whose rate is used up, say, get no session: then it is for those behind them.
		if err := p.start(ctx, p.firstInLine()...); err != nil {
			return l.next, err
		}
	}
	p.rouse()
	l.waiting, l.fewest = len(l.ready), 0
	for _, hop := range p.growing() {
		if p.sessions < sessionLimit {
			if err := p.start(ctx, hop); err != nil {
				return l.next, err
			}
			continue
		}
		if l.waiting == 0 {
			l.fewest = p.hops[hop].workers
		}
		l.waiting += p.hops[hop].pace.now - p.hops[hop].workers
	}
	return l.next, p.settleRates()
}

// firstInLine takes as many next hops out of the line as there are sessions for.
func (p *pass) firstInLine() (hops []string) {
	l := &p.line
	for len(l.ready) > 0 && p.sessions+len(hops) < limit(l.ready[0]) {
		hops = append(hops, l.ready[0].Hop)
		l.ready = l.ready[1:]
	}
	return hops
}

func limit(r spool.Ready) int {
	if r.Urgent {
		return sessionLimit + urgentSessions
	}
	return sessionLimit
}

// fillLine sees what is due, if it is not known.
func (p *pass) fillLine() error {
	l, now := &p.line, p.Now()
	due := !l.next.IsZero() && !l.next.After(now)
	switch {
	case len(l.ready) > 0 && !l.urgent && !l.outOfDate(now), len(l.ready) == 0 && !l.stale && !due && p.sessions > 0:
		return nil
	}
	skip := func(hop string) bool {
		if w := p.hops[hop]; w != nil {
			w.more = true
			return true
		}
		return l.yielded[hop]
	}
	var err error
	if l.ready, l.next, err = p.spool.Due(now, lineLength, skip); err != nil {
		return err
	}
	if len(l.ready) == 0 && len(l.yielded) > 0 {
		clear(l.yielded)
		if l.ready, l.next, err = p.spool.Due(now, lineLength, skip); err != nil {
			return err
		}
	}
	l.stale, l.urgent, l.fresh = len(l.ready) == lineLength, false, false
	l.filled, l.took = p.Now(), p.Now().Sub(now)
	return nil
}

// fillShare is how many times longer than to fill the line it has to be until it is filled again for what is fresh.
const fillShare = 20

// outOfDate reports whether those in line, who are in trouble and take long, need not go before what was submitted since.
func (l *line) outOfDate(now time.Time) bool {
	return l.fresh && l.ready[0].Trouble && now.Sub(l.filled).Abs() >= fillShare*l.took
}

// growing returns the next hops that may have another session, those first that have the fewest.
func (p *pass) growing() (hops []string) {
	for hop, w := range p.hops {
		// A worker that has answered for all it had is about to ask for more.
		if w.more && w.proven && w.busy > 0 && w.workers < w.pace.now {
			hops = append(hops, hop)
		}
	}
	slices.SortFunc(hops, func(a, b string) int { return p.hops[a].workers - p.hops[b].workers })
	return hops
}

// start gives each next hop a worker, or another one, if there is work for it. What is claimed for all of them costs one
// commit; but those with a rate may share it, so each of them has to know what the one before took.
func (p *pass) start(ctx context.Context, hops ...string) error {
	var together []*worker
	for _, hop := range hops {
		w := p.hops[hop]
		if w == nil {
			w = p.newHopWork(hop)
			p.hops[hop] = w
		}
		if worker := p.newWorker(hop, w); w.route.Rate.Count == 0 {
			together = append(together, worker)
		} else if err := p.employ(ctx, worker); err != nil {
			return err
		}
	}
	return p.employ(ctx, together...)
}

// employ sets workers to work for whom there is some.
func (p *pass) employ(ctx context.Context, workers ...*worker) error {
	if len(workers) == 0 {
		return nil
	}
	all, err := p.claim(workers...)
	for i, worker := range workers {
		w := worker.work
		if err == nil && len(all[i]) > 0 {
			w.workers++
			p.sessions++
			go worker.run(ctx, all[i])
		} else if w.workers == 0 {
			delete(p.hops, worker.hop)
		}
	}
	return err
}

// claim takes work for each worker.
func (p *pass) claim(workers ...*worker) ([][]spool.Claim, error) {
	now := p.Now()
	all := make([][]spool.Claim, len(workers))
	var wanted []spool.Wanted
	var of []int // the worker who wants that
	for i, worker := range workers {
		w := worker.work
		w.more = false
		want := spool.Wanted{Hop: worker.hop, Most: spool.Most{Messages: w.size(), Multiple: w.multiple}}
		want.Again = func(id mail.ID, attempts int) time.Time { return w.retry.Next(id, now, attempts) }
		if p.line.waiting > 0 {
			want.Messages = min(want.Messages, turn)
		}
		ok, err := p.reserve(w.route, &want, now)
		if err != nil {
			return all, err
		}
		if ok {
			wanted, of = append(wanted, want), append(of, i)
		}
	}
	if len(wanted) == 0 {
		return all, nil
	}
	claimed, err := p.spool.Claim(now, wanted...)
	if err != nil {
		return all, err
	}
	for n, claims := range claimed {
		all[of[n]] = claims
		w := workers[of[n]].work
		w.more = len(claims) > 0
		w.busy += len(claims)
		w.given += len(claims)
		p.giveBackRate(w.route, wanted[n].Recipients-recipients(claims))
	}
	return all, nil
}

func recipients(claims []spool.Claim) (n int) {
	for _, c := range claims {
		n += len(c.Recipients)
	}
	return n
}

// size returns how many messages the next claim may have.
func (w *hopWork) size() int {
	done := max(w.speed, w.recent)
	if w.speed == 0 {
		done *= 4 // what is known so far is not all
	}
	return min(probeClaim+done/max(w.workers, 1), sessionPart)
}

// answered counts a message that was answered for.
func (w *hopWork) answered(now time.Time) {
	w.busy--
	w.recent++
	if elapsed := now.Sub(w.since).Abs(); elapsed >= claimTime {
		w.speed, w.recent, w.since = int(int64(w.recent)*int64(claimTime)/int64(elapsed)), 0, now
	}
}

// answer gives a worker more to do, unless its session is wanted elsewhere.
func (p *pass) answer(e event) error {
	if p.mustLeave(e.from) {
		e.from.work.leaving[e.from] = true
		return nil
	}
	all, err := p.claim(e.from)
	if err == nil && len(all[0]) > 0 {
		e.wants <- all[0]
	}
	return err
}

func (p *pass) mustLeave(from *worker) bool {
	w, leaving := from.work, 0
	stay := w.workers - len(w.leaving)
	if w.leaving[from] || from.stopped() || stay > w.pace.now {
		return true
	}
	for _, other := range p.hops {
		leaving += len(other.leaving)
	}
	if leaving >= p.line.waiting {
		return false
	}
	if stay > p.line.fewest+1 {
		return true
	}
	if p.line.fewest > 0 || w.given < turn {
		return false
	}
	p.line.yielded[from.hop] = true
	return true
}

// learn takes from an event how the next hop does.
func (w *hopWork) learn(e event, now time.Time) {
	if e.opened {
		if !w.proven {
			w.pace.success(now)
		}
		w.proven, w.multiple = true, e.multiple
	}
	if e.crowded {
		w.pace.refused(w.workers-1, now)
	}
	if e.failure != nil && e.failure.Scope == mail.OfHost {
		w.pace.trouble(now)
	}
	if e.settlement == nil || e.part {
		return
	}
	w.answered(now)
	for _, d := range e.settlement.Dispositions {
		switch {
		case wantsLess(d.Result, e.again):
			w.pace.trouble(now)
			return
		case !d.Untried && d.Result.Scope < mail.OfHost:
			w.pace.success(now)
			return
		}
	}
}

// wantsLess reports whether a result says that we are too many for the next hop. Servers that limit what they take in a
// session say 421, too, when it had enough.
func wantsLess(r mail.Result, hadEnough bool) bool {
	if r.Action != mail.Delayed || !r.Remote || r.Scope != mail.OfMessage && r.Scope != mail.OfHost {
		return false
	}
	c := r.Reply.Enhanced
	return c[0] == 4 && c[1] == 7 || r.Reply.Code == 421 && !hadEnough
}
