package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/internal/config"
)

var update = flag.Bool("update", false, "write the golden files")

// TestCheck reads each testdata/check/NAME.toml, in which TMP stands for a directory with a good password, an open one
// and a certificate file without certificates, and compares what check says with NAME.txt.
func TestCheck(t *testing.T) {
	files, err := filepath.Glob("testdata/check/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no configurations to check: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			dir := t.TempDir()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(dir, "postrider.toml"), strings.ReplaceAll(string(text), "TMP", dir), 0o644)
			writeFile(t, filepath.Join(dir, "password"), "opensesame\n", 0o600)
			writeFile(t, filepath.Join(dir, "open"), "opensesame\n", 0o644)
			writeFile(t, filepath.Join(dir, "ca.pem"), "opensesame\n", 0o644)
			cfg, err := config.Load(filepath.Join(dir, "postrider.toml"))
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(checkWords(t, cfg), dir, "TMP")
			if strings.Contains(got, "sesame") {
				t.Errorf("the password is shown:\n%s", got)
			}
			compare(t, strings.TrimSuffix(file, ".toml")+".txt", asRootReads(got))
		})
	}
}

// asRootReads leaves out what only others than root are told.
func asRootReads(s string) string {
	s = regexp.MustCompile(`(?m)^note: .*: only root can deliver as others than himself\n`).ReplaceAllString(s, "")
	return strings.TrimRight(s, "\n") + "\n"
}

// TestCheckWithoutFile checks what a user who tries things out has, and what a fresh installation has.
func TestCheckWithoutFile(t *testing.T) {
	cfg := &config.Config{
		Spool: "/nonexistent/postrider", Hostname: "web1", Domain: "web1", MaxMessageSize: 1000, Delivery: config.DeliverBackground, Log: config.LogAuto,
		Retry: config.Retry{First: time.Minute, Factor: 1, MaxWait: time.Hour, Expire: time.Hour},
	}
	compare(t, "testdata/check/no-file.txt", checkWords(t, cfg))
	cfg.Transports = map[string]config.Transport{"maildir": {Name: "maildir", Scheme: "maildir", Path: "/nonexistent/postrider/Maildir", Concurrency: 4}}
	cfg.Routes = []config.Route{{Transport: "maildir"}}
	compare(t, "testdata/check/no-file-private.txt", checkWords(t, cfg))
}

// checkWords returns what check writes, with its error in a last line.
func checkWords(t *testing.T, cfg *config.Config) string {
	t.Helper()
	var b bytes.Buffer
	err := check(cfg, &b)
	if err == nil {
		return b.String()
	}
	var mistake *config.Error
	if !errors.As(err, &mistake) {
		t.Errorf("check = %T, want *config.Error", err)
	}
	return b.String() + "error: " + err.Error() + "\n"
}

func compare(t *testing.T, golden, got string) {
	t.Helper()
	if *update {
		writeFile(t, golden, got, 0o644)
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", golden, diff)
	}
}

func writeFile(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestCheckCannotWrite(t *testing.T) {
	if err := check(&config.Config{Retry: config.Retry{Expire: 1}}, brokenWriter{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("check = %v, want %v", err, os.ErrClosed)
	}
}

func TestWaitWords(t *testing.T) {
	const day = 24 * time.Hour
	tests := []struct {
		retry deliver.Retry
		want  string
	}{
		{deliver.Retry{First: 450 * time.Second, Factor: 2, MaxWait: 16 * time.Hour, Expire: 5 * day}, "after 7m30s, 15m, 30m, 1h, 2h, 4h, 8h, then every 16h"},
		{deliver.Retry{First: 5 * time.Minute, Factor: 1, MaxWait: time.Hour, Expire: day}, "every 5m"},
		{deliver.Retry{First: time.Minute, Factor: 10, MaxWait: 12 * time.Hour, Expire: time.Hour}, "after 1m, 10m, 1h40m"},
		{deliver.Retry{First: time.Minute, Factor: 2, MaxWait: time.Hour, Expire: day, Attempts: 3}, "after 1m, 2m"},
		{deliver.Retry{First: time.Minute, Factor: 1, MaxWait: time.Hour, Expire: day, Attempts: 3}, "every 1m"},
		{deliver.Retry{First: time.Minute, Factor: 1, MaxWait: time.Hour, Expire: day, Attempts: 2}, "after 1m"},
		{deliver.Retry{First: time.Minute, Factor: 1.1, MaxWait: time.Hour, Expire: day}, "after 1m, 1m6s, 1m13s, 1m20s, 1m28s, 1m37s, 1m46s, 1m57s, then longer and longer up to 1h"},
	}
	for _, tt := range tests {
		if got := waitWords(tt.retry); got != tt.want {
			t.Errorf("waitWords(%+v):\n got %s\nwant %s", tt.retry, got, tt.want)
		}
	}
}

// TestCheckCommand runs queue-runner check: what it prints, what it complains of, and what it exits with.
func TestCheckCommand(t *testing.T) {
	const settings = `domain = "example.com"
relay = "submission://alerts@mail.example.com"
password_file = "DIR/password"
[transport.lan]
url = "lmtp+unix:/run/dovecot/lmtp"
[[route]]
to = ["lan.example.com"]
transport = "lan"
`
	const words = `configuration  DIR/postrider.toml
spool          DIR/spool
host name      here.example
domain         example.com, appended to addresses without one
local names    at here.example, localhost; no aliases
messages       up to 256 MB
delivery       sendmail starts a pass as soon as it has queued a message, if it may
log            to standard error

Mail goes where the first line that fits says:
  mail for lan.example.com: lmtp to the socket /run/dovecot/lmtp, at most 4 sessions (lan)
  all other mail: submission to mail.example.com:587, TLS with a verified certificate, login alerts, at most 3 sessions (relay)

Deferred mail is tried again after 7m30s, 15m, 30m, 1h, 2h, 4h, 8h, then every 16h, until it is 5 days old.
`
	for _, tt := range []struct {
		name           string
		settings       string
		mode           os.FileMode
		status         int
		stdout, stderr string
	}{
		{"all is well", settings, 0o600, 0, words, ""},
		{"a mistake in the file", "relay = 7\n", 0o600, 78, "",
			"queue-runner: DIR/postrider.toml:5:9: relay: found the number 7, expected a URL in quotes such as \"smtp://mail.example.com\"\n"},
		{"a password that others can read", settings, 0o644, 78, words + "\nproblem: transport relay: password file DIR/password: has mode 0644, which lets others at it; use chmod 0600, or 0640 with a group of our own\n",
			"queue-runner: DIR/postrider.toml: 1 problem\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, tt.settings)
			dir := filepath.Dir(w.config)
			text, err := os.ReadFile(w.config)
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, w.config, strings.ReplaceAll(string(text), "DIR", dir), 0o600)
			writeFile(t, filepath.Join(dir, "password"), "opensesame\n", tt.mode)
			cmd := w.command("check")
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != tt.status {
				t.Errorf("check: %v, want status %d", err, tt.status)
			}
			if diff := cmp.Diff(tt.stdout, strings.ReplaceAll(stdout.String(), dir, "DIR")); diff != "" {
				t.Errorf("standard output (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.stderr, strings.ReplaceAll(stderr.String(), dir, "DIR")); diff != "" {
				t.Errorf("standard error (-want +got):\n%s", diff)
			}
		})
	}
}
