package smtp

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// maxAddrs is how many addresses of a host are tried; RFC 5321 section 5.1 wants two at least.
const maxAddrs = 5

// Open returns a session that is ready for messages: connected to the first address that serves us, with TLS and login
// as s wants them. The error is always a *mail.Failure that defers: of the host, or of us if the name cannot be found,
// the login is refused, or there is no network. When ctx is done, Open gives up at once.
func Open(ctx context.Context, s *Server) (*Session, error) {
	s = s.withDefaults()
	if err := s.check(); err != nil {
		return nil, failure(mail.OfUs, mail.EnhancedCode{4, 3, 5}, "%v", err)
	}
	addrs, failed := s.resolve(ctx)
	if failed != nil {
		return nil, failed
	}
	var told *mail.Failure
	for _, addr := range addrs[:min(len(addrs), maxAddrs)] {
		session, failed := s.openAddr(ctx, addr)
		if failed == nil {
			return session, nil
		}
		if told == nil || tellsMore(failed, told) {
			told = failed
		}
		if ctx.Err() != nil || failed.Remote && failed.Scope == mail.OfUs {
			break // another address has the same opinion of us
		}
	}
	return nil, told
}

// tellsMore reports whether a failure at a later address says more of the host than that at an earlier one: who spoke
// to us says more than who could not be reached, and the host's trouble more than that we have no way to it.
func tellsMore(later, earlier *mail.Failure) bool {
	if later.Remote != earlier.Remote {
		return later.Remote
	}
	return later.Scope == mail.OfHost && earlier.Scope == mail.OfUs
}

func failure(scope mail.Scope, code mail.EnhancedCode, format string, args ...any) *mail.Failure {
	f := &mail.Failure{Result: mail.Delay(scope, code, format, args...)}
	f.Reply.Text = printable(f.Reply.Text)
	return f
}

func (s *Server) resolve(ctx context.Context) ([]netip.Addr, *mail.Failure) {
	if len(s.Addrs) > 0 {
		return s.Addrs, nil
	}
	if s.Unix {
		return []netip.Addr{{}}, nil
	}
	if addr, err := netip.ParseAddr(strings.Trim(s.Host, "[]")); err == nil {
		return []netip.Addr{addr}, nil
	}
	if s.Proxy != nil {
		return []netip.Addr{{}}, nil // our resolver may know nothing of what the proxy can reach, and must not be told of it
	}
	lookup, cancel := context.WithTimeout(ctx, s.Timeouts.Connect)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(lookup, "ip", s.Host)
	if err == nil && len(addrs) > 0 {
		for i, addr := range addrs {
			addrs[i] = addr.Unmap() // an IPv4 address may come dressed as an IPv6 one, and would be logged so
		}
		return addrs, nil
	}
	if ctx.Err() != nil {
		return nil, failure(mail.OfUs, mail.EnhancedCode{4, 3, 2}, "interrupted while looking up %s", s.Host)
	}
	var dns *net.DNSError
	if err == nil || errors.As(err, &dns) && dns.IsNotFound {
		return nil, failure(mail.OfUs, mail.EnhancedCode{4, 4, 4}, "cannot find %s: no such host", s.Host)
	}
	reason := why(err)
	if dns != nil {
		reason = dns.Err
	}
	return nil, failure(mail.OfUs, mail.EnhancedCode{4, 4, 3}, "cannot look up %s: %s", s.Host, reason)
}

// openAddr opens a session with one address. Where TLS is welcome but not needed, a handshake that fails is made up for
// by one more connection, in clear (RFC 7435).
func (s *Server) openAddr(ctx context.Context, addr netip.Addr) (*Session, *mail.Failure) {
	session, failed, tlsFailed := s.openWith(ctx, addr, s.TLS)
	if tlsFailed && s.TLS == TLSMay && !s.ImplicitTLS && s.User == "" && ctx.Err() == nil {
		session, failed, _ = s.openWith(ctx, addr, TLSNone)
	}
	return session, failed
}

// openWith is openAddr without the second connection; tlsFailed says that one may help.
func (s *Server) openWith(ctx context.Context, addr netip.Addr, mode TLSMode) (session *Session, failed *mail.Failure, tlsFailed bool) {
	raw, failed := s.connect(ctx, addr)
	if failed != nil {
		return nil, failed, false
	}
	session = &Session{server: s, conn: newConn(raw), relay: s.relay(addr), clean: true}
	if s.Trace != nil {
		session.conn.log.trace = func(line string) { s.Trace(session.relay, line) }
	}
	stop := session.conn.watch(ctx)
	defer stop()
	o := opening{Session: session, mode: mode}
	result := o.run()
	if result == nil {
		return session, nil, false
	}
	session.conn.close()
	return nil, &mail.Failure{Result: *result, Transcript: session.Transcript()}, o.tlsFailed
}

