package demo

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestDemo runs what the README shows first: the script fails when a step does not show what it claims.
func TestDemo(t *testing.T) {
	dir, err := os.MkdirTemp("", "demo-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin, work := filepath.Join(dir, "bin"), filepath.Join(dir, "work")
	// Others than root run the programs, too.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(bin, 0o755), os.Mkdir(work, 0o755)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("make", "-s", "-C", "..", "build", "BIN="+bin).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	demo := exec.Command("./demo.sh", bin)
	demo.Env = append(os.Environ(), "TMPDIR="+work)
	if os.Geteuid() == 0 {
		// It needs no rights.
		const anybody = 12345
		demo.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: anybody, Gid: anybody}}
		if err := os.Chown(work, anybody, anybody); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := demo.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
