package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// An installation is a set-group-ID sendmail as a user without any rights meets it: with the system's configuration and
// spool in their places, in a mount namespace where nobody else sees them.
type installation struct {
	t   *testing.T
	dir string // etc, the spool and the program; the user may read it
	cwd string // the user's own
}

const (
	intruder      = "mallory"
	intruderID    = 54320
	spoolersGroup = 54321
)

// stage runs a command as the intruder under strace, whose log goes to $LOG. It mounts what newInstallation prepared.
const stage = `
mount --make-rprivate /
mount --bind "$DIR/etc" /etc
mount --bind "$DIR/spool" /var/spool
cd "$CWD"
exec strace -f -qq -s 4096 -e trace=%file,%process -e signal=none -o "$LOG" -u ` + intruder + ` "$@"
`

func newInstallation(t *testing.T) *installation {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can install a set-group-ID program")
	}
	for _, tool := range []string{"strace", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: what sendmail does with the rights of its group is not watched: %s is missing", tool)
		}
	}
	if !mayMount() {
		t.Skip("SKIPPED: what sendmail does with the rights of its group is not watched: no mount namespaces here")
	}
	dir, err := os.MkdirTemp("", "sendmail-setgid-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	in := &installation{t, dir, filepath.Join(dir, "cwd")}
	script := fmt.Sprintf(`cd "$1"
chmod 755 .
mkdir -p cwd etc/postrider spool/postrider/drop
chown %[1]d cwd
echo 'root:x:0:0:root:/root:/bin/sh
%[2]s:x:%[1]d:%[1]d:Mallory:/nonexistent:/bin/sh' >etc/passwd
echo '%[2]s:x:%[1]d:' >etc/group
echo 'hostname = "web1.example.com"
domain = "example.com"
delivery = "queue"
relay = "discard:"' >etc/postrider/postrider.toml
echo 'root:secret:1:0:99999:7:::' >etc/shadow
chmod 600 etc/shadow
chgrp %[3]d spool/postrider/drop
chmod 2770 spool/postrider/drop
cp "$2" sendmail
chgrp %[3]d sendmail
chmod 2755 sendmail`, intruderID, intruder, spoolersGroup)
	if out, err := exec.Command("sh", "-euc", script, "sh", dir, filepath.Join(programs, "sendmail")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return in
}

func (in *installation) program() string { return filepath.Join(in.dir, "sendmail") }

// A deed is what a run of the program did.
type deed struct {
	status         int
	stdout, stderr string
	touched        []string // paths that were given to the kernel, each once
	queued         []byte   // the message file, but no report; nil if there is none
}

// run runs a command as the intruder, with a message on its standard input, and empties the spool.
func (in *installation) run(env []string, argv ...string) deed {
	in.t.Helper()
	log := filepath.Join(in.dir, "log")
	cmd := exec.Command("unshare", append([]string{"-m", "sh", "-euc", stage, "sh"}, argv...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DIR=" + in.dir, "CWD=" + in.cwd, "LOG=" + log}
	for _, e := range env {
		// strace sets it for the program only.
		cmd.Args = slices.Insert(cmd.Args, slices.Index(cmd.Args, "sh")+4, "-E", e)
	}
	cmd.Stdin = strings.NewReader("To: a@x.example\nSubject: x\n\nhi\n")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState.ExitCode() < 0 {
		in.t.Fatal(err)
	}
	d := deed{status: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	d.touched = in.touched(log)
	files, err := filepath.Glob(filepath.Join(in.dir, "spool/postrider/drop/*"))
	if err != nil {
		in.t.Fatal(err)
	}
	for _, f := range files {
		message, err := os.ReadFile(f)
		if err != nil {
			in.t.Fatal(err)
		}
		if !bytes.Contains(message, []byte("\nsender: <>\n")) {
			d.queued = standIns(message, filepath.Base(f))
		}
		if err := os.Remove(f); err != nil {
			in.t.Fatal(err)
		}
	}
	return d
}

var quotedString = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)

// touched returns the paths in a log of strace, from the start of our program on: of each call the first string, but all of
// those that have two paths.
func (in *installation) touched(log string) (paths []string) {
	in.t.Helper()
	b, err := os.ReadFile(log)
	if err != nil {
		in.t.Fatal(err)
	}
	started := false
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "execve(\""+in.program()+"\"") {
			started = true
			continue
		}
		if !started {
			continue
		}
		strs := quotedString.FindAllStringSubmatch(line, -1)
		if !strings.Contains(line, "rename") && !strings.Contains(line, "link") {
			strs = strs[:min(1, len(strs))]
		}
		for _, m := range strs {
			if !slices.Contains(paths, m[1]) {
				paths = append(paths, m[1])
			}
		}
	}
	if !started {
		in.t.Fatalf("the program was not started:\n%s", b)
	}
	slices.Sort(paths)
	return paths
}

// system is what sendmail may open, by whatever name it is called: its own installation, and nothing that a caller names.
var system = regexp.MustCompile(`^(/sys/kernel/mm/transparent_hugepage/hpage_pmd_size|/proc/self/(auxv|exe|maps|cgroup|mountinfo|fd/\d+)|/sys/fs/cgroup/[a-z_,./]+|/dev/null|` +
	`/etc/(localtime|passwd|mailname|postrider/postrider\.toml)|/usr/(share|lib)/.*zoneinfo/|` +
	`/var/spool/postrider|/var/spool/postrider/(drop|lock|wake)|\.?|[0-9A-Z]{11})$`)

func (in *installation) checkTouched(what string, d deed) {
	in.t.Helper()
	for _, path := range d.touched {
		if !system.MatchString(path) {
			in.t.Errorf("%s: %q was looked at", what, path)
		}
	}
	left, err := os.ReadDir(in.cwd)
	if err != nil || len(left) > 0 {
		in.t.Errorf("%s: %v was left behind (%v)", what, left, err)
	}
}

// attacks are command lines that have been published with other sendmails' holes, and the like.
var attacks = []struct {
	argv   []string
	status int
}{
	// PHPMailer, CVE-2016-10033 and CVE-2016-10045: as the shell passes them on.
	{[]string{"-t", "-i", "-fattacker\\", "-oQ/tmp/", "-X/var/www/cache/phpcode.php", "some@email.com"}, 0},
	{[]string{"-t", "-i", `-f"attacker\" -oQ/tmp/ -X/var/www/cache/phpcode.php some"@email.com`}, 0},
	{[]string{"-t", "-i", "-f", "attacker", "-oQ/tmp/", "-X/var/www/cache/phpcode.php", "some\"@email.com"}, 0},
	// Exim's expansions.
	{[]string{"-be", "${run{/bin/sh -c 'id >canary'}}"}, 64},
	{[]string{"-be", "-X", "canary"}, 64},
	{[]string{"-bP", "config"}, 64},
	{[]string{"-ps", "a@x.example"}, 0},
	// Files of others.
	{[]string{"-OQueueDirectory=/tmp", "-X/tmp/out", "a@x.example"}, 0},
	{[]string{"-O", "QueueDirectory=canary", "-O", "AliasFile=/etc/shadow", "-O", "DataFileBufferSize=0", "a@x.example"}, 0},
	{[]string{"-C/etc/shadow", "-X/tmp/out", "a@x.example"}, 0},
	{[]string{"-C", "/etc/shadow", "-bt"}, 64},
	{[]string{"-C/etc/shadow", "-bC"}, 0},
	{[]string{"-oPtmp", "-oA/etc/shadow", "-oS/tmp/stats", "-oQcanary", "a@x.example"}, 0},
	{[]string{"-D", "canary", "-d0-99.127", "a@x.example"}, 0},
	{[]string{"-Dcanary", "-X", "canary", "a@x.example"}, 0},
	{[]string{"-Mrm", "canary", "a@x.example"}, 0},
	{[]string{"-L", "../../canary", "-p", "/canary:/canary", "-A", "/canary", "-h", "/canary", "-Ucanary"}, 64},
	// Recipients that mean something in files of aliases.
	{[]string{"|/bin/touch canary"}, 65},
	{[]string{"|/bin/touch${IFS}canary", "/etc/canary", "../../canary", "`touch`", "$(touch)", "%n%s@x.example"}, 0},
	{[]string{":include:/etc/shadow"}, 65},
	{[]string{"--", "-oQ/tmp", "-X/tmp/out"}, 0},
}

// Nothing that somebody without rights names is opened, created or run with the rights of the spool's group.
func TestAttacks(t *testing.T) {
	in := newInstallation(t)
	for _, a := range attacks {
		d := in.run(nil, append([]string{in.program()}, a.argv...)...)
		what := fmt.Sprintf("sendmail %q", a.argv)
		if d.status != a.status {
			t.Errorf("%s: status %d, want %d (%s)", what, d.status, a.status, d.stderr)
		}
		if strings.Contains(d.stdout+d.stderr, "secret") {
			t.Errorf("%s told what is in /etc/shadow: %s%s", what, d.stdout, d.stderr)
		}
		if (d.queued != nil) != (d.status == 0) && !slices.Contains(a.argv, "-bC") {
			t.Errorf("%s: status %d, and queued is %q", what, d.status, d.queued)
		}
		in.checkTouched(what, d)
	}
}

// The environment of the caller decides nothing: whatever is in it, the same files are opened and the same message is queued.
func TestEnvironment(t *testing.T) {
	in := newInstallation(t)
	program := []string{in.program(), "-i", "a@x.example"}
	usual := in.run(nil, program...)
	in.checkTouched("without an environment", usual)
	if usual.status != 0 || usual.queued == nil || usual.stderr != "" {
		t.Fatalf("status %d, %q", usual.status, usual.stderr)
	}
	canary := filepath.Join(in.cwd, "canary")
	for _, e := range []string{
		"GODEBUG=gctrace=1,inittrace=0,madvdontneed=1", "GOTRACEBACK=crash", "GOGC=1", "GOMEMLIMIT=1", "GOMAXPROCS=1", "GOCOVERDIR=" + in.cwd,
		"TZ=" + canary, "TZ=:" + canary, "ZONEINFO=" + canary, "LOCALDOMAIN=canary.example", "RES_OPTIONS=debug", "HOSTALIASES=" + canary,
		"SSL_CERT_FILE=" + canary, "SSL_CERT_DIR=" + in.cwd, "SSLKEYLOGFILE=" + canary, "TMPDIR=" + in.cwd, "HOME=" + in.cwd, "XDG_STATE_HOME=" + in.cwd,
		"XDG_CONFIG_HOME=" + in.cwd, "PATH=" + in.cwd, "IFS=/", "LD_PRELOAD=" + canary, "LD_LIBRARY_PATH=" + in.cwd, "LD_AUDIT=" + canary,
		"http_proxy=http://canary.example", "MAIL_CONFIG=" + in.cwd, "POSTRIDER_CONFIG=" + canary, "USER=root", "LOGNAME=root", "EMAIL=root@x.example",
		"MALLOC_TRACE=" + canary, "LANG=../../" + canary, "NLSPATH=" + canary, "JOURNAL_STREAM=8:1", "NOTIFY_SOCKET=" + canary,
		"JUNK=" + strings.Repeat("x", 100_000),
	} {
		name, _, _ := strings.Cut(e, "=")
		d := in.run([]string{e}, program...)
		if name == "GODEBUG" {
			d.stderr = "" // the runtime may speak to whoever asked it to
		}
		if d.status != 0 || d.stdout+d.stderr != "" {
			t.Errorf("%s: status %d, %q", name, d.status, d.stdout+d.stderr)
		}
		if diff := cmp.Diff(string(usual.queued), string(d.queued)); diff != "" {
			t.Errorf("%s changes what is queued (-without +with):\n%s", name, diff)
		}
		in.checkTouched(name, d)
	}
}

// Wherever the caller stands: in a directory whose name is too long for any buffer, or in one that is gone.
func TestWorkingDirectory(t *testing.T) {
	in := newInstallation(t)
	const deep = `my $d = "d" x 200; for (1..50) { mkdir $d or die; chdir $d or die } exec @ARGV`
	const gone = `mkdir "gone" or die; chdir "gone" or die; rmdir "../gone" or die; exec @ARGV`
	if _, err := exec.LookPath("perl"); err != nil {
		t.Skip("SKIPPED: sendmail is not tried in directories that a shell cannot enter: perl is missing")
	}
	for what, script := range map[string]string{"deep": deep, "gone": gone} {
		d := in.run(nil, "perl", "-e", script, in.program(), "-i", "a@x.example")
		if d.status != 0 || d.queued == nil || d.stdout+d.stderr != "" {
			t.Errorf("%s: status %d, %q; queued %q", what, d.status, d.stdout+d.stderr, d.queued)
		}
		if err := os.RemoveAll(filepath.Join(in.cwd, strings.Repeat("d", 200))); err != nil {
			t.Fatal(err)
		}
		in.checkTouched(what, d)
	}
}

// With as many arguments as the kernel lets through, and with none at all, not even a name.
func TestArgumentCount(t *testing.T) {
	w := newWorld(t, "")
	var rcpts []string
	for i := range 50_000 {
		rcpts = append(rcpts, fmt.Sprintf("u%d@x.example", i))
	}
	if out, err := w.sendmail(rcpts...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%d recipients: %v, %q", len(rcpts), err, out)
	}
	if all := w.messages("spool"); len(all) != 1 || len(all[0].Recipients) != len(rcpts) {
		t.Errorf("%d messages are queued, want one for %d recipients", len(all), len(rcpts))
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess(filepath.Join(programs, "sendmail"), nil, &os.ProcAttr{Files: []*os.File{null, write, write}})
	if err != nil {
		t.Fatal(err)
	}
	state, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	write.Close()
	var said bytes.Buffer
	if _, err := said.ReadFrom(read); err != nil || state.ExitCode() != 64 || !strings.Contains(said.String(), "no recipients") {
		t.Errorf("without arguments: status %d, %q (%v); want 64, and no recipients", state.ExitCode(), &said, err)
	}
}

// A program that is started gets no rights that the caller has not: if somebody else had put it there, they would be his.
func TestProgramsAreStartedWithoutRights(t *testing.T) {
	in := newInstallation(t)
	// Without a spool, nobody is kept from making one, and from delivering what is in it.
	if err := os.RemoveAll(filepath.Join(in.dir, "spool/postrider")); err != nil {
		t.Fatal(err)
	}
	who := filepath.Join(in.cwd, "who")
	script := fmt.Sprintf("#!/bin/sh -p\nid -G >%s\n", who)
	if err := os.WriteFile(filepath.Join(in.dir, "queue-runner"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	d := in.run(nil, in.program(), "-bd")
	if got, err := os.ReadFile(who); err != nil || string(got) != fmt.Sprintln(intruderID) {
		t.Errorf("status %d, %q: the program has the groups %q (%v), want %d", d.status, d.stderr, got, err, intruderID)
	}
}
