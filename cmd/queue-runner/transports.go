package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/dns"
	"github.com/postrider/postrider/deliver/failover"
	"github.com/postrider/postrider/deliver/local"
	"github.com/postrider/postrider/deliver/mx"
	"github.com/postrider/postrider/deliver/route"
	"github.com/postrider/postrider/deliver/smtp"
	"github.com/postrider/postrider/deliver/sts"
	"github.com/postrider/postrider/deliver/tlspolicy"
	"github.com/postrider/postrider/deliver/users"
	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
)

// schemes says what makes a transport of each scheme. A new transport is a line here, and one in the table of package
// config that says what its URL may hold.
var schemes = map[string]func(o outfit, t config.Transport) deliver.Transport{
	"smtp":        outfit.relay,
	"submission":  outfit.relay,
	"submissions": outfit.relay,
	"mx":          outfit.mx,
	"lmtp":        outfit.relay,
	"lmtp+unix":   outfit.relay,
	"maildir":     maildir,
	"mbox":        mbox,
	"pipe":        pipe,
	"discard":     func(outfit, config.Transport) deliver.Transport { return deliver.Discard{} },
	"fail":        func(_ outfit, t config.Transport) deliver.Transport { return deliver.Fail{Text: t.Text} },
}

// An outfit is what transports have in common.
type outfit struct {
	cfg   *config.Config
	dns   *dns.Resolver
	logf  func(format string, args ...any)
	trace func(relay, line string) // told dialogues as they happen, unless nil
}

// openTransports returns the transports by name. trace, unless nil, is told their dialogues as they happen. What is done as
// somebody is done by the steward, if there is one.
func openTransports(d dispatcher, s *steward, logf func(format string, args ...any), trace func(relay, line string)) (map[string]deliver.Transport, error) {
	o := outfit{d.cfg, newResolver(d.cfg), logf, trace}
	list := map[string]deliver.Transport{}
	for name, t := range d.cfg.Transports {
		if t.RunAs != "" || t.ForUsers() {
			list[name] = d.localTransport(s, name)
			continue
		}
		open, ok := schemes[t.Scheme]
		if !ok {
			return nil, fmt.Errorf("transport %s: scheme %q is not implemented", name, t.Scheme)
		}
		list[name] = open(o, t)
	}
	return list, nil
}

func newResolver(cfg *config.Config) *dns.Resolver {
	return dns.New(dns.Options{Servers: cfg.Resolvers})
}

// A transportFunc is a transport that is only a function.
type transportFunc func(ctx context.Context) (deliver.Session, error)

func (f transportFunc) Open(ctx context.Context, _ string) (deliver.Session, error) { return f(ctx) }

// tlsModes translates the words of the configuration.
var tlsModes = map[string]smtp.TLSMode{
	config.TLSNone: smtp.TLSNone, config.TLSMay: smtp.TLSMay, config.TLSVerify: smtp.TLSVerify,
}

// relay is a server of our choice that mail is handed to, or several that stand in for each other.
func (o outfit) relay(t config.Transport) deliver.Transport {
	open := o.smtp(t, nil)
	if t.Scheme == "lmtp+unix" {
		return transportFunc(func(ctx context.Context) (deliver.Session, error) { return open(ctx, mx.Host{Name: t.Path}) })
	}
	if t.SRV {
		find := func(ctx context.Context, _ string) ([]mx.Host, error) {
			return finder(o.cfg, o.dns, t).Service(ctx, t.Scheme, t.Host)
		}
		return &failover.Transport{Find: find, Dial: open}
	}
	if len(t.Others) > 0 {
		return &failover.Transport{Find: func(ctx context.Context, _ string) ([]mx.Host, error) { return o.relays(ctx, t) }, Dial: open}
	}
	return transportFunc(func(ctx context.Context) (deliver.Session, error) {
		host, err := o.lookUp(ctx, t, config.Server{Host: t.Host, Port: t.Port})
		if err != nil {
			return nil, err
		}
		return open(ctx, host)
	})
}

