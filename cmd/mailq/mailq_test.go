package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// runAsMailq names the variable that makes the test binary mailq itself.
const runAsMailq = "POSTRIDER_TEST_RUN_AS_MAILQ"

func TestMain(m *testing.M) {
	if os.Getenv(runAsMailq) != "" {
		main()
	}
	if err := os.Unsetenv("POSTRIDER_CONFIG"); err != nil {
		panic(err)
	}
	time.Local = time.UTC
	os.Exit(m.Run())
}

func path(s string) mail.Path {
	p, err := mail.ParsePath(s)
	if err != nil {
		panic(err)
	}
	return p
}

var arrival = time.Date(2026, 11, 21, 22, 0, 0, 0, time.UTC)

// entries is a queue with one message of each kind.
func entries() []spool.Entry {
	refused := "connect to mx.example.net[192.0.2.1]:25: Connection refused"
	return []spool.Entry{{
		ID: "A1B2C3D4E5F", Arrival: arrival, Size: 1234, Sender: path("root@host.example.com"),
		Recipients: []spool.EntryRecipient{{
			Path: path("a@example.net"), Attempts: 2, Next: arrival.Add(time.Hour), Code: mail.EnhancedCode{4, 4, 1}, Reason: refused,
		}},
	}, {
		ID: "A1B2C3D4E5G", Arrival: arrival.Add(-20 * 24 * time.Hour), Size: 25 << 20, Active: true,
		Recipients: []spool.EntryRecipient{
			{Path: path("b@example.net"), Attempts: 1, Next: arrival, Code: mail.EnhancedCode{4, 2, 0}, Reason: "451 4.2.0 greylisted", Relay: "mx[192.0.2.2]:25"},
			{Path: path("c@example.net"), Attempts: 1, Next: arrival, Code: mail.EnhancedCode{4, 2, 0}, Reason: "451 4.2.0 greylisted", Relay: "mx[192.0.2.2]:25"},
			{Path: path("d@example.net"), Next: arrival},
		},
	}, {
		ID: "A1B2C3D4E5H", Arrival: arrival, Size: 9, Sender: path("www-data@host.example.com"), Active: true,
		Recipients: []spool.EntryRecipient{{
			Path: path("e@example.net"), Attempts: 1, Next: arrival, Code: mail.EnhancedCode{4, 7, 1},
			Reason: "450 4.7.1 a reason that is so long that it is longer than the whole line and begins at its left end\x1b[2J",
		}},
	}, {
		ID: "A1B2C3D4E5J", Arrival: arrival, Size: 0, Sender: path("root@host.example.com"),
		Recipients: []spool.EntryRecipient{{Path: path("\"f\\\"\"@example.net"), Next: arrival}},
	}, {
		ID: "A1B2C3D4E5K", Arrival: arrival, Size: 2048, Sender: path("jürgen@host.example.com"), Incoming: true,
		Recipients: []spool.EntryRecipient{{Path: path("g@example.net")}},
	}}
}

func sequence(all []spool.Entry, err error) iter.Seq2[spool.Entry, error] {
	return func(yield func(spool.Entry, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(spool.Entry{}, err)
		}
	}
}

