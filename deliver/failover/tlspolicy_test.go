package failover_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
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
	"github.com/postrider/postrider/deliver/sts"
	"github.com/postrider/postrider/deliver/tlspolicy"
	"github.com/postrider/postrider/internal/dnstest"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// An internet is p.test with its mail exchangers mx1 and, perhaps, mx2, with a name server and a web server for its policy.
type internet struct {
	t       *testing.T
	names   *dnstest.Server
	servers map[string]*smtptest.Server // by the first label
	roots   *x509.CertPool              // they, and the web server, are signed by
	policy  string                      // what the web server has; "" for nothing
	web     *httptest.Server
}

func newInternet(t *testing.T, mx1 smtptest.Options, mx2 *smtptest.Options) *internet {
	t.Helper()
	in := &internet{t: t, servers: map[string]*smtptest.Server{}, roots: x509.NewCertPool()}
	in.names = dnstest.NewServer(t)
	if mx1.Hostname == "" {
		mx1.Hostname = "mx1.p.test"
	}
	in.start("mx1", mx1)
	in.add("p.test. 60 IN MX 10 mx1.p.test.", "mx1.p.test. 60 IN A 192.0.2.1")
	if mx2 != nil {
		mx2.Hostname = "mx2.p.test"
		in.start("mx2", *mx2)
		in.add("p.test. 60 IN MX 20 mx2.p.test.", "mx2.p.test. 60 IN A 192.0.2.2")
	}
	in.start("mta-sts", smtptest.Options{Hostname: "mta-sts.p.test", Certificate: smtptest.Valid}) // for its certificate
	in.web = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if in.policy == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, in.policy) // the client says what came of it
	}))
	in.web.TLS, in.web.Config.ErrorLog = in.servers["mta-sts"].TLS().Clone(), log.New(io.Discard, "", 0)
	in.web.StartTLS()
	t.Cleanup(in.web.Close)
	return in
}

func (in *internet) add(records ...string) {
	in.t.Helper()
	if err := in.names.Add(records...); err != nil {
		in.t.Fatal(err)
	}
}

func (in *internet) start(name string, o smtptest.Options) {
	s := smtptest.NewServer(in.t, o)
	in.servers[name] = s
	in.roots.AppendCertsFromPEM(s.CertPEM())
}

// publish makes p.test have a policy of this mode for these hosts.
func (in *internet) publish(mode sts.Mode, hosts ...string) {
	in.t.Helper()
	in.add(`_mta-sts.p.test. 60 IN TXT "v=STSv1; id=1;"`)
	in.policy = fmt.Sprintf("version: STSv1\nmode: %s\nmx: %s\nmax_age: 86400\n", mode, strings.Join(hosts, "\nmx: "))
}

// sign has DNSSEC vouch for all names, and gives a host a record of DANE: for the data, or, if there is none, for its certificate.
func (in *internet) sign(host string, usage, selector, matching int, data ...byte) {
	in.t.Helper()
	in.names.Sign("test")
	if s := in.servers[host]; data == nil && s != nil {
		data = s.TLS().Certificates[0].Certificate[0]
		if matching == 1 {
			sum := sha256.Sum256(data)
			data = sum[:]
		}
	}
	in.add(fmt.Sprintf("_25._tcp.%s.p.test. 60 IN TLSA %d %d %d %x", host, usage, selector, matching, data))
}

// signAuthority is sign for who has signed the certificate of the host.
func (in *internet) signAuthority(host string) {
	block, _ := pem.Decode(in.servers[host].CertPEM())
	in.sign(host, 2, 0, 0, block.Bytes...)
}

