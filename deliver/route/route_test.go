package route

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/mail"
)

func path(t testing.TB, s string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var rules = []Rule{
	{To: []string{"boss@example.com"}, Transport: "desk"},
	{To: []string{"host.example.com"}, Transport: "host"},
	{To: []string{".Example.com"}, From: []string{"web@Example.org", ".apps.example.org"}, Transport: "apps"},
	{To: []string{"example.com", "Sub.example.com"}, MinAttempts: 3, Transport: "backup"},
	{To: []string{".example.com"}, Transport: "lan"},
	{To: []string{"[192.0.2.1]"}, Transport: "literal"},
	{To: []string{".mx.example"}, Transport: "mx", PerDomain: true},
	{To: []string{"Ann@Bücher.example"}, Transport: "ann-idn"},
	{To: []string{".bücher.example", "xn--strae-oqa.example"}, Transport: "idn", PerDomain: true},
	{From: []string{"ann@example.org"}, Transport: "ann"},
}

func TestNextHop(t *testing.T) {
	tests := []struct {
		name, sender, rcpt string
		attempts           int
		want               string
	}{
		{"an address", "", "boss@example.com", 0, "desk"},
		{"an address in other case", "", "Boss@EXAMPLE.COM", 0, "desk"},
		{"another address of its domain", "", "bos@example.com", 0, "lan"},
		{"a domain", "", "ann@host.example.com", 0, "host"},
		{"a domain is not those below it", "", "ann@a.host.example.com", 0, "lan"},
		{"a leading dot is the domain itself", "", "ann@example.com", 0, "lan"},
		{"and all below", "", "ann@a.b.example.com", 0, "lan"},
		{"but no other that ends so", "", "ann@badexample.com", 0, "none"},
		{"nor the domain above", "", "ann@com", 0, "none"},
		{"a root dot changes nothing", "", "ann@host.example.com.", 0, "host"},
		{"the first match counts", "web@example.org", "ann@host.example.com", 0, "host"},
		{"a sender", "web@example.org", "ann@example.com", 0, "apps"},
		{"a sender in other case", "Web@Example.ORG", "ann@example.com", 0, "apps"},
		{"a sender's domain", "x@apps.example.org", "ann@example.com", 0, "apps"},
		{"and one below it", "x@y.apps.example.org", "ann@example.com", 0, "apps"},
		{"another sender", "ann@example.com", "ann@example.com", 0, "lan"},
		{"too few attempts", "", "ann@sub.example.com", 2, "lan"},
		{"enough attempts", "", "ann@sub.example.com", 3, "backup"},
		{"more than enough", "", "ann@example.com", 30, "backup"},
		{"an address literal", "", "ann@[192.0.2.1]", 0, "literal"},
		{"an @ in quotes", "", `"x@host.example.com"@example.com`, 0, "lan"},
		{"each domain for itself", "", "ann@A.mx.example", 0, "mx/a.mx.example"},
		{"a domain beyond ASCII", "", "bob@BÜCHER.example.", 0, "idn/xn--bcher-kva.example"},
		{"and in A-labels", "", "bob@mail.xn--bcher-kva.example", 0, "idn/mail.xn--bcher-kva.example"},
		{"a rule in A-labels", "", "bob@straße.example", 0, "idn/xn--strae-oqa.example"},
		{"an address beyond ASCII", "", "ann@xn--bcher-kva.example", 0, "ann-idn"},
		{"a domain that is none", "", "bob@b\xfccher.example", 0, "none"},
		{"any recipient", "ann@example.org", "bob@example.net", 0, "ann"},
		{"a recipient without domain", "ann@example.org", "bob", 0, "ann"},
		{"a recipient without domain and nothing for all", "", "bob", 0, "none"},
		{"a bare name that looks like a domain", "", "host.example.com", 0, "none"},
		{"the null sender is in no list", "", "bob@example.net", 0, "none"},
	}
	table := New(rules)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			hop, err := table.NextHop(path(t, tt.sender), path(t, tt.rcpt), tt.attempts)
			if tt.want == "none" {
				if !errors.Is(err, ErrNoRoute) {
					t.Errorf("NextHop = %v, %v, want ErrNoRoute", hop, err)
				}
				return
			}
			if err != nil || hop.String() != tt.want {
				t.Errorf("NextHop = %v, %v, want %s", hop, err, tt.want)
			}
		})
	}
}

func TestNoRules(t *testing.T) {
	if hop, err := (Table{}).NextHop(mail.NullSender, path(t, "a@b.example"), 0); err != ErrNoRoute {
		t.Errorf("NextHop = %v, %v, want ErrNoRoute", hop, err)
	}
}

