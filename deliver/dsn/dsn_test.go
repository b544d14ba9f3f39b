package dsn

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"io"
	"mime"
	"mime/multipart"
	netmail "net/mail"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/postrider/postrider/internal/mail"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	zone    = time.FixedZone("", 2*60*60)
	arrival = time.Date(2026, 10, 9, 9, 40, 52, 0, zone)
	now     = time.Date(2026, 10, 14, 9, 41, 7, 0, zone)
)

func path(t testing.TB, s string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func rcpt(t testing.TB, address string) mail.Recipient {
	return mail.Recipient{Path: path(t, address)}
}

const letter = `Received: by relay.kite.example (postrider, from userid 1001)
	id 0N41Z7C2K9A; Fri, 09 Oct 2026 09:40:52 +0200
From: Ada <ada@kite.example>
To: bruno@orchard.example
Subject: Cron <ada@kite> /usr/local/bin/backup
Message-ID: <fig-77@kite.example>
Date: Fri, 09 Oct 2026 09:40:50 +0200

backup: 17 files saved
`

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// original returns a message with the content, whose lines end in LF here.
func newOriginal(t testing.TB, content string) *mail.Message {
	wire := crlf(content)
	m := &mail.Message{QueueID: "0N41Z7C2K9A", Content: strings.NewReader(wire), Size: int64(len(wire))}
	m.Sender = path(t, "ada@kite.example")
	m.Arrival = arrival
	return m
}

func remote(action mail.Action, scope mail.Scope, code int, enhanced mail.EnhancedCode, text string) mail.Result {
	return mail.Result{
		Action: action, Scope: scope, Relay: "mx2.orchard.example[203.0.113.24]:25", Remote: true,
		Reply: mail.Reply{Code: code, Enhanced: enhanced, Text: text},
	}
}

func unknownUser() mail.Result {
	return remote(mail.Failed, mail.OfRecipient, 550, mail.EnhancedCode{5, 1, 1}, "bruno: unknown here")
}

// report returns a report on one recipient; tests change what they are about.
func report(t testing.TB, result mail.Result) *Report {
	return &Report{
		Action:       result.Action,
		ReportingMTA: "relay.kite.example",
		Now:          now,
		ID:           "0N4AB3C4D5E",
		MessageID:    "0N4AB3C4D5E@relay.kite.example",
		From:         path(t, "MAILER-DAEMON@relay.kite.example"),
		Original:     newOriginal(t, letter),
		Recipients: []Recipient{{
			Recipient: rcpt(t, "bruno@orchard.example"), Result: result,
			Attempts: 1, FirstAttempt: arrival, LastAttempt: now.Add(-time.Second),
		}},
	}
}

func compose(t testing.TB, r *Report) (string, mail.Facts) {
	t.Helper()
	var b strings.Builder
	facts, err := r.Compose(&b)
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), facts
}

