package deliver

import (
	"context"

	"github.com/postrider/postrider/internal/mail"
)

// A Single takes one message at a time.
type Single interface {
	// Deliver makes one attempt for the recipients at these positions of the envelope, and returns one result for
	// each, in the same order.
	Deliver(ctx context.Context, m *mail.Message, recipients []int) []mail.Result
	// Usable reports whether another message may follow.
	Usable() bool
	// Close ends the session. Nothing that was delivered depends on it.
	Close()
}

// OneByOne makes a Session of a Single.
func OneByOne(s Single) Session { return oneByOne{s} }

type oneByOne struct{ Single }

func (o oneByOne) Deliver(ctx context.Context, attempts <-chan mail.Attempt) error {
	defer o.Close()
	for a := range attempts {
		results := o.one(ctx, a)
		a.Done(results)
		if !o.Usable() {
			return why(results)
		}
	}
	return nil
}

// one makes an attempt. What a message makes our own code do is no reason to end the session.
func (o oneByOne) one(ctx context.Context, a mail.Attempt) (results []mail.Result) {
	defer func() {
		if p := recover(); p != nil {
			results = make([]mail.Result, len(a.Positions))
			for i := range results {
				results[i] = *internalError(p)
			}
		}
	}()
	return o.Single.Deliver(ctx, a.Message, a.Positions)
}

// why returns the result that speaks of more than the message, if there is one.
func why(results []mail.Result) error {
	for _, r := range results {
		if r.Action == mail.Delayed && r.Scope >= mail.OfHost {
			return &mail.Failure{Result: r}
		}
	}
	return nil
}
