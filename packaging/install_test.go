package packaging

import (
	"debug/elf"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// installed is what make install puts in place; "->" shows where a link leads.
var installed = strings.Fields(`
	etc/postrider/postrider.toml
	usr/bin/mailq
	usr/bin/newaliases->../sbin/sendmail
	usr/lib/sendmail->../sbin/sendmail
	usr/lib/systemd/system/postrider-daemon.service
	usr/lib/systemd/system/postrider-smtp.socket
	usr/lib/systemd/system/postrider-submit.socket
	usr/lib/systemd/system/postrider-submit@.service
	usr/lib/systemd/system/postrider.path
	usr/lib/systemd/system/postrider.service
	usr/lib/systemd/system/postrider.timer
	usr/sbin/queue-runner
	usr/sbin/sendmail
	usr/share/man/man1/mailq.1
	usr/share/man/man5/postrider.toml.5
	usr/share/man/man5/spool.5
	usr/share/man/man5/submit.sock.5
	usr/share/man/man8/queue-runner.8
	usr/share/man/man8/sendmail.8
`)

func TestInstallAndUninstall(t *testing.T) {
	dir, bin, noGo := t.TempDir(), t.TempDir(), t.TempDir()
	run := func(target string) {
		t.Helper()
		cmd := exec.Command("make", "-C", "..", target, "BIN="+bin, "DESTDIR="+dir, "PREFIX=/usr")
		if target != "build" {
			// As sudo has it, whose path is its own: what was built is installed without Go.
			cmd.Env = append(os.Environ(), "PATH="+noGo+string(filepath.ListSeparator)+os.Getenv("PATH"))
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
	}

	if err := os.WriteFile(filepath.Join(noGo, "go"), []byte("#!/bin/sh\nexit 127\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	run("build")
	run("install")
	if got := tree(t, dir); !slices.Equal(got, installed) {
		t.Errorf("installed\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(installed, "\n"))
	}
	for _, program := range []string{"usr/sbin/sendmail", "usr/sbin/queue-runner", "usr/bin/mailq"} {
		if interpreted, err := needsLoader(filepath.Join(dir, program)); interpreted || err != nil {
			t.Errorf("%s is not static (%v)", program, err)
		}
	}
	unit, err := os.ReadFile(filepath.Join(dir, "usr/lib/systemd/system/postrider.service"))
	if err != nil || !strings.Contains(string(unit), "\nExecStart=/usr/sbin/queue-runner\n") {
		t.Errorf("the unit does not start what was installed (%v):\n%s", err, unit)
	}

	// What an administrator wrote survives an upgrade and the removal.
	config := filepath.Join(dir, "etc/postrider/postrider.toml")
	if err := os.WriteFile(config, []byte("# mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run("install")
	run("uninstall")
	if got, want := tree(t, dir), []string{"etc/postrider/postrider.toml"}; !slices.Equal(got, want) {
		t.Errorf("after make uninstall there is %q, want %q", got, want)
	}
	if b, err := os.ReadFile(config); err != nil || string(b) != "# mine\n" {
		t.Errorf("the configuration is now %q (%v)", b, err)
	}
}

// TestPassesAreNotLimited checks that systemd does not give up on a unit that new mail starts: the usual limit is five
// starts in ten seconds, after which the path unit fails and nothing wakes a pass any more.
func TestPassesAreNotLimited(t *testing.T) {
	unit, err := os.ReadFile("systemd/postrider.service")
	if err != nil {
		t.Fatal(err)
	}
	section, _, _ := strings.Cut(string(unit), "\n[Service]\n")
	if !strings.Contains(section, "\nStartLimitIntervalSec=0\n") {
		t.Errorf("[Unit] has no StartLimitIntervalSec=0:\n%s", section)
	}
}

// needsLoader reports whether a program needs libraries when it starts.
func needsLoader(path string) (bool, error) {
	f, err := elf.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC }), nil
}

// tree lists the files and links below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		if d.Type() == fs.ModeSymlink {
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			name += "->" + to
		}
		all = append(all, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
