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

// waitForRate has a next hop left alone until its rate allows more, from the next settleRates on. Nothing was tried, so
// nothing counts as tried.
func (p *pass) waitForRate(hop string, r Route, again time.Time) {
	why := mail.Delay(mail.OfUs, mail.EnhancedCode{4, 4, 5}, "no more than %s: that is its rate", RateWords(r.Rate))
	p.line.stale = true
	// The spool's times are no finer, and must not be sooner.
	again = again.Truncate(time.Microsecond).Add(time.Microsecond)
	if r.Rate.Per <= shortRate {
		p.again[r.RateName] = again
	}
	p.usedUp = append(p.usedUp, spool.HopState{Hop: hop, Until: again, Last: why, Full: true})
	if list := p.waiters[r.RateName]; len(list) < maxWaiters && !slices.Contains(list, hop) {
		p.waiters[r.RateName] = append(list, hop)
	}
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

// spend counts recipients that are about to be handed over, or gives back those that were not.
func (p *pass) spend(r Route, n int) error {
	if r.Rate.Count == 0 || n == 0 {
		return nil
	}
	return p.spool.Spend(r.RateName, r.Rate, n, p.Now())
}

// giveBackRate gives back what a group of events says was not handed over. Whoever waits for that rate, whatever his next
// hop, may have it at once.
func (p *pass) giveBackRate(group []event) error {
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
		if err := p.spend(routes[name], -n); err != nil {
			return err
		}
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
