package faulttest

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
	"github.com/postrider/postrider/internal/smtptest"
)

// maxQuestions is how often name servers are asked about one domain in a pass.
const maxQuestions = 20

// troubles are what a name server does that knows better, and may say so later.
var troubles = []struct {
	what  string
	waits bool // until the question is given up
}{
	{dnstest.Fail, false}, {dnstest.Refuse, false}, {"NOTIMP", false}, {"FORMERR", false}, {"NOTAUTH", false}, {"YXDOMAIN", false},
	{dnstest.Silent, true}, {dnstest.OnlyWrong, true}, {dnstest.Echo, true}, {dnstest.Runt, true},
	{dnstest.Garbage, false}, {dnstest.CutShort, false}, {dnstest.Circle, false},
	{dnstest.Lame, false}, {dnstest.Referral, false},
	{dnstest.UDPOnly, false}, {dnstest.NoEnd, false}, {dnstest.TCPSilent, true}, {dnstest.TooLong, true},
	{dnstest.Truncate, false}, {dnstest.NoEDNS, false}, {dnstest.WrongID, false}, {dnstest.WrongName, false},
	{dnstest.Poisoned, false}, {dnstest.Swamped, false}, {dnstest.Stepwise, false},
}

// domain is one whose name servers say all that is needed.
var domain = []string{
	"d.example. 60 IN MX 10 mx.d.example.",
	"mx.d.example. 60 IN A 240.0.0.1",
	"mx.d.example. 60 IN AAAA 2001:db8::1",
	"ns.example. 60 IN A 240.0.0.53",
}

// TestNames has name servers in every kind of trouble, about everything or about one question, alone or with another one.
// No mail bounces for it, and all of it arrives when they are well.
func TestNames(t *testing.T) {
	var count tally
	t.Run("cells", func(t *testing.T) {
		for _, trouble := range troubles {
			for _, question := range []string{"", "MX d.example", "A mx.d.example", "AAAA mx.d.example"} {
				for _, others := range []string{"alone", "a sound one after it", "a sound one before it", "another one like it", "a dead one before it"} {
					t.Run(fmt.Sprintf("%s, asked %q, %s", trouble.what, question, others), func(t *testing.T) {
						t.Parallel()
						count.add(t, func(t *testing.T, count *tally) {
							runNames(t, count, trouble.what, trouble.waits, question, others)
						})
					})
				}
			}
		}
	})
	t.Logf("%d cells, %d findings: %d questions about a domain at most", count.cells.Load(), count.findings.Load(), count.most.Load())
}

func runNames(t *testing.T, count *tally, what string, waits bool, question, others string) {
	bad, second := dnstest.NewServer(t, domain...), dnstest.NewServer(t, domain...)
	bad.Behave(question, what)
	servers := []string{bad.Addr(), second.Addr()}
	switch others {
	case "alone":
		servers = servers[:1]
	case "a sound one before it":
		servers = []string{second.Addr(), bad.Addr()}
	case "another one like it":
		second.Behave(question, what)
	case "a dead one before it":
		servers = []string{closedPort(t), bad.Addr()}
	}
	o := dns.Options{Servers: servers, Timeout: time.Minute}
	if waits {
		o.Timeout = 40 * time.Millisecond
	}
	n := newNamed(t, o, nil)
	n.deliver("d.example", 1)
	asked := len(bad.Queries()) + len(second.Queries())
	most(&count.most, int64(asked))
	if asked > maxQuestions {
		t.Errorf("%d questions: %q %q", asked, bad.Queries(), second.Queries())
	}
	fates := n.judge(1, verdict{taken: n.taken(), refused: none})
	if others == "a sound one before it" {
		for rcpt, f := range fates {
			if f.sent == 0 && !waits {
				t.Errorf("%s waits, though a sound server was asked first: %+v", rcpt, *f)
			}
		}
	}
	bad.Behave(question, "")
	second.Behave(question, "")
	n.again(dns.Options{Servers: servers, Timeout: time.Minute})
	n.judgeAll(2, verdict{taken: n.taken(), refused: none})
}

func none(string) bool { return false }

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().String()
}

// A named is a world whose mail goes to the hosts that name servers name, each of which is the same server.
type named struct {
	*world
	hosts  *smtptest.Server
	dialed []string // addresses
	finder *mx.Finder
	none   string // a file that is not there
}

// newNamed returns one on a host with these addresses.
func newNamed(t *testing.T, o dns.Options, own []netip.Addr) *named {
	n := &named{hosts: smtptest.NewServer(t, smtptest.Options{}), none: filepath.Join(t.TempDir(), "none")}
	n.world = newWorld(t, 1, nil)
	n.finder = &mx.Finder{
		Port: 25, Names: []string{"here.example"}, Routed: func(netip.Addr) bool { return true },
		Own: func() ([]netip.Addr, error) { return own, nil },
	}
	if own == nil {
		n.finder.Own = nil
	}
	n.ask(o)
	transport := &failover.Transport{Find: func(ctx context.Context, domain string) ([]mx.Host, error) {
		return n.finder.Domain(ctx, domain)
	}, Dial: n.dial, Strangers: true, Now: n.now}
	resolve := n.opts.Resolve
	n.opts.Resolve = func(hop string) (deliver.Route, error) {
		if hop == "home.example" {
			return resolve(hop)
		}
		return deliver.Route{Transport: transport, Domain: hop, Concurrency: 1}, nil
	}
	return n
}

