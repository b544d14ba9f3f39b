package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// loopback is where the hosts of these tests are.
var loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1")}

// openFailure returns the failure to open a session; it is an error of the test if there is none.
func openFailure(t *testing.T, ctx context.Context, s *Server) *mail.Failure {
	t.Helper()
	session, err := Open(ctx, s)
	if err == nil {
		session.Close()
		t.Fatal("a session was opened")
	}
	f, ok := err.(*mail.Failure)
	if !ok {
		t.Fatalf("Open = %v (%T), want a *mail.Failure", err, err)
	}
	if f.Action != mail.Delayed {
		t.Errorf("Open = %s: opening a session never bounces mail", f.Action)
	}
	return f
}

func TestOpen(t *testing.T) {
	const mistake = "delayed of host, us says 4.5.0"
	type script = map[string]string
	for _, tt := range []struct {
		name   string
		script script
		want   string // "" if the session opens
		asked  []string
	}{
		{"the usual", nil, "", []string{"EHLO client.invalid"}},
		{"a long banner", script{"CONNECT": "220" + strings.Repeat(" hello\n", 30) + "go on"}, "", nil},
		{"banner 421", script{"CONNECT": "421 4.3.2 busy"}, "delayed of host, server says 4.3.2", []string{}},
		{"banner 450", script{"CONNECT": "450 4.3.2 busy"}, "delayed of host, server says 4.3.2", []string{}},
		{"banner 554", script{"CONNECT": "554 5.7.1 go away"}, "delayed of host, server says 4.7.1", []string{}},
		{"banner 521", script{"CONNECT": "521 never"}, "delayed of host, server says 4.3.2", []string{}},
		{"banner 354", script{"CONNECT": "354 what"}, "delayed of host, server says 4.0.0", []string{}},
		{"no banner but garbage", script{"CONNECT": smtptest.Raw + "SSH-2.0-OpenSSH\r\n"}, mistake, []string{}},
		{"an endless banner", script{"CONNECT": smtptest.Raw + "220 " + strings.Repeat("x", 100<<10)}, mistake, []string{}},

		{"EHLO 500", script{"EHLO": "500 what?"}, "", []string{"EHLO client.invalid", "HELO client.invalid"}},
		{"EHLO 501", script{"EHLO": "501 what?"}, "", nil},
		{"EHLO 502", script{"EHLO": "502 what?"}, "", nil},
		{"EHLO 503", script{"EHLO": "503 what?"}, "", nil},
		{"EHLO 504", script{"EHLO": "504 what?"}, "", nil},
		{"EHLO 550", script{"EHLO": "550 5.7.1 not you"}, "delayed of host, server says 4.7.1", []string{"EHLO client.invalid"}},
		{"EHLO 421", script{"EHLO": "421 4.3.2 closing"}, "delayed of host, server says 4.3.2", nil},
		{"EHLO 451", script{"EHLO": "451 4.3.0 later"}, "delayed of host, server says 4.3.0", nil},
		{"EHLO and HELO refused", script{"EHLO": "500 what?", "HELO": "550 5.7.1 not you"}, "delayed of host, server says 4.7.1", nil},
		{"EHLO refused, HELO 4xx", script{"EHLO": "500 what?", "HELO": "450 4.7.1 not yet"}, "delayed of host, server says 4.7.1", nil},
		{"EHLO garbage", script{"EHLO": smtptest.Raw + "hello\r\n"}, mistake, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := smtptest.NewServer(t, smtptest.Options{Strict: true, Replies: tt.script})
			if tt.want == "" {
				s := open(t, client(srv))
				m := message(t, letter, "bob@example.com")
				if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != "relayed" {
					t.Errorf("%s\n%s", got, s.Transcript())
				}
			} else if f := openFailure(t, t.Context(), client(srv)); outcome(f.Result) != tt.want {
				t.Errorf("Open = %s (%s), want %s", outcome(f.Result), f.Reply, tt.want)
			} else if f.Relay == "" || f.Transcript == "" && tt.want != mistake {
				t.Errorf("the failure does not say more: %+v", f)
			}
			if asked := srv.Commands()[1:]; tt.asked != nil && tt.want != "" && !reflect.DeepEqual(asked, tt.asked) {
				t.Errorf("sent %q, want %q", asked, tt.asked)
			}
		})
	}
}

