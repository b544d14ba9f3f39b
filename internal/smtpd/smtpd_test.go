package smtpd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
)

// A message is what was submitted, in the words of the envelope.
type message struct {
	sender, content, recipients string
	submission                  submit.Submission
}

// A queue takes messages, unless it is full.
type queue struct {
	messages []message
	refuse   error // what is said to every message once it has been read, or some of it
	after    int64 // refuse so many octets of content into it; 0 means at its end
}

func (q *queue) submit(s submit.Submission) (Pending, error) {
	if q.after > 0 {
		if _, err := io.CopyN(io.Discard, s.Content, q.after); err != nil {
			return nil, err
		}
		return nil, q.refuse
	}
	b, err := io.ReadAll(s.Content)
	if err != nil {
		return nil, err
	}
	if q.refuse != nil {
		return nil, q.refuse
	}
	m := message{sender: s.Sender.String(), content: string(b), submission: s}
	for _, r := range s.Recipients {
		m.recipients += string(r.AppendText(nil)) + " "
	}
	m.recipients = strings.TrimSuffix(m.recipients, " ")
	return &pending{q, m}, nil
}

// A pending is a message that the queue does not have yet.
type pending struct {
	q *queue
	m message
}

func (p *pending) Commit() (mail.ID, error) {
	p.q.messages = append(p.q.messages, p.m)
	return mail.ID(fmt.Sprintf("7UU4F9BFZ%02d", len(p.q.messages))), nil
}

func (p *pending) Abort() error { return nil }

var testTime = time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)

func (q *queue) options() Options {
	return Options{Hostname: "here.example", MaxSize: 10_000, Submit: q.submit, Now: func() time.Time { return testTime }}
}

// A script is a client that sends what it has, and does not care what it hears.
type script struct {
	io.Reader
	bytes.Buffer
	writes int
}

func (s *script) Read(p []byte) (int, error)       { return s.Reader.Read(p) }
func (s *script) Write(p []byte) (int, error)      { s.writes++; return s.Buffer.Write(p) }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

const greeting = "220 here.example ESMTP postrider; Sun, 22 Nov 2026 01:02:03 +0000\r\n"

// talk has a session with a client that sends in, and returns the replies after the greeting, with LF.
func (q *queue) talk(t *testing.T, o Options, in io.Reader) (replies string, err error) {
	t.Helper()
	client := &script{Reader: in}
	err = Serve(t.Context(), client, o)
	replies, ok := strings.CutPrefix(client.String(), greeting)
	if !ok || strings.Contains(strings.ReplaceAll(replies, "\r\n", ""), "\n") {
		t.Errorf("replies %q", client)
	}
	return strings.ReplaceAll(replies, "\r\n", "\n"), err
}

// local is a client on this machine whom we trust.
func (q *queue) local() Options {
	o := q.options()
	o.Local, o.Urgent = true, true
	return o
}

// A step is a command and the reply to it. "+" after a code means that the text does not matter.
type step struct{ say, hear string }

// A conversation reads as what a client says and hears. Lines end in CR LF, "|" within a command is another line end.
type conversation struct {
	name  string
	steps []step
	taken []string // sender, parameters, recipients, content
}

