package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// IDs of the users and groups of these tests; no machine has them.
const (
	owner64   = 64001 // of the spool
	bob64     = 64002
	lists64   = 64003
	mail64    = 64010 // a group
	friends64 = 64011 // another one
)

// A household is a world with users of its own, whose spool belongs to one of them, and queue-runner started by root.
type household struct {
	*world
	root, program string
}

func newHousehold(t *testing.T, settings string) *household {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: delivery as the recipient needs root")
	}
	root, err := os.MkdirTemp("", "household")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	h := &household{root: root, program: filepath.Join(root, "queue-runner")}
	build := exec.Command("go", "build", "-o", h.program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.dir(t, ".", 0, 0, 0o755)
	h.dir(t, "mail", 0, mail64, 0o775|os.ModeSetgid)
	h.dir(t, "bob", bob64, bob64, 0o700)
	h.dir(t, "lists", lists64, lists64, 0o700)
	writeFile(t, filepath.Join(root, "passwd"), fmt.Sprintf("root:x:0:0::%[1]s:/bin/sh\npostrider:x:%[2]d:%[2]d::/:/bin/false\nbob:x:%[3]d:%[3]d::%[1]s/bob:/bin/sh\nlists:x:%[4]d:%[4]d::%[1]s/lists:/bin/sh\n",
		root, owner64, bob64, lists64), 0o644)
	writeFile(t, filepath.Join(root, "group"), fmt.Sprintf("root:x:0:\nmail:x:%d:\nfriends:x:%d:bob,ann\n", mail64, friends64), 0o644)
	writeFile(t, filepath.Join(root, "nsswitch.conf"), "passwd: files\n", 0o644)
	h.world = newWorld(t, strings.ReplaceAll(settings, "ROOT", root))
	// Its place must be one that the owner can go to.
	h.world.dir = filepath.Join(root, "spool")
	text, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	h.config = filepath.Join(root, "postrider.toml")
	_, rest, _ := strings.Cut(string(text), "\n")
	writeFile(t, h.config, fmt.Sprintf("spool = %q\n%s", h.world.dir, rest), 0o644)
	if err := spool.Create(h.world.dir); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *household) dir(t *testing.T, name string, uid, gid int, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(h.root, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// command is a pass in a world where the users are those of the household, over what has been submitted.
func (h *household) command() *exec.Cmd {
	h.t.Helper()
	err := filepath.WalkDir(h.world.dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, owner64, owner64))
	})
	if err != nil {
		h.t.Fatal(err)
	}
	script := fmt.Sprintf("mount --bind %[1]s/passwd /etc/passwd && mount --bind %[1]s/group /etc/group && if [ -e /etc/nsswitch.conf ]; then mount --bind %[1]s/nsswitch.conf /etc/nsswitch.conf; fi && exec %[2]s -C %[3]s", h.root, h.program, h.config)
	return exec.Command("unshare", "-m", "sh", "-c", script)
}

func (h *household) pass() {
	h.t.Helper()
	out, err := h.command().CombinedOutput()
	h.log += string(out)
	if err != nil {
		h.t.Fatalf("queue-runner: %v\n%s", err, h.log)
	}
}

// owned checks a file's owner, group, mode and content, of which %s is the root.
func (h *household) owned(pattern string, uid, gid int, mode os.FileMode, part string) {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.root, pattern))
	if err != nil || len(found) != 1 {
		h.t.Errorf("%s: %q, %v\n%s", pattern, found, err, h.log)
		return
	}
	st, err := os.Stat(found[0])
	if err != nil {
		h.t.Fatal(err)
	}
	sys := st.Sys().(*syscall.Stat_t)
	if int(sys.Uid) != uid || int(sys.Gid) != gid || st.Mode() != mode {
		h.t.Errorf("%s: owner %d:%d, %v; want %d:%d, %v", pattern, sys.Uid, sys.Gid, st.Mode(), uid, gid, mode)
	}
	text, err := os.ReadFile(found[0])
	if part = strings.ReplaceAll(part, "ROOT", h.root); err != nil || !strings.Contains(string(text), part) {
		h.t.Errorf("%s: %q, %v; want %q", pattern, text, err, part)
	}
}

