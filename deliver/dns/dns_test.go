package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/postrider/postrider/internal/dnstest"
)

var zone = []string{
	"example.com. 300 IN MX 10 mx1.example.com.",
	"example.com. 300 IN MX 20 MX2.Example.com.",
	"mx1.example.com. 300 IN A 192.0.2.1",
	"mx1.example.com. 300 IN A 192.0.2.2",
	"mx1.example.com. 300 IN AAAA 2001:db8::1",
	"mx2.example.com. 300 IN A 192.0.2.3",
	"null.example. 300 IN MX 0 .",
	"odd.example. 300 IN MX 5 a\\010b.example.",
	"odd.example. 300 IN MX 6 under_score.example.",
	"a.example. 300 IN CNAME b.example.",
	"b.example. 300 IN CNAME c.example.",
	"c.example. 300 IN A 192.0.2.7",
	"c.example. 300 IN MX 1 mx1.example.com.",
	"round.example. 300 IN CNAME about.example.",
	"about.example. 300 IN CNAME round.example.",
	"dangling.example. 300 IN CNAME nowhere.example.",
	"_submission._tcp.example.com. 300 IN SRV 0 1 587 mail.example.com.",
	"_submissions._tcp.example.com. 300 IN SRV 0 0 0 .",
	"six.example. 300 IN AAAA 2001:db8::6",
	"mail.corp.example. 300 IN A 192.0.2.25",
}

// resolver returns one that asks these servers and waits little for them.
func resolver(t testing.TB, servers ...*dnstest.Server) *Resolver {
	t.Helper()
	o := Options{Timeout: 5 * time.Second, Attempts: 2, ResolvConf: filepath.Join(t.TempDir(), "resolv.conf"), Hosts: filepath.Join(t.TempDir(), "hosts")}
	for _, s := range servers {
		o.Servers = append(o.Servers, s.Addr())
	}
	return New(o)
}

// words puts an answer into words.
func words[T any](list []T, err error) string {
	kinds := map[Kind]string{NoName: "no name", NoRecord: "no record", Failed: "failed", Unanswered: "unanswered"}
	if err != nil {
		return kinds[KindOf(err)]
	}
	return fmt.Sprint(list)
}

// located is words for an answer that says where it comes from.
func located[T any](list []T, _ Origin, err error) string { return words(list, err) }

func TestMX(t *testing.T) {
	s := dnstest.NewServer(t, zone...)
	r := resolver(t, s)
	for _, tt := range []struct{ name, domain, want string }{
		{"two hosts", "example.com", "[{mx1.example.com 10} {mx2.example.com 20}]"},
		{"in capital letters", "EXAMPLE.COM.", "[{mx1.example.com 10} {mx2.example.com 20}]"},
		{"none is wanted", "null.example", "[{. 0}]"},
		{"a name that no host can have", "odd.example", "[{ 5} {under_score.example 6}]"},
		{"at the end of aliases", "a.example", "[{mx1.example.com 1}]"},
		{"aliases in a circle", "round.example", "failed"},
		{"an alias of nothing", "dangling.example", "no name"},
		{"no such domain", "nowhere.example", "no name"},
		{"a host is no domain with MX", "mx1.example.com", "no record"},
		{"a name that only others are below", "_tcp.example.com", "no record"},
		{"the root", ".", "no record"},
		{"an empty label", "a..example", "no name"},
		{"a label too long", strings.Repeat("x", 64) + ".example", "no name"},
		{"a name too long", strings.Repeat("x.", 130) + "example", "no name"},
		{"a blank", "a b.example", "no name"},
		{"an escape", `a\046b.example`, "no name"},
		{"nothing", "", "no record"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := located(r.MX(t.Context(), tt.domain)); got != tt.want {
				t.Errorf("MX(%q) = %s, want %s", tt.domain, got, tt.want)
			}
		})
	}
}