// conversations are those with any client.
var conversations = []conversation{
	{"a message", []step{
		{"EHLO app", "250-here.example greets app\n250-PIPELINING\n250-SIZE 10000\n250-8BITMIME\n250-SMTPUTF8\n250-DSN\n250-ENHANCEDSTATUSCODES\n250-CHUNKING\n250-FUTURERELEASE 5184000 2027-01-21T01:02:03Z\n250-DELIVERBY\n250-MT-PRIORITY\n250 LIMITS RCPTMAX=1000"},
		{"MAIL FROM:<ann@example.org>", "250 2.1.0 <ann@example.org> Sender accepted"},
		{"RCPT TO:<bob@example.net>", "250 2.1.5 <bob@example.net> Recipient accepted"},
		{"DATA", "354 End the message with a line of one dot"},
		{"Subject: hello||It works.|.", "250 2.0.0 7UU4F9BFZ01 Message accepted for delivery"},
		{"QUIT", "221 2.0.0 here.example says goodbye"},
	}, []string{"<ann@example.org> -> <bob@example.net>: Subject: hello||It works.|"}},
	{"two messages, one refused sender between them", []step{
		{"HELO app", "250 here.example"},
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"RCPT TO:<c@x>", "250 +"}, {"DATA", "354 +"}, {"1|.", "250 +"},
		{"MAIL FROM:<a@@>", "553 5.1.7 +"}, {"RCPT TO:<b@x>", "503 5.5.1 +"},
		{"MAIL FROM:<>", "250 2.1.0 <> Sender accepted"}, {"RCPT TO:<b@x>", "250 +"}, {"DATA", "354 +"}, {"2|.", "250 +"},
	}, []string{"<a@x> -> <b@x> <c@x>: 1|", "<> -> <b@x>: 2|"}},
	{"no greeting at all", []step{
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"DATA", "354 +"}, {"1|.", "250 +"},
	}, []string{"<a@x> -> <b@x>: 1|"}},
	{"dots", []step{
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"DATA", "354 +"}, {"..|..x|.x| .|...|x.|.", "250 +"},
	}, []string{"<a@x> -> <b@x>: .|.x|x| .|..|x.|"}},
	{"an empty message", []step{
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"DATA", "354 +"}, {".", "250 +"},
	}, []string{"<a@x> -> <b@x>: "}},
	{"lower case, and blanks that should not be there", []step{
		{"ehlo app", "250-+"}, {"mail from: <a@x> ", "250 2.1.0 <a@x> +"}, {"rcpt to:  b@x", "250 2.1.5 <b@x> +"}, {"data", "354 +"}, {"1|.", "250 +"}, {"quit", "221 +"},
	}, []string{"<a@x> -> <b@x>: 1|"}},
	{"bare names, quotes, routes", []step{
		{"MAIL FROM:<root>", "250 2.1.0 <root> +"},
		{"RCPT TO:<Postmaster>", "250 +"}, {`RCPT TO:<"john doe"@x>`, "250 +"}, {`RCPT TO:<"a\">b"@x>`, "250 +"},
		{"RCPT TO:<@r1,@r2:b@x>", "250 2.1.5 <b@x> +"}, {"RCPT TO:<b@[127.0.0.1]>", "250 +"},
		{"DATA", "354 +"}, {".", "250 +"},
	}, []string{`<root> -> <Postmaster> <"john doe"@x> <"a\">b"@x> <b@x> <b@[127.0.0.1]>: `}},
	{"addresses that are none", []step{
		{"MAIL FROM:<a b@x>", "553 5.1.7 +"}, {"MAIL FROM:<a@x", "501 5.5.4 +"}, {"MAIL FROM:<a@x>y", "501 5.5.4 +"},
		{"MAIL FROM:a@x,b@x", "553 5.1.7 +"}, {"MAIL", "501 5.5.4 +"}, {"MAIL TO:<a@x>", "501 5.5.4 +"}, {"MAIL FROM:", "501 5.5.4 +"},
		{"MAIL FROM:<a@x>", "250 +"},
		{"RCPT TO:<>", "553 5.1.3 +"}, {"RCPT TO:<@x>", "553 5.1.3 +"}, {"RCPT TO:<b@x,c@x>", "553 5.1.3 +"}, {"RCPT FROM:<b@x>", "501 5.5.4 +"},
		{"RCPT TO:<\xff@x>", "553 5.1.3 +"}, {"RCPT", "501 5.5.4 +"},
		{"DATA", "554 5.5.1 No valid recipients"},
	}, nil},
	{"commands out of order", []step{
		{"RCPT TO:<b@x>", "503 5.5.1 +"}, {"DATA", "503 5.5.1 +"}, {"MAIL FROM:<a@x>", "250 +"}, {"MAIL FROM:<b@x>", "503 5.5.1 +"},
		{"RCPT TO:<b@x>", "250 +"}, {"RSET", "250 2.0.0 Forgotten"}, {"DATA", "503 5.5.1 +"},
		{"MAIL FROM:<a@x>", "250 +"}, {"EHLO app", "250-+"}, {"RCPT TO:<b@x>", "503 5.5.1 +"},
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"DATA now", "501 5.5.4 +"}, {"DATA", "354 +"}, {"1|.", "250 +"},
		{"DATA", "503 5.5.1 +"},
	}, []string{"<a@x> -> <b@x>: 1|"}},
	{"what else there is", []step{
		{"NOOP", "250 2.0.0 Nothing done"}, {"NOOP well", "250 2.0.0 Nothing done"}, {"HELP", "214 2.0.0 See RFC 5321"}, {"VRFY ann", "252 2.5.0 +"}, {"VRFY", "501 5.5.4 +"},
		{"EXPN staff", "502 5.5.1 +"}, {"STARTTLS", "502 5.5.1 +"}, {"AUTH PLAIN AGEAYg==", "502 5.5.1 +"}, {"ETRN x", "502 5.5.1 +"},
		{"EHLO", "501 5.5.4 +"}, {"WIZ", "500 5.5.1 +"}, {"", "500 5.5.1 +"}, {"MAIL FROM:<a\x00b@x>", "500 5.5.2 +"}, {"NOOP\t", "500 5.5.2 +"},
		{"QUIT", "221 +"}, {"NOOP", ""},
	}, nil},
	{"parameters", []step{
		{"EHLO app", "250-+"},
		{"MAIL FROM:<a@x> SIZE=10000 BODY=8BITMIME RET=hdrs ENVID=id+2B1", "250 +"},
		{"RCPT TO:<b@x> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;B+2Bb@x", "250 +"}, {"RCPT TO:<c@x> notify=never", "250 +"},
		{"DATA", "354 +"}, {".", "250 +"},
	}, []string{"<a@x> HDRS id+2B1 -> notify=SUCCESS,DELAY orcpt=rfc822;B+2Bb@x <b@x> notify=NEVER <c@x>: "}},
	{"parameters of MAIL that are wrong", []step{
		{"MAIL FROM:<a@x> SIZE=10001", "552 5.3.4 +"}, {"MAIL FROM:<a@x> SIZE=99999999999999999999", "552 5.3.4 +"}, {"MAIL FROM:<a@x> SIZE=-1", "501 5.5.4 +"},
		{"MAIL FROM:<a@x> SIZE=", "501 5.5.4 +"}, {"MAIL FROM:<a@x> SIZE=999999999999999999999", "501 5.5.4 +"}, {"MAIL FROM:<a@x> BODY=BINARYMIME", "501 5.5.4 +"},
		{"MAIL FROM:<a@x> RET=SOME", "501 5.5.4 +"}, {"MAIL FROM:<a@x> ENVID=a=b", "501 5.5.4 +"}, {"MAIL FROM:<a@x> ENVID=+0A", "501 5.5.4 +"},
		{"MAIL FROM:<a@x> ENVID=" + strings.Repeat("x", 101), "501 5.5.4 +"}, {"MAIL FROM:<a@x> SMTPUTF8=1", "501 5.5.4 +"},
		{"MAIL FROM:<a@x> SIZE=1 size=1", "501 5.5.4 SIZE stands there twice"}, {"MAIL FROM:<a@x> AUTH=<>", "555 5.5.4 +"}, {"MAIL FROM:<a@x> NOTIFY=NEVER", "555 5.5.4 +"},
		{"MAIL FROM:<a@x> REQUIRETLS", "555 5.5.4 +"}, {"RCPT TO:<b@x>", "503 5.5.1 +"},
	}, nil},
	{"parameters of RCPT that are wrong", []step{
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x> NOTIFY=NEVER,DELAY", "501 5.5.4 +"}, {"RCPT TO:<b@x> NOTIFY=", "501 5.5.4 +"},
		{"RCPT TO:<b@x> ORCPT=b@x", "501 5.5.4 +"}, {"RCPT TO:<b@x> ORCPT=rfc822;", "501 5.5.4 +"}, {"RCPT TO:<b@x> ORCPT=;b@x", "501 5.5.4 +"}, {"RCPT TO:<b@x> ORCPT=rfc822;a+0Db", "501 5.5.4 +"},
		{"RCPT TO:<b@x> ORCPT=rfc822;" + strings.Repeat("x", 500), "501 5.5.4 +"}, {"RCPT TO:<b@x> ORCPT=utf-8;\u00fc", "501 5.5.4 +"}, {"RCPT TO:<b@x> RET=FULL", "555 5.5.4 +"},
		{"RCPT TO:<b@x> NOTIFY=NEVER NOTIFY=NEVER", "501 5.5.4 NOTIFY stands there twice"},
		{"DATA", "554 5.5.1 +"}, {"RCPT TO:<c@x> ORCPT=utf-8;\\x{FC}", "250 +"}, {"DATA", "354 +"}, {".", "250 +"},
	}, []string{"<a@x> -> orcpt=utf-8;\\x{FC} <c@x>: "}},
	{"UTF-8", []step{
		{"EHLO app", "250-+"}, {"MAIL FROM:<jürgen@x>", "550 5.6.7 +"}, {"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<jürgen@x>", "553 5.6.7 +"}, {"RSET", "250 +"},
		{"MAIL FROM:<jürgen@x> SMTPUTF8", "250 +"}, {"RCPT TO:<b@bücher.example> ORCPT=utf-8;jörg@x", "250 +"}, {"DATA", "354 +"}, {"ü|.", "250 +"},
	}, []string{"<jürgen@x> UTF8 -> orcpt=utf-8;jörg@x <b@bücher.example>: ü|"}},
	{"chunks", []step{
		{"EHLO app", "250-+"}, {"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"},
		{"BDAT 5|.\r\nab", "250 2.0.0 5 octets received"}, {"BDAT 0|", "250 2.0.0 0 octets received"}, {"bdat 3 last|c.d", "250 2.0.0 7UU4F9BFZ01 +"},
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<c@x>", "250 +"}, {"BDAT 0 LAST|", "250 2.0.0 7UU4F9BFZ02 +"},
		{"BDAT 4 LAST|QUIT", "503 5.5.1 +"}, {"NOOP", "250 +"},
	}, []string{"<a@x> -> <b@x>: .|abc.d", "<a@x> -> <c@x>: "}},
	{"a chunk that nobody wants is no command", []step{
		{"BDAT 6|QUIT\r\n", "503 5.5.1 +"}, {"MAIL FROM:<a@x>", "250 +"}, {"BDAT 6 LAST|QUIT\r\n", "554 5.5.1 +"}, {"RCPT TO:<b@x>", "250 +"},
		{"BDAT 6 FIRST|QUIT\r\n", "501 5.5.4 +"}, {"BDAT 6 LAST LAST|QUIT\r\n", "501 5.5.4 +"}, {"DATA", "354 +"}, {"1|.", "250 +"},
	}, []string{"<a@x> -> <b@x>: 1|"}},
	{"a chunk of nobody knows how much", []step{
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"BDAT all|RSET", "501 5.5.4 +\n421 4.5.0 +"},
	}, nil},
	{"a chunk of less than nothing", []step{{"BDAT -5|RSET", "501 5.5.4 +\n421 4.5.0 +"}}, nil},
	{"a chunk larger than a number can say", []step{{"BDAT 9223372036854775808|RSET", "501 5.5.4 +\n421 4.5.0 +"}}, nil},
	{"a chunk with a control character in its command", []step{
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"BDAT\t6 LAST|RSET", "500 5.5.2 +\n421 4.5.0 +"},
	}, nil},
	{"commands between chunks", []step{
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"BDAT 1|x", "250 2.0.0 1 octets received"}, {"NOOP", "250 +"}, {"VRFY x", "252 +"},
		{"MAIL FROM:<e@x>", "503 5.5.1 +"}, {"RCPT TO:<e@x>", "503 5.5.1 +"}, {"DATA", "503 5.5.1 +"}, {"WIZ", "500 5.5.1 +"}, {"", "500 5.5.1 +"},
		{"BDAT 1 LAST|y", "250 2.0.0 7UU4F9BFZ01 +"},
	}, []string{"<a@x> -> <b@x>: xy"}},
	{"a message given up between chunks", []step{
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"BDAT 1|x", "250 +"}, {"RSET", "250 2.0.0 Forgotten"}, {"BDAT 1 LAST|y", "503 5.5.1 +"},
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"BDAT 1|x", "250 +"}, {"EHLO again", "250-+"},
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"BDAT 1|x", "250 +"}, {"BDAT 1 MORE|y", "501 5.5.4 +"}, {"DATA", "503 5.5.1 +"},
		{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"BDAT 1|x", "250 +"}, {"QUIT", "221 +"},
	}, nil},
	{"times and priorities", []step{
		{"EHLO app", "250-+"},
		{"MAIL FROM:<a@x> HOLDFOR=3600 BY=7200;rt MT-PRIORITY=-9", "250 2.1.0 +"}, {"RCPT TO:<b@x>", "250 +"}, {"DATA", "354 +"}, {".", "250 +"},
		{"MAIL FROM:<a@x> HOLDUNTIL=2026-11-23T00:00:00.5Z MT-PRIORITY=0", "250 2.1.0 +"}, {"RCPT TO:<b@x>", "250 +"}, {"DATA", "354 +"}, {".", "250 +"},
		{"MAIL FROM:<> BY=-30;N MT-PRIORITY=1", "250 2.3.6 <> Sender accepted, with priority 0"}, {"RCPT TO:<b@x>", "250 +"}, {"DATA", "354 +"}, {".", "250 +"},
	}, []string{
		"<a@x> -9 held 2026-11-22T02:02:03Z for;3600 by 2026-11-22T03:02:03Z RT -> <b@x>: ",
		"<a@x> held 2026-11-23T00:00:00Z until;2026-11-23T00:00:00.5Z -> <b@x>: ",
		"<> by 2026-11-22T01:01:33Z N -> <b@x>: ",
	}},
	{"times and priorities that are wrong", []step{
		{"MAIL FROM:<a@x> HOLDFOR=0", "501 5.5.4 +"}, {"MAIL FROM:<a@x> HOLDFOR", "501 5.5.4 +"}, {"MAIL FROM:<a@x> HOLDFOR=5184001", "501 5.5.4 +"},
		{"MAIL FROM:<a@x> HOLDFOR=1h", "501 5.5.4 +"}, {"MAIL FROM:<a@x> HOLDFOR=-1", "501 5.5.4 +"}, {"MAIL FROM:<a@x> HOLDFOR=1 HOLDFOR=1", "501 5.5.4 +"},
		{"MAIL FROM:<a@x> HOLDUNTIL=2026-11-22T01:02:03Z", "501 5.5.4 HOLDUNTIL: the time is over already"}, {"MAIL FROM:<a@x> HOLDUNTIL=2026-11-23", "501 5.5.4 +"},
		{"MAIL FROM:<a@x> HOLDUNTIL=2026-11-23T00:00:00+00:00", "501 5.5.4 +"}, {"MAIL FROM:<a@x> HOLDUNTIL=2028-01-01T00:00:00Z", "501 5.5.4 +"},
	}, nil},
	{"more of them", []step{
		{"MAIL FROM:<a@x> HOLDFOR=60 HOLDUNTIL=2026-11-23T00:00:00Z", "501 5.5.4 +"}, {"MAIL FROM:<> HOLDFOR=60", "501 5.5.4 +"},
		{"MAIL FROM:<a@x> BY=60;R HOLDFOR=60", "501 5.5.4 +"}, {"MAIL FROM:<a@x> BY=0;R", "501 5.5.4 +"}, {"MAIL FROM:<a@x> BY=60", "501 5.5.4 +"}, {"MAIL FROM:<a@x> BY=60;X", "501 5.5.4 +"},
		{"MAIL FROM:<a@x> BY=1000000000;N", "501 5.5.4 +"}, {"MAIL FROM:<a@x> MT-PRIORITY=10", "501 5.5.2 +"}, {"MAIL FROM:<a@x> MT-PRIORITY=+1", "501 5.5.2 +"}, {"MAIL FROM:<a@x> MT-PRIORITY", "501 5.5.2 +"},
		{"RCPT TO:<b@x>", "503 5.5.1 +"},
	}, nil},
}

