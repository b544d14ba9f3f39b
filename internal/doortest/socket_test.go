package doortest

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/postrider/postrider/internal/submitd"
)

const hello = "To: bob@example.net\nSubject: hello\n\nIt works.\n"

func TestSubmissionSocket(t *testing.T) {
	w := newWorld(t, queueing)
	d := w.daemon(w.submission())
	cmd := w.program("out.toml", "sendmail", "-t", "-i", "-f", "ann@example.org", "-F", "Ann", "-N", "never", "-V", "id1", "-R", "hdrs", "cyd")
	accepts(t, cmd, hello+".\nend\n")
	m := w.one()
	if got := fmt.Sprint(m.Sender, m.Recipients, m.ID, m.Return, m.Submitter); got != fmt.Sprintf("<ann@example.org> [{<cyd@example.com> NEVER  false} {<bob@example.net> NEVER  false}]id1HDRS %d", os.Getuid()) {
		t.Errorf("queued for %s", got)
	}
	for _, want := range []string{"From: Ann <ann@example.org>\r\n", "\r\n\r\nIt works.\r\n.\r\nend\r\n", fmt.Sprintf("by here.example (postrider, from userid %d)\r\n", os.Getuid())} {
		if !strings.Contains(m.content, want) {
			t.Errorf("%q is not in %q", want, m.content)
		}
	}
	if left, err := os.ReadDir(w.outside); err != nil || len(left) != 1 {
		t.Errorf("outside there is %v, %v; want the socket", left, err)
	}
	if log := d.stop(); log != "" {
		t.Errorf("log: %s", log)
	}
}

// What the environment has for a name is no line of a request.
func TestNameWithALineEnd(t *testing.T) {
	w := newWorld(t, queueing)
	w.daemon(w.submission())
	for _, name := range []string{"Ann\n", "Ann\nsender: <eve@example.org>", "Ann\tB"} {
		cmd := w.program("out.toml", "sendmail", "-f", "ann@example.org", "bob")
		cmd.Env = append(cmd.Env, "NAME="+name)
		accepts(t, cmd, hello)
	}
	for _, m := range w.letters() {
		if m.Sender.Address() != "ann@example.org" || strings.Contains(m.content, "From: Ann") {
			t.Errorf("queued from %s:\n%s", m.Sender, m.content)
		}
	}
}

// Who submits is who the kernel says, and the server knows more of him than he may see himself.
func TestStrangersAtTheSocket(t *testing.T) {
	asRoot(t, "setpriv", "unshare", "chroot")
	users := []struct {
		name string
		cmd  func(w *world) *exec.Cmd
		uid  int
		from string
	}{
		{"another user", func(w *world) *exec.Cmd {
			return asStranger(w.program("out.toml", "sendmail", "-t"))
		}, stranger, "12345@example.com"},
		{"one who can get no rights", func(w *world) *exec.Cmd {
			return under(w.program("out.toml", "sendmail", "-t"), "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "--no-new-privs", "--bounding-set=-all")
		}, stranger, "12345@example.com"},
		{"root of a user namespace", func(w *world) *exec.Cmd {
			return asStranger(under(w.program("out.toml", "sendmail", "-t"), "unshare", "--user", "--map-root-user"))
		}, stranger, "12345@example.com"},
		{"daemon", func(w *world) *exec.Cmd {
			cmd := w.program("out.toml", "sendmail", "-t")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1, Gid: 1}}
			return cmd
		}, 1, "daemon@example.com"},
		{"root who may write nothing", func(w *world) *exec.Cmd {
			const script = `mount --bind "$SPOOL" "$SPOOL" && mount -o remount,bind,ro "$SPOOL" && exec "$0" "$@"`
			cmd := under(w.program("in.toml", "sendmail", "-t"), "unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", script)
			cmd.Env = append(cmd.Env, "SPOOL="+w.spool)
			return cmd
		}, 0, "root@example.com"},
		{"a user in a chroot", func(w *world) *exec.Cmd { return jailed(w, "--userspec=1:1") }, 1, "daemon@example.com"},
		{"root in a chroot", func(w *world) *exec.Cmd { return jailed(w) }, 0, "root@example.com"},
	}
	for _, tt := range users {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, queueing)
			w.daemon(w.submission())
			cmd := tt.cmd(w)
			out, status := run(t, cmd, hello)
			if strings.Contains(out, "unshare: unshare failed") {
				t.Skipf("SKIPPED: no user namespaces here: %s", out)
			}
			if status != 0 || out != "" {
				t.Fatalf("%q: exit %d, %q", cmd.Args, status, out)
			}
			m := w.one()
			if m.Submitter != tt.uid || m.Sender.Address() != tt.from {
				t.Errorf("queued from user %d, %s; want %d, %s", m.Submitter, m.Sender, tt.uid, tt.from)
			}
			if _, err := os.Stat(filepath.Join(w.outside, "drop")); err == nil {
				t.Error("a spool was made outside, where nobody will look")
			}
		})
	}
}