func TestGolden(t *testing.T) {
	expired := mail.Result{
		Action: mail.Failed, Scope: mail.OfHost,
		Reply: mail.Reply{Enhanced: mail.EnhancedCode{4, 4, 1}, Text: "connect to mx.meadow.example[198.51.100.9]:25: connection timed out"},
	}
	tests := []struct {
		name   string
		report func(t *testing.T) *Report
	}{
		{"unknown-address", func(t *testing.T) *Report { return report(t, unknownUser()) }},
		{"passed-on", func(t *testing.T) *Report {
			return report(t, remote(mail.Relayed, mail.OfRecipient, 250, mail.EnhancedCode{2, 0, 0}, "queued as 7F3"))
		}},
		{"delivered", func(t *testing.T) *Report {
			r := report(t, mail.Result{Action: mail.Delivered, Relay: "maildir:/home/bruno/Maildir", Reply: mail.Reply{Enhanced: mail.EnhancedCode{2, 0, 0}, Text: "delivered to maildir"}})
			r.Original.Return = mail.ReturnFull
			return r
		}},
		{"one-refused-one-expired", func(t *testing.T) *Report {
			r := report(t, unknownUser())
			r.Original.ID = "job+3D77"
			r.Original.Return = mail.ReturnHeaders
			r.Recipients = append(r.Recipients, Recipient{
				Recipient: mail.Recipient{Path: path(t, "carol@meadow.example"), Original: "rfc822;team@kite.example"},
				Result:    expired, Attempts: 14, FirstAttempt: arrival, LastAttempt: now.Add(-31 * time.Minute),
			})
			return r
		}},
		{"delayed", func(t *testing.T) *Report {
			r := report(t, remote(mail.Delayed, mail.OfRecipient, 451, mail.EnhancedCode{4, 7, 1}, "greylisted, try again\nsee https://orchard.example/grey"))
			r.Now = arrival.Add(2 * time.Hour)
			r.WillRetryUntil = arrival.Add(120 * time.Hour)
			r.Recipients[0].Attempts = 5
			r.Recipients[0].LastAttempt = r.Now
			return r
		}},
		{"login-refused", func(t *testing.T) *Report {
			r := report(t, remote(mail.Failed, mail.OfUs, 535, mail.EnhancedCode{4, 7, 8}, "authentication failed"))
			r.Recipients[0].Attempts = 14
			return r
		}},
		{"relay-down-for-many", func(t *testing.T) *Report {
			r := report(t, expired)
			r.Recipients[0].Attempts = 14
			for _, name := range []string{"carol", "dora", "emil"} {
				next := r.Recipients[0]
				next.Recipient = rcpt(t, name+"@meadow.example")
				r.Recipients = append(r.Recipients, next)
			}
			return r
		}},
		{"utf8-sender", func(t *testing.T) *Report {
			r := report(t, remote(mail.Failed, mail.OfRecipient, 550, mail.EnhancedCode{5, 1, 1}, "пользователь неизвестен"))
			r.Original = newOriginal(t, "From: <ада@пример.example>\nSubject: Отчёт\n\nПривет\n")
			r.Original.SMTPUTF8 = true
			r.Original.Sender = path(t, "ада@пример.example")
			r.Recipients[0].Recipient = rcpt(t, "бруно@сад.example")
			return r
		}},
		{"utf8-recipient", func(t *testing.T) *Report {
			r := report(t, remote(mail.Failed, mail.OfRecipient, 550, mail.EnhancedCode{5, 1, 1}, "пользователь неизвестен"))
			r.Original = newOriginal(t, "From: ada@kite.example\nTo: <бруно@сад.example>\nSubject: Отчёт\n\nПривет\n")
			r.Original.SMTPUTF8 = true
			r.Recipients[0].Recipient = mail.Recipient{Path: path(t, "бруно@сад.example"), Original: `utf-8;\x{431}@сад.example`}
			return r
		}},
		{"encoded-subject", func(t *testing.T) *Report {
			r := report(t, remote(mail.Failed, mail.OfMessage, 552, mail.EnhancedCode{5, 3, 4}, "message too big"))
			r.Original = newOriginal(t, "From: ada@kite.example\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\n =?iso-8859-1?q?_aus_K=F6ln?=\n\nna\xefve\n")
			return r
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, _ := compose(t, tt.report(t))
			checkShape(t, got)
			// Golden files are kept with LF, so that they can be read and compared anywhere.
			got = strings.ReplaceAll(got, "\r\n", "\n")
			file := filepath.Join("testdata", tt.name+".eml")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s differs (-want +got):\n%s", file, diff)
			}
		})
	}
}

// A parsed report, read with the standard library rather than with what composed it.
type parsed struct {
	header netmail.Header
	types  []string // media types of the parts
	bodies []string // undone encodings
	status []textproto.MIMEHeader
}

func parse(t testing.TB, wire string) parsed {
	t.Helper()
	msg, err := netmail.ReadMessage(strings.NewReader(wire))
	if err != nil {
		t.Fatalf("report cannot be read: %v\n%s", err, wire)
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("Content-Type = %q, %v, %v", kind, params, err)
	}
	p := parsed{header: msg.Header}
	for mr := multipart.NewReader(msg.Body, params["boundary"]); ; {
		part, err := mr.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("part: %v\n%s", err, wire)
		}
		body, err := io.ReadAll(part)
		if err != nil {
			t.Fatalf("part: %v\n%s", err, wire)
		}
		kind, _, err := mime.ParseMediaType(part.Header.Get("Content-Type"))
		if err != nil {
			t.Fatalf("part: %v\n%s", err, wire)
		}
		p.types = append(p.types, kind)
		p.bodies = append(p.bodies, string(body))
	}
	if len(p.types) != 3 {
		t.Fatalf("parts = %v, want three\n%s", p.types, wire)
	}
	r := textproto.NewReader(bufio.NewReader(strings.NewReader(p.bodies[1])))
	for {
		group, err := r.ReadMIMEHeader()
		if len(group) > 0 {
			p.status = append(p.status, group)
		}
		if err == io.EOF {
			return p
		}
		if err != nil {
			t.Fatalf("status: %v\n%s", err, p.bodies[1])
		}
	}
}

