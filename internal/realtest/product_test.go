package realtest

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// build makes the three commands as they are installed.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("make", "-s", "-C", "../..", "build", "BIN="+dir).CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	return dir
}

// install puts the commands and the spool where make install puts them.
func (w *world) install(bin string) {
	w.t.Helper()
	for _, name := range []string{"sendmail", "queue-runner", "mailq"} {
		b, err := os.ReadFile(filepath.Join(bin, name))
		if err != nil {
			w.t.Fatal(err)
		}
		w.write("usr/local/sbin/"+name, b, 0o755, "root")
	}
	setup, err := os.ReadFile("../../packaging/setup")
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("tmp/setup", setup, 0o755, "root")
	w.must("root", "/tmp/setup", "/var/spool/postrider", "/usr/local/sbin/sendmail")
}

// configure writes the configuration file and the password that it names.
func (w *world) configure(text, password string) {
	w.write("etc/postrider/postrider.toml", []byte(text), 0o644, "root")
	w.write("etc/postrider/relay.password", []byte(password+"\n"), 0o600, "postrider")
}

// queued returns the queue IDs of what sendmail has queued since the last pass, in the order of their arrival.
func (w *world) queued() []string {
	w.t.Helper()
	files, err := fs.ReadDir(w.root.FS(), "var/spool/postrider/drop")
	if err != nil {
		w.t.Fatal(err)
	}
	var ids []string
	for _, f := range files {
		ids = append(ids, f.Name())
	}
	slices.Sort(ids)
	return ids
}

// An attempt is a line that queue-runner logs about a recipient.
type attempt struct {
	id, recipient, dsn, status, text string
}

var attemptLine = regexp.MustCompile(`(?m)\b([0-9A-Z]{11}): to=<(.*?)>, .*\bdsn=([0-9.]+), status=(\w+) \((.*)\)$`)

// pass makes one pass and returns what was logged about recipients, and all of the log.
func (w *world) pass() ([]attempt, string) {
	w.t.Helper()
	log, err := w.run("postrider", nil, "/usr/local/sbin/queue-runner")
	if err != nil {
		w.t.Fatal(err)
	}
	var attempts []attempt
	for _, m := range attemptLine.FindAllStringSubmatch(log, -1) {
		attempts = append(attempts, attempt{m[1], m[2], m[3], m[4], m[5]})
	}
	return attempts, log
}

// mailq returns what mailq prints.
func (w *world) mailq() string {
	w.t.Helper()
	return w.must("postrider", "/usr/local/sbin/mailq")
}

var queuedAs = regexp.MustCompile(`queued as (\w+)`)

// sentAs returns Postfix's queue ID from the words with which it accepted the message.
func (a attempt) sentAs() string {
	if m := queuedAs.FindStringSubmatch(a.text); m != nil && a.status == "sent" && strings.HasPrefix(a.dsn, "2.") {
		return m[1]
	}
	return ""
}
