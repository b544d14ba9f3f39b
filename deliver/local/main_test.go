package local

import (
	"fmt"
	"os"
	"testing"

	"github.com/postrider/postrider/internal/crashtest"
)

func TestMain(m *testing.M) {
	if err := crashtest.OwnMounts(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
