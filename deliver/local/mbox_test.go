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

func mbox(path string) Mbox {
	return Mbox{Path: path, Owner: os.Geteuid(), patience: time.Nanosecond}
}

func write1(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

const (
	bobs = "From ann@example.org Fri Oct  9 07:40:52 2026\nReturn-Path: <ann@example.org>\nDelivered-To: bob@example.net\n" +
		"Subject: hello\n\nFirst line.\n.\n>From here on.\n\n"
	carols = "From ann@example.org Fri Oct  9 07:40:52 2026\nReturn-Path: <ann@example.org>\nDelivered-To: carol@example.net\n" +
		"Subject: hello\n\nFirst line.\n.\n>From here on.\n\n"
	older = "From dave@example.org Sun Oct  8 08:20:52 2026\nSubject: older\n\nText.\n\n"
)

func TestMbox(t *testing.T) {
	tests := []struct {
		name   string
		before string
		to     []int
		after  string
	}{
		{"one message", "", []int{0}, bobs},
		{"two recipients", "", []int{0, 1}, bobs + carols},
		{"after another message", older, []int{0}, older + bobs},
		{"the last one has no empty line behind it", strings.TrimSuffix(older, "\n"), []int{0}, older + bobs},
		{"the last one was cut off by somebody else", older + "From x", []int{0}, older + "From x\n\n" + bobs},
		{"delivered by an earlier attempt", older + bobs, []int{0}, older + bobs},
		{"delivered, and others have come since", bobs + older + older, []int{0}, bobs + older + older},
		{"delivered to the other recipient only", bobs, []int{0, 1}, bobs + carols},
		{"torn within the message", older + bobs[:len(bobs)-20], []int{0}, older + bobs},
		{"torn before the last line end", older + bobs[:len(bobs)-1], []int{0}, older + bobs},
		{"torn within the heading", older + bobs[:60], []int{0}, older + bobs},
		{"torn in an empty file", bobs[:70], []int{0}, bobs},
		{"changed by the reader since", strings.Replace(bobs, "Subject", "Status: RO\nSubject", 1), []int{0}, strings.Replace(bobs, "Subject", "Status: RO\nSubject", 1) + bobs},
		{"quoted in another message", older[:len(older)-1] + ">" + bobs + older, []int{0}, older[:len(older)-1] + ">" + bobs + older + bobs},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bob")
			if tt.before != "" {
				write1(t, path, tt.before, 0o600)
			}
			for _, n := range tt.to {
				r := mbox(path).Deliver(t.Context(), newMessage(letter), n)
				if r.Action != mail.Delivered || r.Status() != (mail.EnhancedCode{2, 1, 5}) || r.Relay != "mbox:"+path {
					t.Errorf("recipient %d: %+v", n, r)
				}
			}
			if got := read(t, path); got != tt.after {
				t.Errorf("mailbox = %q,\nwant %q", got, tt.after)
			}
			if got := names(t, filepath.Dir(path)); !slices.Equal(got, []string{"bob"}) {
				t.Errorf("directory holds %q", got)
			}
		})
	}
}

// What is searched for is found wherever it stands, also across the pieces in which the file is read.
func TestMboxFindsItsMessageAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bob")
	big := newMessage(letter + strings.Repeat("From a long letter.\r\n", 10_000))
	for filler := bufferSize - 300; filler < bufferSize+10; filler += 7 {
		before := "From x\n\n" + strings.Repeat("y", filler) + "\n\n"
		write1(t, path, before, 0o600)
		for range 2 {
			if r := mbox(path).Deliver(t.Context(), big, 0); r.Action != mail.Delivered {
				t.Fatal(r)
			}
		}
		got := read(t, path)
		if n := strings.Count(got, "Subject: hello\n"); n != 1 {
			t.Errorf("after %d octets: %d messages", filler, n)
		}
		if err := os.Truncate(path, int64(len(got)-100_000)); err != nil {
			t.Fatal(err)
		}
		if r := mbox(path).Deliver(t.Context(), big, 0); r.Action != mail.Delivered || read(t, path) != got {
			t.Errorf("after %d octets a torn message is not mended: %+v", filler, r)
		}
	}
}

