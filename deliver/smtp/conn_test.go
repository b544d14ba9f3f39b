package smtp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// A server may answer a long group before it has read it; the next one must not change what is still to be sent.
func TestLongGroupIsSentAsItWas(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	c := newConn(ours)
	defer c.close()
	group := bytes.Repeat([]byte("NOOP\r\n"), largeGroup)
	want := string(group)
	c.send(group, time.Minute)
	clear(group)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(theirs, got); err != nil || string(got) != want {
		t.Errorf("the server was sent something else (%v), starting with %.20q", err, got)
	}
}

// Any password may stand in a challenge by accident.
func TestShortPasswords(t *testing.T) {
	for _, password := range []string{"a", "V", "6", "Zm"} {
		for _, mechanism := range []string{"LOGIN", "SCRAM-SHA-256", "CRAM-MD5"} {
			for range 5 { // challenges are random
				srv := smtptest.NewServer(t, smtptest.Options{
					Certificate: smtptest.Valid, Users: map[string]string{"ann": password}, Mechanisms: []string{mechanism},
				})
				s, err := Open(t.Context(), verifying(srv, password))
				if err != nil {
					t.Fatalf("%s with password %q: %v", mechanism, password, err)
				}
				s.Close()
			}
		}
	}
}

// What a server repeats of the password is not shown: not beyond ASCII, nor in a line that is no reply and is cut.
func TestRepeatedPassword(t *testing.T) {
	const password = "Geheimnis-gr\u00f6\u00dfer-2026"
	for _, reply := range []string{
		"535 5.7.8 bad password " + password + " for ann",
		strings.Repeat("x", 50) + password,
	} {
		srv := smtptest.NewServer(t, smtptest.Options{
			Certificate: smtptest.Valid, Users: map[string]string{"ann": "other"}, Mechanisms: []string{"PLAIN"},
			Replies: map[string]string{"AUTH": reply},
		})
		_, err := Open(t.Context(), verifying(srv, password))
		f, ok := err.(*mail.Failure)
		if !ok {
			t.Fatalf("%q: Open = %v", reply, err)
		}
		if shown := f.Reply.String() + f.Transcript; strings.Contains(shown, "Geh") {
			t.Errorf("%q is shown as %s", reply, shown)
		}
	}
}

// A resolver that cannot be asked is our trouble, and not an answer.
func TestResolverOutOfReach(t *testing.T) {
	usual := net.DefaultResolver
	defer func() { net.DefaultResolver = usual }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no way there")
	}}
	_, err := Open(t.Context(), &Server{Host: "mx.somewhere.invalid"})
	f, ok := err.(*mail.Failure)
	if !ok || f.Action != mail.Delayed || f.Scope != mail.OfUs || f.Reply.Enhanced != (mail.EnhancedCode{4, 4, 3}) || !strings.HasPrefix(f.Reply.Text, "cannot look up mx.somewhere.invalid: ") {
		t.Errorf("Open = %+v", err)
	}
}

// A server that says goodbye after one transaction gets no other one; who is left waits for the host.
func TestGoodbyeBetweenTransactions(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{
		Extensions: []string{"PIPELINING", "LIMITS RCPTMAX=1"},
		Replies:    map[string]string{"RCPT": "550 5.1.1 who?", "DATA": "354 well", ".": "421 4.3.2 going down"},
	})
	s := open(t, client(srv))
	m := message(t, letter, "bob@example.com", "eve@example.com")
	want := []string{"failed of recipient, server says 5.1.1", "delayed of host, us says 4.4.2"}
	if got := outcomes(s.Deliver(t.Context(), m, all(m))); !slices.Equal(got, want) || s.Usable() {
		t.Errorf("Deliver: %q (usable: %v), want %q", got, s.Usable(), want)
	}
}

// A password that SASLprep refuses is sent as it is: the server may have been given it so.
func TestPasswordThatSASLprepRefuses(t *testing.T) {
	const password = "tab\there"
	srv := smtptest.NewServer(t, smtptest.Options{
		Certificate: smtptest.Valid, Users: map[string]string{"ann": password}, Mechanisms: []string{"SCRAM-SHA-256"},
	})
	s, err := Open(t.Context(), verifying(srv, password))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}
