package smtp

import (
	"crypto/tls"
	"testing"

	"github.com/postrider/postrider/internal/smtptest"
)

// TestResumption has a second session take up the TLS of the first one, with all that depends on it.
func TestResumption(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts smtptest.Options
		mode TLSMode
		user string
		want string
	}{
		{"verified", smtptest.Options{Certificate: smtptest.Valid}, TLSVerify, "", "TLS1.3 verified"},
		{"opportunistic, and valid", smtptest.Options{Certificate: smtptest.Valid}, TLSMay, "", "TLS1.3 verified"},
		{"opportunistic", smtptest.Options{Certificate: smtptest.SelfSigned}, TLSMay, "", "TLS1.3 unverified"},
		{"implicit", smtptest.Options{Certificate: smtptest.Valid, ImplicitTLS: true}, TLSVerify, "", "TLS1.3 verified"},
		{"TLS 1.2", smtptest.Options{Certificate: smtptest.Valid, MaxTLS: tls.VersionTLS12}, TLSVerify, "", "TLS1.2 verified"},
		{
			"a login bound to the connection",
			smtptest.Options{Certificate: smtptest.Valid, Users: map[string]string{"ann": "opensesame"}, Mechanisms: []string{"SCRAM-SHA-256-PLUS"}},
			TLSVerify, "ann", "TLS1.3 verified",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := smtptest.NewServer(t, tt.opts)
			to := client(srv)
			to.TLS, to.ImplicitTLS, to.RootCAs, to.Tickets = tt.mode, tt.opts.ImplicitTLS, srv.CertPool(), tls.NewLRUClientSessionCache(1)
			to.User, to.Password = tt.user, secret("opensesame")
			for range 2 {
				if got := deliverLetter(t, to); got != tt.want {
					t.Errorf("delivered over %q, want %q", got, tt.want)
				}
			}
			if m := srv.Messages(); m[0].Resumed || !m[1].Resumed {
				t.Errorf("resumed: %v, %v", m[0].Resumed, m[1].Resumed)
			}
		})
	}
}

// TestResumptionIsNoWayAround meets a server first where any certificate will do.
func TestResumptionIsNoWayAround(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Certificate: smtptest.SelfSigned})
	to := client(srv)
	to.TLS, to.RootCAs, to.Tickets = TLSMay, srv.CertPool(), tls.NewLRUClientSessionCache(1)
	if got := deliverLetter(t, to); got != "TLS1.3 unverified" {
		t.Errorf("delivered over %q", got)
	}
	to.TLS = TLSVerify
	if f := openFailure(t, t.Context(), to); outcome(f.Result) != "delayed of host, us says 4.7.5" {
		t.Errorf("Open = %s (%s)", outcome(f.Result), f.Reply)
	}
}

// deliverLetter returns what TLS a letter is delivered over, in a session of its own.
func deliverLetter(t *testing.T, to *Server) string {
	t.Helper()
	s := open(t, to)
	defer s.Close()
	m := message(t, letter, "bob@example.com")
	r := s.Deliver(t.Context(), m, all(m))[0]
	if outcome(r) != "relayed" {
		t.Errorf("%s (%s)", outcome(r), r.Reply)
	}
	return r.TLS
}