// transport delivers to the hosts of domains as they want it, and the sender.
func (in *internet) transport(wish mail.TLSWish) *failover.Transport {
	none := filepath.Join(in.t.TempDir(), "none")
	resolver := dns.New(dns.Options{Servers: []string{in.names.Addr()}, ResolvConf: none, Hosts: none})
	finder := &mx.Finder{
		DNS: resolver, Port: 25,
		Own: func() ([]netip.Addr, error) { return nil, nil }, Routed: func(netip.Addr) bool { return true },
	}
	fetch := func(ctx context.Context, domain string) (string, error) {
		return sts.Fetch(ctx, domain, in.roots, func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, in.web.Listener.Addr().String())
		})
	}
	policies := &tlspolicy.Policies{
		DNS: resolver, STS: &sts.Cache{TXT: resolver.TXT, Fetch: fetch, Now: time.Now, Logf: in.t.Logf}, Required: wish == mail.TLSRequired,
	}
	find, open := policies.Over(finder.Domain), policies.Open
	if wish == mail.TLSNotRequired {
		find = finder.Domain
		open = func(ctx context.Context, _ mx.Host, s smtp.Server) (*smtp.Session, error) { return smtp.Open(ctx, &s) }
	}
	return &failover.Transport{Find: find, Strangers: true, Dial: func(ctx context.Context, h mx.Host) (deliver.Session, error) {
		s := smtp.Server{
			Host: h.Name, Port: h.Port, Addrs: h.Addrs, Hello: "client.test", TLS: smtp.TLSMay, RootCAs: in.roots, Found: true,
			Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				name, _, _ := strings.Cut(h.Name, ".")
				return new(net.Dialer).DialContext(ctx, network, in.servers[name].Addr())
			},
		}
		session, err := open(ctx, h, s)
		if err != nil {
			return nil, err
		}
		return session, nil
	}}
}

// deliver sends a message to bob@p.test, and says in words what becomes of it.
func (in *internet) deliver(wish mail.TLSWish) string {
	in.t.Helper()
	return in.deliverBy(in.transport(wish), "p.test", wish)
}

// deliverBy is deliver by a transport to a domain.
func (in *internet) deliverBy(by *failover.Transport, domain string, wish mail.TLSWish) string {
	in.t.Helper()
	session, err := by.Open(in.t.Context(), domain)
	if f, ok := err.(*mail.Failure); ok {
		return fmt.Sprintf("%s %s", f.Action, f.Status())
	} else if err != nil {
		in.t.Fatal(err)
	}
	rcpt, err := mail.ParsePath("bob@" + domain)
	if err != nil {
		in.t.Fatal(err)
	}
	const content = "Subject: hello\r\n\r\nhello\r\n"
	m := &mail.Message{QueueID: "0123456789A", Content: strings.NewReader(content), Size: int64(len(content))}
	m.Sender, m.Recipients, m.TLS = rcpt, []mail.Recipient{{Path: rcpt}}, wish
	var results []mail.Result
	attempts := make(chan mail.Attempt, 1)
	attempts <- mail.Attempt{Message: m, Positions: []int{0}, Attempts: 1, Done: func(r []mail.Result) { results = r }}
	close(attempts)
	_ = session.Deliver(in.t.Context(), attempts) // what it says is in the results, too
	if len(results) != 1 {
		in.t.Fatalf("results %v", results)
	}
	if r := results[0]; r.Action != mail.Relayed {
		return fmt.Sprintf("%s %s", r.Action, r.Status())
	}
	host, _, _ := strings.Cut(results[0].Relay, ".")
	if results[0].TLS == "" {
		return host + ", in clear"
	}
	return host + ", " + results[0].TLS
}

