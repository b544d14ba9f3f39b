package submit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
)

var testHost = Host{
	Name:    "web1.example.com",
	Domain:  "example.com",
	Rewrite: map[string]string{"root@example.com": "alerts@example.net"},
}

// submission returns one by user 1000, as sendmail makes it.
func submission(t *testing.T, content string, recipients ...string) Submission {
	t.Helper()
	s := Submission{Content: strings.NewReader(content), Author: func() Author { return Author{"ann", "Ann Example"} }}
	s.Arrival = time.Date(2026, 11, 21, 22, 0, 0, 0, time.FixedZone("", 3600))
	s.Submitter = 1000
	s.Sender = path(t, "ann@example.org")
	for _, r := range recipients {
		s.Recipients = append(s.Recipients, mail.Recipient{Path: path(t, r)})
	}
	return s
}

func path(t *testing.T, addr string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(addr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// submit has a message written, and reads it back.
func (h *Host) submit(t *testing.T, s Submission) (m *mail.Message, content string, err error) {
	t.Helper()
	path := t.TempDir()
	dir, err := drop.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	p, err := h.Receive(dir, s)
	if err != nil {
		if left, _ := os.ReadDir(path); len(left) > 0 {
			t.Errorf("%v is left behind after %v", left, err)
		}
		return nil, "", err
	}
	id, err := p.Commit()
	if err != nil {
		t.Fatal(err)
	}
	f, err := dir.Read(string(id))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Verify(); err != nil {
		t.Error(err)
	}
	b, err := io.ReadAll(io.NewSectionReader(f.Content, 0, f.Size))
	if err != nil {
		t.Fatal(err)
	}
	m = &f.Message
	return m, string(b), nil
}

// recipients returns them as one word each.
func recipients(m *mail.Message) string {
	var all []string
	for _, r := range m.Recipients {
		all = append(all, r.Path.Address())
	}
	return strings.Join(all, " ")
}

// What we add differs from run to run, or is the same in every test.
var added = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`^Received: by web1\.example\.com \(postrider, from userid 1000\)\n\tid [0-9A-Z]{11}; Sat, 21 Nov 2026 22:00:00 \+0100\n`), ""},
	{regexp.MustCompile(`(?m)^((?:Resent-)?Message-ID): <[0-9A-Z]{11}\.[0-9a-f]{8}@web1\.example\.com>\n`), "$1: OURS\n"},
	{regexp.MustCompile(`(?m)^((?:Resent-)?Date): Sat, 21 Nov 2026 22:00:00 \+0100\n`), "$1: OURS\n"},
}

// plain returns content with LF for CRLF, without the Received field that each message gets, and with "OURS" for values of
// ours that are not the same in each run.
func plain(t *testing.T, content string) string {
	t.Helper()
	content = strings.ReplaceAll(content, "\r\n", "\n")
	for i, a := range added {
		if i == 0 && !a.re.MatchString(content) {
			t.Errorf("no Received field of ours in %q", content)
		}
		content = a.re.ReplaceAllString(content, a.with)
	}
	return content
}

func TestTrace(t *testing.T) {
	for _, tt := range []struct {
		name, client, protocol string
		submitter              int
		want                   string
	}{
		{"by a program", "", "", 33, "by web1.example.com (postrider, from userid 33)\r\n"},
		{"by a program that speaks SMTP", "", "ESMTP", 33, "by web1.example.com (postrider, from userid 33) with ESMTP\r\n"},
		{"over the network", "app ([127.0.0.1])", "SMTP", -1, "from app ([127.0.0.1])\r\n\tby web1.example.com (postrider) with SMTP\r\n"},
	} {
		s := submission(t, fullHeader+"\nhi\n", "a@x")
		s.Client, s.Protocol, s.Submitter = tt.client, tt.protocol, tt.submitter
		_, content, err := testHost.submit(t, s)
		if want := "Received: " + tt.want + "\tid "; err != nil || !strings.HasPrefix(content, want) {
			t.Errorf("%s: %q, %v; want %q", tt.name, content, err, want)
		}
	}
}

const fullHeader = "Date: d\nFrom: a@b\nMessage-ID: <i>\n"

