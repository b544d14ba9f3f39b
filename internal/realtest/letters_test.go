package realtest

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/mail"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A door is a way into a server: mail for a domain, and those below it, goes there.
type door struct {
	domain string
	url    string // of the transport
	tls    bool   // it is encrypted, by a certificate that the authority of the world vouches for
	broken bool   // STARTTLS is offered, and fails
	offers string // which of extensions it has
}

// extensions are those that change what is sent, or how.
var extensions = []string{"PIPELINING", "CHUNKING", "8BITMIME", "SMTPUTF8"}

func (d door) has(extension string) bool {
	return slices.Contains(strings.Fields(d.offers), extension)
}

// doorsConfig sends the mail for each door there, and what is reported to senders to a Maildir.
func doorsConfig(doors []door) string {
	var b strings.Builder
	b.WriteString(`
domain   = "web1.example"
hostname = "web1.example"
delivery = "queue"
log      = "stderr"
[retry]
first = "1s"
[transport.reports]
url = "maildir:/srv/reports/all"
[[route]]
to        = ["web1.example", ".sender.example"]
transport = "reports"
`)
	for i, d := range doors {
		fmt.Fprintf(&b, "[transport.door%d]\nurl = %q\n", i, d.url)
		if d.tls {
			fmt.Fprintf(&b, "tls = \"verify\"\n%s\n", trust)
		}
		fmt.Fprintf(&b, "[[route]]\nto = [%q]\ntransport = \"door%d\"\n", "."+d.domain, i)
	}
	return b.String()
}

// A letter is a message that is complete, so that nothing but our trace is added to it.
type letter struct {
	number     int
	sender     string
	utf8       bool // the submitter says that it needs SMTPUTF8
	recipients []string
	content    []byte
}

// letters returns 500 messages of all kinds, to recipients behind all the doors.
func letters(random *rand.Rand, doors []door) []letter {
	var all []letter
	add := func(recipients []string, header, body string) *letter {
		l := letter{number: len(all), sender: "ann@web1.example", recipients: recipients}
		l.content = fmt.Appendf(nil, "Date: Sun, 22 Nov 2026 12:00:00 +0000\nFrom: Ann <ann@web1.example>\nTo: all:;\nMessage-ID: <%d@web1.example>\n%s\n%s",
			l.number, header, body)
		all = append(all, l)
		return &all[l.number]
	}
	everywhere := func(local string) []string {
		var all []string
		for _, d := range doors {
			all = append(all, local+"@"+d.domain)
		}
		return all
	}
	subject := func() string { return subjects[random.IntN(len(subjects))] }

	add(everywhere("user0"), "Subject: long lines\n", strings.Repeat("long ", 5000)+"\nand \xe4\xf6\xfc\n")
	add(everywhere("user1"), "Subject: large\n", strings.Repeat(strings.Repeat("0123456789", 7)+"\n", 20<<20/71))
	add(everywhere("user2"), "", "")
	add(everywhere("user3"), "Subject: dots\n", ".\n..\n.\n\n.\n")
	add(everywhere("user4"), "References:"+strings.Repeat(" <0123456789abcdefghijklmnopqrstuvwxyz@news.example>", 200)+"\n", "a long header\n")
	add(everywhere("user5"), "Subject: a report\n", "from nobody\n").sender = ""
	add(everywhere("j\u00fcrgen"), "Subject: an address beyond ASCII\n", "hello\n")
	add(append(everywhere("\u7528\u6237"), everywhere("user6")...), "Subject: one of two beyond ASCII\n", "hello\n")
	add(everywhere("user7"), "Subject: a sender beyond ASCII\n", "hello\n").sender = "j\u00fcrgen@sender.example"
	add(everywhere("user8"), "Subject: a domain beyond ASCII\n", "hello\n").sender = "ann@b\u00fccher.sender.example"
	add(everywhere("user9"), "Subject: \u65e5\u672c\u8a9e\n", "with a header that needs SMTPUTF8\n").utf8 = true
	add(everywhere("user+detail=ann_o'hara"), subject(), "a strange address\n")
	add(everywhere("User.Ten"), subject(), "capital letters\n")
	for _, d := range doors {
		add([]string{"user11@b\u00fccher." + d.domain, "j\u00fcrgen@b\u00fccher." + d.domain}, subject(), "a domain beyond ASCII\n")
		var many []string
		for n := range 1000 {
			many = append(many, fmt.Sprintf("many%d@%s", n, d.domain))
		}
		add(many, "Subject: to all of you\n", "to all of you\n")
	}
	for len(all) < 500 {
		domain := doors[random.IntN(len(doors))].domain
		var recipients []string
		for _, n := range random.Perm(20)[:1+random.IntN(3)] {
			recipients = append(recipients, fmt.Sprintf("user%d@%s", n, domain))
		}
		header, body := enclose(random, text(random))
		add(recipients, subject()+header, body)
	}
	return all
}