// localConversations are those with a client on this machine whom we trust.
var localConversations = []conversation{
	{"haste, and TLS", []step{
		{"EHLO app", "250-here.example greets app\n250-PIPELINING\n250-SIZE 10000\n250-8BITMIME\n250-SMTPUTF8\n250-DSN\n250-ENHANCEDSTATUSCODES\n250-CHUNKING\n" +
			"250-FUTURERELEASE 5184000 2027-01-21T01:02:03Z\n250-DELIVERBY\n250-MT-PRIORITY\n250-REQUIRETLS\n250 LIMITS RCPTMAX=1000"},
		{"MAIL FROM:<a@x> REQUIRETLS=1", "501 5.5.4 +"},
		{"MAIL FROM:<a@x> REQUIRETLS MT-PRIORITY=9", "250 2.1.0 +"}, {"RCPT TO:<b@x>", "250 +"}, {"DATA", "354 +"}, {".", "250 +"},
		{"MAIL FROM:<a@x>", "250 2.1.0 +"}, {"RCPT TO:<b@x>", "250 +"}, {"DATA", "354 +"}, {".", "250 +"},
	}, []string{"<a@x> 9 requiretls -> <b@x>: ", "<a@x> -> <b@x>: "}},
}

func (m *message) String() string {
	s := m.sender
	if m.submission.Return != mail.ReturnDefault {
		s += " " + m.submission.Return.String()
	}
	if m.submission.ID != "" {
		s += " " + m.submission.ID
	}
	if m.submission.SMTPUTF8 {
		s += " UTF8"
	}
	if m.submission.Priority != 0 {
		s += fmt.Sprint(" ", m.submission.Priority)
	}
	if m.submission.TLS == mail.TLSRequired {
		s += " requiretls"
	}
	if hold := m.submission.Hold.String(); hold != "" {
		s += " held " + hold
	}
	if by := m.submission.DeliverBy.String(); by != "" {
		s += " by " + by
	}
	return s + " -> " + m.recipients + ": " + strings.ReplaceAll(m.content, "\r\n", "|")
}

