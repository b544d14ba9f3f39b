// Package mx finds the hosts that take mail: for a domain (RFC 5321 section 5), or behind the name of a relay.
package mx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/postrider/postrider/deliver/dns"
	"github.com/postrider/postrider/deliver/idn"
	"github.com/postrider/postrider/internal/mail"
)

// A Host takes mail.
type Host struct {
	Name  string // in lower case; the address if there is no name
	Port  int
	Addrs []netip.Addr // in the order to try them

	// What follows is known of hosts of a domain.
	Domains   []string // the domain, and the end of its aliases if it has any
	Canonical string   // the end of the aliases of Name; "" for an address
	Secure    bool     // DNSSEC vouches for Name and Addrs
	// Enforced says that the policy of the domain (MTA-STS) names the host, and wants it proven by TLS. Finders leave that
	// to others.
	Enforced bool
}

// A Finder finds hosts. All fields but Own and Routed must be set.
type Finder struct {
	DNS   *dns.Resolver
	Port  int      // of the hosts of a domain
	Names []string // of this host, in lower case
	// Own returns the addresses at which this host takes mail itself; nil means those of its interfaces if Port is 25.
	Own func() ([]netip.Addr, error)
	// Routed reports whether this host has a way to an address; nil means to ask the kernel.
	Routed func(netip.Addr) bool
}

// maxHosts is how many hosts of a domain are tried at most: for two families, and with one answer that does not fit, that
// is twenty questions.
const maxHosts = 9

// Domain returns the hosts that take mail for a domain, the best first, those that are equally good in any order. The
// domain may be an address literal. The error is always a *mail.Failure. It is final if the domain does not exist, wants
// no mail or has no host that takes it, or if we would come back to ourselves; it delays if that cannot be found out.
func (f *Finder) Domain(ctx context.Context, domain string) ([]Host, error) {
	if strings.HasPrefix(domain, "[") {
		return f.literal(domain)
	}
	name, err := idn.Domain(strings.TrimSuffix(domain, "."))
	if err != nil || name == "" {
		return nil, final(mail.EnhancedCode{5, 1, 2}, "%q is not a domain", domain)
	}
	list, from, err := f.DNS.MX(ctx, name)
	name = strings.ToLower(name)
	like := Host{Port: f.Port, Domains: []string{name}, Secure: from.Secure}
	if err == nil && from.Name != name {
		like.Domains = append(like.Domains, from.Name)
	}
	switch dns.KindOf(err) {
	case dns.NoName:
		return nil, final(mail.EnhancedCode{5, 1, 2}, "the domain %s does not exist", name)
	case dns.NoRecord:
		like.Secure = true            // if its addresses are
		list = []dns.MX{{Host: name}} // the implicit MX
		return f.hosts(ctx, like, list, "%s has neither a mail exchanger (MX) nor an address")
	}
	if err != nil {
		return nil, Later(ctx, mail.EnhancedCode{4, 4, 3}, err)
	}
	if len(list) == 1 && list[0].Host == "." {
		return nil, final(mail.EnhancedCode{5, 1, 10}, "%s takes no mail (null MX)", name)
	}
	return f.hosts(ctx, like, inOrder(list), "no mail exchanger (MX) of %s has an address")
}

// inOrder sorts by preference and shuffles what is equally preferred. It drops what cannot be a host, and bounds the list.
func inOrder(list []dns.MX) []dns.MX {
	list = slices.DeleteFunc(slices.Clone(list), func(m dns.MX) bool {
		_, err := netip.ParseAddr(m.Host)
		return m.Host == "" || m.Host == "." || err == nil
	})
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	slices.SortStableFunc(list, func(a, b dns.MX) int { return cmp.Compare(a.Preference, b.Preference) })
	seen := map[string]bool{}
	list = slices.DeleteFunc(list, func(m dns.MX) bool {
		again := seen[m.Host]
		seen[m.Host] = true
		return again
	})
	return list
}

