// Package crashtest runs a program up to its Nth system call and lets a fault happen there: the program and its
// children are killed, the call fails, a signal comes, or the power of the disk goes. Counted over all threads and
// children, the calls of a program are a finite set of points, so a sweep over them is exhaustive. It is for tests.
package crashtest

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A Command is a program to run. Its standard input, output and error are files, not pipes, so that the calls are the
// same in every run.
type Command struct {
	Path    string
	Args    []string // without the name of the program
	Dir     string   // "" means ours
	Env     []string
	Stdin   []byte
	Timeout time.Duration // after which it is killed and Run returns an error; 0 means a minute
}

// A Fault is what happens, and when. Its zero value lets the program run undisturbed.
type Fault struct {
	At   int // the number of the watched call, from 1, at whose entry it happens; 0 means never
	Kind Kind
}

// A Kind is what happens at the chosen call.
type Kind struct {
	what   what
	errno  unix.Errno
	signal unix.Signal
	mount  string
}

type what uint8

const (
	kill what = iota
	errno
	persistentErrno
	signal
	powerLoss
)

// Kill ends the program and all its children with SIGKILL; the call does not happen. What they wrote stays visible,
// synced or not.
func Kill() Kind { return Kind{what: kill} }

// Errno makes the call fail with e, and only this one; it has no effect.
func Errno(e unix.Errno) Kind { return Kind{what: errno, errno: e} }

// PersistentErrno makes the call and all later ones fail with e.
func PersistentErrno(e unix.Errno) Kind { return Kind{what: persistentErrno, errno: e} }

// Signal sends s to the program; the call happens.
func Signal(s unix.Signal) Kind { return Kind{what: signal, signal: s} }

// PowerLoss cuts the power of the file system mounted at mount (see Disk) and kills the program and its children. What
// was not synced is gone at the next mount. If the program ends before the chosen call, the power goes after its end.
func PowerLoss(mount string) Kind { return Kind{what: powerLoss, mount: mount} }

func (k Kind) String() string {
	switch k.what {
	case errno:
		return unix.ErrnoName(k.errno)
	case persistentErrno:
		return "persistent " + unix.ErrnoName(k.errno)
	case signal:
		return unix.SignalName(k.signal)
	case powerLoss:
		return "power loss"
	}
	return "kill"
}

// A Call is a watched system call that was begun.
type Call struct {
	Name   string
	Path   string // the file it is about, or what /proc says of its descriptor; "" if neither
	Status int    // of exit_group: what the program wants to exit with
	Tail   string // of write and sendto: the last octets of what is written, at most tailLength
}

// tailLength is enough for some lines.
const tailLength = 512

func (c Call) String() string {
	if c.Name == "exit_group" {
		return fmt.Sprintf("exit_group(%d)", c.Status)
	}
	return c.Name + "(" + c.Path + ")"
}

// A Report tells how a run went.
type Report struct {
	Fired  bool
	Calls  []Call // every watched call up to the end of the program; the one the fault struck is Calls[At-1]
	Status unix.WaitStatus
	Stdout []byte
	Stderr []byte
}

// Code returns the exit status as a shell shows it: 128 and the number of the signal if one ended the program.
func (r Report) Code() int {
	if r.Status.Signaled() {
		return 128 + int(r.Status.Signal())
	}
	return r.Status.ExitStatus()
}

// Succeeded reports whether the program exited with 0, or was about to: what the fault prevents at exit_group is only
// that somebody hears of it.
func (r Report) Succeeded() bool {
	if r.Status.Exited() {
		return r.Status.ExitStatus() == 0
	}
	last := r.Calls[len(r.Calls)-1]
	return last.Name == "exit_group" && last.Status == 0
}
