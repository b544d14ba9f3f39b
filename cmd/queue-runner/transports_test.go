package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
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
