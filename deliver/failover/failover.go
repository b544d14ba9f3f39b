// Package failover hands messages to the first of several hosts that serves, and to the next one what that one cannot take.
//
// A host that could not be reached is remembered for a while: a thousand domains that one dead provider takes mail for
// cost one timeout. What another host may be asked about is what mail.Result says of it: nothing whose content was sent.
package failover

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/mx"
	"github.com/postrider/postrider/internal/mail"
)

// A Transport opens sessions with hosts that stand in for each other. It is a deliver.Retrier.
type Transport struct {
	// Find returns the hosts for mail to a domain in the order to try them, or a *mail.Failure.
	Find func(ctx context.Context, domain string) ([]mx.Host, error)
	// Dial opens a session with a host at the one address that it has here. Its error is a *mail.Failure, or our own trouble.
	Dial func(ctx context.Context, h mx.Host) (deliver.Session, error)
	// Strangers says that the hosts are none of our choosing: when all say that they never take mail (521, RFC 7504), or
	// Dial that they cannot have it, that is final.
	Strangers bool
	Now       func() time.Time // nil means time.Now

	memory memory
}

// Bounds for one try to open a session. RFC 5321 section 5.1 wants two addresses tried at least.
const (
	maxAddrs = 5 // of one host
	maxTries = 12
)

// Open returns a session with the first host that serves. The error is that of Find, or the one that says most of those
// that the hosts gave; always a *mail.Failure.
func (t *Transport) Open(ctx context.Context, domain string) (deliver.Session, error) {
	return t.OpenAgain(ctx, domain, "", 0)
}

// OpenAgain is Open for a message of which attempts have been made, the last one with relay, as mail.Result has it.
func (t *Transport) OpenAgain(ctx context.Context, domain, relay string, attempts int) (deliver.Session, error) {
	hosts, err := t.Find(ctx, domain)
	if err != nil {
		return nil, asFailure(err)
	}
	hosts = slices.Clone(hosts)
	for i := range hosts {
		hosts[i].Addrs = inTurn(hosts[i], relay, attempts)
	}
	s, failed := t.open(ctx, hosts)
	if failed != nil {
		return nil, failed
	}
	return s, nil
}

// open returns a session with the first of these hosts that serves.
func (t *Transport) open(ctx context.Context, hosts []mx.Host) (deliver.Session, *mail.Failure) {
	told := &mail.Failure{Result: mail.Delay(mail.OfHost, mail.EnhancedCode{4, 4, 4}, "there is no host to try")}
	tries, never, missed := 0, t.Strangers && len(hosts) > 0, false
	for i, h := range hosts {
		for _, addr := range h.Addrs[:min(len(h.Addrs), maxAddrs)] {
			if tries++; tries > maxTries {
				return nil, told
			}
			at := h
			at.Addrs = []netip.Addr{addr}
			inner, failed := t.dial(ctx, at)
			if failed == nil {
				return t.session(inner, h, addr, hosts[i+1:], missed), nil
			}
			if tries == 1 || tellsMore(failed, told) {
				told = failed
			}
			final := failed.Action.Final() || failed.Remote && failed.Reply.Code == 521
			never, missed = never && final, missed || !final
			if ctx.Err() != nil && !failed.Action.Final() {
				return nil, failed
			}
			if failed.Remote && failed.Scope == mail.OfUs || failed.Action.Final() {
				break // another address of the same host has the same opinion of us
			}
		}
	}
	if never && tries > 0 {
		told.Action = mail.Failed
	}
	return nil, told
}

// inTurn returns the addresses of a host in the order to try them. After an attempt in vain the other family comes first:
// somewhere an address of ours may have a better name. The second attempt is made with the same address if there is no
// other family, for the sake of those who make strangers wait (greylisting).
func inTurn(h mx.Host, relay string, attempts int) []netip.Addr {
	text, ok := strings.CutPrefix(relay, h.Name+"[")
	end := strings.IndexByte(text, ']')
	if !ok || end < 0 {
		return h.Addrs
	}
	last, err := netip.ParseAddr(text[:end])
	if err != nil {
		return h.Addrs
	}
	rank := func(a netip.Addr) int {
		switch {
		case a.Is4() != last.Is4():
			return 0
		case a == last && attempts == 1:
			return 1
		}
		return 2
	}
	return slices.SortedStableFunc(slices.Values(h.Addrs), func(a, b netip.Addr) int { return cmp.Compare(rank(a), rank(b)) })
}

// tellsMore reports whether a later failure is to be reported rather than an earlier one: who spoke to us says more than
// who could not be reached, and the host's trouble more than that we have no way to it. Of two that say as much the later
// one counts. What is final for one host is not as long as another one may do better.
func tellsMore(later, earlier *mail.Failure) bool {
	if later.Action != earlier.Action {
		return !later.Action.Final()
	}
	if later.Remote != earlier.Remote {
		return later.Remote
	}
	return later.Scope == mail.OfHost || earlier.Scope == mail.OfUs
}

// dial opens a session with one address, unless that has just been tried in vain.
func (t *Transport) dial(ctx context.Context, h mx.Host) (deliver.Session, *mail.Failure) {
	at := placeOf(h, h.Addrs[0])
	if failed := t.memory.begin(ctx, at, t.now); failed != nil {
		return nil, failed
	}
	// Should Dial panic, nobody may wait for ever to hear what became of it.
	failed := asFailure(errors.New("internal error"))
	defer func() { t.memory.end(at, failed, t.now()) }()
	s, err := t.Dial(ctx, h)
	if err != nil {
		failed = asFailure(err)
		return nil, failed
	}
	failed = nil
	return s, nil
}

func (t *Transport) now() time.Time {
	if t.Now == nil {
		return time.Now()
	}
	return t.Now()
}

// asFailure returns an error as a failure; what is none is our own trouble.
func asFailure(err error) *mail.Failure {
	if f, ok := errors.AsType[*mail.Failure](err); ok {
		return f
	}
	return &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "%v", err)}
}
