package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// anybody is a user without rights, whom passwd(5) need not have.
const anybody = 12345

// A place is a directory with the programs in bin, and a directory work that belongs to who tries them.
type place struct{ dir, bin, work string }

func newPlace(t *testing.T) place {
	t.Helper()
	dir, err := os.MkdirTemp("", "demo-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := place{dir, filepath.Join(dir, "bin"), filepath.Join(dir, "work")}
	// Others than root run the programs, too.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(p.bin, 0o755), os.Mkdir(p.work, 0o755)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("make", "-s", "-C", "..", "build", "BIN="+p.bin).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(p.work, anybody, anybody); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// TestDemo runs what the README shows first: the script fails when a step does not show what it claims.
func TestDemo(t *testing.T) {
	p := newPlace(t)
	alone := isolate()
	demo := exec.Command("./demo.sh", p.bin)
	demo.Env = append(os.Environ(), "TMPDIR="+p.work)
	if os.Geteuid() == 0 {
		// It needs no rights.
		demo.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: anybody, Gid: anybody}}
	}
	if out, err := demo.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if alone != nil {
		t.Skipf("SKIPPED: the demo works, but not seen is whether it does without a network: %v", alone)
	}
}

// isolate takes the calling goroutine, and the programs it starts from now on, to a network that ends at this host.
func isolate() error {
	runtime.LockOSThread() // for good: the thread ends with the goroutine, and nobody else gets it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network: %w", err)
	}
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return errors.Join(unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo), unix.Close(socket))
}

// bare hides what an installation on this machine would have, and its log, and goes on as anybody.
const bare = `
if [ -e /etc/postrider ]; then mount -t tmpfs none /etc/postrider; fi
mount -t tmpfs none /var/spool
mount -t tmpfs none /run
exec setpriv --reuid="$ANYBODY" --regid="$ANYBODY" --clear-groups "$@"`

// TestWithoutConfiguration types what the README tells a newcomer to type, and finds the message where it says.
func TestWithoutConfiguration(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^    (printf .*\| bin/sendmail .*)$`).FindAllSubmatch(readme, -1)
	if len(found) != 1 {
		t.Fatalf("the README hands %d messages to bin/sendmail, want 1", len(found))
	}
	p := newPlace(t)
	typed := func(command string) string {
		t.Helper()
		cmd := exec.Command("sh", "-c", command)
		asAnybody(t, cmd)
		cmd.Dir, cmd.Env = p.dir, append(cmd.Env, "HOME="+p.work, "PATH="+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return string(out)
	}
	// The pass goes on when sendmail has ended; then it is ours.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if out := typed(string(found[0][1])); out != "" {
		t.Errorf("sendmail says %q", out)
	}
	awaitAll(t)
	arrived, err := filepath.Glob(filepath.Join(p.work, ".local/state/postrider/Maildir/new/*"))
	if err != nil || len(arrived) != 1 {
		t.Fatalf("%d messages in the Maildir, want 1 (%v)\n%s", len(arrived), err, typed("bin/mailq"))
	}
	message, err := os.ReadFile(arrived[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nDelivered-To: you@example.com\n", "\nSubject: hello\n", "\n\nIt works.\n"} {
		if !strings.Contains(string(message), want) {
			t.Errorf("%q is not in the message:\n%s", want, message)
		}
	}
	if out := typed("bin/mailq"); out != "Mail queue is empty\n" {
		t.Errorf("mailq says:\n%s", out)
	}
	if left, err := os.ReadDir(p.work); err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v; want only .local", left, err)
	}
}

// asAnybody makes cmd one of a user without rights on a machine where nothing is installed.
func asAnybody(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if os.Geteuid() == 0 && exec.Command("unshare", "-m", "mount", "-t", "tmpfs", "none", os.TempDir()).Run() == nil {
		unshare, err := exec.LookPath("unshare")
		if err != nil {
			t.Fatal(err)
		}
		cmd.Path, cmd.Args = unshare, append([]string{"unshare", "-m", "sh", "-euc", bare, "sh"}, cmd.Args...)
		cmd.Env = []string{fmt.Sprintf("ANYBODY=%d", anybody)}
		return
	}
	for _, installed := range []string{"/etc/postrider/postrider.toml", "/var/spool/postrider"} {
		if _, err := os.Stat(installed); !errors.Is(err, fs.ErrNotExist) {
			t.Skipf("SKIPPED: no mount namespaces here, and %s would be used", installed)
		}
	}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: anybody, Gid: anybody}}
	}
}

// awaitAll waits until all children have ended, also those of others that were left to us.
func awaitAll(t *testing.T) {
	t.Helper()
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
			return
		} else if err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
}
