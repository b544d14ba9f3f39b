package sts

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// quiet is for a server that tells of handshakes that are meant to fail.
var quiet = log.New(io.Discard, "", 0)

// web is a web server with a certificate for a name.
func web(t *testing.T, name string, until time.Duration, h http.HandlerFunc) (server *httptest.Server, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(until), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(cert)
	server = httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = quiet
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, roots
}

func says(kind, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "mta-sts.example.com" || r.URL.Path != "/.well-known/mta-sts.txt" || r.Method != http.MethodGet {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write([]byte(text)) // the client says what came of it
	}
}

func TestFetch(t *testing.T) {
	const text = "version: STSv1\nmode: none\nmax_age: 1\n"
	const name, day = "mta-sts.example.com", 24 * time.Hour
	for _, tt := range []struct {
		name, server string
		until        time.Duration // its certificate is valid
		handler      http.HandlerFunc
		want         string // in the error; "" for none
	}{
		{"as it must be", name, day, says("text/plain", text), ""},
		{"with a character set", name, day, says("Text/Plain; charset=utf-8", text), ""},
		{"of 64 KiB", name, day, says("text/plain", strings.Repeat("x", 64<<10)), ""},
		{"of more", name, day, says("text/plain", strings.Repeat("x", 64<<10+1)), "longer than 65536"},
		{"as a page", name, day, says("text/html", text), `"text/html"`},
		{"as nothing", name, day, says("", text), "not text/plain"},
		{"not there", name, day, http.NotFound, "404"},
		{"somewhere else", name, day, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			if r.URL.Path == "/policy" {
				_, _ = w.Write([]byte(text))
				return
			}
			http.Redirect(w, r, "/policy", http.StatusFound)
		}, "302"},
		{"cut off", name, day, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(text))
		}, "unexpected EOF"},
		{"at a server for another name", "mta-sts.example.net", day, says("text/plain", text), "not mta-sts.example.com"},
		{"at a server that was right once", name, -time.Hour, says("text/plain", text), "expired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, roots := web(t, tt.server, tt.until, tt.handler)
			dial := func(ctx context.Context, network, address string) (net.Conn, error) {
				if address != "mta-sts.example.com:443" {
					t.Errorf("connected to %s", address)
				}
				return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
			}
			got, err := Fetch(t.Context(), "example.com", roots, dial)
			switch {
			case tt.want == "" && (err != nil || got != text && len(got) != 64<<10):
				t.Errorf("Fetch = %q, %v", got, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("Fetch = %q, %v, want %s", got, err, tt.want)
			}
		})
	}
}

// TestFetchTrustsNobody has a server whose certificate nobody has signed, and a proxy in the environment.
func TestFetchTrustsNobody(t *testing.T) {
	server, _ := web(t, "mta-sts.example.com", time.Hour, says("text/plain", "x"))
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer proxy.Close()
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
	if got, err := Fetch(t.Context(), "example.com", x509.NewCertPool(), dial); err == nil {
		t.Errorf("Fetch = %q", got)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the proxy was asked %d times", n)
	}
}