func TestAddrs(t *testing.T) {
	s := dnstest.NewServer(t, zone...)
	r := resolver(t, s)
	s.Behave("AAAA mx2.example.com", dnstest.Fail)
	s.Behave("AAAA half.example", dnstest.Fail)
	if err := s.Add("half.example. 60 IN MX 1 a.example."); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, host, want string }{
		{"both families in turn", "mx1.example.com", "[2001:db8::1 192.0.2.1 192.0.2.2]"},
		{"one is enough", "six.example", "[2001:db8::6]"},
		{"even if the other cannot be found out", "mx2.example.com", "[192.0.2.3]"},
		{"neither now, but perhaps later", "half.example", "failed"},
		{"at the end of aliases", "a.example", "[192.0.2.7]"},
		{"none", "example.com", "no record"},
		{"no such host", "nowhere.example", "no name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := located(r.Addrs(t.Context(), tt.host)); got != tt.want {
				t.Errorf("Addrs(%q) = %s, want %s", tt.host, got, tt.want)
			}
		})
	}
}

func TestSRV(t *testing.T) {
	r := resolver(t, dnstest.NewServer(t, zone...))
	for name, want := range map[string]string{
		"_submission._tcp.example.com":  "[{mail.example.com 587 0 1}]",
		"_submissions._tcp.example.com": "[{. 0 0 0}]",
		"_smtp._tcp.example.com":        "no name",
	} {
		if got := words(r.SRV(t.Context(), name)); got != want {
			t.Errorf("SRV(%s) = %s, want %s", name, got, want)
		}
	}
}

func TestTexts(t *testing.T) {
	s := dnstest.NewServer(t,
		`_mta-sts.example.com. 60 IN TXT "v=STSv1; " "id=1;"`,
		`_mta-sts.example.com. 60 IN TXT "something else"`,
		`_mta-sts.a.example. 60 IN CNAME _mta-sts.example.com.`,
		`long.example. 60 IN TXT "short"`,
		`long.example. 60 IN TXT "`+strings.Repeat(`x`, 200)+strings.Repeat(`" "`+strings.Repeat(`x`, 200), 12)+`"`,
		`_25._tcp.mx.example.com. 60 IN TLSA 3 1 1 0A0b`,
	)
	r := resolver(t, s)
	for name, want := range map[string]string{
		"_mta-sts.example.com": "[v=STSv1; id=1; something else]", "_mta-sts.a.example": "[v=STSv1; id=1; something else]",
		"long.example": "[short]", "_mta-sts.b.example": "no name", "example.com": "no record",
	} {
		if got := words(r.TXT(t.Context(), name)); got != want {
			t.Errorf("TXT(%s) = %s, want %s", name, got, want)
		}
	}
	if got := located(r.TLSA(t.Context(), "_25._tcp.mx.example.com")); got != "[{3 1 1 [10 11]}]" {
		t.Errorf("TLSA = %s", got)
	}
}

// TestSecurity says when DNSSEC vouches for an answer. All below signed.example is signed.
func TestSecurity(t *testing.T) {
	s := dnstest.NewServer(t,
		"mx.signed.example. 60 IN A 192.0.2.1",
		"mx.other.example. 60 IN A 192.0.2.2",
		"in.signed.example. 60 IN CNAME mx.signed.example.",
		"out.signed.example. 60 IN CNAME mx.other.example.",
		"in.other.example. 60 IN CNAME mx.signed.example.",
		"two.signed.example. 60 IN A 192.0.2.3",
		"two.signed.example. 60 IN AAAA 2001:db8::3",
	)
	s.Sign("signed.example")
	for _, tt := range []struct {
		host      string
		untrusted bool   // the name server is one whose word does not count
		how       string // it answers
		want      Origin
	}{
		{"mx.signed.example", false, "", Origin{"mx.signed.example", true}},
		{"MX.signed.example.", false, "", Origin{"mx.signed.example", true}},
		{"two.signed.example", false, "", Origin{"two.signed.example", true}},
		{"mx.other.example", false, "", Origin{"mx.other.example", false}},
		{"in.signed.example", false, "", Origin{"mx.signed.example", true}},
		{"in.signed.example", false, dnstest.Stepwise, Origin{"mx.signed.example", true}},
		{"in.other.example", false, "", Origin{"mx.signed.example", false}},
		{"in.other.example", false, dnstest.Stepwise, Origin{"mx.signed.example", false}},
		{"out.signed.example", false, "", Origin{"mx.other.example", false}},
		{"out.signed.example", false, dnstest.Stepwise, Origin{"mx.other.example", false}},
		{"mx.signed.example", true, "", Origin{"mx.signed.example", false}},
		{"mx.signed.example", false, dnstest.Truncate, Origin{"mx.signed.example", true}},
	} {
		s.Behave("", tt.how)
		r := resolver(t, s)
		if tt.untrusted {
			_, port, _ := strings.Cut(s.Addr(), ":")
			r.opts.Servers = []string{"0.0.0.0:" + port} // an address of this host, too, but not one that says so
		}
		if _, got, err := r.Addrs(t.Context(), tt.host); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", tt.host, got, err, tt.want)
		}
		if r.Trusted() == tt.untrusted {
			t.Errorf("Trusted = %v", r.Trusted())
		}
	}
}