func TestMboxHeading(t *testing.T) {
	m := newMessage(letter)
	m.Sender = mail.NullSender
	m.Recipients[0].Original = "rfc822;webmaster+40example.net"
	m.Recipients[1].Original = "rfc822;x+0Ay+40example.net"
	m.Recipients[2].Original = "rfc822;bob@example.net"
	path := filepath.Join(t.TempDir(), "bob")
	for _, n := range []int{0, 1, 2} {
		mbox(path).Deliver(t.Context(), m, n)
	}
	const from = "From MAILER-DAEMON Fri Oct  9 07:40:52 2026\nReturn-Path: <>\n"
	got := read(t, path)
	for _, want := range []string{
		from + "X-Original-To: webmaster@example.net\nDelivered-To: bob@example.net\nSubject",
		from + "Delivered-To: carol@example.net\nSubject", from + "Delivered-To: bob@example.net\nSubject",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("mailbox has no %q:\n%s", want, got)
		}
	}
}

// Mail goes into a file that is the recipient's own and nobody else's, or it waits.
func TestMboxAttacks(t *testing.T) {
	const secret = "somebody else's file\n"
	tests := []struct {
		name    string
		prepare func(t *testing.T, path, victim string)
		code    mail.EnhancedCode
		text    string
		root    bool // only root can prepare this
	}{
		{"a symbolic link", func(t *testing.T, path, victim string) { symlink(t, victim, path) }, mail.EnhancedCode{4, 2, 0}, "symbolic link", false},
		{"a symbolic link to nothing", func(t *testing.T, path, victim string) { symlink(t, victim+".new", path) }, mail.EnhancedCode{4, 2, 0}, "symbolic link", false},
		{"a symbolic link of somebody else", func(t *testing.T, path, victim string) {
			symlink(t, victim, path)
			must(t, os.Lchown(path, 65534, 65534))
		}, mail.EnhancedCode{4, 2, 0}, "symbolic link", true},
		{"a hard link", func(t *testing.T, path, victim string) { must(t, os.Link(victim, path)) }, mail.EnhancedCode{4, 2, 0}, "2 names", false},
		{"a hard link to a symbolic link", func(t *testing.T, path, victim string) {
			symlink(t, victim, path+".sym")
			must(t, os.Link(path+".sym", path))
		}, mail.EnhancedCode{4, 2, 0}, "symbolic link", false},
		{"a file of somebody else", func(t *testing.T, path, _ string) {
			write1(t, path, older, 0o600)
			must(t, os.Chown(path, 65534, 65534))
		}, mail.EnhancedCode{4, 2, 0}, "belongs to user 65534", true},
		{"a FIFO", func(t *testing.T, path, _ string) { must(t, unix.Mkfifo(path, 0o600)) }, mail.EnhancedCode{4, 2, 0}, "is a pipe", false},
		{"a directory", func(t *testing.T, path, _ string) { must(t, os.Mkdir(path, 0o700)) }, mail.EnhancedCode{4, 2, 0}, "is a directory", false},
		{"a device", func(t *testing.T, path, _ string) {
			must(t, unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		}, mail.EnhancedCode{4, 2, 0}, "is a device", true},
		{"a socket", func(t *testing.T, path, _ string) {
			must(t, unix.Mknod(path, unix.S_IFSOCK|0o600, 0))
		}, mail.EnhancedCode{4, 2, 0}, "is a socket", false},
		{"a file that everybody can write to", func(t *testing.T, path, _ string) { write1(t, path, older, 0o666) }, mail.EnhancedCode{4, 2, 0}, "by everybody", false},
		{"a program", func(t *testing.T, path, _ string) { write1(t, path, older, 0o700) }, mail.EnhancedCode{5, 7, 1}, "is a program", false},
		{"a set-user-ID file", func(t *testing.T, path, _ string) { write1(t, path, older, 0o600|os.ModeSetuid) }, mail.EnhancedCode{5, 7, 1}, "is a program", false},
		{"a directory that everybody can write to", func(t *testing.T, path, _ string) {
			must(t, os.Chmod(filepath.Dir(path), 0o777))
		}, mail.EnhancedCode{4, 2, 0}, "can be written to by everybody", false},
		{"no directory", func(t *testing.T, path, _ string) { must(t, os.Remove(filepath.Dir(path))) }, mail.EnhancedCode{4, 2, 0}, "no such file", false},
		{"a file in place of the directory", func(t *testing.T, path, _ string) {
			must(t, os.Remove(filepath.Dir(path)))
			write1(t, filepath.Dir(path), secret, 0o600)
		}, mail.EnhancedCode{4, 3, 0}, "not a directory", false},
		{"a fresh dot lock", func(t *testing.T, path, _ string) { write1(t, path+".lock", "1\n", 0o600) }, mail.EnhancedCode{4, 2, 0}, "is locked: there is bob.lock", false},
		{"a dot lock that is a symbolic link", func(t *testing.T, path, victim string) { symlink(t, victim, path+".lock") }, mail.EnhancedCode{4, 2, 0}, "is locked", false},
		{"a dot lock that is a FIFO", func(t *testing.T, path, _ string) { must(t, unix.Mkfifo(path+".lock", 0o600)) }, mail.EnhancedCode{4, 2, 0}, "is locked", false},
		{"a kernel lock", func(t *testing.T, path, _ string) {
			write1(t, path, older, 0o600)
			lockFile(t, path)
		}, mail.EnhancedCode{4, 2, 0}, "is locked", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.root && os.Geteuid() != 0 {
				t.Skip("SKIPPED: needs root")
			}
			victim := filepath.Join(t.TempDir(), "victim")
			write1(t, victim, secret, 0o600)
			path := filepath.Join(filepath.Dir(victim), "mail", "bob")
			must(t, os.Mkdir(filepath.Dir(path), 0o700))
			tt.prepare(t, path, victim)
			r := mbox(path).Deliver(t.Context(), newMessage(letter), 0)
			action := mail.Delayed
			if tt.code.Class() == 5 {
				action = mail.Failed
			}
			if r.Action != action || r.Status() != tt.code || !strings.Contains(r.Reply.Text, tt.text) {
				t.Errorf("result = %+v, want %v %q", r, tt.code, tt.text)
			}
			if got := read(t, victim); got != secret {
				t.Errorf("the victim holds %q", got)
			}
			if _, err := os.Stat(victim + ".new"); err == nil {
				t.Error("made what a symbolic link points to")
			}
			if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() && st.Size() != int64(len(older)) && st.Size() != int64(len(secret)) && st.Size() != 0 {
				t.Errorf("the file has been written to: %d octets", st.Size())
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lockFile holds the kernel's lock on a file until the test ends.
func lockFile(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	must(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
}

func TestStaleDotLocksAreRemoved(t *testing.T) {
	dead := deadProcess(t)
	tests := []struct {
		name string
		text string
		age  time.Duration
		want mail.Action
	}{
		{"young, of another program", "1\n", time.Minute, mail.Delayed},
		{"old", "1\n", 10 * time.Minute, mail.Delivered},
		{"ours, and the process is gone", lockText(dead), 0, mail.Delivered},
		{"ours, and the process lives", lockText(os.Getppid()), 0, mail.Delayed},
		{"ours, and could not be removed", lockText(os.Getpid()), 0, mail.Delivered},
		{"of a process that is gone on another machine", fmt.Sprintf("%d\npostrider other-boot pid:[1]\n", dead), 0, mail.Delayed},
		{"of another program whose process is gone", fmt.Sprintf("%d\n", dead), 0, mail.Delayed},
		{"empty and young", "", 0, mail.Delayed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bob")
			write1(t, path+".lock", tt.text, 0o600)
			then := time.Now().Add(-tt.age)
			must(t, os.Chtimes(path+".lock", then, then))
			if r := mbox(path).Deliver(t.Context(), newMessage(letter), 0); r.Action != tt.want {
				t.Errorf("result = %+v, want %v", r, tt.want)
			}
			if _, err := os.Stat(path + ".lock"); (err == nil) != (tt.want == mail.Delayed) {
				t.Errorf("dot lock: %v", err)
			}
		})
	}
}

// deadProcess returns the ID of a process that has ended.
func deadProcess(t *testing.T) int {
	t.Helper()
	p, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
	must(t, err)
	_, err = p.Wait()
	must(t, err)
	return p.Pid
}

func TestMboxWaitsForALock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bob")
	write1(t, path+".lock", "1\n", 0o600)
	b := mbox(path)
	b.patience = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan mail.Result)
	go func() { done <- b.Deliver(ctx, newMessage(letter), 0) }()
	must(t, os.Remove(path+".lock"))
	if r := <-done; r.Action != mail.Delivered {
		t.Errorf("after the lock was given back: %+v", r)
	}
	write1(t, path+".lock", "1\n", 0o600)
	go func() { done <- b.Deliver(ctx, newMessage(letter), 1) }()
	cancel()
	if r := <-done; r.Action != mail.Delayed || !strings.Contains(r.Reply.Text, "no more time") {
		t.Errorf("told to stop: %+v", r)
	}
}

// Who exchanges the file for a link to somebody else's again and again never gets anything written there.
func TestMboxRace(t *testing.T) {
	const secret = "somebody else's file\n"
	rounds := 2000
	if testing.Short() {
		rounds = 200
	}
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "bob")
	write1(t, victim, secret, 0o600)
	symlink(t, victim, filepath.Join(dir, "sym"))
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			// His own file is there most of the time, the link only when the other is ready to take its place again.
			own, evil, link := filepath.Join(dir, "own"), filepath.Join(dir, "evil"), []string{victim, filepath.Join(dir, "sym")}[n%2]
			if err := errors.Join(os.Link(link, evil), os.WriteFile(own, nil, 0o600), os.Rename(evil, path), os.Rename(own, path)); err != nil {
				stopped <- err
				return
			}
		}
	}()
	counts := map[mail.Action]int{}
	for range rounds {
		counts[mbox(path).Deliver(t.Context(), newMessage(letter), 0).Action]++
	}
	close(stop)
	must(t, <-stopped)
	if got := read(t, victim); got != secret {
		t.Fatalf("the victim holds %q", got)
	}
	t.Logf("%d rounds: %v", rounds, counts)
}