func TestContent(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"complete", fullHeader + "\nhi\n", fullHeader + "\nhi\n"},
		{"empty", "", "Date: OURS\nFrom: Ann Example <ann@example.org>\nMessage-ID: OURS\n\n"},
		{"no header", "disk full\n", "Date: OURS\nFrom: Ann Example <ann@example.org>\nMessage-ID: OURS\n\ndisk full\n"},
		{"text with a colon is a header", "note: text\n", "Date: OURS\nFrom: Ann Example <ann@example.org>\nMessage-ID: OURS\nnote: text\n\n"},
		{"blank line first", "\nFrom: not a header\n", "Date: OURS\nFrom: Ann Example <ann@example.org>\nMessage-ID: OURS\n\nFrom: not a header\n"},
		{"no blank line after the header", fullHeader + "body line\nmore: x\n", fullHeader + "\nbody line\nmore: x\n"},
		{"blank line inserted before text without line end", fullHeader + "body", fullHeader + "\nbody\n"},
		{"no line end at the end", fullHeader + "\nhi", fullHeader + "\nhi\n"},
		{"header without line end", "Date: d\nFrom: a@b\nMessage-ID: <i>", fullHeader + "\n"},
		{"continuation first is body", "  indented\nX: y\n", "Date: OURS\nFrom: Ann Example <ann@example.org>\nMessage-ID: OURS\n\n  indented\nX: y\n"},
		{"mbox line", "From x Mon Jan  1 00:00:00 2024\n" + fullHeader + "\nFrom here on\n", fullHeader + "\nFrom here on\n"},
		{"several mbox lines", ">From x\nFrom y\n" + fullHeader + "\n", fullHeader + "\n"},
		{"a blank before the colon is no mbox line", "Date: d\nFrom : a@b\nMessage-ID: <i>\n\n", "Date: d\nFrom : a@b\nMessage-ID: <i>\n\n"},
		{"not even as the first line", "From : a@b\nDate: d\nMessage-ID: <i>\n\n", "From : a@b\nDate: d\nMessage-ID: <i>\n\n"},
		{"an mbox line within the header ends it", fullHeader + "From x\nY: z\n", fullHeader + "\nFrom x\nY: z\n"},
		{"folded field", fullHeader + "Subject: a\n b\n\tc\n\nhi\n", fullHeader + "Subject: a\n b\n\tc\n\nhi\n"},
		{"empty fields", "Date:\nFrom: \nMessage-Id:\t\nTo:\n\n", "Date: OURS\nFrom: Ann Example <ann@example.org>\nMessage-ID: OURS\nTo:\n\n"},
		{"names in any case", "DATE: d\nfrom: a@b\nmessage-id: <i>\n\n", "DATE: d\nfrom: a@b\nmessage-id: <i>\n\n"},
		{"Bcc and what only others may add", "bcc: x@y,\n z@y\n" + fullHeader + "Resent-Bcc: q@r\nReturn-Path: <x>\nContent-Length: 3\n\nBcc: text\n",
			"Resent-Date: OURS\nResent-From: Ann Example <ann@example.org>\nResent-Message-ID: OURS\n" + fullHeader + "\nBcc: text\n"},
		{"resent", fullHeader + "Resent-To: c@z\n\n",
			"Resent-Date: OURS\nResent-From: Ann Example <ann@example.org>\nResent-Message-ID: OURS\n" + fullHeader + "Resent-To: c@z\n\n"},
		{"resent with some of it", "Resent-From: x@y\n" + fullHeader + "\n", "Resent-Date: OURS\nResent-Message-ID: OURS\nResent-From: x@y\n" + fullHeader + "\n"},
		{"bare addresses", "Date: d\nMessage-ID: <i>\nFrom: Fail2Ban <fail2ban>\nTo: ann, \"b, c\" <bob>,\n\tlist: eve;, a@b (c)\nCc:dave\nReply-To: < fred >\nSender: x\nSubject: root\n\n",
			"Date: d\nMessage-ID: <i>\nFrom: Fail2Ban <fail2ban@example.com>\nTo: ann@example.com, \"b, c\" <bob@example.com>,\n\tlist: eve@example.com;, a@b (c)\nCc:dave@example.com\nReply-To: < fred@example.com >\nSender: x@example.com\nSubject: root\n\n"},
		{"cron's From", "From: root (Cron Daemon)\nDate: d\nMessage-ID: <i>\nTo: root\nReply-To: root\n\n",
			"From: alerts@example.net (Cron Daemon)\nX-Original-From: root (Cron Daemon)\nDate: d\nMessage-ID: <i>\nTo: root@example.com\nReply-To: root@example.com\n\n"},
		{"rewriting in any case", "From: \"R\" <Root@EXAMPLE.com>\nDate: d\nMessage-ID: <i>\n\n", "From: \"R\" <alerts@example.net>\nX-Original-From: \"R\" <Root@EXAMPLE.com>\nDate: d\nMessage-ID: <i>\n\n"},
		{"what is no address", "From: Cron Daemon\nDate: d\nMessage-ID: <i>\nTo: john doe, root, \"x\n\n", "From: Cron Daemon <ann@example.org>\nX-Original-From: Cron Daemon\nDate: d\nMessage-ID: <i>\nTo: john doe, root@example.com, \"x\n\n"},
		{"nobody as the author", "From: \"Mailer, the\" <>\nX-Original-From: x\nResent-From: John Doe <john@>\nDate: d\nMessage-ID: <i>\n\n",
			"Resent-Date: OURS\nResent-From: John Doe <ann@example.org>\nResent-Message-ID: OURS\nX-Original-From: x\nDate: d\nMessage-ID: <i>\n\n"},
		{"octets above 127", "From: J\xf6rg <j>\nDate: d\nMessage-ID: <i>\nTo: jörg\n\n\xff\n", "From: J\xf6rg <j@example.com>\nDate: d\nMessage-ID: <i>\nTo: jörg@example.com\n\n\xff\n"},
		{"NUL", "Sub\x00ject: a\x00b\n" + fullHeader + "\nc\x00d\n", "Subject: ab\n" + fullHeader + "\ncd\n"},
		{"mixed line ends", "Date: d\r\nFrom: a@b\nMessage-ID: <i>\r\r\n\r\nl1\nl2\rl3\r\n", fullHeader + "\nl1\nl2\nl3\n"},
		{"dots are text", fullHeader + "\n.\n..\n", fullHeader + "\n.\n..\n"},
	} {
		_, got, err := testHost.submit(t, submission(t, tt.in, "bob@example.net"))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := plain(t, got); got != tt.want {
			t.Errorf("%s: content of %q\n got %q\nwant %q", tt.name, tt.in, got, tt.want)
		}
	}
}

