package main

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed c/*.c
var sources embed.FS

// compile builds one of the C programs.
func (b *bench) compile(name string) (path string, err error) {
	source, err := sources.ReadFile("c/" + name + ".c")
	if err != nil {
		return "", err
	}
	path = filepath.Join(b.dir, name)
	cc := exec.Command("gcc", "-O2", "-o", path, "-x", "c", "-")
	cc.Stdin, cc.Stderr = strings.NewReader(string(source)), os.Stderr
	return path, cc.Run()
}

const (
	smallMessage = 2 << 10
	largeMessage = 100 << 20
	pairs        = 300 // runs of ours and of the C program, in turn
	together     = 4000
	clients      = 8
)

func submission(b *bench) error {
	durable, err := b.compile("durable")
	if err != nil {
		return err
	}
	small, err := b.messageFile("small", smallMessage)
	if err != nil {
		return err
	}
	large, err := b.messageFile("large", largeMessage)
	if err != nil {
		return err
	}
	if err := b.submissionTime(small, durable); err != nil {
		return err
	}
	if err := b.submissionMemory(small, large); err != nil {
		return err
	}
	return b.submissionDisk(small, durable) // the kernel goes on writing for a while
}

// messageFile writes a message of about size octets, as a program would hand it in.
func (b *bench) messageFile(name string, size int) (string, error) {
	path := filepath.Join(b.dir, name+".eml")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	_, err = io.WriteString(f, letter(size))
	return path, errors.Join(err, f.Close())
}

// letter composes a message of about size octets with lines of 72.
func letter(size int) string {
	var s strings.Builder
	s.WriteString("From: Ann <ann@example.org>\nTo: bob@example.net\nSubject: numbers of the day\n\n")
	line := strings.Repeat("0123456789", 7) + "\n"
	for s.Len() < size {
		s.WriteString(line)
	}
	return s.String()
}

// submit is one submission; the message comes from a file.
func (b *bench) submit(q *queue, message string) (usage, error) {
	return withStdin(b.sendmail(q), message)
}

func (b *bench) sendmail(q *queue) *exec.Cmd {
	return b.command(q.config, "sendmail", "-i", "-f", "ann@example.org", "bob@example.net")
}

// under lets another program run the command.
func under(cmd *exec.Cmd, program string, args ...string) *exec.Cmd {
	cmd.Args = slices.Concat([]string{program}, args, []string{cmd.Path}, cmd.Args[1:])
	cmd.Path = program
	return cmd
}

func withStdin(cmd *exec.Cmd, file string) (usage, error) {
	f, err := os.Open(file)
	if err != nil {
		return usage{}, err
	}
	cmd.Stdin = f
	u, err := measure(cmd)
	return u, errors.Join(err, f.Close())
}

// submissionTime compares one process after the other, then eight at a time.
func (b *bench) submissionTime(small, durable string) error {
	q, err := b.newQueue("submission", plainConfig)
	if err != nil {
		return err
	}
	files := filepath.Join(b.dir, "files")
	if err := os.Mkdir(files, 0o700); err != nil {
		return err
	}
	c := comparison{q: q, small: small, durable: durable, files: files}
	m, err := c.inTurn(b)
	if err != nil {
		return err
	}
	b.row("2 KB, start to exit, p50, ms", milliseconds(m.wall), atMost(1.9))
	b.row("the same in C (write, fsync, rename, fsync), p50, ms", milliseconds(m.wallC), nil)
	b.row("ours / C", m.ratio(), atMost(1.5))
	b.row("CPU, p50, ms", milliseconds(m.cpu), nil)
	b.row("the same in C, ms", milliseconds(m.cpuC), nil)
	return c.together(b, atLeast(1000))
}

// A comparison has sendmail and the C program write the same message to the same file system.
type comparison struct {
	q              *queue
	small, durable string // the message, and the C program
	files          string // the directory of the C program
}

func (c *comparison) inC(n int) (usage, error) {
	return withStdin(exec.Command(c.durable, filepath.Join(c.files, strconv.Itoa(n))), c.small)
}

// A middle is what sendmail and the C program took, in the middle.
type middle struct {
	cpu, wall, cpuC, wallC time.Duration
}

func (m middle) ratio() float64 { return float64(m.wall) / float64(m.wallC) }

// inTurn runs one after the other, by turns, since the machine is not the same from one second to the next.
func (c *comparison) inTurn(b *bench) (m middle, err error) {
	var ours, theirs []usage
	for n := range pairs {
		u, err := b.submit(c.q, c.small)
		if err != nil {
			return m, err
		}
		ours = append(ours, u)
		if u, err = c.inC(n); err != nil {
			return m, err
		}
		theirs = append(theirs, u)
	}
	m.cpu, m.wall = medians(ours)
	m.cpuC, m.wallC = medians(theirs)
	return m, nil
}

// together runs eight at a time of each.
func (c *comparison) together(b *bench, want *bar) error {
	rate, err := atATime(func(int) (usage, error) { return b.submit(c.q, c.small) })
	if err != nil {
		return err
	}
	b.row("2 KB, 8 at a time, messages/s", rate, want)
	if rate, err = atATime(func(n int) (usage, error) { return c.inC(pairs + n) }); err != nil {
		return err
	}
	b.row("the same in C, messages/s", rate, nil)
	return nil
}

// atATime calls f from several clients and returns how often a second; f gets the number of the call.
func atATime(f func(n int) (usage, error)) (float64, error) {
	var wg sync.WaitGroup
	errs := make([]error, clients)
	start := time.Now()
	for c := range clients {
		wg.Go(func() {
			for n := c; n < together && errs[c] == nil; n += clients {
				_, errs[c] = f(n)
			}
		})
	}
	wg.Wait()
	return together / time.Since(start).Seconds(), errors.Join(errs...)
}

// submissionDisk counts flushes, and what reaches the disk.
func (b *bench) submissionDisk(small, durable string) error {
	q, err := b.newQueue("disk", plainConfig)
	if err != nil {
		return err
	}
	if _, err := b.submit(q, small); err != nil { // makes the spool
		return err
	}
	if strace, err := exec.LookPath("strace"); err != nil {
		fmt.Println("  flushes: strace is missing")
	} else {
		trace := filepath.Join(b.dir, "trace")
		cmd := under(b.sendmail(q), strace, "-f", "-qq", "-o", trace, "-e", "trace=fsync,fdatasync,sync,syncfs,sync_file_range")
		if _, err := withStdin(cmd, small); err != nil {
			return err
		}
		calls, err := os.ReadFile(trace)
		if err != nil {
			return err
		}
		b.row("2 KB, flushes", float64(strings.Count(string(calls), " = 0\n")), atMost(2))
	}
	var pages []int64
	for range diskRuns {
		u, err := b.submit(q, small)
		if err != nil {
			return err
		}
		pages = append(pages, u.written)
	}
	b.row("2 KB, written by the process, KiB", float64(median(pages))/1024, atMost(24))
	return b.journal(small, durable)
}

const diskRuns = 200

// journal measures on an ext4 with a journal, as most machines have it: what reaches the disk for one message, and the
// time. It needs to mount one.
func (b *bench) journal(small, durable string) (err error) {
	mount := filepath.Join(b.dir, "mnt")
	if err := mountImage(filepath.Join(b.dir, "image"), mount); err != nil {
		fmt.Printf("  what the journal adds: %v\n", err)
		return nil
	}
	defer func() { err = errors.Join(err, unix.Unmount(mount, 0)) }()
	q, err := b.newQueueAt(mount, plainConfig)
	if err != nil {
		return err
	}
	c := comparison{q: q, small: small, durable: durable, files: mount}
	for _, w := range []struct {
		who  string
		once func(n int) error
	}{
		{"2 KB, reaching an ext4 disk with the journal, KiB", func(int) error { _, err := b.submit(q, small); return err }},
		{"the same in C, KiB", func(n int) error { _, err := c.inC(pairs + n); return err }},
	} {
		if err := w.once(diskRuns); err != nil { // makes what is missing
			return err
		}
		before, err := sectorsWritten(mount)
		if err != nil {
			return err
		}
		for n := range diskRuns {
			if err := w.once(n); err != nil {
				return err
			}
		}
		after, err := sectorsWritten(mount)
		if err != nil {
			return err
		}
		b.row(w.who, float64(after-before)*512/1024/diskRuns, nil)
	}
	m, err := c.inTurn(b)
	if err != nil {
		return err
	}
	b.row("2 KB there, start to exit, p50, ms", milliseconds(m.wall), nil)
	b.row("the same in C, p50, ms", milliseconds(m.wallC), nil)
	b.row("ours / C there", m.ratio(), atMost(1.5))
	return nil
}

// mountImage mounts a new ext4 file system at path.
func mountImage(image, path string) error {
	if os.Geteuid() != 0 {
		return errors.New("only root can mount a file system to see")
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"truncate", "-s", "512M", image}, {"mkfs.ext4", "-qF", "-E", "lazy_itable_init=0,lazy_journal_init=0", image},
		{"mount", "-o", "loop", image, path},
	} {
		if err := exec.Command(args[0], args[1:]...).Run(); err != nil {
			return fmt.Errorf("%v: %w", args, err)
		}
	}
	unix.Sync()
	return nil
}

// sectorsWritten returns how many sectors of 512 octets have been written to the device that path is on.
func sectorsWritten(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return 0, err
	}
	const field = 6 // Documentation/block/stat.rst of the kernel: write sectors
	return strconv.ParseInt(strings.Fields(string(stat))[field], 10, 64)
}

// submissionMemory finds the peak of resident memory for a small and a large message.
func (b *bench) submissionMemory(small, large string) error {
	peak, err := b.compile("peak")
	if err != nil {
		return err
	}
	for _, m := range []struct{ what, file string }{{"2 KB", small}, {"100 MB", large}} {
		q, err := b.newQueue("memory-"+strings.TrimSuffix(filepath.Base(m.file), ".eml"), plainConfig)
		if err != nil {
			return err
		}
		var all []float64
		for range 5 {
			cmd := under(b.sendmail(q), peak)
			var out strings.Builder
			cmd.Stdout = &out
			if _, err := withStdin(cmd, m.file); err != nil {
				return err
			}
			kib, err := strconv.ParseFloat(strings.TrimSpace(out.String()), 64)
			if err != nil {
				return err
			}
			all = append(all, kib/1024)
		}
		b.row(m.what+", peak resident memory, MB", median(all), atMost(8))
		if err := os.RemoveAll(q.dir); err != nil {
			return err
		}
	}
	return nil
}
