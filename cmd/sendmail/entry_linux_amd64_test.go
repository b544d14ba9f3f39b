package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The runtime says how many processors it uses, and the kernel how long a wait may take, and that no files are open that
// say how many processors a container may use.
func TestEntryPoint(t *testing.T) {
	w := newWorld(t, "")
	for _, tt := range []struct{ caller, says string }{
		{"X=Y", "gomaxprocs=1 "},
		{"GOMAXPROCS=3", "gomaxprocs=3 "},
	} {
		cmd := w.sendmail("root")
		cmd.Env = append(cmd.Env, "GODEBUG=schedtrace=1", tt.caller)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stderr).ReadString('\n') // so it is past its start
		if err != nil || !strings.Contains(line, tt.says) {
			t.Errorf("with %q the runtime says %q (%v)", tt.caller, line, err)
		}
		slack, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", cmd.Process.Pid))
		if string(slack) != "1000000\n" {
			t.Errorf("a wait may take %q ns longer (%v)", slack, err)
		}
		open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid))
		for _, fd := range open {
			if file, _ := os.Readlink(fd); strings.HasPrefix(file, "/sys/fs/cgroup/") {
				t.Errorf("%s is open", file)
			}
		}
		if len(open) == 0 {
			t.Errorf("no descriptors are open (%v)", err)
		}
		stdin.Close()
		_, err = io.Copy(io.Discard, stderr)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			t.Errorf("with %q: %v", tt.caller, err)
		}
	}
}

// What sendmail starts, and what it becomes, is neither slow nor limited to one processor.
func TestStartedAsCalled(t *testing.T) {
	w := newWorld(t, "")
	dir, seen := t.TempDir(), filepath.Join(w.dir, "seen")
	for _, name := range []string{"queue-runner", "mailq"} {
		script := fmt.Sprintf("#!/bin/sh\nexec >%q\ncat /proc/self/timerslack_ns\nulimit -Sn\nenv | grep GOMAXPROCS\nexit 0\n", seen)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(programs, "sendmail"), filepath.Join(dir, "sendmail")); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(before), 0, 0, 0) }()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 77_000, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	for i, args := range [][]string{{"-odi", "root"}, {"-bp"}, {"-q"}, {"-q"}} {
		cmd := exec.Command("sh", append([]string{"-c", `ulimit -Sn 78; exec "$0" "$@"`, filepath.Join(dir, "sendmail")}, args...)...)
		cmd.Env = append(w.sendmail().Env, "PATH="+os.Getenv("PATH"))
		want := "77000\n78\n"
		if i > 2 {
			cmd.Env = append(cmd.Env, "GOMAXPROCS=1") // the caller's own
			want += "GOMAXPROCS=1\n"
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v, %q", args, err, out)
		}
		got, err := os.ReadFile(seen)
		if string(got) != want {
			t.Errorf("what %q starts says %q (%v)", args, got, err)
		}
		if err := os.Remove(seen); err != nil {
			t.Fatal(err)
		}
	}
}

// A caller that has more open than it may open again still gets rid of its mail, and a pass is made.
func TestCallerThatLeavesManyOpen(t *testing.T) {
	w := newWorld(t, "")
	for _, how := range []string{"-odq", "-odi"} {
		started := filepath.Join(w.dir, how)
		cmd := w.sendmail(how, "root")
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `ulimit -Sn 20; exec "$0" "$@"`}, cmd.Args...)
		cmd.Env = append(cmd.Env, "STARTED="+started, "PATH="+os.Getenv("PATH"))
		for range 40 {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v, %q", how, err, out)
		}
		if _, err := os.Stat(started); (err == nil) != (how == "-odi") {
			t.Errorf("%s: %v", how, err)
		}
	}
	if all := w.messages("spool"); len(all) != 2 {
		t.Errorf("%d messages are in the spool", len(all))
	}
}

// The name service is asked by a program that has to open files.
func TestNameServiceHasDescriptors(t *testing.T) {
	if !mayMount() {
		t.Skip("SKIPPED: how the name service is asked is not seen: no mount namespaces here")
	}
	w := newWorld(t, "")
	getent := filepath.Join(w.dir, "getent")
	script := "#!/bin/sh\nif [ \"$(ulimit -Sn)\" = 78 ]; then echo known:x:12345:12345::/:/bin/sh; fi\n"
	err := errors.Join(os.WriteFile(getent, []byte(script), 0o755), os.Chown(w.dir, nobodyKnows, nobodyKnows))
	if err != nil {
		t.Fatal(err)
	}
	cmd := w.sendmail("root")
	const mounted = `mount --bind "$GETENT" /usr/bin/getent && ulimit -Sn 78 && exec setpriv --reuid=12345 --clear-groups "$0" "$@"`
	cmd.Args = append([]string{"unshare", "-m", "sh", "-c", mounted}, cmd.Args...)
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"), "GETENT="+getent)
	if cmd.Path, err = exec.LookPath("unshare"); err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v, %q", err, out)
	}
	if all := w.messages("spool"); len(all) != 1 || all[0].Sender.Address() != "known@example.com" {
		t.Errorf("queued %+v, want one message from known@example.com", all)
	}
}