// wire returns a command as it is sent. A chunk follows its command without a line end of its own.
func (s step) wire() string {
	line := strings.ReplaceAll(s.say, "|", "\r\n")
	if strings.HasPrefix(strings.ToUpper(line), "BDAT ") {
		return line
	}
	return line + "\r\n"
}

func TestConversations(t *testing.T) {
	converse(t, conversations, (*queue).options)
	converse(t, localConversations, (*queue).local)
}

func converse(t *testing.T, list []conversation, options func(*queue) Options) {
	for _, tt := range list {
		t.Run(tt.name, func(t *testing.T) {
			in, want := "", ""
			for _, s := range tt.steps {
				in += s.wire()
				if s.hear != "" {
					want += s.hear + "\n"
				}
			}
			for how, r := range map[string]io.Reader{"pipelined": strings.NewReader(in), "octet by octet": iotest.OneByteReader(strings.NewReader(in))} {
				q := &queue{}
				got, err := q.talk(t, options(q), r)
				if err != nil {
					t.Errorf("%s: %v", how, err)
				}
				compare(t, how, got, want)
				if len(q.messages) != len(tt.taken) {
					t.Fatalf("%s: %d messages were taken, want %d", how, len(q.messages), len(tt.taken))
				}
				for i, m := range q.messages {
					if m.String() != tt.taken[i] {
						t.Errorf("%s: taken %s, want %s", how, m.String(), tt.taken[i])
					}
				}
			}
		})
	}
}

