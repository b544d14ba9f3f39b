package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/listen"
	"golang.org/x/sys/unix"
)

// Every user may open the directory of the spool, and lock it.
func TestListenWhateverOthersLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	abandoned, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	abandoned.(*net.UnixListener).SetUnlinkOnClose(false)
	abandoned.Close()
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(path + ".lock"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("what is locked instead is %v, %v; nobody else may open it", info, err)
	}
}

// An address of the configuration is not opened where a socket that we were given gets what comes to it.
func TestInheritedSocketsCover(t *testing.T) {
	for _, tt := range []struct {
		network, at string
		covers      []string
		not         []string
	}{
		{"tcp4", "127.0.0.1:0", []string{"127.0.0.1", "::ffff:127.0.0.1"}, []string{"127.0.0.2", "0.0.0.0", "::1"}},
		{"tcp4", "0.0.0.0:0", []string{"127.0.0.1", "192.0.2.1", "0.0.0.0"}, []string{"::1", "::"}},
		{"tcp", "[::]:0", []string{"127.0.0.1", "0.0.0.0", "::1", "2001:db8::1", "::"}, nil},
		{"tcp6", "[::]:0", []string{"::1", "::"}, []string{"127.0.0.1", "0.0.0.0"}},
		{"tcp6", "[::1]:0", []string{"::1"}, []string{"::", "2001:db8::1", "127.0.0.1"}},
	} {
		t.Run(tt.network+" "+tt.at, func(t *testing.T) {
			l, err := net.Listen(tt.network, tt.at)
			if err != nil && strings.Contains(tt.at, "::") {
				t.Skipf("SKIPPED: no IPv6 here: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			doors := []door{{Listener: l, inherited: true}}
			port := l.Addr().(*net.TCPAddr).Port
			check := func(addr string, port int, want bool) {
				e := listen.Endpoint{Network: "tcp", Address: net.JoinHostPort(addr, strconv.Itoa(port))}
				if got, err := covered(doors, e); got != want || err != nil {
					t.Errorf("%s: covered is %v, %v; want %v", e, got, err, want)
				}
			}
			for _, addr := range tt.covers {
				check(addr, port, true)
				check(addr, port^1, false)
			}
			for _, addr := range tt.not {
				check(addr, port, false)
			}
			if got, err := covered(doors, listen.Endpoint{Network: "unix", Address: "/run/smtp"}); got || err != nil {
				t.Errorf("unix socket: %v, %v", got, err)
			}
		})
	}
}
