package submit

import (
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/mail"
)

// rewritingHost has a rule of each form.
var rewritingHost = Host{
	Name: "web1.example.com", Domain: "example.com", Local: []string{"localhost", "web1.example.com"},
	Rewrite: map[string]string{
		"boss@web1.example.com":  "boss@example.org",
		"root":                   "alerts@example.com",
		"backup":                 "@backup.example.org",
		"@web1.example.com":      "@example.com",
		"@web2.example.com":      "web2@example.com",
		"@.lan.example.com":      "@example.com",
		"@.deep.lan.example.com": "deep@example.com",
		"@jörg.example":          "joerg@example.com",
	},
}

func TestRewritten(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"an address", "boss@web1.example.com", "boss@example.org"},
		{"in another case", "BOSS@Web1.Example.com", "boss@example.org"},
		{"a name of this host", "root", "alerts@example.com"},
		{"in another case", "Root", "alerts@example.com"},
		{"at its domain", "root@example.com", "alerts@example.com"},
		{"at a local domain, before the rule for that", "root@WEB1.example.com", "alerts@example.com"},
		{"at localhost", "root@localhost", "alerts@example.com"},
		{"at other hosts it is somebody else", "root@example.net", "root@example.net"},
		{"a name to another domain", "backup", "backup@backup.example.org"},
		{"a domain keeps the local part, as it is written", "Ann+x@web1.example.com", "Ann+x@example.com"},
		{"and quotes", `"a@b c"@web1.example.com`, `"a@b c"@example.com`},
		{"a domain to an address", "ann@web2.example.com", "web2@example.com"},
		{"a domain is not those below it", "ann@a.web2.example.com", "ann@a.web2.example.com"},
		{"a domain and all below", "ann@lan.example.com", "ann@example.com"},
		{"below", "ann@a.b.lan.example.com", "ann@example.com"},
		{"the longest of them", "ann@x.deep.lan.example.com", "deep@example.com"},
		{"not what only ends so", "ann@badlan.example.com", "ann@badlan.example.com"},
		{"once, not again", "ann@web1.example.com", "ann@example.com"},
		{"no rule", "ann@example.net", "ann@example.net"},
		{"no rule, but no domain", "ann", "ann@example.com"},
		{"beyond ASCII", "Änn@JÖRG.example", "joerg@example.com"},
		{"the null sender", "", ""},
	} {
		if got := rewritingHost.Rewritten(path(t, tt.in)).Address(); got != tt.want {
			t.Errorf("%s: %s becomes %s, want %s", tt.name, tt.in, got, tt.want)
		}
	}
}

func TestForceFrom(t *testing.T) {
	h := rewritingHost
	h.ForceFrom = "force@example.com"
	for in, want := range map[string]string{"root": "force@example.com", "x@y.z": "force@example.com", "": "", "force@example.com": "force@example.com"} {
		if got := h.Rewritten(path(t, in)).Address(); got != want {
			t.Errorf("%q becomes %s, want %s", in, got, want)
		}
	}
}