// lookUp finds a server, unless that is for the proxy to do.
func (o outfit) lookUp(ctx context.Context, t config.Transport, s config.Server) (mx.Host, error) {
	if t.Socks.Host != "" {
		return mx.Host{Name: s.Host, Port: s.Port}, nil
	}
	return finder(o.cfg, o.dns, t).Relay(ctx, s.Host, s.Port)
}

// relays finds servers that stand in for each other. It is enough if one can be found.
func (o outfit) relays(ctx context.Context, t config.Transport) (hosts []mx.Host, err error) {
	for _, s := range append([]config.Server{{Host: t.Host, Port: t.Port}}, t.Others...) {
		host, failed := o.lookUp(ctx, t, s)
		if failed != nil {
			err = cmp.Or(err, failed)
			continue
		}
		if len(host.Addrs) == 0 {
			host.Addrs = []netip.Addr{{}} // the proxy knows
		}
		hosts = append(hosts, host)
	}
	if len(hosts) > 0 {
		err = nil
	}
	return hosts, err
}

// exchangers are the hosts that take mail for each domain, by what a sender says of TLS.
type exchangers map[mail.TLSWish]*failover.Transport

// Open is for mail whose sender says nothing.
func (e exchangers) Open(ctx context.Context, domain string) (deliver.Session, error) {
	return e[mail.TLSUnsaid].Open(ctx, domain)
}

// mx is the hosts that take mail for each domain, with as much TLS as the domain wants, and the sender.
func (o outfit) mx(t config.Transport) deliver.Transport {
	find := finder(o.cfg, o.dns, t).Domain
	plain := &failover.Transport{Find: find, Dial: o.smtp(t, nil), Strangers: true}
	if t.TLS == config.TLSNone {
		return exchangers{mail.TLSUnsaid: plain, mail.TLSRequired: plain, mail.TLSNotRequired: plain}
	}
	unsaid := o.policies(t)
	required := *unsaid
	required.Required = true
	return exchangers{
		mail.TLSUnsaid:      {Find: unsaid.Over(find), Dial: o.smtp(t, unsaid.Open), Strangers: true},
		mail.TLSRequired:    {Find: required.Over(find), Dial: o.smtp(t, required.Open), Strangers: true},
		mail.TLSNotRequired: plain,
	}
}

// policies returns what finds out how much TLS domains want.
func (o outfit) policies(t config.Transport) *tlspolicy.Policies {
	roots, dial := &authorities{file: t.CAFile}, o.web(t)
	fetch := func(ctx context.Context, domain string) (string, error) {
		pool, err := roots.pool()
		if err != nil {
			return "", err
		}
		return sts.Fetch(ctx, domain, pool, dial)
	}
	file := filepath.Join(o.cfg.Spool, "mta-sts."+t.Name)
	return &tlspolicy.Policies{DNS: o.dns, STS: &sts.Cache{TXT: o.dns.TXT, Fetch: fetch, Now: time.Now, Logf: o.logf, File: file}}
}

// webTimeout is for how long one address of a web server is tried.
const webTimeout = 20 * time.Second

// web returns what connects to web servers: through the proxy of a transport, which then looks up their names, or by
// addresses from our name servers.
func (o outfit) web(t config.Transport) func(ctx context.Context, network, address string) (net.Conn, error) {
	if p := proxy(t.Socks); p != nil {
		return func(ctx context.Context, _, address string) (net.Conn, error) { return p.Dial(ctx, address) }
	}
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		addrs, _, err := o.dns.Addrs(ctx, host)
		dialer := &net.Dialer{Timeout: webTimeout}
		for _, addr := range addrs {
			if conn, err = dialer.DialContext(ctx, network, net.JoinHostPort(addr.String(), port)); err == nil {
				return conn, nil
			}
		}
		return nil, err
	}
}

// finder returns what finds the hosts of a transport.
func finder(cfg *config.Config, resolver *dns.Resolver, t config.Transport) *mx.Finder {
	f := &mx.Finder{DNS: resolver, Port: t.Port, Names: append([]string{cfg.Hostname}, cfg.LocalDomains...)}
	if t.Socks.Host != "" {
		f.Routed = func(netip.Addr) bool { return true } // the way to the proxy is another
	}
	return f
}

// An opener opens a session with a host at a server.
type opener func(ctx context.Context, h mx.Host, s smtp.Server) (*smtp.Session, error)

