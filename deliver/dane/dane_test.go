package dane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/deliver/dns"
	"github.com/postrider/postrider/internal/dnstest"
)

// An issuer signs certificates.
type issuer struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// issue returns a certificate for a name, valid until so long from now, by an issuer, or by itself.
func issue(t testing.TB, by *issuer, name string, until time.Duration) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(until),
		IsCA: strings.HasPrefix(name, "ca"), BasicConstraintsValid: true,
	}
	issued := &issuer{key: key}
	if by == nil {
		by = &issuer{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.Certificate, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	if issued.Certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return issued
}

// record writes a record that means a certificate.
func record(usage, selector, matching uint8, c *issuer) dns.TLSA {
	data := c.Raw
	if selector == publicKey {
		data = c.RawSubjectPublicKeyInfo
	}
	switch matching {
	case bySHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case bySHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return dns.TLSA{Usage: usage, Selector: selector, Matching: matching, Data: data}
}

func TestVerify(t *testing.T) {
	const name, day = "mx.example.com", 24 * time.Hour
	root := issue(t, nil, "ca", day)
	middle := issue(t, root, "ca2", day)
	leaf := issue(t, middle, name, day)
	expired := issue(t, middle, name, -day)
	alone := issue(t, nil, "anything", -day)
	stranger := issue(t, nil, "ca", day) // another one of the same name
	chain := []*issuer{leaf, middle, root}
	const ok = ""
	for _, tt := range []struct {
		name    string
		chain   []*issuer
		names   string
		records []dns.TLSA
		want    string // in the error
	}{
		{"EE, the certificate", chain, name, []dns.TLSA{record(daneEE, wholeCertificate, verbatim, leaf)}, ok},
		{"EE, a digest of it", chain, name, []dns.TLSA{record(daneEE, wholeCertificate, bySHA256, leaf)}, ok},
		{"EE, another digest", chain, name, []dns.TLSA{record(daneEE, wholeCertificate, bySHA512, leaf)}, ok},
		{"EE, the key", chain, name, []dns.TLSA{record(daneEE, publicKey, verbatim, leaf)}, ok},
		{"EE, a digest of the key", chain, name, []dns.TLSA{record(daneEE, publicKey, bySHA256, leaf)}, ok},
		{"EE, neither for the name nor for today", []*issuer{alone}, name, []dns.TLSA{record(daneEE, publicKey, bySHA256, alone)}, ok},
		{"EE, another certificate", chain, name, []dns.TLSA{record(daneEE, publicKey, bySHA256, alone)}, "no record"},
		{"EE, the issuer", chain, name, []dns.TLSA{record(daneEE, publicKey, bySHA256, middle)}, "no record"},
		{"EE, the digest of the other selector", chain, name, []dns.TLSA{{Usage: daneEE, Selector: wholeCertificate, Matching: bySHA256, Data: record(daneEE, publicKey, bySHA256, leaf).Data}}, "no record"},
		{"one of several", chain, name, []dns.TLSA{record(daneEE, publicKey, bySHA256, alone), record(daneTA, publicKey, bySHA256, stranger), record(daneEE, publicKey, bySHA256, leaf)}, ok},

		{"TA, the issuer", chain, name, []dns.TLSA{record(daneTA, wholeCertificate, bySHA256, middle)}, ok},
		{"TA, the issuer's key", chain, name, []dns.TLSA{record(daneTA, publicKey, bySHA512, middle)}, ok},
		{"TA, the root", chain, name, []dns.TLSA{record(daneTA, wholeCertificate, bySHA256, root)}, ok},
		{"TA, in any order of the chain", []*issuer{leaf, root, middle}, name, []dns.TLSA{record(daneTA, publicKey, bySHA256, root)}, ok},
		{"TA, for another of the names", chain, "other.example mx.example.com", []dns.TLSA{record(daneTA, publicKey, bySHA256, root)}, ok},
		{"TA, not shown, but the record has it", []*issuer{leaf, middle}, name, []dns.TLSA{record(daneTA, wholeCertificate, verbatim, root)}, ok},
		{"TA, not shown", []*issuer{leaf, middle}, name, []dns.TLSA{record(daneTA, wholeCertificate, bySHA256, root)}, "no record"},
		{"TA, for another name", chain, "other.example", []dns.TLSA{record(daneTA, publicKey, bySHA256, root)}, "not other.example"},
		{"TA, not for today", []*issuer{expired, middle, root}, name, []dns.TLSA{record(daneTA, publicKey, bySHA256, root)}, "expired"},
		{"TA, shown, and not the issuer", []*issuer{leaf, middle, stranger}, name, []dns.TLSA{record(daneTA, publicKey, bySHA256, stranger)}, "unknown authority"},
		{"TA, the certificate itself", []*issuer{alone}, name, []dns.TLSA{record(daneTA, publicKey, bySHA256, alone)}, "no record"},
		{"TA, the wrong one first", chain, name, []dns.TLSA{record(daneTA, publicKey, bySHA256, stranger), record(daneTA, publicKey, bySHA256, root)}, ok},

		{"no record", chain, name, nil, "no record"},
		{"no certificate", nil, name, []dns.TLSA{record(daneEE, publicKey, bySHA256, leaf)}, "no certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i, r := range tt.records {
				if !usable(r) {
					t.Fatalf("record %d is not usable", i)
				}
			}
			var state tls.ConnectionState
			for _, c := range tt.chain {
				state.PeerCertificates = append(state.PeerCertificates, c.Certificate)
			}
			err := (&Records{"", tt.records}).Verify(state, strings.Fields(tt.names)...)
			if tt.want == ok && err != nil || tt.want != ok && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Verify: %v, want %q", err, tt.want)
			}
		})
	}
}