const asRecipients = `
alias_user = "lists"
[transport.box]
url = "mbox:ROOT/mail/{user}"
[transport.home]
url = "maildir:{home}/Maildir"
[transport.program]
url = "pipe:/bin/sh"
args = ["-c", 'cat >message; (id -u; id -ru; id -g; id -G; pwd; umask; grep NoNewPrivs /proc/self/status; echo $1 $USER $HOME) >id', "-", "{user}"]
[transport.lists]
url = "pipe:/bin/sh"
args = ["-c", 'id -u >$HOME/id; echo 4.2.2 full; exit 1']
run_as = "lists"
[transport.plain]
url = "maildir:ROOT/spool/Maildir"
[[route]]
to = ["box.example", "localhost", "here.example"]
transport = "box"
[[route]]
to = ["home.example"]
transport = "home"
[[route]]
to = ["program.example"]
transport = "program"
[[route]]
to = ["lists.example"]
transport = "lists"
[[route]]
transport = "plain"
`

func TestAsTheRecipient(t *testing.T) {
	h := newHousehold(t, asRecipients)
	text, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, h.config, strings.Replace(string(text), `aliases = ""`, fmt.Sprintf("aliases = %q", h.root+"/aliases"), 1), 0o644)
	writeFile(t, filepath.Join(h.root, "aliases"), fmt.Sprintf("staff: \"|/bin/sh -c 'cat >message'\", %s/lists/box, %[1]s/lists/dir/\n", h.root), 0o644)
	h.submit("bob@box.example", "bob+x@home.example", "bob@program.example", "bob@lists.example", "anybody@plain.example",
		"root@box.example", "root@home.example", "nobody-here@box.example", "staff@localhost")
	h.pass()
	h.owned("mail/bob", bob64, mail64, 0o660, "From ann@example.org ")
	h.owned("bob/Maildir/new/*", bob64, bob64, 0o600, "Delivered-To: bob+x@home.example\nFrom: ann@example.org\nSubject: figures\n\n.hello\n")
	h.owned("bob/message", bob64, bob64, 0o600, "Delivered-To: bob@program.example\n")
	h.owned("bob/id", bob64, bob64, 0o600, fmt.Sprintf("%[1]d\n%[1]d\n%[1]d\n%[1]d %[2]d\nROOT/bob\n0077\nNoNewPrivs:\t0\nbob bob ROOT/bob\n", bob64, friends64))
	h.owned("lists/id", lists64, lists64, 0o600, fmt.Sprint(lists64))
	h.owned("lists/message", lists64, lists64, 0o600, "Delivered-To: staff@localhost\n")
	h.owned("lists/box", lists64, lists64, 0o600, "Delivered-To: staff@localhost\n")
	h.owned("lists/dir/new/*", lists64, lists64, 0o600, "Delivered-To: staff@localhost\n")
	h.owned("spool/Maildir/new/*_4_*", owner64, owner64, 0o600, "Delivered-To: anybody@plain.example\n")
	h.wantLog("relay=mbox:"+h.root+"/mail/bob,", "relay=maildir:"+h.root+"/bob/Maildir,", "relay=pipe:/bin/sh,",
		"dsn=4.2.2, status=deferred (the program exited with status 1: 4.2.2 full)",
		"to=<root@box.example>, relay=none", "(root is root, and nothing is delivered as root: he needs an alias)",
		"to=<nobody-here@box.example>, relay=none", "bounced (no user of this host has this name)")
	if _, err := os.Stat(filepath.Join(h.root, "mail/root")); err == nil {
		t.Error("something was delivered as root")
	}
}