func TestServerGoesAwayWhileOpening(t *testing.T) {
	for _, stage := range []string{"CONNECT", "EHLO", "STARTTLS", "TLS", "AUTH"} {
		for _, way := range []string{smtptest.Close, smtptest.Reset, "421 4.3.2 closing"} {
			t.Run(stage+" "+way, func(t *testing.T) {
				srv := smtptest.NewServer(t, smtptest.Options{
					Certificate: smtptest.Valid, Replies: map[string]string{stage: way}, Users: map[string]string{"ann": "secret"},
				})
				to := client(srv)
				to.TLS, to.RootCAs = TLSVerify, srv.CertPool()
				to.User, to.Password = "ann", func() (string, error) { return "secret", nil }
				want := "delayed of host, us says 4.4.2"
				switch {
				case stage == "TLS":
					want = "delayed of host, us says 4.7.5"
				case way[0] == '4':
					want = "delayed of host, server says 4.3.2"
				}
				f := openFailure(t, t.Context(), to)
				if stage == "CONNECT" && way == smtptest.Reset && f.Relay == "" {
					want = "delayed of host, us says 4.4.1" // it came before connect(2) was back
				}
				if outcome(f.Result) != want {
					t.Errorf("Open = %s (%s), want %s", outcome(f.Result), f.Reply, want)
				}
				if n := srv.Connections(); n != 1 {
					t.Errorf("%d connections", n)
				}
			})
		}
	}
}

func TestInterruptedWhileOpening(t *testing.T) {
	for _, stage := range []string{"CONNECT", "EHLO", "STARTTLS", "TLS", "AUTH"} {
		t.Run(stage, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			srv := smtptest.NewServer(t, smtptest.Options{
				Certificate: smtptest.Valid, Replies: map[string]string{stage: smtptest.Hang}, Users: map[string]string{"ann": "secret"},
				OnCommand: func(line string) {
					if strings.HasPrefix(line, stage) {
						cancel()
					}
				},
			})
			to := client(srv)
			to.TLS, to.RootCAs = TLSVerify, srv.CertPool()
			to.User, to.Password = "ann", func() (string, error) { return "secret", nil }
			if f := openFailure(t, ctx, to); outcome(f.Result) != "delayed of us, us says 4.3.2" {
				t.Errorf("Open = %s (%s)", outcome(f.Result), f.Reply)
			}
		})
	}
}

// TestTLS has each kind of certificate meet each demand.
func TestTLS(t *testing.T) {
	const clear, unverified, verified, deferred = "", "TLS1.3 unverified", "TLS1.3 verified", "delayed of host, us says 4.7.5"
	for _, tt := range []struct {
		name        string
		certificate smtptest.Certificate
		host        string
		may, verify string
	}{
		{"valid", smtptest.Valid, "mx.invalid", verified, verified},
		{"valid, by address", smtptest.Valid, "127.0.0.1", verified, verified},
		{"valid, another name of it", smtptest.Valid, "localhost", verified, verified},
		{"expired", smtptest.Expired, "mx.invalid", unverified, deferred},
		{"not yet valid", smtptest.NotYetValid, "mx.invalid", unverified, deferred},
		{"of another host", smtptest.WrongHost, "mx.invalid", unverified, deferred},
		{"of another host, by address", smtptest.WrongHost, "127.0.0.1", unverified, deferred},
		{"of an address, by address", smtptest.AddressOnly, "127.0.0.1", verified, verified},
		{"of an address, by name", smtptest.AddressOnly, "mx.invalid", unverified, deferred},
		{"common name only", smtptest.CommonNameOnly, "mx.invalid", unverified, deferred},
		{"self-signed", smtptest.SelfSigned, "mx.invalid", unverified, deferred},
		{"of an unknown authority", smtptest.UnknownCA, "mx.invalid", unverified, deferred},
	} {
		for mode, want := range map[TLSMode]string{TLSNone: clear, TLSMay: tt.may, TLSVerify: tt.verify} {
			t.Run(fmt.Sprintf("%s, mode %d", tt.name, mode), func(t *testing.T) {
				srv := smtptest.NewServer(t, smtptest.Options{Certificate: tt.certificate, Strict: true})
				to := client(srv)
				to.Host, to.Addrs, to.TLS, to.RootCAs = tt.host, loopback, mode, srv.CertPool()
				checkTLS(t, srv, to, want)
				if n := srv.Connections(); n != 1 {
					t.Errorf("%d connections", n)
				}
			})
		}
		t.Run(tt.name+", implicit TLS", func(t *testing.T) {
			srv := smtptest.NewServer(t, smtptest.Options{Certificate: tt.certificate, ImplicitTLS: true, Strict: true})
			to := client(srv)
			to.Host, to.Addrs, to.TLS, to.RootCAs, to.ImplicitTLS = tt.host, loopback, TLSVerify, srv.CertPool(), true
			checkTLS(t, srv, to, tt.verify)
		})
	}
}

