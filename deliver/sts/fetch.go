package sts

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"time"
)

// Bounds for a fetch (RFC 8461 section 3.3).
const (
	fetchTimeout = time.Minute
	maxPolicy    = 64 << 10 // octets
)

// Fetch returns the text of the policy of a domain from where it must be: from the web server mta-sts.DOMAIN, with a
// certificate that roots vouch for; nil means those of the system. There is no other way to it: no redirection, no cache, and
// no proxy but what dial goes through, which is how connections to "mta-sts.example.com:443" are made.
func Fetch(ctx context.Context, domain string, roots *x509.CertPool, dial func(ctx context.Context, network, address string) (net.Conn, error)) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	client := http.Client{
		Transport: &http.Transport{
			DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxPolicy,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://mta-sts."+domain+"/.well-known/mta-sts.txt", nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	text, err := read(response)
	return text, errors.Join(err, response.Body.Close())
}

// read returns the body of a response that is a policy.
func read(r *http.Response) (string, error) {
	if r.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the web server says %s", r.Status)
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "text/plain" {
		return "", fmt.Errorf("the web server has %.60q there, not text/plain", r.Header.Get("Content-Type"))
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, maxPolicy+1))
	if err == nil && len(text) > maxPolicy {
		err = fmt.Errorf("it is longer than %d octets", maxPolicy)
	}
	return string(text), err
}