func TestDotEndsContent(t *testing.T) {
	s := submission(t, fullHeader+"\na\n..b\n.\nc\n", "bob@example.net")
	s.Dots = true
	if _, got, err := testHost.submit(t, s); err != nil || plain(t, got) != fullHeader+"\na\n.b\n" {
		t.Errorf("content %q, %v", got, err)
	}
}

func TestAsIs(t *testing.T) {
	s := submission(t, "From: root\nTo: root\nBcc: x\nReturn-Path: <y>\n\nhi\n", "bob@example.net")
	s.AsIs = true
	if _, got, err := testHost.submit(t, s); err != nil || plain(t, got) != "From: root\nTo: root\n\nhi\n" {
		t.Errorf("content %q, %v", got, err)
	}
}

func TestEnvelope(t *testing.T) {
	header := func(s *Submission) { s.HeaderRecipients = true }
	for _, tt := range []struct {
		name, content string
		recipients    []string
		with          func(*Submission)
		want          string
	}{
		{"as given", "", []string{"bob@x", "eve@y"}, nil, "ann@example.org: bob@x eve@y"},
		{"bare names", "", []string{"root"}, nil, "ann@example.org: root@example.com"},
		{"twice", "", []string{"bob@X.org", "bob@x.ORG", "Bob@x.org", "root", "root@example.com"}, nil, "ann@example.org: bob@X.org Bob@x.org root@example.com"},
		{"bare sender", "", []string{"bob@x"}, func(s *Submission) { s.Sender = path(t, "joe") }, "joe@example.com: bob@x"},
		{"sender rewritten", "", []string{"bob@x"}, func(s *Submission) { s.Sender = path(t, "root") }, "alerts@example.net: bob@x"},
		{"null sender", "", []string{"bob@x"}, func(s *Submission) { s.Sender = mail.NullSender }, ": bob@x"},
		{"header", "To: a@x\nCc: C <c@x>,\n d@x\nbCC: b@x\n\nTo: e@x\n", nil, header, "ann@example.org: a@x c@x d@x b@x"},
		{"header and given", "To: a@x, b@y\n\n", []string{"b@Y", "c@z"}, header, "ann@example.org: b@Y c@z a@x"},
		{"header is not asked for", "To: a@x\n\n", []string{"b@y"}, nil, "ann@example.org: b@y"},
		{"resent", "To: a@x\nCc: b@x\nResent-To: c@z\nResent-Bcc: d@z\nBcc: e@x\n\n", nil, header, "ann@example.org: c@z d@z"},
		{"resent without recipients", "To: a@x\nResent-From: b@x\n\n", nil, header, "ann@example.org: a@x"},
		{"group and Bcc", "To: undisclosed-recipients:;\nBcc: q@x\n\n", nil, header, "ann@example.org: q@x"},
		{"null in a list", "To: a@x, <>\n\n", nil, header, "ann@example.org: a@x"},
	} {
		s := submission(t, tt.content, tt.recipients...)
		if tt.with != nil {
			tt.with(&s)
		}
		m, _, err := testHost.submit(t, s)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := m.Sender.Address() + ": " + recipients(m); got != tt.want {
			t.Errorf("%s: envelope %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestEnvelopeIsKept(t *testing.T) {
	s := submission(t, "To: h@x\n\n", "bob@x")
	s.Recipients[0].Notify = mail.NotifyNever
	s.Recipients[0].Original = "rfc822;b+2Bob@x"
	s.Return, s.ID, s.SMTPUTF8 = mail.ReturnHeaders, "id+20123", true
	s.HeaderRecipients, s.Notify = true, mail.NotifyDelay
	m, _, err := testHost.submit(t, s)
	if err != nil {
		t.Fatal(err)
	}
	want := "[{<bob@x> NEVER rfc822;b+2Bob@x false} {<h@x> DELAY  false}] HDRS id+20123 true"
	if got := fmt.Sprint(m.Recipients, " ", m.Return, " ", m.ID, " ", m.SMTPUTF8); got != want {
		t.Errorf("envelope %s, want %s", got, want)
	}
}

// What a header wishes, if no parameter has said otherwise.
func TestWishesInTheHeader(t *testing.T) {
	for _, tt := range []struct {
		header   string
		given    mail.Envelope
		priority int
		tls      mail.TLSWish
	}{
		{"MT-Priority: -4\n", mail.Envelope{}, -4, mail.TLSUnsaid},
		{"mt-priority:\t9 \n", mail.Envelope{}, 9, mail.TLSUnsaid},
		{"MT-Priority: 10\nMT-Priority: 3\nMT-Priority: 4\n", mail.Envelope{}, 3, mail.TLSUnsaid},
		{"MT-Priority: 3\n", mail.Envelope{Priority: -1}, -1, mail.TLSUnsaid},
		{"Resent-MT-Priority: 3\nX-MT-Priority: 3\n", mail.Envelope{}, 0, mail.TLSUnsaid},
		{"TLS-Required: No\n", mail.Envelope{}, 0, mail.TLSNotRequired},
		{"tls-required:no\nTLS-Required: NO\n", mail.Envelope{}, 0, mail.TLSNotRequired},
		{"TLS-Required: No\nTLS-Required: Yes\n", mail.Envelope{}, 0, mail.TLSUnsaid},
		{"TLS-Required: Yes\nTLS-Required: No\n", mail.Envelope{}, 0, mail.TLSUnsaid},
		{"TLS-Required: No\n", mail.Envelope{TLS: mail.TLSRequired}, 0, mail.TLSRequired},
	} {
		s := submission(t, tt.header+"\n", "bob@x")
		s.Priority, s.TLS = tt.given.Priority, tt.given.TLS
		m, content, err := testHost.submit(t, s)
		if err != nil {
			t.Fatal(err)
		}
		if m.Priority != tt.priority || m.TLS != tt.tls {
			t.Errorf("%q: priority %d, TLS %q; want %d, %q", tt.header, m.Priority, m.TLS, tt.priority, tt.tls)
		}
		if !strings.Contains(content, strings.ReplaceAll(tt.header, "\n", "\r\n")) {
			t.Errorf("%q is not in %q", tt.header, content)
		}
	}
}

func TestAuthor(t *testing.T) {
	for _, tt := range []struct{ name, sender, full, want string }{
		{"plain", "ann@x", "Ann Example", "Ann Example <ann@x>"},
		{"no name", "ann@x", "", "ann@x"},
		{"bare sender", "ann", "", "ann@example.com"},
		{"null sender", "", "Ann", "Ann <ann@example.com>"},
		{"rewritten", "root", "Cron Daemon", "Cron Daemon <alerts@example.net>"},
		{"specials", "ann@x", `Example, Ann "A\B"`, `"Example, Ann \"A\\B\"" <ann@x>`},
		{"UTF-8", "ann@x", "Jörg", "=?utf-8?b?SsO2cmc=?= <ann@x>"},
		{"Latin-1", "ann@x", "J\xf6rg", "=?unknown-8bit?b?SvZyZw==?= <ann@x>"},
		{"line end", "ann@x", "Ann\nBcc: evil@x", "ann@x"},
		{"far too long", "ann@x", strings.Repeat("x", 300), "ann@x"},
	} {
		s := submission(t, "", "bob@x")
		s.Sender, s.Author = path(t, tt.sender), func() Author { return Author{"ann", tt.full} }
		_, content, err := testHost.submit(t, s)
		if err != nil {
			t.Fatal(err)
		}
		if want := "From: " + tt.want + "\r\n"; !strings.Contains(content, want) {
			t.Errorf("%s: header %q, want %q", tt.name, content, want)
		}
	}
}

func TestAuthorIn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passwd")
	text := "root:x:0:0:root:/root:/bin/sh\nshort:x\njoe:x:1000:1000:&  Miller,Room 5,,:/home/joe:/bin/sh\nno body:x:7:7::/:\nanon:x:8:8::/:"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[int]Author{
		0: {"root", "root"}, 1000: {"joe", "Joe  Miller"}, 12345: {"12345", ""}, 7: {"7", ""}, 8: {"anon", ""},
	} {
		if got := authorIn(file, "/nonexistent/getent", uid); got != want {
			t.Errorf("user %d is %q, want %q", uid, got, want)
		}
	}
	if got := authorIn(file+".missing", "/nonexistent/getent", 5); got != (Author{Login: "5"}) {
		t.Errorf("without the file user 5 is %q", got)
	}
}

// Users of a directory, and those that systemd makes up, are in no file.
func TestAuthorWhomGetentKnows(t *testing.T) {
	getent := filepath.Join(t.TempDir(), "getent")
	script := "#!/bin/sh\n[ \"$1\" = passwd ] && [ \"$#\" = 2 ] && [ -z \"$NAME\" ] || exit 1\ncase $2 in\n5000) echo 'eve:*:5000:5000:Eve Example,,,:/:/bin/sh'; echo more;;\n5001) echo 'not an entry';;\n5002) echo 'root:x:0:0:root:/:';;\n*) exit 2;;\nesac\n"
	if err := os.WriteFile(getent, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NAME", "of the caller's environment")
	for uid, want := range map[int]Author{5000: {"eve", "Eve Example"}, 5001: {Login: "5001"}, 5002: {Login: "5002"}, 5003: {Login: "5003"}} {
		if got := authorIn("/nonexistent/passwd", getent, uid); got != want {
			t.Errorf("user %d is %q, want %q", uid, got, want)
		}
	}
}

func TestFacts(t *testing.T) {
	long := strings.Repeat("x", 3*readSize)
	for _, tt := range []struct {
		name, in string
		want     mail.Facts
	}{
		{"ASCII", fullHeader + "\nhi\n", mail.Facts{LongestLine: 60}},
		{"body above 127", fullHeader + "\n\xe9\n", mail.Facts{EightBit: true, LongestLine: 60}},
		{"header above 127", fullHeader + "Subject: \xe9\n\n", mail.Facts{EightBit: true, HeaderUTF8: true, LongestLine: 60}},
		{"long line in the body", fullHeader + "\n" + long + "\n", mail.Facts{LongestLine: len(long)}},
		{"long last line", fullHeader + "\n" + long, mail.Facts{LongestLine: len(long)}},
		{"long line in the header", fullHeader + "X:" + long + "\n\n", mail.Facts{LongestLine: len(long) + 2}},
		{"bare CR ends a line", fullHeader + "\n" + long + "\r" + long, mail.Facts{LongestLine: len(long)}},
	} {
		m, content, err := testHost.submit(t, submission(t, tt.in, "bob@x"))
		if err != nil {
			t.Fatal(err)
		}
		if tt.want.LongestLine == 60 { // of the Received field
			tt.want.LongestLine = strings.Index(content, "\r\n")
		}
		if m.Facts != tt.want {
			t.Errorf("%s: facts %+v, want %+v", tt.name, m.Facts, tt.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	hops := strings.Repeat("Received: x\n", 101)
	header := func(s *Submission) { s.HeaderRecipients = true }
	for _, tt := range []struct {
		name, content string
		recipients    []string
		with          func(*Submission)
		host          Host
		status        int
		code, text    string
	}{
		{"no recipients", "", nil, nil, testHost, ExitUsage, "5.5.1", "no recipients"},
		{"none in the header", "To: undisclosed-recipients:;\n\n", nil, header, testHost, ExitUsage, "5.5.1", "no recipients in the header"},
		{"only in the originals", "To: a@x\nResent-To: (nobody)\n\n", nil, header, testHost, ExitUsage, "5.5.1", "no recipients in the header"},
		{"no address in the header", "To: john doe, a@x\n\n", nil, header, testHost, ExitData, "5.1.3", `"john doe": blank in address`},
		{"too many hops", hops + "\n", []string{"a@x"}, nil, testHost, ExitData, "5.4.6", "101 Received fields"},
		{"header too long", "X: " + strings.Repeat("x", maxHeader), []string{"a@x"}, nil, testHost, ExitData, "5.6.0", "header is longer than 16777216 octets"},
		{"header of short lines too long", strings.Repeat("X: 1\n", maxHeader/6+1), []string{"a@x"}, nil, testHost, ExitData, "5.6.0", "header is longer than 16777216 octets"},
		{"too many recipients", manyRecipients(maxRecipients + 1), nil, header, testHost, ExitData, "5.5.3", "more than 200000 recipients"},
		{"recipients that have too much to say", "", nil, longRecipients, testHost, ExitData, "5.5.3", "envelope too long"},
		{"too large", "\n" + strings.Repeat("x", 500), []string{"a@x"}, nil, Host{Name: "h", Domain: "d", MaxSize: 500}, ExitUnavailable, "5.3.4", "larger than 500 octets"},
		{"too large by its header", strings.Repeat("X: x\n", 100), []string{"a@x"}, nil, Host{Name: "h", Domain: "d", MaxSize: 500}, ExitUnavailable, "5.3.4", "larger than 500 octets"},
		{"unreadable", "", []string{"a@x"}, func(s *Submission) { s.Content = failing{} }, testHost, ExitIO, "4.3.0", "cannot read message: torn"},
		{"unreadable in the body", "", []string{"a@x"}, func(s *Submission) { s.Content = io.MultiReader(strings.NewReader("a\nb"), failing{}) }, testHost, ExitIO, "4.3.0", "cannot read message: torn"},
	} {
		s := submission(t, tt.content, tt.recipients...)
		if tt.with != nil {
			tt.with(&s)
		}
		_, _, err := tt.host.submit(t, s)
		var e *Error
		if !errors.As(err, &e) || e.Status != tt.status || e.Code.String() != tt.code || !strings.Contains(e.Error(), tt.text) {
			t.Errorf("%s: error %v (%+v), want %d, %s, %q", tt.name, err, e, tt.status, tt.code, tt.text)
		}
	}
}

// A report is written where there is somebody to be told, and about what is refused for good.
func TestReturns(t *testing.T) {
	null := func(s *Submission) { s.Sender = mail.NullSender }
	never := func(s *Submission) { s.Notify = mail.NotifyNever }
	full := strings.Repeat("x", 2000)
	for _, tt := range []struct {
		name, content string
		recipients    []string
		with          func(*Submission)
		returned      bool
	}{
		{"no recipients", "Subject: x\n\n", nil, nil, true},
		{"too large", "Subject: x\n\n" + full, []string{"a@x"}, nil, true},
		{"too many hops", strings.Repeat("Received: x\n", 101), []string{"a@x"}, nil, true},
		{"header too long", "X: " + strings.Repeat("x", maxHeader), []string{"a@x"}, nil, true},
		{"nobody to be told", full, []string{"a@x"}, null, false},
		{"nobody who wants to be told", full, []string{"a@x"}, never, false},
		{"unreadable", "", []string{"a@x"}, func(s *Submission) { s.Content = failing{} }, false},
	} {
		path := t.TempDir()
		dir, err := drop.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		s := submission(t, tt.content, tt.recipients...)
		s.Returns = true
		if tt.with != nil {
			tt.with(&s)
		}
		host := testHost
		host.MaxSize = 1000
		_, err = host.Receive(dir, s)
		var e *Error
		if !errors.As(err, &e) || e.Returned != tt.returned {
			t.Errorf("%s: %v (%+v), want Returned %v", tt.name, err, e, tt.returned)
		}
		left, err := os.ReadDir(path)
		if err != nil || len(left) == 1 != tt.returned {
			t.Errorf("%s: %d messages are queued (%v)", tt.name, len(left), err)
		}
	}
}

// A message that is sent to nobody comes back with the report, since its author may have no other copy: whole if it is
// short, and not without what makes it a message.
func TestReportReturnsMessage(t *testing.T) {
	const header = "Subject: x\nBcc: secret@x.example\n"
	for _, tt := range []struct {
		name, content string
		with          func(*Submission)
		want          string // after the boundary
	}{
		{"whole", header + "\nhi\n..\n.\nno more", nil, "message/rfc822\nSubject: x\n\nhi\n.\n"},
		{"without a blank line", header + "hi\nho", nil, "message/rfc822\nSubject: x\n\nhi\nho\n"},
		{"empty", "", nil, "message/rfc822\n\n"},
		{"long", header + "\n" + strings.Repeat("x\n", maxReturned/3), nil, "text/rfc822-headers\nSubject: x\n"},
		{"with a long line", header + "\n" + strings.Repeat("x", maxLine+1), nil, "text/rfc822-headers\nSubject: x\n"},
		{"of which only the header is wanted", header + "\nhi\n", func(s *Submission) { s.Return = mail.ReturnHeaders }, "text/rfc822-headers\nSubject: x\n"},
		{"that others get", header + "\nhi\n", func(s *Submission) { s.Partly = true; s.Recipients = []mail.Recipient{{Path: path(t, "a@x")}} }, "text/rfc822-headers\nSubject: x\n"},
		{"that is too large for us", header + "\n" + strings.Repeat("x\n", 100_000), func(s *Submission) { s.Rejected, s.Recipients = nil, []mail.Recipient{{Path: path(t, "a@x")}} }, "text/rfc822-headers\nSubject: x\n"},
		{"that cannot be read to its end", header + "\nhi\n", func(s *Submission) { s.Content = io.MultiReader(s.Content, failing{}) }, "text/rfc822-headers\nSubject: x\n"},
	} {
		s := submission(t, tt.content)
		s.Returns, s.Dots = true, true
		s.Rejected = mail.AddressErrors{&mail.AddressError{Item: "a b", Err: errors.New("blank in address")}}
		if tt.with != nil {
			tt.with(&s)
		}
		host := testHost
		host.MaxSize = 150_000
		got := ""
		for _, report := range host.reports(t, s) {
			_, got, _ = strings.Cut(strings.ReplaceAll(report, "\r\n", "\n"), "message/delivery-status")
			_, got, _ = strings.Cut(got, "Content-Type: ")
			got = regexp.MustCompile(`(?m)^Content-(Description|Transfer-Encoding): .*\n|\n--.*\n`).ReplaceAllString(got, "")
		}
		if want := strings.Replace(tt.want, "\n", "\n\n", 1); got != want {
			t.Errorf("%s: returned %q, want %q", tt.name, got, want)
		}
	}
}

// reports returns the reports that are queued when a message is received.
func (h *Host) reports(t *testing.T, s Submission) (all []string) {
	t.Helper()
	name := t.TempDir()
	dir, err := drop.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if p, err := h.Receive(dir, s); err == nil {
		if _, err := p.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		m, err := dir.Read(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		b, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Size))
		if err != nil {
			t.Fatal(err)
		}
		if m.Sender.IsNull() {
			all = append(all, string(b))
		}
	}
	return all
}

// A report is small, and has no long line, however much was refused.
func TestReportIsSmall(t *testing.T) {
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprintf("u%d@x.example", i))
	}
	header := "X-Long: " + strings.Repeat("x", 2000) + "\nSubject: x\n\n"
	for _, tt := range []struct {
		name string
		s    Submission
		want []string
	}{
		{"addresses that are none", submission(t, header), []string{"    and 900 more\n"}},
		{"too large for many", submission(t, header+strings.Repeat("x", 2000), many...), []string{"; there are 900 more.\n", "Final-Recipient: rfc822; u99@x.example\n"}},
	} {
		if len(tt.s.Recipients) == 0 {
			for range 1000 {
				long := &mail.AddressError{Item: strings.Repeat("a ", 50_000), Err: errors.New("blank in address")}
				tt.s.Rejected = append(tt.s.Rejected, long)
			}
		}
		path := t.TempDir()
		dir, err := drop.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		tt.s.Returns = true
		host := testHost
		host.Name, host.MaxSize = "web1", 1000
		if _, err := host.Receive(dir, tt.s); err == nil {
			t.Fatalf("%s: accepted", tt.name)
		}
		left, err := os.ReadDir(path)
		if err != nil || len(left) != 1 {
			t.Fatal(left, err)
		}
		m, err := dir.Read(left[0].Name())
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		b, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Size))
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\r\nFinal-Recipient: ")); n != 100 || m.Size > 300<<10 || m.LongestLine > 998 {
			t.Errorf("%s: %d recipients are named in %d octets, with a line of %d", tt.name, n, m.Size, m.LongestLine)
		}
		text := strings.ReplaceAll(string(b), "\r\n", "\n")
		for _, want := range append(tt.want, "\nReporting-MTA: x-local-hostname; web1\n", "\nSubject: x\n") {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in the report", tt.name, want)
			}
		}
	}
}

