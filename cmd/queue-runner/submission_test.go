package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/submitd"
)

// shortWorld is a world in which the names of sockets have room, however long that of the test is.
func shortWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "s-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := newWorld(t, "relay = \"discard:\"\n")
	spool := filepath.Join(dir, "spool")
	w.configure(w.dir, spool)
	w.dir = spool
	return w
}

// daemon starts a daemon that takes mail by SMTP at a socket of its own, and waits until it takes mail at all.
func (w *world) daemon(name string) *background {
	w.t.Helper()
	text, err := os.ReadFile(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(w.dir), name)
	own := *w
	own.config = w.config + "." + name
	if err := os.WriteFile(own.config, fmt.Appendf(text, "[listen]\nsmtp = [%q]\n", "unix:"+path), 0o600); err != nil {
		w.t.Fatal(err)
	}
	b := own.start("--daemon", "--interval", "1h")
	for began := time.Now(); ; {
		conn, err := net.Dial("unix", path)
		if err != nil && time.Since(began) > time.Minute {
			w.t.Fatalf("daemon %s takes no mail: %v", name, err)
		}
		if err != nil {
			runtime.Gosched()
			continue
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		conn.Close()
		if !strings.HasPrefix(line, "220 ") {
			w.t.Fatalf("%q, %v at the socket of daemon %s", line, err, name)
		}
		return b
	}
}

func (b *background) end(sig syscall.Signal, status int) {
	b.t.Helper()
	if err := b.cmd.Process.Signal(sig); err != nil {
		b.t.Fatal(err)
	}
	if got := b.wait(); got != status {
		b.t.Errorf("exit %d after the signal %q, want %d", got, sig, status)
	}
}

const takenOver = "has ended: now it is served here"

// Of the daemons of a spool one serves the submission socket, and when it ends, well or not, another one does.
func TestSubmissionSocketIsTakenOver(t *testing.T) {
	w := shortWorld(t)
	socket := filepath.Join(w.dir, submitd.Socket)
	first, second := w.daemon("1"), w.daemon("2")
	w.daemon("3").end(syscall.SIGTERM, 0) // waiting keeps nobody from ending
	w.handIn("ann")

	first.end(syscall.SIGTERM, 0)
	second.until(takenOver)
	if info, err := os.Lstat(socket); err != nil || info.Mode() != fs.ModeSocket|0o666 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	w.handIn("bob")

	fourth := w.daemon("4")
	second.end(syscall.SIGKILL, -1)
	fourth.until(takenOver)
	w.handIn("cyd")
	fourth.until("to=<cyd@")

	fourth.end(syscall.SIGTERM, 0)
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// The lock of a daemon that is killed may be free before its socket is closed.
func TestSubmissionSocketOfOneWhoDies(t *testing.T) {
	path := filepath.Join(filepath.Dir(shortWorld(t).dir), submitd.Socket)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	go func() {
		conn, err := l.Accept()
		l.Close()
		if err == nil {
			conn.Close()
		}
	}()
	lock, err := lockSocket(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	succession := make(chan door)
	go succeed(t.Context(), path, succession, t.Logf)
	awaitWaiter(t, lock)
	lock.Close()
	if err := (<-succession).Close(); err != nil {
		t.Error(err)
	}
}

// awaitWaiter waits until somebody waits for a lock.
func awaitWaiter(t *testing.T, lock *os.File) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(lock.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	waiter := regexp.MustCompile(fmt.Sprintf(`-> FLOCK .*:%d 0 EOF`, st.Ino))
	for {
		locks, err := os.ReadFile("/proc/locks")
		if err != nil {
			t.Fatal(err)
		}
		if waiter.Match(locks) {
			return
		}
		runtime.Gosched()
	}
}

// Who serves the socket without its lock may be systemd, which starts a program for each connection.
func TestSubmissionSocketOfOneWithoutLock(t *testing.T) {
	w := shortWorld(t)
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", filepath.Join(w.dir, submitd.Socket))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	b := w.daemon("1")
	conn, err := other.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	other.Close()
	b.until(takenOver)
	w.handIn("ann")
	b.end(syscall.SIGTERM, 0)
}

// systemd puts its sockets in the place of what is there.
func TestSocketOfSomebodyElseIsLeft(t *testing.T) {
	w := shortWorld(t)
	socket := filepath.Join(w.dir, submitd.Socket)
	first := w.daemon("1")
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	second := w.daemon("2")
	first.end(syscall.SIGTERM, 0)
	for range 2 { // is he dying? and is anybody there?
		conn, err := other.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	second.end(syscall.SIGTERM, 0)
	if conn, err := submitd.Dial(w.dir); err != nil {
		t.Errorf("it is gone: %v", err)
	} else {
		conn.Close()
	}
}

// A second daemon that is to listen where the first one does says so, and ends.
func TestAddressInUse(t *testing.T) {
	w := shortWorld(t)
	w.daemon("1")
	w.config += ".1"
	b := w.start("--daemon")
	b.until("queue-runner: listen unix " + filepath.Join(filepath.Dir(w.dir), "1") + ": bind: address already in use")
	if status := b.wait(); status != exitTempfail {
		t.Errorf("exit %d", status)
	}
	w.handIn("ann")
}