func (s *Server) connect(ctx context.Context, addr netip.Addr) (net.Conn, *mail.Failure) {
	dial, cancel := context.WithTimeout(ctx, s.Timeouts.Connect)
	defer cancel()
	raw, err := s.dial(dial, addr)
	if err == nil {
		return raw, nil
	}
	if ctx.Err() != nil {
		return nil, failure(mail.OfUs, mail.EnhancedCode{4, 3, 2}, "interrupted while connecting to %s", s.Host)
	}
	scope := mail.OfHost
	if ours(err) {
		scope = mail.OfUs
	}
	if of, ok := errors.AsType[*proxyError](err); ok {
		scope = of.scope
	}
	reason := why(err)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		reason = "timed out"
	}
	return nil, failure(scope, mail.EnhancedCode{4, 4, 1}, "cannot connect to %s: %s", s.relay(addr), reason)
}

// dial connects to an address, or, by way of the proxy, to whatever Host is if that is not known.
func (s *Server) dial(ctx context.Context, addr netip.Addr) (net.Conn, error) {
	if s.Unix {
		return s.Dial(ctx, "unix", s.Host)
	}
	host := s.Host
	if addr.IsValid() {
		host = addr.String()
	}
	to := net.JoinHostPort(host, strconv.Itoa(s.Port))
	if s.Proxy != nil {
		return s.Proxy.dial(ctx, s.Dial, to)
	}
	return s.Dial(ctx, "tcp", to)
}

