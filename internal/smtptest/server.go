// Package smtptest runs an SMTP server on loopback that answers as its script says and remembers what it was sent, for
// tests of clients and for demonstrations.
package smtptest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
)

// Options say how the server behaves. With their zero value it takes every message, in clear, with PIPELINING, SIZE,
// 8BITMIME, SMTPUTF8, DSN and ENHANCEDSTATUSCODES.
type Options struct {
	Addr     string // where to listen: host and port, or the path of a unix socket; "" means any free port of 127.0.0.1
	LMTP     bool   // LHLO is the greeting, and the end of the content has an answer for each recipient (RFC 2033)
	Hostname string // its name in the banner and the certificate; "" means mx.invalid

	// Extensions are the lines of the EHLO reply (CHUNKING is understood as well), without STARTTLS and AUTH, which follow from the fields below. nil
	// means those above, an empty slice means none.
	Extensions []string

	// Replies is the script. A key is the start of a command line, in any case, or one of the stages
	//
	//	CONNECT   the banner
	//	TLS       the first octet of the handshake
	//	AUTH END  the end of a login
	//	BODY      the first octet of the content
	//	.         the end of the content, by DATA or by BDAT; with LMTP ". ADDRESS", once for each recipient
	//
	// and the longest key that fits counts. A value is the reply, its lines separated by "\n", or one of Close, Reset,
	// Hang and Stall, or text that follows Raw, Flood or Drip. One of those may be the last line of a reply, too: it is
	// done when that has been sent. After a 421 the server hangs up, as it does after whatever it says at TLS and BODY.
	Replies map[string]string

	// Script, if set, is asked before Replies, with the connection, counted from 1, and the command line or stage; "" leaves
	// it to Replies. Each connection asks from a goroutine of its own.
	Script func(connection int, line string) string

	Certificate Certificate // what STARTTLS, or ImplicitTLS, presents; NoTLS: neither
	ImplicitTLS bool        // TLS from the first octet
	MaxTLS      uint16      // newest version spoken, as tls.VersionTLS12; 0: no limit

	Users       map[string]string // passwords by user name; with any, MAIL needs a login
	Mechanisms  []string          // offered, in this order; nil means all when there are users
	AuthInClear bool              // they are offered before TLS too

	MaxRecipients int    // for one transaction; 0: no limit
	TooMany       string // what those beyond get; "" means 452 4.5.3
	MaxMessages   int    // for one connection; then MAIL gets a 421. 0: no limit
	Discard       bool   // count messages, but keep neither them nor commands
	Strict        bool   // NewServer: the test fails if Violations has any

	// OnCommand, if set, is called with each command line and stage before the server acts on it, from the goroutine
	// of that connection.
	OnCommand func(line string)
}

// What a script can do instead of answering.
const (
	Close = "!close"  // hang up without a word
	Reset = "!reset"  // hang up with a TCP reset
	Hang  = "!hang"   // say nothing until the client has gone
	Stall = "!stall"  // not even read any more, until the server is closed
	Raw   = "!raw "   // send what follows as it is, and go on
	Flood = "!flood " // send what follows again and again until the client has gone
	Drip  = "!drip "  // send the text after the wait that follows, as "59s 220 hi\r\n", an octet after each wait
	Took  = "!took "  // at the end of the content: keep the message, and then do what follows without having said so
)