func TestMboxModes(t *testing.T) {
	for mode, want := range map[os.FileMode]os.FileMode{0o700: 0o600, 0o755: 0o600, 0o770: 0o660, 0o775: 0o660, 0o777 | os.ModeSticky: 0o660} {
		dir := t.TempDir()
		must(t, os.Chmod(dir, mode))
		path := filepath.Join(dir, "bob")
		if r := mbox(path).Deliver(t.Context(), newMessage(letter), 0); r.Action != mail.Delivered {
			t.Errorf("in a directory with mode %v: %+v", mode, r)
			continue
		}
		st, err := os.Stat(path)
		must(t, err)
		if st.Mode() != want {
			t.Errorf("in a directory with mode %v the mailbox has %v, want %v", mode, st.Mode(), want)
		}
	}
}

func TestMboxFailureResults(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		scope  mail.Scope
		code   mail.EnhancedCode
		usable bool
	}{
		{"quota used up", &os.PathError{Op: "write", Path: "x", Err: unix.EDQUOT}, mail.OfRecipient, mail.EnhancedCode{4, 2, 2}, true},
		{"as large as a file may be", unix.EFBIG, mail.OfRecipient, mail.EnhancedCode{4, 2, 2}, true},
		{"disk full", unix.ENOSPC, mail.OfUs, mail.EnhancedCode{4, 3, 1}, true},
		{"disk broken", unix.EIO, mail.OfUs, mail.EnhancedCode{4, 3, 0}, false},
		{"disk read-only", unix.EROFS, mail.OfUs, mail.EnhancedCode{4, 3, 0}, false},
		{"not permitted", unix.EACCES, mail.OfRecipient, mail.EnhancedCode{4, 2, 0}, true},
		{"message unreadable", &contentError{unix.EIO}, mail.OfMessage, mail.EnhancedCode{4, 3, 0}, true},
	}
	for _, tt := range tests {
		s := &Session{One: func(context.Context, *mail.Message, int) mail.Result { return Mbox{}.failure(tt.err) }}
		r := s.Deliver(t.Context(), nil, []int{0})[0]
		if r.Action != mail.Delayed || r.Scope != tt.scope || r.Status() != tt.code || s.Usable() != tt.usable {
			t.Errorf("%s: %+v, usable %v; want scope %v, %v, %v", tt.name, r, s.Usable(), tt.scope, tt.code, tt.usable)
		}
	}
}

