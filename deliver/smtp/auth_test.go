package smtp

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

const canary = "S3CR3T-canary"

// verifying returns what reaches srv over verified TLS and logs in as ann.
func verifying(srv *smtptest.Server, password string) *Server {
	to := client(srv)
	to.TLS, to.RootCAs = TLSVerify, srv.CertPool()
	to.User, to.Password = "ann", func() (string, error) { return password, nil }
	return to
}

// tried returns the mechanisms that were tried, in order.
func tried(srv *smtptest.Server) []string {
	var names []string
	for _, line := range srv.Commands() {
		if f := strings.Fields(line); f[0] == "AUTH" {
			names = append(names, f[1])
		}
	}
	return names
}

func TestEachMechanism(t *testing.T) {
	for _, m := range mechanisms {
		for _, tls := range []uint16{0, 0x0303} {
			for _, password := range []string{canary, "pässwörd", "🔑, = \u00a0"} {
				t.Run(fmt.Sprintf("%s, TLS %x, %s", m.name, tls, password), func(t *testing.T) {
					srv := smtptest.NewServer(t, smtptest.Options{
						Strict: true, Certificate: smtptest.Valid, MaxTLS: tls,
						Users: map[string]string{"ann": password}, Mechanisms: []string{m.name},
					})
					if strings.HasSuffix(m.name, plusSuffix) && tls != 0 {
						if f := openFailure(t, t.Context(), verifying(srv, password)); outcome(f.Result) != "delayed of us, us says 4.7.0" {
							t.Errorf("Open = %s (%s)", outcome(f.Result), f.Reply)
						}
						return
					}
					s := open(t, verifying(srv, password))
					letter := message(t, letter, "bob@example.com")
					if got := outcomes(s.Deliver(t.Context(), letter, all(letter))); got[0] != "relayed" {
						t.Fatalf("%s\n%s", got, s.Transcript())
					}
					if got := srv.Messages()[0]; got.User != "ann" || !slices.Equal(got.Params, []string{"SIZE=25", "AUTH=<>"}) {
						t.Errorf("it came from %q with %q", got.User, got.Params)
					}
				})
			}
			t.Run(m.name+" with a wrong password", func(t *testing.T) {
				srv := smtptest.NewServer(t, smtptest.Options{
					Strict: true, Certificate: smtptest.Valid, Users: map[string]string{"ann": "right"}, Mechanisms: []string{m.name},
				})
				if f := openFailure(t, t.Context(), verifying(srv, "wrong")); outcome(f.Result) != "delayed of us, server says 4.7.8" {
					t.Errorf("Open = %s (%s)", outcome(f.Result), f.Reply)
				}
			})
		}
	}
}