// smtp returns what opens a session by SMTP with a host as a transport wants it, with open unless it is nil.
func (o outfit) smtp(t config.Transport, open opener) func(ctx context.Context, h mx.Host) (deliver.Session, error) {
	s := smtp.Server{
		TLS: tlsModes[t.TLS], ImplicitTLS: t.Scheme == "submissions", Hello: o.cfg.Hostname, User: t.User,
		// Read for each login: a password that was changed is used at once.
		Password: func() (string, error) { return config.ReadPassword(t.PasswordFile) },
		Trace:    o.trace,
		Proxy:    proxy(t.Socks),
		Tickets:  tls.NewLRUClientSessionCache(ticketsKept),
		LMTP:     t.Scheme == "lmtp" || t.Scheme == "lmtp+unix",
		Unix:     t.Scheme == "lmtp+unix",
		Found:    t.Scheme == "mx",
	}
	if open == nil {
		open = func(ctx context.Context, _ mx.Host, s smtp.Server) (*smtp.Session, error) { return smtp.Open(ctx, &s) }
	}
	roots := &authorities{file: t.CAFile}
	return func(ctx context.Context, h mx.Host) (deliver.Session, error) {
		with := s
		with.Host, with.Port = h.Name, h.Port
		if len(h.Addrs) > 0 && h.Addrs[0].IsValid() {
			with.Addrs = h.Addrs
		}
		var err error
		if with.RootCAs, err = roots.pool(); err != nil {
			return nil, err
		}
		session, err := open(ctx, h, with)
		if err != nil {
			return nil, err
		}
		return session, nil
	}
}

// ticketsKept is for how many hosts of a transport a TLS session can be resumed.
const ticketsKept = 256

// proxy returns the way to a server; nil for the one that everything else takes.
func proxy(p config.Socks) *smtp.Proxy {
	if p.Host == "" {
		return nil
	}
	return &smtp.Proxy{Address: addressOf(p), User: p.User, Password: func() (string, error) { return config.ReadPassword(p.PasswordFile) }}
}

func addressOf(p config.Socks) string { return net.JoinHostPort(p.Host, strconv.Itoa(p.Port)) }

// authorities are those that a transport trusts. They are read once; but a file that cannot be read now may be there for
// the next session, which in a daemon may be days away.
type authorities struct {
	file string
	mu   sync.Mutex
	read bool
	all  *x509.CertPool
}

func (a *authorities) pool() (*x509.CertPool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.read {
		return a.all, nil
	}
	all, err := rootCAs(a.file)
	a.all, a.read = all, err == nil
	return all, err
}

// rootCAs returns the system's trusted certificates and those in file; nil, which means the system's, without a file.
func rootCAs(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read ca_file: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file %s: no certificate in it", file)
	}
	return pool, nil
}

func maildir(_ outfit, t config.Transport) deliver.Transport {
	return transportFunc(func(context.Context) (deliver.Session, error) {
		return deliver.OneByOne(&local.Maildir{Dir: t.Path}), nil
	})
}

func mbox(_ outfit, t config.Transport) deliver.Transport {
	return transportFunc(func(context.Context) (deliver.Session, error) {
		return deliver.OneByOne(&local.Session{One: local.Mbox{Path: t.Path, Owner: os.Geteuid()}.Deliver}), nil
	})
}

func pipe(_ outfit, t config.Transport) deliver.Transport {
	return transportFunc(func(context.Context) (deliver.Session, error) {
		self, err := users.Self()
		if err != nil {
			return nil, err
		}
		return deliver.OneByOne(&local.Session{One: local.Pipe{Program: t.Path, Args: t.Args, Timeout: t.Timeout, User: self}.Deliver}), nil
	})
}

// routeTable turns the routes of the configuration into the table that is asked for each recipient.
func routeTable(cfg *config.Config) route.Table {
	var rules []route.Rule
	for _, r := range cfg.Routes {
		perDomain := cfg.Transports[r.Transport].Scheme == "mx"
		rules = append(rules, route.Rule{To: r.To, From: r.From, MinAttempts: r.MinAttempts, Transport: r.Transport, PerDomain: perDomain})
	}
	return route.New(rules)
}
