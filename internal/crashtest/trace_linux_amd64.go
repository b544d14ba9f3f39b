package crashtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Supported returns an error that says why Run cannot work here; nil if it can.
func Supported() error { return nil }

// Run runs c with fault f and returns when the program and all its children have ended. The error is about the run
// itself, such as a program that hangs; how the program ended is in the Report.
func Run(c Command, f Fault) (Report, error) {
	type outcome struct {
		report Report
		err    error
	}
	done := make(chan outcome)
	go func() {
		// ptrace wants every request from the thread that started the program. The thread is not unlocked, so it ends
		// with this goroutine.
		runtime.LockOSThread()
		r, err := run(c, f)
		done <- outcome{r, err}
	}()
	o := <-done
	if o.err != nil {
		return o.report, fmt.Errorf("%s with %s at call %d: %w", c.Path, f.Kind, f.At, o.err)
	}
	return o.report, nil
}

func run(c Command, f Fault) (r Report, err error) {
	var files [3]*os.File
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		if err != nil {
			return r, err
		}
		files[i] = os.NewFile(uintptr(fd), name)
		defer files[i].Close()
	}
	if _, err := files[0].WriteAt(c.Stdin, 0); err != nil {
		return r, err
	}
	pid, err := syscall.ForkExec(c.Path, append([]string{c.Path}, c.Args...), &syscall.ProcAttr{
		Dir: c.Dir, Env: c.Env, Files: []uintptr{files[0].Fd(), files[1].Fd(), files[2].Fd()},
		Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true},
	})
	if err != nil {
		return r, err
	}
	t := &tracer{program: pid, fault: f, tracees: map[int]*tracee{pid: {}}}
	if err := t.follow(c.Timeout); err != nil {
		return r, err
	}
	if f.Kind.what == powerLoss && !t.report.Fired {
		if err := cutPower(f.Kind.mount); err != nil {
			return r, err
		}
	}
	for i, out := range []*[]byte{&t.report.Stdout, &t.report.Stderr} {
		if *out, err = io.ReadAll(io.NewSectionReader(files[i+1], 0, 1<<20)); err != nil {
			return r, err
		}
	}
	return t.report, nil
}

// A tracer follows a program and its children.
type tracer struct {
	program int // process ID
	fault   Fault
	tracees map[int]*tracee // by thread ID
	report  Report
}

type tracee struct {
	skipped bool       // it is inside a call that does not happen
	result  unix.Errno // what that call returns
}

// follow takes each stop of each thread until none is left.
func (t *tracer) follow(timeout time.Duration) error {
	var status unix.WaitStatus
	if _, err := unix.Wait4(t.program, &status, unix.WALL, nil); err != nil {
		return err
	}
	if !status.Stopped() {
		return fmt.Errorf("ended before it began: %v", status)
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACECLONE |
		unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC
	if err := unix.PtraceSetOptions(t.program, options); err != nil {
		return err
	}
	if err := unix.PtraceSyscall(t.program, 0); err != nil {
		return err
	}
	stop, late := t.watchdog(timeout)
	defer stop()
	for {
		// Only the group of the program: this thread may have started children for other goroutines.
		tid, err := unix.Wait4(-t.program, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD) && late():
			n := len(t.report.Calls)
			return fmt.Errorf("hung and was killed after %d calls; the last ones: %v", n, t.report.Calls[max(n-5, 0):])
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil:
			return err
		}
		if err := t.take(tid, status); err != nil {
			t.killAll()
			return err
		}
	}
}

// watchdog kills the program when its time is over. The program must not have been waited for before stop is called,
// lest its process ID belong to another.
func (t *tracer) watchdog(timeout time.Duration) (stop func(), late func() bool) {
	if timeout == 0 {
		timeout = time.Minute
	}
	var mu sync.Mutex
	fired, stopped := false, false
	group := t.program
	timer := time.AfterFunc(timeout, func() {
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			fired = true
			unix.Kill(-group, unix.SIGKILL)
		}
	})
	stop = func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		stopped = true
	}
	return stop, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return fired
	}
}

// take handles one change of one thread and lets it go on.
func (t *tracer) take(tid int, status unix.WaitStatus) error {
	if status.Exited() || status.Signaled() {
		delete(t.tracees, tid)
		if tid == t.program {
			t.report.Status = status
		}
		return nil
	}
	if !status.Stopped() {
		return nil
	}
	deliver := 0
	th, known := t.tracees[tid]
	switch s := status.StopSignal(); {
	case !known:
		// The first stop of a new thread or child, a SIGSTOP of the kernel's.
		t.tracees[tid] = &tracee{}
	case s == unix.SIGTRAP|0x80:
		if err := t.syscallStop(tid, th); err != nil {
			return ignoreGone(err)
		}
	case s == unix.SIGTRAP && status>>16 != 0:
		// Clone, fork, exec: the new one shows up by itself.
	default:
		deliver = int(s)
	}
	return ignoreGone(unix.PtraceSyscall(tid, deliver))
}