var defaultExtensions = []string{"PIPELINING", "SIZE 104857600", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"}

// A Message is what came in one transaction that ended in a 2xx reply.
type Message struct {
	Connection int    // counted from 1
	Hello      string // the client's name
	TLS        bool
	Resumed    bool     // TLS took up an earlier session
	User       string   // who logged in; "" for nobody
	Sender     string   // without angle brackets
	Params     []string // of MAIL
	Recipients []Recipient
	Content    []byte // without the dots added for transparency; every octet otherwise as it came
	Pipelined  bool   // the command after MAIL had come before MAIL was answered
}

// A Recipient is a RCPT that got a 2xx reply.
type Recipient struct {
	Address string // without angle brackets
	Params  []string
}

// A Server is listening until Close.
type Server struct {
	opts     Options
	listener net.Listener
	tls      *tls.Config
	pool     *x509.CertPool
	pem      []byte
	serving  sync.WaitGroup
	done     chan struct{} // closed by Close

	mu          sync.Mutex
	replies     map[string]string
	conns       map[net.Conn]bool
	closed      bool
	connections int
	accepted    int
	messages    []Message
	commands    []string
	violations  []string
}

// Start returns a server that is listening.
func Start(opts Options) (*Server, error) {
	s, err := prepare(opts)
	if err != nil {
		return nil, err
	}
	if opts.Addr == "" {
		opts.Addr = "127.0.0.1:0"
	}
	network := "tcp"
	if strings.HasPrefix(opts.Addr, "/") {
		network = "unix"
	}
	if s.listener, err = net.Listen(network, opts.Addr); err != nil {
		return nil, err
	}
	s.serving.Go(s.accept)
	return s, nil
}

// prepare returns a server without a listener.
func prepare(opts Options) (*Server, error) {
	if opts.Hostname == "" {
		opts.Hostname = "mx.invalid"
	}
	if opts.Extensions == nil {
		opts.Extensions = defaultExtensions
	}
	if opts.Mechanisms == nil && len(opts.Users) > 0 {
		opts.Mechanisms = allMechanisms()
	}
	s := &Server{
		opts: opts, replies: map[string]string{}, conns: map[net.Conn]bool{},
		pool: x509.NewCertPool(), done: make(chan struct{}),
	}
	for prefix, reply := range opts.Replies {
		s.SetReply(prefix, reply)
	}
	if opts.Certificate != NoTLS {
		if err := s.makeCertificate(); err != nil {
			return nil, fmt.Errorf("make a certificate: %w", err)
		}
	}
	return s, nil
}

// A TB is the part of testing.TB that NewServer needs; programs that are not tests use Start.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// NewServer starts a server that is closed when the test ends.
func NewServer(t TB, opts Options) *Server {
	t.Helper()
	s, err := Start(opts)
	if err != nil {
		t.Fatalf("start an SMTP server: %v", err)
	}
	t.Cleanup(func() { s.finish(t) })
	return s
}

// NewPipe is NewServer without a socket: Dial is the only way to the server. In a bubble of testing/synctest time then
// passes while client and server wait for each other, as it does not with sockets.
func NewPipe(t TB, opts Options) *Server {
	t.Helper()
	s, err := prepare(opts)
	if err != nil {
		t.Fatalf("prepare an SMTP server: %v", err)
	}
	t.Cleanup(func() { s.finish(t) })
	return s
}

func (s *Server) finish(t TB) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("close the SMTP server: %v", err)
	}
	if !s.opts.Strict {
		return
	}
	for _, v := range s.Violations() {
		t.Errorf("SMTP client: %s", v)
	}
}

// Dial returns a connection to the server that goes over no network, whatever address it is for.
func (s *Server) Dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	if !s.serve(server) {
		return nil, net.ErrClosed
	}
	return client, nil
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.serve(conn)
	}
}

// serve serves a connection in a goroutine of its own, unless the server is closed.
func (s *Server) serve(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return false
	}
	s.connections++
	number := s.connections
	s.conns[conn] = true
	s.serving.Go(func() {
		newSession(s, conn, number).run()
		_ = conn.Close() // the client sees it; nobody else is interested
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, conn)
	})
	return true
}

// Close hangs up on everybody and waits until all is quiet.
func (s *Server) Close() error {
	s.mu.Lock()
	var err error
	if !s.closed {
		s.closed = true
		close(s.done)
		if s.listener != nil {
			err = s.listener.Close()
		}
	}
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
	return err
}

// Addr returns where the server listens, as "127.0.0.1:2525".
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Host returns the address without the port.
func (s *Server) Host() string { return s.listener.Addr().(*net.TCPAddr).IP.String() }

// Port returns the port.
func (s *Server) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

// CertPool returns the authority that signed the server's certificate, unless Certificate says that nobody knows it.
func (s *Server) CertPool() *x509.CertPool { return s.pool }

// TLS returns what the server answers handshakes with; nil if it has no certificate.
func (s *Server) TLS() *tls.Config { return s.tls }

// CertPEM returns the same authority as a file would have it.
func (s *Server) CertPEM() []byte { return slices.Clone(s.pem) }

// SetReply changes the script from now on; an empty reply takes the line out of it. See Options.Replies.
func (s *Server) SetReply(prefix, reply string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reply == "" {
		delete(s.replies, strings.ToUpper(prefix))
		return
	}
	s.replies[strings.ToUpper(prefix)] = reply
}

// scripted returns what the script says to line, or otherwise.
func (s *Server) scripted(line, otherwise string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.replies) == 0 {
		return otherwise
	}
	best, reply := -1, otherwise
	line = strings.ToUpper(line)
	for prefix, r := range s.replies {
		if len(prefix) > best && strings.HasPrefix(line, prefix) {
			best, reply = len(prefix), r
		}
	}
	return reply
}

// Messages returns what was accepted so far, in order.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// Accepted returns how many messages were accepted so far.
func (s *Server) Accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// Connections returns how many connections there have been.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections
}

// Commands returns the command lines that came, without their ends, in order of arrival.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// Violations returns what no client may do and one did: bare CR or LF, a group of commands for a server without
// PIPELINING or with something after a command that ends a group (RFC 2920 section 3.1), content before the 354.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

func (s *Server) violation(format string, args ...any) {
	const enough = 100
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.violations) < enough {
		s.violations = append(s.violations, fmt.Sprintf(format, args...))
	}
}

func (s *Server) note(line string) {
	if !s.opts.Discard {
		s.mu.Lock()
		s.commands = append(s.commands, line)
		s.mu.Unlock()
	}
	if s.opts.OnCommand != nil {
		s.opts.OnCommand(line)
	}
}

func (s *Server) keep(m Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted++
	if !s.opts.Discard {
		s.messages = append(s.messages, m)
	}
}

func allMechanisms() []string { return slices.Sorted(maps.Keys(mechanisms)) }