func TestHop(t *testing.T) {
	for _, h := range []Hop{
		{"relay", "", mail.TLSUnsaid}, {"mx", "example.com", mail.TLSUnsaid}, {"mx", "[192.0.2.1]", mail.TLSUnsaid}, {"mx", "a/b", mail.TLSUnsaid},
		{"mx", "example.com", mail.TLSRequired}, {"mx", "[IPv6:2001:db8::1]", mail.TLSNotRequired}, {"mx", "a:requiretls", mail.TLSUnsaid},
	} {
		got, err := ParseHop(h.String())
		if err != nil || got != h {
			t.Errorf("ParseHop(%q) = %v, %v, want %#v", h.String(), got, err, h)
		}
	}
	for _, s := range []string{"", "/", "mx/", "/example.com"} {
		if h, err := ParseHop(s); err == nil {
			t.Errorf("ParseHop(%q) = %#v, want an error", s, h)
		}
	}
}

func TestFingerprint(t *testing.T) {
	seen := map[string]string{}
	for name, rules := range map[string][]Rule{
		"none":          nil,
		"as they are":   rules,
		"one less":      rules[1:],
		"turned round":  {rules[1], rules[0]},
		"in order":      {rules[0], rules[1]},
		"to":            {{To: []string{"a", "b"}, Transport: "x"}},
		"to joined":     {{To: []string{"a b"}, Transport: "x"}},
		"from":          {{From: []string{"a", "b"}, Transport: "x"}},
		"later":         {{To: []string{"a", "b"}, Transport: "x", MinAttempts: 1}},
		"per domain":    {{To: []string{"a", "b"}, Transport: "x", PerDomain: true}},
		"somewhere new": {{To: []string{"a", "b"}, Transport: "y"}},
	} {
		f := New(rules).Fingerprint()
		if old, ok := seen[f]; ok {
			t.Errorf("%s and %s have the same fingerprint", old, name)
		}
		seen[f] = name
		if again := New(rules).Fingerprint(); again != f {
			t.Errorf("%s: the fingerprint changed by itself", name)
		}
	}
}

// slow is NextHop as its documentation tells it: each rule in turn, each pattern in turn.
func slow(rules []Rule, sender, rcpt mail.Path, attempts int) (string, bool) {
	match := func(list []string, p mail.Path) bool {
		if len(list) == 0 {
			return true
		}
		if p.Domain() == "" {
			return false
		}
		address, domain := strings.TrimSuffix(strings.ToLower(p.Address()), "."), strings.TrimSuffix(p.Domain(), ".")
		for _, s := range list {
			s = strings.TrimSuffix(strings.ToLower(s), ".")
			if s == address || s == domain || strings.HasPrefix(s, ".") && strings.HasSuffix("."+domain, s) {
				return true
			}
		}
		return false
	}
	for _, r := range rules {
		if match(r.To, rcpt) && match(r.From, sender) && attempts >= r.MinAttempts {
			return r.Transport, true
		}
	}
	return "", false
}

// FuzzNextHop lets the table find what going through the rules one by one finds.
func FuzzNextHop(f *testing.F) {
	f.Add("web@example.org", "ann@a.example.com", 2)
	f.Add("", "boss@example.com.", 0)
	f.Add("ann@example.org", `"a@b"@mx.example`, 5)
	f.Add("x@y.apps.example.org", "a@..example.com", 9)
	table := New(rules)
	f.Fuzz(func(t *testing.T, from, to string, attempts int) {
		sender, err := mail.ParsePath(from)
		if err != nil {
			return
		}
		rcpt, err := mail.ParsePath(to)
		if err != nil || rcpt.IsNull() {
			return
		}
		hop, err := table.NextHop(sender, rcpt, attempts)
		want, ok := slow(rules, sender, rcpt, attempts)
		if ok != (err == nil) || hop.Transport != want {
			t.Fatalf("NextHop(%v, %v, %d) = %v, %v, want %s", sender, rcpt, attempts, hop, err, want)
		}
		if err == nil {
			if again, err := ParseHop(hop.String()); err != nil || again != hop {
				t.Errorf("ParseHop(%q) = %v, %v", hop.String(), again, err)
			}
		}
	})
}

func BenchmarkNextHop(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			var many []Rule
			for i := range n {
				many = append(many, Rule{To: []string{fmt.Sprintf(".d%d.example", i)}, Transport: "x"})
			}
			table := New(append(many, Rule{Transport: "relay"}))
			sender, rcpt := path(b, "cron@web1.example.com"), path(b, "ann@mail.example.net")
			for b.Loop() {
				if _, err := table.NextHop(sender, rcpt, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
