package config

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

// A scheme is a kind of transport. A further one is a row of schemes.
type scheme struct {
	name        string
	form        form
	port        int
	tls         []string // what its tls may be, the default first
	concurrency int      // default
	login       bool     // takes USER@ in front of the host
	text        string   // default
	timeout     time.Duration
}

// form is what follows the scheme in a URL.
type form uint8

const (
	overNetwork form = iota // //USER@HOST:PORT
	toPath                  // an absolute path
	toMailbox               // likewise; {user} and {home} are the recipient's
	alone                   // nothing
)

// schemes lists the kinds of transport, in the order in which they are explained. Three sessions at once are what large
// providers allow one submitter; servers for everybody allow more.
var schemes = []scheme{
	{name: "smtp", form: overNetwork, port: 25, tls: []string{TLSMay, TLSVerify, TLSNone}, concurrency: 10, login: true},
	{name: "submission", form: overNetwork, port: 587, tls: []string{TLSVerify, TLSMay, TLSNone}, concurrency: 3, login: true},
	{name: "submissions", form: overNetwork, port: 465, tls: []string{TLSVerify, TLSMay}, concurrency: 3, login: true},
	{name: "mx", form: alone, port: 25, tls: []string{TLSMay, TLSVerify, TLSNone}, concurrency: 5},
	{name: "lmtp", form: overNetwork, port: 24, tls: []string{TLSMay, TLSVerify, TLSNone}, concurrency: 4, login: true},
	{name: "lmtp+unix", form: toPath, concurrency: 4},
	{name: "maildir", form: toMailbox, concurrency: 4},
	{name: "mbox", form: toMailbox, concurrency: 1},
	{name: "pipe", form: toPath, concurrency: 4, timeout: 30 * time.Second},
	{name: "discard", form: alone, concurrency: 1},
	{name: "fail", form: alone, concurrency: 1, text: "mail to this address is not sent from this host"},
}

// takes reports whether a key of [transport.NAME] has a meaning for the scheme. Keys that are unknown to all are left
// to the reader of the table.
func (s *scheme) takes(key string) bool {
	switch key {
	case "tls", "ca_file", "socks", "socks_password_file":
		return len(s.tls) > 0
	case "port":
		return s.port > 0 && s.form == alone // otherwise it is in the URL
	case "password_file":
		return s.login
	case "text":
		return s.text != ""
	case "run_as":
		return s.form == toMailbox || s.timeout > 0
	case "args", "timeout":
		return s.timeout > 0
	}
	return true
}

// schemeNamed returns the scheme, or one without a name.
func schemeNamed(name string) *scheme {
	for i := range schemes {
		if schemes[i].name == name {
			return &schemes[i]
		}
	}
	return &scheme{}
}