// Whatever the header of a refused message holds, its report is in wire form, and its header is ours.
func FuzzReturned(f *testing.F) {
	f.Add("Subject: x\nBcc: secret@x\n\nhi", "a b")
	f.Add("Subject: =_\xff\x00\r\n : \n--=_\n", "a\rb@c d")
	f.Add("Subject:\r\n folded\n\n", "\xff@")
	f.Fuzz(func(t *testing.T, content, word string) {
		path := t.TempDir()
		dir, err := drop.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		s := submission(t, content)
		s.Returns = true
		s.Rejected = mail.AddressErrors{&mail.AddressError{Item: word, Err: errors.New(word)}}
		_, err = testHost.Receive(dir, s)
		var e *Error
		if !errors.As(err, &e) || !e.Returned {
			t.Fatalf("Receive = %v, and no report", err)
		}
		left, err := os.ReadDir(path)
		if err != nil || len(left) != 1 {
			t.Fatal(left, err)
		}
		m, err := dir.Read(left[0].Name())
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Verify(); err != nil {
			t.Error(err)
		}
		b, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Size))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.ContainsAny(bytes.ReplaceAll(b, []byte("\r\n"), nil), "\r\n\x00") || !bytes.HasSuffix(b, []byte("--\r\n")) {
			t.Errorf("not in wire form: %q", b)
		}
		header, _, _ := bytes.Cut(b, []byte("\r\n\r\n"))
		if n := bytes.Count(header, []byte("\r\n")); n != 7 || bytes.ContainsFunc(header, func(r rune) bool { return r > '~' }) {
			t.Errorf("the header has %d lines, want 8 of ASCII: %q", n+1, header)
		}
	})
}

