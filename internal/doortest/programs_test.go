package doortest

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/postrider/postrider/internal/submitd"
	"golang.org/x/sys/unix"
)

// What sendmail goes on as, or leaves behind, delivers what comes later, and ends when it is told to.
func TestSendmailAsDaemon(t *testing.T) {
	for _, tt := range []struct {
		name, option string
		leaves       bool
	}{
		{"in the foreground", "-bD", false},
		{"in the background", "-bd", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			box := filepath.Join(t.TempDir(), "box")
			w := newWorld(t, queueing+"[transport.box]\nurl = \"maildir:"+box+"\"\n[[route]]\ntransport = \"box\"\n")
			cmd := w.program("in.toml", "sendmail", tt.option, "-q30m")
			var daemon *os.Process
			if tt.leaves {
				adoptOrphans(t)
				accepts(t, cmd, "")
				daemon = w.servant()
			} else {
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				daemon = cmd.Process
				w.served()
			}
			t.Cleanup(func() { daemon.Kill() })
			accepts(t, w.program("in.toml", "sendmail", "bob@example.net"), hello)
			arrived := func() []string {
				names, err := filepath.Glob(filepath.Join(box, "new/*"))
				if err != nil {
					t.Fatal(err)
				}
				return names
			}
			for len(arrived()) == 0 {
				runtime.Gosched()
			}
			if err := daemon.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if state, err := daemon.Wait(); err != nil || !state.Success() {
				t.Errorf("the daemon: %v, %v", state, err)
			}
			for _, dir := range []string{"drop", "queue", "bad"} {
				if left, err := os.ReadDir(filepath.Join(w.spool, dir)); err != nil || len(left) > 0 {
					t.Errorf("%s: %v, %v", dir, left, err)
				}
			}
			if n := len(arrived()); n != 1 {
				t.Errorf("%d messages arrived, want one", n)
			}
		})
	}
}

// adoptOrphans makes what is left behind during the test ours to wait for.
func adoptOrphans(t *testing.T) {
	t.Helper()
	adopt := func(yes uintptr) {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, yes, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	adopt(1)
	t.Cleanup(func() { adopt(0) })
}

// servant waits until somebody serves the submission socket, and returns who.
func (w *world) servant() *os.Process {
	w.t.Helper()
	w.served()
	conn, err := submitd.Dial(w.spool)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	peer, err := unix.GetsockoptUcred(int(conn.Fd()), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := os.FindProcess(int(peer.Pid))
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// A configuration that is there, and not for us, is not passed over as if it were missing.
func TestConfigurationOfOthers(t *testing.T) {
	asRoot(t)
	w := newWorld(t, queueing)
	config := filepath.Join(w.dir, "in.toml")
	if err := os.Chmod(config, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"sendmail", "bob@example.net"}, {"sendmail", "-t", "-C", config}, {"sendmail", "-bs"}, {"sendmail", "-bd"}, {"sendmail", "-bC"},
		{"queue-runner"}, {"queue-runner", "--daemon"}, {"queue-runner", "check"}, {"mailq"},
	} {
		want := args[0] + ": " + config + ": permission denied\n"
		if out, status := run(t, asStranger(w.program("in.toml", args[0], args[1:]...)), hello); status != 78 || out != want {
			t.Errorf("%q: exit %d, %q; want 78, %q", args, status, out, want)
		}
	}
	if n := len(w.letters()); n > 0 {
		t.Errorf("%d messages are in the spool", n)
	}
}
