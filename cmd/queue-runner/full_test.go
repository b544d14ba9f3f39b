package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/smtptest"
	"github.com/postrider/postrider/spool"
	"golang.org/x/sys/unix"
)

// A disk is a small file system of its own.
type disk struct {
	t   *testing.T
	dir string
}

func newDisk(t *testing.T, options string) *disk {
	t.Helper()
	d := &disk{t: t, dir: filepath.Join(t.TempDir(), "disk")}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", d.dir, "tmpfs", 0, options); err != nil {
		t.Skipf("SKIPPED: disks that are full need the right to mount one: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(d.dir, unix.MNT_DETACH) })
	return d
}

func (d *disk) filler() string { return filepath.Join(d.dir, "filler") }

// fill leaves so many pages free.
func (d *disk) fill(pages int) {
	d.t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(d.dir, &fs); err != nil {
		d.t.Fatal(err)
	}
	n := (int64(fs.Bfree) - int64(pages)) * fs.Bsize
	if err := os.WriteFile(d.filler(), bytes.Repeat([]byte{1}, int(max(n, 0))), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *disk) free() {
	d.t.Helper()
	if err := os.Remove(d.filler()); err != nil {
		d.t.Fatal(err)
	}
}

// Wherever a pass runs out of room, it says 75 or defers, and when there is room again everybody gets his mail once.
func TestPassOnAFullDisk(t *testing.T) {
	var failed atomic.Int32
	t.Cleanup(func() {
		if failed.Load() == 0 && !t.Failed() && os.Geteuid() == 0 {
			t.Error("no pass ran out of room: the disk was never full")
		}
	})
	for pages := 0; pages <= 48; pages += 3 {
		t.Run(fmt.Sprintf("%d pages", pages), func(t *testing.T) {
			t.Parallel()
			d := newDisk(t, "size=4m")
			s := smtptest.NewServer(t, smtptest.Options{Replies: map[string]string{"RCPT TO:<no@": "550 5.1.1 no such user"}})
			w := newWorld(t, relayTo(s))
			w.dir = filepath.Join(d.dir, "spool")
			settings := fmt.Sprintf("spool = %q\nhostname = \"here.example\"\nlog = \"stderr\"\n%s[retry]\nfirst = \"1s\"\nmax_wait = \"1s\"\n", w.dir, relayTo(s))
			if err := os.WriteFile(w.config, []byte(settings), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := spool.Create(w.dir); err != nil {
				t.Fatal(err)
			}
			w.submit("bob@example.net", "no@example.net")
			w.submit("cyd@example.net")
			d.fill(pages)
			switch status := w.run(); status {
			case 0:
			case 75:
				failed.Add(1)
			default:
				t.Errorf("exit %d:\n%s", status, w.log)
			}
			d.free()
			w.pass()
			// What was tried in vain is due again after a second.
			for deadline := time.Now().Add(time.Minute); len(w.waiting()) > 0 && time.Now().Before(deadline); w.pass() {
				time.Sleep(100 * time.Millisecond)
			}
			if got := w.waiting(); len(got) != 0 {
				t.Errorf("waiting: %q\n%s", got, w.log)
			}
			count := map[string]int{}
			for _, m := range s.Messages() {
				for _, r := range m.Recipients {
					count[r.Address]++
				}
			}
			for _, rcpt := range []string{"bob@example.net", "cyd@example.net", "ann@example.org"} {
				if count[rcpt] != 1 {
					t.Errorf("%s got %d messages, want 1\n%s", rcpt, count[rcpt], w.log)
				}
			}
			if bad, err := os.ReadDir(filepath.Join(w.dir, "bad")); err != nil || len(bad) > 0 {
				t.Errorf("set aside: %v, %v", bad, err)
			}
		})
	}
}
