package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The harness is proven before it proves anything: it finds no fault with a program that writes, syncs, renames and
// syncs the directory, and it sees each bug planted in it.
func TestHarnessSeesPlantedBugs(t *testing.T) {
	needTracer(t)
	dir := t.TempDir()
	if err := buildInto(dir, ".", "./testdata/publish"); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "publish")
	tests := []struct {
		order string
		kind  string // kill, errno or power
		old   bool   // a former file is there
		bug   bool
	}{
		{"good", "kill", false, false},
		{"good", "kill", true, false},
		{"good", "errno", true, false},
		{"good", "power", false, false},
		{"good", "power", true, false},
		{"unlink-first", "kill", true, true},
		{"ignored-error", "errno", false, true},
		{"no-file-sync", "power", false, true},
		{"no-directory-sync", "power", false, true},
		// What killing cannot see, since the page cache survives; should it, the harness would be crying wolf.
		{"no-file-sync", "kill", false, false},
		{"no-directory-sync", "kill", false, false},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s/%s/old=%v", tt.order, tt.kind, tt.old), func(t *testing.T) {
			t.Parallel()
			p := publisher{program: program, order: tt.order, kind: tt.kind, dir: t.TempDir()}
			if tt.old {
				p.old = []byte("the former message\n")
			}
			if tt.kind != "kill" {
				p.disk = newDisk(t, Ext4())
			}
			fired, findings := Sweep{}.Run(p.trial)
			t.Logf("%s: %d faults, %d findings", t.Name(), fired, len(findings))
			if fired == 0 {
				t.Error("no fault fired")
			}
			if len(findings) > 0 != tt.bug {
				t.Errorf("findings = %v, want some: %v", errors.Join(findings...), tt.bug)
			}
		})
	}
}

// publisher runs testdata/publish.
type publisher struct {
	program, order, kind, dir string
	old                       []byte // nil if the file is not there before
	disk                      *Disk
}

func (p publisher) trial(_, at int) (bool, error) {
	want := bytes.Repeat([]byte("a line of the message\n"), 1000)
	kind := Kill()
	if p.disk != nil {
		kind = PowerLoss(p.disk.Dir())
		p.dir = p.disk.Dir()
		if err := errors.Join(p.disk.Unmount(), p.disk.Restore(), p.disk.Mount()); err != nil {
			return false, err
		}
	}
	if err := p.prepare(); err != nil {
		return false, err
	}
	if p.kind == "errno" {
		kind = Errno(unix.EIO)
	}
	r, err := Run(Command{Path: p.program, Args: []string{p.order, p.dir}, Stdin: want}, Fault{At: at, Kind: kind})
	if err != nil {
		return r.Fired, err
	}
	if p.disk != nil {
		// The power goes after an errno too: what a failed sync did not save is seen in no other way.
		if err := errors.Join(p.disk.Cut(), p.disk.Reboot()); err != nil {
			return r.Fired, err
		}
	}
	got, err := os.ReadFile(filepath.Join(p.dir, "message"))
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return r.Fired, err
	case r.Succeeded() && !bytes.Equal(got, want):
		return r.Fired, fmt.Errorf("success reported, %d octets there", len(got))
	case !bytes.Equal(got, want) && !bytes.Equal(got, p.old):
		return r.Fired, fmt.Errorf("torn: %d octets there", len(got))
	}
	return r.Fired, nil
}

func (p publisher) prepare() error {
	names, err := filepath.Glob(filepath.Join(p.dir, "message*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	if p.old == nil {
		return nil
	}
	if err := os.WriteFile(filepath.Join(p.dir, "message"), p.old, 0o600); err != nil {
		return err
	}
	return syncAll(p.dir)
}

// syncAll makes what is below dir durable, and only that: sync(2) would also save what other trials did not sync.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

func TestRun(t *testing.T) {
	needTracer(t)
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	c := Command{Path: shell, Args: []string{"-c", "read line; echo $line"}, Stdin: []byte("some text\n")}
	whole, err := Run(c, Fault{})
	if err != nil || whole.Fired || whole.Code() != 0 || string(whole.Stdout) != "some text\n" {
		t.Fatalf("Run(sh) = %+v, %v", whole, err)
	}
	writes := 0
	for i, call := range whole.Calls {
		if call.Name != "write" {
			continue
		}
		writes++
		if call.Tail != "some text\n" || !strings.Contains(call.Path, "stdout") {
			t.Errorf("call %d is %v with tail %q", i+1, call, call.Tail)
		}
		for _, tt := range []struct {
			kind Kind
			code int
			out  string
		}{
			{Kill(), 137, ""},
			{Errno(unix.EIO), 1, ""},
			{PersistentErrno(unix.EIO), 1, ""},
			{Signal(unix.SIGTERM), 143, "some text\n"},
		} {
			r, err := Run(c, Fault{At: i + 1, Kind: tt.kind})
			if err != nil || !r.Fired || r.Code() != tt.code || string(r.Stdout) != tt.out {
				t.Errorf("%v at %v: fired %v, code %d, output %q, %v; want code %d, output %q",
					tt.kind, call, r.Fired, r.Code(), r.Stdout, err, tt.code, tt.out)
			}
		}
	}
	if writes != 1 {
		t.Errorf("%d writes seen, want 1: %v", writes, whole.Calls)
	}
}

// The calls of children count too, and a fault ends them with their parent.
func TestRunFollowsChildren(t *testing.T) {
	needTracer(t)
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	name := filepath.Join(t.TempDir(), "file")
	c := Command{Path: shell, Args: []string{"-c", "(echo child > " + name + "; exit 3); exit $?"}}
	whole, err := Run(c, Fault{})
	if err != nil || whole.Code() != 3 {
		t.Fatalf("Run(sh) = code %d, %v", whole.Code(), err)
	}
	for i, call := range whole.Calls {
		if call.Path != name || call.Name != "openat" && call.Name != "open" {
			continue
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		r, err := Run(c, Fault{At: i + 1, Kind: Kill()})
		if err != nil || r.Code() != 137 {
			t.Errorf("killed in the child: code %d, %v", r.Code(), err)
		}
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the call happened: %v", err)
		}
		return
	}
	t.Errorf("the child's open was not seen: %v", whole.Calls)
}

func TestRunEndsWhatHangs(t *testing.T) {
	needTracer(t)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	if _, err := Run(Command{Path: sleep, Args: []string{"1000"}, Timeout: 1}, Fault{}); err == nil {
		t.Error("no error for a program that hangs")
	}
}
