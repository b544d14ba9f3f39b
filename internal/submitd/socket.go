package submitd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is the name of the submission socket in the directory of the spool.
const Socket = "submit.sock"

// May reports whether there is a socket of the spool at dir that we may connect to. Nobody need be there.
func May(dir string) bool {
	return unix.Faccessat(unix.AT_FDCWD, filepath.Join(dir, Socket), unix.W_OK, unix.AT_EACCESS) == nil
}

// dialTimeout is how long a server may leave a client waiting before it looks at it.
const dialTimeout = time.Minute

// Dial connects to the server of the spool at dir. The connection has deadlines.
func Dial(dir string) (*os.File, error) {
	path := filepath.Join(dir, Socket)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := connect(fd, path); err != nil {
		return nil, errors.Join(&os.PathError{Op: "connect to", Path: path, Err: err}, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), path), nil
}

func connect(fd int, path string) error {
	// While it connects, the socket blocks: one that does not would fail when the server is a little behind.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: int64(dialTimeout.Seconds())}); err != nil {
		return err
	}
	for {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if err == nil {
			return unix.SetNonblock(fd, true)
		}
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// PeerUID returns the user ID of who is at the other end of a unix socket: the one that he had when he connected.
func PeerUID(conn syscall.Conn) (uid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	errControl := raw.Control(func(fd uintptr) { uid, err = PeerOf(int(fd)) })
	if err := errors.Join(errControl, err); err != nil {
		return -1, fmt.Errorf("who is at the other end: %w", err)
	}
	return uid, nil
}

// PeerOf is PeerUID for a descriptor.
func PeerOf(fd int) (uid int, err error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return -1, os.NewSyscallError("getsockopt", err)
	}
	if cred.Uid == overflow && inUserNamespace() {
		return -1, ErrOutside
	}
	return int(cred.Uid), nil
}

// ErrOutside is the error for a peer who has no user ID in our user namespace: he could be anybody.
var ErrOutside = errors.New("a user from outside our user namespace")

// overflow is the user ID that user_namespaces(7) gives to those that are not mapped. Elsewhere it is that of nobody, who
// is somebody.
const overflow = 65534

// inUserNamespace reports whether there are users outside of ours.
func inUserNamespace() bool {
	mapping, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(mapping)), " ") != "0 0 4294967295"
}