func printed(t *testing.T, all []spool.Entry, l listing) string {
	t.Helper()
	var b bytes.Buffer
	if err := printQueue(&b, sequence(all, nil), l); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestText(t *testing.T) {
	const want = `-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------
A1B2C3D4E5F    1234 Sat Nov 21 22:00:00  root@host.example.com
                 (connect to mx.example.net[192.0.2.1]:25: Connection refused)
                                         a@example.net

A1B2C3D4E5G* 26214400 Sun Nov  1 22:00:00  MAILER-DAEMON
                                      (mx[192.0.2.2]:25: 451 4.2.0 greylisted)
                                         b@example.net
                                         c@example.net
                                                          (reason unavailable)
                                         d@example.net

A1B2C3D4E5H*      9 Sat Nov 21 22:00:00  www-data@host.example.com
(450 4.7.1 a reason that is so long that it is longer than the whole line and begins at its left end?[2J)
                                         e@example.net

A1B2C3D4E5J       0 Sat Nov 21 22:00:00  root@host.example.com
                                         "f\""@example.net

A1B2C3D4E5K    2048 Sat Nov 21 22:00:00  jürgen@host.example.com
                                         g@example.net

		Total requests: 5
-- 25603 Kbytes in 5 Requests.
`
	if diff := cmp.Diff(want, printed(t, entries(), new(text))); diff != "" {
		t.Errorf("listing differs (-want +got):\n%s", diff)
	}
}

func TestVerboseText(t *testing.T) {
	const want = `A1B2C3D4E5F    1234 Sat Nov 21 22:00:00  root@host.example.com
                 (connect to mx.example.net[192.0.2.1]:25: Connection refused)
                                         a@example.net
                                           2 attempts, due Sat Nov 21 23:00:00

		Total requests: 1
`
	got := printed(t, entries()[:1], &text{verbose: true})
	if !strings.Contains(got, want) {
		t.Errorf("listing differs (-want +got):\n%s", cmp.Diff(want, got))
	}
	if got := printed(t, entries()[4:], &text{verbose: true}); !strings.Contains(got, "g@example.net\n                                           0 attempts\n") {
		t.Errorf("what has not been taken in is listed as\n%s", got)
	}
}

// What its sender wants sent later says so, to people and to programs.
func TestHeld(t *testing.T) {
	all := []spool.Entry{{
		ID: "A1B2C3D4E5L", Arrival: arrival, Size: 77, Sender: path("ann@example.org"), Held: true,
		Recipients: []spool.EntryRecipient{
			{Path: path("h@example.net"), Next: arrival.Add(24 * time.Hour)}, {Path: path("i@example.net"), Next: arrival.Add(24 * time.Hour)},
		},
	}}
	const want = `A1B2C3D4E5L!     77 Sat Nov 21 22:00:00  ann@example.org
                         (held until Sun Nov 22 22:00:00, as the sender wants)
                                         h@example.net
                                         i@example.net
`
	if got := printed(t, all, new(text)); !strings.Contains(got, want) {
		t.Errorf("listing differs (-want +got):\n%s", cmp.Diff(want, got))
	}
	if got := printed(t, all, jsonLines{}); !strings.HasPrefix(got, `{"queue_name": "hold", `) {
		t.Errorf("listed as %s", got)
	}
}

// The manual has every option, and no others.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../man/mailq.1")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\.It Fl (.+)$`).FindAllStringSubmatch(string(page), -1) {
		for form := range strings.SplitSeq(m[1], " , Fl ") {
			name, _, _ := strings.Cut(form, " ")
			listed[strings.TrimLeft(name, `-\&`)] = true
		}
	}
	known := []string{"Ac", "Am", "qI", "qR", "qS"}
	for _, f := range app(io.Discard).Flags {
		known = append(known, f.Names()[0])
	}
	for _, name := range known {
		if !listed[name] {
			t.Errorf("mailq.1 has no .It Fl %s", name)
		}
		delete(listed, name)
	}
	for name := range listed {
		t.Errorf("mailq.1 has .It Fl %s, which the program has not", name)
	}
}

func TestTextOfOneAndNone(t *testing.T) {
	if got := printed(t, nil, new(text)); got != "Mail queue is empty\n" {
		t.Errorf("empty queue = %q", got)
	}
	if got := printed(t, entries()[:1], new(text)); !strings.HasSuffix(got, "\n\n\t\tTotal requests: 1\n-- 1 Kbytes in 1 Request.\n") {
		t.Errorf("one message = %q", got)
	}
}

