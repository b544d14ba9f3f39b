// Package route says where mail for a recipient goes next: the first rule that matches sender, recipient and number of
// attempts names the transport. It opens no connection and asks no server.
package route

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/postrider/postrider/deliver/idn"
	"github.com/postrider/postrider/internal/mail"
)

// A Rule sends the mail it matches to a transport. To and From list addresses, domains, and ".domain" for a domain and
// all below it, in any case; an empty list matches everything. A list of senders never matches the null sender.
type Rule struct {
	To, From    []string
	MinAttempts int    // the rule waits until so many attempts have been made
	Transport   string // has no "/" and no ":"
	PerDomain   bool   // each domain is a next hop of its own, as it is for a transport that looks up MX records
}

// A Table is a list of rules of which the first that matches counts. Its zero value has none.
type Table struct {
	rules       []rule
	exact       map[string][]int // addresses and domains of To in lower case to the rules that have them, in order
	below       map[string][]int // likewise, "domain" of ".domain"
	everybody   []int            // the rules without To
	fingerprint string
}

// A rule is what is left to look at once To matches.
type rule struct {
	from patterns
	Rule
}

// patterns is one list of a rule, in lower case.
type patterns struct{ exact, below map[string]bool }

// New returns the table of rules.
func New(rules []Rule) Table {
	t := Table{exact: map[string][]int{}, below: map[string][]int{}}
	hash := sha256.New()
	for i, r := range rules {
		fmt.Fprintf(hash, "%q %q %d %q %v\n", r.To, r.From, r.MinAttempts, r.Transport, r.PerDomain)
		t.rules = append(t.rules, rule{newPatterns(r.From), r})
		if len(r.To) == 0 {
			t.everybody = append(t.everybody, i)
		}
		to := newPatterns(r.To)
		for p := range to.exact {
			t.exact[p] = append(t.exact[p], i)
		}
		for p := range to.below {
			t.below[p] = append(t.below[p], i)
		}
	}
	t.fingerprint = hex.EncodeToString(hash.Sum(nil)[:8])
	return t
}

func newPatterns(list []string) patterns {
	p := patterns{map[string]bool{}, map[string]bool{}}
	for _, s := range list {
		s = strings.ToLower(s)
		if domain, ok := strings.CutPrefix(s, "."); ok {
			p.below[canonical(domain)] = true
		} else if at := strings.LastIndexByte(s, '@'); at >= 0 {
			p.exact[s[:at+1]+canonical(s[at+1:])] = true
		} else {
			p.exact[canonical(s)] = true
		}
	}
	return p
}

// canonical returns a domain in lower case as it is compared: in A-labels, and without the dot of the root.
func canonical(domain string) string {
	domain = strings.TrimSuffix(domain, ".")
	if a, err := idn.Domain(domain); err == nil {
		return a
	}
	return domain // which is none, and matches only itself
}

func (p patterns) empty() bool { return len(p.exact)+len(p.below) == 0 }

// Fingerprint changes when any rule does: what was routed under another one must be routed again.
func (t Table) Fingerprint() string { return t.fingerprint }

// ErrNoRoute is the error for mail that no rule matches, in words for whoever can change that.
var ErrNoRoute = errors.New("no route: set relay in postrider.toml")

// NextHop returns where mail from sender to rcpt goes when so many attempts have been made, or ErrNoRoute.
func (t Table) NextHop(sender, rcpt mail.Path, attempts int) (Hop, error) {
	names := namesOf(rcpt)
	first := len(t.rules)
	consider := func(candidates []int) {
		for _, i := range candidates {
			if i >= first {
				return
			}
			if attempts >= t.rules[i].MinAttempts && t.rules[i].from.match(sender) {
				first = i
				return
			}
		}
	}
	consider(t.everybody)
	consider(t.exact[names.address])
	consider(t.exact[names.domain])
	for domain := range names.above {
		consider(t.below[domain])
	}
	if first == len(t.rules) {
		return Hop{}, ErrNoRoute
	}
	r := t.rules[first]
	if r.PerDomain {
		return Hop{Transport: r.Transport, Domain: names.domain}, nil
	}
	return Hop{Transport: r.Transport}, nil
}

// match reports whether a list of senders matches.
func (p patterns) match(sender mail.Path) bool {
	if p.empty() {
		return true
	}
	if sender.IsNull() {
		return false
	}
	names := namesOf(sender)
	if p.exact[names.address] || p.exact[names.domain] {
		return true
	}
	for domain := range names.above {
		if p.below[domain] {
			return true
		}
	}
	return false
}

// names is what an address can be matched by, in lower case, the domain as canonical returns it. A bare name has nothing
// that matches: it must not be taken for a domain.
type names struct{ address, domain string }

func namesOf(p mail.Path) names {
	domain := canonical(p.Domain())
	if domain == "" {
		return names{}
	}
	return names{strings.ToLower(p.Local()) + "@" + domain, domain}
}

// above yields the domain and each one above it: a.example.com, example.com, com.
func (n names) above(yield func(string) bool) {
	for domain, found := n.domain, n.domain != ""; found && yield(domain); {
		_, domain, found = strings.Cut(domain, ".")
	}
}

// A Hop is a next hop: what has one connection, or one queue of connections, to itself. It is the transport and, if its
// domains go different ways, the recipient's domain in lower case and A-labels.
type Hop struct {
	Transport string
	Domain    string       // "" if the transport has one destination
	TLS       mail.TLSWish // of the mail that has a next hop of its own for that
}

// marks stand behind the transport of a hop with a TLS wish.
var marks = [...]string{mail.TLSRequired: ":requiretls", mail.TLSNotRequired: ":tls-required-no"}

// String returns the hop as a key, "relay", "mx/example.com" or "mx:requiretls/example.com", which ParseHop reads.
func (h Hop) String() string {
	if h.Domain == "" {
		return h.Transport + marks[h.TLS]
	}
	return h.Transport + marks[h.TLS] + "/" + h.Domain
}

// ParseHop reads what String wrote.
func ParseHop(s string) (Hop, error) {
	transport, domain, found := strings.Cut(s, "/")
	if transport == "" || found && domain == "" {
		return Hop{}, fmt.Errorf("%q is not a next hop", s)
	}
	h := Hop{Transport: transport, Domain: domain}
	for _, wish := range []mail.TLSWish{mail.TLSRequired, mail.TLSNotRequired} {
		if name, ok := strings.CutSuffix(transport, marks[wish]); ok && name != "" {
			h.Transport, h.TLS = name, wish
			break
		}
	}
	return h, nil
}
