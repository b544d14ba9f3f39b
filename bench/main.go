// Command bench measures the programs and says which of the numbers that we promise they reach.
//
//	bench BIN [PART...]
//
// BIN is the directory of the three programs; the parts are those that parts lists, all if none is named. Everything
// happens in a temporary directory (TMPDIR) and on the loopback interface. Other work on the machine falsifies times and
// rates: what is printed are medians, ours and the C program's runs alternate, and each part ends with what others used.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

type part struct {
	name    string
	title   string
	measure func(*bench) error
}

// parts are what is measured, in this order.
var parts = []part{
	{"submission", "Submission: one sendmail process for each message", submission},
	{"socket", "Submission socket, and SMTP on standard input", intake},
	{"addresses", "Reading the recipients in a header", addresses},
	{"pass", "A pass over 2,000 messages of 2 KB to one smarthost on loopback", pass},
	{"drain", "Draining 10,000 messages of 2 KB to one smarthost", drain},
	{"large", "A message of 100 MB, over TLS", large},
	{"idle", "A pass with nothing due", idle},
	{"dead", "A pass over 100,000 messages for one dead smarthost", dead},
	{"million", "A pass over 1,000,000 recipients at 10,000 next hops, 9,000 of which are dead", million},
	{"mailq", "mailq", listing},
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == sinkCommand {
		exit(sink(os.Args[2], os.Args[3]))
	}
	if len(os.Args) == 4 && os.Args[1] == millionCommand {
		exit(millionPass(os.Args[2], os.Args[3]))
	}
	if len(os.Args) < 2 {
		exit(errors.New("usage: bench BIN [PART...]"))
	}
	// Whatever ends us, what we made is removed, and unmounted.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	b, err := newBench(ctx, os.Args[1])
	if err == nil {
		err = errors.Join(b.run(os.Args[2:]), os.RemoveAll(b.dir))
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A bench is one run of the benchmarks.
type bench struct {
	ctx    context.Context // of the programs that run
	bin    string
	dir    string // for everything that is made
	missed int    // bars not reached
	queues map[int]*queue
}

func newBench(ctx context.Context, from string) (*bench, error) {
	dir, err := os.MkdirTemp("", "postrider-bench")
	if err != nil {
		return nil, err
	}
	// A copy: whoever builds again meanwhile must not change what is measured.
	bin := filepath.Join(dir, "bin")
	for _, name := range []string{"sendmail", "mailq", "queue-runner"} {
		if err := copyProgram(filepath.Join(from, name), filepath.Join(bin, name)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	return &bench{ctx: ctx, bin: bin, dir: dir, queues: map[int]*queue{}}, nil
}

func copyProgram(from, to string) error {
	program, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.WriteFile(to, program, 0o700)
}

func (b *bench) run(names []string) error {
	for _, name := range names {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("there is no part %q", name)
		}
	}
	for _, p := range parts {
		if len(names) > 0 && !slices.Contains(names, p.name) {
			continue
		}
		fmt.Printf("\n%s\n", p.title)
		before, err := processors()
		if err != nil {
			return err
		}
		if err := p.measure(b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		after, err := processors()
		if err != nil {
			return err
		}
		fmt.Printf("  (the rest of the machine used %.0f %% of it meanwhile)\n", after.foreignSince(before))
	}
	fmt.Printf("\n%d missed\n", b.missed)
	return nil
}

// A bar is what a number has to reach.
type bar struct {
	value  float64
	higher bool // the number should be at least value, not at most
}

func atMost(v float64) *bar  { return &bar{value: v} }
func atLeast(v float64) *bar { return &bar{value: v, higher: true} }

// row prints one number beside its bar, if it has one.
func (b *bench) row(what string, got float64, want *bar) {
	if want == nil {
		fmt.Printf("  %-58s %10s\n", what, number(got))
		return
	}
	word, ok := "at most", got <= want.value
	if want.higher {
		word, ok = "at least", got >= want.value
	}
	verdict := "pass"
	if !ok {
		verdict = "MISS"
		b.missed++
	}
	fmt.Printf("  %-58s %10s   %-8s %8s   %s\n", what, number(got), word, number(want.value), verdict)
}

// number shows three significant digits or more.
func number(v float64) string {
	switch {
	case v == float64(int64(v)) || v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// A usage is what one process took.
type usage struct {
	wall, cpu time.Duration
	written   int64 // octets of the pages it made dirty
}

// measure runs a command to its end.
func measure(cmd *exec.Cmd) (usage, error) {
	start := time.Now()
	err := cmd.Run()
	wall := time.Since(start)
	if err != nil {
		return usage{}, fmt.Errorf("%v: %w", cmd.Args, err)
	}
	r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return usage{}, errors.New("no resource usage on this system")
	}
	return usage{
		wall: wall, cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(),
		written: r.Oublock * 512,
	}, nil
}

func median[T ~int64 | ~float64](v []T) T {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// command is a program of ours in an environment with the configuration file.
func (b *bench) command(config, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.ctx, filepath.Join(b.bin, name), args...)
	cmd.Env = append(os.Environ(), "POSTRIDER_CONFIG="+config)
	cmd.Stderr = os.Stderr
	return cmd
}