// jailed is sendmail in a directory where there is nothing else but the socket, in the usual place.
func jailed(w *world, options ...string) *exec.Cmd {
	w.t.Helper()
	const inside = "/var/spool/postrider"
	root := filepath.Join(w.dir, "root")
	socket := filepath.Join(root, inside, submitd.Socket)
	script := fmt.Sprintf("mkdir -p %s && cp %s %s && touch %s && mount --bind %s %s && exec chroot %s %s /sendmail -t",
		filepath.Dir(socket), filepath.Join(programs, "sendmail"), root, socket, filepath.Join(w.spool, submitd.Socket), socket, strings.Join(options, " "), root)
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", script)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	return cmd
}

// A user's own daemon, with his relay and his password, is not there for others.
func TestPrivateDaemon(t *testing.T) {
	asRoot(t)
	w := newWorld(t, queueing)
	if err := exec.Command("chown", "-R", fmt.Sprint(stranger), w.spool).Run(); err != nil {
		t.Fatal(err)
	}
	cmd := asStranger(w.program("in.toml", "queue-runner", "--daemon"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() }()
	w.served()
	other := w.program("out.toml", "sendmail", "bob")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1, Gid: 1}}
	if out, status := run(t, other, hello); status != 77 || out != "sendmail: this is the queue of user 12345, for his own mail\n" {
		t.Errorf("exit %d, %q", status, out)
	}
	accepts(t, asStranger(w.program("out.toml", "sendmail", "bob")), hello)
	accepts(t, w.program("out.toml", "sendmail", "bob"), hello)
}

// In a user namespace those outside of it have no user ID: nobody knows who they are.
func TestOutsideTheNamespace(t *testing.T) {
	asRoot(t, "unshare")
	w := newWorld(t, queueing)
	daemon := under(w.program("in.toml", "queue-runner", "--daemon"), "unshare", "--user", "--map-root-user")
	var log strings.Builder
	daemon.Stderr = &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { daemon.Process.Signal(syscall.SIGTERM); daemon.Wait() }()
	w.served()
	out, status := run(t, asStranger(w.program("out.toml", "sendmail", "bob")), hello)
	if status != 75 || out != "sendmail: who you are is not known here\n" {
		t.Errorf("exit %d, %q", status, out)
	}
	accepts(t, w.program("out.toml", "sendmail", "bob"), hello)
}

func TestStatusOverTheSocket(t *testing.T) {
	for _, tt := range []struct {
		name, settings string
		args           []string
		stdin          string
		status         int
		says           string
	}{
		{"too large", "max_message_size = 1000\n", []string{"bob"}, strings.Repeat("x", 300<<10), 69, "sendmail: message is larger than 1000 octets"},
		{"no recipients", "", []string{"-t"}, "Subject: x\n\n", 64, "sendmail: no recipients in the header"},
		{"a recipient that is no address", "", []string{"-t", "-oep"}, "To: a b\n\n", 65, "sendmail: not a recipient address"},
		{"too many hops", "", []string{"bob"}, strings.Repeat("Received: x\n", 200) + "\n", 65, "sendmail: too many hops"},
		{"input that cannot be read", "", []string{"bob"}, "", 66, "sendmail: cannot read message"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, queueing+tt.settings)
			w.daemon(w.submission())
			cmd := w.program("out.toml", "sendmail", tt.args...)
			if tt.status == 66 {
				under(cmd, "/bin/sh", "-c", `exec "$0" "$@" </`)
			}
			if out, status := run(t, cmd, tt.stdin); status != tt.status || !strings.HasPrefix(out, tt.says) || strings.Count(out, "\n") != 1 {
				t.Errorf("exit %d, %q; want %d, %q", status, out, tt.status, tt.says)
			}
			if n := len(w.letters()); n > 0 {
				t.Errorf("%d messages are in the spool", n)
			}
		})
	}
}

