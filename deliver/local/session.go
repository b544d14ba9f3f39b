package local

import (
	"context"

	"github.com/postrider/postrider/internal/mail"
)

// A Session makes deliveries, one recipient after another, for one goroutine.
type Session struct {
	// One delivers to the recipient at position n of the envelope.
	One func(ctx context.Context, m *mail.Message, n int) mail.Result

	broken bool
}

// Deliver returns one result for each of the recipients, in the same order.
func (s *Session) Deliver(ctx context.Context, m *mail.Message, recipients []int) []mail.Result {
	results := make([]mail.Result, len(recipients))
	for i, n := range recipients {
		if err := context.Cause(ctx); err != nil {
			results[i] = mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 2}, "not delivered: %v", err)
			continue
		}
		results[i] = s.One(ctx, m, n)
		// On a full disk a smaller message may still find room.
		s.broken = s.broken || results[i].Action == mail.Delayed && results[i].Scope == mail.OfUs && results[i].Status() != diskFull
	}
	return results
}

// Usable reports whether another message may be delivered.
func (s *Session) Usable() bool { return !s.broken }

// Close ends the session.
func (s *Session) Close() {}

var diskFull = mail.EnhancedCode{4, 3, 1}

func delivered(text string) mail.Result {
	return mail.Result{Action: mail.Delivered, Reply: mail.Reply{Enhanced: mail.EnhancedCode{2, 1, 5}, Text: text}}
}
