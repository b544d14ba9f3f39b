package deliver

import (
	"context"

	"github.com/postrider/postrider/internal/mail"
)

// Discard is the transport that throws mail away.
type Discard struct{}

// Open cannot fail.
func (Discard) Open(context.Context, string) (Session, error) {
	return sink{mail.Result{Action: mail.Delivered, Relay: "discard", Reply: mail.Reply{Enhanced: mail.EnhancedCode{2, 0, 0}, Text: "discarded"}}}, nil
}

// Fail is the transport that refuses mail: it bounces with this text.
type Fail struct{ Text string }

// Open cannot fail.
func (f Fail) Open(context.Context, string) (Session, error) {
	return sink{mail.Result{Action: mail.Failed, Relay: "fail", Reply: mail.Reply{Enhanced: mail.EnhancedCode{5, 7, 1}, Text: f.Text}}}, nil
}

// A sink is a session that has one answer to everything.
type sink struct{ answer mail.Result }

func (s sink) Deliver(_ context.Context, _ *mail.Message, recipients []int) []mail.Result {
	results := make([]mail.Result, len(recipients))
	for i := range results {
		results[i] = s.answer
	}
	return results
}

func (sink) Usable() bool { return true }
func (sink) Close()       {}