// ours reports whether a connection failed for want of something on this machine: a network, a port, a descriptor.
func ours(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS,
		syscall.ENOMEM, syscall.EPERM, syscall.EACCES,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// An opening brings a new session to where it can take messages. Its methods return nil, or what keeps us from going on.
type opening struct {
	*Session
	mode      TLSMode
	tlsFailed bool // in a way that a server has that does not get it right, not one who is being meddled with
}

func (o *opening) run() *mail.Result {
	t := &o.server.Timeouts
	if o.server.ImplicitTLS {
		if failed := o.handshake(); failed != nil {
			return failed
		}
	}
	reply, err := o.conn.reply(t.Greeting)
	if err != nil {
		return o.hindered("waiting for the greeting", err)
	}
	if !positive(reply) {
		return o.refused(reply)
	}
	if failed := o.hello(); failed != nil {
		return failed
	}
	if !o.server.ImplicitTLS {
		if failed := o.startTLS(); failed != nil {
			return failed
		}
	}
	if o.server.User != "" {
		return o.login()
	}
	return nil
}

// refused is for a server that wants nothing to do with us. For mail that is no answer, so it only defers.
func (o *opening) refused(reply mail.Reply) *mail.Result {
	r := o.said(mail.Delayed, mail.OfHost, reply)
	return &r
}

func (o *opening) hindered(doing string, err error) *mail.Result {
	r := o.lost(doing, err)
	return &r
}

func (o *opening) delayed(scope mail.Scope, code mail.EnhancedCode, format string, args ...any) *mail.Result {
	r := o.delay(scope, code, format, args...)
	return &r
}

// ask sends one command line and returns its reply.
func (o *opening) ask(line string) (mail.Reply, error) {
	if o.conn.r.Buffered() > 0 {
		return o.unasked()
	}
	o.conn.send([]byte(line+"\r\n"), o.server.Timeouts.Mail)
	return o.conn.reply(o.server.Timeouts.Hello)
}

// hello introduces us. What the server offered earlier is forgotten (RFC 3207 section 4.2).
func (o *opening) hello() *mail.Result {
	o.ext = extensions{}
	verb := "EHLO"
	if o.server.LMTP {
		verb = "LHLO"
	}
	name := o.server.Hello
	if name == "" {
		name = literal(o.conn.raw.LocalAddr())
	}
	reply, err := o.ask(verb + " " + name)
	if err != nil {
		return o.hindered("sending "+verb, err)
	}
	switch reply.Code {
	case 500, 501, 502, 503, 504:
		if o.tls != "" || o.server.LMTP {
			return o.refused(reply) // who speaks TLS speaks EHLO; and LMTP has nothing else
		}
		if reply, err = o.ask("HELO " + name); err != nil {
			return o.hindered("sending HELO", err)
		}
		if !positive(reply) {
			return o.refused(reply)
		}
		return nil
	}
	if !positive(reply) {
		return o.refused(reply)
	}
	o.ext = parseExtensions(reply.Text)
	return nil
}

// literal returns the address literal for a client that has no name (RFC 5321 section 4.1.4).
func literal(local net.Addr) string {
	tcp, ok := local.(*net.TCPAddr)
	if !ok {
		return "localhost"
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	if addr.Is4() {
		return "[" + addr.String() + "]"
	}
	return "[IPv6:" + addr.String() + "]"
}

func (o *opening) startTLS() *mail.Result {
	if o.mode == TLSNone || o.mode == TLSMay && o.server.User == "" && !o.ext.startTLS {
		return nil
	}
	if !o.ext.startTLS {
		return o.delayed(mail.OfHost, mail.EnhancedCode{4, 7, 4}, "TLS is required, but %s does not offer it", o.server.Host)
	}
	reply, err := o.ask("STARTTLS")
	if err != nil {
		o.tlsFailed = true
		return o.hindered("sending STARTTLS", err)
	}
	if !positive(reply) {
		o.tlsFailed = !closing(reply)
		if reply.Enhanced == (mail.EnhancedCode{}) {
			reply.Enhanced = mail.EnhancedCode{4, 7, 4}
		}
		return o.refused(reply)
	}
	// Who can put words before the handshake would have us take them for the server's after it (CVE-2011-0411). No
	// second try in clear then: this is no server that gets TLS wrong.
	if o.conn.r.Buffered() > 0 {
		return o.delayed(mail.OfHost, mail.EnhancedCode{4, 7, 5}, "%s went on talking in clear after STARTTLS", o.server.Host)
	}
	if failed := o.handshake(); failed != nil {
		return failed
	}
	return o.hello()
}

func (o *opening) handshake() *mail.Result {
	config := &tls.Config{
		ServerName: cmp.Or(o.server.ServerName, o.name()), MinVersion: tls.VersionTLS12, ClientSessionCache: o.server.Tickets,
		// Encryption to whoever answers is better than none (RFC 7435): what a certificate has to prove is for judge to say,
		// also when a session is resumed.
		InsecureSkipVerify: true,
		VerifyConnection:   o.judge,
	}
	client := tls.Client(o.conn.raw, config)
	err := o.conn.raw.SetDeadline(time.Now().Add(o.server.Timeouts.TLS))
	if err == nil {
		err = client.Handshake()
	}
	if err == nil {
		err = o.conn.raw.SetDeadline(time.Time{})
	}
	if err != nil {
		return o.handshakeFailed(err)
	}
	state := client.ConnectionState()
	o.tls = strings.ReplaceAll(tls.VersionName(state.Version), " ", "")
	if o.verified {
		o.tls += " verified"
	} else {
		o.tls += " unverified"
	}
	if o.server.Vouched != "" {
		o.tls += " " + o.server.Vouched
	}
	o.conn.rw = client
	note := o.tls
	if state.DidResume {
		note += ", resumed"
	}
	o.conn.log.note("(" + note + ")")
	return nil
}

func (o *opening) handshakeFailed(err error) *mail.Result {
	if o.conn.interrupted.Load() {
		return o.hindered("starting TLS", err)
	}
	o.tlsFailed = true
	if invalid, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return o.delayed(mail.OfHost, mail.EnhancedCode{4, 7, 5}, "cannot trust the certificate of %s: %v", o.server.Host, invalid.Err)
	}
	return o.delayed(mail.OfHost, mail.EnhancedCode{4, 7, 5}, "cannot start TLS with %s: %s", o.server.Host, why(err))
}

// judge looks at the certificate of the server, and refuses one that does not prove what it has to.
func (o *opening) judge(state tls.ConnectionState) error {
	err := vouched(state, o.name(), o.server.RootCAs)
	o.verified = err == nil
	if o.mode < TLSVerify {
		err = nil
	}
	if check := o.server.VerifyPeer; check != nil && err == nil && o.mode > TLSMay {
		err = check(state)
		o.verified = err == nil
	}
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	return nil
}

// name returns the name that a certificate has to be for.
func (o *opening) name() string { return strings.Trim(o.server.Host, "[]") }

// vouched reports whether roots vouch for the certificate being that of a host.
func vouched(state tls.ConnectionState, host string, roots *x509.CertPool) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("there is none")
	}
	options := x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: x509.NewCertPool()}
	for _, cert := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(cert)
	}
	_, err := state.PeerCertificates[0].Verify(options)
	return err
}
