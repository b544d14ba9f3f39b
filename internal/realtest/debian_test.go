package realtest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A debian is a choice of Debian's packages, unpacked into a directory of its own.
type debian struct {
	release  string   // "" for that of this machine
	packages []string // apt adds what they depend on
	alone    []string // of which nothing is wanted but themselves
}

// base is what dpkg takes for granted on every Debian system.
var base = []string{"bash", "coreutils", "dash", "findutils", "gawk", "grep", "hostname", "iproute2", "libc-bin", "sed", "util-linux"}

// sendersAndPostfix is for the proof.
var sendersAndPostfix = debian{packages: append([]string{
	// The receiving side.
	"postfix", "libsasl2-modules", "libsasl2-modules-db", "sasl2-bin",
	// Who sends.
	"anacron", "bsd-mailx", "cron", "git", "git-email", "libmailtools-perl", "mailutils", "mutt", "php8.2-cli", "s-nail",
}, base...)}

// Servers that mail is sent to.
var (
	dovecotAlone   = debian{packages: append([]string{"dovecot-lmtpd"}, base...)}
	eximAlone      = debian{packages: append([]string{"exim4-daemon-light"}, base...)}
	opensmtpdAlone = debian{packages: append([]string{"opensmtpd"}, base...)}
	opensmtpdNewer = debian{release: "trixie", packages: opensmtpdAlone.packages}
)

// clients is for what every test run tries: programs that send, and those that watch.
var clients = debian{
	packages: append([]string{
		"bsd-mailx", "cron", "git", "git-email", "libmailtools-perl", "mailutils", "mutt", "php8.2-cli",
		"msmtp-mta", // some of them depend on a sendmail, which ours takes the place of
	}, base...),
	alone: []string{"monitoring-plugins-common", "monitoring-plugins-standard"},
}

// unpacked returns the directory with the packages unpacked, not configured. It is made once and then only read.
func (d debian) unpacked() (string, error) {
	cache := os.Getenv("POSTRIDER_PROOF_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no place to unpack packages in: %w; set POSTRIDER_PROOF_CACHE", err)
		}
		cache = filepath.Join(dir, "postrider-proof")
	}
	key := sha256.Sum256([]byte(strings.TrimSpace(d.release + " " + strings.Join(slices.Concat(d.packages, d.alone), " "))))
	root := filepath.Join(cache, fmt.Sprintf("root-%x", key[:6]))
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	if err := d.unpack(cache, root); err != nil {
		return "", fmt.Errorf("unpack Debian's packages: %w", err)
	}
	return root, nil
}

// root is unpacked for tests that somebody has asked for.
func (d debian) root(t *testing.T) string {
	t.Helper()
	root, err := d.unpacked()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// unpack fetches the packages and all that they depend on, as if nothing were installed, and unpacks them into root.
// root appears complete or not at all.
func (d debian) unpack(cache, root string) error {
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
		"-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20",
	}
	if d.release != "" {
		mirror, err := mirror()
		if err != nil {
			return err
		}
		sources := "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " + mirror + " " + d.release + " main\n"
		if err := os.WriteFile(apt+"/sources.list", []byte(sources), 0o644); err != nil {
			return err
		}
		options = append(options, "-o", "Dir::Etc::sourcelist="+apt+"/sources.list", "-o", "Dir::Etc::sourceparts=/dev/null")
	}
	if err := command("apt-get", append(options, "update")...); err != nil {
		return err
	}
	if err := command("apt-get", slices.Concat(options, []string{"--download-only", "install"}, d.packages)...); err != nil {
		return err
	}
	if len(d.alone) > 0 {
		// It downloads into the working directory.
		if err := command("env", slices.Concat([]string{"-C", archives, "apt-get"}, options, []string{"download"}, d.alone)...); err != nil {
			return err
		}
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

// mirror returns the URI of the archive that this machine has Debian's packages from.
func mirror() (string, error) {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Label: Debian").Output()
	if err != nil {
		return "", fmt.Errorf("ask apt-get for its mirrors: %w", err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	if first == "" {
		return "", errors.New("apt-get has no mirror of Debian")
	}
	return first, nil
}

// command runs a program of this machine and returns what it said when it failed.
func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