// compare compares replies line by line. Of a line that ends in "+" only the beginning counts.
func compare(t *testing.T, how, got, want string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if want == "" {
		lines = lines[1:]
	}
	for _, w := range strings.Split(strings.TrimSuffix(want, "\n"), "\n") {
		if len(lines) == 0 {
			t.Fatalf("%s: no reply, want %q; all replies:\n%s", how, w, got)
		}
		start, open := strings.CutSuffix(w, "+")
		if lines[0] != w && !(open && strings.HasPrefix(lines[0], start)) {
			t.Fatalf("%s: reply %q, want %q; all replies:\n%s", how, lines[0], w, got)
		}
		more := strings.HasPrefix(w, "250-+")
		for lines = lines[1:]; more && len(lines) > 0; lines = lines[1:] {
			more = strings.HasPrefix(lines[0], "250-")
			if !more {
				lines = lines[1:]
				break
			}
		}
	}
	if len(lines) > 0 {
		t.Errorf("%s: more replies than wanted: %q", how, lines)
	}
}

// Replies to commands that came together leave together (RFC 2920 section 3.2).
func TestRepliesLeaveTogether(t *testing.T) {
	q := &queue{}
	groups := []string{"EHLO app\r\n", "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nRCPT TO:<c@x>\r\nDATA\r\n", "hello\r\n.\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n", ".\r\nQUIT\r\n"}
	var in []io.Reader
	for _, g := range groups {
		in = append(in, strings.NewReader(g))
	}
	client := &script{Reader: io.MultiReader(in...)}
	if err := Serve(t.Context(), client, q.options()); err != nil || len(q.messages) != 2 {
		t.Fatalf("%d messages, %v", len(q.messages), err)
	}
	if want := 1 + len(groups); client.writes != want {
		t.Errorf("%d writes for %d groups and the greeting", client.writes, len(groups))
	}
}