var topFields = []string{"Auto-Submitted", "Content-Type", "Date", "From", "In-Reply-To", "Message-Id", "Mime-Version", "References", "Subject", "To"}

var statusFields = []string{
	"Original-Envelope-Id", "Reporting-Mta", "Arrival-Date", "X-Postrider-Queue-Id", "X-Postrider-Sender",
	"Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-Mta", "Diagnostic-Code", "Last-Attempt-Date",
	"Final-Log-Id", "Will-Retry-Until",
}

// checkShape checks what holds of every report, whoever wrote what is in it.
func checkShape(t testing.TB, wire string) parsed {
	t.Helper()
	for line := range strings.SplitSeq(wire, "\r\n") {
		if len(line) > 998 {
			t.Errorf("line of %d octets: %.60q...", len(line), line)
		}
		if strings.ContainsAny(line, "\r\n") {
			t.Errorf("bare CR or LF in %q", line)
		}
	}
	p := parse(t, wire)
	for name, values := range p.header {
		if !slices.Contains(topFields, name) || len(values) != 1 {
			t.Errorf("field %s: %q in the header", name, values)
		}
	}
	for _, group := range p.status {
		for name, values := range group {
			if !slices.Contains(statusFields, name) || len(values) != 1 {
				t.Errorf("field %s: %q in the status", name, values)
			}
		}
	}
	for i, body := range p.bodies[:2] {
		if strings.ContainsFunc(strings.ReplaceAll(body, "\r\n", ""), unprintable) {
			t.Errorf("unprintable character in part %d: %q", i+1, body)
		}
	}
	return p
}

func TestWanted(t *testing.T) {
	sender := path(t, "ada@kite.example")
	const never, success, failure, delay = mail.NotifyNever, mail.NotifySuccess, mail.NotifyFailure, mail.NotifyDelay
	tests := []struct {
		name   string
		action mail.Action
		sender mail.Path
		notify mail.Notify
		want   bool
	}{
		{"a failure by default", mail.Failed, sender, 0, true},
		{"a failure on request", mail.Failed, sender, failure, true},
		{"a failure when only success is asked for", mail.Failed, sender, success, false},
		{"a failure when nothing is wanted", mail.Failed, sender, never, false},
		{"a failure of a report", mail.Failed, mail.NullSender, failure, false},
		{"a delay by default", mail.Delayed, sender, 0, true},
		{"a delay on request", mail.Delayed, sender, failure | delay, true},
		{"a delay when only failure is asked for", mail.Delayed, sender, failure, false},
		{"a delay when nothing is wanted", mail.Delayed, sender, never, false},
		{"a delay of a report", mail.Delayed, mail.NullSender, 0, false},
		{"a delivery by default", mail.Delivered, sender, 0, false},
		{"a delivery on request", mail.Delivered, sender, success, true},
		{"a relay on request", mail.Relayed, sender, success | failure, true},
	}
	for _, tt := range tests {
		if got := Wanted(tt.action, tt.sender, mail.Recipient{Notify: tt.notify}); got != tt.want {
			t.Errorf("%s: Wanted(%s, %s, %s) = %v, want %v", tt.name, tt.action, tt.sender, tt.notify, got, tt.want)
		}
	}
}