func TestTrust(t *testing.T) {
	for _, tt := range []struct {
		server  string
		trustAD bool
		want    bool
	}{
		{"127.0.0.1:53", false, true}, {"127.0.0.53:53", false, true}, {"[::1]:5353", false, true}, {"[::ffff:127.0.0.1]:53", false, true},
		{"192.0.2.53:53", false, false}, {"[fe80::1%lo]:53", false, false}, {"localhost:53", false, false}, {"192.0.2.53:53", true, true},
	} {
		if got := (resolvConf{trustAD: tt.trustAD}).trusts(tt.server); got != tt.want {
			t.Errorf("trusts(%s), trust-ad %v: %v", tt.server, tt.trustAD, got)
		}
	}
	// What resolv.conf says of its servers it does not say of others.
	r := resolver(t)
	if err := os.WriteFile(r.opts.ResolvConf, []byte("options trust-ad\nnameserver 192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !r.Trusted() {
		t.Error("the servers of the file are not trusted")
	}
	r.opts.Servers = []string{"192.0.2.2:53"}
	if r.Trusted() {
		t.Error("another server is trusted")
	}
}

// TestServers says what is made of servers that answer badly.
func TestServers(t *testing.T) {
	const ok = "[{mx1.example.com 10} {mx2.example.com 20}]"
	for _, tt := range []struct{ name, what, alone, beside string }{
		{"answers", "", ok, ok},
		{"SERVFAIL", dnstest.Fail, "failed", ok},
		{"REFUSED", dnstest.Refuse, "failed", ok},
		{"NOTIMP", "NOTIMP", "failed", ok},
		{"truncated", dnstest.Truncate, ok, ok},
		{"truncated, and no TCP", dnstest.UDPOnly, "failed", ok},
		{"knows no EDNS", dnstest.NoEDNS, ok, ok},
		{"the wrong ID first", dnstest.WrongID, ok, ok},
		{"another question's answer first", dnstest.WrongName, ok, ok},
		{"garbage", dnstest.Garbage, "failed", ok},
		{"cut short", dnstest.CutShort, "failed", ok},
		{"a referral", dnstest.Lame, "failed", ok},
		{"a referral from who should follow it", dnstest.Referral, "failed", ok},
		{"no record, and no proof of it", dnstest.Empty, "no record", "no record"},
		{"NXDOMAIN counts", "NXDOMAIN", "no name", "no name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bad, good := dnstest.NewServer(t, zone...), dnstest.NewServer(t, zone...)
			bad.Behave("example.com", tt.what)
			if got := located(resolver(t, bad).MX(t.Context(), "example.com")); got != tt.alone {
				t.Errorf("alone: %s, want %s", got, tt.alone)
			}
			if got := located(resolver(t, bad, good).MX(t.Context(), "example.com")); got != tt.beside {
				t.Errorf("beside a good one: %s, want %s", got, tt.beside)
			}
		})
	}
}

// Who asked without EDNS, because the server does not know it, does so over TCP, too.
func TestOldServerWithALongAnswer(t *testing.T) {
	s := dnstest.NewServer(t)
	for i := range 40 {
		if err := s.Add(fmt.Sprintf("example.com. 60 IN MX %d mail%d.example.com.", i, i)); err != nil {
			t.Fatal(err)
		}
	}
	s.Behave("example.com", dnstest.NoEDNS)
	if mx, _, err := resolver(t, s).MX(t.Context(), "example.com"); err != nil || len(mx) != 40 {
		t.Errorf("%d records, %v", len(mx), err)
	}
}

