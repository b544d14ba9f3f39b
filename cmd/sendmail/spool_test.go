package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMoveDir is about file systems that cannot rename without replacing.
func TestMoveDir(t *testing.T) {
	for _, missing := range []error{unix.EINVAL, unix.ENOSYS} {
		dir := t.TempDir()
		tmp, path := filepath.Join(dir, "tmp"), filepath.Join(dir, "spool")
		move := func() {
			t.Helper()
			if err := os.Mkdir(tmp, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := moveDir(tmp, path, func(_, _ string) error { return missing }); err != nil {
				t.Errorf("%v: %v", missing, err)
			}
			if _, err := os.Stat(tmp); !os.IsNotExist(err) {
				t.Errorf("%v: something is left: %v", missing, err)
			}
		}
		move()
		message := filepath.Join(path, "message")
		if err := os.WriteFile(message, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		move() // somebody else was faster
		if _, err := os.Stat(message); err != nil {
			t.Errorf("%v: %v", missing, err)
		}
	}
}

func TestErrorOnOneLine(t *testing.T) {
	if got := onOneLine(errors.Join(errors.New("no space"), errors.New("cannot close"))); got != "no space; cannot close" {
		t.Errorf("onOneLine = %q", got)
	}
}