func TestHopLimit(t *testing.T) {
	if _, _, err := testHost.submit(t, submission(t, strings.Repeat("Received: x\n", maxHops), "a@x")); err != nil {
		t.Errorf("%d hops: %v", maxHops, err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("torn") }

func TestSizeLimitIsExact(t *testing.T) {
	s := submission(t, fullHeader+"\nhi\n", "bob@x")
	_, content, err := testHost.submit(t, s)
	if err != nil {
		t.Fatal(err)
	}
	for limit, refused := range map[int]bool{len(content): false, len(content) - 1: true} {
		h := testHost
		h.MaxSize = int64(limit)
		s.Content = strings.NewReader(fullHeader + "\nhi\n")
		if _, _, err := h.submit(t, s); (err != nil) != refused {
			t.Errorf("%d octets with a limit of %d: %v", len(content), limit, err)
		}
	}
}

// A name that would be too long with the domain stays as it is, for others to judge.
func TestLongBareName(t *testing.T) {
	name := strings.Repeat("x", 1020)
	m, _, err := testHost.submit(t, submission(t, "\nhi\n", name))
	if err != nil || recipients(m) != name {
		t.Errorf("submit = %v, recipients of %d octets", err, len(recipients(m)))
	}
}

// manyRecipients returns a header that names so many.
func longRecipients(s *Submission) {
	for n := range 120_000 {
		to, err := mail.ParsePath(fmt.Sprintf("%d@example.net", n))
		if err != nil {
			panic(err)
		}
		s.Recipients = append(s.Recipients, mail.Recipient{Path: to, Original: "rfc822;" + strings.Repeat("x", 600)})
	}
}

func manyRecipients(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "To: u%d\n", i)
	}
	return b.String()
}

