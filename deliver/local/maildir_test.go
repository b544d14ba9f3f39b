package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

func path(s string) mail.Path {
	p, err := mail.ParsePath(s)
	if err != nil {
		panic(err)
	}
	return p
}

const letter = "Subject: hello\r\n\r\nFirst line.\r\n.\r\nFrom here on.\r\n"

func newMessage(content string) *mail.Message {
	m := &mail.Message{QueueID: "0N41Z7C2K9A", Content: strings.NewReader(content), Size: int64(len(content))}
	m.Sender = path("ann@example.org")
	m.Arrival = time.Unix(1791531652, 0)
	m.Recipients = []mail.Recipient{{Path: path("bob@example.net")}, {Path: path("carol@example.net")}, {Path: path("bob@example.net")}}
	return m
}

func deliver(t *testing.T, dir string, m *mail.Message, recipients ...int) []mail.Result {
	t.Helper()
	d := &Maildir{Dir: dir}
	defer d.Close()
	results := d.Deliver(t.Context(), m, recipients)
	if len(results) != len(recipients) {
		t.Fatalf("%d results for %d recipients", len(results), len(recipients))
	}
	return results
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDeliver(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "Maildir")
	for i, r := range deliver(t, dir, newMessage(letter), 0, 1, 2) {
		if r.Action != mail.Delivered || r.Status() != (mail.EnhancedCode{2, 1, 5}) || r.Relay != "maildir:"+dir || r.Remote {
			t.Errorf("result %d = %+v", i, r)
		}
	}
	var got []string
	for _, name := range names(t, filepath.Join(dir, "new")) {
		got = append(got, read(t, dir, "new", name))
		info, err := os.Stat(filepath.Join(dir, "new", name))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("mode of %s = %v, %v; want -rw-------", name, info.Mode(), err)
		}
		if !strings.HasPrefix(name, "1791531652.0N41Z7C2K9A_") || strings.ContainsAny(name, "/:") {
			t.Errorf("name %s", name)
		}
	}
	var want []string
	for _, to := range []string{"bob@example.net", "carol@example.net", "bob@example.net"} {
		want = append(want, "Return-Path: <ann@example.org>\nDelivered-To: "+to+"\nSubject: hello\n\nFirst line.\n.\nFrom here on.\n")
	}
	if !slices.Equal(got, want) {
		t.Errorf("files = %q, want %q", got, want)
	}
	if left := names(t, filepath.Join(dir, "tmp")); len(left) > 0 {
		t.Errorf("tmp/ holds %q", left)
	}
	for _, sub := range []string{"", "tmp", "new", "cur"} {
		info, err := os.Stat(filepath.Join(dir, sub))
		if err != nil || info.Mode() != os.ModeDir|0o700 {
			t.Errorf("mode of %q = %v, %v; want drwx------", sub, info.Mode(), err)
		}
	}
}

func TestNullSender(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "Maildir")
	m := newMessage(letter)
	m.Sender = mail.NullSender
	deliver(t, dir, m, 0)
	if got := read(t, dir, "new", names(t, filepath.Join(dir, "new"))[0]); !strings.HasPrefix(got, "Return-Path: <>\n") {
		t.Errorf("file = %q", got)
	}
}

func TestDeliverAgain(t *testing.T) {
	tests := []struct {
		name   string
		litter func(t *testing.T, dir, name string) // what a first attempt left, or the mail reader did since
		want   int                                  // files in new/ and cur/ in the end
	}{
		{"a file in new/", func(*testing.T, string, string) {}, 1},
		{"a file that was read", func(t *testing.T, dir, name string) {
			rename(t, filepath.Join(dir, "new", name), filepath.Join(dir, "cur", name+":2,S"))
		}, 1},
		{"a file that was seen and not read", func(t *testing.T, dir, name string) {
			rename(t, filepath.Join(dir, "new", name), filepath.Join(dir, "cur", name))
		}, 1},
		{"killed between link and unlink", func(t *testing.T, dir, name string) {
			if err := os.Link(filepath.Join(dir, "new", name), filepath.Join(dir, "tmp", "0N41Z7C2K9A_0.0123456789abcdef")); err != nil {
				t.Fatal(err)
			}
		}, 1},
		{"killed before the link", func(t *testing.T, dir, name string) {
			rename(t, filepath.Join(dir, "new", name), filepath.Join(dir, "tmp", "0N41Z7C2K9A_0.0123456789abcdef"))
		}, 1},
		{"a file that was read and deleted", func(t *testing.T, dir, name string) {
			if err := os.Remove(filepath.Join(dir, "new", name)); err != nil {
				t.Fatal(err)
			}
		}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "Maildir")
			deliver(t, dir, newMessage(letter), 0)
			tt.litter(t, dir, names(t, filepath.Join(dir, "new"))[0])
			if r := deliver(t, dir, newMessage(letter), 0)[0]; r.Action != mail.Delivered {
				t.Errorf("second attempt: %+v", r)
			}
			got := append(names(t, filepath.Join(dir, "new")), names(t, filepath.Join(dir, "cur"))...)
			if len(got) != tt.want {
				t.Errorf("new/ and cur/ hold %q, want %d", got, tt.want)
			}
		})
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// The mail reader may move a file while our session lasts; then a repeated delivery in it must not make another.
func TestDeliverAgainInOneSession(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "Maildir")
	d := &Maildir{Dir: dir}
	defer d.Close()
	d.Deliver(t.Context(), newMessage(letter), []int{0})
	name := names(t, filepath.Join(dir, "new"))[0]
	rename(t, filepath.Join(dir, "new", name), filepath.Join(dir, "cur", name+":2,S"))
	if r := d.Deliver(t.Context(), newMessage(letter), []int{0})[0]; r.Action != mail.Delivered {
		t.Errorf("second attempt: %+v", r)
	}
	if got := names(t, filepath.Join(dir, "new")); len(got) != 0 {
		t.Errorf("new/ holds %q", got)
	}
}

