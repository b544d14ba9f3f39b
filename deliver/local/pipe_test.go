package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postrider/postrider/deliver/users"
	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// program makes a program of a few lines of shell.
func program(t *testing.T, script string) Pipe {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	must(t, os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o700))
	// The file was open for writing just now, and a child of another test may have inherited that.
	return Pipe{Program: "/bin/sh", Args: []string{file}, Timeout: time.Minute}
}

func TestPipe(t *testing.T) {
	dir := t.TempDir()
	p := program(t, `cat >`+dir+`/message; printf '%s\n' "$@" >`+dir+`/args; env | LC_ALL=C sort >`+dir+`/env; pwd >`+dir+`/pwd; umask >`+dir+`/umask; echo done`)
	p.Args = append(p.Args, "-f", "{sender}", "{recipient}", "{user}", "{domain}", "x{user}")
	p.User = users.User{Name: "bob", Home: dir}
	m := newMessage(letter)
	m.Sender = path("ann+$(id)`x`@example.org")
	m.Recipients[0].Path = path("bob+lists@example.net")
	m.Recipients[0].Original = "rfc822;all@example.net"
	m.Envelope.ID = "QQ314159"
	r := p.Deliver(t.Context(), m, 0)
	if r.Action != mail.Delivered || r.Relay != "pipe:/bin/sh" || r.Status() != (mail.EnhancedCode{2, 1, 5}) {
		t.Errorf("result = %+v", r)
	}
	const want = "Return-Path: <ann+$(id)`x`@example.org>\nX-Original-To: all@example.net\nDelivered-To: bob+lists@example.net\n" +
		"Subject: hello\n\nFirst line.\n.\nFrom here on.\n"
	if got := read(t, dir, "message"); got != want {
		t.Errorf("message = %q, want %q", got, want)
	}
	if got := read(t, dir, "args"); got != "-f\nann+$(id)`x`@example.org\nbob+lists@example.net\nbob\nexample.net\nx{user}\n" {
		t.Errorf("arguments = %q", got)
	}
	environment := "AGENT=sendmail\nDOMAIN=example.net\nENVID=QQ314159\nEXTENSION=lists\nHOME=" + dir + "\nLOCAL=bob+lists\nLOGNAME=bob\n" +
		"ORIGINAL_RECIPIENT=all@example.net\nPATH=/usr/local/bin:/usr/bin:/bin\nPWD=" + dir + "\nRECIPIENT=bob+lists@example.net\n" +
		"SENDER=ann+__id__x_@example.org\nSHELL=/bin/sh\nUSER=bob\n"
	got := slices.DeleteFunc(strings.SplitAfter(read(t, dir, "env"), "\n"), func(s string) bool { return strings.HasPrefix(s, "_=") || strings.HasPrefix(s, "OLDPWD=") })
	if strings.Join(got, "") != environment { // PWD is the shell's
		t.Errorf("environment = %q, want %q", got, environment)
	}
	if got := read(t, dir, "pwd") + read(t, dir, "umask"); got != dir+"\n0077\n" {
		t.Errorf("directory and umask = %q", got)
	}
}

// A program that is given an address can be made to do nothing else with it.
func TestPipeAddresses(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	for _, hostile := range []string{
		"$(touch " + canary + ")", "`touch " + canary + "`", "${run{/bin/touch " + canary + "}}", "|touch " + canary, ";touch " + canary + ";",
		"../../" + canary, "%s%n", ":include:/etc/passwd", "/etc/passwd", "&touch " + canary, "x y", "*", "{sender}", "{user}", "~root",
	} {
		m := newMessage(letter)
		m.Sender = path(`"` + hostile + `"@example.org`)
		m.Recipients[0].Path = path(`"` + hostile + `"@example.net`)
		p := program(t, `[ $# = 3 ] && [ "$1" = '"`+strings.ReplaceAll(hostile, "'", `'\''`)+`"@example.org' ] && eval "x=$SENDER y=$RECIPIENT z=$LOCAL"`)
		p.Args = append(p.Args, "{sender}", "{recipient}", "{domain}")
		if r := p.Deliver(t.Context(), m, 0); r.Action != mail.Delivered {
			t.Errorf("%s: %+v", hostile, r)
		}
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("an address was executed")
	}
}