func TestReturned(t *testing.T) {
	long := "Subject: x\n\n" + strings.Repeat("y", 999) + "\n"
	tests := []struct {
		name   string
		change func(r *Report)
		want   string // type of the third part
	}{
		{"a small message whole", func(*Report) {}, "message/rfc822"},
		{"a message that just fits", func(r *Report) { r.MaxOriginal = r.Original.Size }, "message/rfc822"},
		{"a message one octet too big", func(r *Report) { r.MaxOriginal = r.Original.Size - 1 }, "text/rfc822-headers"},
		{"RET=FULL", func(r *Report) { r.Original.Return = mail.ReturnFull }, "message/rfc822"},
		{"RET=FULL but too big", func(r *Report) { r.Original.Return, r.MaxOriginal = mail.ReturnFull, 100 }, "text/rfc822-headers"},
		{"RET=HDRS", func(r *Report) { r.Original.Return = mail.ReturnHeaders }, "text/rfc822-headers"},
		{"a delay, even with RET=FULL", func(r *Report) { r.Action, r.Original.Return = mail.Delayed, mail.ReturnFull }, "text/rfc822-headers"},
		{"a line that must not be sent", func(r *Report) { r.Original = newOriginal(t, long) }, "text/rfc822-headers"},
		{"8-bit header that asked for nothing", func(r *Report) { r.Original = newOriginal(t, "Subject: \xe9\n\nx\n") }, "message/rfc822"},
		{"UTF-8 header to an ASCII sender", func(r *Report) {
			r.Original = newOriginal(t, "Subject: é\n\nx\n")
			r.Original.SMTPUTF8 = true
		}, "text/rfc822-headers"},
		{"UTF-8 header to a UTF-8 sender", func(r *Report) {
			r.Original = newOriginal(t, "Subject: é\n\nx\n")
			r.Original.Sender = path(t, "é@kite.example")
		}, "message/global"},
		{"its header to a UTF-8 sender", func(r *Report) {
			r.Original = newOriginal(t, "Subject: é\n\nx\n")
			r.Original.Sender, r.Original.Return = path(t, "é@kite.example"), mail.ReturnHeaders
		}, "message/global-headers"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := report(t, unknownUser())
			tt.change(r)
			wire, _ := compose(t, r)
			p := checkShape(t, wire)
			if p.types[2] != tt.want {
				t.Fatalf("third part is %s, want %s", p.types[2], tt.want)
			}
			content := make([]byte, r.Original.Size)
			if _, err := r.Original.Content.ReadAt(content, 0); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(tt.want, "message/") && tt.want != "message/global-headers" {
				if p.bodies[2] != string(content) {
					t.Errorf("returned %q, want %q", p.bodies[2], content)
				}
			} else if strings.Contains(p.bodies[2], "\r\n\r\n") {
				t.Errorf("returned %q, want the header only", p.bodies[2])
			}
		})
	}
}

func TestHugeHeaderIsCutBetweenFields(t *testing.T) {
	field := "X-Filler: " + strings.Repeat("z", 60) + "\n continued\n"
	r := report(t, unknownUser())
	r.Original = newOriginal(t, "Subject: huge\n"+strings.Repeat(field, 10<<20/len(field))+"\nbody\n")
	wire, _ := compose(t, r)
	p := checkShape(t, wire)
	if len(wire) > 60000 {
		t.Errorf("report of %d octets on a header of 10 MB", len(wire))
	}
	if !strings.HasSuffix(p.bodies[2], " continued\r\n") && !strings.HasSuffix(p.bodies[2], " continued") {
		t.Errorf("header ends in %q, want a whole field", p.bodies[2][len(p.bodies[2])-40:])
	}
}

