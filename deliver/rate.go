package deliver

import (
	"fmt"
	"slices"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// maxWaiters is how many next hops are remembered that wait for a rate. More than that wait until it is time.
const maxWaiters = 1000

// reserve has a claim take no more than a rate allows, and counts it beforehand: then what cannot be counted, because the
// disk is full, say, is not handed over either, and costs no attempt. It reports whether there is anything to claim.
func (p *pass) reserve(r Route, want *spool.Wanted, now time.Time) (ok bool, err error) {
	if r.Rate.Count == 0 {
		return true, nil
	}
	allowed, again, err := p.spool.Allowance(r.RateName, r.Rate, now)
	if err != nil {
		p.waitForDisk(want.Hop, r, err)
		return false, nil
	}
	if allowed == 0 {
		p.waitForRate(want.Hop, r, again)
		return false, nil
	}
	want.Recipients = allowed
	n, err := p.spool.Claimable(now, *want)
	if err != nil || n == 0 {
		return false, err
	}
	want.Recipients = n
	if err := p.spool.Spend(r.RateName, r.Rate, n, now); err != nil {
		p.waitForDisk(want.Hop, r, err)
		return false, nil
	}
	return true, nil
}

// waitForRate has a next hop left alone until its rate allows more, from the next settleRates on. Nothing was tried, so
// nothing counts as tried.
func (p *pass) waitForRate(hop string, r Route, again time.Time) {
	// The spool's times are no finer, and must not be sooner.
	again = again.Truncate(time.Microsecond).Add(time.Microsecond)
	if r.Rate.Per <= shortRate {
		p.again[r.RateName] = again
	}
	p.leaveAlone(hop, again, mail.Delay(mail.OfUs, mail.EnhancedCode{4, 4, 5}, "no more than %s: that is its rate", RateWords(r.Rate)))
	if list := p.waiters[r.RateName]; len(list) < maxWaiters && !slices.Contains(list, hop) {
		p.waiters[r.RateName] = append(list, hop)
	}
}

// waitForDisk is waitForRate for one that cannot be read or written.
func (p *pass) waitForDisk(hop string, r Route, err error) {
	why := mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "no more than %s, which cannot be counted: %v", RateWords(r.Rate), err)
	p.Logf("next hop %s: %s; not tried again for %s", hop, why.Reply, hopFirst)
	p.leaveAlone(hop, p.Now().Add(hopFirst), why)
}

func (p *pass) leaveAlone(hop string, until time.Time, why mail.Result) {
	p.line.stale = true
	p.usedUp = append(p.usedUp, spool.HopState{Hop: hop, Until: until, Last: why, Full: true})
}

// Bounds for waiting until a rate allows more, in a pass that does not stay. A timer makes one in some minutes: of a rate by
// the second or by the minute, it would let most go unused. One that goes on for longer would miss too much of what only
// the next one sees, such as a change of the configuration.
const (
	shortRate    = time.Minute
	ratePatience = time.Hour
)

// rateSoon reports whether the pass waits for a rate to allow more; next is when something is due again.
func (p *pass) rateSoon(next time.Time) bool {
	now := p.Now()
	if next.IsZero() || now.Sub(p.began) >= ratePatience {
		return false
	}
	for _, again := range p.again {
		if again.After(now) {
			return true
		}
	}
	return false
}

// settleRates writes which next hops wait for their rate. Very many may share one: they share the commit, too.
func (p *pass) settleRates() error {
	if len(p.usedUp) == 0 {
		return nil
	}
	states := p.usedUp
	p.usedUp = nil
	return p.spool.Settle(nil, states)
}

// giveBackRate gives back what was counted and not handed over. If that cannot be written, less is handed over than might
// be until the span is over.
func (p *pass) giveBackRate(r Route, n int) {
	if r.Rate.Count == 0 || n == 0 {
		return
	}
	if err := p.spool.Spend(r.RateName, r.Rate, -n, p.Now()); err != nil {
		p.Logf("%d recipients were not handed over, and count all the same: %v", n, err)
	}
}

// relieve gives back what a group of events says was not handed over. Whoever waits for that rate, whatever his next hop,
// may have it at once.
func (p *pass) relieve(group []event) error {
	back := map[string]int{}
	routes := map[string]Route{}
	for _, e := range group {
		if e.from == nil || e.settlement == nil || e.from.route.Rate.Count == 0 {
			continue
		}
		route := e.from.route
		for _, d := range e.settlement.Dispositions {
			if d.Untried || e.unsent {
				back[route.RateName]++
				routes[route.RateName] = route
			}
		}
	}
	var relieved []spool.HopState
	for name, n := range back {
		p.giveBackRate(routes[name], n)
		for _, hop := range p.waiters[name] {
			relieved = append(relieved, spool.HopState{Hop: hop, Full: true})
		}
		delete(p.waiters, name)
	}
	if len(relieved) == 0 {
		return nil
	}
	p.line.stale = true
	// What is not written yet comes first: it is older.
	relieved = append(p.usedUp, relieved...)
	p.usedUp = nil
	return p.spool.Settle(nil, relieved)
}

// RateWords says a rate: "100 recipients an hour".
func RateWords(r spool.Rate) string {
	per := map[time.Duration]string{time.Second: "a second", time.Minute: "a minute", time.Hour: "an hour", 24 * time.Hour: "a day"}[r.Per]
	if r.Count == 1 {
		return "1 recipient " + per
	}
	return fmt.Sprintf("%d recipients %s", r.Count, per)
}