// checkTLS sends a message and wants it to arrive over what want says, or no session, for the reason that want says.
func checkTLS(t *testing.T, srv *smtptest.Server, to *Server, want string) {
	t.Helper()
	if strings.HasPrefix(want, "delayed") {
		if f := openFailure(t, t.Context(), to); outcome(f.Result) != want {
			t.Errorf("Open = %s (%s), want %s", outcome(f.Result), f.Reply, want)
		}
		for _, line := range srv.Commands() {
			if strings.HasPrefix(line, "MAIL") {
				t.Errorf("sent %q", srv.Commands())
			}
		}
		return
	}
	s := open(t, to)
	m := message(t, letter, "bob@example.com")
	r := s.Deliver(t.Context(), m, all(m))[0]
	if outcome(r) != "relayed" || r.TLS != want {
		t.Errorf("%s over %q, want %q", outcome(r), r.TLS, want)
	}
	if got := srv.Messages(); len(got) != 1 || got[0].TLS != (want != "") {
		t.Errorf("the server has %+v", got)
	}
}

// TestTLSTrouble is about servers that do not get TLS right: where it is only welcome, mail goes in clear.
func TestTLSTrouble(t *testing.T) {
	type script = map[string]string
	for _, tt := range []struct {
		name        string
		opts        smtptest.Options
		may, verify string
		connections int // with TLSMay
	}{
		{"not offered", smtptest.Options{}, "", "delayed of host, us says 4.7.4", 1},
		{"HELO only", smtptest.Options{Certificate: smtptest.Valid, Replies: script{"EHLO": "502 what?"}}, "", "delayed of host, us says 4.7.4", 1},
		{"refused 454", smtptest.Options{Certificate: smtptest.Valid, Replies: script{"STARTTLS": "454 4.7.0 not now"}}, "", "delayed of host, server says 4.7.0", 2},
		{"refused 502", smtptest.Options{Certificate: smtptest.Valid, Replies: script{"STARTTLS": "502 5.5.1 what?"}}, "", "delayed of host, server says 4.5.1", 2},
		{"hung up at STARTTLS", smtptest.Options{Certificate: smtptest.Valid, Replies: script{"STARTTLS": smtptest.Close}}, "", "delayed of host, us says 4.4.2", 2},
		{"hung up in the handshake", smtptest.Options{Certificate: smtptest.Valid, Replies: script{"TLS": smtptest.Close}}, "", "delayed of host, us says 4.7.5", 2},
		{"garbage in the handshake", smtptest.Options{Certificate: smtptest.Valid, Replies: script{"TLS": smtptest.Raw + "500 what is this?\r\n"}}, "", "delayed of host, us says 4.7.5", 2},
		{"TLS 1.1", smtptest.Options{Certificate: smtptest.Valid, MaxTLS: tls.VersionTLS11}, "", "delayed of host, us says 4.7.5", 2},
		{"TLS 1.2", smtptest.Options{Certificate: smtptest.Valid, MaxTLS: tls.VersionTLS12}, "TLS1.2 verified", "TLS1.2 verified", 1},
	} {
		for mode, want := range map[TLSMode]string{TLSMay: tt.may, TLSVerify: tt.verify} {
			t.Run(fmt.Sprintf("%s, mode %d", tt.name, mode), func(t *testing.T) {
				srv := smtptest.NewServer(t, tt.opts)
				to := client(srv)
				to.TLS, to.RootCAs = mode, srv.CertPool()
				checkTLS(t, srv, to, want)
				connections := 1
				if mode == TLSMay {
					connections = tt.connections
				}
				if n := srv.Connections(); n != connections {
					t.Errorf("%d connections, want %d", n, connections)
				}
			})
		}
	}
}

// TestInjectionBeforeTLS has somebody put a reply in front of the handshake, to be taken for one after it.
func TestInjectionBeforeTLS(t *testing.T) {
	for _, mode := range []TLSMode{TLSMay, TLSVerify} {
		srv := smtptest.NewServer(t, smtptest.Options{
			Certificate: smtptest.Valid, Replies: map[string]string{"STARTTLS": smtptest.Raw + "220 go ahead\r\n250 injected\r\n"},
		})
		to := client(srv)
		to.TLS, to.RootCAs = mode, srv.CertPool()
		if f := openFailure(t, t.Context(), to); outcome(f.Result) != "delayed of host, us says 4.7.5" {
			t.Errorf("Open = %s (%s)", outcome(f.Result), f.Reply)
		}
		if n := srv.Connections(); n != 1 {
			t.Errorf("%d connections: it was tried again in clear", n)
		}
	}
}