func TestFacts(t *testing.T) {
	tests := []struct {
		name    string
		content string
		sender  string
		want    mail.Facts
	}{
		{"ASCII all over", letter, "ada@kite.example", mail.Facts{}},
		{"8-bit body goes back as it came", "Subject: x\n\n\xe9\n", "ada@kite.example", mail.Facts{EightBit: true}},
		{"UTF-8 sender needs SMTPUTF8", letter, "é@kite.example", mail.Facts{EightBit: true, HeaderUTF8: true}},
	}
	for _, tt := range tests {
		r := report(t, unknownUser())
		r.Original = newOriginal(t, tt.content)
		r.Original.Sender = path(t, tt.sender)
		wire, got := compose(t, r)
		tt.want.LongestLine = 0
		for line := range strings.SplitSeq(wire, "\r\n") {
			tt.want.LongestLine = max(tt.want.LongestLine, len(line))
		}
		if got != tt.want {
			t.Errorf("%s: facts = %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestAdvice(t *testing.T) {
	failed := func(scope mail.Scope, code int, enhanced mail.EnhancedCode) mail.Result {
		return remote(mail.Failed, scope, code, enhanced, "so be it")
	}
	ours := func(scope mail.Scope, enhanced mail.EnhancedCode) mail.Result {
		return mail.Result{Action: mail.Failed, Scope: scope, Reply: mail.Reply{Enhanced: enhanced, Text: "so be it"}}
	}
	var none mail.EnhancedCode
	tests := []struct {
		name   string
		result mail.Result
		want   string
	}{
		{"unknown address", failed(mail.OfRecipient, 550, mail.EnhancedCode{5, 1, 1}), adviseAddress},
		{"unknown address without enhanced code", failed(mail.OfRecipient, 550, none), adviseAddress},
		{"550 5.0.0 after RCPT", failed(mail.OfRecipient, 550, mail.EnhancedCode{5, 0, 0}), adviseAddress},
		{"550 after DATA", failed(mail.OfMessage, 550, none), advisePolicy},
		{"address that moved", failed(mail.OfRecipient, 551, none), adviseMoved},
		{"mailbox full", failed(mail.OfRecipient, 552, mail.EnhancedCode{5, 2, 2}), adviseFull},
		{"mailbox full until the end", failed(mail.OfRecipient, 452, mail.EnhancedCode{4, 2, 2}), adviseFull},
		{"mailbox disabled", failed(mail.OfRecipient, 550, mail.EnhancedCode{5, 2, 1}), adviseDisabled},
		{"too big", failed(mail.OfMessage, 552, mail.EnhancedCode{5, 3, 4}), adviseSize},
		{"too big without enhanced code", failed(mail.OfMessage, 552, none), adviseSize},
		{"too big for the mailbox", failed(mail.OfRecipient, 552, mail.EnhancedCode{5, 2, 3}), adviseSize},
		{"refused by policy", failed(mail.OfMessage, 550, mail.EnhancedCode{5, 7, 1}), advisePolicy},
		{"refused by ourselves", ours(mail.OfRecipient, mail.EnhancedCode{5, 7, 1}), adviseOwnRules},
		{"SPF", failed(mail.OfMessage, 550, mail.EnhancedCode{5, 7, 23}), adviseUnproven},
		{"DMARC", failed(mail.OfMessage, 550, mail.EnhancedCode{5, 7, 26}), adviseUnproven},
		{"sender refused", failed(mail.OfMessage, 553, mail.EnhancedCode{5, 1, 8}), adviseSender},
		{"no such domain", ours(mail.OfRecipient, mail.EnhancedCode{5, 1, 2}), adviseDomain},
		{"null MX", ours(mail.OfRecipient, mail.EnhancedCode{5, 1, 10}), adviseDomain},
		{"no address for any host", ours(mail.OfRecipient, mail.EnhancedCode{5, 4, 4}), adviseDomain},
		{"no answer for days", ours(mail.OfHost, mail.EnhancedCode{4, 4, 1}), adviseAgain},
		{"DNS down for days", ours(mail.OfUs, mail.EnhancedCode{4, 4, 3}), adviseAgain},
		{"loop", failed(mail.OfMessage, 554, mail.EnhancedCode{5, 4, 6}), adviseLoop},
		{"login refused", failed(mail.OfUs, 535, mail.EnhancedCode{5, 7, 8}), adviseLogin},
		{"login asked for", failed(mail.OfMessage, 530, mail.EnhancedCode{5, 7, 0}), adviseLogin},
		{"login impossible", ours(mail.OfUs, mail.EnhancedCode{4, 7, 0}), adviseLogin},
		{"no TLS", ours(mail.OfHost, mail.EnhancedCode{4, 7, 4}), adviseTLS},
		{"certificate", ours(mail.OfUs, mail.EnhancedCode{4, 7, 5}), adviseTLS},
		{"UTF-8 address", failed(mail.OfRecipient, 553, mail.EnhancedCode{5, 6, 7}), adviseUTF8},
		{"our disk full", ours(mail.OfUs, mail.EnhancedCode{4, 3, 1}), adviseOurs},
		{"something else", failed(mail.OfMessage, 554, none), adviseOther},
		{"something else for days", failed(mail.OfMessage, 451, mail.EnhancedCode{4, 3, 0}), adviseAgain},
	}
	for _, tt := range tests {
		if got := adviceText(&tt.result); got != tt.want {
			t.Errorf("%s: advice = %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestRemoteMTA(t *testing.T) {
	for relay, want := range map[string]string{
		"mx.example.net[192.0.2.1]:25":   "mx.example.net (192.0.2.1)",
		"mx.example.net[2001:db8::1]:25": "mx.example.net (2001:db8::1)",
		"[192.0.2.1]:25":                 "[192.0.2.1]",
		"maildir:/home/a[1]:2/Maildir":   "",
		"mx.example.net:25":              "mx.example.net",
		"maildir:/home/a/Maildir":        "",
		"discard":                        "",
		"":                               "",
	} {
		if got := remoteMTA(relay); got != want {
			t.Errorf("remoteMTA(%q) = %q, want %q", relay, got, want)
		}
	}
}

func TestHostileReply(t *testing.T) {
	for _, text := range []string{
		"no\r\n\r\n--=_0N4AB3C4D5E_\r\nContent-Type: text/html\r\n\r\n<b>",
		"no\nBcc: victim@example.com\nAction: delivered",
		"no\r\n.\r\nMAIL FROM:<a@b>",
		"bell \a escape \x1b[2J nul \x00 del \x7f",
		"\u202egnp.exe \u2028 line \u0085 next",
		"\xff\xfe not UTF-8 \xc3",
		strings.Repeat("x", 100000),
		strings.Repeat("é", 50000),
		"   \t ",
	} {
		result := unknownUser()
		result.Reply.Text = text
		wire, _ := compose(t, report(t, result))
		p := checkShape(t, wire)
		if len(p.status) != 2 || p.status[1].Get("Action") != "failed" {
			t.Errorf("reply %.40q: status = %q", text, p.status)
		}
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestErrorsReachTheCaller(t *testing.T) {
	wire, _ := compose(t, report(t, unknownUser()))
	for n := range len(wire) {
		if _, err := report(t, unknownUser()).Compose(&failingWriter{n}); err == nil {
			t.Fatalf("no error from a writer that takes %d of %d octets", n, len(wire))
		}
	}
	r := report(t, unknownUser())
	r.Original.Content = bytes.NewReader(nil)
	if _, err := r.Compose(io.Discard); err == nil {
		t.Error("no error for a message that is gone")
	}
	r = report(t, unknownUser())
	r.Original, r.MaxOriginal = newOriginal(t, "Subject: x\n\n"+strings.Repeat("hello\n", maxHeader)), 1<<20
	r.Original.Content = io.NewSectionReader(r.Original.Content, 0, r.Original.Size-1)
	if _, err := r.Compose(io.Discard); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Compose = %v for a message that has become shorter", err)
	}
}

// FuzzCompose: whatever the remote says and the message holds, the report has our fields and three parts, and its
// first two parts no control characters.
func FuzzCompose(f *testing.F) {
	f.Add("550 no", "ada@kite.example", "bob@example.net", "rfc822;b+40c", "x+3D", letter, "mx[192.0.2.1]:25")
	f.Add("a\r\nb", "é@x", `"a b"@c`, "utf-8;é", "+0D+0A", "Subject: =?utf-8?q?=0D=0AX:_y?=\nMessage-ID: <a@b>\n\n", "[::1]:25")
	f.Add("x", "a@b", "c@d", ";", "", " \n:\n\nx", "mx\r\nX: y[1]:25")
	f.Fuzz(func(t *testing.T, text, sender, recipient, orcpt, envid, content, relay string) {
		from, err := mail.ParsePath(sender)
		to, err2 := mail.ParsePath(recipient)
		if err != nil || err2 != nil || from.IsNull() || to.IsNull() {
			return
		}
		// The spool hands out wire form only.
		content = strings.ReplaceAll(strings.ReplaceAll(content, "\r", ""), "\x00", "")
		for _, action := range []mail.Action{mail.Failed, mail.Delayed} {
			result := remote(action, mail.OfRecipient, 550, mail.EnhancedCode{5, 1, 1}, text)
			result.Relay = relay
			r := report(t, result)
			r.Original = newOriginal(t, content)
			r.Original.Sender, r.Original.ID = from, envid
			r.Recipients[0].Recipient = mail.Recipient{Path: to, Original: orcpt}
			wire, _ := compose(t, r)
			if p := checkShape(t, wire); len(p.status) != 2 {
				t.Errorf("status = %q", p.status)
			}
		}
	})
}

func TestReportingMTA(t *testing.T) {
	for name, want := range map[string]string{"web1.example.com": "dns; web1.example.com", "web1": "x-local-hostname; web1"} {
		r := report(t, unknownUser())
		r.ReportingMTA = name
		wire, _ := compose(t, r)
		if got := checkShape(t, wire).status[0].Get("Reporting-MTA"); got != want {
			t.Errorf("Reporting-MTA of %s = %q, want %q", name, got, want)
		}
	}
}
