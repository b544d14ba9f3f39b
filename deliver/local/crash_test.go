package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/crashtest"
	"golang.org/x/sys/unix"
)

// Whatever happens at whichever system call, what is reported as delivered is there, whole, and after another attempt
// everything is there exactly once. In every second trial the mail reader has moved files in between.
func TestExactlyOnce(t *testing.T) {
	sweepAll(t, "Maildir", trial, crashtest.Errno(unix.EIO), crashtest.PersistentErrno(unix.ENOSPC))
}

// The same for an mbox, where an attempt that was killed may leave a torn message until the next one; one that met an
// error may not. In every second trial somebody else's message has been appended in between, unless the end is torn.
func TestMboxExactlyOnce(t *testing.T) {
	sweepAll(t, "mbox", mboxTrial, crashtest.Errno(unix.EDQUOT))
}

// A trialFunc makes an attempt with a fault and another one without, and says whether the fault fired and what was wrong.
type trialFunc func(program, path string, at int, kind crashtest.Kind, reboot func() error) (fired bool, err error)

func sweepAll(t *testing.T, name string, trial trialFunc, errs ...crashtest.Kind) {
	if err := crashtest.Supported(); err != nil {
		t.Skipf("NOT PROVEN HERE: %v", err)
	}
	// A program of its own, without the race detector and its thousands of calls.
	program := filepath.Join(t.TempDir(), "deliver")
	build := exec.Command("go", "build", "-o", program, "./testdata/deliver")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, kind := range append(errs, crashtest.Kill()) {
		t.Run(kind.String(), func(t *testing.T) {
			sweep(t, func(at int) (bool, error) {
				return trial(program, filepath.Join(t.TempDir(), name), at, kind, func() error { return nil })
			})
		})
	}
	t.Run("power loss", func(t *testing.T) {
		disk, err := crashtest.NewDisk(t.TempDir(), crashtest.Ext4Writeback())
		if err != nil {
			t.Skipf("POWER LOSS NOT PROVEN HERE: %v", err)
		}
		defer disk.Close()
		sweep(t, func(at int) (bool, error) {
			if err := errors.Join(disk.Unmount(), disk.Restore(), disk.Mount()); err != nil {
				return false, err
			}
			path := filepath.Join(disk.Dir(), name)
			return trial(program, path, at, crashtest.PowerLoss(disk.Dir()), func() error {
				return errors.Join(disk.Reboot(), getOld(path+".lock"))
			})
		})
	})
}

// getOld makes a dot lock as old as it is when anybody may remove it: one that lost its text with the power has no other
// sign that nobody is behind it.
func getOld(lock string) error {
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(lock, then, then); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func sweep(t *testing.T, trial func(at int) (bool, error)) {
	fired, findings := crashtest.Sweep{}.Run(func(_, at int) (bool, error) { return trial(at) })
	for _, err := range findings {
		t.Error(err)
	}
	if fired < 20 {
		t.Errorf("%d faults fired; the delivery alone has more calls", fired)
	}
	t.Logf("%d faults fired", fired)
}

func trial(program, dir string, at int, kind crashtest.Kind, reboot func() error) (fired bool, err error) {
	command := crashtest.Command{Path: program, Args: []string{"maildir", dir}}
	r, err := crashtest.Run(command, crashtest.Fault{At: at, Kind: kind})
	if err := errors.Join(err, reboot()); err != nil {
		return r.Fired, err
	}
	n, err := count(dir)
	if err != nil {
		return r.Fired, err
	}
	if r.Succeeded() && n != 2 {
		return r.Fired, fmt.Errorf("%d files after exit %d", n, r.Code())
	}
	if at%2 == 0 {
		if err := readMail(dir); err != nil {
			return r.Fired, err
		}
	}
	again, err := crashtest.Run(command, crashtest.Fault{})
	if err != nil {
		return r.Fired, err
	}
	if n, err = count(dir); err == nil && (again.Code() != 0 || n != 2) {
		err = fmt.Errorf("%d files after another attempt with exit %d: %s", n, again.Code(), again.Stderr)
	}
	return r.Fired, err
}

// count returns how many messages the mail reader sees; a torn one is an error.
func count(dir string) (n int, err error) {
	for _, sub := range []string{"new", "cur"} {
		files, err := filepath.Glob(filepath.Join(dir, sub, "*"))
		if err != nil {
			return 0, err
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				return 0, err
			}
			if !strings.HasSuffix(string(b), "Last line.\n") {
				return 0, fmt.Errorf("torn: %s: %q", name, b)
			}
			n++
		}
	}
	return n, nil
}

// readMail does what a mail reader does with what it has shown.
func readMail(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "new", "*"))
	if err != nil {
		return err
	}
	for _, name := range files {
		if err := os.Rename(name, filepath.Join(dir, "cur", filepath.Base(name)+":2,S")); err != nil {
			return err
		}
	}
	return nil
}

func mboxTrial(program, path string, at int, kind crashtest.Kind, reboot func() error) (fired bool, err error) {
	command := crashtest.Command{Path: program, Args: []string{"mbox", path}}
	r, err := crashtest.Run(command, crashtest.Fault{At: at, Kind: kind})
	if err := errors.Join(err, reboot()); err != nil {
		return r.Fired, err
	}
	got, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return r.Fired, err
	}
	bob, carol := crashText("bob"), crashText("carol")
	whole := slices.Contains([]string{"", bob, bob + carol, carol}, string(got))
	if survived := r.Code() >= 0; survived && !whole || r.Succeeded() && string(got) != bob+carol {
		return r.Fired, fmt.Errorf("exit %d and mailbox %q", r.Code(), got)
	}
	between := ""
	if at%2 == 0 && whole {
		between = older
		if err := os.WriteFile(path, append(got, between...), 0o600); err != nil {
			return r.Fired, err
		}
	}
	again, err := crashtest.Run(command, crashtest.Fault{})
	if err != nil {
		return r.Fired, err
	}
	got, err = os.ReadFile(path)
	rest := string(got)
	for _, part := range []string{bob, carol, between} {
		if n := strings.Count(rest, part); part != "" && n != 1 {
			err = errors.Join(err, fmt.Errorf("%q is there %d times", part, n))
		}
		rest = strings.Replace(rest, part, "", 1)
	}
	if err != nil || again.Code() != 0 || rest != "" {
		err = fmt.Errorf("after another attempt with exit %d the mailbox holds %q: %w: %s", again.Code(), got, err, again.Stderr)
	}
	return r.Fired, err
}

func crashText(to string) string {
	return "From MAILER-DAEMON Fri Oct  9 07:40:52 2026\nReturn-Path: <>\nDelivered-To: " + to + "@example.net\n" +
		"Subject: hello\n\nFirst line.\nLast line.\n\n"
}