func TestExtensionsAreForgottenAfterTLS(t *testing.T) {
	var srv *smtptest.Server
	srv = smtptest.NewServer(t, smtptest.Options{
		Strict: true, Certificate: smtptest.Valid, Extensions: []string{},
		Replies: map[string]string{"EHLO": "250 mx.invalid\nPIPELINING\nSIZE 10\nDSN\nSTARTTLS\nAUTH PLAIN"},
		OnCommand: func(line string) {
			if line == "TLS" {
				srv.SetReply("EHLO", "250 mx.invalid\n8BITMIME")
			}
		},
	})
	to := client(srv)
	to.TLS, to.RootCAs = TLSVerify, srv.CertPool()
	s := open(t, to)
	if want := (extensions{eightBit: true}); !reflect.DeepEqual(s.ext, want) {
		t.Errorf("after TLS the server offers %+v, want %+v", s.ext, want)
	}
	m := message(t, letter, "bob@example.com")
	if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != "relayed" {
		t.Errorf("%s\n%s", got, s.Transcript())
	}
}

func TestEHLORefusedAfterTLS(t *testing.T) {
	var srv *smtptest.Server
	srv = smtptest.NewServer(t, smtptest.Options{Certificate: smtptest.Valid, OnCommand: func(line string) {
		if line == "TLS" {
			srv.SetReply("EHLO", "500 what?")
		}
	}})
	to := client(srv)
	to.TLS, to.RootCAs = TLSVerify, srv.CertPool()
	if f := openFailure(t, t.Context(), to); outcome(f.Result) != "delayed of host, server says 4.0.0" {
		t.Errorf("Open = %s (%s)", outcome(f.Result), f.Reply)
	}
	if slices.Contains(srv.Commands(), "HELO client.invalid") {
		t.Errorf("sent %q", srv.Commands())
	}
}

func TestHello(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Strict: true})
	to := client(srv)
	to.Hello = ""
	open(t, to)
	if got := srv.Commands()[1]; got != "EHLO [127.0.0.1]" {
		t.Errorf("sent %q", got)
	}
	to.Hello = "bücher.invalid"
	open(t, to)
	if got := srv.Commands()[3]; got != "EHLO xn--bcher-kva.invalid" {
		t.Errorf("sent %q", got)
	}
	v6 := &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 25}
	if got := literal(v6); got != "[IPv6:fe80::1]" {
		t.Errorf("literal(%v) = %s", v6, got)
	}
	for _, name := range []string{"a b", "a\r\nRSET", "\xff", "mx\x00"} {
		to.Hello = name
		if f := openFailure(t, t.Context(), to); outcome(f.Result) != "delayed of us, us says 4.3.5" {
			t.Errorf("Hello %q: %s", name, outcome(f.Result))
		}
	}
	if n := srv.Connections(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestCannotConnect(t *testing.T) {
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := refused.Addr().(*net.TCPAddr).Port
	if err := refused.Close(); err != nil {
		t.Fatal(err)
	}
	failing := func(err error) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		}
	}
	for _, tt := range []struct {
		name   string
		server Server
		want   string
		text   string
	}{
		{"nobody listens", Server{Host: "127.0.0.1", Port: port}, "delayed of host, us says 4.4.1",
			fmt.Sprintf("cannot connect to 127.0.0.1[127.0.0.1]:%d: connection refused", port)},
		{"no way", Server{Host: "192.0.2.1", Dial: failing(syscall.EHOSTUNREACH)}, "delayed of host, us says 4.4.1",
			"cannot connect to 192.0.2.1[192.0.2.1]:25: no route to host"},
		{"no answer", Server{Host: "192.0.2.1", ImplicitTLS: true, Dial: failing(context.DeadlineExceeded)}, "delayed of host, us says 4.4.1",
			"cannot connect to 192.0.2.1[192.0.2.1]:465: timed out"},
		{"no network", Server{Host: "192.0.2.1", Dial: failing(syscall.ENETUNREACH)}, "delayed of us, us says 4.4.1",
			"cannot connect to 192.0.2.1[192.0.2.1]:25: network is unreachable"},
		{"no descriptors", Server{Host: "192.0.2.1", Dial: failing(syscall.EMFILE)}, "delayed of us, us says 4.4.1",
			"cannot connect to 192.0.2.1[192.0.2.1]:25: too many open files"},
		{"one family has no network", Server{Host: "mx.invalid", Port: port, Addrs: []netip.Addr{netip.MustParseAddr("2001:db8::1"), loopback[0]},
			Dial: func(_ context.Context, _, address string) (net.Conn, error) {
				if strings.HasPrefix(address, "[") {
					return nil, syscall.ENETUNREACH
				}
				return nil, syscall.ECONNREFUSED
			}}, "delayed of host, us says 4.4.1", fmt.Sprintf("cannot connect to mx.invalid[127.0.0.1]:%d: connection refused", port)},
		{"no such host", Server{Host: "nowhere.invalid"}, "delayed of us", "nowhere.invalid"},
	} {
		f := openFailure(t, t.Context(), &tt.server)
		if !strings.HasPrefix(outcome(f.Result), tt.want) || !strings.Contains(f.Reply.Text, tt.text) || f.Relay != "" {
			t.Errorf("%s: %s (%s), want %s (%s)", tt.name, outcome(f.Result), f.Reply, tt.want, tt.text)
		}
	}
}