// subjects are fields, in all forms that are met with.
var subjects = []string{
	"", "Subject:\n", "Subject: letter\n", wideSubject, "Subject: caf\xe9\n", "Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\n",
	"Subject: folded\n\tand folded\n  again\n", "subject:none \n", "X-Empty: \nSUBJECT: " + strings.Repeat("word ", 150) + "\n",
}

// text returns lines that are no longer than a server has to take.
func text(random *rand.Rand) string {
	words := []string{"figures", "\xe4\xf6\xfc", "\u00fcber", ".", "..", "From here", "=3D", "\t", " ", "\u65e5\u672c\u8a9e", strings.Repeat("x", 990), "." + strings.Repeat("y", 997)}
	var body strings.Builder
	for range random.IntN(40) {
		for range random.IntN(4) {
			word := words[random.IntN(len(words))]
			if len(word) < 900 {
				body.WriteString(word)
			} else if body.Len() == 0 || strings.HasSuffix(body.String(), "\n") {
				body.WriteString(word)
				break
			}
		}
		body.WriteByte('\n')
	}
	return body.String()
}

// wideSubject is a field of a header, which is left as it is whoever takes it.
const wideSubject = "Subject: Gr\u00fc\u00dfe\n"

// enclose makes one of several kinds of messages out of a text.
func enclose(random *rand.Rand, text string) (header, body string) {
	const mime, eightBit = "MIME-Version: 1.0\n", "Content-Transfer-Encoding: 8bit\n"
	const base64 = "Content-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\nAAECAwQFBgcICQ==\n"
	switch random.IntN(6) {
	case 0:
		return mime + "Content-Type: text/plain; charset=utf-8\n" + eightBit, text
	case 1:
		return mime + "Content-Type: text/html; charset=ISO-8859-1\n" + eightBit, text
	case 2:
		return mime + "Content-Type: multipart/mixed; boundary=\"b o.u\"\n" + eightBit,
			"for old readers\n--b o.u\nContent-Type: text/plain; charset=utf-8\n" + eightBit + "\n" + text + "\n--b o.u\n" + base64 + "--b o.u--\n"
	case 3:
		return mime + "Content-Type: message/rfc822\n" + eightBit, "From: Carol <carol@other.example>\n" + wideSubject + "\n" + text
	default:
		return "", text
	}
}

// parts returns the two parts of the content, and which of them is beyond ASCII.
func (l letter) parts() (header, body []byte, wideHeader, wideBody bool) {
	header, body, _ = bytes.Cut(l.content, []byte("\n\n"))
	return header, body, !isASCII(string(header)), !isASCII(string(body))
}

func isASCII(s string) bool { return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 }) }

// aLabels returns an address as it is sent: with a domain in ASCII, unless the local part has to be beyond it.
func aLabels(address string) string {
	if local, domain, ok := strings.Cut(address, "@"); ok && isASCII(local) {
		return local + "@" + strings.ReplaceAll(domain, "b\u00fccher", "xn--bcher-kva")
	}
	return address
}