// An answer that is believed repeats the question, the one that says that there is no such name as well.
func TestAnswerWithoutTheQuestion(t *testing.T) {
	q := question{"example.com.", dns.TypeMX}
	its := dns.Question{Name: q.name, Qtype: q.kind, Qclass: dns.ClassINET}
	for _, code := range []int{dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeServerFailure} {
		for _, questions := range [][]dns.Question{nil, {its}, {its, its}} {
			m := dns.Msg{MsgHdr: dns.MsgHdr{Id: 7, Response: true, RecursionAvailable: true, Rcode: code}, Question: questions}
			packed, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			_, err = parse(packed, 7, q)
			if want := len(questions) != 1 && code != dns.RcodeServerFailure; errors.Is(err, errStranger) != want {
				t.Errorf("%s with %d questions: %v", dns.RcodeToString[code], len(questions), err)
			}
		}
	}
}

// TestSilence uses timeouts that are short because they have to pass.
func TestSilence(t *testing.T) {
	s, good := dnstest.NewServer(t, zone...), dnstest.NewServer(t, zone...)
	for _, what := range []string{dnstest.Silent, dnstest.OnlyWrong} {
		s.Behave("example.com", what)
		r := resolver(t, s)
		r.opts.Timeout = 30 * time.Millisecond
		if got := located(r.MX(t.Context(), "example.com")); got != "failed" {
			t.Errorf("%s about one domain: %s, want failed", what, got)
		}
		r = resolver(t, s, good)
		r.opts.Timeout = 300 * time.Millisecond
		if got := located(r.MX(t.Context(), "example.com")); !strings.HasPrefix(got, "[") {
			t.Errorf("%s, and another server: %s", what, got)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	s := dnstest.NewServer(t, zone...)
	s.Behave("", dnstest.Silent)
	var mu sync.Mutex
	now := time.Now()
	r := resolver(t, s)
	r.opts.Timeout = 20 * time.Millisecond
	r.opts.Now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	if got := located(r.MX(t.Context(), "example.com")); got != "unanswered" {
		t.Fatalf("MX = %s, want unanswered", got)
	}
	asked := len(s.Queries())
	if asked != 3 {
		t.Errorf("%d questions, want two rounds and one whether anything is answered: %q", asked, s.Queries())
	}
	for range 3 {
		if got := located(r.MX(t.Context(), "example.com")); got != "unanswered" {
			t.Errorf("MX = %s, want unanswered", got)
		}
	}
	if n := len(s.Queries()); n != asked {
		t.Errorf("%d more questions right after", n-asked)
	}
	mu.Lock()
	now = now.Add(silence)
	mu.Unlock()
	s.Behave("", "")
	r.opts.Timeout = 5 * time.Second
	if got := located(r.MX(t.Context(), "example.com")); !strings.HasPrefix(got, "[") {
		t.Errorf("later: MX = %s", got)
	}
}

func TestNoServerListens(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := c.LocalAddr().String()
	c.Close()
	r := New(Options{Servers: []string{addr}})
	_, _, err = r.MX(t.Context(), "example.com")
	if KindOf(err) != Unanswered || !strings.Contains(err.Error(), "cannot look up example.com (MX): no answer from 127.0.0.1:") {
		t.Errorf("MX = %v", err)
	}
}

func TestInterrupted(t *testing.T) {
	s := dnstest.NewServer(t, zone...)
	s.Behave("", dnstest.Silent)
	r := resolver(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, _, err := r.MX(ctx, "example.com")
		done <- err
	}()
	for began := time.Now(); len(s.Queries()) == 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("nothing was asked in a minute")
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("MX = %v, want the context's error", err)
	}
	s.Behave("", "")
	if got := located(r.MX(t.Context(), "example.com")); !strings.HasPrefix(got, "[") {
		t.Errorf("the next one is told %s", got)
	}
}

func TestAliasesStepByStep(t *testing.T) {
	s := dnstest.NewServer(t, zone...)
	for _, name := range []string{"a.example", "b.example", "round.example", "about.example"} {
		s.Behave(name, dnstest.Stepwise)
	}
	r := resolver(t, s)
	if got := located(r.MX(t.Context(), "a.example")); got != "[{mx1.example.com 1}]" {
		t.Errorf("two links: %s", got)
	}
	if got := located(r.MX(t.Context(), "round.example")); got != "failed" {
		t.Errorf("a circle: %s", got)
	}
	if err := s.Add("l30.example. 60 IN MX 1 mx1.example.com."); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		if err := s.Add(fmt.Sprintf("l%d.example. 60 IN CNAME l%d.example.", i, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if got := located(r.MX(t.Context(), "l0.example")); got != "failed" {
		t.Errorf("thirty links: %s", got)
	}
	if n := len(s.Queries()); n > 40 {
		t.Errorf("%d questions", n)
	}
}

func TestLargeAnswer(t *testing.T) {
	s := dnstest.NewServer(t)
	for i := range 200 {
		if err := s.Add(fmt.Sprintf("large.example. 60 IN MX %d mx%d.large.example.", i, i)); err != nil {
			t.Fatal(err)
		}
	}
	list, _, err := resolver(t, s).MX(t.Context(), "large.example")
	if err != nil || len(list) != maxRecords {
		t.Errorf("%d hosts, %v; want the first %d", len(list), err, maxRecords)
	}
	if got := s.Queries(); !slices.Equal(got, []string{"MX large.example udp", "MX large.example tcp"}) {
		t.Errorf("questions %q, want one over each network", got)
	}
}

func TestAnswersAreKept(t *testing.T) {
	s := dnstest.NewServer(t, zone...)
	s.Behave("broken.example", dnstest.Fail)
	now := time.Now()
	r := resolver(t, s)
	r.opts.Now = func() time.Time { return now }
	asked := func(domain string) int {
		t.Helper()
		before := len(s.Queries())
		_, _, _ = r.MX(t.Context(), domain)
		return len(s.Queries()) - before
	}
	for _, tt := range []struct {
		domain string
		ttl    time.Duration
		again  int // questions when it is over
	}{
		{"example.com", 300 * time.Second, 1},
		{"nowhere.example", 60 * time.Second, 1},
		{"mx1.example.com", 60 * time.Second, 1},
		{"broken.example", trouble, 1},
	} {
		if n := asked(tt.domain); n == 0 {
			t.Errorf("%s: not asked", tt.domain)
		}
		if n := asked(strings.ToUpper(tt.domain) + "."); n != 0 {
			t.Errorf("%s: asked again at once", tt.domain)
		}
		now = now.Add(tt.ttl - time.Nanosecond)
		if n := asked(tt.domain); n != 0 {
			t.Errorf("%s: asked again before %v", tt.domain, tt.ttl)
		}
		now = now.Add(time.Nanosecond)
		if n := asked(tt.domain); n != tt.again {
			t.Errorf("%s: asked %d times after %v, want %d", tt.domain, n, tt.ttl, tt.again)
		}
	}
}

func TestManyAskAtOnce(t *testing.T) {
	s := dnstest.NewServer(t, zone...)
	r := resolver(t, s)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if got := located(r.MX(t.Context(), "example.com")); !strings.HasPrefix(got, "[") {
				t.Errorf("MX = %s", got)
			}
		})
	}
	wg.Wait()
	if n := len(s.Queries()); n != 1 {
		t.Errorf("%d questions, want one for all", n)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := cache{entries: map[question]*entry{}}
	now := time.Now()
	for i := range maxCached + 10 {
		_, err := c.get(t.Context(), question{fmt.Sprintf("n%d.", i), 15}, func() time.Time { return now },
			func() (answer, error) { return answer{ttl: time.Hour}, nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.entries); n > maxCached || n < maxCached/2 {
		t.Errorf("%d entries, want at most %d", n, maxCached)
	}
}

func TestRelayAddrs(t *testing.T) {
	s := dnstest.NewServer(t, zone...)
	r := resolver(t, s)
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(r.opts.Hosts, "192.0.2.9 Relay.example relay # the rack\n2001:db8::9\trelay.example\nnonsense here\n")
	write(r.opts.ResolvConf, "search other.example corp.example\n")
	for _, tt := range []struct{ name, host, want string }{
		{"in the hosts file", "relay", "[192.0.2.9]"},
		{"all that it says", "RELAY.example.", "[192.0.2.9 2001:db8::9]"},
		{"this host", "localhost", "[127.0.0.1 ::1]"},
		{"by the search list", "mail", "[192.0.2.25]"},
		{"a whole name is one", "mail.corp.example", "[192.0.2.25]"},
		{"and is not completed", "mail.corp", "no name"},
		{"found nowhere", "nowhere", "no name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := words(r.RelayAddrs(t.Context(), tt.host)); got != tt.want {
				t.Errorf("RelayAddrs(%q) = %s, want %s", tt.host, got, tt.want)
			}
		})
	}
	if got := located(r.Addrs(t.Context(), "relay.example")); got != "no name" {
		t.Errorf("Addrs looked into the hosts file: %s", got)
	}
}

func TestResolvConf(t *testing.T) {
	local := []string{"127.0.0.1:53", "[::1]:53"}
	for _, tt := range []struct {
		name, text string
		want       resolvConf
	}{
		{"nothing", "", resolvConf{servers: local, timeout: 5 * time.Second, attempts: 2}},
		{"servers", "nameserver 192.0.2.1\nnameserver\t2001:db8::1 \n# nameserver 192.0.2.2\nnameserver fe80::1%eth0\nnameserver 192.0.2.3",
			resolvConf{servers: []string{"192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%eth0]:53"}, timeout: 5 * time.Second, attempts: 2}},
		{"options", "options timeout:1 attempts:4 use-vc rotate\nnameserver 192.0.2.1\n",
			resolvConf{servers: []string{"192.0.2.1:53"}, timeout: time.Second, attempts: 4, tcp: true}},
		{"options out of bounds", "options timeout:900 attempts:99 timeout:-1 attempts:x\nnameserver 192.0.2.1\n",
			resolvConf{servers: []string{"192.0.2.1:53"}, timeout: 30 * time.Second, attempts: 5}},
		{"servers that are trusted", "options trust-ad edns0\nnameserver 192.0.2.1\n",
			resolvConf{servers: []string{"192.0.2.1:53"}, timeout: 5 * time.Second, attempts: 2, trustAD: true}},
		{"the last search list counts", "domain a.example\nsearch B.example c.example.\nnameserver 192.0.2.1\n",
			resolvConf{servers: []string{"192.0.2.1:53"}, search: []string{"b.example", "c.example"}, timeout: 5 * time.Second, attempts: 2}},
		{"nonsense", "nameserver mail.example\nnameserver\n\x00\xff\nsearch a\\b\n", resolvConf{servers: local, timeout: 5 * time.Second, attempts: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := parseResolvConf([]byte(tt.text)); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", tt.want) {
				t.Errorf("parseResolvConf = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	now := time.Now()
	r := resolver(t)
	r.opts.Now = func() time.Time { return now }
	if err := os.WriteFile(r.opts.Hosts, []byte("192.0.2.1 a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := words(r.RelayAddrs(t.Context(), "a")); got != "[192.0.2.1]" {
		t.Errorf("RelayAddrs = %s", got)
	}
	if err := os.WriteFile(r.opts.Hosts, []byte("192.0.2.2 a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lookAgain)
	if got := words(r.RelayAddrs(t.Context(), "a")); got != "[192.0.2.2]" {
		t.Errorf("after a change: RelayAddrs = %s", got)
	}
}

func TestServersOfTheFile(t *testing.T) {
	r := New(Options{ResolvConf: filepath.Join(t.TempDir(), "resolv.conf"), Timeout: time.Second})
	if err := os.WriteFile(r.opts.ResolvConf, []byte("nameserver 127.0.0.9\noptions attempts:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := r.settings()
	if !slices.Equal(got.servers, []string{"127.0.0.9:53"}) || got.attempts != 1 || got.timeout != time.Second {
		t.Errorf("settings = %+v", got)
	}
}

// TestPortsAndIDs sees that who cannot see our questions cannot guess where the answer has to go.
func TestPortsAndIDs(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := New(Options{Servers: []string{c.LocalAddr().String()}, Timeout: 10 * time.Millisecond, Attempts: 20})
	_, _, _ = r.MX(t.Context(), "example.com")
	ids, ports := map[string]bool{}, map[string]bool{}
	buffer := make([]byte, 512)
	for range 20 {
		n, from, err := c.ReadFrom(buffer)
		if err != nil || n < 12 {
			t.Fatal(n, err)
		}
		ids[string(buffer[:2])] = true
		ports[netip.MustParseAddrPort(from.String()).String()] = true
	}
	if len(ids) < 18 || len(ports) < 15 {
		t.Errorf("20 questions had %d IDs and %d ports", len(ids), len(ports))
	}
}