func TestHundredThousandRecipients(t *testing.T) {
	var header strings.Builder
	header.WriteString("To: ")
	for i := range 100_000 {
		fmt.Fprintf(&header, "user%d@example.net,\n ", i)
	}
	s := submission(t, header.String()+"\n\nhi\n")
	s.HeaderRecipients = true
	if m, _, err := testHost.submit(t, s); err != nil || len(m.Recipients) != 100_000 {
		t.Errorf("%v, want 100,000 recipients", err)
	}
}

// Whatever comes in, a server sees one message: every CR and LF that leaves is part of a CRLF, there is no NUL, and the
// last line is complete. This is tried with every sequence of the octets that matter, at the start of a message, of a
// header field, and of a body.
func TestContentIsWireForm(t *testing.T) {
	units := []string{"\r", "\n", "\r\n", "\x00", ".", "Q", "Q:"}
	most := 4
	if os.Getenv("POSTRIDER_PROOF") != "" {
		most = 6
	}
	for n := range most + 1 {
		sequence := make([]int, n)
		for {
			var in strings.Builder
			for _, u := range sequence {
				in.WriteString(units[u])
			}
			for _, before := range []string{"", "X: ", "X: y\n\n"} {
				for _, dots := range []bool{false, true} {
					wire := checkWireForm(t, before+in.String(), dots)
					if !dots && strings.Count(wire, "Q") != strings.Count(in.String(), "Q") {
						t.Fatalf("%q becomes %q: text is missing", before+in.String(), wire)
					}
				}
			}
			i := 0
			for ; i < n; i++ {
				if sequence[i]++; sequence[i] < len(units) {
					break
				}
				sequence[i] = 0
			}
			if i == n {
				break
			}
		}
	}
}

// checkWireForm has content mended in memory, and returns what became of it.
func checkWireForm(t *testing.T, in string, dots bool) string {
	t.Helper()
	s := submission(t, in)
	s.Dots = dots
	lines := newLineReader(s.Content, dots)
	header, body, ends, err := readHeader(lines)
	if err != nil {
		t.Fatal(err)
	}
	m := mending{host: &testHost, Submission: &s, header: header}
	if err := m.survey(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	p := Pending{meter: meter{to: &out}}
	m.writeHeader(&p.meter, "")
	p.endHeader()
	p.piece(body, ends)
	if err := p.copy(lines); err != nil {
		t.Fatal(err)
	}
	wire := out.String()
	if rest := strings.ReplaceAll(wire, "\r\n", ""); strings.ContainsAny(rest, "\r\n\x00") || !strings.HasSuffix(wire, "\r\n") {
		t.Fatalf("%q becomes %q", in, wire)
	}
	return wire
}

func FuzzContent(f *testing.F) {
	f.Add("From x\nTo: a\n b\r\rc\x00\n\n.\n..\n", true)
	f.Add("X : y\n >z\r\n", false)
	f.Fuzz(func(t *testing.T, in string, dots bool) { checkWireForm(t, in, dots) })
}
