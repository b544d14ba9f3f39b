package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
	"github.com/rogpeppe/go-internal/testscript"
)

// helper stands in for mailq and queue-runner: it tells that it was started, and how, on the file that $STARTED names,
// and exits with status 3, which must impress nobody who does not wait for it.
const helper = `#!/bin/sh
if [ -n "$STARTED" ]; then echo "$(basename "$0") $*" >"$STARTED"; fi
exit 3
`

// programs is the directory with the sendmail that is tested, built as it is installed, and its helpers.
var programs string

func TestMain(m *testing.M) {
	if os.Getenv(panics) != "" {
		os.Exit(runPanicking())
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sendmail-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs = dir
	if out, err := exec.Command("make", "-s", "-C", "../..", "build", "BIN="+dir).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	for _, name := range []string{"mailq", "queue-runner"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(helper), 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	// Others than root run it too.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

const testConfig = `spool = %q
hostname = "web1.example.com"
domain = "example.com"
delivery = "queue"
relay = "discard:"

[rewrite]
"rewritten@example.com" = "alerts@example.net"
`

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", programs+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("POSTRIDER_CONFIG", filepath.Join(env.WorkDir, "postrider.toml"))
			env.Setenv("SENDMAIL", filepath.Join(programs, "sendmail"))
			config := fmt.Sprintf(testConfig, filepath.Join(env.WorkDir, "spool"))
			return os.WriteFile(filepath.Join(env.WorkDir, "postrider.toml"), []byte(config), 0o600)
		},
		Condition: func(cond string) (bool, error) {
			if cond == "mounts" {
				return mayMount(), nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "queued": queued, "content": content},
	})
}

// mayMount reports whether we can mount a file system that nobody else sees.
func mayMount() bool {
	return exec.Command("unshare", "-m", "mount", "-t", "tmpfs", "none", os.TempDir()).Run() == nil
}

// exits STATUS PROGRAM [ARGUMENT...] runs a program as exec does, and checks the status it exits with.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM [ARGUMENT...]")
	}
	status := 0
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(status) != args[0] {
		ts.Fatalf("status %d, want %s", status, args[0])
	}
}

// queued prints the envelopes of the messages in the spool, a line each. With "!", there must be none, nor anything else.
func queued(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		left, err := os.ReadDir(ts.MkAbs("spool/drop"))
		if err == nil && len(left) > 0 {
			ts.Fatalf("the spool has %v", left)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			ts.Check(err)
		}
		return
	}
	eachQueued(ts, func(f *drop.File) {
		line := "from=" + f.Sender.String()
		for _, r := range f.Recipients {
			line += " to=" + r.Path.String()
			if r.Notify != 0 {
				line += " notify=" + r.Notify.String()
			}
		}
		if f.Return != mail.ReturnDefault {
			line += " return=" + f.Return.String()
		}
		if f.ID != "" {
			line += " envid=" + f.ID
		}
		fmt.Fprintln(ts.Stdout(), line)
	})
}

// What we add differs from run to run.
var ours = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`id [0-9A-Z]{11}; .*\n`), "id ID; DATE\n"},
	{regexp.MustCompile(`(?m)^((?:Resent-)?Message-ID): <[0-9A-Z]{11}\.[0-9a-f]{8}@`), "$1: <ID@"},
	{regexp.MustCompile(`(?m)^((?:Resent-)?Date): [A-Z][a-z]{2}, .* [+-]\d{4}\n`), "$1: DATE\n"},
	{regexp.MustCompile(`userid \d+\)`), "userid UID)"},
	{regexp.MustCompile(`(?m)^((?:Arrival|Last-Attempt)-Date:|Your message of) [A-Z][a-z]{2}, .* [+-]\d{4}\n`), "$1 DATE\n"},
	{regexp.MustCompile(`=_[0-9A-Z]{11}_[0-9a-f]{16}`), "BOUNDARY"},
}

// content prints the content of the only message in the spool, with LF for CRLF, and without what is ours and differs from
// run to run.
func content(ts *testscript.TestScript, neg bool, args []string) {
	n := 0
	eachQueued(ts, func(f *drop.File) {
		b, err := io.ReadAll(io.NewSectionReader(f.Content, 0, f.Size))
		ts.Check(err)
		ts.Check(f.Verify())
		if rest := bytes.ReplaceAll(b, []byte("\r\n"), nil); bytes.ContainsAny(rest, "\r\n\x00") || !bytes.HasSuffix(b, []byte("\r\n")) {
			ts.Fatalf("not in wire form: %q", b)
		}
		text := strings.ReplaceAll(string(b), "\r\n", "\n")
		for _, o := range ours {
			text = o.re.ReplaceAllString(text, o.with)
		}
		fmt.Fprint(ts.Stdout(), text)
		n++
	})
	if n != 1 {
		ts.Fatalf("%d messages in the spool, want one", n)
	}
}

