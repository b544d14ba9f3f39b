package mx

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/deliver/dns"
	"github.com/postrider/postrider/internal/dnstest"
	"github.com/postrider/postrider/internal/mail"
)

var zone = []string{
	"d.example. 60 IN MX 20 mx2.d.example.",
	"d.example. 60 IN MX 10 mx1.d.example.",
	"mx1.d.example. 60 IN A 192.0.2.1",
	"mx1.d.example. 60 IN AAAA 2001:db8::1",
	"mx2.d.example. 60 IN A 192.0.2.2",
	"host.example. 60 IN A 192.0.2.3",
	"alias.example. 60 IN CNAME d.example.",
	"xn--bcher-kva.example. 60 IN MX 1 mx2.d.example.",
	"null.example. 60 IN MX 0 .",
	"nulls.example. 60 IN MX 0 .",
	"nulls.example. 60 IN MX 5 mx2.d.example.",
	"address.example. 60 IN MX 1 192.0.2.9.",
	"address2.example. 60 IN MX 1 192.0.2.9.",
	"address2.example. 60 IN MX 2 mx2.d.example.",
	"text.example. 60 IN TXT nothing",
	"gone.example. 60 IN MX 1 nowhere.example.",
	"gone.example. 60 IN MX 2 text.example.",
	"half.example. 60 IN MX 1 nowhere.example.",
	"half.example. 60 IN MX 2 mx2.d.example.",
	"slow.example. 60 IN MX 1 slow-mx.example.",
	"slow.example. 60 IN MX 2 nowhere.example.",
	"slow2.example. 60 IN MX 1 slow-mx.example.",
	"slow2.example. 60 IN MX 2 mx2.d.example.",
	"broken.example. 60 IN MX 1 mx1.d.example.",
	"round.example. 60 IN CNAME round.example.",
	"mxalias.example. 60 IN MX 1 target.example.",
	"target.example. 60 IN CNAME mx2.d.example.",
	"twice.example. 60 IN MX 1 mx2.d.example.",
	"twice.example. 60 IN MX 3 mx2.d.example.",

	"me.example. 60 IN A 192.0.2.100",
	"backup.example. 60 IN MX 10 mx1.d.example.",
	"backup.example. 60 IN MX 20 ME.example.",
	"backup.example. 60 IN MX 20 mx2.d.example.",
	"backup.example. 60 IN MX 30 host.example.",
	"best.example. 60 IN MX 10 me.example.",
	"best.example. 60 IN MX 20 mx2.d.example.",
	"byaddr.example. 60 IN MX 10 other.example.",
	"other.example. 60 IN A 192.0.2.101",
	"slowbest.example. 60 IN MX 5 slow-mx.example.",
	"slowbest.example. 60 IN MX 10 me.example.",
	"gonebest.example. 60 IN MX 5 nowhere.example.",
	"gonebest.example. 60 IN MX 10 me.example.",
}

// finder is on a host me.example, 192.0.2.100 and .101, that has a way to IPv4 only.
func finder(t *testing.T, s *dnstest.Server) *Finder {
	return &Finder{
		DNS: dns.New(dns.Options{
			Servers: []string{s.Addr()}, ResolvConf: filepath.Join(t.TempDir(), "none"), Hosts: filepath.Join(t.TempDir(), "none"),
			Timeout: 5 * time.Second,
		}),
		Port: 2525, Names: []string{"me.example"},
		Own: func() ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("192.0.2.101")}, nil
		},
		Routed: netip.Addr.Is4,
	}
}

// outcome puts what was found into words.
func outcome(hosts []Host, err error) string {
	var f *mail.Failure
	if errors.As(err, &f) {
		us := ""
		if f.Scope == mail.OfUs {
			us = " of us"
		}
		return fmt.Sprintf("%s%s %s %s", f.Action, us, f.Status(), f.Reply.Text)
	}
	if err != nil {
		return err.Error()
	}
	var list []string
	for _, h := range hosts {
		list = append(list, fmt.Sprintf("%s%v:%d", h.Name, h.Addrs, h.Port))
	}
	return strings.Join(list, " ")
}

