package deliver

import (
	"fmt"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// waitForRate has a next hop left alone until its rate allows more, from the next settleRates on. Nothing was tried, so
// nothing counts as tried.
func (p *pass) waitForRate(hop string, r Route, again time.Time) {
	why := mail.Delay(mail.OfUs, mail.EnhancedCode{4, 4, 5}, "no more than %s: that is its rate", RateWords(r.Rate))
	p.line.stale = true
	p.usedUp = append(p.usedUp, spool.HopState{Hop: hop, Until: again, Last: why, Full: true})
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

// giveBackRate gives back what a group of events says was not handed over, and to whom it is said that he may not have
// more, may.
func (p *pass) giveBackRate(group []event) error {
	back := map[string]int{}
	routes := map[string]Route{}
	var relieved []spool.HopState
	for _, e := range group {
		if e.from == nil || e.settlement == nil || e.from.route.Rate.Count == 0 {
			continue
		}
		route := e.from.route
		routes[route.RateName] = route
		n := 0
		for _, d := range e.settlement.Dispositions {
			if d.Untried || e.unsent {
				n++
			}
		}
		if back[route.RateName] += n; n == 0 {
			continue
		}
		known, err := p.spool.HopTrouble(e.from.hop)
		if err != nil {
			return err
		}
		if known.Full {
			relieved = append(relieved, spool.HopState{Hop: e.from.hop, Full: true})
		}
	}
	for name, n := range back {
		if err := p.spend(routes[name], -n); err != nil {
			return err
		}
	}
	if len(relieved) == 0 {
		return nil
	}
	p.line.stale = true
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
