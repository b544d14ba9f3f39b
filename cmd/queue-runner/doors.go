package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/listen"
	"github.com/postrider/postrider/internal/submitd"
	"golang.org/x/sys/unix"
)

// A door is a socket that messages come in by.
type door struct {
	net.Listener
	submission bool // it is the submission socket; else SMTP is spoken
	inherited  bool // somebody else has opened it for us
}

// openDoors returns the sockets that systemd hands us, and those that the configuration names. It comes before root becomes
// the owner of the spool: some are root's to open.
func openDoors(cfg *config.Config) ([]door, error) {
	table, err := listen.Of(cfg)
	if err != nil {
		return nil, err
	}
	doors, err := inherited(filepath.Join(cfg.Spool, submitd.Socket))
	if err != nil {
		return nil, err
	}
	for _, e := range table.SMTP {
		if has, err := covered(doors, e); has || err != nil {
			if err != nil {
				return nil, errors.Join(err, closeDoors(doors))
			}
			continue
		}
		l, err := open(e)
		if err != nil {
			return nil, errors.Join(err, closeDoors(doors))
		}
		doors = append(doors, door{Listener: l})
	}
	return doors, nil
}

// covered reports whether who connects to an endpoint comes to one of the doors: also to one that systemd has opened for
// all addresses, beside which there can be no other at that port. It admits nobody whom the configuration does not.
func covered(doors []door, e listen.Endpoint) (bool, error) {
	for _, d := range doors {
		has, err := covers(d.Listener, e)
		if has || err != nil {
			return has, err
		}
	}
	return false, nil
}

func covers(l net.Listener, e listen.Endpoint) (bool, error) {
	if l.Addr().String() == e.Address {
		return true, nil
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok || e.Network == "unix" {
		return false, nil
	}
	wanted, err := netip.ParseAddrPort(e.Address)
	if err != nil {
		return false, err
	}
	to, at := wanted.Addr().Unmap(), tcp.Addr().(*net.TCPAddr).AddrPort()
	switch {
	case at.Port() != wanted.Port():
		return false, nil
	case at.Addr().Unmap() == to:
		return true, nil
	case !at.Addr().IsUnspecified():
		return false, nil
	case at.Addr().Is4() || to.Is6():
		return at.Addr().Is4() == to.Is4(), nil
	}
	only, err := onlyIPv6(tcp)
	return !only, err
}

// onlyIPv6 reports whether a socket of IPv6 takes no connections over IPv4.
func onlyIPv6(l *net.TCPListener) (only bool, err error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return false, err
	}
	var value int
	var failed error
	err = raw.Control(func(fd uintptr) { value, failed = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY) })
	return value != 0, errors.Join(err, failed)
}

func closeDoors(doors []door) error {
	var errs []error
	for _, d := range doors {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

func open(e listen.Endpoint) (net.Listener, error) {
	if e.Network == "unix" {
		return listenUnix(e.Address)
	}
	return net.Listen(e.Network, e.Address)
}

// listenUnix makes a socket that everybody may connect to. One that a process which died has left is replaced.
func listenUnix(path string) (net.Listener, error) {
	lock, err := lockSocket(path, 0)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // which lets go of the lock
	// Its mode is right from the beginning: to change it later is to change what the name stands for then.
	defer unix.Umask(unix.Umask(0o111))
	return replaceAbandoned(path)
}

// lockSocket waits for the lock that goes with a socket, unless flags say LOCK_NB. Without it, two that start at once take
// each other's new socket for an old one. It is on a file that no other user can open, and keep locked.
func lockSocket(path string, flags int) (*os.File, error) {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|flags)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", lock.Name(), err), lock.Close())
		}
	}
}

// replaceAbandoned makes a socket. It is for who has its lock.
func replaceAbandoned(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if !errors.Is(err, unix.EADDRINUSE) || !isAbandoned(path) {
		return l, err
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

// isAbandoned reports whether path is a socket that nobody listens at.
func isAbandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		err = conn.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}

// inherited returns the sockets that we were started with (sd_listen_fds(3)). That at the path is for submissions.
func inherited(submission string) (doors []door, err error) {
	pid, n := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	count, err := strconv.ParseUint(n, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_FDS: %w", err)
	}
	const first = 3
	for fd := range uintptr(count) {
		f := os.NewFile(first+fd, fmt.Sprintf("socket %d of LISTEN_FDS", fd))
		l, err := net.FileListener(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", f.Name(), err), closeDoors(doors))
		}
		doors = append(doors, door{l, l.Addr().String() == submission, true})
	}
	return doors, nil
}
