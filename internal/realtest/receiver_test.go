package realtest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net/smtp"
	"strings"
	"testing"
)

// TestReceiverChangesNothing proves the scales before they are used: what a client sends is what Postfix delivers.
func TestReceiverChangesNothing(t *testing.T) {
	prove(t)
	w := newWorld(t, sendersAndPostfix.root(t))
	w.furnish()
	w.startPostfix()

	content := "Received: from somewhere\r\nBcc: kept@site.example\r\nFrom: root (Cron Daemon)\r\nSubject: J\xf6rg \xc3\xa9\r\n\r\n" +
		"From here\r\n.\r\n..\r\n\r\n\xe4\xf6\xfc \xff\xfe\r\n" + strings.Repeat("long ", 5000) + "\r\nlast line\r\n"
	w.send(t, content, "ann@web1.example", "bob@site.example", "carol@other.example")

	got := w.arrivals()
	if len(got) != 2 {
		t.Fatalf("%d copies arrived, want 2", len(got))
	}
	for _, a := range got {
		if a.sender != "ann@web1.example" || a.recipient != "bob@site.example" && a.recipient != "carol@other.example" {
			t.Errorf("arrived from <%s> for <%s>", a.sender, a.recipient)
		}
		if want := strings.ReplaceAll(content, "\r\n", "\n"); !bytes.Equal(a.content, []byte(want)) {
			t.Errorf("for %s arrived:\n%q\nwant:\n%q", a.recipient, a.content, want)
		}
		if !encryptedLogin.MatchString(a.received) {
			t.Errorf("Received: %s, want TLS and a login", a.received)
		}
	}
}

// send is a client of the standard library's: STARTTLS, verified, and a login.
func (w *world) send(t *testing.T, content, sender string, recipients ...string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	conn, err := w.dial(services["submission"].port)
	check(err)
	c, err := smtp.NewClient(conn, "localhost")
	check(err)
	defer c.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.read("etc/postrider/ca.pem"))
	check(c.StartTLS(&tls.Config{ServerName: "localhost", RootCAs: roots}))
	check(c.Auth(smtp.PlainAuth("", relayUser, relayPassword, "localhost")))
	check(c.Mail(sender))
	for _, r := range recipients {
		check(c.Rcpt(r))
	}
	data, err := c.Data()
	check(err)
	_, err = data.Write([]byte(content))
	check(err)
	check(data.Close())
	check(c.Quit())
}
