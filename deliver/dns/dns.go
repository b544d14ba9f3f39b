// Package dns asks name servers what a mail system has to know, and tells apart what it must not mix up: a name that does
// not exist, one that has no such record, a domain whose servers fail, and name servers of ours that do not answer.
//
// It is a stub resolver: it asks the servers of resolv.conf(5) or of the configuration, one after the other, over UDP and,
// if an answer does not fit, over TCP. What it learns is kept for as long as the answer allows. Names are always complete;
// no search list is applied, but by RelayAddrs.
package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Options say whom to ask. Their zero value means what the system is configured for.
type Options struct {
	Servers []string // "192.0.2.53:53", in the order to ask them; nil means those of ResolvConf

	ResolvConf string // "" means /etc/resolv.conf. It is read again when it changes
	Hosts      string // "" means /etc/hosts; likewise

	Timeout  time.Duration // for one answer; 0 means what ResolvConf says, or 5 s
	Attempts int           // rounds over the servers; 0 means what ResolvConf says, or 2

	Now func() time.Time // nil means time.Now
}

// A Resolver asks name servers and remembers what they said. Several goroutines may use it at once.
type Resolver struct {
	opts  Options
	cache cache
	conf  watched[resolvConf]
	hosts watched[hosts]

	mu     sync.Mutex
	silent time.Time // when all servers were last found not to answer at all
}

// New returns a resolver that has asked nobody yet.
func New(o Options) *Resolver {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.Hosts == "" {
		o.Hosts = "/etc/hosts"
	}
	return &Resolver{
		opts:  o,
		cache: cache{entries: map[question]*entry{}},
		conf:  watched[resolvConf]{path: o.ResolvConf, parse: parseResolvConf},
		hosts: watched[hosts]{path: o.Hosts, parse: parseHosts},
	}
}

// An Error says why a question has no records for an answer.
type Error struct {
	Name, Type string // the question
	Kind       Kind
	Reason     string // who said so, or what went wrong
}

// Kind is what an Error means.
type Kind uint8

const (
	NoName     Kind = iota + 1 // the name does not exist (NXDOMAIN)
	NoRecord                   // it exists, but has no record of that type
	Failed                     // the servers of that name cannot be asked now, or say nonsense
	Unanswered                 // our own name servers do not answer, whatever they are asked
)

func (e *Error) Error() string {
	return fmt.Sprintf("cannot look up %s (%s): %s", e.Name, e.Type, e.Reason)
}

// Temporary reports whether the same question may be answered later.
func (e *Error) Temporary() bool { return e.Kind == Failed || e.Kind == Unanswered }

// KindOf returns the kind of an error of this package, and 0 for others.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}

// An MX is a mail exchanger of a domain (RFC 1035 section 3.3.9).
type MX struct {
	// Host is in lower case, without the dot of the root. It is "." for a null MX (RFC 7505), and "" where the record has
	// something that cannot be the name of a host.
	Host       string
	Preference int // lower is better
}

// An SRV is a host that offers a service (RFC 2782). Host is as in MX; "." means that the service is not offered.
type SRV struct {
	Host                   string
	Port, Priority, Weight int
}

// A TLSA says which certificate a server has (RFC 6698 section 2.1).
type TLSA struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

// An Origin is where an answer comes from.
type Origin struct {
	Name string // the end of the aliases, where the records are, in lower case, without the dot of the root
	// Secure says that DNSSEC vouches for the records and for all aliases on the way, if the name server that says so may be
	// believed: one on this host, or one that resolv.conf(5) trusts (trust-ad).
	Secure bool
}

// MX returns the mail exchangers of a domain as its servers list them. An error is an *Error, or ctx's.
func (r *Resolver) MX(ctx context.Context, domain string) ([]MX, Origin, error) {
	a, err := r.lookup(ctx, domain, dns.TypeMX)
	return a.mx, a.origin(), err
}

// TXT returns the texts at a name, each in one piece.
func (r *Resolver) TXT(ctx context.Context, name string) ([]string, error) {
	a, err := r.lookup(ctx, name, dns.TypeTXT)
	return a.txt, err
}

// TLSA returns the certificates at a name such as "_25._tcp.mx.example.com".
func (r *Resolver) TLSA(ctx context.Context, name string) ([]TLSA, Origin, error) {
	a, err := r.lookup(ctx, name, dns.TypeTLSA)
	return a.tlsa, a.origin(), err
}

// SRV returns the hosts that offer a service, as "_submission._tcp.example.com".
func (r *Resolver) SRV(ctx context.Context, name string) ([]SRV, error) {
	a, err := r.lookup(ctx, name, dns.TypeSRV)
	return a.srv, err
}