func TestTrace(t *testing.T) {
	const mailing = "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n.\r\n"
	for _, tt := range []struct{ in, client, wantClient, wantProtocol string }{
		{"EHLO app.example\r\n" + mailing, "[127.0.0.1]", "app.example ([127.0.0.1])", "ESMTP"},
		{"HELO [127.0.0.1]\r\n" + mailing, "[127.0.0.1]", "[127.0.0.1] ([127.0.0.1])", "SMTP"},
		{"EHLO (a)\r\n" + mailing, "[127.0.0.1]", "unknown ([127.0.0.1])", "ESMTP"},
		{mailing, "[IPv6:::1]", "unknown ([IPv6:::1])", "SMTP"},
		{"EHLO app\r\n" + strings.Replace(mailing, "a@x>", "a@x> SMTPUTF8", 1), "", "", "UTF8SMTP"},
	} {
		q := &queue{}
		o := q.options()
		o.Client = tt.client
		if _, err := q.talk(t, o, strings.NewReader(tt.in)); err != nil || len(q.messages) != 1 {
			t.Fatalf("%q: %d messages, %v", tt.in, len(q.messages), err)
		}
		if s := q.messages[0].submission; s.Client != tt.wantClient || s.Protocol != tt.wantProtocol {
			t.Errorf("%q: from %q with %q, want %q and %q", tt.in, s.Client, s.Protocol, tt.wantClient, tt.wantProtocol)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{submit.NotQueued(os.ErrPermission), "451 4.3.0 cannot queue message: permission denied"},
		{submit.Refuse(75, mail.EnhancedCode{4, 3, 1}, "no space"), "452 4.3.1 no space"},
		{submit.Refuse(69, mail.EnhancedCode{5, 3, 4}, "too large"), "552 5.3.4 too large"},
		{submit.Refuse(65, mail.EnhancedCode{5, 4, 6}, "a loop"), "554 5.4.6 a loop"},
		{submit.Refuse(65, mail.EnhancedCode{5, 6, 0}, "two\r\nlines"), "554 5.6.0 two  lines"},
		{submit.Refuse(65, mail.EnhancedCode{5, 1, 3}, "not an address"), "553 5.1.3 not an address"},
		{errors.New("who knows"), "451 4.3.0 who knows"},
	} {
		for _, after := range []int64{0, 3} {
			q := &queue{refuse: tt.err, after: after}
			const envelope = "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n"
			in := envelope + "DATA\r\nhello\r\n.\r\n" + envelope + "BDAT 7 LAST\r\nhello\r\nNOOP\r\n" + envelope + "BDAT 5\r\nhelloBDAT 2 LAST\r\n\r\nNOOP\r\n"
			got, err := q.talk(t, q.options(), strings.NewReader(in))
			ok := "250 2.1.0 +\n250 2.1.5 +\n"
			want := ok + "354 +\n" + tt.want + "\n" + ok + tt.want + "\n250 2.0.0 Nothing done\n" + ok
			if after > 0 {
				want += tt.want + "\n503 5.5.1 +\n" // the chunks after the one that was refused belong to nothing
			} else {
				want += "250 2.0.0 5 octets received\n" + tt.want + "\n"
			}
			if err != nil {
				t.Error(err)
			}
			compare(t, tt.want, got, want+"250 2.0.0 Nothing done\n")
		}
	}
}

// A client that goes away in the middle of a message has not sent it.
func TestCutOff(t *testing.T) {
	const envelope = "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n"
	for _, tt := range []struct {
		name, in string
		want     error
	}{
		{"before anything", "", nil},
		{"between commands", "EHLO app\r\n", nil},
		{"in a command", "EHLO a", nil},
		{"before the message", envelope, nil},
		{"before the first line", envelope + "DATA\r\n", ErrCutOff},
		{"before the dot", envelope + "DATA\r\nhello\r\n", ErrCutOff},
		{"after the dot", envelope + "DATA\r\nhello\r\n.", ErrCutOff},
		{"after the dot's CR", envelope + "DATA\r\nhello\r\n.\r", ErrCutOff},
		{"in a chunk", envelope + "BDAT 5\r\nhell", ErrCutOff},
		{"between chunks", envelope + "BDAT 5\r\nhello", ErrCutOff},
		{"in the last chunk", envelope + "BDAT 5 LAST\r\nhell", ErrCutOff},
	} {
		q := &queue{}
		_, err := q.talk(t, q.options(), strings.NewReader(tt.in))
		if !errors.Is(err, tt.want) || len(q.messages) > 0 {
			t.Errorf("%s: %d messages, %v; want none, %v", tt.name, len(q.messages), err, tt.want)
		}
	}
}

func TestBareLF(t *testing.T) {
	const (
		lf    = "EHLO app\nMAIL FROM:<a@x>\nRCPT TO:<b@x>\nDATA\nhello\n.\nQUIT\n"
		mixed = "EHLO app\nMAIL FROM:<a@x>\nRCPT TO:<b@x>\nDATA\nhello\r\n..\r\n.\r\nQUIT\n"
		// The first line says that the client knows what a line end is: what follows has to be one.
		crlf = "EHLO app\r\nMAIL FROM:<a@x>\nRCPT TO:<b@x>\nDATA\nhello\n.\nQUIT\n\r\n.\r\n"
	)
	for _, tt := range []struct {
		name, in string
		pipe     bool
		want     string // content; "" if none was taken
	}{
		{"pipe", lf, true, "hello\n"},
		{"pipe, both", mixed, true, "hello|.|"},
		{"pipe, CR LF first", crlf, true, "hello\n.\nQUIT\n|"},
		{"socket", lf, false, ""},
		{"socket, CR LF in the end", strings.TrimSuffix(lf, "QUIT\n") + "\r\n.\r\n", false, "hello\n.\n|"},
	} {
		q := &queue{}
		o := q.options()
		o.Pipe = tt.pipe
		_, err := q.talk(t, o, strings.NewReader(tt.in))
		got := ""
		for _, m := range q.messages {
			got += strings.ReplaceAll(m.content, "\r\n", "|")
		}
		if got != tt.want || errors.Is(err, ErrCutOff) != (tt.want == "") {
			t.Errorf("%s: %q was taken, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Run("line", func(t *testing.T) {
		q := &queue{}
		in := "NOOP " + strings.Repeat("x", maxLine-7) + "\r\nNOOP " + strings.Repeat("x", maxLine-6) + "\r\n" +
			strings.Repeat("NOOP ", 20*readSize) + "\r\nNOOP\r\n"
		got, err := q.talk(t, q.options(), strings.NewReader(in))
		if err != nil {
			t.Error(err)
		}
		compare(t, "long lines", got, "250 +\n500 5.5.2 Line too long\n500 5.5.2 Line too long\n250 +\n")
	})
	t.Run("line between chunks", func(t *testing.T) {
		q := &queue{}
		in := "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 1\r\nx" + strings.Repeat("RSETBDAT", readSize) + "\r\nBDAT 1 LAST\r\ny"
		got, err := q.talk(t, q.options(), strings.NewReader(in))
		if err != nil || len(q.messages) != 1 || q.messages[0].content != "xy" {
			t.Errorf("%v, %v", q.messages, err)
		}
		compare(t, "long line", got, "250 +\n250 +\n250 +\n500 5.5.2 +\n250 +\n")
	})
	t.Run("line that says how long a chunk is", func(t *testing.T) {
		q := &queue{}
		in := "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n" + strings.Repeat("BDAT 6 ", maxLine) + "\r\nRSET\r\n"
		got, err := q.talk(t, q.options(), strings.NewReader(in))
		if err != nil {
			t.Error(err)
		}
		compare(t, "long line", got, "250 +\n250 +\n500 5.5.2 +\n421 4.5.0 +\n")
	})
	t.Run("content has no lines that are too long", func(t *testing.T) {
		q := &queue{}
		long := strings.Repeat(".", 3*readSize)
		in := "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n" + long + "\r\n.\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n" +
			fmt.Sprintf("BDAT %d LAST\r\n%sQUIT\r\n", len(long), long)
		if _, err := q.talk(t, q.options(), strings.NewReader(in)); err != nil || len(q.messages) != 2 {
			t.Fatalf("%d messages, %v", len(q.messages), err)
		}
		if q.messages[0].content != long[1:]+"\r\n" || q.messages[1].content != long {
			t.Errorf("%d and %d octets were taken, want %d and %d", len(q.messages[0].content), len(q.messages[1].content), len(long)+1, len(long))
		}
	})
	t.Run("recipients", func(t *testing.T) {
		q := &queue{}
		in := "MAIL FROM:<a@x>\r\n" + strings.Repeat("RCPT TO:<b@x>\r\n", maxRecipients+50) + "DATA\r\n.\r\n"
		got, err := q.talk(t, q.options(), strings.NewReader(in))
		if n := strings.Count(got, "\n452 4.5.3 "); err != nil || n != 50 {
			t.Errorf("%d recipients were refused, %v", n, err)
		}
		if len(q.messages) != 1 || len(q.messages[0].submission.Recipients) != maxRecipients {
			t.Errorf("taken: %d messages", len(q.messages))
		}
	})
	t.Run("recipients with much to say", func(t *testing.T) {
		q := &queue{}
		one := "RCPT TO:<b@x> ORCPT=x;" + strings.Repeat("x", maxOriginal-2) + "\r\n"
		in := "MAIL FROM:<a@x>\r\n" + strings.Repeat(one, maxRecipients) + "DATA\r\n.\r\nMAIL FROM:<a@x>\r\n" + one + "DATA\r\n.\r\n"
		got, err := q.talk(t, q.options(), strings.NewReader(in))
		if n := strings.Count(got, "\n452 4.5.3 "); err != nil || n < maxRecipients/3 || n > maxRecipients/2 {
			t.Errorf("%d recipients were refused, %v", n, err)
		}
		if len(q.messages) != 2 || len(q.messages[0].submission.Recipients) < 100 || len(q.messages[1].submission.Recipients) != 1 {
			t.Errorf("taken: %d messages", len(q.messages))
		}
	})
	t.Run("commands without a message", func(t *testing.T) {
		q := &queue{}
		const idle = "NOOP\r\nRSET\r\nVRFY x\r\nHELP\r\nEHLO app\r\n"
		const message = "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n.\r\n"
		in := strings.Repeat(idle, maxIdle/5) + message + strings.Repeat(idle, maxIdle/5) + "NOOP\r\n" + message
		got, err := q.talk(t, q.options(), strings.NewReader(in))
		if err != nil || len(q.messages) != 1 || !strings.HasSuffix(got, "\n421 4.7.0 Too many commands without a message\n") {
			t.Errorf("%d messages, %v, the last of %q", len(q.messages), err, got)
		}
	})
	t.Run("wrong commands", func(t *testing.T) {
		q := &queue{}
		const wrong = "BDAT 1 x\r\n1"
		in := strings.Repeat("WIZ\r\n", maxBad-1) + "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n.\r\n" + strings.Repeat(wrong, maxBad+5)
		got, err := q.talk(t, q.options(), strings.NewReader(in))
		if n := strings.Count(got, "\n501 "); err != nil || n != maxBad || !strings.HasSuffix(got, "\n421 4.7.0 Too many errors\n") {
			t.Errorf("%d replies, %v, the last of %q", n, err, got)
		}
	})
	t.Run("other protocols", func(t *testing.T) {
		q := &queue{}
		in := "POST / HTTP/1.1\r\nHost: localhost:25\r\n\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n.\r\n"
		got, err := q.talk(t, q.options(), strings.NewReader(in))
		if err != nil || got != "421 4.7.0 This is SMTP\n" {
			t.Errorf("replies %q, %v", got, err)
		}
	})
}

// A client that says nothing is told so and sent away; one that is slow gets its time, but not for ever.
func TestTimeouts(t *testing.T) {
	const envelope = "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n"
	for _, tt := range []struct {
		name, say string
		every     time.Duration // another line of the message
		want      time.Duration
	}{
		{"says nothing", "", 0, commandTimeout},
		{"says nothing more", "EHLO app\r\n", 0, commandTimeout},
		{"stops in the message", envelope + "hello\r\n", 0, commandTimeout},
		{"sends a line from time to time", envelope, 61 * time.Second, messageTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &queue{}
				o := q.options()
				o.Now = time.Now
				server, client := net.Pipe()
				var replies strings.Builder
				heard, said := make(chan struct{}), make(chan struct{})
				go func() { io.Copy(&replies, client); close(heard) }()
				go func() {
					defer close(said)
					io.WriteString(client, tt.say)
					for tt.every > 0 {
						time.Sleep(tt.every)
						if _, err := io.WriteString(client, "hello\r\n"); err != nil {
							return
						}
					}
				}()
				start := time.Now()
				err := Serve(t.Context(), server, o)
				if took := time.Since(start); took != tt.want || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("over after %v, %v; want %v", took, err, tt.want)
				}
				server.Close()
				<-heard
				client.Close()
				<-said
				if got := replies.String(); !strings.HasSuffix(got, "421 4.4.2 here.example has waited for too long\r\n") {
					t.Errorf("replies %q", got)
				}
			})
		})
	}
}

