package crashtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// moduleRoot is where the programs are built from.
const moduleRoot = "../.."

// workers is how many trials run at once.
func workers() int { return runtime.GOMAXPROCS(0) }

// inProof returns the first value when everything is to be tried (make proof), else the second, which takes seconds.
func inProof[T any](all, some T) T {
	if os.Getenv("POSTRIDER_PROOF") != "" {
		return all
	}
	return some
}

// A hazard is what is done to a program at each of its calls, and where.
type hazard struct {
	name string
	fs   *FileSystem // nil is a plain directory
	kind func(*ground) Kind
}

func (h hazard) String() string {
	if h.fs == nil {
		return h.name
	}
	return h.name + " on " + h.fs.Type + " " + h.fs.Options
}

// hazards returns all of them; the first three are tried always, the fourth with sendmail.
func hazards() []hazard {
	ext4, writeback, xfs := Ext4(), Ext4Writeback(), XFS()
	is := func(k Kind) func(*ground) Kind { return func(*ground) Kind { return k } }
	return []hazard{
		{"kill", nil, is(Kill())},
		{"power loss", &ext4, (*ground).power},
		// With an error too the power goes in the end: that a failed sync was ignored is seen in no other way.
		{"EIO", &ext4, is(Errno(unix.EIO))},
		{"ENOSPC", &ext4, is(Errno(unix.ENOSPC))},
		{"power loss", &writeback, (*ground).power},
		{"power loss", &xfs, (*ground).power},
		{"EDQUOT", &ext4, is(Errno(unix.EDQUOT))},
		{"EMFILE", &ext4, is(Errno(unix.EMFILE))},
		{"EIO for ever", &ext4, is(PersistentErrno(unix.EIO))},
		{"ENOSPC for ever", &ext4, is(PersistentErrno(unix.ENOSPC))},
		{"EMFILE for ever", &ext4, is(PersistentErrno(unix.EMFILE))},
		{"SIGTERM", nil, is(Signal(unix.SIGTERM))},
		{"SIGHUP", nil, is(Signal(unix.SIGHUP))},
		{"SIGINT", nil, is(Signal(unix.SIGINT))},
	}
}

func needTracer(t *testing.T) {
	t.Helper()
	if err := Supported(); err != nil {
		t.Skipf("NOT PROVEN HERE: %v", err)
	}
}

// newDisk returns a disk that is unmounted when the test ends.
func newDisk(t *testing.T, fs FileSystem) *Disk {
	t.Helper()
	d, err := NewDisk(t.TempDir(), fs)
	if err == nil {
		err = d.Mount()
	}
	if err != nil {
		t.Skipf("POWER LOSS NOT PROVEN HERE: no %s whose power could be cut: %v", fs.Type, err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// programs are the built commands.
type programs struct {
	sendmail    string
	queueRunner string
	ahead       string // a queue-runner whose clock can be set; see later
}

// shelf is the directory of the programs that all tests share.
var shelf string

func TestMain(m *testing.M) {
	err := OwnMounts()
	if err == nil {
		shelf, err = os.MkdirTemp("", "crashtest")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(shelf); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// fillShelf builds the programs when the first test asks for them.
var fillShelf = sync.OnceValue(func() error {
	ahead := filepath.Join(shelf, "ahead")
	return errors.Join(
		compile("make", "-s", "-C", moduleRoot, "build", "BIN="+shelf),
		os.Mkdir(ahead, 0o700),
		buildPatchedInto(ahead, later(), "./cmd/queue-runner"),
	)
})

// shipped returns the programs as they are shipped.
func shipped(t *testing.T) programs {
	t.Helper()
	if err := fillShelf(); err != nil {
		t.Fatal(err)
	}
	p := programsIn(shelf)
	p.ahead = filepath.Join(shelf, "ahead/queue-runner")
	return p
}

func programsIn(dir string) programs {
	return programs{sendmail: filepath.Join(dir, "sendmail"), queueRunner: filepath.Join(dir, "queue-runner")}
}

// buildInto runs go build in the directory root; args are packages, and options before them.
func buildInto(dir, root string, args ...string) error {
	args = append([]string{"-C", root, "build", "-tags", "urfave_cli_no_docs,urfave_cli_no_suggest", "-o", dir + "/"}, args...)
	return compile("go", args...)
}

func compile(tool string, args ...string) error {
	build := exec.Command(tool, args...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, text)
	}
	return nil
}

// counts are what a sweep saw, by the names of what is counted.
type counts struct {
	mu    sync.Mutex
	names []string
	n     map[string]int
}

func (c *counts) add(name string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	if _, known := c.n[name]; !known {
		c.names = append(c.names, name)
	}
	c.n[name] += n
}

// report prints the counts, and fails the test if there are findings or no fault fired at all.
func (c *counts) report(t *testing.T, fired int, findings []error) {
	t.Helper()
	line := fmt.Sprintf("%s: %d faults", t.Name(), fired)
	for _, name := range c.names {
		line += fmt.Sprintf(", %d %s", c.n[name], name)
	}
	t.Logf("%s, %d findings", line, len(findings))
	if fired == 0 {
		t.Error("no fault fired: nothing was tried")
	}
	for i, err := range findings {
		if i == 20 {
			t.Errorf("and %d more", len(findings)-i)
			break
		}
		t.Error(err)
	}
}
