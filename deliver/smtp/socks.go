package smtp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"golang.org/x/net/proxy"

	"github.com/postrider/postrider/internal/mail"
)

// A Proxy is a SOCKS5 server (RFC 1928) that connects for us.
type Proxy struct {
	Address  string // "192.0.2.1:1080" or "proxy.example.com:1080"
	User     string // login (RFC 1929), which goes over the wire in clear; "" for none
	Password func() (string, error)
}

// A proxyError is why a proxy did not connect us, and whom that speaks of: the host, or, as far as the sender of a
// message is concerned, us, who chose the proxy.
type proxyError struct {
	scope mail.Scope
	text  string
}

func (e *proxyError) Error() string { return e.text }

// Dial connects to "mta-sts.example.com:443" through the proxy.
func (p *Proxy) Dial(ctx context.Context, address string) (net.Conn, error) {
	return p.dial(ctx, new(net.Dialer).DialContext, address)
}

// dial has the proxy connect to a host, by name or by address. The error is a *proxyError.
func (p *Proxy) dial(ctx context.Context, forward dialFunc, address string) (net.Conn, error) {
	var login *proxy.Auth
	if p.User != "" {
		password, err := p.Password()
		if err != nil {
			return nil, p.failed(mail.OfUs, "cannot log in at", err)
		}
		login = &proxy.Auth{User: p.User, Password: password}
	}
	to := &dialer{dial: forward}
	through, err := proxy.SOCKS5("tcp", p.Address, login, to)
	if err != nil {
		return nil, p.failed(mail.OfUs, "cannot use", err)
	}
	conn, err := through.(proxy.ContextDialer).DialContext(ctx, "tcp", address)
	switch {
	case err == nil:
		return conn, nil
	case to.err != nil:
		return nil, p.failed(mail.OfUs, "cannot connect to", to.err)
	}
	return nil, p.refused(err)
}

// refused is for a proxy that we have reached. What it says of the host it can only say after it has let us in, and a
// proxy that hangs up or says nothing is most likely waiting for the host itself.
func (p *Proxy) refused(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	const reply = "unknown error " // before the words of RFC 1928 section 6, all of which the library has
	if said, ok := strings.CutPrefix(err.Error(), reply); ok {
		return p.failed(mail.OfHost, "refused by", errors.New(said))
	}
	for _, lost := range []error{context.DeadlineExceeded, os.ErrDeadlineExceeded, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, lost) {
			return p.failed(mail.OfHost, "no answer from", err)
		}
	}
	return p.failed(mail.OfUs, "cannot use", err)
}

func (p *Proxy) failed(scope mail.Scope, doing string, err error) error {
	reason := why(err)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		reason = "it hung up"
	}
	return &proxyError{scope, fmt.Sprintf("%s the SOCKS proxy %s: %s", doing, p.Address, reason)}
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// A dialer is the way to the proxy for the library, whose own error does not tell that from what comes after.
type dialer struct {
	dial dialFunc
	err  error
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.dial(ctx, network, address)
	d.err = err
	return conn, err
}