// What the monitoring plugins' check_mailq looks for in the output, for its kinds of mail systems.
func TestMonitoring(t *testing.T) {
	postfix := func(out string) string {
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		last := lines[len(lines)-1]
		if m := regexp.MustCompile(`Kbytes in (\d+)`).FindStringSubmatch(last); m != nil {
			return m[1]
		}
		if strings.Contains(last, "Mail queue is empty") {
			return "0"
		}
		return "unknown"
	}
	sendmail := func(out string) string {
		if strings.Contains(out, "is empty") {
			return "0"
		}
		for line := range strings.SplitSeq(out, "\n") {
			if strings.Contains(line, "mqueue") {
				return "unknown"
			}
			if m := regexp.MustCompile(`(?i)^\s+Total\sRequests:\s(\d+)$`).FindStringSubmatch(line); m != nil {
				return m[1]
			}
		}
		return "unknown"
	}
	// The scripts of many a site.
	grep := func(out string) string {
		return fmt.Sprint(len(regexp.MustCompile(`(?m)^[A-F0-9]`).FindAllString(out, -1)))
	}
	for _, n := range []int{0, 1, 5} {
		out := printed(t, entries()[:n], new(text))
		for name, count := range map[string]func(string) string{"postfix": postfix, "sendmail": sendmail, "grep": grep} {
			if got := count(out); got != fmt.Sprint(n) {
				t.Errorf("%s counts %s of %d messages in:\n%s", name, got, n, out)
			}
		}
	}
}

func TestJSON(t *testing.T) {
	const want = `{"queue_name": "deferred", "queue_id": "A1B2C3D4E5F", "arrival_time": 1795298400, "message_size": 1234, "forced_expire": false, "sender": "root@host.example.com", "recipients": [{"address": "a@example.net", "delay_reason": "connect to mx.example.net[192.0.2.1]:25: Connection refused", "next_attempt": 1795302000, "attempts": 2, "status": "4.4.1"}]}
{"queue_name": "active", "queue_id": "A1B2C3D4E5G", "arrival_time": 1793570400, "message_size": 26214400, "forced_expire": false, "sender": "MAILER-DAEMON", "recipients": [{"address": "b@example.net", "delay_reason": "451 4.2.0 greylisted", "next_attempt": 1795298400, "attempts": 1, "status": "4.2.0", "relay": "mx[192.0.2.2]:25"}, {"address": "c@example.net", "delay_reason": "451 4.2.0 greylisted", "next_attempt": 1795298400, "attempts": 1, "status": "4.2.0", "relay": "mx[192.0.2.2]:25"}, {"address": "d@example.net", "next_attempt": 1795298400, "attempts": 0}]}
{"queue_name": "active", "queue_id": "A1B2C3D4E5H", "arrival_time": 1795298400, "message_size": 9, "forced_expire": false, "sender": "www-data@host.example.com", "recipients": [{"address": "e@example.net", "delay_reason": "450 4.7.1 a reason that is so long that it is longer than the whole line and begins at its left end\u001b[2J", "next_attempt": 1795298400, "attempts": 1, "status": "4.7.1"}]}
{"queue_name": "incoming", "queue_id": "A1B2C3D4E5J", "arrival_time": 1795298400, "message_size": 0, "forced_expire": false, "sender": "root@host.example.com", "recipients": [{"address": "\"f\\\"\"@example.net", "next_attempt": 1795298400, "attempts": 0}]}
{"queue_name": "maildrop", "queue_id": "A1B2C3D4E5K", "arrival_time": 1795298400, "message_size": 2048, "forced_expire": false, "sender": "jürgen@host.example.com", "recipients": [{"address": "g@example.net", "attempts": 0}]}
`
	if diff := cmp.Diff(want, printed(t, entries(), jsonLines{})); diff != "" {
		t.Errorf("listing differs (-want +got):\n%s", diff)
	}
	if got := printed(t, nil, jsonLines{}); got != "" {
		t.Errorf("empty queue = %q, want nothing", got)
	}
}

// FuzzStrings: whatever a reason holds, JSON is valid and says the same, and text is one line without control characters.
func FuzzStrings(f *testing.F) {
	f.Add("451 4.7.1 \"later\" \\ \x00\x1b\u0085\u2028\xff")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(appendJSONString(nil, s), &got); err != nil || got != strings.ToValidUTF8(s, "\ufffd") && !strings.Contains(got, "\ufffd") {
			t.Errorf("JSON of %q reads %q, %v", s, got, err)
		}
		for _, c := range string(appendSafe(nil, s)) {
			if c < ' ' || 0x7f <= c && c < 0xa0 || c == '\u2028' || c == '\u202e' {
				t.Errorf("text of %q has %q", s, c)
			}
		}
	})
}

