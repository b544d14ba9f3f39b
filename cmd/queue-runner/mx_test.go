package main

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/dnstest"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// samePort starts servers at 127.0.0.2, .3 and so on, all at one port, and returns that.
func samePort(t *testing.T, all ...smtptest.Options) (servers []*smtptest.Server, port int) {
	t.Helper()
	for range 20 {
		probe, err := net.Listen("tcp", "127.0.0.2:0")
		if err != nil {
			t.Fatal(err)
		}
		port = probe.Addr().(*net.TCPAddr).Port
		probe.Close()
		servers = nil
		for i, o := range all {
			o.Addr = fmt.Sprintf("127.0.0.%d:%d", i+2, port)
			s, err := smtptest.Start(o)
			if err != nil {
				break
			}
			servers = append(servers, s)
		}
		if len(servers) == len(all) {
			for _, s := range servers {
				t.Cleanup(func() {
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			return servers, port
		}
		for _, s := range servers {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Fatal("no port is free at all addresses")
	return nil, 0
}

// overMX is the configuration of a host that asks this server for the way.
func overMX(dns *dnstest.Server, port int) string {
	return fmt.Sprintf("resolvers = [%q]\n[transport.mx]\nurl = \"mx:\"\nport = %d\n[[route]]\ntransport = \"mx\"\n", dns.Addr(), port)
}

var internet = []string{
	"a.example. 60 IN MX 10 dead.a.example.",
	"a.example. 60 IN MX 20 good.a.example.",
	"dead.a.example. 60 IN A 127.0.0.9",
	"good.a.example. 60 IN A 127.0.0.2",
	"b.example. 60 IN MX 10 good.a.example.",
	"c.example. 60 IN MX 10 grey.example.",
	"c.example. 60 IN MX 20 good.a.example.",
	"grey.example. 60 IN A 127.0.0.3",
	"null.example. 60 IN MX 0 .",
	"host.example. 60 IN A 127.0.0.2",
	"broken.example. 60 IN MX 10 good.a.example.",
	"xn--bcher-kva.example. 60 IN A 127.0.0.2",
	"loop.example. 60 IN MX 5 here.example.",
	"example.org. 60 IN MX 10 good.a.example.",
}

func TestDeliveryByMX(t *testing.T) {
	dns := dnstest.NewServer(t, internet...)
	dns.Behave("broken.example", dnstest.Fail)
	servers, port := samePort(t, smtptest.Options{Hostname: "good.a.example"},
		smtptest.Options{Replies: map[string]string{"RCPT": "451 4.7.1 greylisted"}})
	good, grey := servers[0], servers[1]
	w := newWorld(t, overMX(dns, port))
	w.submit("ann@a.example", "ann@b.example", "ann@c.example", "ann@null.example", "ann@nowhere.example", "ann@host.example",
		"ann@broken.example", "ann@bücher.example", "ann@loop.example", "ann@[127.0.0.2]")
	w.pass()
	at := func(host string) string { return fmt.Sprintf("relay=%s[127.0.0.2]:%d, ", host, port) }
	w.wantLog(
		"to=<ann@a.example>, "+at("good.a.example"),
		"to=<ann@b.example>, "+at("good.a.example"),
		"to=<ann@c.example>, "+at("good.a.example"),
		"to=<ann@host.example>, "+at("host.example"),
		"to=<ann@[127.0.0.2]>, "+at("127.0.0.2"),
		"to=<ann@bücher.example>, "+at("xn--bcher-kva.example"),
		"dsn=5.1.10, status=bounced (null.example takes no mail (null MX))",
		"dsn=5.1.2, status=bounced (the domain nowhere.example does not exist)",
		"dsn=5.4.6, status=bounced (mail for loop.example loops back to myself)",
		"dsn=4.4.3, status=deferred (cannot look up broken.example (MX): SERVFAIL from ",
	)
	if got := w.waiting(); len(got) != 1 || !strings.HasPrefix(got[0], "ann@broken.example: ") {
		t.Errorf("waiting: %q", got)
	}
	if n := len(good.Messages()); n != 9 { // six deliveries and three reports
		t.Errorf("%d messages arrived, want 9\n%s", n, w.log)
	}
	if n := grey.Connections(); n != 1 {
		t.Errorf("%d connections to the host that makes us wait", n)
	}
}

func TestWhatDNSSaysNowCounts(t *testing.T) {
	dns := dnstest.NewServer(t, internet...)
	dns.Behave("", dnstest.Fail)
	servers, port := samePort(t, smtptest.Options{})
	w := newWorld(t, overMX(dns, port))
	w.submit("bob@a.example")
	w.pass()
	if got := w.waiting(); len(got) != 1 {
		t.Fatalf("waiting: %q\n%s", got, w.log)
	}
	dns.Behave("", "")
	if status := w.run("--now"); status != 0 || len(servers[0].Messages()) != 1 {
		t.Errorf("exit %d\n%s", status, w.log)
	}
}

// One connection tells that the host of many domains is dead.
func TestManyDomainsOfOneDeadHost(t *testing.T) {
	dns := dnstest.NewServer(t, "mx.dead.example. 60 IN A 127.0.0.2")
	servers, port := samePort(t, smtptest.Options{Replies: map[string]string{"CONNECT": smtptest.Close}})
	w := newWorld(t, overMX(dns, port))
	var rcpts []string
	for i := range 200 {
		if err := dns.Add(fmt.Sprintf("d%d.example. 60 IN MX 10 mx.dead.example.", i)); err != nil {
			t.Fatal(err)
		}
		rcpts = append(rcpts, fmt.Sprintf("ann@d%d.example", i))
	}
	w.submit(rcpts...)
	w.pass()
	if n := servers[0].Connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if n := len(w.waiting()); n != 200 {
		t.Errorf("%d recipients wait", n)
	}
	w.wantLog("(not tried again so soon)")
}

func TestRelayIsFoundInTheHostsFile(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{})
	w := newWorld(t, fmt.Sprintf("resolvers = [\"127.0.0.1:9\"]\nrelay = \"smtp://localhost:%d\"\n", s.Port()))
	w.submit("bob@example.net")
	w.pass()
	w.wantLog("relay=localhost[127.0.0.1]:", "status=sent")
}

// TestNobodyVouchesForMX has a host that DNS names do everything right for who requires TLS, and does not trust it: the
// answer of DNS could be anybody's.
func TestNobodyVouchesForMX(t *testing.T) {
	dns := dnstest.NewServer(t, internet...)
	servers, port := samePort(t, smtptest.Options{Hostname: "good.a.example", Certificate: smtptest.Valid, Extensions: []string{"REQUIRETLS"}})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, servers[0].CertPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, strings.Replace(overMX(dns, port), "[[route]]", fmt.Sprintf("ca_file = %q\n[[route]]", ca), 1))
	w.submitWith(func(env *mail.Envelope) { env.TLS = mail.TLSRequired }, "ann@a.example")
	w.pass()
	w.wantLog("tls=TLS1.3/verified", "dsn=5.7.30, status=bounced (the sender requires TLS, and nobody vouches for good.a.example being the right host (DANE, MTA-STS))")
	// But that much the sender hears, with no more of his message than the header.
	if got := servers[0].Messages(); len(got) != 1 || got[0].Sender != "" || strings.Contains(string(got[0].Content), ".hello") {
		t.Errorf("%d messages arrived", len(got))
	}
}

// TestMailExchangersAreProven has a host that is the one that its domain names (DANE), one that is not, and one of which
// nothing is said, and mail whose senders think differently of TLS.
func TestMailExchangersAreProven(t *testing.T) {
	dns := dnstest.NewServer(t,
		"a.example. 60 IN MX 10 good.a.example.", "good.a.example. 60 IN A 127.0.0.2",
		"b.example. 60 IN MX 10 other.b.example.", "other.b.example. 60 IN A 127.0.0.3",
		"c.example. 60 IN MX 10 any.c.example.", "any.c.example. 60 IN A 127.0.0.2",
		"example.org. 60 IN MX 10 good.a.example.",
	)
	dns.Sign("example", "org")
	servers, port := samePort(t, smtptest.Options{Hostname: "good.a.example", Certificate: smtptest.SelfSigned, Extensions: []string{"REQUIRETLS"}},
		smtptest.Options{Hostname: "other.b.example", Certificate: smtptest.SelfSigned, Extensions: []string{"REQUIRETLS"}})
	good := sha256.Sum256(servers[0].TLS().Certificates[0].Certificate[0])
	for _, host := range []string{"good.a.example", "other.b.example"} {
		if err := dns.Add(fmt.Sprintf("_%d._tcp.%s. 60 IN TLSA 3 0 1 %x", port, host, good)); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, overMX(dns, port))
	for _, m := range []struct {
		wish mail.TLSWish
		rcpt string
	}{
		{mail.TLSUnsaid, "proven@a.example"}, {mail.TLSRequired, "required@a.example"}, {mail.TLSNotRequired, "optional@a.example"},
		{mail.TLSUnsaid, "proven@b.example"}, {mail.TLSRequired, "required@b.example"}, {mail.TLSNotRequired, "optional@b.example"},
		{mail.TLSUnsaid, "any@c.example"}, {mail.TLSRequired, "required@c.example"},
	} {
		w.submitWith(func(env *mail.Envelope) { env.TLS = m.wish }, m.rcpt)
	}
	w.pass()
	at := func(rcpt, host, addr, tls string) string {
		return fmt.Sprintf("to=<%s>, relay=%s[%s]:%d, tls=%s, ", rcpt, host, addr, port, tls)
	}
	w.wantLog(
		at("proven@a.example", "good.a.example", "127.0.0.2", "TLS1.3/verified/dane"),
		at("required@a.example", "good.a.example", "127.0.0.2", "TLS1.3/verified/dane"),
		at("optional@a.example", "good.a.example", "127.0.0.2", "TLS1.3/unverified"),
		at("optional@b.example", "other.b.example", "127.0.0.3", "TLS1.3/unverified"),
		at("any@c.example", "any.c.example", "127.0.0.2", "TLS1.3/unverified"),
		"to=<required@c.example>, relay=none, ",
		"dsn=5.7.30, status=bounced (the sender requires TLS, and nobody vouches for any.c.example being the right host (DANE, MTA-STS))",
	)
	waiting := w.waiting()
	slices.Sort(waiting)
	for i, rcpt := range []string{"proven@b.example: ", "required@b.example: "} {
		if len(waiting) != 2 || !strings.HasPrefix(waiting[i], rcpt) || !strings.Contains(waiting[i], "cannot trust the certificate of other.b.example") {
			t.Errorf("waiting: %q", waiting)
			break
		}
	}
	var required int
	for _, m := range servers[0].Messages() {
		if slices.Contains(m.Params, "REQUIRETLS") {
			required++
		}
	}
	if required != 2 { // the message, and the report about another one
		t.Errorf("%d messages with REQUIRETLS", required)
	}
}

func TestExplainMX(t *testing.T) {
	dns := dnstest.NewServer(t, internet...)
	w := newWorld(t, overMX(dns, 2525))
	cmd := w.command("route", "--sender", "ann@example.org", "bob@a.example", "bob@null.example")
	out, _ := cmd.Output()
	want := `bob@a.example: smtp to the hosts that DNS names for the domain (MX) at port 2525, TLS if offered, or as the domain wants it (MTA-STS, DANE), at most 5 sessions for each domain (mx)
  dead.a.example [127.0.0.9]
  good.a.example [127.0.0.2]
bob@null.example: smtp to the hosts that DNS names for the domain (MX) at port 2525, TLS if offered, or as the domain wants it (MTA-STS, DANE), at most 5 sessions for each domain (mx)
  null.example takes no mail (null MX)
`
	if string(out) != want || cmd.ProcessState.ExitCode() != exitNoUser {
		t.Errorf("exit %d\n%s\nwant\n%s", cmd.ProcessState.ExitCode(), out, want)
	}
}

func TestRelaysStandInForEachOther(t *testing.T) {
	servers, port := samePort(t, smtptest.Options{}, smtptest.Options{Replies: map[string]string{"MAIL": "451 4.3.0 later"}})
	good, later := servers[0], servers[1]
	relay := func(hosts ...string) string {
		for i, h := range hosts {
			hosts[i] = fmt.Sprintf("%q", fmt.Sprintf("smtp://%s:%d", h, port))
		}
		return "resolvers = [\"127.0.0.1:9\"]\nrelay = [" + strings.Join(hosts, ", ") + "]\n"
	}
	for _, tt := range []struct {
		name, settings string
		relay          string // who gets it; "" for nobody
		later          int    // connections to the one who puts us off
	}{
		{"the first serves", relay("127.0.0.2", "127.0.0.3"), "relay=127.0.0.2[127.0.0.2]:", 0},
		{"the first is dead", relay("127.0.0.9", "127.0.0.2"), "relay=127.0.0.2[127.0.0.2]:", 0},
		{"the first cannot be found", relay("nowhere.invalid", "127.0.0.2"), "relay=127.0.0.2[127.0.0.2]:", 0},
		{"the first puts us off", relay("127.0.0.3", "127.0.0.2"), "relay=127.0.0.2[127.0.0.2]:", 1},
		{"all are dead", relay("127.0.0.8", "127.0.0.9"), "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, had := later.Connections(), len(good.Messages())
			w := newWorld(t, tt.settings)
			w.submit("bob@example.net")
			w.submit("cyd@example.net")
			w.pass()
			w.wantLog(tt.relay)
			arrived, waiting := 2, 0
			if tt.relay == "" {
				arrived, waiting = 0, 2
			}
			if n := len(good.Messages()) - had; n != arrived || len(w.waiting()) != waiting {
				t.Errorf("%d messages arrived, %q wait\n%s", n, w.waiting(), w.log)
			}
			// Each of the two messages may have a session of its own.
			if n := later.Connections() - before; n < tt.later || n > 2*tt.later {
				t.Errorf("%d connections to the one who puts us off", n)
			}
		})
	}
}

func TestRelayBySRV(t *testing.T) {
	servers, port := samePort(t, smtptest.Options{})
	dns := dnstest.NewServer(t,
		"_submission._tcp.example.com. 60 IN SRV 1 0 587 dead.example.com.",
		fmt.Sprintf("_submission._tcp.example.com. 60 IN SRV 2 0 %d mail.example.com.", port),
		"dead.example.com. 60 IN A 127.0.0.9",
		"mail.example.com. 60 IN A 127.0.0.2",
	)
	w := newWorld(t, fmt.Sprintf("resolvers = [%q]\n[transport.out]\nurl = \"submission+srv://example.com\"\ntls = \"none\"\n[[route]]\ntransport = \"out\"\n", dns.Addr()))
	w.submit("bob@example.net")
	w.pass()
	w.wantLog("relay=mail.example.com[127.0.0.2]:", "status=sent")
	if n := len(servers[0].Messages()); n != 1 {
		t.Errorf("%d messages arrived", n)
	}
}
