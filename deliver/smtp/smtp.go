// Package smtp is the client's side of SMTP (RFC 5321) and LMTP (RFC 2033): it opens a session with one server, hands it messages, and says
// of each recipient what the server made of it.
//
// What is told apart is whom a failure speaks of, as a mail.Scope: the server's no to a recipient or to a message is
// final if it says so (5xx); trouble of the server, of the way to it, or of our own never is.
package smtp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/postrider/postrider/deliver/idn"
	"github.com/postrider/postrider/internal/mail"
)

// A Server is where to connect and how. Only Host is needed.
type Server struct {
	Host  string       // name or address: what is looked up, and what the certificate must be for
	Port  int          // 0 means 25, or 465 with ImplicitTLS
	Addrs []netip.Addr // the addresses of Host in the order to try them; nil means to ask the Proxy, or else the system's resolver

	LMTP bool // it puts mail into mailboxes, and answers for each recipient (RFC 2033)
	Unix bool // Host is the path of a unix socket; there are no addresses, and no wire that TLS could protect

	// Found says that Host is a name from DNS, where anybody could have answered, so that a certificate for it proves little,
	// unless somebody vouches for it: Vouched says who, in the words of the log, such as "dane".
	Found   bool
	Vouched string

	TLS         TLSMode
	ImplicitTLS bool           // TLS from the first octet (RFC 8314 section 3.3), whatever TLS says of verification
	RootCAs     *x509.CertPool // nil means the system's
	ServerName  string         // to ask for by TLS (SNI); "" means Host
	// VerifyPeer, if set, has to take the certificate as well, unless any will do (TLSMay).
	VerifyPeer func(tls.ConnectionState) error
	// Tickets are those that servers gave us to resume TLS with (RFC 8446 section 2.2); nil means that none is kept. It
	// is for servers with the same RootCAs only.
	Tickets tls.ClientSessionCache

	Hello string // our name for EHLO; "" means the address of our end of the connection (RFC 5321 section 4.1.4)

	User     string                 // login; "" for none. A login is never tried without TLS
	Password func() (string, error) // asked once, when the server is ready for it

	MaxRecipients int // in one transaction if the server names no limit; 0 means 100 (RFC 5321 section 4.5.3.1.8)
	Timeouts      Timeouts

	// Proxy is the way to the server; nil if there is one without.
	Proxy *Proxy

	// Dial connects to the server, or to the Proxy; nil means a net.Dialer. Addresses are "192.0.2.1:25".
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Trace, if set, is told the dialogue as it happens, a line at a time, as Session.Transcript has it. Several sessions
	// may call it at once. relay is as in mail.Result.
	Trace func(relay, line string)
}

// TLSMode says how much TLS a session needs.
type TLSMode uint8

const (
	TLSNone    TLSMode = iota // not even when it is offered
	TLSMay                    // when it is offered, with any certificate; in clear if the handshake fails
	TLSEncrypt                // always, with any certificate that VerifyPeer takes
	TLSVerify                 // always, with a certificate for Host that RootCAs vouch for
)

// Timeouts says how long each step may take: one read, write or reply, which may have many lines. Zero values mean the
// defaults, which follow RFC 5321 section 4.5.3.2.
type Timeouts struct {
	Connect   time.Duration // to one address; also for the lookup of the name (30 s)
	Greeting  time.Duration // the banner (5 min)
	Hello     time.Duration // EHLO, HELO, STARTTLS, and each step of AUTH (5 min)
	TLS       time.Duration // the handshake (2 min)
	Mail      time.Duration // MAIL, and sending any command (5 min)
	Recipient time.Duration // RCPT (5 min)
	Data      time.Duration // DATA (2 min)
	Block     time.Duration // sending a block of content (3 min)
	Final     time.Duration // the end of the content (10 min)
	Reset     time.Duration // RSET (20 s)
	Quit      time.Duration // QUIT, and whatever else a server says that we have given up (5 s)
}

func (t Timeouts) withDefaults() Timeouts {
	for _, d := range []struct {
		field   *time.Duration
		usually time.Duration
	}{
		{&t.Connect, 30 * time.Second},
		{&t.Greeting, 5 * time.Minute},
		{&t.Hello, 5 * time.Minute},
		{&t.TLS, 2 * time.Minute},
		{&t.Mail, 5 * time.Minute},
		{&t.Recipient, 5 * time.Minute},
		{&t.Data, 2 * time.Minute},
		{&t.Block, 3 * time.Minute},
		{&t.Final, 10 * time.Minute},
		{&t.Reset, 20 * time.Second},
		{&t.Quit, 5 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.usually
		}
	}
	return t
}