// A stranger has one time for all he says, and as long as others once he has logged in.
func TestStrangersHaveToHurry(t *testing.T) {
	users := knows(t)
	for _, tt := range []struct {
		name, say string
		every     time.Duration // a NOOP
		deaf      bool          // takes nothing but the greeting
		want      time.Duration
	}{
		{"says nothing", "", 0, false, loginTimeout},
		{"says something from time to time", "EHLO app\r\n", 50 * time.Second, false, loginTimeout},
		{"is in the middle of a login", "EHLO app\r\nAUTH PLAIN\r\n", 0, false, loginTimeout},
		{"takes no replies", "", 50 * time.Second, true, loginTimeout + lastReply},
		{"logs in", "EHLO app\r\nAUTH PLAIN " + encoded("\x00ann\x00secret") + "\r\n", 0, false, commandTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := (&queue{}).options()
				o.Now, o.Stranger, o.Private, o.Users = time.Now, true, true, users
				server, client := net.Pipe()
				heard, said := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(heard)
					if tt.deaf {
						bufio.NewReader(client).ReadString('\n')
						return
					}
					io.Copy(io.Discard, client)
				}()
				go func() {
					defer close(said)
					io.WriteString(client, tt.say)
					for tt.every > 0 {
						time.Sleep(tt.every)
						if _, err := io.WriteString(client, "NOOP\r\n"); err != nil {
							return
						}
					}
				}()
				start := time.Now()
				err := Serve(t.Context(), server, o)
				if took := time.Since(start); took != tt.want || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("over after %v, %v; want %v", took, err, tt.want)
				}
				server.Close()
				client.Close()
				<-heard
				<-said
			})
		})
	}
}

// A client that was quiet for a while, and then has more to say than fits into one write of replies, has not been slow to
// take them.
func TestRepliesAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		o := q.options()
		o.Now = time.Now
		server, client := net.Pipe()
		said := make(chan struct{})
		go func() {
			defer close(said)
			time.Sleep(replyTimeout + time.Minute)
			io.WriteString(client, "MAIL FROM:<a@x>\r\n"+strings.Repeat("RCPT TO:<b@x>\r\n", 500)+"QUIT\r\n")
		}()
		heard := make(chan string)
		go func() {
			b, _ := io.ReadAll(client)
			heard <- string(b)
		}()
		if err := Serve(t.Context(), server, o); err != nil {
			t.Error(err)
		}
		server.Close()
		if got := <-heard; strings.Count(got, "250 2.1.5 ") != 500 || !strings.HasSuffix(got, "goodbye\r\n") {
			t.Errorf("%d recipients accepted, and in the end: %q", strings.Count(got, "250 2.1.5 "), got[max(0, len(got)-100):])
		}
		<-said
	})
}

