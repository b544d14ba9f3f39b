package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMboxAndPipe(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, fmt.Sprintf(`
[transport.file]
url = "mbox:%[1]s/box"
[transport.program]
url = "pipe:/bin/sh"
args = ["-c", 'cat >%[1]s/message; printf "%%s " "$@" >%[1]s/args', "-", "{sender}", "{recipient}"]
[transport.users]
url = "pipe:/bin/true"
args = ["{user}"]
[transport.busy]
url = "pipe:/bin/sh"
args = ["-c", "echo come back later; exit 75"]
[[route]]
to = ["file.example"]
transport = "file"
[[route]]
to = ["program.example"]
transport = "program"
[[route]]
to = ["busy.example"]
transport = "busy"
[[route]]
transport = "users"
`, dir))
	w.submit("bob@file.example", "carol@file.example", "bob@program.example", "dave@busy.example", "no-such-user@users.example")
	w.pass()
	box, err := os.ReadFile(filepath.Join(dir, "box"))
	if n := strings.Count(string(box), "\nDelivered-To: "); err != nil || n != 2 {
		t.Errorf("%d messages in the mbox, %v:\n%s", n, err, box)
	}
	args, err := os.ReadFile(filepath.Join(dir, "args"))
	if err != nil || string(args) != "ann@example.org bob@program.example " {
		t.Errorf("arguments %q, %v", args, err)
	}
	w.wantLog(
		"relay=mbox:"+dir+"/box", "relay=pipe:/bin/sh", "(delivered to the program)",
		"dsn=4.3.0, status=deferred (the program exited with status 75, temporary failure: come back later)",
		"to=<no-such-user@users.example>, relay=none", "dsn=5.1.1, status=bounced (no user of this host has this name)",
	)
}