func TestNobodyServesTheSocket(t *testing.T) {
	w := newWorld(t, queueing)
	cmd := w.program("out.toml", "sendmail", "bob")
	// What is left of a server that has died.
	w.submission().Close()
	if out, status := run(t, cmd, hello); status != 75 || !strings.HasPrefix(out, "sendmail: cannot queue message: connect to "+w.outside+"/submit.sock: connection refused\n") {
		t.Errorf("exit %d, %q", status, out)
	}
}

// A daemon that finds what another one has left, when that one was killed, replaces it, and takes its own away.
func TestDaemonMakesTheSocket(t *testing.T) {
	w := newWorld(t, queueing)
	w.submission().Close()
	socket := filepath.Join(w.spool, submitd.Socket)
	d := w.daemon()
	w.served()
	if after, err := os.Lstat(socket); err != nil || after.Mode() != os.ModeSocket|0o666 {
		t.Errorf("the socket: %v, %v", after.Mode(), err)
	}
	// A second daemon leaves it to the first.
	second := w.program("in.toml", "queue-runner", "--daemon")
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	accepts(t, w.program("out.toml", "sendmail", "bob"), hello)
	if err := second.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = second.Wait() // the signal may have come before it listened to signals
	accepts(t, w.program("out.toml", "sendmail", "bob"), hello)
	if n := len(w.letters()); n != 2 {
		t.Errorf("%d messages are in the spool, want 2", n)
	}
	if d.stop(); true {
		if _, err := os.Lstat(socket); !os.IsNotExist(err) {
			t.Errorf("the socket is left: %v", err)
		}
	}
}

func TestManyAtTheSocket(t *testing.T) {
	w := newWorld(t, queueing)
	w.daemon(w.submission())
	const clients, each = 8, 10
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			for n := range each {
				subject := fmt.Sprintf("Subject: %d-%d\n\n%s", c, n, strings.Repeat("x\n", 1000*n))
				if out, status := run(t, w.program("out.toml", "sendmail", "bob"), subject); status != 0 {
					t.Errorf("exit %d, %q", status, out)
				}
			}
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for _, m := range w.letters() {
		_, subject, _ := strings.Cut(m.content, "Subject: ")
		subject, _, _ = strings.Cut(subject, "\r\n")
		seen[subject] = true
	}
	if len(seen) != clients*each || len(w.letters()) != clients*each {
		t.Errorf("%d messages with %d subjects, want %d", len(w.letters()), len(seen), clients*each)
	}
}

// A message that is longer than sendmail keeps in memory, whose writer is killed, was never one.
func TestKilledAtTheSocket(t *testing.T) {
	w := newWorld(t, queueing)
	w.daemon(w.submission())
	cmd := w.program("out.toml", "sendmail", "-i", "bob")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "Subject: x\n\n"+strings.Repeat("x\n", 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	// The next message is behind it.
	accepts(t, w.program("out.toml", "sendmail", "bob"), hello)
	if m := w.one(); !strings.Contains(m.content, "It works.") {
		t.Errorf("queued: %.100q", m.content)
	}
}

// accept serves one connection, as inetd and systemd start it, and delivers what came.
func TestAccept(t *testing.T) {
	w := newWorld(t, "")
	l := w.submission().(*net.UnixListener)
	cmd := w.program("out.toml", "sendmail", "bob@example.net")
	cmd.Stdin = strings.NewReader(hello)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	f, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	server := w.program("in.toml", "queue-runner", "accept")
	server.Stdin, server.Stdout = f, f
	var log strings.Builder
	server.Stderr = &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("sendmail: %v", err)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("queue-runner accept: %v\n%s", err, &log)
	}
	if want := "to=<bob@example.net>, relay=discard, "; !strings.Contains(log.String(), want) {
		t.Errorf("%q is not in the log:\n%s", want, &log)
	}
}

func TestAcceptNeedsAConnection(t *testing.T) {
	w := newWorld(t, "")
	if out, status := run(t, w.program("in.toml", "queue-runner", "accept"), ""); status != 64 || !strings.Contains(out, "standard input is no connection") {
		t.Errorf("exit %d, %q", status, out)
	}
}
