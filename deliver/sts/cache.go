// Package sts knows the MTA-STS policies (RFC 8461) of domains: by which names their hosts can be told, and whether these must
// prove them by TLS.
//
// A policy that is known is in force until its time is over, whatever happens to its source: somebody who can keep us from
// reading it must not be able to make us forget it. Nothing that goes wrong here refuses mail.
package sts

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/postrider/postrider/deliver/dns"
)

// A Cache returns the policies of domains, and remembers them. All fields but File must be set. Several goroutines may use
// it at once.
type Cache struct {
	TXT   func(ctx context.Context, name string) ([]string, error) // as dns.Resolver has it
	Fetch func(ctx context.Context, domain string) (string, error) // the text of a policy
	Now   func() time.Time
	Logf  func(format string, args ...any)
	// File is the path of a file that keeps what is known for other processes, of which only one may use it at a time; ""
	// means that it is forgotten with this one.
	File string

	once    sync.Once
	mu      sync.Mutex
	entries map[string]entry         // by domain
	asking  map[string]chan struct{} // closed when it is known what a domain says
	lines   int                      // in the file
}

// When a policy is fetched again.
const (
	refresh     = 24 * time.Hour  // after the last time, though its record is the same
	retry       = 5 * time.Minute // after it could not be
	retryUrgent = time.Hour       // likewise, where the one that is known need not have changed
)

// An entry is what is known of a domain.
type entry struct {
	Domain  string
	ID      string        `json:",omitempty"` // of the record when the policy was fetched
	Mode    Mode          `json:",omitempty"`
	Hosts   []string      `json:",omitempty"`
	MaxAge  time.Duration `json:",omitempty"`
	Fetched time.Time     `json:",omitzero"`
	Failed  time.Time     `json:",omitzero"` // when it could last not be fetched; zero if nothing has failed since
	missed  bool          // the log says that the record is gone
}

func (e *entry) policy() Policy { return Policy{e.Mode, e.Hosts, e.MaxAge} }

// holds reports whether the policy is in force.
func (e *entry) holds(now time.Time) bool {
	return e.Mode != "" && now.Before(e.Fetched.Add(e.MaxAge))
}

// rests reports whether the policy need not be fetched for a record that has this id.
func (e *entry) rests(id string, now time.Time) bool {
	pause := retry
	if e.holds(now) && e.ID == id {
		if now.Before(e.Fetched.Add(refresh)) {
			return true
		}
		pause = retryUrgent
	}
	since := now.Sub(e.Failed)
	return !e.Failed.IsZero() && since >= 0 && since < pause
}

// Policy returns the policy of a domain, which is in lower case and ASCII. The error is that of DNS, if nothing is known and
// cannot be found out now.
func (c *Cache) Policy(ctx context.Context, domain string) (Policy, error) {
	c.once.Do(c.load)
	if err := c.begin(ctx, domain); err != nil {
		return Policy{}, err
	}
	defer c.end(domain)
	e := c.known(domain)
	texts, err := c.TXT(ctx, "_mta-sts."+domain)
	id := parseRecord(texts)
	now := c.Now()
	none := id == "" && (err == nil || dns.KindOf(err) == dns.NoName || dns.KindOf(err) == dns.NoRecord)
	switch {
	case none && e.holds(now):
		if e.Mode == Enforce && !e.missed {
			c.Logf("MTA-STS: %s says no more that it has a policy; the one that it had holds", domain)
			e.missed = true
			c.remember(e)
		}
		return e.policy(), nil
	case none:
		return Policy{}, nil
	case id == "" && !e.holds(now):
		return Policy{}, err
	case id != "" && !e.rests(id, now):
		if e, err = c.fetch(ctx, e, id); err != nil {
			return Policy{}, err
		}
	}
	if !e.holds(now) {
		return Policy{}, nil
	}
	return e.policy(), nil
}

// fetch fetches the policy that a record with this id announces, and returns what is known then. Its error is only that it
// was interrupted.
func (c *Cache) fetch(ctx context.Context, e entry, id string) (entry, error) {
	text, err := c.Fetch(ctx, e.Domain)
	if ctx.Err() != nil {
		return e, ctx.Err()
	}
	var p Policy
	if err == nil {
		p, err = ParsePolicy(text)
	}
	now := c.Now()
	if err == nil {
		e = entry{Domain: e.Domain, ID: id, Mode: p.Mode, Hosts: p.Hosts, MaxAge: p.MaxAge, Fetched: now}
	} else {
		e.Failed = now
		instead := "mail goes on without"
		if e.holds(now) {
			instead = "the one that is known holds"
		}
		c.Logf("MTA-STS: no policy from %s, %s: %s", e.Domain, instead, plain(err))
	}
	c.keep(e)
	return e, nil
}

// plain returns the words of an error as a log can have them: a stranger's server may have chosen some.
func plain(err error) string {
	const most = 400
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, err.Error())
	return text[:min(len(text), most)]
}

// begin waits until nobody asks about a domain; end must follow.
func (c *Cache) begin(ctx context.Context, domain string) error {
	for {
		c.mu.Lock()
		busy := c.asking[domain]
		if busy == nil {
			c.asking[domain] = make(chan struct{})
		}
		c.mu.Unlock()
		if busy == nil {
			return nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *Cache) end(domain string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.asking[domain])
	delete(c.asking, domain)
}

// known returns what is known of a domain.
func (c *Cache) known(domain string) entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[domain]; ok {
		return e
	}
	return entry{Domain: domain}
}
