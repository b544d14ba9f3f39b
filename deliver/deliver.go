// Package deliver acts: one pass takes in what was submitted, opens a session with each next hop that has something due,
// hands it message after message, and says of every recipient what became of him: delivered, deferred with a reason and
// a time, or bounced with a report to the sender.
//
// One goroutine, the pass, owns the spool and takes every decision that is written to it. Workers, one for each session,
// talk to servers: they are given claims, attempts already recorded in the spool, and send back settlements. While the
// pass commits one group of settlements the next one gathers, so a commit costs the same for one message and for a
// hundred.
//
// Next hops with something due get sessions by priority and age, share them, and have as many as they bear: see line and
// pace. Each of up to 68 sessions may hold a connection, or two while another host stands in for the first one, and, for
// each message in flight that is not small, its file.
package deliver

import (
	"context"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// A Transport opens sessions with next hops.
type Transport interface {
	// Open returns a session with the next hop for mail to domain, or a *mail.Failure: one that delays, of scope OfHost or
	// OfUs, or one that is final for all mail to domain, which does not exist, say, or wants none.
	Open(ctx context.Context, domain string) (Session, error)
}

// A Retrier is a Transport that makes the next attempt at a message in another way than the last one, where there are
// several.
type Retrier interface {
	Transport
	// OpenAgain is Open for a message of which so many attempts have been made, the last one with relay, as mail.Result
	// has it.
	OpenAgain(ctx context.Context, domain, relay string, attempts int) (Session, error)
}

// A Session is a conversation with a next hop.
type Session interface {
	// Deliver makes the attempts that come, and ends the session. It takes another one as soon as it has room for it,
	// which may be long before the last one is answered, and calls Done of each that it took before it returns, one at a
	// time and without waiting for others to come. It returns when the channel is closed, or before that if the next hop takes no more: then with a
	// *mail.Failure that says why, unless it was only enough for one session.
	//
	// When ctx is done it hangs up.
	Deliver(ctx context.Context, attempts <-chan mail.Attempt) error
}

// A Limited is a Session that knows how many recipients its server takes in one transaction; 0 means that it does not.
type Limited interface {
	Session
	MaxRecipients() int
}

// A Route is how mail goes to a next hop, or, with an Expander, who says where it goes instead.
type Route struct {
	Transport
	Expander    Expander
	Domain      string // for Open
	Concurrency int    // sessions at once; 0 means DefaultConcurrency
	Retry       *Retry // the schedule of what goes this way; nil means Options.Retry
	// Rate limits the recipients that may be handed over, together with all other next hops that have this name for it.
	Rate     spool.Rate
	RateName string
}

// An Expander says whom an address stands for.
type Expander interface {
	// Expand looks a recipient up. Its error is a *mail.Failure: of the recipient, or our own trouble.
	Expand(ctx context.Context, rcpt mail.Path) (Expansion, error)
}

// An Expansion is what an address stands for.
type Expansion struct {
	Found   bool             // false: it stands for itself
	Targets []mail.Recipient // whom the mail goes to instead: nobody if empty; Notify and Original are filled in by the pass
	Owner   mail.Path        // who gets the reports instead of the sender; null: nobody does
	Skipped []string         // what was left out, and why
}

// DefaultConcurrency is how many sessions a next hop gets at once unless told otherwise.
const DefaultConcurrency = 4

// Options are what a pass needs to know. All fields but Rewritten, Wake, Stay, Renew and Change must be set.
type Options struct {
	// Resolve returns the way to a next hop that the spool's Router named. Its error is our own trouble: a route that is
	// missing or wrong.
	Resolve func(hop string) (Route, error)
	Retry   Retry
	// Hostname is our name as the reporting MTA, and in Received; reports come from MAILER-DAEMON at it.
	Hostname string
	// Rewritten returns what becomes of the address of a sender that is ours: the author of reports, the owner of an alias.
	// nil: it stays what it is.
	Rewritten func(mail.Path) mail.Path
	// Logf writes a line of the mail log.
	Logf func(format string, args ...any)
	Now  func() time.Time
	// Wake tells a running pass that something may have come.
	Wake <-chan struct{}
	// Stay makes the pass wait for more instead of ending when nothing is due. It looks around by itself at least once
	// in so long; 0 means that it ends.
	Stay time.Duration
	// Renew ends the pass after so long, when sessions have finished what they are at; if that takes one of them longer
	// than Grace, the pass goes on, and tries to end after so long again. 0 means never.
	Renew time.Duration
	// Change hands over what the pass is to go by from then on.
	Change <-chan Change
}

// Grace is how long a pass that is told to stop lets sessions finish the message they are at.
const Grace = 8 * time.Second

// Pass delivers what is due, and returns when nothing is, or when ctx is done and sessions have ended, at most about
// Grace later. After an error the spool is in a state that only the next pass can know.
func Pass(ctx context.Context, s *spool.Spool, o Options) error {
	p := newPass(s, o)
	return p.run(ctx)
}
