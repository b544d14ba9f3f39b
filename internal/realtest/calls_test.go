package realtest

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A call is one run of sendmail by a program.
type call struct {
	argv   []string // from argv[0] on
	stdin  []byte
	status string // exit status; "" while it runs
}

// keeper stands at /usr/sbin/sendmail. It keeps what the caller gave, in a directory of its own whose name sorts by
// time, while our sendmail reads it.
const keeper = `#!/bin/sh
call=$(mktemp -d /calls/$(date +%s.%N).XXXXXX) || exit 75
printf '%s\0' "$0" "$@" >$call/argv
tee $call/stdin | /usr/local/sbin/sendmail "$@"
status=$?
echo $status >$call/status
exit $status
`

// installKeeper puts the keeper where programs look for sendmail.
func (w *world) installKeeper() {
	w.mkdir("calls", 0o777|os.ModeSticky, "root")
	w.write("usr/sbin/sendmail", []byte(keeper), 0o755, "root")
}

// calls returns the calls since it was last asked, in their order.
func (w *world) calls() []call {
	w.t.Helper()
	dirs, err := fs.Glob(w.root.FS(), "calls/*")
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(dirs)
	var calls []call
	for _, dir := range dirs {
		c := call{stdin: w.read(path.Join(dir, "stdin"))}
		c.argv = strings.Split(strings.TrimSuffix(string(w.read(path.Join(dir, "argv"))), "\x00"), "\x00")
		if status, err := w.root.ReadFile(path.Join(dir, "status")); err == nil {
			c.status = strings.TrimSpace(string(status))
		}
		if err := w.root.RemoveAll(dir); err != nil {
			w.t.Fatal(err)
		}
		calls = append(calls, c)
	}
	return calls
}

// finished reports whether so many calls have ended since calls was last asked.
func (w *world) finished(n int) bool {
	w.t.Helper()
	ended, err := fs.Glob(w.root.FS(), "calls/*/status")
	if err != nil {
		w.t.Fatal(err)
	}
	return len(ended) >= n
}

// ignoresDots reports whether the caller said that a line with one dot is part of the message.
func (c call) ignoresDots() bool {
	return slices.ContainsFunc(c.argv, func(arg string) bool {
		return arg == "-i" || arg == "-oi" || arg == "-ti" || arg == "-it"
	})
}

// lines returns the lines of the input without their endings, up to the dot that ends it if dots have a meaning.
func (c call) lines() [][]byte {
	var lines [][]byte
	for line := range bytes.Lines(c.stdin) {
		line = bytes.TrimRight(line, "\r\n")
		if !c.ignoresDots() && string(line) == "." {
			break
		}
		if !c.ignoresDots() && bytes.HasPrefix(line, []byte("..")) {
			line = line[1:]
		}
		lines = append(lines, line)
	}
	return lines
}

// keepSample writes argv, one argument a line, and the input to the directory of samples, if one was named.
func (c call) keepSample(name string) error {
	dir := os.Getenv("POSTRIDER_PROOF_SAMPLES")
	if dir == "" || len(c.stdin) > 16<<10 {
		return nil
	}
	return errors.Join(
		os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, name+".argv"), []byte(strings.Join(c.argv, "\n")+"\n"), 0o644),
		os.WriteFile(filepath.Join(dir, name+".stdin"), c.stdin, 0o644),
	)
}
