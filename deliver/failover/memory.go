package failover

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/postrider/postrider/deliver/mx"
	"github.com/postrider/postrider/internal/mail"
)

// For how long an address is left alone that gave us no session: the shortest time after the first failure, twice as long
// after each further one, up to the longest.
const (
	downFirst = time.Minute
	downMost  = 5 * time.Minute
)

// A place is where a host is met: at an address, whatever the name, or, where only a proxy knows that, by name.
type place struct {
	name string
	addr netip.AddrPort
}

func placeOf(h mx.Host, addr netip.Addr) place {
	at := place{addr: netip.AddrPortFrom(addr, uint16(h.Port))}
	if !addr.IsValid() {
		at.name = h.Name
	}
	return at
}

// maxKnown is how many addresses are remembered.
const maxKnown = 4096

// A memory knows which addresses are of no use now. While nothing is known of one, only one session is tried there, and
// others wait to hear what becomes of it. Later they do not wait for who sees whether it has recovered.
type memory struct {
	mu    sync.Mutex
	known map[place]*acquaintance
}

// An acquaintance is an address that was tried.
type acquaintance struct {
	trying   chan struct{} // closed when it is known what it is worth; nil if nobody is finding out
	serves   bool
	failures int // in a row
	last     *mail.Failure
	until    time.Time // with failures: it is left alone
}

// security is the subject of status codes about that (RFC 3463 section 3.8).
const security = 7

// begin returns nil if a session may be tried: then end must be called. Otherwise it returns why not.
func (m *memory) begin(ctx context.Context, at place, now func() time.Time) *mail.Failure {
	for {
		wait, failed := m.look(at, now())
		if wait == nil {
			return failed
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 2}, "interrupted")}
		}
	}
}

// look returns what there is to wait for, or else whether and why an address is left alone.
func (m *memory) look(at place, now time.Time) (wait <-chan struct{}, failed *mail.Failure) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.known[at]
	switch {
	case a == nil:
		a = m.meet(at, now)
		a.trying = make(chan struct{})
	case a.serves:
	case a.trying != nil && a.failures == 0:
		return a.trying, nil
	case a.trying != nil || now.Before(a.until):
		return nil, notAgain(a.last.Result)
	default:
		a.trying = make(chan struct{})
	}
	return nil, nil
}

// notAgain is for an address that is left alone, in our own words.
func notAgain(last mail.Result) *mail.Failure {
	r := mail.Delay(mail.OfHost, last.Status(), "%s (not tried again so soon)", last.Reply)
	r.Relay = last.Relay
	return &mail.Failure{Result: r}
}

// meet makes a new acquaintance, and forgets others if there are too many.
func (m *memory) meet(at place, now time.Time) *acquaintance {
	if m.known == nil {
		m.known = map[place]*acquaintance{}
	}
	for old, a := range m.known {
		if len(m.known) < maxKnown {
			break
		}
		if a.trying == nil {
			delete(m.known, old)
		}
	}
	a := &acquaintance{}
	m.known[at] = a
	return a
}

// end says what became of a try. A host that answered is none to be left alone, whatever it said; nor does trouble of ours
// say anything of it, nor that it is not safe enough for the one who was to be served (x.7.z): others may want less.
func (m *memory) end(at place, failed *mail.Failure, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.known[at]
	if a == nil {
		return // forgotten meanwhile
	}
	if a.trying != nil {
		close(a.trying)
		a.trying = nil
	}
	switch {
	case failed == nil:
		a.serves, a.failures, a.last = true, 0, nil
	case !failed.Remote && failed.Scope == mail.OfHost && failed.Reply.Enhanced[1] != security:
		a.serves = false
		a.leaveAlone(failed, now)
	case !a.serves && a.failures == 0:
		delete(m.known, at)
	}
}

func (a *acquaintance) leaveAlone(failed *mail.Failure, now time.Time) {
	if now.Before(a.until) && a.failures > 0 {
		return // sessions that fail together are one failure
	}
	a.failures++
	a.last = failed
	a.until = now.Add(min(downFirst<<min(a.failures-1, 8), downMost))
}

// broke says that a host gave a session that was of no use.
func (m *memory) broke(at place, r mail.Result, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.known[at]; a != nil && a.trying == nil {
		a.serves = false
		a.leaveAlone(&mail.Failure{Result: r}, now)
	}
}
