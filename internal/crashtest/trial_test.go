package crashtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/smtptest"
	"github.com/postrider/postrider/spool"
)

// A trial is a pass with a fault, or several, and what follows.
type trial struct {
	*stage
	programs
	counts  *counts
	crashes []crash
	later   []smtptest.Message // what our server took in the passes after
	died    bool               // one of those failed, perhaps with results that it could not commit
}

// A crash is a pass with a fault.
type crash struct {
	fault  Fault
	report Report
	took   []smtptest.Message // what our server took in it
}

func (c crash) String() string { return c.report.describe(c.fault) }

// fired reports whether the last fault did.
func (tr *trial) fired() bool {
	return len(tr.crashes) > 0 && tr.crashes[len(tr.crashes)-1].report.Fired
}

// run makes one pass after another with these faults, and judges what is there after those that follow.
func (tr *trial) run(faults ...Fault) error {
	if err := tr.reset(); err != nil {
		return err
	}
	for _, f := range faults {
		if err := tr.disturb(f); err != nil {
			return err
		}
	}
	tr.counts.add("trials", 1)
	if err := tr.judge(); err != nil {
		return fmt.Errorf("%v: %w", tr.crashes, err)
	}
	return nil
}

// disturb makes a pass with the fault.
func (tr *trial) disturb(f Fault) error {
	server, err := tr.serve()
	if err != nil {
		return err
	}
	r, err := Run(tr.pass(tr.dir, 0), f)
	if err := errors.Join(err, server.Close()); err != nil {
		return err
	}
	tr.crashes = append(tr.crashes, crash{f, r, server.Messages()})
	if r.Fired {
		tr.counts.add("passes disturbed", 1)
	}
	return tr.blackout()
}

func (tr *trial) judge() error {
	for _, c := range tr.crashes {
		if err := lawful(tr.dir, c.report, c.fault); err != nil {
			return err
		}
	}
	if err := tr.recover(); err != nil {
		return err
	}
	found, err := tr.find()
	if err != nil {
		return err
	}
	if err := tr.compareIndex(found); err != nil {
		return err
	}
	return tr.checkFates(found)
}

// recover makes passes without a fault: at once, as the next timer would, then when everything deferred is due again,
// then once more. Each leaves the spool tidy.
func (tr *trial) recover() error {
	server, err := tr.serve()
	if err != nil {
		return err
	}
	for i, after := range []time.Duration{0, 10 * time.Minute, 20 * time.Minute} {
		var log string
		if log, err = tr.plainPass(after); err == nil {
			err = tr.tidy()
		}
		if err != nil {
			err = fmt.Errorf("pass %d without a fault: %w\n%s", i+1, err, log)
			break
		}
	}
	if err := errors.Join(err, server.Close()); err != nil {
		return err
	}
	tr.later = server.Messages()
	return nil
}

// plainPass makes a pass so much later, untraced, and returns its log. It must exit with 0, and not miss a message.
func (tr *trial) plainPass(after time.Duration) (log string, err error) {
	c := tr.pass(tr.dir, after)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	out, err := cmd.CombinedOutput()
	if err == nil && bytes.Contains(out, []byte("is gone from queue/")) {
		err = errors.New("a message is missed")
	}
	return string(out), err
}

// tidy checks that the spool is in a state that spool(5) describes, and that no human is needed.
func (tr *trial) tidy() error {
	listed, err := tr.listed()
	if err != nil {
		return err
	}
	for dir, allowed := range map[string]func(name string) bool{
		".":     func(name string) bool { return slices.Contains(spoolNames, name) },
		"drop":  func(string) bool { return false },
		"bad":   func(string) bool { return tr.disk != nil }, // a report that was torn by a power loss before it was synced
		"queue": func(name string) bool { return listed[strings.TrimSuffix(name, ".journal")] != nil },
	} {
		entries, err := os.ReadDir(filepath.Join(tr.dir, "spool", dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !allowed(e.Name()) {
				return fmt.Errorf("litter: %s/%s", dir, e.Name())
			}
		}
	}
	return nil
}

// spoolNames are what lies in a spool between passes.
var spoolNames = []string{"drop", "queue", "bad", "index.db", "lock", "gate"}

// listed returns the messages that mailq would list, with their recipients.
func (tr *trial) listed() (map[string][]string, error) {
	list := map[string][]string{}
	for e, err := range spool.List(filepath.Join(tr.dir, "spool")) {
		if err != nil {
			return nil, err
		}
		for _, r := range e.Recipients {
			list[string(e.ID)] = append(list[string(e.ID)], r.Path.Address())
		}
		if len(e.Recipients) == 0 {
			return nil, fmt.Errorf("%s is listed without recipients", e.ID)
		}
	}
	return list, nil
}

// pass returns the command for a pass so much later.
func (p programs) pass(dir string, later time.Duration) Command {
	c := Command{
		Path: p.queueRunner, Args: []string{"-C", filepath.Join(dir, "postrider.toml")}, Dir: "/",
		Env: []string{"PATH=/usr/bin:/bin", "LATER=" + later.String()},
	}
	if later > 0 {
		c.Path = p.ahead
	}
	return c
}

// later makes the clock of a pass fast by $LATER, so that nobody has to wait for the next attempt.
func later() []patch {
	const runner = "cmd/queue-runner/runner.go"
	return []patch{
		{file: runner, old: "import (\n", new: "import (\n\tenvironment \"os\"\n"},
		{file: runner, old: "time.Now,", times: 2,
			new: `func() time.Time { d, _ := time.ParseDuration(environment.Getenv("LATER")); return time.Now().Add(d) },`},
	}
}