// ask makes a resolver anew.
func (n *named) ask(o dns.Options) {
	o.ResolvConf, o.Hosts, o.Now = n.none, n.none, n.now
	n.finder.DNS = dns.New(o)
}

func (n *named) dial(ctx context.Context, h mx.Host) (deliver.Session, error) {
	n.dialed = append(n.dialed, h.Addrs[0].String())
	s, err := smtp.Open(ctx, &smtp.Server{Host: h.Name, Addrs: h.Addrs, Hello: "here.example", Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", n.hosts.Addr())
	}})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// deliver makes a pass with so many letters to a domain.
func (n *named) deliver(domain string, letters int) {
	n.t.Helper()
	for i := range letters {
		n.write(i, 100, fmt.Sprintf("r%d@%s", i, domain))
	}
	n.submit()
	n.pass()
}

// again makes the next pass, some time later, with a resolver that knows nothing.
func (n *named) again(o dns.Options) {
	n.t.Helper()
	n.ask(o)
	n.later(wait + time.Hour)
	n.pass()
}

func (n *named) taken() []smtptest.Message { return n.hosts.Messages() }

// lie is a zone that is not in trouble: what it says counts.
type lie struct {
	name  string
	zone  []string
	want  string // the end of the log line
	asked int    // questions at most, if not maxQuestions
}

var lies = []lie{
	{"no such domain", nil, "dsn=5.1.2, status=bounced (the domain d.example does not exist)", 1},
	{"null MX", []string{"d.example. 60 IN MX 0 ."}, "dsn=5.1.10, status=bounced (d.example takes no mail (null MX))", 1},
	{"null MX twice", []string{"d.example. 60 IN MX 0 .", "d.example. 60 IN MX 1 ."}, "dsn=5.4.4, status=bounced (no mail exchanger (MX) of d.example has an address)", 1},
	{"null MX beside another", []string{"d.example. 60 IN MX 0 .", "d.example. 60 IN MX 9 mx.d.example.", "mx.d.example. 60 IN A 240.0.0.1"}, "status=sent (250 2.0.0 taken)", 3},
	{"neither MX nor address", []string{"d.example. 60 IN TXT nothing"}, "dsn=5.4.4, status=bounced (d.example has neither a mail exchanger (MX) nor an address)", 3},
	{"aliases in a circle", []string{"d.example. 60 IN CNAME e.example.", "e.example. 60 IN CNAME d.example."}, "dsn=4.4.3, status=deferred (cannot look up d.example (MX): its aliases (CNAME) go in a circle)", 0},
	{"an alias of itself", []string{"d.example. 60 IN CNAME d.example."}, "dsn=4.4.3, status=deferred (cannot look up d.example (MX): its aliases (CNAME) go in a circle)", 0},
	{"an MX that is an alias of itself", []string{"d.example. 60 IN MX 1 mx.d.example.", "mx.d.example. 60 IN CNAME mx.d.example."}, "dsn=4.4.4, status=deferred (cannot look up mx.d.example (A): its aliases (CNAME) go in a circle)", 0},
	{"8 aliases", chain(8), "status=sent (250 2.0.0 taken)", 0},
	{"30 aliases", chain(30), "dsn=4.4.3, status=deferred (cannot look up d.example (MX): it is an alias (CNAME) of an alias, and so on without end)", 0},
	{"2000 mail exchangers", crowd(2000), "status=sent (250 2.0.0 taken)", 0},
	{"50 mail exchangers of which none has an address", crowd(50)[:50], "dsn=5.4.4, status=bounced (no mail exchanger (MX) of d.example has an address)", 0},
	{"no time to live", []string{"d.example. 0 IN MX 1 mx.d.example.", "mx.d.example. 0 IN A 240.0.0.1"}, "status=sent (250 2.0.0 taken)", 0},
	{"an MX with no time to live and none there", []string{"d.example. 0 IN MX 1 mx.d.example.", "mx.d.example. 0 IN TXT x"}, "dsn=5.4.4, status=bounced (no mail exchanger (MX) of d.example has an address)", 0},
	{"an MX that is ourselves", []string{"d.example. 60 IN MX 1 HERE.example.", "here.example. 60 IN A 240.0.0.1"}, "dsn=5.4.6, status=bounced (mail for d.example loops back to myself)", 0},
	{"loopback", []string{"d.example. 60 IN MX 1 mx.d.example.", "mx.d.example. 60 IN A 127.0.0.1"}, "dsn=5.4.6, status=bounced (mail for d.example loops back to myself)", 3},
	{"loopback beside another", []string{"d.example. 60 IN MX 1 mx.d.example.", "d.example. 60 IN MX 2 mx2.d.example.", "mx.d.example. 60 IN AAAA ::1", "mx2.d.example. 60 IN A 240.0.0.1"}, "dsn=5.4.6, status=bounced (mail for d.example loops back to myself)", 0},
	{"loopback, less preferred", []string{"d.example. 60 IN MX 1 mx.d.example.", "d.example. 60 IN MX 2 mx2.d.example.", "mx2.d.example. 60 IN A 127.8.8.8", "mx.d.example. 60 IN A 240.0.0.1"}, "status=sent (250 2.0.0 taken)", 0},
	{"the address of nobody", []string{"d.example. 60 IN A 0.0.0.0"}, "dsn=5.4.6, status=bounced (mail for d.example loops back to myself)", 3},
	{"loopback dressed as IPv6", []string{"d.example. 60 IN AAAA ::ffff:127.0.0.1"}, "dsn=5.4.6, status=bounced (mail for d.example loops back to myself)", 3},
	{"a private address", []string{"d.example. 60 IN MX 1 mx.d.example.", "mx.d.example. 60 IN A 10.1.2.3"}, "status=sent (250 2.0.0 taken)", 3},
	{"an address for an MX", []string{"d.example. 60 IN MX 1 240.0.0.1."}, "dsn=5.4.4, status=bounced (no mail exchanger (MX) of d.example has an address)", 1},
	{"an empty name for an MX", []string{`d.example. 60 IN MX 1 a\000b.example.`}, "dsn=5.4.4, status=bounced (no mail exchanger (MX) of d.example has an address)", 1},
	{"the longest name", []string{"d.example. 60 IN MX 1 " + longest + ".", longest + ". 60 IN A 240.0.0.1"}, "status=sent (250 2.0.0 taken)", 3},
	{"IPv6 only", []string{"d.example. 60 IN AAAA 2001:db8::1"}, "status=sent (250 2.0.0 taken)", 3},
	{"40 addresses", many(40), "status=sent (250 2.0.0 taken)", 5},
}