// bounces returns the status with which the letter comes back to its sender, for it cannot go to a recipient through the
// door without SMTPUTF8; "" if it can.
func (l letter) bounces(recipient string, d door) string {
	_, _, wideHeader, _ := l.parts()
	switch {
	case d.has("SMTPUTF8"):
		return ""
	case !isASCII(aLabels(l.sender)):
		return "5.6.7"
	case l.utf8 && wideHeader:
		return "5.6.9"
	case !isASCII(aLabels(recipient)):
		return "5.6.7"
	}
	return ""
}

// post submits letters as ann.
func (w *world) post(all []letter) {
	w.t.Helper()
	for _, l := range all {
		argv := []string{"/usr/local/sbin/sendmail", "-i", "-f", l.sender}
		if l.utf8 {
			argv = append(argv, "-U")
		}
		if out, err := w.run("ann", l.content, slices.Concat(argv, []string{"--"}, l.recipients)...); err != nil || out != "" {
			w.t.Fatalf("letter %d: %v, printed %q", l.number, err, out)
		}
	}
}

// compareLetters compares all that has arrived, and all reports, with the letters: each recipient has got his letter once, as it
// was sent but for documented changes, or its sender a report. Nobody else has got anything.
func (w *world) compareLetters(all []letter, doors []door, arrivals []arrival) {
	w.t.Helper()
	problems := 0
	wrong := func(format string, args ...any) {
		w.t.Helper()
		if problems++; problems <= 30 {
			w.t.Errorf(format, args...)
		}
	}
	arrived := map[string][]arrival{}
	for _, a := range arrivals {
		key := letterNumber(a.content) + " " + a.recipient
		arrived[key] = append(arrived[key], a)
	}
	reported := w.reported()
	recipients, equal, bounced, octets := 0, 0, 0, 0
	for _, l := range all {
		for _, r := range l.recipients {
			recipients++
			d := doors[slices.IndexFunc(doors, func(d door) bool { return strings.HasSuffix(r, d.domain) })]
			key := fmt.Sprint(l.number, " ", r)
			if status := l.bounces(r, d); status != "" {
				if got := reported[key]; !slices.Equal(got, []string{status}) {
					wrong("letter %s: reported to the sender were %q, want %s", key, got, status)
				} else {
					bounced++
				}
				delete(reported, key)
				continue
			}
			key = fmt.Sprint(l.number, " ", aLabels(r))
			got := arrived[key]
			delete(arrived, key)
			if len(got) != 1 {
				wrong("letter %s arrived %d times", key, len(got))
				continue
			}
			octets += len(got[0].content)
			if problem := l.compare(got[0], d); problem != "" {
				wrong("letter %s: %.2000s", key, problem)
			} else {
				equal++
			}
		}
	}
	for key, a := range arrived {
		wrong("arrived, but nobody sent it: %q, %d times, from <%s>:\n%.2000s", key, len(a), a[0].sender, a[0].content)
	}
	for key, status := range reported {
		wrong("reported to the sender without need: %s %q", key, status)
	}
	w.t.Logf("%d messages for %d recipients: %d copies of %d octets arrived, %d of them equal; %d came back; %d problems",
		len(all), recipients, len(arrivals), octets, equal, bounced, problems)
}

// compare says what is wrong with a letter that arrived through the door; "" if nothing is.
func (l letter) compare(a arrival, d door) string {
	if want := aLabels(l.sender); a.sender != want {
		return fmt.Sprintf("the reverse-path is <%s>, want <%s>", a.sender, want)
	}
	if encrypted := encryptedTransfer.MatchString(a.received); encrypted != d.tls {
		return "by another door: " + a.received
	}
	header, body, _, wideBody := l.parts()
	r := repairs{
		coded:  tooLong(body) || wideBody && !d.has("8BITMIME"),
		folded: tooLong(header),
	}
	got := divide(a.content)
	switch {
	case tooLong(a.content):
		return "a line is too long for every server"
	case !isASCII(strings.Replace(string(got.body), wideSubject, "", 1)) && !d.has("8BITMIME"):
		return "the body has what the server has not offered to take"
	}
	return r.check(composed(call{argv: []string{"sendmail", "-i"}, stdin: l.content}), got, "[0-9A-Z]{11}")
}