// TestTLSPolicy has mail for p.test go to mx1, with and without mx2, which does everything right, and with what DNS and the
// web say of them.
func TestTLSPolicy(t *testing.T) {
	tls := func(c smtptest.Certificate, pairs ...string) smtptest.Options {
		o := smtptest.Options{Certificate: c, Replies: map[string]string{}}
		for i := 0; i < len(pairs); i += 2 {
			o.Replies[pairs[i]] = pairs[i+1]
		}
		return o
	}
	both := func(mode sts.Mode) func(*internet) {
		return func(in *internet) { in.publish(mode, "mx1.p.test", "*.p.test") }
	}
	// A record that is for another certificate, and an answer on the way to it that nobody vouches for.
	otherwise := func(unsigned string) func(*internet) {
		return func(in *internet) {
			in.sign("mx1", 3, 0, 1, make([]byte, 32)...)
			in.names.Behave(unsigned, dnstest.Unsigned)
		}
	}
	nothing := func(*internet) {}
	const (
		clear, unverified, verified = "mx1, in clear", "mx1, TLS1.3 unverified", "mx1, TLS1.3 verified"
		bySTS, byDANE               = "mx1, TLS1.3 verified sts", "mx1, TLS1.3 verified dane"
		second, secondSTS           = "mx2, TLS1.3 verified", "mx2, TLS1.3 verified sts"
	)
	dies, refuses := tls(smtptest.Valid, "TLS", smtptest.Close), tls(smtptest.Valid, "STARTTLS", "454 TLS not available")
	injects := tls(smtptest.Valid, "STARTTLS", smtptest.Raw+"220 go ahead\r\n250 injected\r\n")
	for _, tt := range []struct {
		name        string
		mx1         smtptest.Options
		publish     func(*internet)
		with, alone string // what becomes of the message with mx2, and without
		connections int    // to mx1
	}{
		{"nothing special", tls(smtptest.Valid), nothing, verified, verified, 1},
		{"no TLS", tls(smtptest.NoTLS), nothing, clear, clear, 1},
		{"the handshake fails", dies, nothing, clear, clear, 2},
		{"STARTTLS is refused", refuses, nothing, clear, clear, 2},
		{"a certificate signed by itself", tls(smtptest.SelfSigned), nothing, unverified, unverified, 1},
		{"a certificate that has expired", tls(smtptest.Expired), nothing, unverified, unverified, 1},
		{"words before the handshake", injects, nothing, second, "delayed 4.7.5", 1},

		{"MTA-STS", tls(smtptest.Valid), both(sts.Enforce), bySTS, bySTS, 1},
		{"MTA-STS, no TLS", tls(smtptest.NoTLS), both(sts.Enforce), secondSTS, "delayed 4.7.4", 1},
		{"MTA-STS, the handshake fails", dies, both(sts.Enforce), secondSTS, "delayed 4.7.5", 1},
		{"MTA-STS, STARTTLS is refused", refuses, both(sts.Enforce), secondSTS, "delayed 4.7.4", 1},
		{"MTA-STS, a certificate signed by itself", tls(smtptest.SelfSigned), both(sts.Enforce), secondSTS, "delayed 4.7.5", 1},
		{"MTA-STS, a certificate that has expired", tls(smtptest.Expired), both(sts.Enforce), secondSTS, "delayed 4.7.5", 1},
		{"MTA-STS, a certificate for another host", tls(smtptest.WrongHost), both(sts.Enforce), secondSTS, "delayed 4.7.5", 1},
		{"MTA-STS, words before the handshake", injects, both(sts.Enforce), secondSTS, "delayed 4.7.5", 1},
		{"MTA-STS names only mx2", tls(smtptest.Valid), func(in *internet) { in.publish(sts.Enforce, "mx2.p.test") }, secondSTS, "delayed 4.7.5", 0},
		{"MTA-STS, for testing", dies, both(sts.Testing), clear, clear, 2},
		{"MTA-STS, for testing, names only mx2", tls(smtptest.Valid), func(in *internet) { in.publish(sts.Testing, "mx2.p.test") }, verified, verified, 1},
		{"MTA-STS, none", dies, both(sts.None), clear, clear, 2},
		{"MTA-STS cannot be read", dies, func(in *internet) { both(sts.Enforce)(in); in.policy = "" }, clear, clear, 2},
		{"MTA-STS cannot be looked up", tls(smtptest.Valid), func(in *internet) { in.names.Behave("_mta-sts.p.test", dnstest.Fail) }, "delayed 4.4.3", "delayed 4.4.3", 0},

		{"DANE-EE", tls(smtptest.Expired), func(in *internet) { in.sign("mx1", 3, 0, 1) }, byDANE, byDANE, 1},
		{"DANE-TA", tls(smtptest.Valid), func(in *internet) { in.signAuthority("mx1") }, byDANE, byDANE, 1},
		{"DANE-TA, a certificate for the domain", smtptest.Options{Hostname: "p.test", Certificate: smtptest.Valid}, func(in *internet) { in.signAuthority("mx1") }, byDANE, byDANE, 1},
		{"DANE-TA, a certificate for another host", tls(smtptest.WrongHost), func(in *internet) { in.signAuthority("mx1") }, second, "delayed 4.7.5", 1},
		{"DANE-TA, a certificate that has expired", tls(smtptest.Expired), func(in *internet) { in.signAuthority("mx1") }, second, "delayed 4.7.5", 1},
		{"DANE, another certificate", tls(smtptest.Valid), func(in *internet) { in.sign("mx1", 3, 0, 1, make([]byte, 32)...) }, second, "delayed 4.7.5", 1},
		{"DANE, no TLS", tls(smtptest.NoTLS), func(in *internet) { in.sign("mx1", 3, 0, 1, make([]byte, 32)...) }, second, "delayed 4.7.4", 1},
		{"DANE, the handshake fails", dies, func(in *internet) { in.sign("mx1", 3, 0, 1) }, second, "delayed 4.7.5", 1},
		{"DANE, no usable record", tls(smtptest.SelfSigned), func(in *internet) { in.sign("mx1", 1, 0, 1) }, unverified, unverified, 1},
		{"DANE, no usable record, and no TLS", tls(smtptest.NoTLS), func(in *internet) { in.sign("mx1", 1, 0, 1, make([]byte, 32)...) }, second, "delayed 4.7.4", 1},
		{"DANE cannot be looked up", tls(smtptest.Valid), func(in *internet) {
			in.names.Sign("test")
			in.names.Behave("_25._tcp.mx1.p.test", dnstest.Fail)
		}, second, "delayed 4.7.5", 0},
		{"DANE cannot be looked up where it would not count", tls(smtptest.Valid), func(in *internet) {
			in.names.Behave("_25._tcp.mx1.p.test", dnstest.Fail)
		}, verified, verified, 1},
		{"DANE, but the MX is not secure", tls(smtptest.Valid), otherwise("MX p.test"), verified, verified, 1},
		{"DANE, but the address is not secure", tls(smtptest.Valid), otherwise("A mx1.p.test"), verified, verified, 1},
		{"DANE, but the record is not secure", tls(smtptest.Valid), otherwise("TLSA _25._tcp.mx1.p.test"), verified, verified, 1},
		{"DANE and MTA-STS", tls(smtptest.Valid), func(in *internet) { both(sts.Enforce)(in); in.sign("mx1", 3, 0, 1) }, "mx1, TLS1.3 verified sts+dane", "mx1, TLS1.3 verified sts+dane", 1},
		{"DANE without MTA-STS, which has another opinion", tls(smtptest.SelfSigned), func(in *internet) { both(sts.Enforce)(in); in.sign("mx1", 3, 0, 1) }, secondSTS, "delayed 4.7.5", 1},
		{"MTA-STS without DANE, which has another opinion", tls(smtptest.Valid), func(in *internet) {
			both(sts.Enforce)(in)
			in.sign("mx1", 3, 0, 1, make([]byte, 32)...)
		}, secondSTS, "delayed 4.7.5", 1},
	} {
		for _, two := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, mx2 %v", tt.name, two), func(t *testing.T) {
				t.Parallel()
				var mx2 *smtptest.Options
				want := tt.alone
				if two {
					mx2, want = &smtptest.Options{Certificate: smtptest.Valid}, tt.with
				}
				in := newInternet(t, tt.mx1, mx2)
				tt.publish(in)
				if got := in.deliver(mail.TLSUnsaid); got != want {
					t.Errorf("%s, want %s", got, want)
				}
				if n := in.servers["mx1"].Connections(); n != tt.connections {
					t.Errorf("%d connections to mx1, want %d", n, tt.connections)
				}
			})
		}
	}
}

