package deliver

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
)

// lists has a list of so many long addresses for each name.
type lists map[string]int

func (l lists) Expand(_ context.Context, rcpt mail.Path) (Expansion, error) {
	name := rcpt.Address()
	x := Expansion{Found: true}
	for i := range l[name] {
		p, err := mail.ParsePath(fmt.Sprintf("%s%d@example.net", strings.Repeat(name, 1000/len(name)), i))
		if err != nil {
			return x, err
		}
		x.Targets = append(x.Targets, mail.Recipient{Path: p})
	}
	return x, nil
}

// TestListsTooLongForOneEnvelope has a list that fits into no envelope: it waits and says why. The others do not wait for it.
func TestListsTooLongForOneEnvelope(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "postrider-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := submitted(t, filepath.Join(dir, "spool"), "a", "b", "c", "d")
	claims, err := s.Claim(time.Now(), spool.Wanted{Hop: "aliases", Most: spool.Most{Messages: 1}, Again: func(mail.ID, int) time.Time { return time.Now() }})
	if err != nil {
		t.Fatal(err)
	}
	o := &Options{Retry: Retry{Expire: time.Hour}, Hostname: "here.example", Now: time.Now, Logf: t.Logf}
	w := &worker{clerk: clerk{o, s, o.Retry}, route: Route{Expander: lists{"a": 2, "b": 2, "c": 2, "d": 67_000}}, soft: t.Context()}
	st := w.expand(t.Context(), claims[0][0]).settlement

	var settled []int
	targets := 0
	for _, c := range st.Children {
		settled = append(settled, c.Envelope.Settles.Recipients...)
		targets += len(c.Envelope.Recipients)
		f, err := s.Read(c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Verify(); err != nil {
			t.Error(err)
		}
		f.Close()
	}
	slices.Sort(settled)
	if !slices.Equal(settled, []int{0, 1, 2}) || targets != 6 {
		t.Errorf("%d messages for %d addresses in place of recipients %v, want 6 addresses in place of the first three", len(st.Children), targets, settled)
	}
	for _, d := range st.Dispositions {
		want := "expanded"
		if d.Recipient == 3 {
			want = "delayed"
		}
		if d.Result.Action.String() != want || want == "delayed" && !strings.Contains(d.Result.Reply.Text, "envelope too long") {
			t.Errorf("recipient %d: %s (%.200s), want %s", d.Recipient, d.Result.Action, d.Result.Reply.Text, want)
		}
	}
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(filepath.Join(dir, "spool", "queue"))
	if err != nil || len(files) != 1+len(st.Children) {
		t.Errorf("%d files in the queue, %v; want the message and %d", len(files), err, len(st.Children))
	}
}

// submitted returns a new spool that has taken in one message.
func submitted(t *testing.T, dir string, rcpts ...string) *spool.Spool {
	t.Helper()
	if err := spool.Create(dir); err != nil {
		t.Fatal(err)
	}
	d, err := drop.Open(filepath.Join(dir, "drop"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	env := &mail.Envelope{Arrival: drop.Now(), Submitter: os.Getuid()}
	for _, r := range rcpts {
		p, err := mail.ParsePath(r)
		if err != nil {
			t.Fatal(err)
		}
		env.Recipients = append(env.Recipients, mail.Recipient{Path: p})
	}
	f, err := d.Create(env)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "Subject: x\r\n\r\nhello\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Commit(mail.Facts{}); err != nil {
		t.Fatal(err)
	}
	s, err := spool.Acquire(dir, spool.Options{Route: func(_, _ mail.Path, _ int, _ bool) string { return "aliases" }, Now: time.Now, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := s.TakeIn(); err != nil {
		t.Fatal(err)
	}
	return s
}
