package realtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The login at the receiving side. The password has what a careless client would trip over.
const (
	relayUser     = "alerts"
	relayPassword = `pass word:with "quotes", a \, a # and =?utf-8?`
)

// A service is a port of the receiving side, with what makes it different from the others.
type service struct {
	port    int
	options string // in the words of master(5)
}

// services by what they are for.
var services = map[string]service{
	"submission":    {587, ""},
	"submissions":   {465, "-o smtpd_tls_wrappermode=yes"},
	"PLAIN":         {10001, "-o smtpd_sasl_mechanism_filter=plain"},
	"LOGIN":         {10002, "-o smtpd_sasl_mechanism_filter=login"},
	"CRAM-MD5":      {10003, "-o smtpd_sasl_mechanism_filter=cram-md5"},
	"SCRAM-SHA-1":   {10004, "-o smtpd_sasl_mechanism_filter=scram-sha-1"},
	"SCRAM-SHA-256": {10005, "-o smtpd_sasl_mechanism_filter=scram-sha-256"},
	// Knows no extension but those for TLS and login.
	"simple": {10010, "-o smtpd_discard_ehlo_keywords=8bitmime,chunking,dsn,enhancedstatuscodes,etrn,pipelining,size,smtputf8,vrfy"},
	// Takes fewer recipients at a time than RFC 5321 section 4.5.3.1.8 asks for.
	"few":   {10011, "-o smtpd_recipient_limit=40"},
	"small": {10012, "-o message_size_limit=200000"},
	"picky": {10013, "-o { smtpd_recipient_restrictions = check_recipient_access inline:{" +
		"{ gone@site.example = 550 5.1.1 no such user here } { busy@site.example = 450 4.2.1 mailbox busy } } }"},
	// Take mail from whoever comes.
	"clear":       {10020, open + " -o smtpd_tls_security_level=none"},
	"TLS":         {10021, open + " -o smtpd_tls_security_level=may"},
	"no CHUNKING": {10022, open + " -o smtpd_tls_security_level=may -o smtpd_discard_ehlo_keywords=chunking"},
	"basic":       {10023, open + " -o smtpd_tls_security_level=none -o smtpd_discard_ehlo_keywords=8bitmime,chunking,dsn,enhancedstatuscodes,etrn,pipelining,size,smtputf8,vrfy"},
}

const open = "-o smtpd_sasl_auth_enable=no -o smtpd_relay_restrictions=reject_unauth_destination"

// mainCF is a submission server that changes nothing in what it receives, and delivers every address to one Maildir.
// Whatever a careless client could send (bare line feeds, commands before their time) it refuses.
const mainCF = `
compatibility_level = 3.6
maillog_file = /var/log/postfix.log
maillog_file_prefixes = /var/log
myhostname = localhost
mydestination =
mynetworks = 192.0.2.1/32
inet_interfaces = loopback-only
inet_protocols = ipv4
smtpd_peername_lookup = no
alias_maps =
alias_database =

smtpd_tls_security_level = encrypt
smtpd_tls_cert_file = /etc/postrider/server.pem
smtpd_tls_key_file = /etc/postrider/server.key
smtpd_tls_received_header = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_local_domain = localhost
smtpd_sasl_authenticated_header = yes
smtpd_relay_restrictions = permit_sasl_authenticated, reject

strict_rfc821_envelopes = yes
smtpd_forbid_bare_newline = reject
smtpd_forbid_unauth_pipelining = yes

local_header_rewrite_clients =
remote_header_rewrite_domain =
always_add_missing_headers = no
message_drop_headers =

message_size_limit = 120000000
virtual_mailbox_domains = static:all
virtual_mailbox_maps = static:all/
virtual_mailbox_base = /var/mail
virtual_mailbox_limit = 0
virtual_uid_maps = static:105
virtual_gid_maps = static:105
`

const masterCF = `
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
proxymap  unix  -       -       n       -       -       proxymap
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
showq     unix  n       -       n       -       -       showq
virtual   unix  -       n       n       -       -       virtual
anvil     unix  -       -       n       -       1       anvil
postlog   unix-dgram n  -       n       -       1       postlogd
`

const smtpdSASL = `
pwcheck_method: auxprop
auxprop_plugin: sasldb
mech_list: PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256
`

// startPostfix makes the world's Postfix and starts it. The certificate of the authority is at /etc/postrider/ca.pem.
func (w *world) startPostfix() {
	w.t.Helper()
	w.makeCertificates()
	master := strings.Builder{}
	master.WriteString(masterCF)
	for _, name := range slices.Sorted(maps.Keys(services)) {
		fmt.Fprintf(&master, "%d inet n - n - - smtpd\n", services[name].port)
		if services[name].options != "" {
			fmt.Fprintf(&master, "  %s\n", services[name].options)
		}
	}
	w.write("etc/postfix/main.cf", []byte(mainCF), 0o644, "root")
	w.write("etc/postfix/master.cf", []byte(master.String()), 0o644, "root")
	w.write("etc/postfix/sasl/smtpd.conf", []byte(smtpdSASL), 0o644, "root")
	if _, err := w.run("root", []byte(relayPassword), "saslpasswd2", "-p", "-c", "-u", "localhost", relayUser); err != nil {
		w.t.Fatal(err)
	}
	w.mkdir("var/mail", 0o755, "vmail")
	w.must("root", "chown", "postfix", "/etc/sasldb2", "/var/lib/postfix")
	w.must("root", "postfix", "start")
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("Postfix's log:\n%s", w.read("var/log/postfix.log"))
		}
	})
}

// makeCertificates makes an authority, and has it sign a certificate for localhost. They are in /etc/postrider.
func (w *world) makeCertificates() {
	w.t.Helper()
	authorityKey, serverKey := newKey(w.t), newKey(w.t)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	key, err := x509.MarshalPKCS8PrivateKey(serverKey)
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("etc/postrider/ca.pem", sign(w.t, authority, authority, authorityKey, authorityKey), 0o644, "root")
	w.write("etc/postrider/server.pem", sign(w.t, server, authority, serverKey, authorityKey), 0o644, "root")
	w.write("etc/postrider/server.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600, "root")
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, cert, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// An arrival is a message as a server delivered it to one recipient.
type arrival struct {
	sender    string // Return-Path: the reverse-path
	recipient string // X-Original-To and the like: the forward-path
	received  string // the server's own Received field
	content   []byte // what the client sent, with LF for CRLF
}

// postfixHeader is what Postfix puts before the content that it received.
var postfixHeader = regexp.MustCompile(
	`^Return-Path: <(?P<sender>.*)>\nX-Original-To: (?P<recipient>.*)\nDelivered-To: .*\nReceived: (?P<received>.*\n(?:[ \t].*\n)*)`)

// encryptedLogin matches the Received field of a message that came over TLS after a login.
var encryptedLogin = regexp.MustCompile(`\(Authenticated sender: ` + relayUser + `@localhost\)[^;]* with (?:E|UTF8)SMTPSA `)

// id returns Postfix's queue ID.
func (a arrival) id() string {
	if m := regexp.MustCompile(`\bid (\w+)`).FindStringSubmatch(a.received); m != nil {
		return m[1]
	}
	return ""
}

// arrivals waits until Postfix has nothing more to deliver, and takes everything from its Maildir.
func (w *world) arrivals() []arrival {
	w.t.Helper()
	w.eventually("Postfix has delivered everything", func() bool { return w.must("root", "postqueue", "-j") == "" })
	return w.take("var/mail/all/new/*", postfixHeader)
}