func eachQueued(ts *testscript.TestScript, f func(*drop.File)) {
	d, err := drop.Open(ts.MkAbs("spool/drop"))
	ts.Check(err)
	defer d.Close()
	ids, others, err := d.Names()
	ts.Check(err)
	if len(others) > 0 {
		ts.Fatalf("the spool has %v", others)
	}
	for _, id := range ids {
		m, err := d.Read(string(id))
		ts.Check(err)
		f(m)
		ts.Check(m.Close())
	}
}

// A world is a spool and a configuration in a directory that everybody can enter.
type world struct {
	t   *testing.T
	dir string
}

func newWorld(t *testing.T, settings string) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "sendmail-world-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t, dir}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(testConfig, filepath.Join(dir, "spool"))
	if err := os.WriteFile(filepath.Join(dir, "postrider.toml"), []byte(settings+config), 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) sendmail(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(programs, "sendmail"), args...)
	cmd.Env = []string{"POSTRIDER_CONFIG=" + filepath.Join(w.dir, "postrider.toml")}
	return cmd
}

// messages returns the messages in a spool.
func (w *world) messages(spool string) (all []*drop.File) {
	w.t.Helper()
	d, err := drop.Open(filepath.Join(w.dir, spool, "drop"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	ids, others, err := d.Names()
	if err != nil || len(others) > 0 {
		w.t.Fatal(others, err)
	}
	for _, id := range ids {
		m, err := d.Read(string(id))
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { m.Close() })
		all = append(all, m)
	}
	return all
}

// A large message takes no more memory than a small one: the kernel tells the most that the process ever had, while it
// waits for the last octets.
func TestLargeMessageTakesLittleMemory(t *testing.T) {
	const size, most = 100 << 20, 8 << 10 // octets, KiB
	w := newWorld(t, "")
	cmd := w.sendmail("-i", "bob@example.net")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 71) + "\n"
	chunk := []byte(strings.Repeat(line, 1000))
	for n := 0; n < size; n += len(chunk) {
		if _, err := stdin.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	var peak int
	if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); m != nil {
		peak, _ = strconv.Atoi(string(m[1]))
	}
	if peak == 0 || peak > most {
		t.Errorf("peak of resident memory %d KiB, want at most %d", peak, most)
	}
	all := w.messages("spool")
	if len(all) != 1 || all[0].Size < size {
		t.Fatalf("%d messages, want one of more than %d octets", len(all), size)
	}
	if err := all[0].Verify(); err != nil {
		t.Error(err)
	}
}

// Whoever closed our descriptors must not find a message file on one of them, nor keep us from accepting.
func TestClosedDescriptors(t *testing.T) {
	w := newWorld(t, "")
	cmd := exec.Command("sh", "-c", `printf 'Subject: x\n\nhi\n' | "$0" root >&- 2>&-`, filepath.Join(programs, "sendmail"))
	cmd.Env = w.sendmail().Env
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v, %q", err, out)
	}
	cmd = exec.Command("sh", "-c", `"$0" root <&- >&- 2>&-`, filepath.Join(programs, "sendmail"))
	cmd.Env = w.sendmail().Env
	if err := cmd.Run(); err != nil {
		t.Errorf("without standard input: %v", err)
	}
	all := w.messages("spool")
	if len(all) != 2 {
		t.Fatalf("%d messages, want 2", len(all))
	}
	for _, m := range all {
		if err := m.Verify(); err != nil {
			t.Error(err)
		}
	}
}

func asUser(t *testing.T, cmd *exec.Cmd, uid, gid uint32) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can run programs as other users")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
}

// nobodyKnows is a user that passwd(5) does not have, as in containers.
const nobodyKnows = 12345

func TestUnknownUser(t *testing.T) {
	w := newWorld(t, "")
	cmd := w.sendmail("bob@example.net")
	asUser(t, cmd, nobodyKnows, nobodyKnows)
	cmd.Env = []string{"POSTRIDER_CONFIG=" + filepath.Join(w.dir, "postrider.toml")} // and nothing else, as sudo does
	checkRefusal(t, cmd, 75, "spool does not exist, and "+w.dir+" is not ours to make it in")
	if err := os.Chown(w.dir, nobodyKnows, nobodyKnows); err != nil {
		t.Fatal(err)
	}
	cmd = w.sendmail("bob@example.net")
	asUser(t, cmd, nobodyKnows, nobodyKnows)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v, %q", err, out)
	}
	all := w.messages("spool")
	if len(all) != 1 || all[0].Sender.Address() != "12345@example.com" || all[0].Submitter != nobodyKnows {
		t.Fatalf("queued %+v, want one message from user 12345", all)
	}
}

func checkRefusal(t *testing.T, cmd *exec.Cmd, status int, text string) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != status || !strings.Contains(string(out), text) || strings.Count(string(out), "\n") != 1 {
		t.Errorf("%v, %q; want status %d and a line with %q", err, out, status, text)
	}
}