// TestWhatOneDomainWants has two domains with the same host, which is good enough for one of them only.
func TestWhatOneDomainWants(t *testing.T) {
	in := newInternet(t, smtptest.Options{Certificate: smtptest.SelfSigned}, nil)
	in.publish(sts.Enforce, "mx1.p.test")
	in.add("q.test. 60 IN MX 10 mx1.p.test.")
	by := in.transport(mail.TLSUnsaid)
	for range 2 {
		for domain, want := range map[string]string{"p.test": "delayed 4.7.5", "q.test": "mx1, TLS1.3 unverified"} {
			if got := in.deliverBy(by, domain, mail.TLSUnsaid); got != want {
				t.Errorf("%s: %s, want %s", domain, got, want)
			}
		}
	}
}

// TestAliasesAndDANE has hosts whose names are aliases, of which one has a record, and a domain that is an alias.
func TestAliasesAndDANE(t *testing.T) {
	in := newInternet(t, smtptest.Options{Certificate: smtptest.Valid}, nil)
	in.add(
		"a.test. 60 IN MX 10 alias.p.test.", "alias.p.test. 60 IN CNAME mx1.p.test.",
		"b.test. 60 IN MX 10 known.b.test.", "known.b.test. 60 IN CNAME host.b.test.", "host.b.test. 60 IN A 192.0.2.1",
		"c.test. 60 IN CNAME p.test.",
		"d.test. 60 IN CNAME mx1.p.test.",
	)
	in.signAuthority("mx1")
	authority, _ := pem.Decode(in.servers["mx1"].CertPEM())
	in.add(fmt.Sprintf("_25._tcp.known.b.test. 60 IN TLSA 2 0 0 %x", authority.Bytes))
	for _, name := range []string{"alias", "known", "d"} {
		in.servers[name] = in.servers["mx1"]
	}
	by := in.transport(mail.TLSUnsaid)
	for domain, want := range map[string]string{
		"a.test": "alias, TLS1.3 verified dane", // the record is at the end of the alias, and the certificate is for that name
		"b.test": "delayed 4.7.5",               // the record is at the name itself, and the certificate is for another one
		"c.test": "mx1, TLS1.3 verified dane",
		"d.test": "d, TLS1.3 verified dane",
	} {
		if got := in.deliverBy(by, domain, mail.TLSUnsaid); got != want {
			t.Errorf("%s: %s, want %s", domain, got, want)
		}
	}
}