type limited struct {
	bytes.Buffer
	left int
	err  error
}

func (w *limited) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, w.err
	}
	return w.Buffer.Write(p)
}

func TestFirstEntryIsWrittenAtOnce(t *testing.T) {
	var b bytes.Buffer
	seen := false
	all := func(yield func(spool.Entry, error) bool) {
		yield(entries()[0], nil)
		seen = strings.Contains(b.String(), "a@example.net")
		yield(entries()[1], nil)
	}
	if err := printQueue(&b, all, new(text)); err != nil || !seen {
		t.Errorf("printQueue = %v, first entry written before the second was read: %v", err, seen)
	}
}

func TestErrors(t *testing.T) {
	var b bytes.Buffer
	err := printQueue(&b, sequence(entries()[:2], fs.ErrPermission), new(text))
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(b.String(), "d@example.net") || strings.Contains(b.String(), "Total") {
		t.Errorf("after two entries: %v\n%s", err, &b)
	}
	if err := printQueue(&limited{left: 400, err: unix.ENOSPC}, sequence(entries(), nil), new(text)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("disk full: %v", err)
	}
	if err := printQueue(&limited{left: 400, err: unix.EPIPE}, sequence(entries(), nil), new(text)); err != nil {
		t.Errorf("nobody reads on: %v", err)
	}
}

