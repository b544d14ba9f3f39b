package realtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostname is the name of the machine that the world pretends to be.
const hostname = "web1.example"

// A world is a Debian machine made of namespaces. Its process 1 reads from a pipe that we hold: when we close it or die,
// it ends, and the kernel ends everything else in there and unmounts what was mounted.
type world struct {
	t    *testing.T
	pid  int      // of its process 1, as seen from here
	root *os.Root // its file system; no symbolic link leads out of it
}

// genesis makes the file systems of a world. $1 is the unpacked Debian, $2 an empty directory to mount on, $3 the
// directory that becomes its /var/spool/postrider: on a disk, since no spool lies in memory.
const genesis = `
mount --make-rprivate /
mount -t tmpfs layers "$2"
mkdir "$2/changes" "$2/work" "$2/root"
mount -t overlay world -o "lowerdir=$1,upperdir=$2/changes,workdir=$2/work" "$2/root"
cd "$2/root"
mount -t proc proc proc
mount -t tmpfs dev dev
mkdir -p dev/shm var/spool/postrider
for node in "null 3" "zero 5" "full 7" "random 8" "urandom 9"; do mknod -m 666 "dev/${node% *}" c 1 "${node#* }"; done
mknod -m 666 dev/tty c 5 0
ln -s /proc/self/fd dev/fd
mount --bind "$3" var/spool/postrider
chroot . hostname ` + hostname + `
chroot . ip link set lo up
exec chroot . sh -c "echo ready; exec cat"
`

// newWorld starts a world over the unpacked Debian. It ends with the test.
func newWorld(t *testing.T, debian string) *world {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-euc", genesis, "genesis", debian, t.TempDir(), t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start a world: %v", err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("end the world: %v", err)
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("make the file systems of a world: %v\n%s", err, &stderr)
	}
	return &world{t: t, pid: cmd.Process.Pid, root: openRoot(t, cmd.Process.Pid)}
}

// with returns the world for a part of the test.
func (w *world) with(t *testing.T) *world {
	c := *w
	c.t = t
	return &c
}

// openRoot opens the root directory of process 1 of a world. All files there are reached through it, so it must not be
// the root of this machine.
func openRoot(t *testing.T, pid int) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	theirs, err := root.Stat(".")
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.Stat("/")
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(ours, theirs) {
		t.Fatal("the world has the root directory of this machine; refusing to touch it")
	}
	return root
}

// write creates a file and the directories above it. Names are relative to the root of the world; owner is a name from
// users.
func (w *world) write(name string, content []byte, mode os.FileMode, owner string) {
	w.t.Helper()
	if err := w.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := w.root.WriteFile(name, content, mode.Perm()); err != nil {
		w.t.Fatal(err)
	}
	w.own(name, mode, owner)
}

// mkdir creates a directory, or gives an existing one its owner and mode.
func (w *world) mkdir(name string, mode os.FileMode, owner string) {
	w.t.Helper()
	if err := w.root.MkdirAll(name, 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.own(name, mode, owner)
}

// own gives a file its owner and mode; the owner first, since chown takes the set-ID bits away.
func (w *world) own(name string, mode os.FileMode, owner string) {
	w.t.Helper()
	u := users[owner]
	if err := errors.Join(w.root.Chown(name, u.uid, u.gid), w.root.Chmod(name, mode)); err != nil {
		w.t.Fatal(err)
	}
}

// read returns the content of a file.
func (w *world) read(name string) []byte {
	w.t.Helper()
	b, err := w.root.ReadFile(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// command prepares to run a program as a user, in that user's home. Its environment is that of a login, in a UTF-8
// locale.
func (w *world) command(user string, argv ...string) *exec.Cmd {
	u := users[user]
	enter := []string{"--target", strconv.Itoa(w.pid), "--all", "--root", "--wd"}
	if u.uid != 0 {
		enter = append(enter, "--setuid", strconv.Itoa(u.uid), "--setgid", strconv.Itoa(u.gid))
	}
	cmd := exec.Command("nsenter", append(append(enter, "--", "env", "-C", u.home), argv...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + u.home, "USER=" + user, "LOGNAME=" + user, "SHELL=/bin/sh", "LC_ALL=C.UTF-8"}
	return cmd
}

// run runs a program to its end and returns what it printed on both outputs. It waits for the children that it left
// behind as well, as long as they hold an output open.
func (w *world) run(user string, stdin []byte, argv ...string) (string, error) {
	cmd := w.command(user, argv...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, &out)
	}
	return out.String(), nil
}

// must is run for what cannot fail if the world is sound.
func (w *world) must(user string, argv ...string) string {
	w.t.Helper()
	out, err := w.run(user, nil, argv...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// dial connects to a port of the world's loopback interface.
func (w *world) dial(port int) (conn net.Conn, err error) {
	err = w.within(func() error {
		conn, err = net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		return err
	})
	return conn, err
}

// within calls f in the network of the world: a socket belongs to the network namespace that its thread was in when it
// was made.
func (w *world) within(f func() error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: the thread, which is of no use outside any more, ends with the goroutine.
		runtime.LockOSThread()
		done <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", w.pid))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter the network of the world: %w", err)
			}
			return f()
		}()
	}()
	return <-done
}

// eventually waits until something holds that another process brings about.
func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited two minutes in vain until %s", what)
		}
	}
}