// TestOffersBeforeTLSAreForgotten has a server offer less when nobody else can listen.
func TestOffersBeforeTLSAreForgotten(t *testing.T) {
	var mx1 *smtptest.Server
	in := newInternet(t, smtptest.Options{Certificate: smtptest.Valid, Strict: true, OnCommand: func(line string) {
		if line == "STARTTLS" {
			mx1.SetReply("EHLO", "250 mx1.p.test")
		}
	}}, nil)
	mx1 = in.servers["mx1"]
	if got := in.deliver(mail.TLSUnsaid); got != "mx1, TLS1.3 verified" {
		t.Errorf("%s", got)
	}
	if m := mx1.Messages(); len(m) != 1 || len(m[0].Params) != 0 || m[0].Pipelined {
		t.Errorf("messages %+v", m)
	}
}

// TestSendersWish has mail whose sender says something of TLS go to mx1, with and without mx2, which does everything right
// and is proven by DANE; unless the domain has a policy.
func TestSendersWish(t *testing.T) {
	with := func(c smtptest.Certificate, extensions ...string) smtptest.Options {
		return smtptest.Options{Certificate: c, Extensions: append([]string{"PIPELINING"}, extensions...)}
	}
	both := func(in *internet) { in.publish(sts.Enforce, "mx1.p.test", "mx2.p.test") }
	signed := func(in *internet) {
		in.names.Sign("test")
		if in.servers["mx2"] != nil {
			in.sign("mx2", 3, 0, 1)
		}
	}
	proven := func(in *internet) { signed(in); in.sign("mx1", 3, 0, 1) }
	other := func(in *internet) { signed(in); in.sign("mx1", 3, 0, 1, make([]byte, 32)...) }
	const second, secondSTS = "mx2, TLS1.3 verified dane", "mx2, TLS1.3 verified sts"
	unreachable := with(smtptest.Valid, "REQUIRETLS")
	unreachable.Replies = map[string]string{"CONNECT": smtptest.Close}
	dies := with(smtptest.Valid, "REQUIRETLS")
	dies.Replies = map[string]string{"TLS": smtptest.Close}
	for _, tt := range []struct {
		name        string
		wish        mail.TLSWish
		mx1         smtptest.Options
		publish     func(*internet)
		with, alone string // what becomes of the message with mx2, and without
	}{
		{"required, and all is well (DANE)", mail.TLSRequired, with(smtptest.SelfSigned, "REQUIRETLS"), proven, "mx1, TLS1.3 verified dane", "mx1, TLS1.3 verified dane"},
		{"required, and all is well (MTA-STS)", mail.TLSRequired, with(smtptest.Valid, "REQUIRETLS"), both, "mx1, TLS1.3 verified sts", "mx1, TLS1.3 verified sts"},
		{"required, no TLS", mail.TLSRequired, with(smtptest.NoTLS), signed, second, "failed 5.7.30"},
		{"required, no TLS, although the policy wants it", mail.TLSRequired, with(smtptest.NoTLS), both, secondSTS, "failed 5.7.10"},
		{"required, nobody vouches for the host", mail.TLSRequired, with(smtptest.Valid, "REQUIRETLS"), signed, second, "failed 5.7.30"},
		{"required, a policy for testing", mail.TLSRequired, with(smtptest.Valid, "REQUIRETLS"), func(in *internet) {
			signed(in)
			in.publish(sts.Testing, "mx1.p.test", "mx2.p.test")
		}, second, "failed 5.7.30"},
		{"required, no record of DANE is usable", mail.TLSRequired, with(smtptest.Valid, "REQUIRETLS"), func(in *internet) { signed(in); in.sign("mx1", 1, 0, 1) }, second, "failed 5.7.30"},
		{"required, and not promised", mail.TLSRequired, with(smtptest.Valid), proven, second, "failed 5.7.30"},
		{"required, another certificate", mail.TLSRequired, with(smtptest.Valid, "REQUIRETLS"), other, second, "delayed 4.7.5"},
		{"required, the handshake fails", mail.TLSRequired, dies, both, secondSTS, "delayed 4.7.5"},
		{"required, nobody answers", mail.TLSRequired, unreachable, both, secondSTS, "delayed 4.4.2"},
		{"required, nobody answers, or vouches for him", mail.TLSRequired, unreachable, signed, second, "failed 5.7.30"},
		{"required, and nobody knows of the policy", mail.TLSRequired, with(smtptest.Valid, "REQUIRETLS"), func(in *internet) {
			in.names.Behave("_mta-sts.p.test", dnstest.Fail)
		}, "delayed 4.4.3", "delayed 4.4.3"},

		{"not required, another certificate", mail.TLSNotRequired, with(smtptest.Valid), other, "mx1, TLS1.3 verified", "mx1, TLS1.3 verified"},
		{"not required, no TLS", mail.TLSNotRequired, with(smtptest.NoTLS), other, "mx1, in clear", "mx1, in clear"},
		{"not required, the handshake fails", mail.TLSNotRequired, dies, both, "mx1, in clear", "mx1, in clear"},
		{"not required, a certificate signed by itself", mail.TLSNotRequired, with(smtptest.SelfSigned), both, "mx1, TLS1.3 unverified", "mx1, TLS1.3 unverified"},
		{"not required, not named", mail.TLSNotRequired, with(smtptest.Valid), func(in *internet) { in.publish(sts.Enforce, "mx2.p.test") }, "mx1, TLS1.3 verified", "mx1, TLS1.3 verified"},
		{"not required, and nobody knows of the policy", mail.TLSNotRequired, with(smtptest.NoTLS), func(in *internet) {
			in.names.Behave("_mta-sts.p.test", dnstest.Fail)
			in.names.Behave("_25._tcp.mx1.p.test", dnstest.Fail)
		}, "mx1, in clear", "mx1, in clear"},
	} {
		for _, two := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, mx2 %v", tt.name, two), func(t *testing.T) {
				t.Parallel()
				var mx2 *smtptest.Options
				want := tt.alone
				if two {
					healthy := with(smtptest.Valid, "REQUIRETLS")
					mx2, want = &healthy, tt.with
				}
				in := newInternet(t, tt.mx1, mx2)
				tt.publish(in)
				if got := in.deliver(tt.wish); got != want {
					t.Errorf("%s, want %s", got, want)
				}
				for name, s := range in.servers {
					for _, m := range s.Messages() {
						if required := strings.Join(m.Params, " ") == "REQUIRETLS"; required != (tt.wish == mail.TLSRequired) {
							t.Errorf("%s got MAIL with %q", name, m.Params)
						}
					}
				}
			})
		}
	}
}

