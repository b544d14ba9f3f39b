package smtp

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// boxes returns a client of an LMTP server.
func boxes(srv *smtptest.Server) *Server {
	s := client(srv)
	s.LMTP = true
	return s
}

// addresses returns who got a message, by their local parts.
func addresses(m smtptest.Message) string {
	var names []string
	for _, r := range m.Recipients {
		local, _, _ := strings.Cut(r.Address, "@")
		names = append(names, local)
	}
	return strings.Join(names, " ")
}

// TestLMTP gives each recipient the answer that is his, however the content is sent.
func TestLMTP(t *testing.T) {
	const (
		done, full, never = "delivered", "delayed of recipient, server says 4.2.2", "failed of recipient, server says 5.2.1"
		unknown           = "delayed of message, us says 4.4.2"
		goodbye           = "delayed of host, server says 4.3.2"
		no                = "failed of recipient, server says 5.1.1"
	)
	type script = map[string]string
	for _, tt := range []struct {
		name   string
		script script
		want   []string // for ann, bob and eve
		got    string   // who has the message
	}{
		{"all get it", nil, []string{done, done, done}, "ann bob eve"},
		{"one at the end does not", script{". eve": "452 4.2.2 full"}, []string{done, done, full}, "ann bob"},
		{"one at the beginning does not", script{". ann": "552 5.2.1 never"}, []string{never, done, done}, "bob eve"},
		{"nobody does", script{".": "452 4.2.2 full"}, []string{full, full, full}, ""},
		{"one is nobody", script{"RCPT TO:<bob@": "550 5.1.1 who?", ". eve": "452 4.2.2 full"}, []string{done, no, full}, "ann"},
		{"all are nobody", script{"RCPT": "550 5.1.1 who?"}, []string{no, no, no}, ""},
		{"each another answer", script{". ann": "452 4.2.2 full", ". bob": "552 5.2.1 never"}, []string{full, never, done}, "eve"},
		{"hung up between the answers", script{". bob": smtptest.Close}, []string{done, unknown, unknown}, "ann eve"},
		{"goodbye between the answers", script{". bob": "421 4.3.2 going down"}, []string{done, goodbye, unknown}, "ann eve"},
		{"garbage between the answers", script{". bob": smtptest.Raw + "what?\r\n"}, []string{done, unknown, unknown}, "ann eve"},
		{"one answer too few", script{". eve": smtptest.Close}, []string{done, done, unknown}, "ann bob"},
		{"message refused", script{"MAIL": "552 5.2.1 never"}, []string{"failed of message, server says 5.2.1", "failed of message, server says 5.2.1", "failed of message, server says 5.2.1"}, ""},
		{"content for nobody is wanted", script{"RCPT": "550 5.1.1 who?", "DATA": "354 go on"}, []string{no, no, no}, ""},
	} {
		for _, extensions := range [][]string{{"PIPELINING", "8BITMIME"}, {"8BITMIME"}, {"CHUNKING"}, {"PIPELINING", "CHUNKING"}} {
			t.Run(fmt.Sprint(tt.name, extensions), func(t *testing.T) {
				srv := smtptest.NewServer(t, smtptest.Options{LMTP: true, Extensions: extensions, Replies: tt.script, Strict: true})
				s := open(t, boxes(srv))
				m := message(t, letter, "ann@example.com", "bob@example.com", "eve@example.com")
				results := s.Deliver(t.Context(), m, all(m))
				var got []string
				for _, r := range results {
					if r.Action == mail.Delivered {
						got = append(got, done)
					} else {
						got = append(got, outcome(r))
					}
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("%q, want %q\n%s", got, tt.want, s.Transcript())
				}
				has := ""
				for _, m := range srv.Messages() {
					has += addresses(m)
					if string(m.Content) != letter {
						t.Errorf("content %q", m.Content)
					}
				}
				if has != tt.got {
					t.Errorf("%q have it, want %q", has, tt.got)
				}
				for _, r := range results {
					if r.Elsewhere && r.Action == mail.Delivered {
						t.Errorf("somebody else is to be asked after %+v", r)
					}
				}
			})
		}
	}
}

// TestLMTPMessages has several messages in a session, of which some are refused: every answer is that to its own message.
func TestLMTPMessages(t *testing.T) {
	for _, extensions := range [][]string{{"PIPELINING"}, {}, {"PIPELINING", "CHUNKING"}} {
		srv := smtptest.NewServer(t, smtptest.Options{LMTP: true, Extensions: extensions, Strict: true, MaxRecipients: 2, Replies: map[string]string{
			"RCPT TO:<nobody": "550 5.1.1 who?", ". full": "452 4.2.2 full",
		}})
		s := open(t, boxes(srv))
		var messages []*mail.Message
		for range 20 {
			messages = append(messages, message(t, letter, "ann@x.example", "full@x.example", "nobody@x.example", "bob@x.example"))
		}
		for i, r := range deliverAll(t, t.Context(), s.Session, messages) {
			if r.Action != mail.Delivered {
				t.Errorf("%v: message %d: %s (%s)", extensions, i, outcome(r), r.Reply)
			}
		}
		count := map[string]int{}
		for _, m := range srv.Messages() {
			for name := range strings.FieldsSeq(addresses(m)) {
				count[name]++
			}
		}
		if fmt.Sprint(count) != "map[ann:20 bob:20]" {
			t.Errorf("%v: %v", extensions, count)
		}
	}
}

// TestLMTPHasNoHELO takes no for an answer, and is not understood by a server of SMTP.
func TestLMTPHasNoHELO(t *testing.T) {
	for _, lmtp := range []bool{true, false} {
		srv := smtptest.NewServer(t, smtptest.Options{LMTP: lmtp, Replies: map[string]string{"LHLO": "500 5.5.1 what?"}})
		f := openFailure(t, t.Context(), boxes(srv))
		if outcome(f.Result) != "delayed of host, server says 4.5.1" {
			t.Errorf("Open = %s (%s)", outcome(f.Result), f.Reply)
		}
		if want := []string{"CONNECT", "LHLO client.invalid"}; !slices.Equal(srv.Commands(), want) {
			t.Errorf("sent %q, want %q", srv.Commands(), want)
		}
	}
}

// TestUnixSocket is where most LMTP servers are. Nothing goes over a wire there, so whoever requires TLS has what he wants.
func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lmtp")
	srv := smtptest.NewServer(t, smtptest.Options{LMTP: true, Addr: path, Strict: true})
	to := &Server{Host: path, Unix: true, LMTP: true, Hello: "client.invalid"}
	s := open(t, to)
	m := message(t, letter, "bob@example.com")
	m.TLS = mail.TLSRequired
	r := s.Deliver(t.Context(), m, all(m))[0]
	if want := "unix:" + path; r.Action != mail.Delivered || r.Relay != want {
		t.Errorf("%+v, want it delivered by %s", r, want)
	}
	s.Close()
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	f := openFailure(t, t.Context(), to)
	if want := "cannot connect to unix:" + path + ": no such file or directory"; outcome(f.Result) != "delayed of host, us says 4.4.1" || f.Reply.Text != want {
		t.Errorf("Open = %s (%s), want %s", outcome(f.Result), f.Reply, want)
	}
	// A socket that nobody listens at.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if f := openFailure(t, t.Context(), to); !strings.HasSuffix(f.Reply.Text, "connection refused") {
		t.Errorf("Open = %s", f.Reply)
	}
}
