package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testMachine is a machine with nothing on it: no files, an ordinary user with a home, a host called web1.
func testMachine(t testing.TB) machine {
	return machine{
		root:     t.TempDir(),
		euid:     1000,
		getenv:   func(name string) string { return map[string]string{"HOME": "/home/ann"}[name] },
		hostname: func() (string, error) { return "web1", nil },
	}
}

func (m machine) write(t *testing.T, path, text string) {
	t.Helper()
	path = m.file(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestEverySetting(t *testing.T) {
	const text = `
spool            = "/srv/spool/"
hostname         = "Web1.example.com"
domain           = "Example.com"
local_domains    = ["Localhost", "web1.example.com"]
aliases          = "/srv/aliases"
resolvers        = ["192.0.2.53", "192.0.2.54:5353", "2001:DB8::53", "[::1]:5300"]
relay            = "submission://alerts@example.com@smtp.example.com"
password_file    = "/etc/postrider/relay.password"
max_message_size = "25MB"
delivery         = "queue"
log              = "syslog"

force_from       = "Force@example.com"

[rewrite]
"Root@web1.example.com" = "alerts@Example.com"
root = "root@example.org"
"*@Web2.example.com" = "*@Example.com"
"@.lan.example.com" = "@example.com"
"@web3.example.com" = "web3@example.com"

[listen]
smtp  = ["192.0.2.1:25", "127.0.0.1:25", "[::1]:2525", "unix:/run//smtp"]
peers = ["192.0.2.7", "192.0.2.77/24", "2001:DB8::/32"]
users = ["www-data", "1000"]
certificate = "/etc/postrider/cert.pem"
key = "/etc/postrider//key.pem"
logins = "/etc/postrider/logins"

[retry]
first    = "5m"
factor   = 1.5
max_wait = "4h"
attempts = 20
expire   = "3d"

[transport.lan]
url         = "smtp://[FD00::25]:2525"
concurrency = 4
tls         = "verify"
ca_file     = "/etc/ssl/lan.pem"
rate        = "2/s"
retry       = { first = "1m", expire = "1d" }

[transport.far]
url                 = "submission://mail.example.com"
socks               = "socks5://Ann@Proxy.example.com:9050"
socks_password_file = "/etc/postrider/proxy.password"

[transport.near]
url   = "smtp://mail.example.com"
socks = "socks5://[::1]"

[transport.pair]
url           = ["submission://ann@mail.example.com", "submission://ann@[fd00::26]:5870", "submission://ann@third.example.com"]
password_file = "/etc/postrider/pair.password"

[transport.mx]
url  = "mx:"
port = 2525
tls  = "none"

[transport.nowhere]
url  = "fail:"
text = "this host sends no mail abroad"

[[route]]
to        = ["*@Lan.example.com", ".lan.example.com", "Boss@example.com"]
transport = "lan"

[[route]]
from         = ["www-data@example.com"]
min_attempts = 3
transport    = "nowhere"
`
	want := &Config{
		File: "test.toml", Spool: "/srv/spool", Hostname: "web1.example.com", Domain: "example.com",
		LocalDomains:   []string{"localhost", "web1.example.com"},
		Aliases:        "/srv/aliases",
		Resolvers:      []string{"192.0.2.53:53", "192.0.2.54:5353", "[2001:db8::53]:53", "[::1]:5300"},
		MaxMessageSize: 25 << 20, Delivery: DeliverQueue, Log: LogSyslog,
		ForceFrom: "Force@example.com",
		Rewrite: map[string]string{
			"root@web1.example.com": "alerts@Example.com", "root": "root@example.org", "@web2.example.com": "@Example.com",
			"@.lan.example.com": "@example.com", "@web3.example.com": "web3@example.com",
		},
		Listen: Listen{
			SMTP:  []Written{{"192.0.2.1:25", 24, 10}, {"127.0.0.1:25", 24, 26}, {"[::1]:2525", 24, 42}, {"unix:/run//smtp", 24, 56}},
			Peers: []Written{{"192.0.2.7", 25, 10}, {"192.0.2.77/24", 25, 23}, {"2001:DB8::/32", 25, 40}},
			Users: []string{"www-data", "1000"},

			Certificate: "/etc/postrider/cert.pem", Key: "/etc/postrider/key.pem", Logins: "/etc/postrider/logins",
		},
		Retry: Retry{First: 5 * time.Minute, Factor: 1.5, MaxWait: 4 * time.Hour, Attempts: 20, Expire: 72 * time.Hour},
		Transports: map[string]Transport{
			"relay": {
				Name: "relay", Scheme: "submission", Host: "smtp.example.com", Port: 587, User: "alerts@example.com",
				PasswordFile: "/etc/postrider/relay.password", TLS: TLSVerify, Concurrency: 3,
			},
			"lan": {
				Name: "lan", Scheme: "smtp", Host: "fd00::25", Port: 2525, TLS: TLSVerify, Concurrency: 4,
				CAFile: "/etc/ssl/lan.pem", Rate: Rate{2, time.Second},
				Retry: Retry{First: time.Minute, Factor: 1.5, MaxWait: 4 * time.Hour, Attempts: 20, Expire: 24 * time.Hour},
			},
			"far": {
				Name: "far", Scheme: "submission", Host: "mail.example.com", Port: 587, TLS: TLSVerify, Concurrency: 3,
				Socks: Socks{Host: "proxy.example.com", Port: 9050, User: "Ann", PasswordFile: "/etc/postrider/proxy.password"},
			},
			"near": {
				Name: "near", Scheme: "smtp", Host: "mail.example.com", Port: 25, TLS: TLSMay, Concurrency: 10,
				Socks: Socks{Host: "::1", Port: 1080},
			},
			"pair": {
				Name: "pair", Scheme: "submission", Host: "mail.example.com", Port: 587, TLS: TLSVerify, Concurrency: 3,
				User: "ann", PasswordFile: "/etc/postrider/pair.password",
				Others: []Server{{"fd00::26", 5870}, {"third.example.com", 587}},
			},
			"mx":      {Name: "mx", Scheme: "mx", Port: 2525, TLS: TLSNone, Concurrency: 5},
			"nowhere": {Name: "nowhere", Scheme: "fail", Concurrency: 1, Text: "this host sends no mail abroad"},
		},
		Routes: []Route{
			{To: []string{"lan.example.com", ".lan.example.com", "boss@example.com"}, Transport: "lan"},
			{From: []string{"www-data@example.com"}, MinAttempts: 3, Transport: "nowhere"},
			{Transport: "relay"},
		},
	}
	got, err := parse("test.toml", []byte(text), testMachine(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parse (-want +got):\n%s", diff)
	}
}

func TestURLs(t *testing.T) {
	const password = "password_file = \"/p\"\n"
	tests := []struct {
		url, more string
		want      Transport
	}{
		{"smtp://mail.example.com", "", Transport{Scheme: "smtp", Host: "mail.example.com", Port: 25, TLS: TLSMay, Concurrency: 10}},
		{"SMTP://Mail.Example.com", "", Transport{Scheme: "smtp", Host: "mail.example.com", Port: 25, TLS: TLSMay, Concurrency: 10}},
		{"smtp://127.0.0.1:2525", "", Transport{Scheme: "smtp", Host: "127.0.0.1", Port: 2525, TLS: TLSMay, Concurrency: 10}},
		{"smtp://[fe80::1%eth0]", "", Transport{Scheme: "smtp", Host: "fe80::1%eth0", Port: 25, TLS: TLSMay, Concurrency: 10}},
		{"smtp://ann@mail", password, Transport{Scheme: "smtp", Host: "mail", Port: 25, TLS: TLSVerify, Concurrency: 10, User: "ann", PasswordFile: "/p"}},
		{"submission://mail", "", Transport{Scheme: "submission", Host: "mail", Port: 587, TLS: TLSVerify, Concurrency: 3}},
		{"submissions://mail", "", Transport{Scheme: "submissions", Host: "mail", Port: 465, TLS: TLSVerify, Concurrency: 3}},
		{"submissions://a%3Ab%40c%25@mail:4650", password, Transport{Scheme: "submissions", Host: "mail", Port: 4650, TLS: TLSVerify, Concurrency: 3, User: "a:b@c%", PasswordFile: "/p"}},
		{"submission+srv://Example.com", "", Transport{Scheme: "submission", SRV: true, Host: "example.com", Port: 587, TLS: TLSVerify, Concurrency: 3}},
		{"Submissions+SRV://ann@example.com", password, Transport{Scheme: "submissions", SRV: true, Host: "example.com", Port: 465, TLS: TLSVerify, Concurrency: 3, User: "ann", PasswordFile: "/p"}},
		{"mx:", "", Transport{Scheme: "mx", Port: 25, TLS: TLSMay, Concurrency: 5}},
		{"maildir:/var/mail/../all/", "", Transport{Scheme: "maildir", Path: "/var/all", Concurrency: 4}},
		{"lmtp://mail.example.com", "", Transport{Scheme: "lmtp", Host: "mail.example.com", Port: 24, TLS: TLSMay, Concurrency: 4}},
		{"lmtp://LOCALHOST:2424", "", Transport{Scheme: "lmtp", Host: "localhost", Port: 2424, TLS: TLSNone, Concurrency: 4}},
		{"lmtp://127.0.0.2:2424", "", Transport{Scheme: "lmtp", Host: "127.0.0.2", Port: 2424, TLS: TLSNone, Concurrency: 4}},
		{"lmtp://[::1]:2424", "", Transport{Scheme: "lmtp", Host: "::1", Port: 2424, TLS: TLSNone, Concurrency: 4}},
		{"lmtp://127.example.com", "", Transport{Scheme: "lmtp", Host: "127.example.com", Port: 24, TLS: TLSMay, Concurrency: 4}},
		{"lmtp+unix:/run//dovecot/lmtp", "", Transport{Scheme: "lmtp+unix", Path: "/run/dovecot/lmtp", Concurrency: 4}},
		{"mbox:/var/mail/all", "", Transport{Scheme: "mbox", Path: "/var/mail/all", Concurrency: 1}},
		{"maildir:///var/all", "", Transport{Scheme: "maildir", Path: "/var/all", Concurrency: 4}},
		{"mbox:/var/mail/{user}", "", Transport{Scheme: "mbox", Path: "/var/mail/{user}", Concurrency: 4, RunAs: Recipient}},
		{"maildir:{home}/Maildir", "", Transport{Scheme: "maildir", Path: "{home}/Maildir", Concurrency: 4, RunAs: Recipient}},
		{"maildir:/srv/{user}/new", "run_as = \"vmail\"", Transport{Scheme: "maildir", Path: "/srv/{user}/new", Concurrency: 4, RunAs: "vmail"}},
		{"pipe:/bin/filter", "args = [\"{user}\"]", Transport{Scheme: "pipe", Path: "/bin/filter", Concurrency: 4, Timeout: 30 * time.Second, Args: []string{"{user}"}, RunAs: Recipient}},
		{"pipe:/bin/filter", "", Transport{Scheme: "pipe", Path: "/bin/filter", Concurrency: 4, Timeout: 30 * time.Second}},
		{"pipe:/bin/filter", "timeout = \"2m\"\nargs = [\"-f\", \"{sender}\", \"\"]",
			Transport{Scheme: "pipe", Path: "/bin/filter", Concurrency: 4, Timeout: 2 * time.Minute, Args: []string{"-f", "{sender}", ""}}},
		{"discard:", "", Transport{Scheme: "discard", Concurrency: 1}},
		{"discard", "", Transport{Scheme: "discard", Concurrency: 1}},
		{"fail:", "", Transport{Scheme: "fail", Concurrency: 1, Text: "mail to this address is not sent from this host"}},
	}
	for _, tt := range tests {
		tt.want.Name = "t"
		c, err := parse("test.toml", fmt.Appendf(nil, "[transport.t]\nurl = %q\n%s", tt.url, tt.more), testMachine(t))
		if err != nil {
			t.Errorf("url = %q: %v", tt.url, err)
			continue
		}
		if diff := cmp.Diff(tt.want, c.Transports["t"]); diff != "" {
			t.Errorf("url = %q (-want +got):\n%s", tt.url, diff)
		}
	}
}

func TestSizesAndDurations(t *testing.T) {
	size := func(c *Config) any { return c.MaxMessageSize }
	first := func(c *Config) any { return c.Retry.First }
	tests := []struct {
		text string
		get  func(*Config) any
		want any
	}{
		{`max_message_size = 0`, size, int64(0)},
		{`max_message_size = 10_240_000`, size, int64(10_240_000)},
		{`max_message_size = "10240000"`, size, int64(10_240_000)},
		{`max_message_size = "1KB"`, size, int64(1024)},
		{`max_message_size = "25 MB"`, size, int64(25 << 20)},
		{`max_message_size = "2GB"`, size, int64(2 << 30)},
		{`retry.first = "1s"`, first, time.Second},
		{`retry.first = "1h30m"`, first, 90 * time.Minute},
		{"retry = { max_wait = \"5d\", first = \"1d\" }", first, 24 * time.Hour},
	}
	for _, tt := range tests {
		c, err := parse("test.toml", []byte(tt.text), testMachine(t))
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
		} else if got := tt.get(c); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.text, got, tt.want)
		}
	}
}

