package smtp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/postrider/postrider/internal/smtptest"
)

// A socksServer is a SOCKS5 proxy (RFC 1928) that connects everybody with one server, whatever he asks for.
type socksServer struct {
	to       string
	password string // of "ann"; "" if nobody needs to log in
	answer   byte   // to who asks for a connection
	says     string // instead of all that

	mu    sync.Mutex
	asked []string // for whom
}

func (s *socksServer) start(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				if err := s.serve(conn); err != nil {
					t.Errorf("SOCKS client: %v", err)
				}
			})
		}
	})
	return l.Addr().String()
}

func (s *socksServer) serve(conn net.Conn) error {
	greeting, err := read(conn, 2)
	if err != nil {
		return err
	}
	methods, err := read(conn, int(greeting[1]))
	if err != nil {
		return err
	}
	if s.says != "" {
		_, err := io.WriteString(conn, strings.TrimSuffix(s.says, "-"))
		return err
	}
	method := byte(0)
	if s.password != "" {
		method = 2
	}
	if !slices.Contains(methods, method) {
		_, err := conn.Write([]byte{5, 0xff})
		return err
	}
	if _, err := conn.Write([]byte{5, method}); err != nil {
		return err
	}
	if method == 2 && !s.login(conn) {
		return nil
	}
	return s.connect(conn)
}

func (s *socksServer) login(conn net.Conn) bool {
	var words [2]string
	if _, err := read(conn, 1); err != nil {
		return false
	}
	for i := range words {
		length, err := read(conn, 1)
		if err != nil {
			return false
		}
		word, err := read(conn, int(length[0]))
		if err != nil {
			return false
		}
		words[i] = string(word)
	}
	ok := words == [2]string{"ann", s.password}
	status := byte(1)
	if ok {
		status = 0
	}
	_, err := conn.Write([]byte{1, status})
	return ok && err == nil
}

// connect reads the request, and is then between the two.
func (s *socksServer) connect(conn net.Conn) error {
	head, err := read(conn, 4)
	if err != nil {
		return err
	}
	length := map[byte]int{1: 4, 4: 16}[head[3]]
	if head[3] == 3 {
		n, err := read(conn, 1)
		if err != nil {
			return err
		}
		length = int(n[0])
	}
	host, err := read(conn, length+2)
	if err != nil {
		return err
	}
	name, port := string(host[:length]), binary.BigEndian.Uint16(host[length:])
	if head[3] != 3 {
		name = net.IP(host[:length]).String()
	}
	s.mu.Lock()
	s.asked = append(s.asked, fmt.Sprintf("%s:%d", name, port))
	s.mu.Unlock()
	if _, err := conn.Write([]byte{5, s.answer, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil || s.answer != 0 {
		return err
	}
	server, err := net.Dial("tcp", s.to)
	if err != nil {
		return err
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, conn) // whoever hangs up first ends both
		server.Close()
	}()
	_, _ = io.Copy(conn, server)
	return nil
}

func read(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

func secret(password string) func() (string, error) {
	return func() (string, error) { return password, nil }
}

// TestProxy reaches a server whose name only the proxy knows; its certificate is looked at all the same.
func TestProxy(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Hostname: "mx.hidden.invalid", Certificate: smtptest.Valid, Strict: true})
	for _, tt := range []struct {
		name        string
		password    string // that the proxy wants
		user, given string
	}{
		{name: "open to everybody"},
		{name: "open to everybody, and we have a login", user: "ann", given: "opensesame"},
		{name: "with a login", password: "opensesame", user: "ann", given: "opensesame"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &socksServer{to: srv.Addr(), password: tt.password}
			s := open(t, &Server{
				Host: "MX.hidden.invalid", Port: 2525, Hello: "client.invalid", TLS: TLSVerify, RootCAs: srv.CertPool(),
				Proxy: &Proxy{Address: p.start(t), User: tt.user, Password: secret(tt.given)},
			})
			m := message(t, letter, "bob@example.com")
			r := s.Deliver(t.Context(), m, all(m))[0]
			if outcome(r) != "relayed" || r.Relay != "MX.hidden.invalid:2525" || r.TLS != "TLS1.3 verified" {
				t.Errorf("%+v", r)
			}
			s.Close()
			if want := []string{"MX.hidden.invalid:2525"}; !slices.Equal(p.asked, want) {
				t.Errorf("the proxy was asked for %q, want %q", p.asked, want)
			}
		})
	}
}

