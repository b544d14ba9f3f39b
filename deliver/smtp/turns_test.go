package smtp

import (
	"slices"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// TestPanicInTurn has our own code panic over the second of three messages. Who has one does not get it again, what nobody
// knows of is said to be so, and the server hears no more of us.
func TestPanicInTurn(t *testing.T) {
	const broken, perhaps = "delayed of message, us says 4.3.0", "delayed of message, us says 4.4.2"
	for _, tt := range []struct {
		name     string
		at       string   // the line of the dialogue that is too much for us; "" for the end of the attempt
		want     []string // of a server that gets one command at a time
		ahead    []string // with the commands of the next message behind the content of the last one
		got      string   // who has a message
		gotAhead string
	}{
		{"the sender", "C: MAIL FROM:<s1@", []string{"relayed", broken, ""}, []string{broken, broken, ""}, "s0 to u0", ""},
		{"his answer", "S: 250 2.1.0 yes, s1", []string{"relayed", broken, ""}, []string{"relayed", broken, ""}, "s0 to u0", "s0 to u0"},
		{"the answer to the message", "S: 250 2.0.0 taken from s1", []string{"relayed", perhaps, ""}, []string{"relayed", perhaps, broken}, "s0 to u0 s1 to u1", "s0 to u0 s1 to u1"},
		{"what becomes of it", "", []string{"relayed", "relayed", ""}, []string{"relayed", "relayed", broken}, "s0 to u0 s1 to u1", "s0 to u0 s1 to u1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			everyWay(t, func(t *testing.T, way dialect, opts smtptest.Options) {
				if way.pipelining && way.chunking {
					return // TestPanic has that
				}
				opts.Strict = false
				opts.Replies = map[string]string{"MAIL FROM:<s1@": "250 2.1.0 yes, s1", "QUIT": "221 2.0.0 bye"}
				srv := smtptest.NewServer(t, opts)
				to := client(srv)
				to.Trace = func(_, line string) {
					if tt.at != "" && strings.HasPrefix(line, tt.at) {
						panic("boom")
					}
					if strings.HasPrefix(line, "S: 250 2.1.0 yes, s1") {
						srv.SetReply(".", "250 2.0.0 taken from s1")
					}
				}
				s := opened(t, to)
				got := make([]string, 3)
				attempts := make(chan mail.Attempt, 3)
				for i, m := range series(t, 3) {
					attempts <- mail.Attempt{Message: m, Positions: all(m), Done: func(results []mail.Result) {
						got[i] += "given back"
						if results != nil {
							got[i] = outcomes(results)[0]
						}
						if i == 1 && tt.at == "" {
							panic("boom")
						}
					}}
				}
				close(attempts)
				func() {
					defer func() {
						if c := recover(); c != "boom" {
							t.Errorf("Deliver panics with %v", c)
						}
					}()
					t.Errorf("Deliver = %v", s.Deliver(t.Context(), attempts))
				}()
				want, wantGot := tt.want, tt.got
				if way.pipelining {
					want, wantGot = tt.ahead, tt.gotAhead
				}
				if !slices.Equal(got, want) {
					t.Errorf("%q, want %q\n%s", got, want, s.Transcript())
				}
				if has := strings.Join(arrived(srv), " "); has != wantGot {
					t.Errorf("arrived: %s, want %s", has, wantGot)
				}
				if slices.Contains(srv.Commands(), "QUIT") {
					t.Error("QUIT in the middle of something")
				}
			})
		})
	}
}