// A queue ID alone is no proof: after a clock was set back it may come again for another message.
func TestOtherMessageUnderTheSameID(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "Maildir")
	deliver(t, dir, newMessage(letter), 0)
	deliver(t, dir, newMessage(letter+"Another.\r\n"), 0)
	deliver(t, dir, newMessage(letter), 1)
	if got := names(t, filepath.Join(dir, "new")); len(got) != 3 {
		t.Errorf("new/ holds %q, want 3 files", got)
	}
}

func TestOldTmpFilesAreRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "Maildir")
	deliver(t, dir, newMessage(letter), 0)
	tmp := filepath.Join(dir, "tmp")
	for name, age := range map[string]time.Duration{"old": 37 * time.Hour, "young": 35 * time.Hour} {
		if err := os.WriteFile(filepath.Join(tmp, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(tmp, name), then, then); err != nil {
			t.Fatal(err)
		}
	}
	deliver(t, dir, newMessage(letter), 1)
	if got := names(t, tmp); !slices.Equal(got, []string{"young"}) {
		t.Errorf("tmp/ holds %q, want only the young file", got)
	}
}

func TestFailures(t *testing.T) {
	outside := t.TempDir()
	tests := []struct {
		name    string
		prepare func(t *testing.T, dir string)
		code    mail.EnhancedCode
		text    string
	}{
		{"missing parent", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Dir(dir)); err != nil {
				t.Fatal(err)
			}
		}, mail.EnhancedCode{4, 3, 0}, "no such file or directory"},
		{"a file in its place", func(t *testing.T, dir string) {
			if err := os.WriteFile(dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, mail.EnhancedCode{4, 3, 0}, "not a directory"},
		{"a symbolic link in its place", func(t *testing.T, dir string) { symlink(t, outside, dir) }, mail.EnhancedCode{4, 3, 0}, "symbolic link"},
		{"new/ a symbolic link", func(t *testing.T, dir string) {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			symlink(t, outside, filepath.Join(dir, "new"))
		}, mail.EnhancedCode{4, 3, 0}, "symbolic link"},
		{"tmp/ a fifo", func(t *testing.T, dir string) {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(filepath.Join(dir, "tmp"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, mail.EnhancedCode{4, 3, 0}, "not a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "home", "Maildir")
			if err := os.Mkdir(filepath.Dir(dir), 0o700); err != nil {
				t.Fatal(err)
			}
			tt.prepare(t, dir)
			d := &Maildir{Dir: dir}
			defer d.Close()
			for _, r := range d.Deliver(t.Context(), newMessage(letter), []int{0, 1}) {
				if r.Action != mail.Delayed || r.Scope != mail.OfUs || r.Status() != tt.code || !strings.Contains(r.Reply.Text, tt.text) {
					t.Errorf("result = %+v, want delayed %v, %q, of us", r, tt.code, tt.text)
				}
			}
			if d.Usable() {
				t.Error("usable after it could not be opened")
			}
			if got := names(t, outside); len(got) > 0 {
				t.Errorf("%q written behind a symbolic link", got)
			}
		})
	}
}

func symlink(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
}

func TestFailureResults(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		scope  mail.Scope
		code   mail.EnhancedCode
		usable bool
	}{
		{"quota used up", &os.PathError{Op: "write", Path: "x", Err: unix.EDQUOT}, mail.OfRecipient, mail.EnhancedCode{4, 2, 2}, true},
		{"disk full", wrap(&os.PathError{Op: "write", Path: "x", Err: unix.ENOSPC}), mail.OfUs, mail.EnhancedCode{4, 3, 1}, true},
		{"disk full, and not closed", wrap(errors.Join(unix.ENOSPC, unix.EIO)), mail.OfUs, mail.EnhancedCode{4, 3, 1}, true},
		{"disk broken", wrap(unix.EIO), mail.OfUs, mail.EnhancedCode{4, 3, 0}, false},
		{"disk read-only", unix.EROFS, mail.OfUs, mail.EnhancedCode{4, 3, 0}, false},
		{"message unreadable", wrap(&contentError{unix.EIO}), mail.OfMessage, mail.EnhancedCode{4, 3, 0}, true},
	}
	for _, tt := range tests {
		d := &Maildir{Dir: "x"}
		r := d.failure(tt.err)
		if r.Action != mail.Delayed || r.Scope != tt.scope || r.Status() != tt.code || d.Usable() != tt.usable {
			t.Errorf("%s: failure(%v) = %+v, usable %v; want scope %v, %v, %v", tt.name, tt.err, r, d.Usable(), tt.scope, tt.code, tt.usable)
		}
	}
}

type brokenContent struct{}

func (brokenContent) ReadAt([]byte, int64) (int, error) { return 0, unix.EIO }

func TestUnreadableMessageLeavesNothing(t *testing.T) {
	for name, content := range map[string]io.ReaderAt{"broken": brokenContent{}, "cut short": strings.NewReader(letter[:len(letter)-20])} {
		t.Run(name, func(t *testing.T) { leavesNothing(t, content) })
	}
}

func leavesNothing(t *testing.T, content io.ReaderAt) {
	dir := filepath.Join(t.TempDir(), "Maildir")
	m := newMessage(letter)
	m.Content = content
	d := &Maildir{Dir: dir}
	defer d.Close()
	if r := d.Deliver(t.Context(), m, []int{0})[0]; r.Action != mail.Delayed || r.Scope != mail.OfMessage {
		t.Errorf("result = %+v, want delayed, of the message", r)
	}
	if !d.Usable() {
		t.Error("not usable for other messages")
	}
	for _, sub := range []string{"tmp", "new", "cur"} {
		if got := names(t, filepath.Join(dir, sub)); len(got) > 0 {
			t.Errorf("%s/ holds %q", sub, got)
		}
	}
}

// A small file system that is full: one message does not fit, a smaller one in the same session does.
func TestDiskFull(t *testing.T) {
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("SKIPPED: cannot mount a small tmpfs: %v", err)
	}
	defer func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	}()
	d := &Maildir{Dir: filepath.Join(mount, "Maildir")}
	defer d.Close()
	big := newMessage("Subject: big\r\n\r\n" + strings.Repeat("x\r\n", 200_000))
	r := d.Deliver(t.Context(), big, []int{0})[0]
	if r.Action != mail.Delayed || r.Status() != (mail.EnhancedCode{4, 3, 1}) || r.Scope != mail.OfUs {
		t.Errorf("big message: %+v, want delayed 4.3.1, of us", r)
	}
	if r := d.Deliver(t.Context(), newMessage(letter), []int{0})[0]; r.Action != mail.Delivered {
		t.Errorf("small message: %+v, want delivered", r)
	}
	if got := names(t, filepath.Join(mount, "Maildir", "tmp")); len(got) > 0 {
		t.Errorf("tmp/ holds %q", got)
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d := &Maildir{Dir: filepath.Join(t.TempDir(), "Maildir")}
	defer d.Close()
	if r := d.Deliver(ctx, newMessage(letter), []int{0})[0]; r.Action != mail.Delayed {
		t.Errorf("result = %+v, want delayed", r)
	}
}

func TestLineReader(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", ""},
		{"a\r\nb\r\n", "a\nb\n"},
		{"\r\n\r\n", "\n\n"},
		{"a\rb\r\r\nc\r", "a\rb\r\nc\r"},
		{"a\nb", "a\nb"},
		{"\r\r\r\n", "\r\r\n"},
	}
	for _, tt := range tests {
		for size := 2; size <= len(tt.in)+2; size++ {
			var got bytes.Buffer
			if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, &lineReader{r: strings.NewReader(tt.in)}, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			if got.String() != tt.want {
				t.Errorf("%q read %d octets at a time = %q, want %q", tt.in, size, got.String(), tt.want)
			}
		}
	}
}

func BenchmarkDeliver(b *testing.B) {
	content := "Subject: x\r\n\r\n" + strings.Repeat("A line of a letter, of no great length.\r\n", 50)
	d := &Maildir{Dir: filepath.Join(b.TempDir(), "Maildir")}
	defer d.Close()
	for i := range b.N {
		m := newMessage(content)
		m.QueueID = mail.ID(fmt.Sprintf("%011d", i))
		if r := d.Deliver(b.Context(), m, []int{0})[0]; r.Action != mail.Delivered {
			b.Fatal(r)
		}
	}
}
