package smtp

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// TestTimeouts has the server fall silent at each stage, and measures how long we wait by default.
func TestTimeouts(t *testing.T) {
	const (
		host    = "delayed of host, us says 4.4.2"
		tls     = "delayed of host, us says 4.7.5"
		perhaps = "delayed of message, us says 4.4.2"
	)
	for _, tt := range []struct {
		stage  string
		how    string
		want   time.Duration
		result string
	}{
		{"CONNECT", smtptest.Hang, 5 * time.Minute, host},
		{"EHLO", smtptest.Hang, 5 * time.Minute, host},
		{"STARTTLS", smtptest.Hang, 5 * time.Minute, host},
		{"TLS", smtptest.Hang, 2 * time.Minute, tls},
		{"AUTH", smtptest.Hang, 5 * time.Minute, host},
		{"AUTH END", smtptest.Hang, 5 * time.Minute, host},
		{"RSET", smtptest.Hang, 20 * time.Second, host},
		{"MAIL", smtptest.Hang, 5 * time.Minute, host},
		{"RCPT TO:<bob@", smtptest.Hang, 5 * time.Minute, host},
		{"DATA", smtptest.Hang, 2 * time.Minute, host},
		{"BODY", smtptest.Stall, 3*time.Minute + 5*time.Second, host}, // for last words
		{".", smtptest.Hang, 10 * time.Minute, perhaps},
	} {
		t.Run(tt.stage, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := smtptest.Options{Certificate: smtptest.Valid, Users: map[string]string{"ann": "secret"}}
				opts.Replies = map[string]string{"RCPT TO:<nobody@": "550 5.1.1 who?", tt.stage: tt.how}
				srv := smtptest.NewPipe(t, opts)
				to := &Server{
					Host: "127.0.0.1", Dial: srv.Dial, TLS: TLSVerify, RootCAs: srv.CertPool(),
					User: "ann", Password: func() (string, error) { return "secret", nil },
				}
				start := time.Now()
				result := deliverAfterRefusal(t, to)
				if got := time.Since(start); got != tt.want || outcome(result) != tt.result {
					t.Errorf("%s (%s) after %v, want %s after %v", outcome(result), result.Reply, got, tt.result, tt.want)
				}
			})
		})
	}
}

// deliverAfterRefusal opens a session, has one message refused and sends another one. It returns what became of that,
// or what kept the session from being opened.
func deliverAfterRefusal(t *testing.T, to *Server) mail.Result {
	t.Helper()
	session, err := Open(context.Background(), to)
	if err != nil {
		return err.(*mail.Failure).Result
	}
	s := begin(t, session)
	defer s.Close()
	m := message(t, "", "nobody@example.com", "bob@example.com")
	m.Size = 1 << 20
	m.Content = endless{m.Size}
	if r := s.Deliver(t.Context(), m, []int{0})[0]; r.Action != mail.Failed {
		return r
	}
	return s.Deliver(t.Context(), m, []int{1})[0]
}

func TestQuitIsNotWaitedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := smtptest.NewPipe(t, smtptest.Options{Replies: map[string]string{"QUIT": smtptest.Hang}})
		s := open(t, &Server{Host: "127.0.0.1", Dial: srv.Dial})
		start := time.Now()
		s.Close()
		s.Close()
		if got := time.Since(start); got != 5*time.Second {
			t.Errorf("Close took %v, want 5s", got)
		}
	})
}

func TestConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		f := openFailure(t, t.Context(), &Server{Host: "192.0.2.1", Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		if got := time.Since(start); got != 30*time.Second || outcome(f.Result) != "delayed of host, us says 4.4.1" {
			t.Errorf("%s (%s) after %v", outcome(f.Result), f.Reply, got)
		}
	})
}

// TestDrippingServer has a server send an octet a minute: a reply has one deadline, not one for each read.
func TestDrippingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, gone := time.Now(), make(chan struct{})
		f := openFailure(t, t.Context(), &Server{Host: "192.0.2.1", Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer close(gone)
				for _, c := range []byte("220-hello\r\n220 world\r\n") {
					time.Sleep(time.Minute - time.Second)
					if _, err := server.Write([]byte{c}); err != nil {
						return
					}
				}
			}()
			return client, nil
		}})
		if got := time.Since(start); got != 5*time.Minute || outcome(f.Result) != "delayed of host, us says 4.4.2" {
			t.Errorf("%s (%s) after %v, want 5m", outcome(f.Result), f.Reply, got)
		}
		<-gone
	})
}

// TestSlowServer has a server take nine minutes for the answer that counts.
func TestSlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := smtptest.NewPipe(t, smtptest.Options{OnCommand: func(line string) {
			if line == "." {
				time.Sleep(9 * time.Minute)
			}
		}})
		s := open(t, &Server{Host: "127.0.0.1", Dial: srv.Dial})
		m := message(t, letter, "bob@example.com")
		if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != "relayed" {
			t.Error(got)
		}
	})
}

func TestTimeoutsCanBeSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := smtptest.NewPipe(t, smtptest.Options{Replies: map[string]string{"MAIL": smtptest.Hang}})
		s := open(t, &Server{Host: "127.0.0.1", Dial: srv.Dial, Timeouts: Timeouts{Mail: 7 * time.Second}})
		m := message(t, letter, "bob@example.com")
		start := time.Now()
		s.Deliver(t.Context(), m, all(m))
		if got := time.Since(start); got != 7*time.Second {
			t.Errorf("waited %v, want 7s", got)
		}
	})
}
