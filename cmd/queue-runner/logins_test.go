package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A password is not shown while it is typed; all else is again, however the program ends.
func TestPasswordAtATerminal(t *testing.T) {
	for _, tt := range []struct {
		name, typed, out string
		ended            syscall.Signal
	}{
		{name: "a password", typed: "secret\n", out: "ann:"},
		{name: "the interrupt key", typed: "sec\x03", ended: syscall.SIGINT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			keyboard, terminal := openTerminal(t)
			cmd := exec.Command(os.Args[0], "login", "ann")
			cmd.Env = append(os.Environ(), asCommand+"=1")
			var out strings.Builder
			cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, &out, terminal
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			screen := bufio.NewReader(keyboard)
			if prompt, err := screen.ReadString(':'); err != nil || prompt != "Password:" {
				t.Errorf("prompt %q, %v", prompt, err)
			}
			if shows(t, terminal) {
				t.Error("what is typed is shown")
			}
			if _, err := keyboard.WriteString(tt.typed); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // the status says it
			if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() != (tt.ended != 0) || s.Signaled() && s.Signal() != tt.ended {
				t.Errorf("ended with %v", cmd.ProcessState)
			}
			if !strings.HasPrefix(out.String(), tt.out) {
				t.Errorf("printed %q", out.String())
			}
			if !shows(t, terminal) {
				t.Error("the terminal has been left silent")
			}
		})
	}
}

// openTerminal returns both ends of a new terminal.
func openTerminal(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	if err := keyboard.SetDeadline(time.Now().Add(time.Minute)); err != nil { // else a missing prompt is waited for
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return keyboard, terminal
}

// shows reports whether a terminal shows what is typed.
func shows(t *testing.T, terminal *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}