// encryptedTransfer matches the Received field of a message that came over TLS (RFC 3848, RFC 6531).
var encryptedTransfer = regexp.MustCompile(`(?i)\bwith\s+(?:UTF8E?SMTP|ESMTP)S`)

// tooLong reports whether a line is longer than a server has to take (RFC 5321 section 4.5.3.1.6).
func tooLong(text []byte) bool {
	for line := range bytes.Lines(text) {
		if len(bytes.TrimSuffix(line, []byte{'\n'})) > 998 {
			return true
		}
	}
	return false
}

// letterNumber returns the number in the first Message-ID of ours; "" if there is none.
func letterNumber(content []byte) string {
	if m := regexp.MustCompile(`(?im)^Message-ID: <(\d+)@web1\.example>`).FindSubmatch(content); m != nil {
		return string(m[1])
	}
	return ""
}

// take returns what is in the Maildirs that a pattern names, and removes it. The header is what the server has put before
// the content; its groups have the names of the fields of arrival. Without a recipient, the Maildir has his name.
func (w *world) take(pattern string, header *regexp.Regexp) []arrival {
	w.t.Helper()
	files, err := fs.Glob(w.root.FS(), pattern)
	if err != nil {
		w.t.Fatal(err)
	}
	var all []arrival
	for _, file := range files {
		content := w.read(file)
		if err := w.root.Remove(file); err != nil {
			w.t.Fatal(err)
		}
		m := header.FindSubmatch(content)
		if m == nil {
			w.t.Fatalf("the server's own header looks otherwise:\n%.1000s", content)
		}
		a := arrival{content: bytes.TrimPrefix(content, m[0])}
		for name, field := range map[string]*string{"sender": &a.sender, "recipient": &a.recipient, "received": &a.received} {
			if i := header.SubexpIndex(name); i >= 0 {
				*field = string(m[i])
			}
		}
		if header.SubexpIndex("recipient") < 0 {
			a.recipient = path.Base(path.Dir(path.Dir(file)))
		}
		all = append(all, a)
	}
	return all
}

var (
	reportedRecipient = regexp.MustCompile(`(?m)^Final-Recipient: (?:rfc822|utf-8); (.*)\n(?:.+\n)*?Status: (.*)$`)
	hexCharacter      = regexp.MustCompile(`\\x\{([0-9A-F]+)\}`)
)

// reported returns the statuses in the reports to senders, by the number of the letter and the recipient.
func (w *world) reported() map[string][]string {
	w.t.Helper()
	all := map[string][]string{}
	for _, a := range w.take("srv/reports/all/new/*", regexp.MustCompile(`^(?:(?:Return-Path|Delivered-To): .*\n)*`)) {
		m, err := mail.ReadMessage(bytes.NewReader(a.content))
		if err != nil {
			w.t.Errorf("a report: %v\n%s", err, a.content)
			continue
		}
		parts, err := reportParts(a.content)
		if err != nil {
			w.t.Errorf("the report to %s: %v\n%s", m.Header.Get("To"), err, a.content)
			continue
		}
		original := parts["message/rfc822"] + parts["text/rfc822-headers"] + parts["message/global"] + parts["message/global-headers"]
		status := parts["message/delivery-status"] + parts["message/global-delivery-status"]
		for _, m := range reportedRecipient.FindAllStringSubmatch(status, -1) {
			recipient := hexCharacter.ReplaceAllStringFunc(m[1], func(s string) string {
				n, err := strconv.ParseUint(s[3:len(s)-1], 16, 32)
				if err != nil {
					w.t.Errorf("%s: %v", m[1], err)
				}
				return string(rune(n))
			})
			key := letterNumber([]byte(original)) + " " + recipient
			all[key] = append(all[key], m[2])
		}
	}
	return all
}

// prepareReports makes the place for the Maildir that reports go to.
func (w *world) prepareReports() { w.mkdir("srv/reports", 0o755, "postrider") }

// to returns the letter for other recipients.
func (l letter) to(recipients ...string) letter {
	l.recipients = recipients
	return l
}