// withDefaults returns a copy of s without zero values that mean something else.
func (s *Server) withDefaults() *Server {
	c := *s
	for _, name := range []*string{&c.Host, &c.Hello} {
		if ascii, err := idn.Domain(*name); err == nil && !(c.Unix && name == &c.Host) {
			*name = ascii // for DNS, certificates and servers
		}
	}
	if c.Port == 0 {
		c.Port = 25
		if c.ImplicitTLS {
			c.Port = 465
		}
	}
	if c.MaxRecipients == 0 {
		c.MaxRecipients = 100
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	c.Timeouts = c.Timeouts.withDefaults()
	return &c
}

// check refuses what could only do harm on the wire.
func (s *Server) check() error {
	for i := range len(s.Hello) {
		if c := s.Hello[i]; c <= ' ' || c > '~' {
			return fmt.Errorf("%q is no name to introduce ourselves with", s.Hello)
		}
	}
	if s.User == "" {
		return nil
	}
	if s.TLS == TLSNone && !s.ImplicitTLS {
		return fmt.Errorf("a login at %s needs TLS", s.Host)
	}
	if s.Password == nil {
		return fmt.Errorf("no password for %s at %s", s.User, s.Host)
	}
	return nil
}

// A Session is a connection to a server that is ready for messages.
type Session struct {
	server *Server
	conn   *conn
	relay  string // as mail.Result has it
	tls    string // likewise

	ext           extensions
	verified      bool // the certificate is the server's
	authenticated bool

	clean  bool        // no transaction since the last RSET or 2xx to the end of content
	over   atomic.Bool // it takes no other transaction; why says why
	broken bool        // and is out of step, or was hung up on: not even QUIT makes sense
	wentOn bool        // the server has answered after that all the same
	why    *mail.Result
	closed atomic.Bool
	mails  int // transactions begun

	command []byte // buffers, kept between messages
	in, out []byte
}

// maxTransactions is how many transactions a session has at most. Some servers hang up after a thousand (Exim does,
// politely), and a host with several addresses gets a chance to spread its load.
const maxTransactions = 1000

// Usable reports whether the session can take another transaction, as far as we know: the server may have hung up
// meanwhile.
func (s *Session) Usable() bool {
	return !s.closed.Load() && !s.over.Load() && !s.conn.interrupted.Load() && s.mails < s.most()
}

// most returns how many transactions the session may have.
func (s *Session) most() int {
	if s.ext.mailMax > 0 {
		return min(s.ext.mailMax, maxTransactions)
	}
	return maxTransactions
}

// end says that the session takes no other transaction, and why. The first reason is the one that counts.
func (s *Session) end(r mail.Result) {
	if !s.over.Swap(true) {
		s.why = &r
	}
}

// breakOff is end for a session that is out of step, or was hung up on.
func (s *Session) breakOff(r mail.Result) {
	s.broken = true
	s.end(r)
}

// Close says QUIT, waits a moment for the answer and hangs up. What the server says to that changes nothing. Deliver does
// it by itself.
func (s *Session) Close() {
	if s.closed.Swap(true) {
		return
	}
	if !s.broken && !s.conn.interrupted.Load() {
		s.conn.send([]byte("QUIT\r\n"), s.server.Timeouts.Quit)
		_, _ = s.conn.reply(s.server.Timeouts.Quit)
	}
	s.conn.close()
}

// Transcript returns the end of the dialogue, at most some 8 KiB, with secrets blanked and content left out.
func (s *Session) Transcript() string { return s.conn.log.String() }

// maxKept is how many octets of a reply are kept as a result, of which a message may have many. They are ASCII.
const maxKept = 2 << 10

// said returns what the server's reply means for those whom it is about.
func (s *Session) said(action mail.Action, scope mail.Scope, reply mail.Reply) mail.Result {
	if len(reply.Text) > maxKept {
		reply.Text = reply.Text[:maxKept] + " [cut]"
	}
	return mail.Result{Action: action, Scope: scope, Reply: reply, Relay: s.relay, Remote: true, TLS: s.tls}
}

// delay returns a deferral in our own words.
func (s *Session) delay(scope mail.Scope, code mail.EnhancedCode, format string, args ...any) mail.Result {
	r := mail.Delay(scope, code, format, args...)
	r.Relay, r.TLS = s.relay, s.tls
	r.Reply.Text = s.conn.redact(printable(r.Reply.Text))
	return r
}

// fail returns a refusal in our own words: the server has announced that it would refuse.
func (s *Session) fail(scope mail.Scope, code mail.EnhancedCode, format string, args ...any) mail.Result {
	r := s.delay(scope, code, format, args...)
	r.Action = mail.Failed
	return r
}

// relay returns who answers at an address.
func (s *Server) relay(addr netip.Addr) string {
	if s.Unix {
		return "unix:" + s.Host
	}
	return relayName(s.Host, addr, s.Port)
}

// relayName returns the form of mail.Result.Relay. Behind a proxy we may not know the address.
func relayName(host string, addr netip.Addr, port int) string {
	if !addr.IsValid() {
		return host + ":" + strconv.Itoa(port)
	}
	return host + "[" + addr.String() + "]:" + strconv.Itoa(port)
}