// ignoreGone passes over the error for a thread that has been killed since it stopped.
func ignoreGone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// syscallInfo is struct ptrace_syscall_info of ptrace(2).
type syscallInfo struct {
	op   uint8
	_    [3]uint8
	arch uint32
	ip   uint64
	sp   uint64
	nr   uint64
	args [6]uint64
	_    uint64
}

func (t *tracer) syscallStop(tid int, th *tracee) error {
	var info syscallInfo
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if e != 0 {
		return e
	}
	switch {
	case info.op == unix.PTRACE_SYSCALL_INFO_EXIT && th.skipped:
		th.skipped = false
		return setResult(tid, th.result)
	case info.op == unix.PTRACE_SYSCALL_INFO_ENTRY && (info.nr == unix.SYS_SETSID || info.nr == unix.SYS_SETPGID):
		// Nobody leaves the group that follow waits for.
		return th.skip(tid, 0)
	case info.op == unix.PTRACE_SYSCALL_INFO_ENTRY && watched(&info):
		call := describe(tid, &info)
		if ofRuntime(call.Path) {
			return nil
		}
		t.report.Calls = append(t.report.Calls, call)
		return t.strike(tid, th, &info)
	}
	return nil
}

// ofRuntime reports whether calls about the path are the Go runtime's own: how it wakes its threads, and how it learns, now
// and again, how many processors it may use. No program has a say in that, and a call that comes when it likes would change
// the numbers of those that come after it.
func ofRuntime(path string) bool {
	return path == "anon_inode:[eventfd]" || strings.HasPrefix(path, "/sys/") ||
		strings.HasPrefix(path, "/proc/") && (strings.HasSuffix(path, "/cgroup") || strings.HasSuffix(path, "/mountinfo"))
}

// strike lets the fault happen if the last call is the chosen one.
func (t *tracer) strike(tid int, th *tracee, info *syscallInfo) error {
	n, kind := len(t.report.Calls), t.fault.Kind
	due := t.fault.At != 0 && (n == t.fault.At || n > t.fault.At && kind.what == persistentErrno)
	if !due {
		return nil
	}
	switch kind.what {
	case errno, persistentErrno:
		if info.nr == unix.SYS_EXIT_GROUP {
			return nil // it cannot fail
		}
		t.report.Fired = true
		return th.skip(tid, kind.errno)
	case signal:
		t.report.Fired = true
		return unix.Kill(t.program, kind.signal)
	case powerLoss:
		if err := cutPower(kind.mount); err != nil {
			return err
		}
	}
	t.report.Fired = true
	t.killAll()
	return nil
}

// killAll ends everything. The group cannot be empty, as its first process has not been waited for.
func (t *tracer) killAll() { unix.Kill(-t.program, unix.SIGKILL) }

// skip changes the call that the thread is about to make into one that does not exist, and remembers what to return.
func (th *tracee) skip(tid int, result unix.Errno) error {
	th.skipped, th.result = true, result
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	regs.Orig_rax = ^uint64(0)
	return unix.PtraceSetRegs(tid, &regs)
}

func setResult(tid int, e unix.Errno) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	regs.Rax = -uint64(e)
	return unix.PtraceSetRegs(tid, &regs)
}

// calls are the watched ones: what touches files, names, locks and sockets, and the end of the program.
var calls = map[uint64]string{
	unix.SYS_OPEN: "open", unix.SYS_OPENAT: "openat", unix.SYS_OPENAT2: "openat2", unix.SYS_CREAT: "creat",
	unix.SYS_CLOSE: "close", unix.SYS_READ: "read", unix.SYS_PREAD64: "pread64", unix.SYS_READV: "readv",
	unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64", unix.SYS_WRITEV: "writev", unix.SYS_PWRITEV: "pwritev",
	unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_SYNC_FILE_RANGE: "sync_file_range",
	unix.SYS_SYNCFS: "syncfs", unix.SYS_MSYNC: "msync",
	unix.SYS_RENAME: "rename", unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
	unix.SYS_LINK: "link", unix.SYS_LINKAT: "linkat", unix.SYS_UNLINK: "unlink", unix.SYS_UNLINKAT: "unlinkat",
	unix.SYS_MKDIR: "mkdir", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_RMDIR: "rmdir", unix.SYS_SYMLINKAT: "symlinkat",
	unix.SYS_MKNODAT: "mknodat", unix.SYS_READLINKAT: "readlinkat", unix.SYS_GETDENTS64: "getdents64",
	unix.SYS_TRUNCATE: "truncate", unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_FALLOCATE: "fallocate",
	unix.SYS_FSTAT: "fstat", unix.SYS_NEWFSTATAT: "newfstatat", unix.SYS_STATX: "statx", unix.SYS_STATFS: "statfs",
	unix.SYS_FSTATFS: "fstatfs", unix.SYS_LSEEK: "lseek",
	unix.SYS_CHMOD: "chmod", unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHMODAT: "fchmodat", unix.SYS_FCHOWN: "fchown",
	unix.SYS_FCHOWNAT: "fchownat", unix.SYS_UTIMENSAT: "utimensat",
	unix.SYS_FLOCK: "flock", unix.SYS_FCNTL: "fcntl", unix.SYS_MMAP: "mmap", unix.SYS_IOCTL: "ioctl",
	unix.SYS_COPY_FILE_RANGE: "copy_file_range", unix.SYS_SENDFILE: "sendfile", unix.SYS_SPLICE: "splice",
	unix.SYS_INOTIFY_INIT1: "inotify_init1", unix.SYS_INOTIFY_ADD_WATCH: "inotify_add_watch",
	unix.SYS_SOCKET: "socket", unix.SYS_CONNECT: "connect", unix.SYS_BIND: "bind", unix.SYS_LISTEN: "listen",
	unix.SYS_ACCEPT4: "accept4", unix.SYS_SENDTO: "sendto", unix.SYS_RECVFROM: "recvfrom", unix.SYS_SENDMSG: "sendmsg",
	unix.SYS_RECVMSG: "recvmsg", unix.SYS_SHUTDOWN: "shutdown",
	unix.SYS_EXECVE: "execve", unix.SYS_EXIT_GROUP: "exit_group",
}

