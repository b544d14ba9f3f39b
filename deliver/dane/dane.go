// Package dane knows which certificate a mail server must have, where its domain says so by DANE (RFC 7672). DNSSEC vouches
// for that.
package dane

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/postrider/postrider/deliver/dns"
)

// Records are what is said of the certificate of a server.
type Records struct {
	Base   string // the name of the server where it is said: the one to ask it for (SNI)
	Usable []dns.TLSA
}

// Lookup returns the records for a server at a port by the first of its names that has any. It is nil if there are none
// that DNSSEC vouches for. If none of the records is usable, TLS is needed with any certificate (RFC 7672 section 2.2). An
// error means that nobody can know: the server must not be used now.
func Lookup(ctx context.Context, resolver *dns.Resolver, port int, names ...string) (*Records, error) {
	for _, name := range names {
		all, from, err := resolver.TLSA(ctx, fmt.Sprintf("_%d._tcp.%s", port, name))
		switch kind := dns.KindOf(err); {
		case kind == dns.NoName || kind == dns.NoRecord:
		case err != nil:
			return nil, err
		case from.Secure:
			return &Records{name, slices.DeleteFunc(slices.Clone(all), func(r dns.TLSA) bool { return !usable(r) })}, nil
		}
	}
	return nil, nil
}

// The numbers in records that mail has a use for (RFC 7218), in the order of the record.
const (
	daneTA, daneEE               = 2, 3
	wholeCertificate, publicKey  = 0, 1
	verbatim, bySHA256, bySHA512 = 0, 1, 2
)

// usable reports whether a record can be obeyed. What it says of public authorities does not count for mail (RFC 7672
// section 3.1.3).
func usable(r dns.TLSA) bool {
	if r.Usage != daneTA && r.Usage != daneEE {
		return false
	}
	switch r.Matching {
	case bySHA256:
		return r.Selector <= publicKey && len(r.Data) == sha256.Size
	case bySHA512:
		return r.Selector <= publicKey && len(r.Data) == sha512.Size
	case verbatim:
		var err error
		switch r.Selector {
		case wholeCertificate:
			_, err = x509.ParseCertificate(r.Data)
		case publicKey:
			_, err = x509.ParsePKIXPublicKey(r.Data)
		default:
			return false
		}
		return err == nil
	}
	return false
}

// Verify returns nil if the server's certificate is as a record wants it. An authority that a record names must have signed
// it for one of the names, and for today; a certificate that a record itself names may be as it likes (RFC 7672 section 3.1.1).
func (r *Records) Verify(state tls.ConnectionState, names ...string) error {
	chain := state.PeerCertificates
	if len(chain) == 0 {
		return errors.New("the server has no certificate")
	}
	err := errors.New("no record of DANE (TLSA) is for it")
	for _, record := range r.Usable {
		if record.Usage == daneEE {
			if matches(record, chain[0]) {
				return nil
			}
			continue
		}
		for _, authority := range authorities(record, chain) {
			if err = signed(chain, authority, names); err == nil {
				return nil
			}
		}
	}
	return err
}

func matches(r dns.TLSA, c *x509.Certificate) bool {
	data := c.Raw
	if r.Selector == publicKey {
		data = c.RawSubjectPublicKeyInfo
	}
	switch r.Matching {
	case bySHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case bySHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return bytes.Equal(data, r.Data)
}

// authorities returns the certificates that a record means among those that the server shows, or the one that it has itself.
func authorities(r dns.TLSA, chain []*x509.Certificate) (list []*x509.Certificate) {
	for _, c := range chain[1:] {
		if matches(r, c) {
			list = append(list, c)
		}
	}
	if len(list) == 0 && r.Selector == wholeCertificate && r.Matching == verbatim {
		if c, err := x509.ParseCertificate(r.Data); err == nil {
			list = append(list, c)
		}
	}
	return list
}

// signed returns nil if an authority has signed the first certificate of a chain, for one of these names.
func signed(chain []*x509.Certificate, authority *x509.Certificate, names []string) error {
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	options.Roots.AddCert(authority)
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(options); err != nil {
		return err
	}
	var err error
	for _, name := range names {
		if err = chain[0].VerifyHostname(name); err == nil {
			return nil
		}
	}
	return err
}