func TestDomain(t *testing.T) {
	s := dnstest.NewServer(t, zone...)
	s.Behave("slow-mx.example", dnstest.Fail)
	s.Behave("broken.example", dnstest.Fail)
	f := finder(t, s)
	for _, tt := range []struct{ name, domain, want string }{
		{"the better one first", "d.example", "mx1.d.example[192.0.2.1]:2525 mx2.d.example[192.0.2.2]:2525"},
		{"in other case", "D.Example.", "mx1.d.example[192.0.2.1]:2525 mx2.d.example[192.0.2.2]:2525"},
		{"no MX: the domain itself", "host.example", "host.example[192.0.2.3]:2525"},
		{"an alias", "alias.example", "mx1.d.example[192.0.2.1]:2525 mx2.d.example[192.0.2.2]:2525"},
		{"beyond ASCII", "bücher.example", "mx2.d.example[192.0.2.2]:2525"},
		{"an MX that is an alias", "mxalias.example", "target.example[192.0.2.2]:2525"},
		{"an MX named twice", "twice.example", "mx2.d.example[192.0.2.2]:2525"},
		{"null MX", "null.example", "failed 5.1.10 null.example takes no mail (null MX)"},
		{"null MX beside another is none", "nulls.example", "mx2.d.example[192.0.2.2]:2525"},
		{"an address is no name", "address.example", "failed 5.4.4 no mail exchanger (MX) of address.example has an address"},
		{"and is skipped", "address2.example", "mx2.d.example[192.0.2.2]:2525"},
		{"neither MX nor address", "text.example", "failed 5.4.4 text.example has neither a mail exchanger (MX) nor an address"},
		{"no such domain", "nowhere.example", "failed 5.1.2 the domain nowhere.example does not exist"},
		{"no MX has an address", "gone.example", "failed 5.4.4 no mail exchanger (MX) of gone.example has an address"},
		{"the first MX has none", "half.example", "mx2.d.example[192.0.2.2]:2525"},
		{"none can be found out", "slow.example", "delayed 4.4.4 cannot look up slow-mx.example (A): SERVFAIL from " + s.Addr()},
		{"the first cannot be found out", "slow2.example", "mx2.d.example[192.0.2.2]:2525"},
		{"SERVFAIL", "broken.example", "delayed 4.4.3 cannot look up broken.example (MX): SERVFAIL from " + s.Addr()},
		{"aliases in a circle", "round.example", "delayed 4.4.3 cannot look up round.example (MX): its aliases (CNAME) go in a circle"},
		{"not a domain", "b\xff.example", `failed 5.1.2 "b\xff.example" is not a domain`},
		{"nothing", "", `failed 5.1.2 "" is not a domain`},

		{"we are second best", "backup.example", "mx1.d.example[192.0.2.1]:2525"},
		{"we are the best", "best.example", "failed 5.4.6 mail for best.example loops back to myself"},
		{"by another name", "byaddr.example", "failed 5.4.6 mail for byaddr.example loops back to myself"},
		{"we are the domain", "me.example", "failed 5.4.6 mail for me.example loops back to myself"},
		{"a better one cannot be found out", "slowbest.example", "delayed 4.4.4 cannot look up slow-mx.example (A): SERVFAIL from " + s.Addr()},
		{"a better one has no address", "gonebest.example", "failed 5.4.6 mail for gonebest.example loops back to myself"},

		{"a literal", "[192.0.2.9]", "192.0.2.9[192.0.2.9]:2525"},
		{"a literal of IPv6", "[ipv6:2001:DB8::9]", "2001:db8::9[2001:db8::9]:2525"},
		{"IPv4 dressed as IPv6", "[IPv6:::ffff:192.0.2.9]", "192.0.2.9[192.0.2.9]:2525"},
		{"our own address", "[192.0.2.101]", "failed 5.4.6 mail for [192.0.2.101] loops back to myself"},
		{"IPv6 without the word", "[2001:db8::9]", "failed 5.1.2 [2001:db8::9] is not an address"},
		{"the word before IPv4", "[IPv6:192.0.2.9]", "failed 5.1.2 [IPv6:192.0.2.9] is not an address"},
		{"a zone", "[IPv6:fe80::1%eth0]", "failed 5.1.2 [IPv6:fe80::1%eth0] is not an address"},
		{"a literal of something", "[x400:foo]", "failed 5.1.2 [x400:foo] is not an address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := outcome(f.Domain(t.Context(), tt.domain)); got != tt.want {
				t.Errorf("Domain(%q) = %s\nwant %s", tt.domain, got, tt.want)
			}
		})
	}
}