// On a full disk and beyond a limit nothing stays of the message that did not fit.
func TestMboxDiskFull(t *testing.T) {
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("SKIPPED: cannot mount a small tmpfs: %v", err)
	}
	defer func() { must(t, unix.Unmount(mount, 0)) }()
	path := filepath.Join(mount, "bob")
	write1(t, path, older, 0o600)
	big := newMessage("Subject: big\r\n\r\n" + strings.Repeat("x\r\n", 200_000))
	if r := mbox(path).Deliver(t.Context(), big, 0); r.Action != mail.Delayed || r.Status() != diskFull {
		t.Errorf("big message: %+v, want delayed 4.3.1", r)
	}
	if got := read(t, path); got != older {
		t.Errorf("mailbox holds %d octets, want what was there", len(got))
	}
	if r := mbox(path).Deliver(t.Context(), newMessage(letter), 0); r.Action != mail.Delivered {
		t.Errorf("small message: %+v, want delivered", r)
	}
}

func TestMboxUnreadableMessageLeavesNothing(t *testing.T) {
	for name, content := range map[string]io.ReaderAt{"broken": brokenContent{}, "cut short": strings.NewReader(letter[:len(letter)-20])} {
		path := filepath.Join(t.TempDir(), "bob")
		write1(t, path, older, 0o600)
		m := newMessage(letter)
		m.Content = content
		if r := mbox(path).Deliver(t.Context(), m, 0); r.Action != mail.Delayed || r.Scope != mail.OfMessage {
			t.Errorf("%s: %+v, want delayed, of the message", name, r)
		}
		if got := read(t, path); got != older {
			t.Errorf("%s: mailbox = %q", name, got)
		}
	}
}