func TestChoiceOfMechanism(t *testing.T) {
	everything := func(except ...string) []string {
		var names []string
		for _, m := range slices.Backward(mechanisms) { // the order of the server does not count
			if !slices.Contains(except, m.name) {
				names = append(names, m.name)
			}
		}
		return names
	}
	type script = map[string]string
	const refused, noWay = "delayed of us, server says 4.7.8", "delayed of us, us says 4.7.0"
	for _, tt := range []struct {
		name        string
		mechanisms  []string
		script      script
		certificate smtptest.Certificate
		mode        TLSMode
		tried       []string
		want        string
	}{
		{"the strongest", everything(), nil, smtptest.Valid, TLSVerify, []string{"SCRAM-SHA-256-PLUS"}, ""},
		{"the strongest of few", []string{"LOGIN", "PLAIN", "GSSAPI", "CRAM-MD5"}, nil, smtptest.Valid, TLSVerify, []string{"CRAM-MD5"}, ""},
		{"none known", []string{"GSSAPI", "NTLM"}, nil, smtptest.Valid, TLSVerify, nil, noWay},
		{"none offered", []string{}, nil, smtptest.Valid, TLSVerify, nil, noWay},

		{"a wrong password is not tried twice", everything(), script{"AUTH": "535 5.7.8 no"}, smtptest.Valid, TLSVerify,
			[]string{"SCRAM-SHA-256-PLUS"}, refused},
		{"nor what is refused for another reason", everything(), script{"AUTH": "550 5.7.1 no"}, smtptest.Valid, TLSVerify,
			[]string{"SCRAM-SHA-256-PLUS"}, "delayed of us, server says 4.7.1"},
		{"nor when the server cannot say", everything(), script{"AUTH": "454 4.7.0 not now"}, smtptest.Valid, TLSVerify,
			[]string{"SCRAM-SHA-256-PLUS"}, "delayed of host, server says 4.7.0"},
		{"a mechanism that is not there after all", everything(), script{"AUTH SCRAM-SHA-256": "504 5.5.4 what?"}, smtptest.Valid, TLSVerify,
			[]string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS"}, ""},
		{"one that is too weak", []string{"CRAM-MD5", "PLAIN"}, script{"AUTH CRAM-MD5": "534 5.7.9 weak"}, smtptest.Valid, TLSVerify,
			[]string{"CRAM-MD5", "PLAIN"}, ""},
		{"one that needs the password once", []string{"SCRAM-SHA-256", "PLAIN"}, script{"AUTH SCRAM": "432 4.7.12 transition"}, smtptest.Valid, TLSVerify,
			[]string{"SCRAM-SHA-256", "PLAIN"}, ""},
		{"all refused", []string{"CRAM-MD5", "PLAIN"}, script{"AUTH": "504 5.5.4 what?"}, smtptest.Valid, TLSVerify,
			[]string{"CRAM-MD5", "PLAIN"}, "delayed of us, server says 4.5.4"},
		{"from the strongest to the weakest", everything(), script{"AUTH": "504 5.5.4 what?"}, smtptest.Valid, TLSVerify,
			[]string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"},
			"delayed of us, server says 4.5.4"},

		{"SCRAM is safe with any certificate", everything(), nil, smtptest.SelfSigned, TLSMay, []string{"SCRAM-SHA-256-PLUS"}, ""},
		{"nothing else is", []string{"CRAM-MD5", "PLAIN", "LOGIN"}, nil, smtptest.SelfSigned, TLSMay, nil, noWay},
		{"a certificate that is good without having to be", []string{"PLAIN"}, nil, smtptest.Valid, TLSMay, []string{"PLAIN"}, ""},
		{"no TLS offered", everything(), nil, smtptest.NoTLS, TLSMay, nil, "delayed of host, us says 4.7.4"},
		{"no TLS offered, but needed", everything(), nil, smtptest.NoTLS, TLSVerify, nil, "delayed of host, us says 4.7.4"},
		{"no TLS wanted", everything(), nil, smtptest.Valid, TLSNone, nil, "delayed of us, us says 4.3.5"},
		{"TLS refused", everything(), script{"STARTTLS": "454 4.7.0 not now"}, smtptest.Valid, TLSMay, nil, "delayed of host, server says 4.7.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := smtptest.NewServer(t, smtptest.Options{
				Strict: true, Certificate: tt.certificate, Users: map[string]string{"ann": canary},
				Mechanisms: tt.mechanisms, AuthInClear: true, Replies: tt.script,
			})
			to := verifying(srv, canary)
			to.TLS = tt.mode
			if tt.want == "" {
				open(t, to)
			} else if f := openFailure(t, t.Context(), to); outcome(f.Result) != tt.want {
				t.Errorf("Open = %s (%s), want %s", outcome(f.Result), f.Reply, tt.want)
			}
			if got := tried(srv); !slices.Equal(got, tt.tried) {
				t.Errorf("tried %q, want %q", got, tt.tried)
			}
			if n := srv.Connections(); n > 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// TestHiddenMechanisms has somebody take the mechanisms with channel binding out of the list that the server sent.
func TestHiddenMechanisms(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{
		Certificate: smtptest.Valid, Users: map[string]string{"ann": canary},
		Replies: map[string]string{"EHLO": "250 mx.invalid\nSTARTTLS\nAUTH SCRAM-SHA-256 PLAIN"},
	})
	if f := openFailure(t, t.Context(), verifying(srv, canary)); outcome(f.Result) != "delayed of us, server says 4.7.8" {
		t.Errorf("Open = %s (%s)", outcome(f.Result), f.Reply)
	}
}

func TestPasswordIsAskedForWhenNeeded(t *testing.T) {
	for _, tt := range []struct {
		name  string
		opts  smtptest.Options
		err   error
		asked int
		want  string
	}{
		{"once", smtptest.Options{Certificate: smtptest.Valid, Replies: map[string]string{"AUTH S": "504 5.5.4 what?"}}, nil, 1, ""},
		{"not if the server has gone", smtptest.Options{Replies: map[string]string{"CONNECT": "421 4.3.2 busy"}}, nil, 0, "delayed of host, server says 4.3.2"},
		{"not for nobody", smtptest.Options{Certificate: smtptest.Expired}, nil, 0, "delayed of host, us says 4.7.5"},
		{"in vain", smtptest.Options{Certificate: smtptest.Valid}, errors.New("open password: permission denied"), 1, "delayed of us, us says 4.7.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.Users = map[string]string{"ann": canary}
			srv := smtptest.NewServer(t, tt.opts)
			to, asked := verifying(srv, ""), 0
			to.Password = func() (string, error) {
				asked++
				return canary, tt.err
			}
			if tt.want == "" {
				open(t, to)
			} else {
				f := openFailure(t, t.Context(), to)
				if outcome(f.Result) != tt.want || tt.err != nil && !strings.Contains(f.Reply.Text, tt.err.Error()) {
					t.Errorf("Open = %s (%s), want %s", outcome(f.Result), f.Reply, tt.want)
				}
			}
			if asked != tt.asked {
				t.Errorf("asked %d times for the password, want %d", asked, tt.asked)
			}
		})
	}
	srv := smtptest.NewServer(t, smtptest.Options{})
	to := verifying(srv, "")
	to.Password = nil
	if f := openFailure(t, t.Context(), to); outcome(f.Result) != "delayed of us, us says 4.3.5" || srv.Connections() != 0 {
		t.Errorf("without a password: %s (%s)", outcome(f.Result), f.Reply)
	}
}

