package realtest

import (
	"os"
	"os/exec"
	"testing"
)

// prove skips the test unless the proof was asked for and can be had.
func prove(t *testing.T) {
	t.Helper()
	if os.Getenv("POSTRIDER_PROOF") == "" {
		t.Skip("SKIPPED: real input is not proven; set POSTRIDER_PROOF=1 (needs root, apt and dpkg)")
	}
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: real input is not proven; POSTRIDER_PROOF needs root")
	}
	for _, tool := range []string{"apt-get", "dpkg", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: real input is not proven; POSTRIDER_PROOF needs %s", tool)
		}
	}
}
