package failover_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
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

// TestOddServers has mail for d.test go to mx1, which is odd, with and without mx2, which is not.
func TestOddServers(t *testing.T) {
	script := func(pairs ...string) smtptest.Options {
		o := smtptest.Options{Replies: map[string]string{}}
		for i := 0; i < len(pairs); i += 2 {
			o.Replies[pairs[i]] = pairs[i+1]
		}
		return o
	}
	const first, second = "relayed by mx1.d.test", "relayed by mx2.d.test"
	for _, tt := range []struct {
		name        string
		odd         smtptest.Options
		with, alone string // what becomes of the message with mx2, and without
	}{
		{"answers like others", script(), first, first},
		{"no banner", script("CONNECT", smtptest.Hang), second, "delayed 4.4.2"},
		{"hangs up at once", script("CONNECT", smtptest.Close), second, "delayed 4.4.2"},
		{"554 for a banner", script("CONNECT", "554 no service"), second, "delayed 4.0.0"},
		{"521 for a banner", script("CONNECT", "521 never"), second, "failed 5.3.2"},
		{"421 for a banner", script("CONNECT", "421 4.3.2 busy"), second, "delayed 4.3.2"},
		{"a banner of 30 lines", script("CONNECT", strings.Repeat("220 hello\n", 29)+"220 there"), first, first},
		{"EHLO unknown", script("EHLO", "500 what?"), first, first},
		{"recipient unknown", script("RCPT", "550 5.1.1 no such user"), "failed 5.1.1", "failed 5.1.1"},
		{"452 for the first recipient", script("RCPT", "452 4.5.3 too many"), second, "delayed 4.5.3"},
		{"251 for a recipient", script("RCPT", "251 will forward"), first, first},
		{"MAIL too big", script("MAIL", "552 5.3.4 too big"), "failed 5.3.4", "failed 5.3.4"},
		{"SIZE too small", smtptest.Options{Extensions: []string{"SIZE 10"}}, second, "failed 5.3.4"},
		{"greylisted at DATA", script("DATA", "451 4.7.1 greylisted"), second, "delayed 4.7.1"},
		{"silence after the dot", script(".", smtptest.Close), "delayed 4.4.2", "delayed 4.4.2"},
		{"554 to the content", script(".", "554 5.6.0 content"), "failed 5.6.0", "failed 5.6.0"},
		{"421 after the dot", script(".", "421 4.3.2 shutting down"), "delayed 4.3.2", "delayed 4.3.2"},
		{"a line of 100 kB", script("MAIL", smtptest.Raw+"250 "+strings.Repeat("x", 100<<10)+"\r\n"), second, "delayed 4.5.0"},
		{"codes that differ", script("MAIL", smtptest.Raw+"250-one\r\n550 two\r\n"), second, "delayed 4.5.0"},
		{"QUIT unanswered", script("QUIT", smtptest.Hang), first, first},
	} {
		for _, two := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, mx2 %v", tt.name, two), func(t *testing.T) {
				t.Parallel()
				want := tt.alone
				if two {
					want = tt.with
				}
				if got := deliverOne(t, tt.odd, two); got != want {
					t.Errorf("%s, want %s", got, want)
				}
			})
		}
	}
}

// deliverOne sends a message to d.test, and says in words what becomes of it.
func deliverOne(t *testing.T, odd smtptest.Options, two bool) string {
	t.Helper()
	servers := map[string]*smtptest.Server{"mx1": smtptest.NewServer(t, odd)}
	names := dnstest.NewServer(t, "d.test. 60 IN MX 10 mx1.d.test.", "mx1.d.test. 60 IN A 192.0.2.1")
	if two {
		servers["mx2"] = smtptest.NewServer(t, smtptest.Options{})
		if err := names.Add("d.test. 60 IN MX 20 mx2.d.test.", "mx2.d.test. 60 IN A 192.0.2.2"); err != nil {
			t.Fatal(err)
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	finder := &mx.Finder{
		DNS:  dns.New(dns.Options{Servers: []string{names.Addr()}, ResolvConf: none, Hosts: none}),
		Port: 25, Own: func() ([]netip.Addr, error) { return nil, nil }, Routed: func(netip.Addr) bool { return true },
	}
	transport := &failover.Transport{Find: finder.Domain, Strangers: true, Dial: func(ctx context.Context, h mx.Host) (deliver.Session, error) {
		s := &smtp.Server{Host: h.Name, Port: h.Port, Addrs: h.Addrs, Hello: "client.test", Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			host, _, _ := strings.Cut(h.Name, ".")
			return new(net.Dialer).DialContext(ctx, network, servers[host].Addr())
		}}
		if odd.Replies["CONNECT"] == smtptest.Hang && h.Name == "mx1.d.test" {
			s.Timeouts.Greeting = 100 * time.Millisecond
		}
		s.Timeouts.Quit = 50 * time.Millisecond
		session, err := smtp.Open(ctx, s)
		if err != nil {
			return nil, err
		}
		return session, nil
	}}
	session, err := transport.Open(t.Context(), "d.test")
	if err != nil {
		f, ok := err.(*mail.Failure)
		if !ok {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s %s", f.Action, f.Status())
	}
	rcpt, err := mail.ParsePath("bob@d.test")
	if err != nil {
		t.Fatal(err)
	}
	const content = "Subject: hello\r\n\r\nhello\r\n"
	m := &mail.Message{QueueID: "0123456789A", Content: strings.NewReader(content), Size: int64(len(content))}
	m.Recipients = []mail.Recipient{{Path: rcpt}}
	var results []mail.Result
	attempts := make(chan mail.Attempt, 1)
	attempts <- mail.Attempt{Message: m, Positions: []int{0}, Attempts: 1, Done: func(r []mail.Result) { results = r }}
	close(attempts)
	_ = session.Deliver(t.Context(), attempts) // what it says is in the results, too
	if len(results) != 1 {
		t.Fatalf("results %v", results)
	}
	if r := results[0]; r.Action != mail.Relayed {
		return fmt.Sprintf("%s %s", r.Action, r.Status())
	}
	host, _, _ := strings.Cut(results[0].Relay, "[")
	return "relayed by " + host
}
