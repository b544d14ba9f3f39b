package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/smtptest"
)

func TestAuthoritiesAreReadWhenTheyAreThere(t *testing.T) {
	a := &authorities{file: filepath.Join(t.TempDir(), "ca.pem")}
	if _, err := a.pool(); err == nil {
		t.Fatal("no error without the file")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := a.pool()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(a.file); err != nil {
		t.Fatal(err)
	}
	if again, err := a.pool(); err != nil || again != first {
		t.Errorf("read again: %v", err)
	}
}

// TestHowMuchTLS holds what the word before "://" promises of TLS, and what tls makes of it, at servers that offer it or
// not, with a certificate that can be trusted or not.
func TestHowMuchTLS(t *testing.T) {
	inClear := smtptest.Options{AuthInClear: true}
	good := smtptest.Options{Certificate: smtptest.Valid}
	unknown := smtptest.Options{Certificate: smtptest.UnknownCA}
	fromTheStart := func(o smtptest.Options) smtptest.Options {
		o.ImplicitTLS = true
		return o
	}
	const signedByUnknown = "x509: certificate signed by unknown authority"
	sent, toTLS := []string{"MAIL", "RCPT", "DATA", "."}, []string{"CONNECT", "EHLO", "STARTTLS", "TLS"}
	for i, tt := range []struct {
		name     string
		url, tls string
		server   smtptest.Options
		heard    []string // by the server
		reason   string   // why the mail waits; "" if it was sent
		secured  string   // by what, as the log has it; "" for not at all
	}{
		// The first: whoever expects the banner in clear waits for minutes for that of the next one.
		{"submissions says nothing before TLS", "submissions://alerts@localhost", "", good, []string{"CONNECT"}, "cannot start TLS", ""},
		{"submissions", "submissions://alerts@localhost", "", fromTheStart(good), slices.Concat([]string{"TLS", "CONNECT", "EHLO", "AUTH"}, sent), "", "TLS1.3/verified"},
		{"submissions, certificate not trusted", "submissions://alerts@localhost", "", fromTheStart(unknown), []string{"TLS"}, signedByUnknown, ""},

		{"submission", "submission://alerts@localhost", "", good, slices.Concat(toTLS, []string{"EHLO", "AUTH"}, sent), "", "TLS1.3/verified"},
		{"submission, certificate not trusted", "submission://alerts@localhost", "", unknown, toTLS, signedByUnknown, ""},
		{"submission, no TLS", "submission://alerts@localhost", "", inClear, []string{"CONNECT", "EHLO"}, "TLS is required, but localhost does not offer it", ""},
		{"submission, as much as there is", "submission://localhost", "may", unknown, slices.Concat(toTLS, []string{"EHLO"}, sent), "", "TLS1.3/unverified"},

		{"smtp", "smtp://localhost", "", good, slices.Concat(toTLS, []string{"EHLO"}, sent), "", "TLS1.3/verified"},
		{"smtp, certificate not trusted", "smtp://localhost", "", unknown, slices.Concat(toTLS, []string{"EHLO"}, sent), "", "TLS1.3/unverified"},
		{"smtp, no TLS", "smtp://localhost", "", inClear, slices.Concat([]string{"CONNECT", "EHLO"}, sent), "", ""},
		{"smtp, to be verified", "smtp://localhost", "verify", good, slices.Concat(toTLS, []string{"EHLO"}, sent), "", "TLS1.3/verified"},
		{"smtp, to be verified, certificate not trusted", "smtp://localhost", "verify", unknown, toTLS, signedByUnknown, ""},
		{"smtp, TLS not wanted", "smtp://localhost", "none", good, slices.Concat([]string{"CONNECT", "EHLO"}, sent), "", ""},
	} {
		ok := t.Run(tt.name, func(t *testing.T) {
			const password = "S3CR3T-canary"
			login := strings.Contains(tt.url, "@")
			if login {
				tt.server.Users = map[string]string{"alerts": password}
			}
			s := smtptest.NewServer(t, tt.server)
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "password"), password+"\n", 0o600)
			settings := fmt.Sprintf("[[route]]\ntransport = \"out\"\n[transport.out]\nurl = \"%s:%d\"\n", tt.url, s.Port())
			if login {
				settings += fmt.Sprintf("password_file = %q\n", filepath.Join(dir, "password"))
			}
			if pem := s.CertPEM(); pem != nil {
				writeFile(t, filepath.Join(dir, "ca.pem"), string(pem), 0o644)
				settings += fmt.Sprintf("ca_file = %q\n", filepath.Join(dir, "ca.pem"))
			}
			if tt.tls != "" {
				settings += fmt.Sprintf("tls = %q\n", tt.tls)
			}
			w := newWorld(t, settings)
			w.submit("bob@example.net")
			w.pass()
			waiting := w.waiting()
			switch {
			case tt.reason == "" && len(waiting) > 0:
				t.Errorf("waiting: %q, want nothing", waiting)
			case tt.reason != "" && (len(waiting) != 1 || !strings.Contains(waiting[0], tt.reason)):
				t.Errorf("waiting: %q, want the message, with %q", waiting, tt.reason)
			}
			if got := heard(s); !slices.Equal(got, tt.heard) {
				t.Errorf("the server heard %q, want %q", got, tt.heard)
			}
			if tt.secured != "" {
				w.wantLog(", tls=" + tt.secured + ", ")
			} else if strings.Contains(w.log, "tls=") {
				t.Errorf("TLS is in the log:\n%s", w.log)
			}
			if strings.Contains(w.log+fmt.Sprint(waiting), password) {
				t.Errorf("the password is shown: %q\n%s", waiting, w.log)
			}
		})
		if i == 0 && !ok {
			return
		}
	}
}

// heard returns the stages and the verbs of the commands that a server understood but for QUIT, which may still be under
// way.
func heard(s *smtptest.Server) []string {
	var verbs []string
	for _, line := range s.Commands() {
		verb, _, _ := strings.Cut(line, " ")
		if slices.Contains([]string{"CONNECT", "TLS", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "."}, verb) {
			verbs = append(verbs, verb)
		}
	}
	return verbs
}