func TestUsable(t *testing.T) {
	leaf := issue(t, nil, "mx.example.com", time.Hour)
	for _, usage := range []uint8{0, 1, 2, 3, 4, 255} {
		if got := usable(record(usage, publicKey, bySHA256, leaf)); got != (usage == daneTA || usage == daneEE) {
			t.Errorf("usage %d: %v", usage, got)
		}
	}
	digest := func(selector, matching uint8, size int) dns.TLSA {
		return dns.TLSA{Usage: daneEE, Selector: selector, Matching: matching, Data: make([]byte, size)}
	}
	for i, r := range []dns.TLSA{
		digest(2, bySHA256, 32), digest(publicKey, bySHA256, 31), digest(publicKey, bySHA256, 64), digest(publicKey, bySHA512, 32),
		digest(publicKey, 3, 32), digest(wholeCertificate, verbatim, 32), digest(publicKey, verbatim, 0), digest(2, verbatim, 32),
	} {
		if usable(r) {
			t.Errorf("%d: %+v is usable", i, r)
		}
	}
}

func TestLookup(t *testing.T) {
	s := dnstest.NewServer(t,
		"_25._tcp.mx.signed.example. 60 IN TLSA 3 1 1 "+strings.Repeat("00", 32),
		"_25._tcp.mx.signed.example. 60 IN TLSA 1 1 1 "+strings.Repeat("11", 32),
		"_25._tcp.old.signed.example. 60 IN TLSA 1 1 1 "+strings.Repeat("11", 32),
		"_2525._tcp.mx.signed.example. 60 IN TLSA 2 0 1 "+strings.Repeat("22", 32),
		"_25._tcp.alias.signed.example. 60 IN CNAME _25._tcp.mx.signed.example.",
		"_25._tcp.out.signed.example. 60 IN CNAME _25._tcp.mx.other.example.",
		"_25._tcp.mx.other.example. 60 IN TLSA 3 1 1 "+strings.Repeat("33", 32),
		"mx2.signed.example. 60 IN A 192.0.2.2",
	)
	s.Sign("signed.example")
	s.Behave("_25._tcp.broken.signed.example", dnstest.Fail)
	none := filepath.Join(t.TempDir(), "none")
	resolver := dns.New(dns.Options{Servers: []string{s.Addr()}, ResolvConf: none, Hosts: none})
	for _, tt := range []struct {
		port  int
		names string
		want  string
	}{
		{25, "mx.signed.example", "mx.signed.example 3 00"},
		{2525, "mx.signed.example", "mx.signed.example 2 22"},
		{587, "mx.signed.example", "none"},
		{25, "old.signed.example", "old.signed.example"},
		{25, "mx2.signed.example", "none"},
		{25, "mx2.signed.example mx.signed.example", "mx.signed.example 3 00"},
		{25, "old.signed.example mx.signed.example", "old.signed.example"},
		{25, "alias.signed.example", "alias.signed.example 3 00"},
		{25, "out.signed.example", "none"},
		{25, "mx.other.example", "none"},
		{25, "broken.signed.example", "error"},
		{25, "broken.signed.example mx.signed.example", "error"},
		{25, "mx.signed.example broken.signed.example", "mx.signed.example 3 00"},
	} {
		r, err := Lookup(t.Context(), resolver, tt.port, strings.Fields(tt.names)...)
		got := "none"
		if err != nil {
			got = "error"
		} else if r != nil {
			got = r.Base
			for _, u := range r.Usable {
				got += fmt.Sprintf(" %d %s", u.Usage, hex.EncodeToString(u.Data[:1]))
			}
		}
		if got != tt.want {
			t.Errorf("Lookup(%d, %s) = %s, %v, want %s", tt.port, tt.names, got, err, tt.want)
		}
	}
}

// FuzzVerify has a record that anything may be in: it is for a certificate only if it says so.
func FuzzVerify(f *testing.F) {
	leaf := issue(f, nil, "mx.example.com", time.Hour)
	f.Add(uint8(3), uint8(1), uint8(0), leaf.RawSubjectPublicKeyInfo)
	f.Add(uint8(2), uint8(0), uint8(0), leaf.Raw)
	f.Add(uint8(3), uint8(0), uint8(1), make([]byte, 32))
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf.Certificate}}
	f.Fuzz(func(t *testing.T, usage, selector, matching uint8, data []byte) {
		r := dns.TLSA{Usage: usage, Selector: selector, Matching: matching, Data: data}
		if !usable(r) {
			return
		}
		err := (&Records{"", []dns.TLSA{r}}).Verify(state, "mx.example.com")
		meant := slices.Equal(data, record(usage, selector, matching, leaf).Data)
		if err == nil && !meant {
			t.Errorf("%+v is for any certificate", r)
		}
	})
}
