package smtp

import (
	"context"
	"errors"
	"testing"

	"github.com/postrider/postrider/internal/mail"
)

// A talk is a session that tests hand one message after the other.
type talk struct {
	*Session
	attempts chan mail.Attempt
	ended    chan struct{}
	err      error // what Deliver returned; read it when ended is closed
}

// begin starts the talk. It ends with the test.
func begin(t testing.TB, s *Session) *talk {
	c := &talk{Session: s}
	t.Cleanup(c.Close)
	return c
}

// untried is the result of who Done is told nothing of.
var untried = mail.Delay(mail.OfUs, mail.EnhancedCode{4, 0, 0}, "untried")

// Deliver waits until the message is answered. ctx counts with the first one.
func (c *talk) Deliver(ctx context.Context, m *mail.Message, recipients []int) []mail.Result {
	c.start(ctx)
	answer := make(chan []mail.Result, 1)
	instead := untried
	select {
	case c.attempts <- mail.Attempt{Message: m, Positions: recipients, Done: func(results []mail.Result) { answer <- results }}:
	case <-c.ended:
		if f, ok := errors.AsType[*mail.Failure](c.err); ok {
			instead = f.Result
		}
		answer <- nil
	}
	results := <-answer
	if results == nil {
		for range recipients {
			results = append(results, instead)
		}
	}
	return results
}

func (c *talk) start(ctx context.Context) {
	if c.attempts == nil {
		c.attempts, c.ended = make(chan mail.Attempt), make(chan struct{})
		go func() {
			defer close(c.ended)
			c.err = c.Session.Deliver(ctx, c.attempts)
		}()
	}
}

// Close ends the session.
func (c *talk) Close() {
	if c.attempts == nil {
		c.Session.Close()
		return
	}
	select {
	case <-c.ended:
		return
	default:
	}
	close(c.attempts)
	<-c.ended
	c.attempts, c.ended = nil, nil
}