// TestMistakes shows each text with what is said of it.
func TestMistakes(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"not TOML", "spool /tmp", "1:7: expected '=' after key"},
		{"unquoted string", "hostname = web1.example.com", "1:12: unexpected character U+0077 'w' at start of value; text stands in quotes"},
		{"quote without end", "domain = \"a\n", "1:12: basic strings cannot have new lines"},
		{"end in the middle", "domain =", "1:8: expected value, not end of input"},
		{"columns are characters", `log = "ü" x`, `1:11: expected newline but got U+0078 'x'`},
		{"a byte order mark is nothing, to the parser", "\ufefflog = \"a\" x\n", `1:11: expected newline but got U+0078 'x'`},
		{"a byte order mark is nothing, to the keys", "\ufefflog = 5", `1:7: log: found the number 5, expected auto or stderr or syslog`},
		{"a byte order mark is one at the beginning only", "\n\ufefflog = 5", `2:1: invalid character at start of key: U+00EF 'ï'`},

		{"unknown key", "\nspol = \"/tmp\"", `2:1: unknown key "spol"; expected one of spool, hostname, domain, local_domains, aliases, alias_user, resolvers, relay, ` +
			`password_file, max_message_size, delivery, log, force_from, rewrite, listen, retry, transport, route`},
		{"unknown key in a table", "[retry]\n  wait = \"1m\"", `2:3: unknown key "retry.wait"; expected one of first, factor, max_wait, attempts, expire`},
		{"a key without meaning", "[transport.a]\nurl = \"discard:\"\nport = 25", `3:1: transport.a.port has no meaning for discard`},
		{"unknown key in any transport", "[transport.a]\nurl = \"mx:\"\nports = 25", `3:1: unknown key "transport.a.ports"; expected one of url, concurrency, rate, retry, tls, password_file, ca_file, socks, socks_password_file, port, text, args, run_as, timeout`},
		{"port beside the URL's", "[transport.a]\nurl = \"smtp://a\"\nport = 2525", `3:1: transport.a.port has no meaning for smtp`},
		{"port out of range", "[transport.a]\nurl = \"mx:\"\nport = 65536", `3:8: transport.a.port: found the number 65536, expected a port from 1 to 65535`},
		{"a login at everybody", "password_file = \"/p\"\nrelay = \"mx:\"", `1:17: password_file has no meaning for mx`},
		{"a domain behind mx", "relay = \"mx://example.com\"", `1:9: relay: expected mx: and nothing after it`},
		{"a name server's name", "resolvers = [\"192.0.2.1\", \"ns.example.com\"]", `1:27: resolvers: found "ns.example.com", expected a list of addresses such as ["192.0.2.53", "[2001:db8::53]:53"]`},
		{"one name server", "resolvers = \"192.0.2.1\"", `1:13: resolvers: found "192.0.2.1", expected a list of addresses such as ["192.0.2.53", "[2001:db8::53]:53"]`},
		{"a name server's port", "resolvers = [\"192.0.2.1:dns\"]", `1:14: resolvers: found "192.0.2.1:dns", expected a list of addresses such as ["192.0.2.53", "[2001:db8::53]:53"]`},
		{"listening is a list", "[listen]\nsmtp = \"127.0.0.1:25\"", `2:8: listen.smtp: found "127.0.0.1:25", expected a list such as ["127.0.0.1:25", "[::1]:25", "unix:/run/postrider/smtp"]`},
		{"an address to listen on is no string", "[listen]\nsmtp = [25]", `2:9: listen.smtp: found the number 25, expected a string in quotes`},
		{"a certificate without a key", "[listen]\ncertificate = \"/cert\"", `2:15: listen: certificate and key stand together, or not at all`},
		{"a key without a certificate", "[listen]\nusers = []\nkey = \"/key\"", `3:7: listen: certificate and key stand together, or not at all`},
		{"a number is a user", "[listen]\nusers = [1000]", `2:10: listen.users: found the number 1000, expected a string in quotes`},
		{"words are a user", "[listen]\nusers = [\"www data\"]", `2:10: listen.users: found "www data", expected a login name or a user ID in quotes`},
		{"unknown key in a route", "[[route]]\nvia = \"a\"", `2:1: unknown key "route.via"; expected one of to, from, min_attempts, transport`},
		{"top-level key below a table", "[retry]\nfirst = \"1m\"\nrelay = \"smtp://a\"", `3:1: unknown key "retry.relay"; relay belongs above the first [table]`},
		{"password instead of its file", "password = \"opensesame\"", `1:1: unknown key "password"; a password has its own file: use password_file`},
		{"key twice", "log = \"auto\"\nlog = \"auto\"", `2:1: "log" stands here again; it was set in line 1`},
		{"table twice", "[retry]\nfirst = \"1m\"\n[retry]", `3:2: "retry" stands here again; it was set in line 1`},
		{"transport twice", "[transport.a]\nurl = \"discard\"\n[transport.a]", `3:12: "a" stands here again; it was set in line 1`},
		{"dotted key and table", "retry.first = \"1m\"\n[retry]", `2:2: "retry" stands here again; it was set in line 1`},
		{"inline table extended", "retry = {first = \"1m\"}\nretry.factor = 2", `2:1: "retry" stands here again; it was set in line 1`},
		{"a table for a list of tables", "[route]\nto = []\n[[route]]", `3:3: "route" stands here again; it was set in line 1`},

		{"host name beyond ASCII", "hostname = \"b\u00fccher.example\"", "1:12: hostname: found \"b\u00fccher.example\", expected a host name in ASCII, with \"xn--\" for what is not"},
		{"relative path", "spool = \"spool\"", `1:9: spool: found "spool", expected an absolute path such as "/var/spool/postrider"`},
		{"number for a path", "spool = 7", `1:9: spool: found the number 7, expected an absolute path such as "/var/spool/postrider"`},
		{"domain with a blank", "domain = \"a b\"", `1:10: domain: found "a b", expected a domain such as "example.com"`},
		{"address for a domain", "hostname = \"a@b\"", `1:12: hostname: found "a@b", expected a domain such as "example.com"`},
		{"unknown word", "delivery = \"later\"", `1:12: delivery: found "later", expected background or queue`},
		{"bool for a word", "log = false", `1:7: log: found false, expected auto or stderr or syslog`},
		{"size without number", "max_message_size = \"MB\"", `1:20: max_message_size: found "MB", expected a size such as "25MB" or a number of octets; 0 for no limit`},
		{"size with a sign", "max_message_size = -1", `1:20: max_message_size: found the number -1, expected a size such as "25MB" or a number of octets; 0 for no limit`},
		{"size too large", "max_message_size = \"9999999999GB\"", `1:20: max_message_size: found "9999999999GB", expected a size such as "25MB" or a number of octets; 0 for no limit`},
		{"size as a fraction", "max_message_size = 2.5", `1:20: max_message_size: found the number 2.5, expected a size such as "25MB" or a number of octets; 0 for no limit`},
		{"date for a size", "max_message_size = 2026-01-01", `1:20: max_message_size: found a date or time, expected a size such as "25MB" or a number of octets; 0 for no limit`},

		{"duration in words", "[retry]\nfirst = \"7 minutes\"", `2:9: retry.first: found "7 minutes", expected a duration from a second to a year such as "7m30s", "16h" or "5d"`},
		{"duration without unit", "[retry]\nexpire = 120", `2:10: retry.expire: found the number 120, expected a duration from a second to a year such as "7m30s", "16h" or "5d"`},
		{"duration of nothing", "[retry]\nfirst = \"0s\"", `2:9: retry.first: found "0s", expected a duration from a second to a year such as "7m30s", "16h" or "5d"`},
		{"shrinking waits", "[retry]\nfactor = 0.5", `2:10: retry.factor: found the number 0.5, expected a number from 1 to 100`},
		{"factor nan", "[retry]\nfactor = nan", `2:10: retry.factor: found the number nan, expected a number from 1 to 100`},
		{"negative attempts", "[retry]\nattempts = -1", `2:12: retry.attempts: found the number -1, expected a whole number from 0 to 1000`},
		{"longest wait below the first", "[retry]\nfirst = \"1h\"\nmax_wait = \"30m\"", `3:12: retry: max_wait, 30m0s, is shorter than first, 1h0m0s`},
		{"rate without unit", "[transport.a]\nurl = \"discard:\"\nrate = 100", `3:8: transport.a.rate: found the number 100, expected recipients in a span such as "2/s", "30/m", "100/h" or "500/d"`},
		{"rate of nobody", "[transport.a]\nurl = \"discard:\"\nrate = \"0/h\"", `3:8: transport.a.rate: found "0/h", expected recipients in a span such as "2/s", "30/m", "100/h" or "500/d"`},
		{"rate in words", "[transport.a]\nurl = \"discard:\"\nrate = \"100/hour\"", `3:8: transport.a.rate: found "100/hour", expected recipients in a span such as "2/s", "30/m", "100/h" or "500/d"`},
		{"unknown key in a transport's retries", "[transport.a]\nurl = \"discard:\"\nretry.wait = \"1m\"", `3:7: unknown key "transport.a.retry.wait"; expected one of first, factor, max_wait, attempts, expire`},
		{"a transport's longest wait below the first of all", "[transport.a]\nurl = \"discard:\"\nretry.max_wait = \"1m\"\n[retry]\nfirst = \"1h\"", `3:18: transport.a.retry: max_wait, 1m0s, is shorter than first, 1h0m0s`},
		{"a transport's retries are no table", "[transport.a]\nurl = \"discard:\"\nretry = \"1h\"", `3:9: transport.a.retry: found "1h", expected a table [transport.a.retry]`},
		{"retry is no table", "retry = \"1h\"", `1:9: retry: found "1h", expected a table [retry]`},

		{"force_from without domain", "force_from = \"ann\"", `1:14: force_from: found "ann", expected an address such as "ann@example.com"`},
		{"force_from in brackets", "force_from = \"<ann@a>\"", `1:14: force_from: found "<ann@a>", expected an address such as "ann@example.com"`},
		{"rewrite of a domain", "[rewrite]\n\"example.com\" = \"a@b\"", `2:1: rewrite: found "example.com", expected an address, a name such as "root", or "@example.com" for a domain`},
		{"rewrite of everybody", "[rewrite]\n\"*\" = \"a@b\"", `2:1: rewrite: found "*", expected an address, a name such as "root", or "@example.com" for a domain`},
		{"rewrite of nobody", "[rewrite]\n\"\" = \"a@b\"", `2:1: rewrite: found "", expected an address, a name such as "root", or "@example.com" for a domain`},
		{"rewrite of the null sender", "[rewrite]\n\"<>\" = \"a@b\"", `2:1: rewrite: found "<>", expected an address, a name such as "root", or "@example.com" for a domain`},
		{"rewrite of part of a name", "[rewrite]\n\"cron-*@a\" = \"a@b\"", `2:1: rewrite: found "cron-*@a", expected an address, a name such as "root", or "@example.com" for a domain`},
		{"rewrite of no domain", "[rewrite]\n\"@.\" = \"a@b\"", `2:1: rewrite: found "@.", expected an address, a name such as "root", or "@example.com" for a domain`},
		{"rewrite to a name", "[rewrite]\n\"root@a\" = \"ann\"", `2:12: rewrite: found "ann", expected an address such as "ann@example.com", or "@example.com" to change the domain`},
		{"rewrite to domains", "[rewrite]\n\"root@a\" = \"@.b\"", `2:12: rewrite: found "@.b", expected an address such as "ann@example.com", or "@example.com" to change the domain`},
		{"rewrite to two", "[rewrite]\n\"root@a\" = [\"a@b\"]", `2:1: rewrite: found a list, expected an address such as "ann@example.com", or "@example.com" to change the domain`},
		{"rewrite in two cases", "[rewrite]\n\"root@a\" = \"a@b\"\n\"ROOT@a\" = \"c@d\"", `3:1: rewrite: "ROOT@a" stands here again; upper and lower case are the same, and so are @ and *@`},
		{"rewrite with and without asterisk", "[rewrite]\n\"@a\" = \"a@b\"\n\"*@a\" = \"c@d\"", `3:1: rewrite: "*@a" stands here again; upper and lower case are the same, and so are @ and *@`},

		{"relay without scheme", "relay = \"mail.example.com\"", `1:9: relay: expected a URL, as in smtp://mail.example.com or submission://USER@mail.example.com`},
		{"relay as host:port", "relay = \"mail.example.com:25\"", `1:9: relay: expected a URL that starts with one of smtp, submission, submissions, mx, lmtp, lmtp+unix, maildir, mbox, pipe, discard, fail and a colon`},
		{"SRV with a port", "relay = \"submission+srv://example.com:587\"", `1:9: relay: expected a domain after submission+srv://, which has SRV records that name servers and ports`},
		{"SRV of an address", "relay = \"submission+srv://192.0.2.1\"", `1:9: relay: expected a domain after submission+srv://, which has SRV records that name servers and ports`},
		{"two domains with SRV", "relay = [\"submission+srv://a\", \"submission+srv://b\"]", `1:1: relay: servers that stand in for each other have the same scheme, which is one for servers without +srv, and the same user`},
		{"relay is an empty list", "relay = []", `1:1: relay: found a list, expected a URL in quotes such as "smtp://mail.example.com"`},
		{"relay is a list of numbers", "relay = [25]", `1:10: relay: found the number 25, expected a URL in quotes such as "smtp://mail.example.com"`},
		{"servers of two schemes", "relay = [\"smtp://a\", \"submission://b\"]", `1:1: relay: servers that stand in for each other have the same scheme, which is one for servers without +srv, and the same user`},
		{"servers for two users", "password_file = \"/p\"\nrelay = [\"submission://ann@a\", \"submission://bob@b\"]", `2:1: relay: servers that stand in for each other have the same scheme, which is one for servers without +srv, and the same user`},
		{"two Maildirs", "relay = [\"maildir:/a\", \"maildir:/b\"]", `1:1: relay: servers that stand in for each other have the same scheme, which is one for servers without +srv, and the same user`},
		{"password in the second URL", "relay = [\"submission://ann@a\", \"submission://ann:opensesame@b\"]", `1:1: relay: a password has no place in a URL; put it into a file and name that with password_file (a colon in the user's name is written %3A)`},
		{"relay is no string", "relay = true", `1:9: relay: found true, expected a URL in quotes such as "smtp://mail.example.com"`},
		{"unknown scheme", "relay = \"smtps://mail.example.com\"", `1:9: relay: unknown scheme "smtps"; expected one of smtp, submission, submissions, mx, lmtp, lmtp+unix, maildir, mbox, pipe, discard, fail`},
		{"no slashes", "relay = \"smtp:mail\"", `1:9: relay: expected a host, as in smtp://mail.example.com`},
		{"no host", "relay = \"smtp://\"", `1:9: relay: "" is not a host name or address`},
		{"path behind the host", "relay = \"smtp://mail/\"", `1:9: relay: expected [USER@]HOST[:PORT] after //`},
		{"port too high", "relay = \"smtp://mail:70000\"", `1:9: relay: the port after the host's colon must be a number from 1 to 65535`},
		{"port with a sign", "relay = \"smtp://mail:+25\"", `1:9: relay: the port after the host's colon must be a number from 1 to 65535`},
		{"no port", "relay = \"smtp://mail:\"", `1:9: relay: a port must follow the host's colon`},
		{"IPv6 without brackets", "relay = \"smtp://fd00::1\"", `1:9: relay: an IPv6 address needs brackets, as in smtp://[2001:db8::25]:25`},
		{"brackets around a name", "relay = \"smtp://[mail]\"", `1:9: relay: expected an IPv6 address in brackets, as in smtp://[2001:db8::25]:25`},
		{"password in the URL", "relay = \"submission://ann:opensesame@mail\"", `1:9: relay: a password has no place in a URL; put it into a file and name that with password_file (a colon in the user's name is written %3A)`},
		{"password with an @", "relay = \"submission://ann:open@sesame@mail\"", `1:9: relay: a password has no place in a URL; put it into a file and name that with password_file (a colon in the user's name is written %3A)`},
		{"password, and the host forgotten", "relay = \"submission://ann:opensesame\"", `1:9: relay: the port after the host's colon must be a number from 1 to 65535`},
		{"user of no letters", "relay = \"submission://@mail\"", `1:9: relay: expected a user's name before @`},
		{"half an octet", "relay = \"submission://a%4@mail\"", `1:9: relay: two hexadecimal digits must follow % in the user's name`},
		{"line end in the user's name", "relay = \"submission://a%0d%0a@mail\"", `1:9: relay: control character in the user's name`},
		{"LMTP at the port of SMTP", "relay = \"lmtp://mail:25\"", `1:9: relay: port 25 is for SMTP, and whoever answers there does not expect LMTP (RFC 2033 section 5)`},
		{"LMTP at a relative path", "relay = \"lmtp+unix:lmtp\"", `1:9: relay: lmtp+unix needs an absolute path: lmtp+unix:/run/dovecot/lmtp`},
		{"TLS at a unix socket", "[transport.a]\nurl = \"lmtp+unix:/p\"\ntls = \"may\"", `3:1: transport.a.tls has no meaning for lmtp+unix`},
		{"relative Maildir", "relay = \"maildir:Maildir\"", `1:9: relay: maildir needs an absolute path: maildir:/var/mail/archive`},
		{"home of whom", "relay = \"maildir:~/Maildir\"", `1:9: relay: maildir needs an absolute path: maildir:/var/mail/archive`},
		{"something to discard", "relay = \"discard:/dev/null\"", `1:9: relay: expected discard: and nothing after it`},

		{"user without password", "relay = \"submission://ann@mail\"", `1:9: password_file is missing; the user in the URL needs one`},
		{"password without user", "password_file = \"/p\"\nrelay = \"submission://mail\"", `1:17: password_file is of no use without a user; write submission://USER@mail`},
		{"password without relay", "password_file = \"/p\"", `1:17: password_file is that of relay, and relay is not set`},
		{"password for a Maildir", "password_file = \"/p\"\nrelay = \"maildir:/m\"", `1:17: password_file has no meaning for maildir`},
		{"password instead of a path", "relay = \"smtp://a@b\"\npassword_file = \"opensesame\"", `2:17: password_file: expected the absolute path of a file that holds the password`},
		{"relay and a transport of that name", "relay = \"smtp://a\"\n[transport.relay]\nurl = \"smtp://b\"", `1:9: relay is short for a transport of that name, and there is a [transport.relay]`},

		{"transport without name", "[transport]\nurl = \"smtp://a\"", `2:7: transport.url: found "smtp://a", expected a table [transport.NAME]`},
		{"transport with a strange name", "[transport.\"a/b\"]\nurl = \"smtp://a\"", `1:12: transport: found the name "a/b", expected letters, digits, - and _`},
		{"transport without URL", "[transport.a]\ntls = \"may\"", `1:12: transport.a: url is missing`},
		{"transport with a bad URL", "[transport.a]\nurl = 1", `2:7: transport.a.url: found the number 1, expected a URL in quotes such as "smtp://mail.example.com"`},
		{"no sessions", "[transport.a]\nurl = \"smtp://a\"\nconcurrency = 0", `3:15: transport.a.concurrency: found the number 0, expected a whole number from 1 to 1000`},
		{"TLS by another name", "[transport.a]\ntls = \"starttls\"\nurl = \"smtp://a\"", `2:7: transport.a.tls: found "starttls", expected may or verify or none`},
		{"submissions without TLS", "[transport.a]\ntls = \"none\"\nurl = \"submissions://a\"", `2:7: transport.a.tls: found "none", expected verify or may`},
		{"login without TLS", "[transport.a]\nurl = \"smtp://u@a\"\npassword_file = \"/p\"\ntls = \"none\"", `4:7: transport.a.tls: found "none", expected verify or may; a password is never sent in clear`},
		{"TLS for a Maildir", "[transport.a]\nurl = \"maildir:/m\"\ntls = \"may\"", `3:1: transport.a.tls has no meaning for maildir`},
		{"proxy for a Maildir", "[transport.a]\nurl = \"maildir:/m\"\nsocks = \"socks5://b\"", `3:1: transport.a.socks has no meaning for maildir`},
		{"proxy without scheme", "[transport.a]\nurl = \"smtp://a\"\nsocks = \"127.0.0.1:1080\"", `3:9: transport.a.socks: expected a URL that starts with socks5://, as in "socks5://127.0.0.1:1080"`},
		{"proxy of another kind", "[transport.a]\nurl = \"smtp://a\"\nsocks = \"http://ann:opensesame@b\"", `3:9: transport.a.socks: expected a URL that starts with socks5://, as in "socks5://127.0.0.1:1080"`},
		{"proxy with a password in the URL", "[transport.a]\nurl = \"smtp://a\"\nsocks = \"socks5://ann:opensesame@b\"", `3:9: transport.a.socks: a password has no place in a URL; put it into a file and name that with socks_password_file (a colon in the user's name is written %3A)`},
		{"proxy without host", "[transport.a]\nurl = \"smtp://a\"\nsocks = \"socks5://\"", `3:9: transport.a.socks: "" is not a host name or address`},
		{"proxy with a path", "[transport.a]\nurl = \"smtp://a\"\nsocks = \"socks5://b/c\"", `3:9: transport.a.socks: expected [USER@]HOST[:PORT] after //`},
		{"proxy with a user without password", "[transport.a]\nurl = \"smtp://a\"\nsocks = \"socks5://ann@b\"", `3:9: transport.a.socks_password_file is missing; the user in the URL needs one`},
		{"proxy with a password without user", "[transport.a]\nurl = \"smtp://a\"\nsocks_password_file = \"/p\"", `3:23: transport.a.socks_password_file is of no use without a user; write socks = "socks5://USER@HOST"`},
		{"a placeholder that is none", "relay = \"mbox:/var/mail/{name}\"", `1:9: relay: expected {home} at the start of the path, {user} anywhere in it, and no other braces`},
		{"home in the middle", "relay = \"mbox:/mnt/{home}/mail\"", `1:9: relay: expected {home} at the start of the path, {user} anywhere in it, and no other braces`},
		{"homes for somebody else", "[transport.a]\nurl = \"mbox:{home}/mail\"\nrun_as = \"vmail\"", `3:10: transport.a.run_as: found "vmail", expected "{user}": homes are for their users`},
		{"a user for smtp", "[transport.a]\nurl = \"smtp://a\"\nrun_as = \"vmail\"", `3:1: transport.a.run_as has no meaning for smtp`},
		{"a command line for a program", "relay = \"pipe:filter -x\"", `1:9: relay: pipe needs an absolute path: pipe:/usr/local/bin/program`},
		{"arguments that are one string", "[transport.a]\nurl = \"pipe:/p\"\nargs = \"-x\"", `3:8: transport.a.args: found "-x", expected a list such as ["-f", "{sender}", "{recipient}"]`},
		{"arguments that are no strings", "[transport.a]\nurl = \"pipe:/p\"\nargs = [1]", `3:9: transport.a.args: found the number 1, expected a string in quotes`},
		{"a part of an argument to be replaced", "[transport.a]\nurl = \"pipe:/p\"\nargs = [\"--to={recipient}\"]", `3:9: transport.a.args: found "--to={recipient}", expected one of {sender}, {recipient}, {user}, {domain} as an argument of its own, or an argument without braces`},
		{"arguments for an mbox", "[transport.a]\nurl = \"mbox:/p\"\nargs = []", `3:1: transport.a.args has no meaning for mbox`},
		{"timeout for smtp", "[transport.a]\nurl = \"smtp://a\"\ntimeout = \"1m\"", `3:1: transport.a.timeout has no meaning for smtp`},
		{"text for smtp", "[transport.a]\nurl = \"smtp://a\"\ntext = \"no\"", `3:1: transport.a.text has no meaning for smtp`},
		{"text of two lines", "[transport.a]\nurl = \"fail:\"\ntext = \"a\\nb\"", `3:8: transport.a.text: found "a\nb", expected text without control characters`},

		{"route to nowhere", "[[route]]\nto = [\"a\"]", `1:3: route: transport is missing`},
		{"route to an unknown transport", "[transport.a]\nurl = \"discard\"\n[transport.b]\nurl = \"discard\"\n[[route]]\ntransport = \"c\"", `6:13: route.transport: found "c", expected one of the transports a, b`},
		{"route without any transport", "[[route]]\ntransport = \"c\"", `2:13: route.transport: found "c", expected the NAME of a [transport.NAME], of which there is none`},
		{"route with a string for a list", "[[route]]\nto = \"a\"", `2:6: route.to: found "a", expected a list such as ["example.com", ".example.net", "ann@example.org"]`},
		{"route with a star", "[[route]]\nto = [\"a\",\n  \"*\"]", `3:3: route.to: found "*", expected a domain, ".domain" or an address; leave the list out to match everything`},
		{"route with two ats", "[[route]]\nto = [\"*@a@b\"]", `2:7: route.to: found "*@a@b", expected a domain, ".domain" or an address; leave the list out to match everything`},
		{"route is a table", "[route]\nto = []", `1:2: route: found a table, expected tables [[route]]`},
		{"route is a list of names", "route = [\"a\"]", `1:10: route: found "a", expected a table [[route]]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := parse("test.toml", []byte(tt.text), testMachine(t))
			if err == nil {
				t.Fatalf("parse(%q) = %+v, want an error", tt.text, c)
			}
			if want := "test.toml:" + tt.want; err.Error() != want {
				t.Errorf("parse(%q):\n got %s\nwant %s", tt.text, err, want)
			}
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("parse(%q) = %T, want *Error", tt.text, err)
			}
			if strings.Contains(err.Error(), "sesame") {
				t.Errorf("parse(%q) tells the password: %v", tt.text, err)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	full := func() (string, error) { return "Web1.Example.com", nil }
	tests := []struct {
		name  string
		edit  func(t *testing.T, m *machine)
		field func(c *Config) any
		want  any
	}{
		{"full host name", func(t *testing.T, m *machine) { m.hostname = full }, hostname, "web1.example.com"},
		{"domain is the host's name", func(t *testing.T, m *machine) { m.hostname = full }, domain, "web1.example.com"},
		{"short host name", nil, hostname, "web1"},
		{"no host name", func(t *testing.T, m *machine) {
			m.hostname = func() (string, error) { return "", syscall.ENOSYS }
		}, hostname, "localhost"},
		{"host name that is none", func(t *testing.T, m *machine) {
			m.hostname = func() (string, error) { return "my host\r\n", nil }
		}, hostname, "localhost"},
		{"host name beyond ASCII", func(t *testing.T, m *machine) {
			m.hostname = func() (string, error) { return "b\u00fccher.example", nil }
		}, hostname, "localhost"},
		{"full name in hosts", func(t *testing.T, m *machine) {
			m.write(t, "/etc/hosts", "127.0.0.1 localhost\n# 127.0.1.1 web1.wrong.example web1\n127.0.1.1\tWeb1.Example.com web1 # us\n")
		}, hostname, "web1.example.com"},
		{"no full name in hosts", func(t *testing.T, m *machine) {
			m.write(t, "/etc/hosts", "127.0.0.1 localhost.localdomain localhost\n127.0.1.1 web1\n::1 ip6.example web11")
		}, hostname, "web1"},
		{"mailname", func(t *testing.T, m *machine) {
			m.write(t, "/etc/mailname", "# ours\n\n Example.com \nother.example\n")
		}, domain, "example.com"},
		{"mailname that is none", func(t *testing.T, m *machine) {
			m.write(t, "/etc/mailname", "<html>\nexample.com\n")
		}, domain, "web1"},
		{"local domains", func(t *testing.T, m *machine) {
			m.write(t, "/etc/mailname", "example.com\n")
		}, func(c *Config) any { return strings.Join(c.LocalDomains, " ") }, "localhost web1"},

		{"spool of a user", nil, spool, "/home/ann/.local/state/postrider"},
		{"spool where XDG says", func(t *testing.T, m *machine) {
			m.getenv = func(string) string { return "/state" }
		}, spool, "/state/postrider"},
		{"mail of a user goes to a Maildir", nil, func(c *Config) any { return c.Transports["maildir"].Path },
			"/home/ann/.local/state/postrider/Maildir"},
		{"one route to it", nil, func(c *Config) any { return fmt.Sprintf("%+v", c.Routes) },
			"[{To:[] From:[] MinAttempts:0 Transport:maildir}]"},
		{"mail in the system's spool waits", func(t *testing.T, m *machine) { m.euid = 0 },
			func(c *Config) any { return len(c.Routes) + len(c.Transports) }, 0},
		{"a file has been written, so nothing is tried out", func(t *testing.T, m *machine) {
			m.write(t, "/etc/postrider/postrider.toml", "")
		}, func(c *Config) any { return len(c.Routes) + len(c.Transports) }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := testMachine(t)
			if tt.edit != nil {
				tt.edit(t, &m)
			}
			c, err := load("", m)
			if err != nil {
				t.Fatal(err)
			}
			if got := tt.field(c); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func hostname(c *Config) any { return c.Hostname }
func domain(c *Config) any   { return c.Domain }
func spool(c *Config) any    { return c.Spool }

func TestSystemSpool(t *testing.T) {
	m := testMachine(t)
	m.write(t, "/var/spool/postrider/lock", "")
	for _, euid := range []int{0, 1000} {
		m.euid = euid
		c, err := load("", m)
		if err != nil {
			t.Fatal(err)
		}
		if want := m.file("/var/spool/postrider"); c.Spool != want {
			t.Errorf("user %d: spool is %s, want %s", euid, c.Spool, want)
		}
	}
}

// TestNoPrivateSpool checks that mail stays out of a user's own spool where somebody may look for it in the system's.
func TestNoPrivateSpool(t *testing.T) {
	tests := []struct {
		name string
		edit func(t *testing.T, m *machine)
	}{
		{"there is a configuration", func(t *testing.T, m *machine) {
			m.write(t, "/etc/postrider/postrider.toml", "relay = \"discard:\"\n")
		}},
		{"set-group-ID", func(_ *testing.T, m *machine) { m.setID = true }},
		{"the system's spool cannot be seen", func(t *testing.T, m *machine) { m.write(t, "/var/spool", "no directory") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := testMachine(t)
			tt.edit(t, &m)
			c, err := load("", m)
			if err != nil {
				t.Fatal(err)
			}
			if want := m.file("/var/spool/postrider"); c.Spool != want {
				t.Errorf("spool is %s, want %s", c.Spool, want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Log("as root every file can be read: that one may not be is not tested")
	}
	m := testMachine(t)
	m.write(t, "/broken.toml", "relay = 5\n")
	m.write(t, "/secret.toml", "")
	m.write(t, "/large.toml", strings.Repeat("#", maxFile+1))
	if err := os.Chmod(m.file("/secret.toml"), 0); err != nil {
		t.Fatal(err)
	}
	homeless := m
	homeless.getenv = func(string) string { return "" }
	tests := []struct {
		name, file string
		machine    machine
		want       string
	}{
		{"no file anywhere", "", m, ""},
		{"a file that is named must be there", m.file("/missing.toml"), m, m.file("/missing.toml: no such file or directory")},
		{"mistakes name the file", m.file("/broken.toml"), m, m.file("/broken.toml:1:9: relay: found the number 5, expected a URL in quotes such as \"smtp://mail.example.com\"")},
		{"a file that we must not read", m.file("/secret.toml"), m, m.file("/secret.toml: permission denied")},
		{"a directory", m.file("/"), m, m.file("/: is a directory")},
		{"a file below a file", m.file("/broken.toml/x"), m, m.file("/broken.toml/x: not a directory")},
		{"a log by mistake", m.file("/large.toml"), m, m.file("/large.toml: longer than 1 MiB, as no configuration is")},
		{"no home", "", homeless, m.file("/etc/postrider/postrider.toml: does not exist, and there is no place for the spool: ") +
			m.file("/var/spool/postrider does not exist, and HOME is not set; set spool")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Contains(tt.file, "secret") && os.Geteuid() == 0 {
				t.Skip("SKIPPED: root may read everything")
			}
			_, err := load(tt.file, tt.machine)
			if tt.want == "" {
				if err != nil {
					t.Errorf("load(%q) = %v", tt.file, err)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || err.Error() != tt.want {
				t.Errorf("load(%q):\n got %T %v\nwant %s", tt.file, err, err, tt.want)
			}
		})
	}
}