func TestEqualPreferencesAreShuffled(t *testing.T) {
	s := dnstest.NewServer(t)
	for i := range 5 {
		if err := s.Add(fmt.Sprintf("d.example. 60 IN MX 5 mx%d.example.", i), fmt.Sprintf("mx%d.example. 60 IN A 192.0.2.%d", i, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Add("d.example. 60 IN MX 9 last.example.", "last.example. 60 IN A 192.0.2.9"); err != nil {
		t.Fatal(err)
	}
	f := finder(t, s)
	orders := map[string]bool{}
	for range 50 {
		got := outcome(f.Domain(t.Context(), "d.example"))
		orders[got] = true
		if !strings.HasSuffix(got, "last.example[192.0.2.9]:2525") || strings.Count(got, "mx") != 5 {
			t.Fatalf("Domain = %s", got)
		}
	}
	if len(orders) < 10 {
		t.Errorf("%d orders in 50 times", len(orders))
	}
}

func TestManyHosts(t *testing.T) {
	s := dnstest.NewServer(t)
	for i := range 40 {
		if err := s.Add(fmt.Sprintf("d.example. 60 IN MX %d mx%d.example.", i, i), fmt.Sprintf("mx%d.example. 60 IN A 192.0.2.%d", i, i)); err != nil {
			t.Fatal(err)
		}
	}
	hosts, err := finder(t, s).Domain(t.Context(), "d.example")
	if err != nil || len(hosts) != maxHosts || hosts[0].Name != "mx0.example" {
		t.Errorf("%d hosts, %v; want the best %d", len(hosts), err, maxHosts)
	}
	if n := len(s.Queries()); n > 20 {
		t.Errorf("%d questions", n)
	}
}

func TestNobodyAnswers(t *testing.T) {
	s := dnstest.NewServer(t)
	s.Behave("", dnstest.Silent)
	f := finder(t, s)
	f.DNS = dns.New(dns.Options{Servers: []string{s.Addr()}, Timeout: 10 * time.Millisecond, Attempts: 1})
	got := outcome(f.Domain(t.Context(), "d.example"))
	if want := "delayed of us 4.4.3 cannot look up d.example (MX): no answer from " + s.Addr(); got != want {
		t.Errorf("Domain = %s, want %s", got, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f = finder(t, s)
	if got := outcome(f.Domain(ctx, "d.example")); got != "delayed of us 4.3.2 interrupted while looking up a domain" {
		t.Errorf("interrupted: %s", got)
	}
}

func TestFamilies(t *testing.T) {
	s := dnstest.NewServer(t, zone...)
	for _, tt := range []struct {
		name   string
		routed func(netip.Addr) bool
		want   string
	}{
		{"both", func(netip.Addr) bool { return true }, "[2001:db8::1 192.0.2.1]"},
		{"no way to IPv6", netip.Addr.Is4, "[192.0.2.1]"},
		{"no network: who dials says so", func(netip.Addr) bool { return false }, "[2001:db8::1 192.0.2.1]"},
	} {
		f := finder(t, s)
		f.Routed = tt.routed
		hosts, err := f.Domain(t.Context(), "d.example")
		if err != nil || fmt.Sprint(hosts[0].Addrs) != tt.want {
			t.Errorf("%s: %v, %v; want %s", tt.name, hosts, err, tt.want)
		}
	}
}

func TestOwnAddresses(t *testing.T) {
	f := &Finder{Port: 25}
	own, err := f.own()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"127.0.0.1", "127.3.4.5", "::1", "0.0.0.0", "::"} {
		if !own.has(netip.MustParseAddr(a)) {
			t.Errorf("%s is not ours at port 25", a)
		}
	}
	all, err := interfaceAddrs()
	if err != nil || len(all) == 0 || !own.has(all[len(all)-1]) {
		t.Errorf("the interfaces' addresses %v, %v are not ours", all, err)
	}
	if own.has(netip.MustParseAddr("192.0.2.1")) {
		t.Error("192.0.2.1 is ours")
	}
	f.Port = 2525
	if own, err := f.own(); err != nil || own.has(netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("at another port we meet ourselves: %v", err)
	}
}

func TestRoutes(t *testing.T) {
	if !hasRoute(netip.MustParseAddr("127.0.0.1")) {
		t.Error("no way to 127.0.0.1")
	}
}

func TestRelay(t *testing.T) {
	s := dnstest.NewServer(t, zone...)
	s.Behave("broken.example", dnstest.Fail)
	f := finder(t, s)
	for _, tt := range []struct{ host, want string }{
		{"mx2.d.example", "mx2.d.example[192.0.2.2]:587"},
		{"MX2.d.example", "mx2.d.example[192.0.2.2]:587"},
		{"192.0.2.77", "192.0.2.77[192.0.2.77]:587"},
		{"2001:db8::7", "2001:db8::7[2001:db8::7]:587"},
		{"d.example", "delayed of us 4.4.4 cannot find d.example: no such host"},
		{"nowhere.example", "delayed of us 4.4.4 cannot find nowhere.example: no such host"},
		{"broken.example", "delayed of us 4.4.3 cannot look up broken.example (A): SERVFAIL from " + s.Addr()},
	} {
		host, err := f.Relay(t.Context(), tt.host, 587)
		if got := outcome([]Host{host}, err); got != tt.want {
			t.Errorf("Relay(%q) = %s\nwant %s", tt.host, got, tt.want)
		}
	}
	if !slices.Contains(s.Queries(), "A mx2.d.example udp") {
		t.Error("nobody was asked")
	}
}

func TestService(t *testing.T) {
	s := dnstest.NewServer(t, zone...)
	if err := s.Add(
		"_submission._tcp.d.example. 60 IN SRV 10 1 587 mx2.d.example.",
		"_submission._tcp.d.example. 60 IN SRV 5 1 5870 mx1.d.example.",
		"_submission._tcp.d.example. 60 IN SRV 1 1 587 host.example.",
		"_submissions._tcp.d.example. 60 IN SRV 0 0 0 .",
		"_submission._tcp.host.example. 60 IN SRV 0 0 587 host.example.",
		"_submission._tcp.text.example. 60 IN SRV 0 0 587 gone.text.example.",
		"_submission._tcp.evil.example. 60 IN SRV 0 0 587 mail.notevil.example.",
	); err != nil {
		t.Fatal(err)
	}
	s.Behave("_submission._tcp.broken.example", dnstest.Fail)
	f := finder(t, s)
	for _, tt := range []struct{ name, service, domain, want string }{
		{"by priority, and none beyond the domain", "submission", "d.example", "mx1.d.example[192.0.2.1]:5870 mx2.d.example[192.0.2.2]:587"},
		{"the domain itself", "submission", "host.example", "host.example[192.0.2.3]:587"},
		{"not offered", "submissions", "d.example", "delayed of us 4.4.4 d.example names no submissions server of its own (SRV)"},
		{"no record", "submission", "null.example", "delayed of us 4.4.4 null.example names no submission server of its own (SRV)"},
		{"a domain that ends so", "submission", "evil.example", "delayed of us 4.4.4 evil.example names no submission server of its own (SRV)"},
		{"no address", "submission", "text.example", "delayed of us 4.4.4 cannot find gone.text.example: no such host"},
		{"SERVFAIL", "submission", "broken.example", "delayed of us 4.4.3 cannot look up _submission._tcp.broken.example (SRV): SERVFAIL from " + s.Addr()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := outcome(f.Service(t.Context(), tt.service, tt.domain)); got != tt.want {
				t.Errorf("Service = %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestWeights(t *testing.T) {
	list := []dns.SRV{{Host: "heavy", Weight: 90}, {Host: "light", Weight: 10}, {Host: "none"}, {Host: "late", Priority: 1, Weight: 100}}
	first := map[string]int{}
	for range 1000 {
		got := byWeight(list)
		first[got[0].Host]++
		if got[3].Host != "late" {
			t.Fatalf("order %v", got)
		}
	}
	if first["heavy"] < 800 || first["light"] < 30 {
		t.Errorf("first in 1000 times: %v", first)
	}
}

// TestWhatIsKnownOfHosts says what DNSSEC vouches for, and which names are involved.
func TestWhatIsKnownOfHosts(t *testing.T) {
	s := dnstest.NewServer(t,
		"d.signed.example. 60 IN MX 10 mx.signed.example.", "mx.signed.example. 60 IN A 192.0.2.1",
		"alias.signed.example. 60 IN CNAME d.signed.example.",
		"d.example. 60 IN MX 10 mx.signed.example.",
		"half.signed.example. 60 IN MX 10 mx.example.", "mx.example. 60 IN A 192.0.2.2",
		"named.signed.example. 60 IN MX 10 other.signed.example.", "other.signed.example. 60 IN CNAME mx.signed.example.",
		"implicit.signed.example. 60 IN A 192.0.2.3", "implicit.example. 60 IN A 192.0.2.4",
	)
	s.Sign("signed.example")
	f := finder(t, s)
	for domain, want := range map[string]Host{
		"D.signed.example":        {Name: "mx.signed.example", Domains: []string{"d.signed.example"}, Canonical: "mx.signed.example", Secure: true},
		"alias.signed.example":    {Name: "mx.signed.example", Domains: []string{"alias.signed.example", "d.signed.example"}, Canonical: "mx.signed.example", Secure: true},
		"d.example":               {Name: "mx.signed.example", Domains: []string{"d.example"}, Canonical: "mx.signed.example"},
		"half.signed.example":     {Name: "mx.example", Domains: []string{"half.signed.example"}, Canonical: "mx.example"},
		"named.signed.example":    {Name: "other.signed.example", Domains: []string{"named.signed.example"}, Canonical: "mx.signed.example", Secure: true},
		"implicit.signed.example": {Name: "implicit.signed.example", Domains: []string{"implicit.signed.example"}, Canonical: "implicit.signed.example", Secure: true},
		"implicit.example":        {Name: "implicit.example", Domains: []string{"implicit.example"}, Canonical: "implicit.example"},
		"[192.0.2.5]":             {Name: "192.0.2.5"},
	} {
		hosts, err := f.Domain(t.Context(), domain)
		if err != nil || len(hosts) != 1 {
			t.Errorf("%s: %v, %v", domain, hosts, err)
			continue
		}
		got := hosts[0]
		got.Port, got.Addrs = 0, nil
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s: %+v, want %+v", domain, got, want)
		}
	}
}