// hosts looks up the addresses of mail exchangers, and leaves out ourselves with all who are no better. What all of them
// have in common they have from like; none says what it means that nobody is left.
func (f *Finder) hosts(ctx context.Context, like Host, list []dns.MX, none string) ([]Host, error) {
	domain := like.Domains[0]
	limit := f.ownName(list)
	list = list[:min(len(list), maxHosts)]
	found := f.lookUp(ctx, list)
	own, err := f.own()
	if err != nil {
		return nil, err
	}
	for i, l := range found {
		if slices.ContainsFunc(l.addrs, own.has) {
			limit = min(limit, list[i].Preference)
		}
	}
	var hosts []Host
	var soft error
	for i, l := range found {
		switch {
		case list[i].Preference >= limit:
		case l.err == nil:
			h := like
			h.Name, h.Addrs, h.Canonical, h.Secure = list[i].Host, f.reachable(l.addrs), l.from.Name, like.Secure && l.from.Secure
			hosts = append(hosts, h)
		case dns.KindOf(l.err) != dns.NoName && dns.KindOf(l.err) != dns.NoRecord:
			soft = cmp.Or(soft, l.err)
		}
	}
	switch {
	case len(hosts) > 0:
		return hosts, nil
	case soft != nil:
		return nil, Later(ctx, mail.EnhancedCode{4, 4, 4}, soft)
	case limit <= worst:
		return nil, loop(domain)
	}
	return nil, final(mail.EnhancedCode{5, 4, 4}, none, domain)
}

// worst is the worst preference that there is.
const worst = 1<<16 - 1

// ownName returns the best preference at which we are named ourselves; one that is beyond all if we are not.
func (f *Finder) ownName(list []dns.MX) int {
	limit := worst + 1
	for _, m := range list {
		if slices.Contains(f.Names, m.Host) {
			limit = min(limit, m.Preference)
		}
	}
	return limit
}

func loop(domain string) *mail.Failure {
	return final(mail.EnhancedCode{5, 4, 6}, "mail for %s loops back to myself", domain)
}

// A lookup is what is known of the addresses of a host.
type lookup struct {
	addrs []netip.Addr
	from  dns.Origin
	err   error
}

// lookUp looks up all hosts at once.
func (f *Finder) lookUp(ctx context.Context, list []dns.MX) []lookup {
	found := make([]lookup, len(list))
	var wg sync.WaitGroup
	for i, m := range list {
		wg.Go(func() { found[i].addrs, found[i].from, found[i].err = f.DNS.Addrs(ctx, m.Host) })
	}
	wg.Wait()
	return found
}

// literal returns the host that an address literal names (RFC 5321 section 4.1.3).
func (f *Finder) literal(domain string) ([]Host, error) {
	text := strings.TrimSuffix(strings.TrimPrefix(domain, "["), "]")
	const six = "ipv6:"
	is6 := len(text) > len(six) && strings.EqualFold(text[:len(six)], six)
	if is6 {
		text = text[len(six):]
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Is4() == is6 || addr.Zone() != "" {
		return nil, final(mail.EnhancedCode{5, 1, 2}, "%s is not an address", domain)
	}
	own, err := f.own()
	if err != nil {
		return nil, err
	}
	if addr = addr.Unmap(); own.has(addr) {
		return nil, loop(domain)
	}
	return []Host{{Name: addr.String(), Port: f.Port, Addrs: []netip.Addr{addr}}}, nil
}

// ownAddrs are the addresses at which we would meet ourselves.
type ownAddrs struct {
	listed   []netip.Addr
	loopback bool // and whatever is this host's wherever it is used
}

func (o ownAddrs) has(a netip.Addr) bool {
	return slices.Contains(o.listed, a) || o.loopback && (a.IsLoopback() || a.IsUnspecified())
}

func (f *Finder) own() (o ownAddrs, err error) {
	if f.Own != nil {
		o.listed, err = f.Own()
	} else if f.Port == smtpPort {
		o.loopback = true
		o.listed, err = interfaceAddrs()
	}
	if err != nil {
		return o, &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "cannot list the addresses of this host: %v", err)}
	}
	return o, nil
}

const smtpPort = 25

func interfaceAddrs() (addrs []netip.Addr, err error) {
	list, err := net.InterfaceAddrs()
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	return addrs, err
}

// reachable leaves out addresses that there is no way to, unless all are such.
func (f *Finder) reachable(addrs []netip.Addr) []netip.Addr {
	routed := f.Routed
	if routed == nil {
		routed = hasRoute
	}
	some := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !routed(a) })
	if len(some) == 0 {
		return addrs
	}
	return some
}

