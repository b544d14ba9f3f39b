package doortest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// guarded is the configuration of a daemon with a certificate for 127.0.0.1, where ann logs in with "secret".
func guarded(t *testing.T) (settings, certificate string) {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "doortest"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	line, status := run(t, exec.Command(filepath.Join(programs, "queue-runner"), "login", "ann"), "secret\n")
	if status != 0 {
		t.Fatal(line)
	}
	settings = queueing + "[listen]\n"
	for key, content := range map[string][]byte{
		"certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		"key":         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		"logins":      []byte(line),
	} {
		if err := os.WriteFile(filepath.Join(dir, key), content, 0o600); err != nil {
			t.Fatal(err)
		}
		settings += key + " = \"" + filepath.Join(dir, key) + "\"\n"
	}
	return settings, filepath.Join(dir, "certificate")
}

// What our own client does with STARTTLS and SCRAM, our server understands.
func TestFromOneToTheOther(t *testing.T) {
	settings, certificate := guarded(t)
	w := newWorld(t, settings)
	tcp := w.listen("tcp", "127.0.0.1:0")
	d := w.daemon(w.submission(), tcp)
	password, config := filepath.Join(w.dir, "password"), filepath.Join(w.dir, "sender.toml")
	text := "spool = \"" + filepath.Join(w.dir, "sender") + "\"\nhostname = \"sender.example\"\nlog = \"stderr\"\ndelivery = \"queue\"\n" +
		"[transport.other]\nurl = \"submission://ann@" + tcp.Addr().String() + "\"\npassword_file = \"" + password + "\"\nca_file = \"" + certificate + "\"\n" +
		"[[route]]\ntransport = \"other\"\n"
	if err := errors.Join(os.WriteFile(password, []byte("secret\n"), 0o600), os.WriteFile(config, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	accepts(t, w.program("sender.toml", "sendmail", "bob@example.net"), hello)
	out, status := run(t, w.program("sender.toml", "queue-runner"), "")
	if status != 0 || !strings.Contains(out, "status=sent (250 2.0.0 ") {
		t.Fatalf("exit %d, %s", status, out)
	}
	m := w.one()
	if !strings.Contains(m.content, "Received: from sender.example ([127.0.0.1])\r\n\tby here.example (postrider) with ESMTPSA\r\n") {
		t.Errorf("queued: %q", m.content)
	}
	if log := d.stop(); !strings.Contains(log, string(m.QueueID)+": client=sender.example ([127.0.0.1]), protocol=ESMTPSA, login=ann\n") {
		t.Errorf("log: %s", log)
	}
}

const pythonLogin = `
import smtplib, ssl, sys
host, port, ca = sys.argv[1], int(sys.argv[2]), sys.argv[3]
for mechanism in "PLAIN", "LOGIN":
    with smtplib.SMTP(host, port) as s:
        s.ehlo()
        assert not s.has_extn("auth") or mechanism not in s.esmtp_features["auth"], "a password in the clear"
        s.starttls(context=ssl.create_default_context(cafile=ca))
        s.user, s.password = "ann", "secret"
        s.ehlo()
        s.auth(mechanism, getattr(s, "auth_" + mechanism.lower()))
        s.sendmail("ann@example.org", ["bob@example.net"], "Subject: %s\r\n\r\nx\r\n" % mechanism)
with smtplib.SMTP(host, port) as s:
    s.starttls(context=ssl.create_default_context(cafile=ca))
    try:
        s.login("ann", "guess")
        sys.exit("the wrong password was taken")
    except smtplib.SMTPAuthenticationError as e:
        assert e.smtp_code == 535, e
`

func TestPythonLogsIn(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: python3 is missing")
	}
	settings, certificate := guarded(t)
	w := newWorld(t, settings)
	tcp := w.listen("tcp", "127.0.0.1:0")
	d := w.daemon(w.submission(), tcp)
	host, port, _ := net.SplitHostPort(tcp.Addr().String())
	accepts(t, exec.Command(python, "-c", pythonLogin, host, port, certificate), "")
	if n := len(w.letters()); n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
	if log := d.stop(); !strings.Contains(log, "127.0.0.1 tried to log in: wrong name or password\n") || strings.Contains(log, "secret") || strings.Contains(log, "guess") {
		t.Errorf("log: %s", log)
	}
}

// A daemon whose files cannot be used says so at once, and not to each client.
func TestLoginsThatCannotBeRead(t *testing.T) {
	settings, certificate := guarded(t)
	if err := os.Chmod(strings.Replace(certificate, "certificate", "key", 1), 0o644); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, settings)
	if out, status := run(t, w.program("in.toml", "queue-runner", "--daemon"), ""); status != 78 || !strings.Contains(out, "queue-runner: listen.key: ") || !strings.Contains(out, "has mode 0644") {
		t.Errorf("exit %d, %s", status, out)
	}
	if out, status := run(t, w.program("in.toml", "queue-runner", "login"), ""); status != 64 {
		t.Errorf("exit %d, %s", status, out)
	}
	if out, status := run(t, w.program("in.toml", "queue-runner", "login", "a:b"), "x\n"); status != 64 || strings.Contains(out, "SCRAM") {
		t.Errorf("exit %d, %s", status, out)
	}
}
