package config

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzParse reads any text. What is refused is refused at a place in it; what is accepted can be relied upon, and can be
// written down again as a file that means the same.
func FuzzParse(f *testing.F) {
	f.Add(`relay = "submission://ann@mail"` + "\npassword_file = \"/p\"\n[retry]\nfirst = \"1m\"\nattempts = 0x1F\nfactor = 1_0.5e0")
	f.Add("[transport]\na.url = \"smtp://[fd00::1]:2525\"\na.tls = 'none'\n[[route]]\nto = [\".a\", \"b@c\"]\ntransport = \"a\"\n[[route]]\ntransport = \"a\"")
	f.Add("route = [{transport = \"a\", from = []}]\ntransport = {a = {url = \"fail:\", text = \"\"\"\nno\"\"\"}}")
	f.Add("force_from=\"a@b\"\n[rewrite]\nroot=\"@b\"\n\"*@.a\"=\"*@b\"\n\"root@a.b\" = \"c@d\"\n[transport.x]\nurl='maildir:/a/../b'\nconcurrency=1000")
	f.Add("max_message_size = \"1 GB\"\nspool = \"/\\u00e9\"\n\"log\" = \"stderr\" # x\r\n")
	f.Add("[transport.a]\nurl = 'smtp://a'\nsocks = 'socks5://b%3a@[::1]:9'\nsocks_password_file = '/p'")
	f.Add("[listen]\nsmtp=['127.0.0.1:25','[::1]:25',\"unix:/r\"]\npeers=['10.0.0.0/8', '::ffff:1.2.3.4']\nusers=[]")
	f.Add("[listen]\nsmtp=['']")
	f.Add("\ufefflog = 5")
	f.Add("a.b.c = 1\n[a.b]\n[[a]]\n[a.a.a]\nx = {y.z = 1, y = 2}\n" + strings.Repeat("[", 40))
	m := testMachine(f)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse("test.toml", []byte(text), m)
		if err != nil {
			checkError(t, text, err)
			return
		}
		checkConfig(t, c)
		again, err := parse("test.toml", []byte(encode(c)), m)
		if err != nil {
			t.Fatalf("%v in\n%s", err, encode(c))
		}
		if diff := cmp.Diff(c, again, cmpopts.IgnoreFields(Written{}, "Line", "Column")); diff != "" {
			t.Errorf("written down and read again (-first +second):\n%s", diff)
		}
	})
}

func checkError(t *testing.T, text string, err error) {
	e, ok := err.(*Error)
	if !ok {
		t.Fatalf("%T %v, want *Error", err, err)
	}
	lines := strings.Split(text, "\n")
	if e.Line < 1 || e.Line > len(lines) || e.Column < 1 || e.Column > utf8.RuneCountInString(lines[e.Line-1])+1 {
		t.Errorf("%v is about a place that %q does not have", err, text)
	}
	if strings.ContainsAny(e.Text, "\r\n") || len(e.Text) > 700 {
		t.Errorf("more than a line: %q", e.Text)
	}
}

func checkConfig(t *testing.T, c *Config) {
	check := func(ok bool, format string, args ...any) {
		if !ok {
			t.Errorf(format, args...)
		}
	}
	check(filepath.IsAbs(c.Spool), "spool %q", c.Spool)
	check(isDomain(c.Hostname) && isDomain(c.Domain), "hostname %q, domain %q", c.Hostname, c.Domain)
	check(c.MaxMessageSize >= 0, "max_message_size %d", c.MaxMessageSize)
	r := c.Retry
	check(r.First > 0 && r.MaxWait >= r.First && r.Expire > 0 && r.Attempts >= 0, "retry %+v", r)
	check(r.Factor >= 1 && !math.IsInf(r.Factor, 0), "factor %v", r.Factor)
	for name, t := range c.Transports {
		network, tls := schemeNamed(t.Scheme).form == overNetwork, len(schemeNamed(t.Scheme).tls) > 0
		check(t.Name == name && isName(name), "name %q of %+v", name, t)
		check(t.Scheme != "" && t.Concurrency >= 1, "%+v", t)
		check(network == (t.Host != ""), "%+v", t)
		check(tls == (t.Port >= 1 && t.Port <= 65535 && t.TLS != ""), "%+v", t)
		for _, other := range t.Others {
			check(network && other.Host != "" && other.Port >= 1 && other.Port <= 65535, "%+v", t)
		}
		check((t.User != "") == (t.PasswordFile != ""), "login of %+v", t)
		check((t.Socks.User != "") == (t.Socks.PasswordFile != ""), "login at the proxy of %+v", t)
		check((t.Socks.Host != "") == (t.Socks.Port >= 1 && t.Socks.Port <= 65535), "proxy of %+v", t)
		check(!strings.ContainsAny(t.Host+t.User+t.Text+t.Path, "\r\n\x00") || t.Path != "", "line ends in %+v", t)
		check((slices.Contains([]string{"lmtp+unix", "maildir", "mbox", "pipe"}, t.Scheme)) == (filepath.IsAbs(t.Path) || strings.HasPrefix(t.Path, "{home}/")), "path of %+v", t)
	}
	for _, r := range c.Routes {
		_, ok := c.Transports[r.Transport]
		check(ok, "no transport for %+v", r)
		for _, p := range append(r.To, r.From...) {
			check(p == strings.ToLower(p) && p != "", "pattern %q", p)
		}
	}
	for from, to := range c.Rewrite {
		check(from != "" && strings.Contains(to, "@") && from == strings.ToLower(from), "rewrite %q = %q", from, to)
	}
}

