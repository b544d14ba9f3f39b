// Package doortest runs the programs as they are installed, and hands in messages by every way but the plain one: over the
// submission socket, by SMTP on standard input and on sockets, from sandboxes.
package doortest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/postrider/postrider/internal/submitd"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
)

// programs is the directory with the programs.
var programs string

// greetedBy makes the test binary a program that connects to a socket, and prints what it hears.
const greetedBy = "POSTRIDER_TEST_GREETED_BY"

func TestMain(m *testing.M) {
	if path := os.Getenv(greetedBy); path != "" {
		conn, err := net.Dial("unix", path)
		if err == nil {
			_, err = io.Copy(os.Stdout, io.LimitReader(conn, int64(len("220 "))))
		}
		if err != nil {
			fmt.Println(err)
		}
		return
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "doors-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs = dir
	out, err := exec.Command("make", "-s", "-C", "../..", "build", "BIN="+dir).CombinedOutput()
	// Others than root run them too.
	if err := errors.Join(err, os.Chmod(dir, 0o755)); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// A world is a spool, and a place from which nothing of it can be seen but its socket.
type world struct {
	t       *testing.T
	dir     string // short: the name of a socket has little room
	spool   string
	outside string // the spool as it looks from there
	held    bool   // no pass is made
}

func newWorld(t *testing.T, settings string) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "d-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, spool: filepath.Join(dir, "spool"), outside: filepath.Join(dir, "outside")}
	const common = "spool = %q\nhostname = \"here.example\"\ndomain = \"example.com\"\nrelay = \"discard:\"\nlog = \"stderr\"\n%s"
	for name, spool := range map[string]string{"in.toml": w.spool, "out.toml": w.outside} {
		if err := os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, common, spool, settings), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(w.outside, 0o755), spool.Create(w.spool), os.Symlink(filepath.Join(w.spool, submitd.Socket), filepath.Join(w.outside, submitd.Socket)))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// queueing is the setting that leaves messages where the tests look for them.
const queueing = "delivery = \"queue\"\n"

// program is one of ours. Its configuration is in.toml, or out.toml.
func (w *world) program(config, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(programs, name), args...)
	cmd.Env = []string{"POSTRIDER_CONFIG=" + filepath.Join(w.dir, config), "PATH=" + os.Getenv("PATH")}
	return cmd
}

// under has another program run the command.
func under(cmd *exec.Cmd, words ...string) *exec.Cmd {
	path, err := exec.LookPath(words[0])
	if err != nil {
		path = words[0]
	}
	cmd.Args = append(words, append([]string{cmd.Path}, cmd.Args[1:]...)...)
	cmd.Path = path
	return cmd
}

// listen makes a socket that a server is to be started with.
func (w *world) listen(network, address string) net.Listener {
	w.t.Helper()
	l, err := net.Listen(network, address)
	if err == nil && network == "unix" {
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		err = os.Chmod(address, 0o666)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	return l
}

func (w *world) submission() net.Listener {
	return w.listen("unix", filepath.Join(w.spool, submitd.Socket))
}

// A daemon is queue-runner, started as systemd starts it, with sockets. Nobody has to wait until it listens: they do.
type daemon struct {
	t   *testing.T
	cmd *exec.Cmd
	log bytes.Buffer
	end sync.Once
}

func (w *world) daemon(listeners ...net.Listener) *daemon {
	w.t.Helper()
	w.hold()
	d := &daemon{t: w.t, cmd: activated(w.t, w.program("in.toml", "queue-runner", "--daemon"), listeners...)}
	d.cmd.Stderr = &d.log
	if err := d.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { d.stop() })
	return d
}

// hold holds up every pass: it would take what the tests want to find.
func (w *world) hold() {
	w.t.Helper()
	if w.held {
		return
	}
	lock, err := os.OpenFile(filepath.Join(w.spool, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.held = true
	w.t.Cleanup(func() { lock.Close() })
}

// served waits until somebody serves the submission socket.
func (w *world) served() {
	for {
		if conn, err := submitd.Dial(w.spool); err == nil {
			conn.Close()
			return
		}
		runtime.Gosched()
	}
}

// activated has a command find sockets as sd_listen_fds(3) describes it.
func activated(t *testing.T, cmd *exec.Cmd, listeners ...net.Listener) *exec.Cmd {
	t.Helper()
	for _, l := range listeners {
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(listeners)))
	return under(cmd, "/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`)
}

// stop ends the daemon, which must end well, and returns its log.
func (d *daemon) stop() string {
	d.t.Helper()
	d.end.Do(func() {
		err := errors.Join(d.cmd.Process.Signal(syscall.SIGTERM), d.cmd.Wait())
		early := d.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM // before it had begun
		if err != nil && !early {
			d.t.Errorf("the daemon: %v\n%s", err, &d.log)
		}
	})
	return d.log.String()
}

// A letter is a message in the spool.
type letter struct {
	*drop.File
	content string
}

// letters returns what lies in the spool.
func (w *world) letters() (all []letter) {
	w.t.Helper()
	dir, err := drop.Open(filepath.Join(w.spool, "drop"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	defer dir.Close()
	ids, others, err := dir.Names()
	if err != nil || len(others) > 0 {
		w.t.Fatal(others, err)
	}
	for _, id := range ids {
		m, err := dir.Read(string(id))
		if err == nil {
			err = m.Verify()
		}
		if err != nil {
			w.t.Fatal(err)
		}
		content, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Size))
		if err := errors.Join(err, m.Close()); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, letter{m, string(content)})
	}
	return all
}

// one returns the only message in the spool.
func (w *world) one() letter {
	w.t.Helper()
	all := w.letters()
	if len(all) != 1 {
		w.t.Fatalf("%d messages are in the spool, want one", len(all))
	}
	return all[0]
}

// run runs a command to its end, and returns its output and exit status.
func run(t *testing.T, cmd *exec.Cmd, stdin string) (out string, status int) {
	t.Helper()
	cmd.Stdin = strings.NewReader(stdin)
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// accepts is run for a command that has to end well, and say nothing.
func accepts(t *testing.T, cmd *exec.Cmd, stdin string) {
	t.Helper()
	if out, status := run(t, cmd, stdin); status != 0 || out != "" {
		t.Fatalf("%q: exit %d, %q", cmd.Args, status, out)
	}
}

// asRoot skips a test that only root can make.
func asRoot(t *testing.T, tools ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can run programs as other users")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: %s is missing", tool)
		}
	}
}

// A user whom nobody knows.
const stranger = 12345

func asStranger(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	return cmd
}