// TestNextAddress has the first address of a host fail in different ways.
func TestNextAddress(t *testing.T) {
	first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, tt := range []struct {
		name   string
		script map[string]string // of the first; nil if nobody listens there
		opened bool
	}{
		{"refused", nil, true},
		{"hung up", map[string]string{"CONNECT": smtptest.Close}, true},
		{"421", map[string]string{"CONNECT": "421 4.3.2 busy"}, true},
		{"554", map[string]string{"CONNECT": "554 5.3.2 no"}, true},
		{"EHLO refused", map[string]string{"EHLO": "550 5.7.1 no"}, true},
		{"login refused", map[string]string{"AUTH": "535 5.7.8 no"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			users := map[string]string{"ann": "secret"}
			odd := smtptest.NewServer(t, smtptest.Options{Certificate: smtptest.Valid, Replies: tt.script, Users: users})
			sane := smtptest.NewServer(t, smtptest.Options{Certificate: smtptest.Valid, Users: users})
			pool := sane.CertPool()
			if tt.name == "login refused" {
				pool = odd.CertPool()
			}
			s, err := Open(t.Context(), &Server{
				Host: "mx.invalid", Addrs: []netip.Addr{first, second}, TLS: TLSVerify, RootCAs: pool,
				User: "ann", Password: func() (string, error) { return "secret", nil },
				Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
					switch {
					case address == "192.0.2.2:25":
						return new(net.Dialer).DialContext(ctx, network, sane.Addr())
					case tt.script == nil:
						return nil, syscall.ECONNREFUSED
					}
					return new(net.Dialer).DialContext(ctx, network, odd.Addr())
				},
			})
			if s != nil {
				defer s.Close()
			}
			if (err == nil) != tt.opened {
				t.Fatalf("Open = %v", err)
			}
			if tt.opened {
				m := message(t, letter, "bob@example.com")
				if r := begin(t, s).Deliver(t.Context(), m, all(m))[0]; r.Relay != "mx.invalid[192.0.2.2]:25" || r.Action != mail.Relayed {
					t.Errorf("%s by %s", outcome(r), r.Relay)
				}
			} else if n := sane.Connections(); n != 0 {
				t.Errorf("tried the same login at the next address")
			}
		})
	}
}

func TestHostIsLookedUp(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Strict: true})
	s := open(t, &Server{Host: "localhost", Port: srv.Port()})
	m := message(t, letter, "bob@example.com")
	r := s.Deliver(t.Context(), m, all(m))[0]
	if want := fmt.Sprintf("localhost[127.0.0.1]:%d", srv.Port()); outcome(r) != "relayed" || r.Relay != want {
		t.Errorf("%s by %s, want %s", outcome(r), r.Relay, want)
	}
}

func TestFailureSaysWhoSpoke(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Replies: map[string]string{"CONNECT": "554 5.3.2 no"}})
	f := openFailure(t, t.Context(), &Server{
		Host: "mx.invalid", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == "192.0.2.2:25" {
				return nil, errors.New("no")
			}
			return new(net.Dialer).DialContext(ctx, network, srv.Addr())
		},
	})
	if f.Reply.String() != "554 5.3.2 no" || f.Relay != "mx.invalid[192.0.2.1]:25" {
		t.Errorf("Open = %v by %s", f, f.Relay)
	}
}
