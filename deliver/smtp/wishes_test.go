package smtp

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// TestWishes says what becomes of a message whose sender asks for something, at servers that know of it and at others.
// The clock stands still.
func TestWishes(t *testing.T) {
	type envelope struct {
		tls      mail.TLSWish
		left     time.Duration // until the deadline; 0 for none
		returned bool
		priority int
		ours     bool // the submitter is the owner of the spool
		null     bool // the sender is
	}
	all3, none := []string{"REQUIRETLS", "DELIVERBY", "MT-PRIORITY"}, []string{"8BITMIME"}
	const failedBut = "failed of message, us says "
	for _, tt := range []struct {
		name        string
		extensions  []string
		certificate smtptest.Certificate
		found       bool // nobody vouches for the name of the host
		env         envelope
		params      string
		want        string
	}{
		{"nothing", all3, smtptest.Valid, false, envelope{}, "", "relayed"},
		{"all of it", all3, smtptest.Valid, false, envelope{mail.TLSRequired, 2 * time.Hour, true, 5, true, false}, "REQUIRETLS BY=7200;R MT-PRIORITY=5", "relayed"},

		{"TLS, and there is none", all3, smtptest.NoTLS, false, envelope{tls: mail.TLSRequired}, "", failedBut + "5.7.10"},
		{"TLS, and anybody could be there", all3, smtptest.SelfSigned, false, envelope{tls: mail.TLSRequired}, "", failedBut + "5.7.30"},
		{"TLS, to a host that anybody could have named", all3, smtptest.Valid, true, envelope{tls: mail.TLSRequired}, "", failedBut + "5.7.30"},
		{"TLS, and the server promises nothing", none, smtptest.Valid, false, envelope{tls: mail.TLSRequired}, "", failedBut + "5.7.30"},
		{"TLS for a report, where there is none", none, smtptest.NoTLS, false, envelope{tls: mail.TLSRequired, null: true}, "", "relayed"},
		{"TLS for a report", all3, smtptest.Valid, false, envelope{tls: mail.TLSRequired, null: true}, "REQUIRETLS", "relayed"},
		{"no TLS", all3, smtptest.Valid, false, envelope{tls: mail.TLSNotRequired}, "", "relayed"},

		{"in time or not at all, where that is not known", none, smtptest.NoTLS, false, envelope{left: time.Hour, returned: true}, "", failedBut + "5.3.3"},
		{"in time or not at all, where that takes longer", []string{"DELIVERBY 3601"}, smtptest.NoTLS, false, envelope{left: time.Hour, returned: true}, "", failedBut + "5.4.7"},
		{"in time or not at all, just so", []string{"DELIVERBY 3600"}, smtptest.NoTLS, false, envelope{left: time.Hour, returned: true}, "BY=3600;R", "relayed"},
		{"in time or not at all, and it is over", all3, smtptest.NoTLS, false, envelope{left: -time.Second, returned: true}, "", failedBut + "5.4.7"},
		{"in time if possible, where that is not known", none, smtptest.NoTLS, false, envelope{left: time.Hour}, "", "relayed"},
		{"in time if possible, where that takes longer", []string{"DELIVERBY 3601"}, smtptest.NoTLS, false, envelope{left: time.Hour}, "BY=3600;N", "relayed"},
		{"in time if possible, and it is over", all3, smtptest.NoTLS, false, envelope{left: -time.Hour}, "BY=-3600;N", "relayed"},

		{"priority, where that is not known", none, smtptest.NoTLS, false, envelope{priority: -5}, "", "relayed"},
		{"less priority", all3, smtptest.NoTLS, false, envelope{priority: -5}, "MT-PRIORITY=-5", "relayed"},
		{"more priority than the submitter may have", all3, smtptest.NoTLS, false, envelope{priority: 5}, "", "relayed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := smtptest.NewPipe(t, smtptest.Options{Extensions: tt.extensions, Certificate: tt.certificate})
				s := open(t, &Server{Host: "127.0.0.1", Dial: srv.Dial, TLS: TLSMay, RootCAs: srv.CertPool(), Found: tt.found})
				defer s.Close()
				m := message(t, letter, "bob@example.com")
				m.TLS, m.Priority, m.Submitter = tt.env.tls, tt.env.priority, os.Geteuid()+1
				if tt.env.left != 0 {
					m.DeliverBy = mail.DeliverBy{Deadline: time.Now().Add(tt.env.left), Return: tt.env.returned}
				}
				if tt.env.ours {
					m.Submitter = os.Geteuid()
				}
				if tt.env.null {
					m.Sender = mail.NullSender
				}
				r := s.Deliver(t.Context(), m, all(m))[0]
				if outcome(r) != tt.want {
					t.Errorf("%s (%s), want %s", outcome(r), r.Reply, tt.want)
				}
				sent := slices.ContainsFunc(srv.Commands(), func(line string) bool { return strings.HasPrefix(line, "MAIL") })
				if got := srv.Messages(); len(got) == 1 && strings.Join(got[0].Params, " ") != tt.params {
					t.Errorf("parameters %q, want %q", got[0].Params, tt.params)
				} else if sent != (tt.want == "relayed") {
					t.Errorf("sent %q", srv.Commands())
				}
			})
		})
	}
}