// TestOneHostMayBeSafeEnough has mail that requires TLS wait for a host that may be so another time, although those that can
// be had now are not.
func TestOneHostMayBeSafeEnough(t *testing.T) {
	t.Run("the first is, but puts it off", func(t *testing.T) {
		grey := smtptest.Options{Certificate: smtptest.Valid, Extensions: []string{"REQUIRETLS"}, Replies: map[string]string{"RCPT": "451 4.7.1 greylisted"}}
		in := newInternet(t, grey, &smtptest.Options{Certificate: smtptest.Valid})
		in.sign("mx1", 3, 0, 1)
		if got := in.deliver(mail.TLSRequired); got != "delayed 4.7.1" {
			t.Errorf("%s", got)
		}
	})
	t.Run("the first may be, and nobody vouches for the second", func(t *testing.T) {
		closed := smtptest.Options{Certificate: smtptest.Valid, Replies: map[string]string{"CONNECT": smtptest.Close}}
		in := newInternet(t, closed, &smtptest.Options{Certificate: smtptest.Valid})
		in.sign("mx1", 3, 0, 1)
		if got := in.deliver(mail.TLSRequired); got != "delayed 4.4.2" {
			t.Errorf("%s", got)
		}
	})
	for _, tt := range []struct {
		name, mx1, mx2 string // what they do: "" serves without REQUIRETLS
		want           string
	}{
		{"none is", "", "", "failed 5.7.30"},
		{"the first may be", smtptest.Close, "", "delayed 4.7.30"},
		{"the second may be", "", smtptest.Close, "delayed 4.4.2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			options := func(greeting string) *smtptest.Options {
				o := &smtptest.Options{Certificate: smtptest.Valid, Replies: map[string]string{}}
				if greeting != "" {
					o.Replies["CONNECT"] = greeting
				}
				return o
			}
			in := newInternet(t, *options(tt.mx1), options(tt.mx2))
			in.publish(sts.Enforce, "mx1.p.test", "mx2.p.test")
			if got := in.deliver(mail.TLSRequired); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}
