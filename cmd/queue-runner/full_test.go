package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	if err := os.Mkdir(d.filler(), 0o700); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *disk) filler() string { return filepath.Join(d.dir, "filler") }

func (d *disk) stat() (fs unix.Statfs_t) {
	d.t.Helper()
	if err := unix.Statfs(d.dir, &fs); err != nil {
		d.t.Fatal(err)
	}
	return fs
}

// leavePages fills the disk until so many pages are free.
func (d *disk) leavePages(pages int) {
	d.t.Helper()
	fs := d.stat()
	n := (int64(fs.Bfree) - int64(pages)) * fs.Bsize
	if err := os.WriteFile(filepath.Join(d.filler(), "pages"), bytes.Repeat([]byte{1}, int(max(n, 0))), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// leaveInodes fills the disk until so many inodes are free.
func (d *disk) leaveInodes(inodes int) {
	d.t.Helper()
	for n := int(d.stat().Ffree); n > inodes; n-- {
		if err := os.WriteFile(filepath.Join(d.filler(), strconv.Itoa(n)), nil, 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *disk) free() {
	d.t.Helper()
	if err := os.RemoveAll(d.filler()); err != nil {
		d.t.Fatal(err)
	}
}

// Wherever a pass runs out of room, it says 75 or defers, and when there is room again everybody gets his mail once. With a
// rate there is a file more to be written.
func TestPassOnAFullDisk(t *testing.T) {
	for _, of := range []struct {
		what        string
		most, steps int
		leave       func(*disk, int)
	}{
		{"pages", 48, 3, (*disk).leavePages},
		{"inodes", 8, 1, (*disk).leaveInodes},
	} {
		t.Run(of.what, func(t *testing.T) {
			var failed, uncounted atomic.Int32
			t.Cleanup(func() {
				if failed.Load() == 0 && !t.Failed() && os.Geteuid() == 0 {
					t.Error("no pass ran out of room: the disk was never full")
				}
				if uncounted.Load() == 0 && !t.Failed() && os.Geteuid() == 0 {
					t.Error("no pass could not count what it hands over")
				}
			})
			for n := 0; n <= of.most; n += of.steps {
				for _, rate := range []string{"", "rate = \"100/h\"\n"} {
					t.Run(fmt.Sprintf("%d free, %s", n, rate), func(t *testing.T) {
						t.Parallel()
						status, log := fillUp(t, rate, func(d *disk) { of.leave(d, n) })
						if status == 75 {
							failed.Add(1)
						}
						if strings.Contains(log, "which cannot be counted") {
							uncounted.Add(1)
						}
					})
				}
			}
		})
	}
}

// fillUp makes a pass on a disk that was filled, and others with room for whatever they like. It returns the first one's
// status and log.
func fillUp(t *testing.T, rate string, fill func(*disk)) (status int, log string) {
	d := newDisk(t, "size=4m,nr_inodes=100")
	s := smtptest.NewServer(t, smtptest.Options{Replies: map[string]string{"RCPT TO:<no@": "550 5.1.1 no such user"}})
	w := newWorld(t, "")
	w.dir = filepath.Join(d.dir, "spool")
	settings := fmt.Sprintf("spool = %q\nhostname = \"here.example\"\nlog = \"stderr\"\n[retry]\nfirst = \"1s\"\nmax_wait = \"1s\"\n"+
		"[transport.relay]\nurl = \"smtp://%s\"\n%s[[route]]\ntransport = \"relay\"\n", w.dir, s.Addr(), rate)
	if err := os.WriteFile(w.config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := spool.Create(w.dir); err != nil {
		t.Fatal(err)
	}
	w.submit("bob@example.net", "no@example.net")
	w.submit("cyd@example.net")
	fill(d)
	if status = w.run(); status != 0 && status != 75 {
		t.Errorf("exit %d:\n%s", status, w.log)
	}
	log = w.log
	d.free()
	// What was tried in vain is due again after a second, and next hops after a minute: that is not waited for.
	for deadline := time.Now().Add(time.Minute); len(w.waiting()) > 0 && time.Now().Before(deadline); {
		if status := w.run("--now"); status != 0 {
			t.Errorf("exit %d with room again:\n%s", status, w.log)
		}
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
	return status, log
}
