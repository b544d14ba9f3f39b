package faulttest

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/smtp"
	"github.com/postrider/postrider/internal/smtptest"
)

// TestFlight loses the connection while as many messages are on their way as a session has at most: all of them are
// deferred and said to be perhaps arrived, and nobody else is.
func TestFlight(t *testing.T) {
	const flight = 32 // on their way at most
	for _, does := range []string{smtptest.Close, smtptest.Hang, smtptest.Took + smtptest.Close, smtptest.Raw + "what is this?\r\n"} {
		t.Run(does, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, nil)
				for n := range 150 {
					w.write(n, 100, fmt.Sprintf("r%d@mx.example", n))
				}
				dots := 0
				server := smtptest.NewPipe(t, smtptest.Options{
					Extensions: []string{"PIPELINING", "CHUNKING"},
					Script: func(_ int, line string) string {
						if line == "." {
							dots++
						}
						if line != "." || dots != 3*flight { // by then so many have been answered that it trusts us with that
							return ""
						}
						time.Sleep(time.Second) // passes when the client has sent all that it may
						return does
					},
				})
				resolve := w.opts.Resolve
				w.opts.Resolve = func(hop string) (deliver.Route, error) {
					if hop != "mx.example" {
						return resolve(hop)
					}
					transport := transportFunc(func(ctx context.Context) (deliver.Session, error) {
						s, err := smtp.Open(ctx, (host{server, t, cell{fault: fault{}}, &tally{}}).server(address(0)))
						if err != nil {
							return nil, err
						}
						return s, nil
					})
					return deliver.Route{Transport: transport, Domain: hop, Concurrency: 1}, nil
				}
				w.submit()
				w.pass()
				perhaps, sent := 0, 0
				for _, f := range w.judge(1, verdict{taken: server.Messages(), refused: none}) {
					perhaps += f.ambiguous
					sent += f.sent
				}
				t.Logf("%d were on their way", perhaps)
				if perhaps == 0 || perhaps > flight || sent != len(w.letters)-perhaps {
					t.Errorf("%d may arrive twice, %d were sent, of %d", perhaps, sent, len(w.letters))
				}
				w.later(wait + time.Hour)
				w.pass()
				w.judgeAll(2, verdict{taken: server.Messages(), refused: none})
			})
		})
	}
}
