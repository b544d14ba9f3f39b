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

// The runtime says how many processors it uses, whatever the caller prefers, and the kernel how long a wait may take.
func TestEntryPoint(t *testing.T) {
	w := newWorld(t, "")
	for _, environment := range []string{"", "GOMAXPROCS=2"} {
		cmd := w.sendmail("root")
		cmd.Env = append(cmd.Env, "GODEBUG=schedtrace=1", environment)
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
		if err != nil || !strings.Contains(line, "gomaxprocs=1 ") {
			t.Errorf("with %q the runtime says %q (%v)", environment, line, err)
		}
		slack, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", cmd.Process.Pid))
		if string(slack) != "1000000\n" {
			t.Errorf("a wait may take %q ns longer (%v)", slack, err)
		}
		stdin.Close()
		_, err = io.Copy(io.Discard, stderr)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			t.Errorf("with %q: %v", environment, err)
		}
	}
}

// What sendmail starts, and what it becomes, is neither slow nor limited to one processor.
func TestStartedAsCalled(t *testing.T) {
	w := newWorld(t, "")
	dir, seen := t.TempDir(), filepath.Join(w.dir, "seen")
	for _, name := range []string{"queue-runner", "mailq"} {
		script := fmt.Sprintf("#!/bin/sh\nexec >%q\ncat /proc/self/timerslack_ns\nenv | grep GOMAXPROCS\nexit 0\n", seen)
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
	for _, args := range [][]string{{"-odi", "root"}, {"-bp"}, {"-q"}} {
		cmd := exec.Command(filepath.Join(dir, "sendmail"), args...)
		cmd.Env = append(w.sendmail().Env, "PATH="+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v, %q", args, err, out)
		}
		got, err := os.ReadFile(seen)
		if string(got) != "77000\n" {
			t.Errorf("what %q starts says %q (%v)", args, got, err)
		}
		if err := os.Remove(seen); err != nil {
			t.Fatal(err)
		}
	}
}