func texts(list []Written) (all []string) {
	for _, w := range list {
		all = append(all, w.Text)
	}
	return all
}

// encode writes a Config as a file, with nothing left to defaults and without the short form of a relay.
func encode(c *Config) string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %s\n", name, value)
		}
	}
	line("spool", basic(c.Spool))
	line("hostname", basic(c.Hostname))
	line("domain", basic(c.Domain))
	line("resolvers", list(c.Resolvers))
	line("max_message_size", fmt.Sprint(c.MaxMessageSize))
	line("delivery", basic(c.Delivery))
	line("log", basic(c.Log))
	line("force_from", basic(c.ForceFrom))
	b.WriteString("[listen]\n")
	line("smtp", list(texts(c.Listen.SMTP)))
	line("peers", list(texts(c.Listen.Peers)))
	line("users", list(c.Listen.Users))
	b.WriteString("[retry]\n")
	line("first", basic(c.Retry.First.String()))
	line("factor", fmt.Sprintf("%.17g", c.Retry.Factor))
	line("max_wait", basic(c.Retry.MaxWait.String()))
	line("attempts", fmt.Sprint(c.Retry.Attempts))
	line("expire", basic(c.Retry.Expire.String()))
	b.WriteString("[rewrite]\n")
	for from, to := range c.Rewrite {
		line(basic(from), basic(to))
	}
	for name, t := range c.Transports {
		fmt.Fprintf(&b, "[transport.%q]\n", name)
		if len(t.Others) > 0 {
			line("url", list(urls(t)))
		} else {
			line("url", basic(url(t)))
		}
		line("concurrency", fmt.Sprint(t.Concurrency))
		if t.Rate.Count > 0 {
			line("rate", basic(fmt.Sprintf("%d/%s", t.Rate.Count, map[time.Duration]string{time.Second: "s", time.Minute: "m", time.Hour: "h", 24 * time.Hour: "d"}[t.Rate.Per])))
		}
		if r := t.Retry; r != (Retry{}) {
			line("retry", fmt.Sprintf("{first = %q, factor = %.17g, max_wait = %q, attempts = %d, expire = %q}", r.First, r.Factor, r.MaxWait, r.Attempts, r.Expire))
		}
		line("tls", basic(t.TLS))
		line("password_file", basic(t.PasswordFile))
		line("ca_file", basic(t.CAFile))
		line("socks", basic(socksURL(t.Socks)))
		line("socks_password_file", basic(t.Socks.PasswordFile))
		line("text", basic(t.Text))
		if t.Scheme == "mx" {
			line("port", fmt.Sprint(t.Port))
		}
	}
	for _, r := range c.Routes {
		b.WriteString("[[route]]\n")
		line("to", list(r.To))
		line("from", list(r.From))
		line("min_attempts", fmt.Sprint(r.MinAttempts))
		line("transport", basic(r.Transport))
	}
	return b.String()
}

func url(t Transport) string {
	if schemeNamed(t.Scheme).form != overNetwork {
		return t.Scheme + ":" + t.Path
	}
	if t.SRV {
		return t.Scheme + "+srv://" + strings.TrimSuffix(authority(t.User, t.Host, t.Port), fmt.Sprintf(":%d", t.Port))
	}
	return t.Scheme + "://" + authority(t.User, t.Host, t.Port)
}

// urls writes the URLs of servers that stand in for each other.
func urls(t Transport) []string {
	all := []string{url(t)}
	for _, other := range t.Others {
		all = append(all, t.Scheme+"://"+authority(t.User, other.Host, other.Port))
	}
	return all
}

func socksURL(p Socks) string {
	if p.Host == "" {
		return ""
	}
	return "socks5://" + authority(p.User, p.Host, p.Port)
}

func authority(name, host string, port int) string {
	user := ""
	for i := range len(name) {
		user += fmt.Sprintf("%%%02x", name[i])
	}
	if user != "" {
		user += "@"
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s%s:%d", user, host, port)
}

// basic writes a basic string of TOML; "" for what is not set.
func basic(s string) string {
	if s == "" {
		return ""
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == '"' || r == '\\' {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func list(all []string) string {
	if all == nil {
		return ""
	}
	quoted := make([]string, len(all))
	for i, s := range all {
		if quoted[i] = basic(s); s == "" {
			quoted[i] = `""`
		}
	}
	return "[" + strings.Join(quoted, ",") + "]"
}
