package demo

import (
	"os/exec"
	"testing"
)

// TestDemo runs what the README shows first: the script fails when a step does not show what it claims.
func TestDemo(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-tags", "urfave_cli_no_docs,urfave_cli_no_suggest", "-o", bin,
		"../cmd/sendmail", "../cmd/mailq", "../cmd/queue-runner")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.Command("./demo.sh", bin).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