func watched(info *syscallInfo) bool {
	if info.nr == unix.SYS_MMAP {
		return int32(info.args[4]) >= 0 // of a file, not the memory of the Go runtime
	}
	_, ok := calls[info.nr]
	return ok
}

// describe looks at what the stopped thread is about to do.
func describe(tid int, info *syscallInfo) Call {
	c := Call{Name: calls[info.nr]}
	switch info.nr {
	case unix.SYS_EXIT_GROUP:
		c.Status = int(info.args[0])
	case unix.SYS_OPEN, unix.SYS_CREAT, unix.SYS_UNLINK, unix.SYS_MKDIR, unix.SYS_RMDIR, unix.SYS_CHMOD,
		unix.SYS_TRUNCATE, unix.SYS_STATFS, unix.SYS_EXECVE:
		c.Path = readString(tid, info.args[0])
	case unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT, unix.SYS_READLINKAT, unix.SYS_NEWFSTATAT,
		unix.SYS_STATX, unix.SYS_FCHMODAT, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT, unix.SYS_MKNODAT:
		c.Path = readPath(tid, info.args[0], info.args[1])
	case unix.SYS_RENAME, unix.SYS_LINK:
		c.Path = readString(tid, info.args[0]) + ", " + readString(tid, info.args[1])
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT:
		c.Path = readPath(tid, info.args[0], info.args[1]) + ", " + readPath(tid, info.args[2], info.args[3])
	case unix.SYS_MMAP:
		c.Path = descriptor(tid, info.args[4])
	case unix.SYS_SOCKET, unix.SYS_INOTIFY_INIT1:
	default:
		c.Path = descriptor(tid, info.args[0])
	}
	switch info.nr {
	case unix.SYS_WRITE, unix.SYS_SENDTO:
		c.Tail = readTail(tid, info.args[1], info.args[2])
	case unix.SYS_WRITEV:
		c.Tail = readVectorTail(tid, info.args[1], info.args[2])
	}
	return c
}

// readTail reads the end of what lies at addr.
func readTail(tid int, addr, length uint64) string {
	n := min(length, tailLength)
	return string(readMemory(tid, addr+length-n, int(n)))
}

// readVectorTail reads the end of the last of n struct iovec at addr.
func readVectorTail(tid int, addr, n uint64) string {
	const size = 16
	if n == 0 {
		return ""
	}
	last := readMemory(tid, addr+(n-1)*size, size)
	if len(last) < size {
		return ""
	}
	return readTail(tid, binary.NativeEndian.Uint64(last), binary.NativeEndian.Uint64(last[8:]))
}

// descriptor returns what /proc says of a descriptor; "" if it is not open.
func descriptor(tid int, fd uint64) string {
	name, err := os.Readlink("/proc/" + strconv.Itoa(tid) + "/fd/" + strconv.Itoa(int(int32(fd))))
	if err != nil {
		return ""
	}
	return name
}

// readPath reads a path that starts in the directory of a descriptor, unless it is absolute.
func readPath(tid int, dir, addr uint64) string {
	path := readString(tid, addr)
	if filepath.IsAbs(path) || int32(dir) == unix.AT_FDCWD {
		return path
	}
	return filepath.Join(descriptor(tid, dir), path)
}

// readString reads a path from the memory of the thread, as far as it is readable.
func readString(tid int, addr uint64) string {
	const page = 4096
	var path []byte
	for len(path) < unix.PathMax {
		// To the end of the page: the next one may not be there.
		at := addr + uint64(len(path))
		part := readMemory(tid, at, int(page-at%page))
		if end := bytes.IndexByte(part, 0); end >= 0 {
			return string(append(path, part[:end]...))
		}
		if len(part) == 0 {
			break
		}
		path = append(path, part...)
	}
	return string(path)
}

// readMemory reads n octets from the memory of the thread; fewer if they are not all readable.
func readMemory(tid int, addr uint64, n int) []byte {
	if n == 0 {
		return nil
	}
	b := make([]byte, n)
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(n)
	got, err := unix.ProcessVMReadv(tid, local, []unix.RemoteIovec{{Base: uintptr(addr), Len: n}}, 0)
	if err != nil {
		return nil
	}
	return b[:got]
}