func TestQuoter(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", ""},
		{"From x\n", ">From x\n"},
		{">From x\n>>>From y\n", ">>From x\n>>>>From y\n"},
		{"From\nFrom:\n From x\nfrom x\nx From y\n", "From\nFrom:\n From x\nfrom x\nx From y\n"},
		{"Fro", "Fro"},
		{">>", ">>"},
		{"a\nF", "a\nF"},
		{"F\nFrom \n", "F\n>From \n"},
		{">F>From x\n", ">F>From x\n"},
	}
	for _, tt := range tests {
		for size := 1; size <= len(tt.in)+1; size++ {
			if got := quote(t, tt.in, size); got != tt.want {
				t.Errorf("quoted %d octets at a time, %q = %q, want %q", size, tt.in, got, tt.want)
			}
		}
	}
}

func quote(t *testing.T, in string, size int) string {
	t.Helper()
	var b bytes.Buffer
	q := &quoter{w: &b}
	for piece := range slices.Chunk([]byte(in), size) {
		n, err := q.Write(piece)
		if err != nil || n != len(piece) {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	must(t, q.flush())
	return b.String()
}

// unquote is what a reader of mboxrd does.
func unquote(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if strings.HasPrefix(strings.TrimLeft(line, ">"), fromSpace) {
			line = strings.TrimPrefix(line, ">")
		}
		b.WriteString(line)
	}
	return b.String()
}

// Quoting can be undone, and no line of what is quoted begins a message.
func FuzzQuoter(f *testing.F) {
	f.Add("From x\n>From y\nFrom", 3)
	f.Add(">>\nFFrom \nF\nFr\n", 1)
	f.Fuzz(func(t *testing.T, text string, size int) {
		quoted := quote(t, text, min(max(size, 1), 100))
		if got := unquote(quoted); got != text {
			t.Errorf("%q comes back as %q", text, got)
		}
		if strings.HasPrefix(quoted, fromSpace) || strings.Contains(quoted, "\n"+fromSpace) {
			t.Errorf("%q is quoted as %q", text, quoted)
		}
	})
}

func BenchmarkMbox(b *testing.B) {
	content := "Subject: x\r\n\r\n" + strings.Repeat("A line of a letter, of no great length.\r\n", 50)
	path := filepath.Join(b.TempDir(), "bob")
	for i := range b.N {
		m := newMessage(fmt.Sprintf("Received: id %d\r\n", i) + content)
		if r := mbox(path).Deliver(b.Context(), m, 0); r.Action != mail.Delivered {
			b.Fatal(r)
		}
	}
}