// Addrs returns the addresses of a host, IPv6 and IPv4 in turn. One family is enough: the error tells that neither has
// any, and is temporary if either may have one later. All addresses are secure, or none is.
func (r *Resolver) Addrs(ctx context.Context, host string) ([]netip.Addr, Origin, error) {
	var six, four answer
	var err6, err4 error
	var wg sync.WaitGroup
	wg.Go(func() { six, err6 = r.lookup(ctx, host, dns.TypeAAAA) })
	four, err4 = r.lookup(ctx, host, dns.TypeA)
	wg.Wait()
	from := four.origin()
	switch {
	case err6 != nil && err4 != nil:
		return nil, Origin{}, worse(err4, err6)
	case err4 != nil:
		from = six.origin()
	case err6 == nil:
		from.Secure = from.Secure && six.secure && six.name == four.name
	}
	return inTurn(six.addrs, four.addrs), from, nil
}

// worse returns the error that says less: if either family may have an address, there may be one.
func worse(a, b error) error {
	if KindOf(a) == NoName || KindOf(a) == NoRecord && KindOf(b) != NoName {
		return b
	}
	return a
}

// inTurn mixes two lists.
func inTurn(a, b []netip.Addr) []netip.Addr {
	all := make([]netip.Addr, 0, len(a)+len(b))
	for i := range max(len(a), len(b)) {
		if i < len(a) {
			all = append(all, a[i])
		}
		if i < len(b) {
			all = append(all, b[i])
		}
	}
	return all
}

// RelayAddrs returns the addresses of a host that somebody has named who administers this one. As with other programs, the
// hosts file comes first, and a name without a dot is completed by the search list.
func (r *Resolver) RelayAddrs(ctx context.Context, host string) ([]netip.Addr, error) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addrs := r.hosts.get(r.opts.Now())[host]; len(addrs) > 0 {
		return slices.Clone(addrs), nil
	}
	if host == "localhost" {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil // RFC 6761 section 6.3
	}
	var names []string
	if !strings.Contains(host, ".") {
		for _, domain := range r.conf.get(r.opts.Now()).search {
			names = append(names, host+"."+domain)
		}
	}
	var err error
	for _, name := range append(names, host) {
		var addrs []netip.Addr
		if addrs, _, err = r.Addrs(ctx, name); err == nil {
			return addrs, nil
		}
		if KindOf(err) != NoName && KindOf(err) != NoRecord {
			return nil, err
		}
	}
	return nil, err
}

// Trusted reports whether DNSSEC counts: some name server is asked whose word for it is believed.
func (r *Resolver) Trusted() bool {
	conf := r.settings()
	return slices.ContainsFunc(conf.servers, conf.trusts)
}

// maxLinks is how many aliases are followed from one name to another.
const maxLinks = 16

// lookup answers a question from the cache or by asking.
func (r *Resolver) lookup(ctx context.Context, name string, kind uint16) (answer, error) {
	q := question{strings.ToLower(dns.Fqdn(name)), kind}
	if !askable(q.name) {
		return answer{}, q.error(NoName, "it cannot be a name")
	}
	return r.cache.get(ctx, q, r.opts.Now, func() (answer, error) { return r.follow(ctx, q) })
}

// follow asks, and asks again for each alias that an answer ends in.
func (r *Resolver) follow(ctx context.Context, q question) (answer, error) {
	seen := map[string]bool{}
	at, ttl, secure := q, maxTTL, true
	for {
		a, err := r.ask(ctx, at)
		a.ttl, a.secure = min(a.ttl, ttl), a.secure && secure
		if e, ok := errors.AsType[*Error](err); ok {
			e.Name = q.display()
		}
		if err != nil {
			return a, err
		}
		for _, link := range a.links {
			if seen[link] {
				return answer{ttl: trouble}, q.error(Failed, "its aliases (CNAME) go in a circle")
			}
			seen[link] = true
		}
		if len(seen) > maxLinks {
			return answer{ttl: trouble}, q.error(Failed, "it is an alias (CNAME) of an alias, and so on without end")
		}
		if a.alias == "" {
			return a, nil
		}
		at.name, ttl, secure = a.alias, a.ttl, a.secure
	}
}

// A question is a name, in lower case with the dot of the root, and the type of record that is wanted of it.
type question struct {
	name string
	kind uint16
}

func (q question) display() string {
	if q.name == "." {
		return "."
	}
	return strings.TrimSuffix(q.name, ".")
}

func (q question) error(kind Kind, format string, args ...any) *Error {
	return &Error{q.display(), dns.TypeToString[q.kind], kind, fmt.Sprintf(format, args...)}
}

// askable reports whether a name can be put into a question as it is: no escapes, no octets beyond ASCII, not too long.
func askable(name string) bool {
	if len(name) > 254 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if (label == "" && name != ".") || len(label) > 63 {
			return false
		}
	}
	return isHost(name)
}

// isHost reports whether a name consists of what names of hosts consist of; underscores are in use, too.
func isHost(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !('0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return name != ""
}