func TestLongPassword(t *testing.T) {
	for _, n := range []int{300, 600, 8000} {
		password := strings.Repeat("x", n)
		srv := smtptest.NewServer(t, smtptest.Options{
			Strict: true, Certificate: smtptest.Valid, Users: map[string]string{"ann": password}, Mechanisms: []string{"PLAIN"},
		})
		open(t, verifying(srv, password))
		for _, line := range srv.Commands() {
			if strings.HasPrefix(line, "AUTH") && len(line)+2 > maxCommand {
				t.Errorf("a command of %d octets", len(line)+2)
			}
		}
	}
	srv := smtptest.NewServer(t, smtptest.Options{
		Certificate: smtptest.Valid, Users: map[string]string{"ann": canary}, Mechanisms: []string{"PLAIN"},
	})
	if f := openFailure(t, t.Context(), verifying(srv, strings.Repeat("x", 10_000))); outcome(f.Result) != "delayed of us, us says 4.7.0" {
		t.Errorf("Open = %s (%s)", outcome(f.Result), f.Reply)
	}
}

// checkSecrets looks for the password in all that can be shown.
func checkSecrets(t *testing.T, shown ...string) {
	t.Helper()
	for _, s := range shown {
		for _, secret := range []string{
			canary,
			base64.StdEncoding.EncodeToString([]byte(canary)),
			base64.StdEncoding.EncodeToString([]byte("\x00ann\x00" + canary)),
		} {
			if strings.Contains(s, secret) {
				t.Errorf("the password is in %q", s)
			}
		}
	}
}

