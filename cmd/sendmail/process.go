package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"github.com/postrider/postrider/internal/entry"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
	"golang.org/x/sys/unix"
)

// harden makes a process of ours out of one that somebody else prepared. The runtime has seen to it that descriptors 0
// to 2 are open.
func harden() {
	unix.Umask(0o077)
	// What the caller left open is not for the programs that we start. Kernels before 5.11 know no such call, and
	// nothing depends on it.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	// A reader of our output who goes away, and a limit on the size of files, are errors to be handled.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGXFSZ)
	if !trusted() {
		// The name of a file, which the first local time would have us open.
		_ = os.Unsetenv("TZ")
	}
}

// trusted reports whether the caller has all the rights that we have: then the files that he names are ones he could
// open himself.
func trusted() bool {
	return os.Getuid() == os.Geteuid() && os.Getgid() == os.Getegid() && !secureMode()
}

// secureMode reports whether the kernel gave us rights that the caller has not, in whatever way.
func secureMode() bool {
	const atSecure = 23 // getauxval(3)
	aux, err := unix.Auxv()
	if err != nil {
		return true // for all we know
	}
	for _, entry := range aux {
		if entry[0] == atSecure {
			return entry[1] != 0
		}
	}
	return false
}

// deafen keeps signals from ending the process between the moment a message is in the queue and the one when the caller
// is told.
func deafen() {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM)
}

// drain reads what is left of the input, so that whoever writes it does not get a broken pipe. At anything but a pipe
// nobody waits.
func drain(f *os.File) error {
	info, err := f.Stat()
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return err
	}
	buf := make([]byte, 512) // on the stack: a large one would have it grow, for input that is rarely there
	for err == nil {
		_, err = f.Read(buf)
	}
	return err
}

// sibling returns the path of another program of ours. It stands beside this one, or where an installation puts the
// programs that are not for administrators only.
func sibling(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", cannotRun(name, err)
	}
	here := filepath.Dir(self)
	path := filepath.Join(here, name)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		path = filepath.Join(here, "../bin", name)
		info, err = os.Stat(path)
	}
	if err != nil {
		return "", cannotRun(name, err)
	}
	if own, err := os.Stat(self); err == nil && os.SameFile(info, own) {
		return "", cannotRun(name, fmt.Errorf("%s is sendmail under another name", path))
	}
	return path, nil
}

func cannotRun(name string, err error) error {
	return submit.Refuse(submit.ExitOS, mail.EnhancedCode{4, 3, 0}, "cannot run %s: %w", name, err)
}

// become goes on as another program of ours, with no more rights than the caller has. It returns only with an error.
func become(name string, args ...string) error {
	path, err := sibling(name)
	if err != nil {
		return err
	}
	env := environment()
	uid, gid := os.Getuid(), os.Getgid()
	err = errors.Join(syscall.Setresgid(gid, gid, gid), syscall.Setresuid(uid, uid, uid))
	if err == nil {
		defer asCalled()()
		err = unix.Exec(path, append([]string{name}, args...), env)
	}
	return cannotRun(name, err)
}

// asCalled has the next program that this thread starts wait as exactly as our caller would, although we do not. The
// thread stays with its goroutine until the returned function is called.
func asCalled() (started func()) {
	runtime.LockOSThread()
	if slack := entry.TimerSlack(); slack > 0 {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0) // else its timers are less exact
	}
	return runtime.UnlockOSThread
}

// environment returns what programs that we start get to see: nothing of the caller's if he has less rights than we.
func environment() []string {
	if trusted() {
		return slices.DeleteFunc(os.Environ(), func(s string) bool { return s == entry.Variable })
	}
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

// start runs another program of ours in a session of its own, with nothing to read. What it writes goes to stdout, or
// nowhere if that is nil.
func start(name string, stdout *os.File, args ...string) (*os.Process, error) {
	path, err := sibling(name)
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if stdout == nil {
		stdout = null
	}
	attr := callers([]*os.File{null, stdout, null})
	attr.Sys.Setsid = true
	p, err := launch(path, append([]string{name}, args...), attr)
	return p, errors.Join(err, null.Close())
}

// startWith runs another program of ours, with descriptors of ours.
func startWith(files []*os.File, name string, args ...string) (*os.Process, error) {
	path, err := sibling(name)
	if err != nil {
		return nil, err
	}
	return launch(path, append([]string{name}, args...), callers(files))
}

func launch(path string, argv []string, attr *os.ProcAttr) (*os.Process, error) {
	defer asCalled()()
	return os.StartProcess(path, argv, attr)
}

// callers is for a program with descriptors of ours, and with no more rights than the caller has.
func callers(files []*os.File) *os.ProcAttr {
	attr := &os.ProcAttr{Env: environment(), Files: files, Sys: &syscall.SysProcAttr{}}
	if !trusted() {
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid()), NoSetGroups: true}
	}
	return attr
}

// await waits for a process to end, or for somebody who tells us to: what we were asked to do is done either way.
func await(p *os.Process) {
	enough := make(chan os.Signal, 1)
	signal.Notify(enough, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() {
		_, _ = p.Wait() // whatever it says, the message is queued
		close(ended)
	}()
	select {
	case <-ended:
	case <-enough:
	}
}
