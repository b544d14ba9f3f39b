package submitd

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

// FuzzServe has a client say anything. In the spool are then exactly the messages for which the answer was 0, under the
// user ID of the client, and none with a line end that is not CR LF.
func FuzzServe(f *testing.F) {
	f.Add(greeting + "\nsender: <ann@example.org>\nrecipient: notify=FAILURE orcpt=rfc822;b <bob>\nreturn: HDRS\nenvid: x\nsmtputf8: yes\nname: Ann\n\n5\na\nb\r\n0\n")
	f.Add(greeting + "\nheader-recipients: yes\nnotify: NEVER\nas-is: yes\npartly: yes\nreturns: yes\nrejected: a+20b blank\nprotocol: SMTP\n\n12\nTo: a@x, b c\n1\n\n0\n")
	f.Add(greeting + "\n\n5\nhello\ncancel\n" + greeting + "\nrecipient: <bob>\n\n0\n")
	f.Add(greeting + "\nhold: 2999-12-31T00:00:00Z for;60\nrecipient: <bob>\n\n0\n")
	path := f.TempDir()
	dir, err := drop.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { dir.Close() })
	host := submit.Host{Name: "here.example", Domain: "example.com", MaxSize: 10_000}
	f.Fuzz(func(t *testing.T, in string) {
		var answers strings.Builder
		reports := 0
		s := &Server{
			UID: 1000, Author: func() submit.Author { return submit.Author{Login: "ann"} }, Now: drop.Now,
			Submit: func(s submit.Submission) (mail.ID, error) {
				if s.Submitter != 1000 {
					t.Errorf("submitted by user %d", s.Submitter)
				}
				if s.Hold.Until.Sub(s.Arrival) > mail.MaxHold {
					t.Errorf("held until %s", s.Hold.Until)
				}
				before, _, _ := dir.Names()
				p, err := host.Receive(dir, s)
				id := mail.ID("")
				if err == nil {
					id, err = p.Commit()
				}
				after, _, _ := dir.Names()
				reports += len(after) - len(before)
				if err == nil {
					reports--
				}
				return id, err
			},
		}
		_ = s.Serve(context.Background(), script{strings.NewReader(in), &answers})
		accepted := 0
		for answer := range strings.Lines(answers.String()) {
			if strings.HasPrefix(answer, "0 ") {
				accepted++
			}
		}
		ids, others, err := dir.Names()
		if err != nil || len(ids) != accepted+reports || len(others) > 0 {
			t.Errorf("%d messages accepted, %d reports sent, and in the spool are %v and %v, %v", accepted, reports, ids, others, err)
		}
		for _, id := range ids {
			checkContent(t, dir, id)
			if err := os.Remove(filepath.Join(path, string(id))); err != nil {
				t.Fatal(err)
			}
		}
	})
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
