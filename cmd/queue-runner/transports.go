package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/local"
	"github.com/postrider/postrider/deliver/route"
	"github.com/postrider/postrider/deliver/smtp"
	"github.com/postrider/postrider/internal/config"
)

// schemes says what makes a transport of each scheme. A new transport is a line here, and one in the table of package
// config that says what its URL may hold.
var schemes = map[string]func(t config.Transport, hostname string, trace func(relay, line string)) deliver.Transport{
	"smtp":        server,
	"submission":  server,
	"submissions": server,
	"lmtp":        server,
	"lmtp+unix":   server,
	"maildir":     maildir,
	"mbox":        oneByOne(mbox),
	"pipe":        oneByOne(pipe),
	"discard":     func(config.Transport, string, func(_, _ string)) deliver.Transport { return deliver.Discard{} },
	"fail": func(t config.Transport, _ string, _ func(_, _ string)) deliver.Transport {
		return deliver.Fail{Text: t.Text}
	},
}

// openTransports returns the transports by name. trace, unless nil, is told their dialogues as they happen.
func openTransports(cfg *config.Config, trace func(relay, line string)) (map[string]deliver.Transport, error) {
	list := map[string]deliver.Transport{}
	for name, t := range cfg.Transports {
		open, ok := schemes[t.Scheme]
		if !ok {
			return nil, fmt.Errorf("transport %s: scheme %q is not implemented", name, t.Scheme)
		}
		list[name] = open(t, cfg.Hostname, trace)
	}
	return list, nil
}

// A transportFunc is a transport that is only a function.
type transportFunc func(ctx context.Context) (deliver.Session, error)

func (f transportFunc) Open(ctx context.Context, _ string) (deliver.Session, error) { return f(ctx) }

// tlsModes translates the words of the configuration.
var tlsModes = map[string]smtp.TLSMode{
	config.TLSNone: smtp.TLSNone, config.TLSMay: smtp.TLSMay, config.TLSVerify: smtp.TLSVerify,
}

// server is a server that mail is handed to by SMTP.
func server(t config.Transport, hostname string, trace func(relay, line string)) deliver.Transport {
	s := smtp.Server{
		Host: t.Host, Port: t.Port, TLS: tlsModes[t.TLS], ImplicitTLS: t.Scheme == "submissions", Hello: hostname, User: t.User,
		// Read for each login: a password that was changed is used at once.
		Password: func() (string, error) { return config.ReadPassword(t.PasswordFile) },
		Trace:    trace,
		Proxy:    proxy(t.Socks),
		Tickets:  tls.NewLRUClientSessionCache(ticketsKept),
		LMTP:     t.Scheme == "lmtp" || t.Scheme == "lmtp+unix",
	}
	if t.Scheme == "lmtp+unix" {
		s.Host, s.Unix = t.Path, true
	}
	roots := &authorities{file: t.CAFile}
	return transportFunc(func(ctx context.Context) (deliver.Session, error) {
		with := s
		var err error
		if with.RootCAs, err = roots.pool(); err != nil {
			return nil, err
		}
		session, err := smtp.Open(ctx, &with)
		if err != nil {
			return nil, err
		}
		return session, nil
	})
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

func maildir(t config.Transport, _ string, _ func(_, _ string)) deliver.Transport {
	return transportFunc(func(context.Context) (deliver.Session, error) {
		return deliver.OneByOne(&local.Maildir{Dir: t.Path}), nil
	})
}

// routeTable turns the routes of the configuration into the table that is asked for each recipient.
func routeTable(cfg *config.Config) route.Table {
	var rules []route.Rule
	for _, r := range cfg.Routes {
		rules = append(rules, route.Rule{To: r.To, From: r.From, MinAttempts: r.MinAttempts, Transport: r.Transport})
	}
	return route.New(rules)
}
