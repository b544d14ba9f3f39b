package smtptest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"time"
)

// A Certificate says what the server presents.
type Certificate uint8

const (
	NoTLS          Certificate = iota
	Valid                      // for Hostname, localhost, 127.0.0.1 and ::1
	Expired                    // the same, until yesterday
	NotYetValid                // the same, from tomorrow
	WrongHost                  // for other.invalid only
	AddressOnly                // for 127.0.0.1 and ::1, no name
	CommonNameOnly             // Hostname where nobody may look for it any more (RFC 6125)
	SelfSigned                 // signed by itself; CertPool does not have it
	UnknownCA                  // signed by an authority that CertPool does not have
)

func (s *Server) makeCertificate() error {
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "smtptest authority"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := s.template()
	issuer, issuerKey := authority, authorityKey
	if s.opts.Certificate == SelfSigned {
		issuer, issuerKey = leaf, key
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, issuer, &key.PublicKey, issuerKey)
	if err != nil {
		return err
	}
	if s.opts.Certificate != UnknownCA && s.opts.Certificate != SelfSigned {
		if err := s.trust(authority, authorityKey); err != nil {
			return err
		}
	}
	s.tls = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		MinVersion:   tls.VersionTLS10, // a server may be as old as it likes: the client must mind
		MaxVersion:   s.opts.MaxTLS,
	}
	return nil
}

func (s *Server) template() *x509.Certificate {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: s.opts.Hostname},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{s.opts.Hostname, "localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	switch s.opts.Certificate {
	case Expired:
		t.NotBefore, t.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	case NotYetValid:
		t.NotBefore, t.NotAfter = time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour)
	case WrongHost:
		t.DNSNames, t.IPAddresses = []string{"other.invalid"}, nil
	case AddressOnly:
		t.DNSNames = nil
	case CommonNameOnly:
		t.DNSNames, t.IPAddresses = nil, nil
	}
	return t
}

func (s *Server) trust(authority *x509.Certificate, key *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, &key.PublicKey, key)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	s.pool.AddCert(cert)
	s.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return nil
}
