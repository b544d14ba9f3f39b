package config

import (
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/postrider/postrider/internal/mail"
)

// An unexpected is the error for a value that is not what its key needs.
type unexpected struct {
	found *node
	want  string
}

func (u *unexpected) Error() string { return "found " + u.found.describe() + ", expected " + u.want }

func (n *node) want(what string) error { return &unexpected{n, what} }

func (n *node) isTable(header string) error {
	if n.kind != unstable.Table {
		return n.want("a table " + header)
	}
	return nil
}

// isTables asks for the tables of [[name]], or for the same written as a list of inline tables.
func (n *node) isTables(header string) error {
	if n.kind != unstable.ArrayTable && n.kind != unstable.Array {
		return n.want("tables " + header)
	}
	for _, item := range n.items {
		if item.kind != unstable.Table {
			return item.want("a table " + header)
		}
	}
	return nil
}

// at returns where the first of some keys that the table has stands.
func (n *node) at(keys ...string) int {
	for _, k := range keys {
		if v, ok := n.values[k]; ok {
			return v.offset
		}
	}
	return n.offset
}

func (n *node) string(to *string) error {
	if n.kind != unstable.String || n.text == "" {
		return n.want("a string in quotes, not empty")
	}
	*to = n.text
	return nil
}

// line takes what can be put into a reply or a report as it is.
func (n *node) line(to *string) error {
	if strings.ContainsFunc(n.text, isControl) {
		return n.want("text without control characters")
	}
	return n.string(to)
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func (n *node) word(to *string, words ...string) error {
	for _, w := range words {
		if n.kind == unstable.String && n.text == w {
			*to = w
			return nil
		}
	}
	return n.want(strings.Join(words, " or "))
}

func (n *node) path(to *string) error {
	if n.kind != unstable.String || !isPath(n.text) {
		return n.want(`an absolute path such as "/var/spool/postrider"`)
	}
	*to = filepath.Clean(n.text)
	return nil
}

// pathOrNone is path for a file that one can do without: "" says so.
func (n *node) pathOrNone(to *string) error {
	if n.kind == unstable.String && n.text == "" {
		*to = ""
		return nil
	}
	return n.path(to)
}

// secretPath is path for a file that holds a secret. It does not show what was found, which may be the secret itself.
func (n *node) secretPath(to *string) error {
	if n.path(to) != nil {
		return errors.New("expected the absolute path of a file that holds the password")
	}
	return nil
}

func (n *node) domain(to *string) error {
	if n.kind != unstable.String || !isDomain(n.text) {
		return n.want(`a domain such as "example.com"`)
	}
	*to = strings.ToLower(n.text)
	return nil
}

// hostName is domain for what a server is greeted with, and what stands in headers: ASCII (RFC 5321 section 4.1.2).
func (n *node) hostName(to *string) error {
	if !isASCII(n.text) {
		return n.want(`a host name in ASCII, with "xn--" for what is not`)
	}
	return n.domain(to)
}

func (n *node) domains(to *[]string) error {
	if n.kind != unstable.Array {
		return n.want(`a list such as ["localhost", "web1.example.com"]`)
	}
	*to = []string{}
	for _, item := range n.items {
		var domain string
		if err := item.domain(&domain); err != nil {
			return err
		}
		*to = append(*to, domain)
	}
	return nil
}

// resolvers takes a list of addresses, each with or without a port.
func (n *node) resolvers(to *[]string) error {
	const want = `a list of addresses such as ["192.0.2.53", "[2001:db8::53]:53"]`
	if n.kind != unstable.Array {
		return n.want(want)
	}
	*to = nil
	for _, item := range n.items {
		server, ok := nameServer(item.text)
		if item.kind != unstable.String || !ok {
			return item.want(want)
		}
		*to = append(*to, server)
	}
	return nil
}

// nameServer returns an address with a port. One of IPv6 needs brackets only before a port.
func nameServer(s string) (server string, ok bool) {
	s = strings.ToLower(s)
	host, digits, err := s, "", error(nil)
	if !isAddress(s) || !strings.Contains(s, ":") {
		host, digits, err = splitPort(s)
	}
	if digits == "" {
		digits = "53"
	}
	port, portErr := portNumber(digits)
	if err != nil || portErr != nil || !isAddress(host) {
		return "", false
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(port), true
}

// isAddress reports whether s looks like an IP address, as isHost does.
func isAddress(s string) bool {
	if strings.Contains(s, ":") {
		return isHost(s)
	}
	return strings.Count(s, ".") == 3 && strings.Trim(s, "0123456789.") == "" && isDomain(s)
}

func (n *node) port(to *int) error {
	port, err := portNumber(n.text)
	if n.kind != unstable.Integer || err != nil {
		return n.want("a port from 1 to 65535")
	}
	*to = port
	return nil
}

func (n *node) address(to *string) error {
	if n.kind != unstable.String {
		return n.want(`an address such as "ann@example.com"`)
	}
	a, err := address(n.text)
	if err != nil {
		return n.want(`an address such as "ann@example.com"`)
	}
	*to = a
	return nil
}

// addressOrDomain takes an address, or "@domain".
func (n *node) addressOrDomain(to *string) error {
	if domain, ok := strings.CutPrefix(strings.TrimPrefix(n.text, "*"), "@"); ok && n.kind == unstable.String && isDomain(domain) {
		*to = "@" + domain
		return nil
	}
	if n.address(to) != nil {
		return n.want(`an address such as "ann@example.com", or "@example.com" to change the domain`)
	}
	return nil
}

var errNoAddress = errors.New("not local-part@domain")

func address(s string) (string, error) {
	p, err := mail.ParsePath(s)
	if err != nil {
		return "", err
	}
	if p.Address() != s || !isDomain(p.Domain()) {
		return "", errNoAddress
	}
	return s, nil
}

// patterns takes a list of domains, of ".domain" for a domain and all below it, and of addresses; "*@domain" is another way
// to write a domain.
func (n *node) patterns(to *[]string) error {
	if n.kind != unstable.Array {
		return n.want(`a list such as ["example.com", ".example.net", "ann@example.org"]`)
	}
	for _, item := range n.items {
		if item.kind != unstable.String {
			return item.want(`a string in quotes`)
		}
		text, star := strings.CutPrefix(item.text, "*@")
		if _, err := address(text); (err != nil || star) && !isDomain(strings.TrimPrefix(text, ".")) {
			return item.want(`a domain, ".domain" or an address; leave the list out to match everything`)
		}
		*to = append(*to, strings.ToLower(text))
	}
	return nil
}

// count takes a whole number from least to a thousand, which is more than any count here has a use for.
func (n *node) count(to *int, least int) error {
	const most = 1000
	i, err := strconv.ParseInt(n.text, 0, 64)
	if n.kind != unstable.Integer || err != nil || i < int64(least) || i > most {
		return n.want("a whole number from " + strconv.Itoa(least) + " to " + strconv.Itoa(most))
	}
	*to = int(i)
	return nil
}

// rate takes "100/h".
func (n *node) rate(to *Rate) error {
	const most = 1_000_000
	count, unit, _ := strings.Cut(n.text, "/")
	per := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[unit]
	i, err := strconv.Atoi(count)
	if n.kind != unstable.String || err != nil || !isDigits(count) || i < 1 || i > most || per == 0 {
		return n.want(`recipients in a span such as "2/s", "30/m", "100/h" or "500/d"`)
	}
	*to = Rate{i, per}
	return nil
}

func (n *node) factor(to *float64) error {
	f, err := strconv.ParseFloat(strings.ReplaceAll(n.text, "_", ""), 64)
	number := n.kind == unstable.Integer || n.kind == unstable.Float
	if !number || err != nil || math.IsNaN(f) || f < 1 || f > 100 {
		return n.want("a number from 1 to 100")
	}
	*to = f
	return nil
}

// duration takes what Go's ParseDuration does, and days.
func (n *node) duration(to *time.Duration) error {
	const most = 365 * 24 * time.Hour
	d, err := time.ParseDuration(n.text)
	if days, ok := strings.CutSuffix(n.text, "d"); ok && isDigits(days) {
		var i int64
		i, err = strconv.ParseInt(days, 10, 16)
		d = time.Duration(i) * 24 * time.Hour
	}
	if n.kind != unstable.String || err != nil || d < time.Second || d > most {
		return n.want(`a duration from a second to a year such as "7m30s", "16h" or "5d"`)
	}
	*to = d
	return nil
}

var units = []struct {
	suffix string
	octets int64
}{{"KB", 1 << 10}, {"MB", 1 << 20}, {"GB", 1 << 30}, {"", 1}}

// size takes a number of octets, or a string with a number and a unit.
func (n *node) size(to *int64) error {
	text := n.text
	if n.kind != unstable.String {
		text = strings.ReplaceAll(text, "_", "")
	}
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		digits = strings.TrimSuffix(digits, " ")
		i, err := strconv.ParseInt(digits, 10, 64)
		if n.kind != unstable.String && n.kind != unstable.Integer || err != nil || !isDigits(digits) || i > math.MaxInt64/u.octets {
			break
		}
		*to = i * u.octets
		return nil
	}
	return n.want(`a size such as "25MB" or a number of octets; 0 for no limit`)
}

// placeholders are the arguments of a program that stand for something else.
var placeholders = []string{"{sender}", "{recipient}", "{user}", "{domain}"}

// arguments takes a list of strings. What looks like a placeholder must be one: it would be believed to be replaced.
func (n *node) arguments(to *[]string) error {
	if n.kind != unstable.Array {
		return n.want(`a list such as ["-f", "{sender}", "{recipient}"]`)
	}
	*to = []string{}
	for _, item := range n.items {
		if item.kind != unstable.String || strings.ContainsRune(item.text, 0) {
			return item.want("a string in quotes")
		}
		if strings.ContainsAny(item.text, "{}") && !slices.Contains(placeholders, item.text) {
			return item.want("one of " + strings.Join(placeholders, ", ") + " as an argument of its own, or an argument without braces")
		}
		*to = append(*to, item.text)
	}
	return nil
}
