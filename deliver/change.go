package deliver

import (
	"context"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// A Change is what a running pass goes by from then on.
type Change struct {
	Options // without those that say when it looks around and when it ends: they stay
	Spool   spool.Options
}

// change has all that is begun from now on go by other options. Sessions finish the messages they are at by the old ones,
// however long that takes their servers, beside new sessions with what may be other servers.
func (p *pass) change(ctx context.Context, c Change) error {
	p.calm()
	if !p.stopping {
		p.soft, p.calm = context.WithCancel(ctx)
	}
	if err := p.spool.Reconfigure(c.Spool); err != nil {
		return err
	}
	o := c.Options
	o.Wake, o.Stay, o.Renew, o.Change = p.Wake, p.Stay, p.Renew, p.Change
	p.clerk = clerk{&o, p.spool, o.Retry}
	p.hops, p.line, p.overdue = map[string]*hopWork{}, newLine(), map[string]mail.Result{}
	return nil
}

// former reports whether an event speaks of a next hop as it was before a change. That says nothing of it as it is.
func (p *pass) former(e event) bool { return e.from != nil && p.hops[e.from.hop] != e.from.work }