// TestAuthorsAreRewritten sends what programs write to a server that takes mail only from an address it knows.
func TestAuthorsAreRewritten(t *testing.T) {
	forcing := rewritingHost
	forcing.ForceFrom = "force@example.com"
	const rest = "Date: d\nMessage-ID: <i>\n\n"
	for _, tt := range []struct {
		name    string
		host    Host
		sender  string
		in, out string
		wants   string // of the envelope
	}{
		{"cron", rewritingHost, "root", "From: root (Cron Daemon)\n" + rest, "From: alerts@example.com (Cron Daemon)\nX-Original-From: root (Cron Daemon)\n" + rest, "alerts@example.com, was root@example.com"},
		{"cronie, which wants no bounces", rewritingHost, "", "From: \"(Cron Daemon)\" <root>\n" + rest, "From: \"(Cron Daemon)\" <alerts@example.com>\nX-Original-From: \"(Cron Daemon)\" <root>\n" + rest, ", was "},
		{"anacron", rewritingHost, "root", "From: Anacron <root>\n" + rest, "From: Anacron <alerts@example.com>\nX-Original-From: Anacron <root>\n" + rest, "alerts@example.com, was root@example.com"},
		{"no From", rewritingHost, "root@localhost", rest, "From: Ann Example <alerts@example.com>\nX-Original-From: Ann Example <root@localhost>\n" + rest, "alerts@example.com, was root@localhost"},
		{"nothing to be done", rewritingHost, "ann@example.com", "From: ann\n" + rest, "From: ann@example.com\n" + rest, "ann@example.com, was "},
		{"Sender, but neither Reply-To nor recipients", rewritingHost, "ann@example.com", "From: ann\nSender: root\nReply-To: root\nTo: root\nCc: x@web1.example.com\n" + rest,
			"From: ann@example.com\nSender: alerts@example.com\nReply-To: root@example.com\nTo: root@example.com\nCc: x@web1.example.com\n" + rest, "ann@example.com, was "},
		{"who has been renamed before", rewritingHost, "root", "X-Original-From: first\nFrom: root\n" + rest, "X-Original-From: first\nFrom: alerts@example.com\n" + rest, "alerts@example.com, was root@example.com"},
		{"sent once more", rewritingHost, "root", "Resent-From: root\nResent-Date: d\nResent-Message-ID: <r>\nFrom: x@y.example\n" + rest, "Resent-From: alerts@example.com\nResent-Date: d\nResent-Message-ID: <r>\nFrom: x@y.example\n" + rest, "alerts@example.com, was root@example.com"},

		{"a form on the web", forcing, "www-data", "From: \"Doe, John\" <john@example.net>\n" + rest, "From: \"Doe, John\" <force@example.com>\nX-Original-From: \"Doe, John\" <john@example.net>\nReply-To: \"Doe, John\" <john@example.net>\n" + rest, "force@example.com, was www-data@example.com"},
		{"which says itself where answers go", forcing, "www-data", "From: john@example.net\nReply-To: office@example.net\n" + rest, "From: force@example.com\nX-Original-From: john@example.net\nReply-To: office@example.net\n" + rest, "force@example.com, was www-data@example.com"},
		{"nobody can answer root", forcing, "root@web1.example.com", "From: root@web1.example.com\n" + rest, "From: force@example.com\nX-Original-From: root@web1.example.com\n" + rest, "force@example.com, was root@web1.example.com"},
		{"nor a name without a domain, or that is known only here", forcing, "", "From:\n a@localhost, b@box.local,\n  c@lan, d@[192.0.2.1]\n" + rest, "From:\n force@example.com, force@example.com,\n  force@example.com, force@example.com\nX-Original-From: \n a@localhost, b@box.local,\n  c@lan, d@[192.0.2.1]\nReply-To: <d@[192.0.2.1]>\n" + rest, ", was "},
		{"no From", forcing, "ann@example.net", rest, "From: Ann Example <force@example.com>\nX-Original-From: Ann Example <ann@example.net>\nReply-To: Ann Example <ann@example.net>\n" + rest, "force@example.com, was ann@example.net"},
		{"it is right already", forcing, "force@example.com", "From: Me <force@example.com>\n" + rest, "From: Me <force@example.com>\n" + rest, "force@example.com, was "},
	} {
		s := submission(t, tt.in, "bob@example.net")
		s.Sender = path(t, tt.sender)
		m, content, err := tt.host.submit(t, s)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := plain(t, content); got != tt.out {
			t.Errorf("%s: content of %q\n got %q\nwant %q", tt.name, tt.in, got, tt.out)
		}
		if got := m.Sender.Address() + ", was " + m.OriginalSender.Address(); got != tt.wants {
			t.Errorf("%s: sender %s, want %s", tt.name, got, tt.wants)
		}
	}
}

func TestHeaderFromElsewhereIsLeftAlone(t *testing.T) {
	s := submission(t, "From: root\n\nhi\n", "bob@example.net")
	s.Sender, s.AsIs = path(t, "root"), true
	m, content, err := rewritingHost.submit(t, s)
	if err != nil || plain(t, content) != "From: root\n\nhi\n" || m.Sender != path(t, "alerts@example.com") {
		t.Errorf("content %q from %s, %v", content, m.Sender, err)
	}
}

func TestFieldsOfOursAreFolded(t *testing.T) {
	s := submission(t, "", "bob@example.net")
	s.Author = func() Author { return Author{"ann", strings.Repeat("Jörg von und zu ", 12)} }
	s.Sender = path(t, strings.Repeat("ann.", 20)+"@example.com")
	_, content, err := rewritingHost.submit(t, s)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(content, "\r\n") {
		if len(line) > len(s.Sender.String())+1 {
			t.Errorf("a line of %d octets: %s", len(line), line)
		}
	}
	if !strings.Contains(content, "From: =?utf-8?b?") || !strings.Contains(content, "?=\r\n =?utf-8?b?") || !strings.Contains(content, "\r\n "+s.Sender.String()+"\r\n") {
		t.Errorf("content %q", content)
	}
}

// FuzzRewritten holds that whoever comes in, an address comes out that could have come in.
func FuzzRewritten(f *testing.F) {
	f.Add("root", "a@b")
	f.Fuzz(func(t *testing.T, addr, to string) {
		p, err := mail.ParsePath(addr)
		if err != nil {
			return
		}
		h := Host{Domain: "example.com", Rewrite: map[string]string{"root": to, "@example.com": to, "@.example.net": to}}
		got := h.Rewritten(p)
		if again, err := mail.ParsePath(got.String()); err != nil || again != got || got.IsNull() != p.IsNull() {
			t.Errorf("%q becomes %q (%v)", addr, got, err)
		}
	})
}
