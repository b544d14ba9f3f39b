// Package tlspolicy says what TLS has to prove at the hosts that DNS names for a domain, as the domain itself has it: by
// MTA-STS, which names hosts that must be proven by the authorities of the web, and by DANE, which names certificates.
//
//	                                   TLS     certificate              otherwise
//	no policy, or one for testing      may be  any                      in clear
//	MTA-STS enforced                   must    for the host, by roots   the next host
//	DANE                               must    as a record has it       the next host
//	DANE, but no record is usable      must    any                      the next host
//	MTA-STS and DANE                   must    both                     the next host
//	DANE cannot be looked up           the host is not used
//	not named by MTA-STS               the host is not used
//
// Where no host is left, mail waits: none of this refuses it, unless its sender has asked for that (REQUIRETLS).
package tlspolicy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/postrider/postrider/deliver/dane"
	"github.com/postrider/postrider/deliver/dns"
	"github.com/postrider/postrider/deliver/mx"
	"github.com/postrider/postrider/deliver/smtp"
	"github.com/postrider/postrider/deliver/sts"
	"github.com/postrider/postrider/internal/mail"
)

// Policies finds out what domains want.
type Policies struct {
	DNS *dns.Resolver
	STS *sts.Cache
	// Required is for mail that requires TLS (REQUIRETLS, RFC 8689 section 4.2.1): it goes only to hosts that a policy
	// proves, and back at once from those without.
	Required bool
}

// Over returns find, which finds the hosts of a domain, with what Hosts makes of them.
func (p *Policies) Over(find func(ctx context.Context, domain string) ([]mx.Host, error)) func(ctx context.Context, domain string) ([]mx.Host, error) {
	return func(ctx context.Context, domain string) ([]mx.Host, error) {
		hosts, err := find(ctx, domain)
		if err != nil {
			return nil, err
		}
		return p.Hosts(ctx, hosts)
	}
}

// Hosts returns those hosts of a domain that its policy lets take its mail, and says of them whether it is enforced. The error
// is a *mail.Failure that delays.
func (p *Policies) Hosts(ctx context.Context, hosts []mx.Host) ([]mx.Host, error) {
	if len(hosts) == 0 || len(hosts[0].Domains) == 0 {
		return hosts, nil // an address has no policy
	}
	domain := hosts[0].Domains[0]
	policy, err := p.STS.Policy(ctx, domain)
	if err != nil {
		return nil, mx.Later(ctx, mail.EnhancedCode{4, 4, 3}, err)
	}
	if policy.Mode != sts.Enforce {
		return hosts, nil
	}
	var named []mx.Host
	for _, h := range hosts {
		if h.Enforced = true; policy.Names(h.Name) {
			named = append(named, h)
		}
	}
	if len(named) == 0 {
		return nil, &mail.Failure{Result: mail.Delay(mail.OfHost, mail.EnhancedCode{4, 7, 5},
			"the policy of %s (MTA-STS) names none of its mail exchangers (MX), such as %s", domain, hosts[0].Name)}
	}
	return named, nil
}

// Words of smtp.Server.Vouched.
const (
	bySTS  = "sts"
	byDANE = "dane"
	byBoth = "sts+dane"
)

// Open opens a session with a host that Hosts has returned, at the server s, which must do what the policies want besides
// what s wants. The error is a *mail.Failure. It is final only for mail that requires TLS, if the host does not even try.
func (p *Policies) Open(ctx context.Context, h mx.Host, s smtp.Server) (*smtp.Session, error) {
	if err := p.bind(ctx, h, &s); err != nil {
		return nil, err
	}
	if p.Required && s.Vouched == "" {
		return nil, refused(mail.EnhancedCode{5, 7, 30}, "the sender requires TLS, and nobody vouches for %s being the right host (DANE, MTA-STS)", h.Name)
	}
	session, err := smtp.Open(ctx, &s)
	if f, ok := errors.AsType[*mail.Failure](err); ok && p.Required && !f.Remote && f.Reply.Enhanced == (mail.EnhancedCode{4, 7, 4}) {
		final := refused(mail.EnhancedCode{5, 7, 10}, "the sender requires TLS, and %s does not offer it", h.Name)
		final.Relay, final.Transcript = f.Relay, f.Transcript
		return nil, final
	}
	return session, err
}

func refused(code mail.EnhancedCode, format string, args ...any) *mail.Failure {
	return &mail.Failure{Result: mail.Result{
		Action: mail.Failed, Scope: mail.OfHost, Reply: mail.Reply{Enhanced: code, Text: fmt.Sprintf(format, args...)},
	}}
}

// bind makes s want of TLS what the policies for a host say, and no less than it does already. The error is a *mail.Failure
// that delays: the host must not be used now.
func (p *Policies) bind(ctx context.Context, h mx.Host, s *smtp.Server) error {
	if h.Enforced {
		s.TLS, s.Vouched = smtp.TLSVerify, bySTS
	}
	if !h.Secure {
		return nil
	}
	names := []string{h.Name}
	if h.Canonical != h.Name {
		names = []string{h.Canonical, h.Name}
	}
	records, err := dane.Lookup(ctx, p.DNS, h.Port, names...)
	if err != nil {
		return mx.Later(ctx, mail.EnhancedCode{4, 7, 5}, err)
	}
	if records == nil {
		return nil
	}
	s.TLS, s.ServerName = max(s.TLS, smtp.TLSEncrypt), records.Base
	if len(records.Usable) == 0 {
		return nil
	}
	s.Vouched = byDANE
	if h.Enforced {
		s.Vouched = byBoth
	}
	valid := append([]string{records.Base, h.Name}, h.Domains...)
	s.VerifyPeer = func(state tls.ConnectionState) error { return records.Verify(state, valid...) }
	return nil
}
