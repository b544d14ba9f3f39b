package smtpd

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/spool/drop"
)

// FuzzServe has a client say anything, at a pipe and at a socket, in one piece and in two. In the spool are then exactly
// the messages that were accepted, no more than one for each sender that was, and none with a line end that is not CR LF.
func FuzzServe(f *testing.F) {
	for _, c := range append(conversations, localConversations...) {
		in := ""
		for _, s := range c.steps {
			in += s.wire()
		}
		f.Add(in, true, uint(len(in)/2))
	}
	f.Add("EHLO a\nMAIL FROM:<a@x>\nRCPT TO:<b@x>\nDATA\n.\r\r\n.\n", true, uint(30))
	f.Add("MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nx\r\r\n.\r\nMAIL FROM:<a@x>\r\n\n.\n\r.\r", false, uint(50))
	path := f.TempDir()
	dir, err := drop.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { dir.Close() })
	host := submit.Host{Name: "here.example", Domain: "example.com", MaxSize: 10_000}
	f.Fuzz(func(t *testing.T, in string, pipe bool, cut uint) {
		at := min(cut, uint(len(in)))
		client := &script{Reader: io.MultiReader(strings.NewReader(in[:at]), strings.NewReader(in[at:]))}
		_ = Serve(context.Background(), client, Options{
			Hostname: "here.example", MaxSize: host.MaxSize, Pipe: pipe, Local: pipe, Urgent: pipe, AtOnce: 4, Now: drop.Now,
			Submit: func(s submit.Submission) (Pending, error) {
				s.Arrival = drop.Now()
				s.Author = func() submit.Author { return submit.Author{Login: "ann"} }
				return host.Receive(dir, s)
			},
		})
		replies := client.String()
		accepted := strings.Count(replies, " Message accepted for delivery\r\n")
		if senders := strings.Count(replies, "250 2.1.0 ") + strings.Count(replies, "250 2.3.6 "); accepted > senders {
			t.Errorf("%d messages accepted from %d senders", accepted, senders)
		}
		ids, others, err := dir.Names()
		if err != nil || len(ids) != accepted || len(others) > 0 {
			t.Errorf("%d messages accepted, and in the spool are %v and %v, %v", accepted, ids, others, err)
		}
		for _, id := range ids {
			checkContent(t, dir, id)
			checkEnvelope(t, dir, id, pipe)
			if err := os.Remove(filepath.Join(path, string(id))); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// checkEnvelope looks at what a parameter must not do, whatever else it says.
func checkEnvelope(t *testing.T, dir *drop.Dir, id mail.ID, local bool) {
	t.Helper()
	m, err := dir.Read(string(id))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	held := m.Hold.Until.Sub(m.Arrival)
	if held > mail.MaxHold || !m.Hold.Until.IsZero() && m.Sender.IsNull() || m.Priority > 0 && !local || m.TLS == mail.TLSRequired && !local {
		t.Errorf("accepted %+v", m.Envelope)
	}
}

func checkContent(t *testing.T, dir *drop.Dir, id mail.ID) {
	t.Helper()
	m, err := dir.Read(string(id))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	content, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Size))
	if err != nil {
		t.Fatal(err)
	}
	rest := bytes.ReplaceAll(content, []byte("\r\n"), nil)
	if bytes.ContainsAny(rest, "\r\n\x00") || !bytes.HasSuffix(content, []byte("\r\n")) {
		t.Errorf("content with a bare line end or a NUL: %q", content)
	}
}
