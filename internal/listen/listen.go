// Package listen reads the table [listen] of the configuration: where a daemon takes mail by SMTP, and from whom.
//
// It stands beside package config because sendmail reads the same file, and would pay for package netip at each start.
package listen

import (
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/postrider/postrider/internal/config"
)

// A Table is what [listen] says.
type Table struct {
	SMTP  []Endpoint
	Peers []netip.Prefix // networks whose hosts may connect besides this one
	Users []string       // login names or user IDs that may connect at a unix socket; nil means everybody

	Certificate, Key string // files in PEM, for STARTTLS; "" for none
	Logins           string // file of those who may log in; "" for none
}

// An Endpoint is an address to listen on.
type Endpoint struct {
	Network string // tcp or unix
	Address string // "192.0.2.1:25", "[::1]:25" or an absolute path
}

func (e Endpoint) String() string {
	if e.Network == "unix" {
		return "unix:" + e.Address
	}
	return e.Address
}

// Of returns the table of a configuration. Its error is a *config.Error.
func Of(cfg *config.Config) (Table, error) {
	l := cfg.Listen
	t := Table{Users: l.Users, Certificate: l.Certificate, Key: l.Key, Logins: l.Logins}
	for _, w := range cfg.Listen.Peers {
		network, problem := parseNetwork(w.Text)
		if problem != "" {
			return Table{}, cfg.Mistake(w, "listen.peers: found %q, %s", w.Text, problem)
		}
		t.Peers = append(t.Peers, network)
	}
	for _, w := range cfg.Listen.SMTP {
		e, problem := parseEndpoint(w.Text, len(t.Peers) > 0 || t.Logins != "" && t.Certificate != "")
		if problem != "" {
			return Table{}, cfg.Mistake(w, "listen.smtp: found %q, %s", w.Text, problem)
		}
		t.SMTP = append(t.SMTP, e)
	}
	return t, nil
}

// parseEndpoint takes addresses only: names would have to be looked up, and could become others. guarded says that
// somebody asks who comes from another host: else nobody from there is to reach us.
func parseEndpoint(s string, guarded bool) (e Endpoint, problem string) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
			return e, `expected an absolute path after unix:, as in "unix:/run/postrider/smtp"`
		}
		return Endpoint{"unix", filepath.Clean(path)}, ""
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
		return e, `expected an IP address and a port as in "127.0.0.1:25" or "[::1]:25", or "unix:" and a path`
	}
	if !guarded && !a.Addr().IsLoopback() {
		return e, `which other hosts can reach; expected an address like "127.0.0.1:25", or peers to say which hosts may, or logins and a certificate`
	}
	return Endpoint{"tcp", a.String()}, ""
}

// mapped is how long the prefix of IPv4 addresses is in an IPv6 address (RFC 4291 section 2.5.5.2).
const mapped = 96

// widest is how many bits of a network have to be given: who means everybody has made a mistake.
const widest = 8

func parseNetwork(s string) (network netip.Prefix, problem string) {
	network, err := netip.ParsePrefix(s)
	if a, errAddr := netip.ParseAddr(s); errAddr == nil && a.Zone() == "" {
		network, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	if a := network.Addr(); a.Is4In6() && network.Bits() >= mapped {
		network = netip.PrefixFrom(a.Unmap(), network.Bits()-mapped) // as clients are seen
	}
	if err != nil || network.Bits() < widest {
		return network, `expected an IP address, or a network not as wide as that, as in "192.0.2.0/24"`
	}
	return network.Masked(), ""
}
