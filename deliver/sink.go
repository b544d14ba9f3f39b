package deliver

import (
	"context"

	"github.com/postrider/postrider/internal/mail"
)

// Discard is the transport that throws mail away.
type Discard struct{}

// Open cannot fail.
func (Discard) Open(context.Context, string) (Session, error) {
	return answering{mail.Result{Action: mail.Delivered, Relay: "discard", Reply: mail.Reply{Enhanced: mail.EnhancedCode{2, 0, 0}, Text: "discarded"}}}, nil
}

// Fail is the transport that refuses mail: it bounces with this text.
type Fail struct{ Text string }

// Open cannot fail.
func (f Fail) Open(context.Context, string) (Session, error) {
	return answering{mail.Result{Action: mail.Failed, Relay: "fail", Reply: mail.Reply{Enhanced: mail.EnhancedCode{5, 7, 1}, Text: f.Text}}}, nil
}

// answering is a session that has one answer to everything.
type answering struct{ mail.Result }

func (s answering) Deliver(_ context.Context, attempts <-chan mail.Attempt) error {
	for a := range attempts {
		results := make([]mail.Result, len(a.Positions))
		for i := range results {
			results[i] = s.Result
		}
		a.Done(results)
	}
	return nil
}