// TestSecretsAreNotShown has servers repeat what they were told, in refusals of the login and of mail.
func TestSecretsAreNotShown(t *testing.T) {
	plain := base64.StdEncoding.EncodeToString([]byte("\x00ann\x00" + canary))
	echo := "you said " + plain + " that is " + canary + " or " + base64.StdEncoding.EncodeToString([]byte(canary))
	for _, m := range mechanisms {
		for _, stage := range []string{"AUTH " + m.name, "AUTH END"} {
			srv := smtptest.NewServer(t, smtptest.Options{
				Certificate: smtptest.Valid, Users: map[string]string{"ann": canary}, Mechanisms: []string{m.name},
				Replies: map[string]string{stage: "535 5.7.8 " + echo},
			})
			f := openFailure(t, t.Context(), verifying(srv, canary))
			checkSecrets(t, f.Error(), f.Transcript, fmt.Sprintf("%+v", f.Result))
			if !strings.Contains(f.Transcript, "C: AUTH "+m.name) {
				t.Errorf("no login in %q", f.Transcript)
			}
		}
	}
	srv := smtptest.NewServer(t, smtptest.Options{
		Certificate: smtptest.Valid, Users: map[string]string{"ann": canary}, Mechanisms: []string{"LOGIN"},
		Replies: map[string]string{"MAIL": "550 5.7.1 " + echo},
	})
	server := verifying(srv, canary)
	var traced strings.Builder
	server.Trace = func(relay, line string) { fmt.Fprintln(&traced, line) }
	s := open(t, server)
	m := message(t, letter, "bob@example.com")
	results := s.Deliver(t.Context(), m, all(m))
	checkSecrets(t, s.Transcript(), fmt.Sprintf("%+v", results))
	if traced.String() != s.Transcript() {
		t.Errorf("traced:\n%s\nin the transcript:\n%s", &traced, s.Transcript())
	}
	if !strings.Contains(s.Transcript(), "C: ***\nS: 235 2.7.0 welcome\n") {
		t.Errorf("the transcript is %s", s.Transcript())
	}
}

// A tape is a connection to a server that has said it all already.
type tape struct {
	io.Reader
	sent bytes.Buffer
}

func (t *tape) Write(p []byte) (int, error)      { return t.sent.Write(p) }
func (t *tape) Close() error                     { return nil }
func (t *tape) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (t *tape) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (t *tape) SetDeadline(time.Time) error      { return nil }
func (t *tape) SetReadDeadline(time.Time) error  { return nil }
func (t *tape) SetWriteDeadline(time.Time) error { return nil }

// exchange logs in with one mechanism at a server that says these things.
func exchange(m mechanism, said string) (*opening, *tape, mail.Reply, *mail.Result) {
	server := &tape{Reader: strings.NewReader(said)}
	o := &opening{Session: &Session{server: (&Server{Host: "mx.invalid", User: "ann"}).withDefaults(), conn: newConn(server)}}
	o.hide(canary)
	c := &credentials{user: "ann", password: canary}
	c.binding.Type, c.binding.Data = "tls-exporter", []byte("binding")
	reply, failed := o.authenticate(m, c)
	return o, server, reply, failed
}

func TestBadChallenges(t *testing.T) {
	b64 := func(s string) string { return "334 " + base64.StdEncoding.EncodeToString([]byte(s)) + "\r\n" }
	welcome := "235 2.7.0 welcome\r\n"
	for _, tt := range []struct {
		name, mechanism, said, want string
	}{
		{"not base64", "CRAM-MD5", "334 <what>\r\n", "not base64"},
		{"several lines", "CRAM-MD5", "334-PDE+\r\n334 PDE+\r\n", "not base64"},
		{"one challenge too many for PLAIN", "PLAIN", b64("more") + welcome, "unexpected"},
		{"one challenge too many for LOGIN", "LOGIN", b64("a") + b64("b") + b64("c"), "unexpected"},
		{"challenges without end", "CRAM-MD5", strings.Repeat(b64("again"), 20), "endless"},
		{"SCRAM cut short", "SCRAM-SHA-256", welcome, "did not prove"},
		{"SCRAM with a nonce of its own", "SCRAM-SHA-256", b64("r=x,s=c2FsdA==,i=4096"), "wrong"},
		{"SCRAM with too few iterations", "SCRAM-SHA-256", b64("r=x,s=c2FsdA==,i=1"), "wrong"},
		{"SCRAM with too many iterations", "SCRAM-SHA-256", b64("r=x,s=c2FsdA==,i=2000000000"), "hashed"},
		{"SCRAM with more iterations than can be counted", "SCRAM-SHA-256", b64("r=x,s=c2FsdA==,i=99999999999999999999"), "hashed"},
		{"SCRAM error", "SCRAM-SHA-256", b64("e=invalid-proof"), "refused: invalid-proof"},
		{"hung up", "LOGIN", b64("a"), "lost connection"},
	} {
		i := slices.IndexFunc(mechanisms, func(m mechanism) bool { return m.name == tt.mechanism })
		_, _, reply, failed := exchange(mechanisms[i], tt.said)
		if failed == nil || failed.Action != mail.Delayed || !strings.Contains(failed.Reply.Text, tt.want) {
			t.Errorf("%s: %v, %+v, want %q", tt.name, reply, failed, tt.want)
		}
	}
}

