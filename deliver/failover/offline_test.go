package failover_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/dns"
	"github.com/postrider/postrider/deliver/failover"
	"github.com/postrider/postrider/deliver/mx"
	"github.com/postrider/postrider/deliver/smtp"
	"github.com/postrider/postrider/internal/dnstest"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// TestThousandNextHopsWithoutANetwork cuts a host off that has mail for a thousand domains: name servers that do not answer
// are waited for once, not for each of them, what has no way costs no packet, and no attempt is made. When the network is
// back, all of it goes.
func TestThousandNextHopsWithoutANetwork(t *testing.T) {
	const domains = 1000
	var records []string
	for i := range domains {
		records = append(records, fmt.Sprintf("d%d.example. 60 IN MX 10 mx.d%d.example.", i, i), fmt.Sprintf("mx.d%d.example. 60 IN A %s", i, mx1Addr))
	}
	for _, tt := range []struct {
		name               string
		cut                func(w *world)
		most, least, dials int // questions, and connections tried
	}{
		{"name servers are silent", func(w *world) { w.names.Behave("", dnstest.Silent) }, 500, 1, 0},
		{"there is no route", func(w *world) { w.dead[mx1Addr] = syscall.ENETUNREACH }, 5 * domains, domains, domains},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, newNames(t, records...), false)
			none := filepath.Join(t.TempDir(), "none")
			w.transport = func() deliver.Transport {
				finder := &mx.Finder{
					DNS: dns.New(dns.Options{
						Servers: []string{w.names.Addr()}, ResolvConf: none, Hosts: none, Now: w.clock, Timeout: time.Second, Attempts: 2,
					}),
					Port: 25, Names: []string{"here.example"}, Routed: func(netip.Addr) bool { return true },
					Own: func() ([]netip.Addr, error) { return nil, nil },
				}
				return &failover.Transport{Find: finder.Domain, Dial: w.open(smtp.Server{}), Strangers: true, Now: w.clock}
			}
			w.submit(letter{change: func(env *mail.Envelope) {
				env.Recipients = nil
				for i := range domains {
					env.Recipients = append(env.Recipients, mail.Recipient{Path: w.path(fmt.Sprintf("u%d@d%d.example", i, i))})
				}
			}})
			tt.cut(w)
			w.pass()
			if n := len(w.names.Queries()); n > tt.most || n < tt.least {
				t.Errorf("%d questions to the name server, want %d to %d", n, tt.least, tt.most)
			}
			if n := len(w.dialled); n != tt.dials {
				t.Errorf("%d connections were tried, want %d", n, tt.dials)
			}
			waits := w.waiting()
			for rcpt, attempts := range waits {
				if attempts > 0 {
					t.Errorf("%s has been tried %d times", rcpt, attempts)
				}
			}
			if len(waits) != domains {
				t.Errorf("%d wait, want %d", len(waits), domains)
			}
			w.names.Behave("", "")
			delete(w.dead, mx1Addr)
			s := w.serve(mx1Addr, smtptest.Options{})
			w.now = w.now.Add(time.Minute)
			w.pass()
			if n := len(s.Messages()); n != domains || len(w.waiting()) > 0 {
				t.Errorf("%d have the message with the network back, and %d wait", n, len(w.waiting()))
			}
		})
	}
}