func TestSpoolOfOthers(t *testing.T) {
	w := newWorld(t, "")
	if err := os.MkdirAll(filepath.Join(w.dir, "spool", "drop"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := w.sendmail("bob@example.net")
	asUser(t, cmd, nobodyKnows, nobodyKnows)
	checkRefusal(t, cmd, 75, "permission denied; sendmail must be set-group-ID to the group of the spool, or you a member of it")
}

// With rights that the caller has not, sendmail opens no file that he names, and queues nowhere but in the spool that a
// pass looks into: a user's own has no place in an installation, even if the system's is gone.
func TestSetGroupID(t *testing.T) {
	w := newWorld(t, "")
	program := filepath.Join(w.dir, "sendmail")
	const group = 54321
	cmd := exec.Command(program, "-C", filepath.Join(w.dir, "postrider.toml"), "-oQ"+filepath.Join(w.dir, "other"), "-X", filepath.Join(w.dir, "log"), "bob@example.net")
	asUser(t, cmd, nobodyKnows, nobodyKnows)
	cmd.Env = []string{"POSTRIDER_CONFIG=" + filepath.Join(w.dir, "postrider.toml"), "HOME=" + filepath.Join(w.dir, "home"), "TZ=" + filepath.Join(w.dir, "zone")}
	if err := os.Mkdir(filepath.Join(w.dir, "home"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(w.dir, "home"), nobodyKnows, nobodyKnows); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(programs, "sendmail"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(program, 0, group), os.Chmod(program, 0o755|fs.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	for _, system := range []string{"/etc/postrider", "/var/spool/postrider"} {
		if _, err := os.Stat(system); err == nil {
			t.Skipf("SKIPPED: %s exists, and would be used", system)
		}
	}
	checkRefusal(t, cmd, 75, "/var/spool/postrider does not exist")
	if all := w.messages("spool"); len(all) > 0 {
		t.Error("the configuration that the caller named was read")
	}
	for _, name := range []string{"home/.local", "other", "log"} {
		if _, err := os.Stat(filepath.Join(w.dir, name)); err == nil {
			t.Errorf("%s was made", name)
		}
	}
}

// A signal before the end of the input leaves nothing; the writer of the input decides when that is.
func TestKilledWhileReading(t *testing.T) {
	w := newWorld(t, "")
	cmd := w.sendmail("bob@example.net")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// More than the pipe holds: it has been read from, so the message has been begun.
	if _, err := io.WriteString(stdin, "Subject: x\n\n.\n"+strings.Repeat("x\n", 200_000)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("sendmail was killed, and exits 0")
	}
	stdin.Close()
	if all := w.messages("spool"); len(all) > 0 {
		t.Errorf("%d messages are left", len(all))
	}
}

// Where the caller's limit on the size of files ends, so does our patience, but nothing else.
func TestFileSizeLimit(t *testing.T) {
	w := newWorld(t, "")
	cmd := exec.Command("sh", "-c", `ulimit -f 100; head -c 1000000 /dev/zero | tr '\0' x | "$0" root`, filepath.Join(programs, "sendmail"))
	cmd.Env = append(w.sendmail().Env, "PATH="+os.Getenv("PATH"))
	checkRefusal(t, cmd, 75, "file too large")
	if all := w.messages("spool"); len(all) > 0 {
		t.Errorf("%d messages are left", len(all))
	}
}

// What others left open, we do not leave to those whom we start.
func TestDescriptorsAreNotPassedOn(t *testing.T) {
	w := newWorld(t, "")
	dir := t.TempDir()
	for _, name := range []string{"queue-runner", "mailq"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nls /proc/$$/fd >\"$STARTED\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(programs, "sendmail"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sendmail"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(w.dir, "descriptors")
	for _, how := range []string{"-odi root", "-bp"} {
		cmd := exec.Command("sh", "-c", `exec 7</dev/null 9</dev/null; "$0" `+how+` </dev/null`, filepath.Join(dir, "sendmail"))
		cmd.Env = append(w.sendmail().Env, "STARTED="+list, "PATH="+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v, %q", err, out)
		}
		got, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range strings.Fields(string(got)) {
			if fd == "7" || fd == "9" {
				t.Errorf("%s: descriptor %s of the caller's was passed on; open are %q", how, fd, got)
			}
		}
	}
}

// An installation has mailq for everybody in bin, and sendmail in sbin.
func TestHelperInTheDirectoryOfPrograms(t *testing.T) {
	root := t.TempDir()
	for from, to := range map[string]string{"sendmail": "sbin/sendmail", "mailq": "bin/mailq"} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(to)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(programs, from), filepath.Join(root, to)); err != nil {
			t.Fatal(err)
		}
	}
	for args, status := range map[string]int{"-bp": 3, "-q": 71} {
		cmd := exec.Command(filepath.Join(root, "sbin/sendmail"), args)
		if err := cmd.Run(); cmd.ProcessState.ExitCode() != status {
			t.Errorf("sendmail %s: %v, want exit %d", args, err, status)
		}
	}
}