// FuzzLogin holds that no server, whatever it says, gets a login out of SCRAM without knowing the password, or the
// password out of anything but PLAIN and LOGIN, or into what is shown.
func FuzzLogin(f *testing.F) {
	f.Add(0, "334 cj14LHM9YyxpPTQwOTY=\r\n235 2.7.0 welcome\r\n")
	f.Add(4, "334 PDE+\r\n535 5.7.8 "+canary+"\r\n")
	f.Add(6, "334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n235 2.7.0 welcome\r\n")
	f.Fuzz(func(t *testing.T, which int, said string) {
		m := mechanisms[uint(which)%uint(len(mechanisms))]
		o, server, reply, failed := exchange(m, said)
		if positive(reply) && failed == nil && strings.HasPrefix(m.name, "SCRAM") {
			t.Fatalf("%s: logged in", m.name)
		}
		sent := server.sent.String()
		if n := strings.Count(sent, "\r\n"); n > maxRounds || n != strings.Count(sent, "\n") || n != strings.Count(sent, "\r") {
			t.Fatalf("%s: sent %q", m.name, sent)
		}
		if m.name != "PLAIN" && m.name != "LOGIN" {
			checkSecrets(t, sent)
			for line := range strings.SplitSeq(sent, "\r\n") {
				if text, err := base64.StdEncoding.DecodeString(line[strings.LastIndexByte(line, ' ')+1:]); err == nil {
					checkSecrets(t, string(text))
				}
			}
		}
		if strings.Contains(o.Transcript(), canary) {
			t.Fatalf("%s: the password is in %q", m.name, o.Transcript())
		}
		if failed != nil {
			checkSecrets(t, failed.Reply.String())
		}
	})
}

// TestSCRAMKnowsTheServer has a server that does not know the password say that it is the right one.
func TestSCRAMKnowsTheServer(t *testing.T) {
	for _, m := range mechanisms {
		if !strings.HasPrefix(m.name, "SCRAM") {
			continue
		}
		client, server := net.Pipe()
		go func() {
			line := make([]byte, 1000)
			n, err := server.Read(line)
			if err != nil {
				return
			}
			first, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(string(line[len("AUTH "+m.name+" "):n])))
			_, nonce, _ := strings.Cut(string(first), "r=")
			_, _ = fmt.Fprintf(server, "334 %s\r\n", base64.StdEncoding.EncodeToString([]byte("r="+nonce+"x,s=c2FsdA==,i=4096")))
			if _, err := server.Read(line); err != nil {
				return
			}
			_, _ = fmt.Fprintf(server, "334 %s\r\n", base64.StdEncoding.EncodeToString([]byte("v=YWxsIGlzIHdlbGw=")))
			_, _ = server.Read(line)
			_, _ = fmt.Fprint(server, "235 2.7.0 welcome\r\n")
		}()
		o := &opening{Session: &Session{server: (&Server{Host: "mx.invalid", User: "ann"}).withDefaults(), conn: newConn(client)}}
		c := &credentials{user: "ann", password: canary}
		c.binding.Type, c.binding.Data = "tls-exporter", []byte("binding")
		reply, failed := o.authenticate(m, c)
		if failed == nil || !strings.Contains(failed.Reply.Text, "the server's answer to SCRAM is wrong") {
			t.Errorf("%s: %v, %+v", m.name, reply, failed)
		}
		o.conn.close()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestLoginIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	srv := smtptest.NewServer(t, smtptest.Options{
		Certificate: smtptest.Valid, Users: map[string]string{"ann": canary}, Replies: map[string]string{"AUTH": smtptest.Hang},
	})
	to := verifying(srv, "")
	to.Password = func() (string, error) {
		cancel()
		return canary, nil
	}
	if f := openFailure(t, ctx, to); outcome(f.Result) != "delayed of us, us says 4.3.2" {
		t.Errorf("Open = %s (%s)", outcome(f.Result), f.Reply)
	}
}