// newQueue returns the directory of a configuration file whose spool holds n messages in drop/.
func newQueue(t testing.TB, n int) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "postrider.toml"), fmt.Appendf(nil, "spool = %q\n", filepath.Join(dir, "spool")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := spool.Create(filepath.Join(dir, "spool")); err != nil {
		t.Fatal(err)
	}
	d, err := drop.Open(filepath.Join(dir, "spool", "drop"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i := range n {
		env := &mail.Envelope{
			Arrival: arrival.Add(time.Duration(i) * time.Second), Sender: path("root@host.example.com"),
			Recipients: []mail.Recipient{{Path: path("a@example.net")}},
		}
		w, err := d.Create(env)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "Subject: hello\r\n\r\nhello\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(mail.Facts{}); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRun(t *testing.T) {
	dir := newQueue(t, 2)
	file := filepath.Join(dir, "postrider.toml")
	broken := filepath.Join(t.TempDir(), "broken.toml")
	if err := os.WriteFile(broken, []byte("spoool = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(newQueue(t, 0), "postrider.toml")
	const all = "-- 0 Kbytes in 2 Requests.\n"
	tests := []struct {
		name   string
		args   []string
		code   int
		stdout string // its end
		stderr string // a part of its one line
	}{
		{"the queue", []string{"-C", file}, 0, all, ""},
		{"configuration glued to its option", []string{"-C" + file}, 0, all, ""},
		{"configuration directory", []string{"-C", dir}, 0, all, ""},
		{"Sendmail's options", []string{"-Ac", "-v", "-C", file, "-Am"}, 0, all, ""},
		{"as JSON", []string{"-jv", "-C", file}, 0, `"recipients": [{"address": "a@example.net", "next_attempt": 1795298401, "attempts": 0}]}` + "\n", ""},
		{"some of it", []string{"-C", file, "--only-recipient", "A@EXAMPLE", "--only-sender", "root@"}, 0, all, ""},
		{"some of it, as Sendmail says", []string{"-qRa@example", "-q!Sann", "-C" + file, "-q!Iabc"}, 0, all, ""},
		{"none of it", []string{"-C", file, "-q!Ra@"}, 0, "No queued mail is like that\n", ""},
		{"none of it, as JSON", []string{"-j", "-C", file, "-qIabc"}, 0, "", ""},
		{"all of it, of which there is none", []string{"-C", empty, "-qRx"}, 0, "No queued mail is like that\n", ""},
		{"a choice of Postfix", []string{"-qQ"}, 64, "", "-q"},
		{"empty queue", []string{"-C", empty}, 0, "Mail queue is empty\n", ""},
		{"empty queue as JSON", []string{"-j", "-C", empty}, 0, "", ""},
		{"the version, whatever is wrong", []string{"-C", broken, "--version", "-v", "x"}, 0, "postrider " + version() + "\n", ""},
		{"unknown option", []string{"-z"}, 64, "", "-z"},
		{"an argument", []string{"-C", file, "A1B2C3D4E5F"}, 64, "", "A1B2C3D4E5F"},
		{"option without value", []string{"-C"}, 64, "", "-C"},
		{"missing configuration", []string{"-C", file + "x"}, 78, "", "no such file"},
		{"broken configuration", []string{"-C", broken}, 78, "", "broken.toml:1:1: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(append([]string{"mailq"}, tt.args...), &stdout, &stderr)
			if code != tt.code || !strings.HasSuffix(stdout.String(), tt.stdout) || tt.stdout == "" && stdout.Len() > 0 {
				t.Errorf("mailq %q = %d, stdout %q; want %d, %q", tt.args, code, &stdout, tt.code, tt.stdout)
			}
			said := stderr.String()
			if lines := strings.Count(said, "\n"); !strings.Contains(said, tt.stderr) || tt.code == 0 && lines != 0 || tt.code != 0 && lines != 1 {
				t.Errorf("stderr = %q, want %q", said, tt.stderr)
			}
		})
	}
}

func TestEnvironmentNamesConfiguration(t *testing.T) {
	t.Setenv("POSTRIDER_CONFIG", filepath.Join(newQueue(t, 1), "postrider.toml"))
	var stdout, stderr bytes.Buffer
	if code := run([]string{"mailq"}, &stdout, &stderr); code != 0 || !strings.Contains(stdout.String(), "in 1 Request.") {
		t.Errorf("mailq = %d, %q, %q", code, &stdout, &stderr)
	}
}

func mailq(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), runAsMailq+"=1")
	return cmd
}

func TestNoPermission(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can be somebody else")
	}
	dir := newQueue(t, 1)
	// t.TempDir is below directories that nobody else may enter.
	public, err := os.MkdirTemp("/tmp", "mailq-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(public)
	if err := os.Chmod(public, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("spool = %q\n", filepath.Join(public, "spool"))
	for name, content := range map[string]string{"mailq": string(program), "postrider.toml": config} {
		if err := os.WriteFile(filepath.Join(public, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(dir, "spool"), filepath.Join(public, "spool")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(public, "mailq"), "-C", filepath.Join(public, "postrider.toml"))
	// A binary that counts coverage says where it cannot write what it has counted.
	coverage := filepath.Join(public, "coverage")
	if err := errors.Join(os.Mkdir(coverage, 0o777), os.Chmod(coverage, 0o777)); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), runAsMailq+"=1", "GOCOVERDIR="+coverage)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 77 || stdout.Len() > 0 || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("mailq as nobody: %v, stdout %q, stderr %q; want 77 and one line", err, &stdout, &stderr)
	}
}

func TestUnreadableQueue(t *testing.T) {
	dir := newQueue(t, 1)
	drop := filepath.Join(dir, "spool", "drop")
	if err := os.RemoveAll(drop); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(drop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run([]string{"mailq", "-C", dir}, &stdout, &stderr); code != 69 || stdout.Len() > 0 || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("mailq = %d, stdout %q, stderr %q; want 69 and one line", code, &stdout, &stderr)
	}
}

// mailq | head: the reader leaves, and that is nobody's fault.
func TestReaderLeaves(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := mailq(t, "-C", newQueue(t, 3))
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cmd.Run(), w.Close()); err != nil || stderr.Len() > 0 {
		t.Errorf("mailq into a closed pipe: %v, stderr %q", err, &stderr)
	}
}

func TestFullDevice(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("SKIPPED: a device that is full is missing: %v", err)
	}
	defer full.Close()
	var stderr bytes.Buffer
	if code := run([]string{"mailq", "-C", newQueue(t, 1)}, full, &stderr); code != 69 || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("mailq >/dev/full = %d, stderr %q; want 69 and one line", code, &stderr)
	}
}

func BenchmarkText(b *testing.B) {
	all := entries()
	l := new(text)
	buf := make([]byte, 0, 64<<10)
	b.ReportAllocs()
	for i := range b.N {
		buf = l.appendEntry(buf[:0], &all[i%len(all)])
	}
}
