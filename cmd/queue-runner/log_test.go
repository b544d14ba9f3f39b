package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/postrider/postrider/internal/smtptest"
)

func TestLogOnStderr(t *testing.T) {
	open := func(path string) *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOCTTY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	null, file, terminal := open(os.DevNull), open(filepath.Join(t.TempDir(), "log")), open("/dev/ptmx")
	st, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sys := st.Sys().(*syscall.Stat_t)
	stream := fmt.Sprintf("%d:%d", sys.Dev, sys.Ino)
	tests := []struct {
		name              string
		f                 *os.File
		stream            string
		terminal, journal bool
	}{
		{"a terminal", terminal, "", true, false},
		{"nowhere", null, "", false, false},
		{"nowhere, started by a service", null, stream, false, false},
		{"a file", file, "", false, false},
		{"the journal", file, stream, false, true},
		{"a file, started by a service", file, "8:1", false, false},
	}
	for _, tt := range tests {
		if got := isTerminal(tt.f); got != tt.terminal {
			t.Errorf("%s: isTerminal = %t", tt.name, got)
		}
		if got := isJournal(tt.f, tt.stream); got != tt.journal {
			t.Errorf("%s: isJournal = %t", tt.name, got)
		}
	}
}

// TestLogOfPassFromSendmail checks that a pass whose output goes nowhere tells syslog what it did, and why it ended.
func TestLogOfPassFromSendmail(t *testing.T) {
	if err := exec.Command("unshare", "-m", "mount", "-t", "tmpfs", "none", "/run").Run(); err != nil {
		t.Skip("SKIPPED: no mounts of our own")
	}
	if _, err := os.Stat("/dev/log"); err == nil {
		t.Skip("SKIPPED: /dev/log exists, and would be used")
	}
	s := smtptest.NewServer(t, smtptest.Options{})
	w := newWorld(t, "")
	socket := filepath.Join(filepath.Dir(w.dir), "log")
	syslogd, err := net.ListenPacket("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer syslogd.Close()
	// runs makes a pass as sendmail does, and returns its exit status and what syslog has got when it has ended.
	runs := func() (status int, log string) {
		cmd := w.command()
		cmd.Args = append([]string{"unshare", "-m", "sh", "-c", `mount -t tmpfs none /run && ln -s "$0" /run/syslog && exec "$@"`, socket}, cmd.Args...)
		if cmd.Path, err = exec.LookPath("unshare"); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, "JOURNAL_STREAM=8:1")
		var exit *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if _, err := syslogd.(*net.UnixConn).WriteTo([]byte("end"), syslogd.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 8<<10)
		for !strings.HasSuffix(log, "end") {
			n, _, err := syslogd.ReadFrom(buf)
			if err != nil {
				t.Fatal(err)
			}
			log += string(buf[:n])
		}
		return cmd.ProcessState.ExitCode(), log
	}
	settings := fmt.Sprintf("spool = %q\nhostname = \"here.example\"\n%s", w.dir, relayTo(s))
	if err := os.WriteFile(w.config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	w.submit("bob@example.net")
	if status, log := runs(); status != 0 || !strings.Contains(log, "to=<bob@example.net>") {
		t.Errorf("exit %d, and syslog has %q", status, log)
	}
	if err := os.RemoveAll(filepath.Join(w.dir, "queue")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "queue"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, log := runs(); status != 75 || !strings.Contains(log, "the pass ended early: ") {
		t.Errorf("spool without queue: exit %d, and syslog has %q", status, log)
	}
}
