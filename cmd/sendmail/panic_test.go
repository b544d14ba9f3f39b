package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// panics names the variable that makes the test binary sendmail itself, with a standard input or output that panics when
// it is used.
const panics = "POSTRIDER_TEST_PANICS"

func runPanicking() int {
	stdin, stdout := os.Stdin, os.Stdout
	if os.Getenv(panics) == "stdin" {
		stdin = new(os.File)
	} else {
		stdout = new(os.File)
	}
	return run(os.Args, stdin, stdout, os.Stderr)
}

// A mistake of ours is told in one line as everything else is, and nobody sends a message again that is queued.
func TestPanic(t *testing.T) {
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, which, args string
		status, queued    int
	}{
		{"before there is a message", "stdout", "-d0.1", 70, 0},
		{"while the message is read", "stdin", "bob@example.net", 70, 0},
		{"once it is queued", "stdout", "-v bob@example.net", 0, 1}, // whoever delivers it is to write to stdout
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, "")
			for name, content := range map[string][]byte{"sendmail": self, "queue-runner": []byte(helper)} {
				if err := os.WriteFile(filepath.Join(w.dir, name), content, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			cmd := w.sendmail(strings.Fields(tt.args)...)
			cmd.Path = filepath.Join(w.dir, "sendmail")
			cmd.Env = append(cmd.Env, panics+"="+tt.which)
			cmd.Stdin = strings.NewReader("Subject: x\n\nhi\n")
			if tt.status != 0 {
				checkRefusal(t, cmd, tt.status, "sendmail: internal error: ")
			} else if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v, %q", err, out)
			}
			if n := len(w.messages("spool")); n != tt.queued {
				t.Errorf("%d messages are queued, want %d", n, tt.queued)
			}
		})
	}
}