func TestPipeArguments(t *testing.T) {
	m := newMessage(letter)
	m.Sender = mail.NullSender
	p := Pipe{Program: "/p", Args: []string{"{sender}", "{user}", "-x"}}
	if args, refused := p.expand(m, 0); refused != nil || !slices.Equal(args, []string{"/p", "", "", "-x"}) {
		t.Errorf("empty values: %q, %v; want as many arguments as were configured", args, refused)
	}
	for arg, code := range map[string]mail.EnhancedCode{"{sender}": {5, 1, 7}, "{recipient}": {5, 1, 3}} {
		m.Sender, m.Recipients[0].Path = path("-oQ/tmp@example.org"), path("-x@example.net")
		r := Pipe{Program: "/bin/true", Args: []string{arg}, Timeout: time.Minute}.Deliver(t.Context(), m, 0)
		if r.Action != mail.Failed || r.Status() != code {
			t.Errorf("%s that begins with -: %+v, want %v", arg, r, code)
		}
	}
}

func TestPipeResults(t *testing.T) {
	const done, later, never = mail.Delivered, mail.Delayed, mail.Failed
	tests := []struct {
		script string
		action mail.Action
		code   mail.EnhancedCode
		text   string
	}{
		{"cat >/dev/null", done, mail.EnhancedCode{2, 1, 5}, "delivered to the program"},
		{"exit 0 # reads nothing", done, mail.EnhancedCode{2, 1, 5}, ""},
		{"echo 5.1.1 nobody; exit 0", done, mail.EnhancedCode{2, 1, 5}, "delivered to the program"},
		{"exit 1", never, mail.EnhancedCode{5, 3, 0}, "the program exited with status 1"},
		{"exit 64", never, mail.EnhancedCode{5, 3, 0}, "status 64, usage"},
		{"exit 65", never, mail.EnhancedCode{5, 6, 0}, "bad data"},
		{"exit 66", never, mail.EnhancedCode{5, 3, 0}, "no input"},
		{"echo; echo ' no bob here '; echo more; exit 67", never, mail.EnhancedCode{5, 1, 1}, "status 67, no such user: no bob here"},
		{"exit 68", never, mail.EnhancedCode{5, 1, 2}, "no such host"},
		{"exit 69", never, mail.EnhancedCode{5, 3, 0}, "unavailable"},
		{"exit 70", never, mail.EnhancedCode{5, 3, 0}, "internal error"},
		{"exit 71", later, mail.EnhancedCode{4, 3, 0}, "system error"},
		{"exit 72", never, mail.EnhancedCode{5, 3, 5}, "system file missing"},
		{"exit 73", never, mail.EnhancedCode{5, 2, 0}, "cannot create a file"},
		{"exit 74", later, mail.EnhancedCode{4, 3, 0}, "I/O error"},
		{"echo busy >&2; exit 75", later, mail.EnhancedCode{4, 3, 0}, "temporary failure: busy"},
		{"exit 76", never, mail.EnhancedCode{5, 5, 0}, "protocol error"},
		{"exit 77", never, mail.EnhancedCode{5, 7, 0}, "not permitted"},
		{"exit 78", later, mail.EnhancedCode{4, 3, 5}, "configuration error"},
		{"echo 4.2.2 full; exit 1", later, mail.EnhancedCode{4, 2, 2}, "status 1: 4.2.2 full"},
		{"echo 5.2.2 full; exit 75", never, mail.EnhancedCode{5, 2, 2}, ": 5.2.2 full"},
		{"echo 2.0.0 fine; exit 75", later, mail.EnhancedCode{4, 3, 0}, ": 2.0.0 fine"},
		{"kill -SEGV $$", later, mail.EnhancedCode{4, 3, 0}, "ended by a signal: segmentation fault"},
		{`printf 'a\033[1m\377b\r\n'; exit 1`, never, mail.EnhancedCode{5, 3, 0}, "status 1: a [1m?b"},
		{"head -c 100000 /dev/zero | tr '\\0' x; exit 1", never, mail.EnhancedCode{5, 3, 0}, strings.Repeat("x", excerptLine) + "..."},
		{"sleep 1000 & exit 0", done, mail.EnhancedCode{2, 1, 5}, "delivered to the program"}, // it keeps our pipes
	}
	for _, tt := range tests {
		t.Run(tt.script, func(t *testing.T) {
			p := program(t, tt.script)
			m := newMessage(letter + strings.Repeat("More than a pipe holds.\r\n", 10_000))
			r := p.Deliver(t.Context(), m, 0)
			if r.Action != tt.action || r.Status() != tt.code || !strings.HasSuffix(r.Reply.Text, tt.text) {
				t.Errorf("result = %v %v %q, want %v %v %q", r.Action, r.Status(), r.Reply.Text, tt.action, tt.code, tt.text)
			}
		})
	}
}