func schemeNames() string {
	var names []string
	for _, s := range schemes {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// newTransport returns a transport of the scheme with its defaults.
func newTransport(name string, s *scheme) Transport {
	t := Transport{Name: name, Scheme: s.name, Port: s.port, Concurrency: s.concurrency, Text: s.text, Timeout: s.timeout}
	if len(s.tls) > 0 {
		t.TLS = s.tls[0]
	}
	return t
}

func (t *Transport) scheme() *scheme { return schemeNamed(t.Scheme) }

// setURL makes t what the URL says, with the defaults of its scheme. A list of URLs names servers that stand in for the
// first one.
func (t *Transport) setURL(v *node) error {
	const want = `a URL in quotes such as "smtp://mail.example.com"`
	if v.kind != unstable.Array {
		return v.url(t, want)
	}
	if len(v.items) == 0 {
		return v.want(want)
	}
	if err := v.items[0].url(t, want); err != nil {
		return err
	}
	for _, item := range v.items[1:] {
		other := Transport{Name: t.Name}
		if err := item.url(&other, want); err != nil {
			return err
		}
		if t.scheme().form != overNetwork || other.Scheme != t.Scheme || other.User != t.User || other.TLS != t.TLS || t.SRV || other.SRV {
			return errors.New("servers that stand in for each other have the same scheme, which is one for servers without +srv, and the same user")
		}
		t.Others = append(t.Others, Server{other.Host, other.Port})
	}
	return nil
}

// url takes one URL.
func (n *node) url(t *Transport, want string) error {
	if n.kind != unstable.String {
		return n.want(want)
	}
	return t.parseURL(n.text)
}

// parseURL makes t, of which the name is known, what a URL says. Its errors say no more of the URL than scheme and host: somebody may have
// written a password into it.
func (t *Transport) parseURL(url string) error {
	before, rest, found := strings.Cut(url, ":")
	kind, srv := strings.CutSuffix(strings.ToLower(before), "+srv")
	s := schemeNamed(kind)
	if s.name == "" || srv && s.name != "submission" && s.name != "submissions" {
		return unknownScheme(before, found)
	}
	*t = newTransport(t.Name, s)
	t.SRV = srv
	switch s.form {
	case toPath, toMailbox:
		if s.form == toMailbox {
			if err := checkPlaceholders(rest); err != nil {
				return err
			}
		}
		if !isPath(rest) && !(s.form == toMailbox && strings.HasPrefix(rest, "{home}/")) {
			example := "/var/mail/archive"
			switch s.name {
			case "pipe":
				example = "/usr/local/bin/program"
			case "lmtp+unix":
				example = "/run/dovecot/lmtp"
			}
			return fmt.Errorf("%s needs an absolute path: %s:%s", s.name, s.name, example)
		}
		t.Path = filepath.Clean(rest)
		if s.form == toMailbox && t.ForUsers() {
			t.RunAs, t.Concurrency = Recipient, perUser
		}
	case alone:
		if rest != "" {
			return fmt.Errorf("expected %s: and nothing after it", s.name)
		}
	case overNetwork:
		rest, found = strings.CutPrefix(rest, "//")
		if !found {
			return fmt.Errorf("expected a host, as in %s://mail.example.com", s.name)
		}
		if err := t.setAuthority(rest); err != nil {
			return err
		}
	}
	return nil
}

// perUser is how many sessions there are by themselves for mailboxes of which each user has one.
const perUser = 4

// checkPlaceholders sees that nothing in a path looks as if it were replaced and is not.
func checkPlaceholders(path string) error {
	home, rest := strings.CutPrefix(path, "{home}/")
	if rest {
		path = home
	}
	if strings.ContainsAny(strings.ReplaceAll(path, "{user}", ""), "{}") {
		return errors.New(`expected {home} at the start of the path, {user} anywhere in it, and no other braces`)
	}
	return nil
}

// unknownScheme is the error for what stands before the first colon, or for all of the URL if it has no colon.
func unknownScheme(before string, colon bool) error {
	if !colon && isDomain(before) {
		return fmt.Errorf("expected a URL, as in smtp://%s or submission://USER@%s", before, before)
	}
	if !colon || !isName(before) {
		return fmt.Errorf("expected a URL that starts with one of %s and a colon", schemeNames())
	}
	return fmt.Errorf("unknown scheme %s; expected one of %s", quote(before), schemeNames())
}

// setAuthority makes t lead to USER@HOST:PORT.
func (t *Transport) setAuthority(s string) error {
	user, host, port, err := parseAuthority(s, "password_file")
	if err != nil {
		return err
	}
	if t.SRV && (port > 0 || isAddress(host)) {
		return fmt.Errorf("expected a domain after %s+srv://, which has SRV records that name servers and ports", t.Scheme)
	}
	if port > 0 {
		t.Port = port
	}
	switch t.User, t.Host = user, host; {
	case user != "":
		// A password is not for whoever answers: a login wants to know the server, whatever the scheme is content with.
		t.TLS = TLSVerify
	case t.Scheme == "lmtp" && isLoopback(host):
		t.TLS = TLSNone // nothing leaves this host
	}
	if t.Scheme == "lmtp" && t.Port == smtpPort {
		return errors.New("port 25 is for SMTP, and whoever answers there does not expect LMTP (RFC 2033 section 5)")
	}
	return nil
}

const smtpPort = 25

// isLoopback reports whether a host in a URL is this one, by the names for that which all hosts have.
func isLoopback(host string) bool {
	return host == "localhost" || host == "::1" || strings.HasPrefix(host, "127.") && strings.Trim(host, "0123456789.") == ""
}

// parseAuthority reads USER@HOST:PORT (RFC 3986 section 3.2). The user may contain an @ as it is; the port is 0 if there
// is none. passwordKey says where the password belongs.
func parseAuthority(s, passwordKey string) (user, host string, port int, err error) {
	if at := strings.LastIndexByte(s, '@'); at >= 0 {
		if user, err = parseUser(s[:at], passwordKey); err != nil {
			return "", "", 0, err
		}
		s = s[at+1:]
	}
	host, digits, err := splitPort(s)
	if err != nil {
		return "", "", 0, err
	}
	if host = strings.ToLower(host); !isHost(host) {
		if strings.ContainsAny(s, "@:/?#") {
			return "", "", 0, errors.New("expected [USER@]HOST[:PORT] after //")
		}
		return "", "", 0, fmt.Errorf("%s is not a host name or address", quote(host))
	}
	if digits == "" {
		return user, host, 0, nil
	}
	if port, err = portNumber(digits); err != nil {
		return "", "", 0, errors.New("the port after the host's colon must be a number from 1 to 65535")
	}
	return user, host, port, nil
}

func portNumber(s string) (int, error) {
	port, err := strconv.Atoi(s)
	if err == nil && (port < 1 || port > 65535 || !isDigits(s)) {
		err = strconv.ErrRange
	}
	return port, err
}

// socks makes to the proxy that a URL names. Like parseURL, it does not repeat the URL.
func (n *node) socks(to *Socks) error {
	rest, ok := strings.CutPrefix(n.text, "socks5://")
	if n.kind != unstable.String || !ok {
		return errors.New(`expected a URL that starts with socks5://, as in "socks5://127.0.0.1:1080"`)
	}
	user, host, port, err := parseAuthority(rest, "socks_password_file")
	if err == nil {
		to.User, to.Host, to.Port = user, host, cmp.Or(port, socksPort)
	}
	return err
}

// socksPort is where a SOCKS proxy listens unless told otherwise (RFC 1928 section 3).
const socksPort = 1080

// splitPort parts HOST:PORT; an IPv6 address stands in brackets.
func splitPort(s string) (host, port string, err error) {
	if rest, bracket := strings.CutPrefix(s, "["); bracket {
		host, after, found := strings.Cut(rest, "]")
		port, colon := strings.CutPrefix(after, ":")
		if !found || after != "" && (!colon || port == "") || !strings.Contains(host, ":") {
			return "", "", errors.New("expected an IPv6 address in brackets, as in smtp://[2001:db8::25]:25")
		}
		return host, port, nil
	}
	host, port, colon := strings.Cut(s, ":")
	if strings.Contains(port, ":") {
		return "", "", errors.New("an IPv6 address needs brackets, as in smtp://[2001:db8::25]:25")
	}
	if colon && port == "" {
		return "", "", errors.New("a port must follow the host's colon")
	}
	return host, port, nil
}

// parseUser decodes %XX in a login name.
func parseUser(s, passwordKey string) (string, error) {
	if strings.Contains(s, ":") {
		return "", errors.New("a password has no place in a URL; put it into a file and name that with " + passwordKey +
			" (a colon in the user's name is written %3A)")
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return "", errors.New("two hexadecimal digits must follow % in the user's name")
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", errors.New("two hexadecimal digits must follow % in the user's name")
			}
			c = byte(n)
			i += 2
		}
		if c < ' ' || c == 0x7f {
			return "", errors.New("control character in the user's name")
		}
		b.WriteByte(c)
	}
	if b.Len() == 0 {
		return "", errors.New("expected a user's name before @")
	}
	return b.String(), nil
}

// isHost takes a name, an IPv4 address, which has the same form, and what looks like an IPv6 address. Whether it is one
// comes out at dialling: package net/netip would cost every sendmail a twentieth of its start.
func isHost(s string) bool {
	address, zone, zoned := strings.Cut(s, "%")
	if strings.Count(address, ":") >= 2 && strings.Trim(address, "0123456789abcdef:.") == "" {
		return !zoned || isName(zone)
	}
	return isDomain(s)
}

func isDigits(s string) bool { return strings.Trim(s, "0123456789") == "" }

// isName reports whether s can name a transport: route keys and log lines contain it as it is.
func isName(s string) bool {
	for i := range len(s) {
		if !isAlphanumeric(s[i]) && s[i] != '-' && s[i] != '_' && s[i] != '+' {
			return false
		}
	}
	return s != "" && len(s) <= 40
}

func isPath(s string) bool { return filepath.IsAbs(s) && !strings.ContainsRune(s, 0) }
