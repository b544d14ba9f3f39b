package realtest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// packages are the programs of the proof; apt adds what they depend on.
var packages = []string{
	// The receiving side.
	"postfix", "libsasl2-modules", "libsasl2-modules-db", "sasl2-bin",
	// Who sends.
	"anacron", "bsd-mailx", "cron", "git", "git-email", "libmailtools-perl", "mailutils", "mutt", "php8.2-cli", "s-nail",
	// What dpkg takes for granted on every Debian system.
	"bash", "coreutils", "dash", "findutils", "gawk", "grep", "hostname", "iproute2", "libc-bin", "sed", "util-linux",
}

// debianRoot returns a directory with the packages unpacked, not configured. It is made once and then only read.
func debianRoot(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("POSTRIDER_PROOF_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatalf("no place to unpack packages in: %v; set POSTRIDER_PROOF_CACHE", err)
		}
		cache = filepath.Join(dir, "postrider-proof")
	}
	key := sha256.Sum256([]byte(strings.Join(packages, " ")))
	root := filepath.Join(cache, fmt.Sprintf("root-%x", key[:6]))
	if _, err := os.Stat(root); err == nil {
		return root
	}
	t.Logf("fetching and unpacking packages into %s", root)
	if err := unpack(cache, root); err != nil {
		t.Fatalf("unpack Debian's packages: %v", err)
	}
	return root
}

// unpack fetches the packages and all that they depend on, as if nothing were installed, and unpacks them into root.
// root appears complete or not at all.
func unpack(cache, root string) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	apt, err := os.MkdirTemp(cache, "apt-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(apt)
	archives := filepath.Join(apt, "cache/archives")
	for _, dir := range []string{archives + "/partial", apt + "/state/lists/partial", apt + "/root"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(apt+"/status", nil, 0o644); err != nil {
		return err
	}
	options := []string{
		"-qq", "-y", "-o", "Dir::State=" + apt + "/state", "-o", "Dir::State::status=" + apt + "/status", "-o", "Dir::Cache=" + apt + "/cache",
		"-o", "APT::Install-Recommends=0", "-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root",
	}
	if err := command("apt-get", append(options, "update")...); err != nil {
		return err
	}
	if err := command("apt-get", append(append(options, "--download-only", "install"), packages...)...); err != nil {
		return err
	}
	debs, err := filepath.Glob(archives + "/*.deb")
	if err != nil {
		return err
	}
	if len(debs) == 0 {
		return errors.New("apt-get fetched no package")
	}
	for _, deb := range debs {
		if err := command("dpkg", "-x", deb, apt+"/root"); err != nil {
			return err
		}
	}
	err = os.Rename(apt+"/root", root)
	if errors.Is(err, fs.ErrExist) {
		return nil // another run was faster
	}
	return err
}

// command runs a program of this machine and returns what it said when it failed.
func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