var longest = strings.Repeat(strings.Repeat("x", 49)+".", 5) + "ab"

// chain is d.example at the start of so many aliases.
func chain(n int) (zone []string) {
	name := "d.example"
	for i := range n {
		next := fmt.Sprintf("c%d.example", i)
		zone = append(zone, fmt.Sprintf("%s. 60 IN CNAME %s.", name, next))
		name = next
	}
	return append(zone, name+". 60 IN MX 1 mx.d.example.", "mx.d.example. 60 IN A 240.0.0.1")
}

// crowd is d.example with so many mail exchangers; the last line has the address of the first one.
func crowd(n int) (zone []string) {
	for i := range n {
		zone = append(zone, fmt.Sprintf("d.example. 60 IN MX %d m%d.d.example.", i, i))
	}
	return append(zone, "m0.d.example. 60 IN A 240.0.0.1")
}

// many is d.example with so many addresses.
func many(n int) (zone []string) {
	for i := range n {
		zone = append(zone, fmt.Sprintf("d.example. 60 IN A 240.0.0.%d", i+1))
	}
	return zone
}

// TestLies has zones say odd things, in one answer and step by step. What they say for sure counts; the rest is not
// believed, asked about without end, or used to reach ourselves.
func TestLies(t *testing.T) {
	var count tally
	t.Run("cells", func(t *testing.T) {
		for _, l := range lies {
			for _, how := range []string{"", dnstest.Stepwise, dnstest.Poisoned} {
				t.Run(l.name+" "+how, func(t *testing.T) {
					t.Parallel()
					count.add(t, func(t *testing.T, count *tally) { runLie(t, count, l, how) })
				})
			}
		}
	})
	t.Logf("%d cells, %d findings: %d questions about a domain at most", count.cells.Load(), count.findings.Load(), count.most.Load())
}

func runLie(t *testing.T, count *tally, l lie, how string) {
	server := dnstest.NewServer(t, l.zone...)
	server.Behave("", how)
	n := newNamed(t, dns.Options{Servers: []string{server.Addr()}, Timeout: time.Minute}, nil)
	n.deliver("d.example", 1)
	if !strings.Contains(strings.Join(n.log, "\n")+"\n", l.want+"\n") {
		t.Errorf("want %q in the log:\n%s", l.want, strings.Join(n.log, "\n"))
	}
	for _, addr := range n.dialed {
		if a := netip.MustParseAddr(addr); a.IsLoopback() || a.IsUnspecified() || strings.HasSuffix(addr, "66") {
			t.Errorf("there was a connection to %s", addr)
		}
	}
	asked := len(server.Queries())
	most(&count.most, int64(asked))
	if limit := l.asked; asked > maxQuestions || limit > 0 && asked > limit && how != dnstest.Stepwise {
		t.Errorf("%d questions: %q", asked, server.Queries())
	}
	n.judge(1, verdict{taken: n.taken(), refused: func(string) bool { return strings.Contains(l.want, "bounced") }})
	if strings.Contains(l.want, "deferred") {
		if err := server.Replace(domain...); err != nil {
			t.Fatal(err)
		}
		n.again(dns.Options{Servers: []string{server.Addr()}, Timeout: time.Minute})
		n.judgeAll(2, verdict{taken: n.taken(), refused: none})
	}
}