// TestProxyIsToldKnownAddresses goes through a proxy to addresses that somebody else has looked up.
func TestProxyIsToldKnownAddresses(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{})
	p := &socksServer{to: srv.Addr()}
	to := client(srv)
	to.Proxy = &Proxy{Address: p.start(t)}
	s := open(t, to)
	if want := "[127.0.0.1]:"; !strings.Contains(s.relay, want) {
		t.Errorf("relay %q, want %q in it", s.relay, want)
	}
	s.Close()
	if want := []string{fmt.Sprintf("127.0.0.1:%d", srv.Port())}; !slices.Equal(p.asked, want) {
		t.Errorf("the proxy was asked for %q, want %q", p.asked, want)
	}
}

func TestProxyInTrouble(t *testing.T) {
	const us, host = "delayed of us, us says 4.4.1", "delayed of host, us says 4.4.1"
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		server *socksServer // nil: nobody is there
		proxy  Proxy
		want   string
		words  string
	}{
		{"nobody there", nil, Proxy{Address: closed.Addr().String()}, us, "cannot connect to the SOCKS proxy PROXY: connection refused"},
		{"no password", &socksServer{}, Proxy{User: "ann", Password: func() (string, error) { return "", errors.New("no such file") }}, us,
			"cannot log in at the SOCKS proxy PROXY: no such file"},
		{"a login is needed", &socksServer{password: "x"}, Proxy{}, us, "cannot use the SOCKS proxy PROXY: no acceptable authentication methods"},
		{"wrong password", &socksServer{password: "x"}, Proxy{User: "ann", Password: secret("y")}, us,
			"cannot use the SOCKS proxy PROXY: username/password authentication failed"},
		{"not a proxy", &socksServer{says: "HTTP/1.1 400 Bad Request\r\n"}, Proxy{}, us, "cannot use the SOCKS proxy PROXY: unexpected protocol version 72"},
		{"it hangs up", &socksServer{says: "-"}, Proxy{}, host, "no answer from the SOCKS proxy PROXY: it hung up"},
		{"general failure", &socksServer{answer: 1}, Proxy{}, host, "refused by the SOCKS proxy PROXY: general SOCKS server failure"},
		{"forbidden", &socksServer{answer: 2}, Proxy{}, host, "refused by the SOCKS proxy PROXY: connection not allowed by ruleset"},
		{"no way", &socksServer{answer: 3}, Proxy{}, host, "refused by the SOCKS proxy PROXY: network unreachable"},
		{"no such host", &socksServer{answer: 4}, Proxy{}, host, "refused by the SOCKS proxy PROXY: host unreachable"},
		{"nobody at the host", &socksServer{answer: 5}, Proxy{}, host, "refused by the SOCKS proxy PROXY: connection refused"},
		{"what no RFC knows", &socksServer{answer: 99}, Proxy{}, host, "refused by the SOCKS proxy PROXY: unknown code: 99"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.proxy
			if tt.server != nil {
				p.Address = tt.server.start(t)
			}
			f := openFailure(t, t.Context(), &Server{Host: "mx.hidden.invalid", Port: 2525, Hello: "client.invalid", Proxy: &p})
			words := "cannot connect to mx.hidden.invalid:2525: " + strings.ReplaceAll(tt.words, "PROXY", p.Address)
			if outcome(f.Result) != tt.want || f.Reply.Text != words {
				t.Errorf("Open = %s (%s), want %s (%s)", outcome(f.Result), f.Reply, tt.want, words)
			}
		})
	}
}

// TestProxySaysNothing waits no longer for a proxy than for a server.
func TestProxySaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		f := openFailure(t, t.Context(), &Server{
			Host: "mx.hidden.invalid", Hello: "client.invalid", Proxy: &Proxy{Address: "192.0.2.1:1080"},
			Dial: func(context.Context, string, string) (net.Conn, error) { return near, nil },
		})
		const want = "cannot connect to mx.hidden.invalid:25: no answer from the SOCKS proxy 192.0.2.1:1080: timed out"
		if outcome(f.Result) != "delayed of host, us says 4.4.1" || f.Reply.Text != want {
			t.Errorf("Open = %s (%s), want %s", outcome(f.Result), f.Reply, want)
		}
	})
}
