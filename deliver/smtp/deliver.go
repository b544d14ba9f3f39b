package smtp

import (
	"context"

	"github.com/postrider/postrider/internal/mail"
)

// Deliver makes the attempts that come, each in as many transactions as the server wants, and ends the session when the
// channel is closed or the server takes no more. A recipient is Relayed by a 2xx to the end of the content and by nothing
// else. The error is a *mail.Failure that says why the session ended before the channel was closed, unless it has only had
// its share of messages; it may be OfHost only because the server has had enough of this session, and a new one tells.
//
// A server of SMTP with PIPELINING and CHUNKING is sent message after message without waiting for its answers; others get what
// they can take. When the server hangs up or falls silent after a message has been sent to its end, nobody can know
// whether it has that message: the result is a deferral OfMessage that says so, and no other host should be tried at once.
// For a message that was not sent to its end, and whose turn had not come, Done is told nil.
//
// When ctx is done Deliver hangs up.
func (s *Session) Deliver(ctx context.Context, attempts <-chan mail.Attempt) error {
	stop := s.conn.watch(ctx)
	defer stop()
	defer s.Close() // watched, too: a server need not answer QUIT
	if s.ext.pipelining && s.ext.chunking && !s.server.LMTP {
		s.pipelined(ctx, attempts)
	} else {
		s.inTurn(ctx, attempts)
	}
	if !s.over.Load() {
		return nil
	}
	return &mail.Failure{Result: *s.why, Transcript: s.Transcript()}
}