// hasRoute asks the kernel, which sends nothing for that.
func hasRoute(a netip.Addr) bool {
	c, err := net.Dial("udp", netip.AddrPortFrom(a, smtpPort).String())
	if err == nil {
		return c.Close() == nil
	}
	for _, errno := range []syscall.Errno{
		syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EADDRNOTAVAIL, syscall.ENETDOWN, syscall.EAFNOSUPPORT, syscall.EACCES,
	} {
		if errors.Is(err, errno) {
			return false
		}
	}
	return true
}

// Relay returns the host that an administrator has named. Our trouble it is if the name cannot be found: it defers.
func (f *Finder) Relay(ctx context.Context, name string, port int) (Host, error) {
	host := Host{Name: strings.ToLower(name), Port: port}
	if addr, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		host.Addrs = []netip.Addr{addr}
		return host, nil
	}
	ascii, err := idn.Domain(name)
	if err != nil {
		return host, &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 4, 4}, "cannot find %s: %v", name, err)}
	}
	addrs, err := f.DNS.RelayAddrs(ctx, ascii)
	switch kind := dns.KindOf(err); {
	case err == nil:
		host.Addrs = f.reachable(addrs)
		return host, nil
	case kind == dns.NoName || kind == dns.NoRecord:
		return host, &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 4, 4}, "cannot find %s: no such host", name)}
	}
	failed := Later(ctx, mail.EnhancedCode{4, 4, 3}, err)
	failed.Scope = mail.OfUs
	return host, failed
}

// Service returns the hosts at which a domain offers a service to its users, "submission" or "submissions", as its SRV records
// name them (RFC 6186): the first to try first. What DNS says can be forged, and we are about to show a password: hosts
// beyond the domain do not count, since any certificate that is valid for them would do. Its failures are our trouble.
func (f *Finder) Service(ctx context.Context, service, domain string) ([]Host, error) {
	name, err := idn.Domain(domain)
	if err != nil {
		return nil, &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 4, 4}, "cannot find %s: %v", domain, err)}
	}
	list, err := f.DNS.SRV(ctx, "_"+service+"._tcp."+name)
	if kind := dns.KindOf(err); err != nil && kind != dns.NoName && kind != dns.NoRecord {
		failed := Later(ctx, mail.EnhancedCode{4, 4, 3}, err)
		failed.Scope = mail.OfUs
		return nil, failed
	}
	failed := &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 4, 4}, "%s names no %s server of its own (SRV)", domain, service)}
	var hosts []Host
	for _, s := range byWeight(list) {
		if s.Host != name && !strings.HasSuffix(s.Host, "."+name) || s.Port == 0 {
			continue
		}
		host, err := f.Relay(ctx, s.Host, s.Port)
		if err != nil {
			failed, _ = errors.AsType[*mail.Failure](err)
			continue
		}
		hosts = append(hosts, host)
	}
	if len(hosts) == 0 {
		return nil, failed
	}
	return hosts, nil
}

// byWeight sorts by priority, and draws lots among equals as their weights have it (RFC 2782).
func byWeight(list []dns.SRV) []dns.SRV {
	list = slices.Clone(list)
	lots := map[dns.SRV]float64{}
	for _, s := range list {
		lots[s] = rand.ExpFloat64() / (float64(s.Weight) + 0.01)
	}
	slices.SortFunc(list, func(a, b dns.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(lots[a], lots[b]))
	})
	return list[:min(len(list), maxHosts)]
}

func final(code mail.EnhancedCode, format string, args ...any) *mail.Failure {
	return &mail.Failure{Result: mail.Result{
		Action: mail.Failed, Scope: mail.OfHost, Reply: mail.Reply{Enhanced: code, Text: fmt.Sprintf(format, args...)},
	}}
}

// Later returns the failure for what could not be found out: the domain's, or our own if no name server answers.
func Later(ctx context.Context, code mail.EnhancedCode, err error) *mail.Failure {
	scope := mail.OfHost
	if dns.KindOf(err) == dns.Unanswered || ctx.Err() != nil {
		scope = mail.OfUs
	}
	if ctx.Err() != nil {
		return &mail.Failure{Result: mail.Delay(scope, mail.EnhancedCode{4, 3, 2}, "interrupted while looking up a domain")}
	}
	return &mail.Failure{Result: mail.Delay(scope, code, "%v", err)}
}
