package smtp

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// soon stands for the timeouts of a test that waits for none of them.
const soon = 20 * time.Second

func path(t testing.TB, addr string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(addr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// message returns a message from ann to the recipients; content is what follows the header, in wire form.
func message(t testing.TB, content string, recipients ...string) *mail.Message {
	t.Helper()
	m := &mail.Message{QueueID: "0123456789A", Content: strings.NewReader(content), Size: int64(len(content))}
	m.Sender = path(t, "ann@example.org")
	for _, r := range recipients {
		m.Recipients = append(m.Recipients, mail.Recipient{Path: path(t, r)})
	}
	return m
}

// all returns the positions of all recipients of m.
func all(m *mail.Message) []int {
	var positions []int
	for i := range m.Recipients {
		positions = append(positions, i)
	}
	return positions
}

// client returns what reaches srv, in clear.
func client(srv *smtptest.Server) *Server {
	return &Server{Host: srv.Host(), Port: srv.Port(), Hello: "client.invalid"}
}

func open(t testing.TB, s *Server) *Session {
	t.Helper()
	session, err := Open(t.Context(), s)
	if err != nil {
		t.Fatalf("Open = %v", err)
	}
	t.Cleanup(session.Close)
	return session
}

func TestDeliver(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Strict: true})
	s := open(t, client(srv))
	m := message(t, "Subject: hello\r\n\r\n.dot\r\n", "bob@example.com", "eve@example.com")
	results := s.Deliver(context.Background(), m, []int{1})
	want := mail.Result{
		Action: mail.Relayed, Remote: true,
		Reply: mail.Reply{Code: 250, Enhanced: mail.EnhancedCode{2, 0, 0}, Text: "taken"},
		Relay: "127.0.0.1[127.0.0.1]:" + portOf(srv),
	}
	if len(results) != 1 || results[0] != want {
		t.Errorf("Deliver = %+v, want %+v", results, want)
	}
	t.Log(s.Transcript(), srv.Commands())
}

func portOf(srv *smtptest.Server) string {
	_, port, _ := strings.Cut(srv.Addr(), ":")
	return port
}
