package smtpd

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/login"
)

// knows has the user ann, whose password is "secret".
func knows(t *testing.T) func() (login.Users, error) {
	t.Helper()
	line, err := login.Line("ann", "secret")
	if err != nil {
		t.Fatal(err)
	}
	return func() (login.Users, error) { return login.Parse(line) }
}

func encoded(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// TestLogins reads as what a client says and hears before and after STARTTLS.
func TestLogins(t *testing.T) {
	const extensions = "250-here.example greets app\n250-PIPELINING\n250-SIZE 10000\n250-8BITMIME\n250-SMTPUTF8\n250-DSN\n250-ENHANCEDSTATUSCODES\n250-CHUNKING\n250-FUTURERELEASE 5184000 2027-01-21T01:02:03Z\n250-DELIVERBY\n250-MT-PRIORITY\n"
	const limits = "250 LIMITS RCPTMAX=1000"
	plain, wrong := "AUTH PLAIN "+encoded("\x00ann\x00secret"), "AUTH PLAIN "+encoded("\x00ann\x00guess")
	message := []step{{"MAIL FROM:<a@x>", "250 +"}, {"RCPT TO:<b@x>", "250 +"}, {"DATA", "354 +"}, {".", "250 +"}}
	hello := step{"EHLO app", "250-+"}
	everybody := func(*Options) {}
	private := func(o *Options) { o.Private = true }
	stranger := func(o *Options) { o.Stranger = true }
	nobody := func(o *Options) { o.Users = nil }
	for _, tt := range []struct {
		name          string
		with          func(*Options)
		clear, secure []step
		protocols     string
		log           string
	}{
		{"what is offered", everybody, []step{
			{"EHLO app", extensions + "250-STARTTLS\n250-AUTH SCRAM-SHA-256\n" + limits}, {"STARTTLS now", "501 5.5.4 +"}, {"STARTTLS", "220 +"},
		}, []step{{"EHLO app", extensions + "250-REQUIRETLS\n250-AUTH SCRAM-SHA-256 PLAIN LOGIN\n" + limits}, {"STARTTLS", "503 5.5.1 +"}}, "", ""},
		{"what is offered where nobody else can read", private, []step{
			{"EHLO app", extensions + "250-STARTTLS\n250-AUTH SCRAM-SHA-256 PLAIN LOGIN\n" + limits}, hello, {plain, "235 2.7.0 +"},
		}, nil, "", "ann <nil>,"},
		{"what is offered where nobody can log in", nobody, []step{
			{"EHLO app", extensions + "250-STARTTLS\n" + limits}, {plain, "502 5.5.1 +"}, {"MAIL FROM:<a@x> AUTH=<>", "555 5.5.4 +"},
		}, nil, "", ""},
		{"nobody shows his password", everybody, []step{
			hello, {plain, "538 5.7.11 +"}, {"AUTH LOGIN", "538 5.7.11 +"}, {"AUTH CRAM-MD5", "504 5.5.4 +"}, {"AUTH", "504 5.5.4 +"},
		}, nil, "", ""},
		{"a message with every protocol", everybody, append(append([]step{hello}, message...), step{"STARTTLS", "220 +"}),
			append(append(append(append([]step{hello}, message...), step{plain, "235 2.7.0 +"}), message...),
				step{"MAIL FROM:<ü@x> SMTPUTF8", "250 +"}, step{"RCPT TO:<b@x>", "250 +"}, step{"BDAT 0 LAST|", "250 +"}),
			"ESMTP ESMTPS ESMTPSA UTF8SMTPSA ", "ann <nil>,"},
		{"a stranger", stranger, []step{
			hello, {"MAIL FROM:<a@x>", "530 5.7.0 +"}, {"RCPT TO:<a@x>", "503 +"}, {"DATA", "503 +"}, {"BDAT 6 LAST|QUIT|", "503 +"}, {"STARTTLS", "220 +"},
		}, append([]step{hello, {"MAIL FROM:<>", "530 5.7.0 +"}, {wrong, "535 5.7.8 +"}, {"MAIL FROM:<a@x>", "530 5.7.0 +"}, {plain, "235 2.7.0 +"}}, message...),
			"ESMTPSA ", " wrong name or password,ann <nil>,"},
		{"who logged in before STARTTLS has not done so", func(o *Options) { o.Stranger, o.Private = true, true }, []step{hello, {plain, "235 +"}, {"STARTTLS", "220 +"}},
			[]step{{plain, "503 5.5.1 +"}, hello, {"MAIL FROM:<a@x>", "530 5.7.0 +"}}, "", "ann <nil>,"},
		{"in pieces", private, []step{
			hello, {"AUTH PLAIN", "334 "}, {encoded("\x00ann\x00secret"), "235 +"}, {plain, "503 5.5.1 +"}, {"MAIL FROM:<a@x> AUTH=ann", "250 +"},
		}, nil, "", "ann <nil>,"},
		{"LOGIN", private, []step{
			hello, {"auth login", "334 " + encoded("Username:")}, {encoded("ann"), "334 " + encoded("Password:")}, {encoded("secret"), "235 +"},
		}, nil, "", "ann <nil>,"},
		{"not after all", private, []step{hello, {"AUTH LOGIN", "334 +"}, {"*", "501 5.7.0 +"}, {"AUTH PLAIN", "334 +"}, {"!", "501 5.5.2 +"}, {"AUTH PLAIN =", "501 5.5.2 +"},
			{"AUTH PLAIN", "334 +"}, {strings.Repeat("x", maxLine), "501 5.5.2 +"}, {"AUTH SCRAM-SHA-256 " + encoded("n,,n=ann,r="+strings.Repeat("x", 2000)), "501 5.5.2 +"},
			{plain, "235 +"}}, nil, "", "ann <nil>,"},
		{"at the wrong time", private, []step{
			{plain, "503 5.5.1 +"}, {"HELO app", "250 +"}, {plain, "503 5.5.1 +"}, hello, {"MAIL FROM:<a@x> AUTH=", "501 5.5.4 +"}, {"MAIL FROM:<a@x>", "250 +"}, {plain, "503 5.5.1 +"},
			{"RCPT TO:<b@x>", "250 +"}, {"BDAT 1|x", "250 +"}, {plain, "503 5.5.1 +"}, {"STARTTLS", "503 5.5.1 +"}, {"BDAT 1 LAST|y", "250 +"},
		}, nil, "ESMTP ", ""},
		{"guessing", private, []step{hello, {wrong, "535 +"}, {"AUTH LOGIN " + encoded("bob"), "334 +"}, {encoded("x"), "535 +"}, {wrong, "535 +\n421 4.7.0 +"}}, nil,
			"", " wrong name or password, wrong name or password, wrong name or password,"},
		{"the file cannot be read", func(o *Options) {
			o.Private, o.Users = true, func() (login.Users, error) { return nil, errors.New("no") }
		}, []step{hello, {plain, "454 4.7.0 +"}}, nil, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q, log := &queue{}, ""
			o := q.options()
			o.Users, o.Local = knows(t), false
			o.LoggedIn = func(name string, err error) { log += fmt.Sprintf("%s %v,", name, err) }
			secured := &script{Reader: strings.NewReader(spoken(tt.secure))}
			o.StartTLS = func() (Conn, error) { return secured, nil }
			tt.with(&o)
			got, err := q.talk(t, o, strings.NewReader(spoken(tt.clear)))
			if err != nil {
				t.Error(err)
			}
			compare(t, "in the clear", got, heard(tt.clear))
			if got := strings.ReplaceAll(secured.String(), "\r\n", "\n"); got != "" || len(tt.secure) > 0 {
				compare(t, "under TLS", got, heard(tt.secure))
			}
			protocols := ""
			for _, m := range q.messages {
				protocols += m.submission.Protocol + " "
			}
			if protocols != tt.protocols || log != tt.log {
				t.Errorf("messages by %q, want %q; log %q, want %q", protocols, tt.protocols, log, tt.log)
			}
		})
	}
}

func spoken(steps []step) (in string) {
	for _, s := range steps {
		in += s.wire()
	}
	return in
}

func heard(steps []step) (want string) {
	for _, s := range steps {
		want += s.hear + "\n"
	}
	return want
}

// What somebody has put behind STARTTLS is not taken for what the client says under TLS.
func TestInjectedBeforeTLS(t *testing.T) {
	q := &queue{}
	o := q.options()
	o.StartTLS = func() (Conn, error) { return nil, errors.New("a handshake") }
	got, err := q.talk(t, o, strings.NewReader("STARTTLS\r\nMAIL FROM:<a@x>\r\n"))
	if err != nil || got != "503 5.5.1 Something was sent after STARTTLS\n" {
		t.Errorf("replies %q, %v", got, err)
	}
	if got, err := q.talk(t, o, strings.NewReader("STARTTLS\r\n")); err == nil || err.Error() != "STARTTLS: a handshake" || got != "220 2.0.0 Begin\n" {
		t.Errorf("replies %q, %v", got, err)
	}
}