func TestPipeCannotStart(t *testing.T) {
	for _, file := range []string{"/nonexistent/program", "/etc/passwd", "/etc"} {
		r := Pipe{Program: file, Timeout: time.Minute}.Deliver(t.Context(), newMessage(letter), 0)
		if r.Action != mail.Delayed || r.Status() != (mail.EnhancedCode{4, 3, 5}) || r.Scope != mail.OfUs || !strings.Contains(r.Reply.Text, file) {
			t.Errorf("%s: %+v, want delayed 4.3.5, of us", file, r)
		}
	}
}

// The program and all that it has started are stopped, and the mail waits.
func TestPipeTimeout(t *testing.T) {
	for name, script := range map[string]string{"it ends when told to": "", "it does not listen": "trap '' TERM; "} {
		t.Run(name, func(t *testing.T) {
			p := program(t, script+"sleep 1000 & sleep 1000")
			p.Timeout = 300 * time.Millisecond
			r := p.Deliver(t.Context(), newMessage(letter), 0)
			if r.Action != mail.Delayed || r.Status() != (mail.EnhancedCode{4, 3, 0}) || !strings.Contains(r.Reply.Text, "stopped: it did not end within 300ms") {
				t.Errorf("result = %+v, want delayed", r)
			}
			must(t, noneLeft(p.Args[0]))
		})
	}
}

func TestPipeIsStoppedWithThePass(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	p := program(t, "echo working; (echo started >"+fifo+"; sleep 1000) & sleep 1000")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan mail.Result, 1)
	go func() { done <- p.Deliver(ctx, newMessage(letter), 0) }()
	f, err := os.Open(fifo) // waits for the child to open it, too
	must(t, err)
	cancel(errors.New("shutting down"))
	if r := <-done; r.Action != mail.Delayed || !strings.Contains(r.Reply.Text, "stopped: shutting down") {
		t.Errorf("result = %+v, want delayed", r)
	}
	must(t, f.Close())
	must(t, noneLeft(p.Args[0]))
}

// noneLeft waits until no process has the script in its command line.
func noneLeft(script string) error {
	for deadline := time.Now().Add(20 * time.Second); ; {
		found := ""
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range lines {
			if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), script) {
				found = file
			}
		}
		if found == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is still there", found)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestPipeDoesNotTakeAPartForTheWhole(t *testing.T) {
	file := filepath.Join(t.TempDir(), "done")
	p := program(t, "cat >/dev/null; touch "+file)
	m := newMessage(letter)
	m.Content = strings.NewReader(letter[:len(letter)-20])
	if r := p.Deliver(t.Context(), m, 0); r.Action != mail.Delayed || r.Scope != mail.OfMessage {
		t.Errorf("result = %+v, want delayed, of the message", r)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the program saw the end of half a message")
	}
}

// Of what our own caller left open the program sees nothing.
func TestPipeDescriptors(t *testing.T) {
	leak, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0) // without O_CLOEXEC
	must(t, err)
	defer syscall.Close(leak)
	must(t, unix.Dup2(leak, 200))
	defer syscall.Close(200)
	// No script in a file, which the shell would keep open.
	const list = `for fd in $(seq 0 255); do [ -e /proc/$$/fd/$fd ] && printf '%s ' $fd; done; exit 1`
	p := Pipe{Program: "/bin/sh", Args: []string{"-c", list}, Timeout: time.Minute}
	if r := p.Deliver(t.Context(), newMessage(letter), 0); !strings.HasSuffix(r.Reply.Text, "status 1: 0 1 2") {
		t.Errorf("descriptors: %s", r.Reply.Text)
	}
}

func TestFromLineForPrograms(t *testing.T) {
	file := filepath.Join(t.TempDir(), "message")
	p := program(t, "cat >"+file)
	p.FromLine = true
	if r := p.Deliver(t.Context(), newMessage(letter), 0); r.Action != mail.Delivered {
		t.Fatal(r)
	}
	want := "From ann@example.org Fri Oct  9 07:40:52 2026\nReturn-Path: <ann@example.org>\nDelivered-To: bob@example.net\nSubject: hello\n\nFirst line.\n.\nFrom here on.\n"
	if got := read(t, file); got != want {
		t.Errorf("message = %q, want %q", got, want)
	}
}