// A slow is a queue that takes its time for each message, and refuses every fifth.
type slow struct {
	mu       sync.Mutex
	begun    int
	running  int
	most     int // at once
	durable  map[mail.ID]bool
	aborted  int
	finished []mail.ID
}

type slowly struct {
	q *slow
	n int
}

func (q *slow) submit(s submit.Submission) (Pending, error) {
	_, err := io.Copy(io.Discard, s.Content)
	q.begun++
	return &slowly{q, q.begun}, err
}

func (p *slowly) Commit() (mail.ID, error) {
	p.q.mu.Lock()
	p.q.running++
	p.q.most = max(p.q.most, p.q.running)
	p.q.mu.Unlock()
	time.Sleep(time.Duration(1+p.n*7%10) * time.Millisecond)
	p.q.mu.Lock()
	defer p.q.mu.Unlock()
	p.q.running--
	if p.n%5 == 0 {
		return "", submit.NotQueued(errors.New("no"))
	}
	id := mail.ID(fmt.Sprintf("7UU4F9BF%03d", p.n))
	p.q.durable[id] = true
	p.q.finished = append(p.q.finished, id)
	return id, nil
}

func (p *slowly) Abort() error { p.q.aborted++; return nil }

// A client that does not wait for replies has several messages committed at once. He is told in the order in which he
// sent them, and of none before it is there.
func TestCommitsAtOnce(t *testing.T) {
	const many = 50
	session := "EHLO app\r\n"
	for range many {
		session += "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nBDAT 5 LAST\r\nhelloNOOP\r\n"
	}
	for _, tt := range []struct {
		name   string
		atOnce int
		piece  int // octets that the client sends at once
		stop   time.Duration
	}{
		{"one after the other", 0, len(session), time.Hour},
		{"at once", 4, len(session), time.Hour},
		{"all", 1000, len(session), time.Hour},
		{"in pieces", 4, 150, time.Hour},
		{"until we are told to end", 4, len(session), 20 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &slow{durable: map[mail.ID]bool{}}
				server, client := net.Pipe()
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(tt.stop, cancel)
				said := make(chan struct{})
				go func() {
					defer close(said)
					for piece := range slices.Chunk([]byte(session), tt.piece) {
						if _, err := client.Write(piece); err != nil {
							return
						}
					}
					io.WriteString(client, "QUIT\r\n")
				}()
				var replies []string
				heard := make(chan struct{})
				go func() {
					defer close(heard)
					for lines := bufio.NewScanner(client); lines.Scan(); {
						id, ok := strings.CutPrefix(lines.Text(), "250 2.0.0 7")
						q.mu.Lock()
						if ok && !q.durable[mail.ID("7"+id[:10])] {
							t.Errorf("%q was said too early", lines.Text())
						}
						q.mu.Unlock()
						replies = append(replies, lines.Text())
					}
				}()
				err := Serve(ctx, server, Options{Hostname: "here.example", Submit: q.submit, AtOnce: tt.atOnce, Now: time.Now})
				server.Close()
				<-heard
				<-said
				if wanted := min(max(1, tt.atOnce), many); err != nil || q.most > wanted || tt.piece == len(session) && q.most != wanted {
					t.Errorf("%d at once, %v; want %d", q.most, err, wanted)
				}
				want := []string{}
				for n := range q.begun {
					want = append(want, "250 2.1.0", "250 2.1.5", fmt.Sprintf("250 2.0.0 7UU4F9BF%03d", n+1), "250 2.0.0 Nothing")
					if (n+1)%5 == 0 {
						want[len(want)-2] = "451 4.3.0"
					}
				}
				last := "221 "
				if tt.stop < time.Hour {
					last = "421 4.3.2 "
				} else if q.begun != many {
					t.Errorf("%d messages, want %d", q.begun, many)
				}
				const before = 1 + 12 // the greeting, and what EHLO says
				got := replies[before:]
				if tt.stop < time.Hour && len(got) == len(want) { // the last NOOP was not heard
					want = want[:len(want)-1]
				}
				for i, w := range append(want, last) {
					if i >= len(got) || !strings.HasPrefix(got[i], w) {
						t.Fatalf("reply %d of %d: %q; want %q", i, len(got), got[min(i, len(got)-1)], w)
					}
				}
			})
		})
	}
}

// Told to end, a session takes the message under way, and no other.
func TestStop(t *testing.T) {
	for _, tt := range []struct{ name, before, after, want string }{
		{"idle", "EHLO app\r\n", "", "421 4.3.2 here.example is being shut down\r\n"},
		{"in a message", "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nhello\r\n", ".\r\n", "accepted for delivery\r\n421 4.3.2 here.example is being shut down\r\n"},
		{"in a message that does not end", "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nhello\r\n", "", "421 4.3.2 here.example is being shut down\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &queue{}
				o := q.options()
				o.Now = time.Now
				server, client := net.Pipe()
				var replies strings.Builder
				heard := make(chan struct{})
				go func() { io.Copy(&replies, client); close(heard) }()
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- Serve(ctx, server, o) }()
				io.WriteString(client, tt.before)
				synctest.Wait()
				stop()
				synctest.Wait()
				if tt.after != "" {
					io.WriteString(client, tt.after)
				}
				if err := <-ended; err != nil {
					t.Error(err)
				}
				server.Close()
				<-heard
				client.Close()
				if got := replies.String(); !strings.HasSuffix(got, tt.want) {
					t.Errorf("replies %q, want %q", got, tt.want)
				}
			})
		})
	}
}