// The process that delivers as a user may write to mailboxes by a group that is not his. He must not get hold of it.
func TestAgentIsNotItsUsers(t *testing.T) {
	h := newHousehold(t, `
[transport.program]
url = "pipe:/bin/sh"
args = ["-c", 'cat >/dev/null; stat -c %u /proc/$PPID/status >owner; grep -E "^(Uid|Gid|Groups|CapPrm)" /proc/$PPID/status >status; if cat /proc/$PPID/environ; then echo open; else echo shut; fi >memory 2>&1; readlink /proc/$PPID/fd/0 >>memory']
run_as = "{user}"
[transport.home]
url = "mbox:{home}/dir/box"
[[route]]
to = ["home.example"]
transport = "home"
[[route]]
transport = "program"
`)
	if err := os.Symlink(filepath.Join(h.root, "mail"), filepath.Join(h.root, "bob/dir")); err != nil {
		t.Fatal(err)
	}
	h.submit("bob@program.example", "bob@home.example")
	h.pass()
	h.owned("bob/owner", bob64, bob64, 0o600, "0\n")
	h.owned("bob/status", bob64, bob64, 0o600, fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\nGid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\nGroups:\t%[1]d %[2]d \nCapPrm:\t0000000000000000\n", bob64, friends64))
	h.owned("bob/memory", bob64, bob64, 0o600, "shut\n")
	if text, err := os.ReadFile(filepath.Join(h.root, "bob/memory")); err != nil || strings.Contains(string(text), "socket:") {
		t.Errorf("descriptors: %q, %v", text, err)
	}
	if found, err := os.ReadDir(filepath.Join(h.root, "mail")); err != nil || len(found) != 0 {
		t.Errorf("in root's directory of mailboxes by way of a home: %v, %v", found, err)
	}
}

// When the pass is killed, what it has started as somebody is, too.
func TestAgentsEndWithThePass(t *testing.T) {
	h := newHousehold(t, `
[transport.program]
url = "pipe:/bin/sh"
args = ["-c", 'cat >/dev/null; echo $$ >pid.new; mv pid.new pid; sleep 1000']
run_as = "{user}"
timeout = "10m"
[[route]]
transport = "program"
`)
	h.submit("bob@program.example")
	cmd := h.command()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.root, "bob/pid")
	eventually(t, "the program starts", func() bool { _, err := os.Stat(file); return err == nil })
	if err := cmd.Process.Kill(); err != nil { // unshare and sh have become queue-runner
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	var pid int
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the program is stopped", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
}

// Where users may be in a directory, nobody is said not to exist; nor does he keep others waiting.
func TestDirectoryOfUsers(t *testing.T) {
	if _, err := os.Stat("/etc/nsswitch.conf"); err != nil {
		t.Skip("SKIPPED: there is no nsswitch.conf")
	}
	h := newHousehold(t, asRecipients)
	writeFile(t, filepath.Join(h.root, "nsswitch.conf"), "passwd: files nosuchsource\n", 0o644)
	h.submit("nobody-here@box.example", "nobody-here@localhost", "bob@box.example")
	h.pass()
	h.owned("mail/bob", bob64, mail64, 0o660, "Delivered-To: bob@box.example")
	h.wantLog("to=<nobody-here@box.example>, relay=none", "to=<nobody-here@localhost>, relay=", "dsn=4.1.1, status=deferred (look up the user:")
	if strings.Contains(h.log, "bounced") {
		t.Errorf("bounced:\n%s", h.log)
	}
}

func eventually(t *testing.T, what string, true func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !true(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("a minute has gone, and not yet: %s", what)
		}
	}
}

// Who is not root delivers as himself where that can do no harm, and says so where it could.
func TestWithoutRoot(t *testing.T) {
	run := "[[route]]\nto = [\"run.example\"]\ntransport = \"run\"\n"
	h := newHousehold(t, strings.Replace(asRecipients, "[[route]]\n", run+"[[route]]\n", 1)+"\n[transport.foreign]\nurl = \"mbox:ROOT/mail/{user}\"\nrun_as = \"lists\"\n"+`[transport.run]
url = "pipe:/bin/sh"
args = ["-c", 'echo "$1,$USER,$LOGNAME,$HOME,$PWD" >ROOT/spool/ran', "-", "{user}"]
`)
	h.dir(t, "bob", bob64, bob64, 0o755)
	h.dir(t, "mail", owner64, owner64, 0o755)
	h.submit("bob@box.example", "bob@home.example", "bob@lists.example", "bob@run.example")
	cmd := h.command()
	cmd.Args[len(cmd.Args)-1] = strings.Replace(cmd.Args[len(cmd.Args)-1], "exec ", fmt.Sprintf("exec setpriv --reuid %[1]d --regid %[1]d --clear-groups ", owner64), 1)
	out, err := cmd.CombinedOutput()
	h.log = string(out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	h.owned("mail/bob", owner64, owner64, 0o600, "Delivered-To: bob@box.example")
	h.owned("spool/ran", owner64, owner64, 0o600, "bob,postrider,postrider,/,/\n")
	h.wantLog("to=<bob@home.example>, relay=none", "by root to act as bob)", "by root to act as lists)")
}

// What an agent, who is a user, says cannot be more than what became of his own message.
func TestPlain(t *testing.T) {
	r := plain(mail.Result{Action: mail.Relayed, Scope: mail.OfUs, Relay: "x\ny", Remote: true, TLS: "TLS1.3 verified",
		Reply: mail.Reply{Code: 250, Enhanced: mail.EnhancedCode{2, 0, -1}, Text: "a\r\nb\xff" + strings.Repeat("c", 2000)}})
	if r.Action != mail.Delayed || r.Scope != mail.OfRecipient || r.Relay != "x y" || r.Remote || r.TLS != "" || r.Reply.Code != 0 ||
		r.Reply.Enhanced != (mail.EnhancedCode{}) || !strings.HasPrefix(r.Reply.Text, "a  b") || len(r.Reply.Text) > 1000 {
		t.Errorf("plain = %+v", r)
	}
}
