package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/postrider/postrider/deliver/users"
	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// A Pipe starts a program for each recipient, never a shell, and writes the message to its standard input, with lines that
// end in LF. What becomes of the message the program says by its exit status, one of sysexits.h.
//
// Nobody can promise that a program gets a message once: it may have done its work when we, or the machine, are stopped
// before its exit status is known.
type Pipe struct {
	Program string
	// Args follow its name. One that is {sender}, {recipient}, {user} or {domain} as a whole stands for that; nothing is
	// replaced within an argument.
	Args    []string
	User    users.User    // for {user}, for the environment, and whose home is the working directory; may be nobody
	Timeout time.Duration // when to stop a program that has not ended
	// FromLine puts the line that begins a message in an mbox before it, as programs in alias files expect.
	FromLine bool
}

// Deliver makes the delivery to the recipient at position n of the envelope of m.
func (p Pipe) Deliver(ctx context.Context, m *mail.Message, n int) mail.Result {
	r := p.deliver(ctx, m, n)
	r.Relay = "pipe:" + p.Program
	return r
}

func (p Pipe) deliver(ctx context.Context, m *mail.Message, n int) mail.Result {
	args, refused := p.expand(m, n)
	if refused != nil {
		return *refused
	}
	out := &excerpt{}
	cmd := &exec.Cmd{
		Path: p.Program, Args: args, Env: p.environment(m, n), Dir: p.directory(), Stdout: out, Stderr: out,
		SysProcAttr: &unix.SysProcAttr{Setpgid: true},
		WaitDelay:   time.Second, // for what the program leaves behind with our pipe in its hands
	}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = startPrivately(cmd)
	}
	if err != nil {
		return mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 5}, "cannot start the program: %v", err)
	}
	g := &group{leader: cmd.Process.Pid}
	fed := make(chan error, 1)
	go func() { fed <- p.feed(stdin, m, n, g) }()
	watched, done := context.WithTimeoutCause(ctx, p.Timeout, fmt.Errorf("it did not end within %v", p.Timeout))
	ended := make(chan struct{})
	stop := context.AfterFunc(watched, func() { g.end(ended) })
	err = cmd.Wait()
	close(ended)
	stopped := !stop()
	done()
	if stopped {
		g.kill()
	}
	var unread *contentError
	switch {
	case errors.As(<-fed, &unread):
		return mail.Delay(mail.OfMessage, mail.EnhancedCode{4, 3, 0}, "%v; the program was stopped", unread)
	case stopped:
		return mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 3, 0}, "the program was stopped: %v%s", context.Cause(watched), out)
	}
	return verdict(cmd.ProcessState, err, out)
}

// feed writes the message. A program that does not want to read it all is within its rights; but one whose message cannot
// be read to its end must not take the part for the whole.
func (p Pipe) feed(stdin io.WriteCloser, m *mail.Message, n int, g *group) error {
	head := heading(m, n)
	if p.FromLine {
		head = fromLine(m) + head
	}
	err := copyMessage(stdin, head, m, make([]byte, bufferSize))
	var unread *contentError
	if errors.As(err, &unread) {
		g.kill()
	}
	return errors.Join(err, stdin.Close())
}

// startPrivately starts the program with no descriptors but the first three, whatever our own caller has left open, and so
// that files it makes are its user's alone. The umask belongs to the whole process unless a thread has one of its own;
// such a thread cannot be used for anything else, and ends with its goroutine. Containers may forbid it: then what else we
// make meanwhile is as private.
func startPrivately(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Unshare(unix.CLONE_FS) != nil {
			oneUmask.Lock()
			defer oneUmask.Unlock()
		}
		defer unix.Umask(unix.Umask(0o077))
		if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
			started <- fmt.Errorf("close descriptors: %w", err)
			return
		}
		started <- cmd.Start()
	}()
	return <-started
}

// oneUmask is for who changes the umask of the process.
var oneUmask sync.Mutex

// cmdGrace is how long a program that is told to end may take for it.
const cmdGrace = 2 * time.Second

// A group is a program with all that it has started.
type group struct{ leader int }

// end asks the group to end, and makes it if its leader has not after a while.
func (g *group) end(ended <-chan struct{}) {
	_ = unix.Kill(-g.leader, unix.SIGTERM)
	select {
	case <-ended:
	case <-time.After(cmdGrace):
		g.kill()
	}
}

func (g *group) kill() { _ = unix.Kill(-g.leader, unix.SIGKILL) }

// expand returns the name of the program and its arguments. An address that the program could take for an option is
// refused: there is no sign that every program knows for the end of options.
func (p Pipe) expand(m *mail.Message, n int) (args []string, refused *mail.Result) {
	to := m.Recipients[n].Path
	args = []string{p.Program}
	for _, arg := range p.Args {
		code := mail.EnhancedCode{5, 1, 3}
		value := arg
		switch arg {
		case "{sender}":
			value, code = m.Sender.Address(), mail.EnhancedCode{5, 1, 7}
		case "{recipient}":
			value = to.Address()
		case "{user}":
			value = p.User.Name
		case "{domain}":
			value = to.Domain()
		}
		if value != arg && strings.HasPrefix(value, "-") {
			return nil, &mail.Result{Action: mail.Failed, Reply: mail.Reply{
				Enhanced: code, Text: "the address begins with -, which programs take for an option: " + value,
			}}
		}
		args = append(args, value)
	}
	return args, nil
}

// environment is all that a program finds there. Addresses are written by strangers: what a shell could make something of
// is replaced.
func (p Pipe) environment(m *mail.Message, n int) []string {
	to := m.Recipients[n]
	local := strings.Trim(to.Path.Local(), `"`)
	_, extension, _ := strings.Cut(local, "+")
	original := originalAddress(to)
	if original == "" {
		original = to.Path.Address()
	}
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin", "AGENT=sendmail"}
	for _, v := range []struct{ name, value string }{
		{"SHELL", "/bin/sh"}, {"HOME", p.directory()}, {"USER", p.User.Name}, {"LOGNAME", p.User.Name},
		{"SENDER", m.Sender.Address()}, {"RECIPIENT", to.Path.Address()}, {"ORIGINAL_RECIPIENT", original},
		{"LOCAL", local}, {"DOMAIN", to.Path.Domain()}, {"EXTENSION", extension}, {"ENVID", m.Envelope.ID},
	} {
		env = append(env, v.name+"="+strings.Map(harmless, v.value))
	}
	return env
}

// harmless leaves letters, digits, what is not ASCII, and marks that no shell knows.
func harmless(c rune) rune {
	if c >= utf8.RuneSelf || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || strings.ContainsRune("!@%-_=+:,./", c) {
		return c
	}
	return '_'
}

// directory is where the program starts: at home, if that is there.
func (p Pipe) directory() string {
	if st, err := os.Stat(p.User.Home); err == nil && st.IsDir() {
		return p.User.Home
	}
	return "/"
}
