package main

import (
	"bytes"
	"flag"
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

var update = flag.Bool("update", false, "write the files in testdata/callers that say what is queued")

// TestCallers repeats calls of real programs. What bsd-mailx, cron and the others gave to sendmail is in NAME.argv, an
// argument a line, and NAME.stdin, byte for byte as internal/realtest recorded it; NAME.queued is the message file that
// must come of it.
func TestCallers(t *testing.T) {
	files, err := filepath.Glob("testdata/callers/*.argv")
	if err != nil || len(files) == 0 {
		t.Fatalf("no calls in testdata/callers: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".argv")
		t.Run(filepath.Base(name), func(t *testing.T) {
			got := queue(t, name)
			if *update {
				if err := os.WriteFile(name+".queued", got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name + ".queued")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("queued (-want +got):\n%s", diff)
			}
		})
	}
}

// queue repeats a call with a spool of its own, and returns the one message file in there with stand-ins for what differs
// each time.
func queue(t *testing.T, name string) []byte {
	t.Helper()
	dir := t.TempDir()
	config := fmt.Sprintf("spool = %q\nhostname = \"web1.example\"\ndomain = \"web1.example\"\ndelivery = \"queue\"\n", dir+"/spool")
	if err := os.WriteFile(dir+"/postrider.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	argv, err := os.ReadFile(name + ".argv")
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := os.Open(name + ".stdin")
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	args := strings.Split(strings.TrimSuffix(string(argv), "\n"), "\n")[1:]
	cmd := exec.Command(filepath.Join(programs, "sendmail"), args...)
	cmd.Env = []string{"POSTRIDER_CONFIG=" + dir + "/postrider.toml", "NAME=Ann Example"}
	cmd.Stdin = stdin
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("sendmail %q: %v\n%s", args, err, out)
	}
	queued, err := filepath.Glob(dir + "/spool/drop/*")
	if err != nil || len(queued) != 1 {
		t.Fatalf("%d files in drop/, want 1 (%v)", len(queued), err)
	}
	message, err := os.ReadFile(queued[0])
	if err != nil {
		t.Fatal(err)
	}
	message = standIns(message, filepath.Base(queued[0]))
	if slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "-f") }) {
		return message
	}
	return anyUser(message)
}

// standIns puts words in the place of what differs each time: queue ID, time, user, the random part of the Message-ID. The
// last line, which has the checksum, is left out.
func standIns(message []byte, id string) []byte {
	message = message[:bytes.LastIndexByte(message[:len(message)-1], '\n')+1]
	for _, r := range []struct{ pattern, text string }{
		{`(?m)^arrival: .*$`, "arrival: TIME"},
		{`(?m)^submitter: .*$`, "submitter: UID"},
		{`from userid \d+`, "from userid UID"},
		{`\bid ` + id + `; .*\r\n`, "id ID; TIME\r\n"},
		{`(id ID; TIME\r\n)Date: .*\r\n`, "${1}Date: TIME\r\n"},
		{`Message-ID: <` + id + `\.[0-9a-f]{8}@`, "Message-ID: <ID.RANDOM@"},
	} {
		message = regexp.MustCompile(r.pattern).ReplaceAll(message, []byte(r.text))
	}
	return message
}

// anyUser replaces the address of who runs the test, where sendmail had to find out who that is.
func anyUser(message []byte) []byte {
	m := regexp.MustCompile(`(?m)^sender: <(.*)>$`).FindSubmatch(message)
	if m == nil {
		return message
	}
	message = bytes.Replace(message, m[0], []byte("sender: <USER@web1.example>"), 1)
	return bytes.Replace(message, append([]byte("From: Ann Example <"), m[1]...), []byte("From: Ann Example <USER@web1.example"), 1)
}
