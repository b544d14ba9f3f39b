package local

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// Containers may forbid unshare(2), and mail is delivered all the same, as privately.
func TestPipeWhereUnshareIsForbidden(t *testing.T) {
	if os.Getenv("UNSHARE") != "forbidden" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "UNSHARE=forbidden")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	forbidUnshare(t)
	defer unix.Umask(unix.Umask(0o022))
	dir := t.TempDir()
	p := program(t, "cat >/dev/null; umask >"+dir+"/umask")
	if r := p.Deliver(t.Context(), newMessage(letter), 0); r.Action != mail.Delivered {
		t.Errorf("result = %+v", r)
	}
	if got := read(t, dir, "umask"); got != "0077\n" {
		t.Errorf("umask %q", got)
	}
	if now := unix.Umask(0o022); now != 0o022 {
		t.Errorf("it leaves us with %#o", now)
	}
}

// forbidUnshare has the kernel answer EPERM to unshare(2) in this process from now on (seccomp(2)).
func forbidUnshare(t *testing.T) {
	t.Helper()
	const number = 0 // of the system call, in what the filter sees
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_UNSHARE},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	all := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&all)))
	if errno != 0 {
		t.Fatal(errno)
	}
}
