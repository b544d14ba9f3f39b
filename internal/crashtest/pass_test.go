package crashtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// A scenario is a pass over a spool that sendmail has filled. What becomes of a recipient follows from his address:
// see fateOf.
type scenario struct {
	name    string
	letters []letter
}

// A letter is one message.
type letter struct {
	to   []string
	size int // of the body, at least
}

const sender = "ann@box.example"

func scenarios() []scenario {
	return []scenario{
		{"two delivered", []letter{{to: []string{"bob@box.example", "carol@box.example"}}}},
		{"one delivered, one deferred", []letter{{to: []string{"bob@box.example", "dave@down.example"}}}},
		{"one delivered, one bounced", []letter{{to: []string{"bob@box.example", "erin@gone.example"}}}},
		{"relayed", []letter{{to: []string{"bob@smart.example"}}}},
		{"several relayed", []letter{
			{to: []string{"bob@smart.example", "carol@smart.example"}},
			{to: []string{"bob@smart.example", "refused@smart.example"}},
			{to: []string{"later@smart.example", "carol@smart.example"}, size: 100 << 10},
			{to: []string{"bob@smart.example"}},
		}},
		{"everything at once", []letter{
			{to: []string{"bob@box.example", "carol@smart.example", "dave@down.example"}},
			{to: []string{"erin@gone.example"}},
			{to: []string{"later@smart.example", "refused@smart.example", "bob@box.example"}},
			{to: []string{"carol@smart.example"}},
			{to: []string{"dave@down.example", "erin@gone.example"}},
		}},
	}
}

// fate is what must become of a recipient in the end.
type fate string

const (
	delivered fate = "delivered"
	bounced   fate = "bounced"
	queued    fate = "queued"
)

// fateOf says what becomes of an address: box.example is a Maildir, smart.example our server, gone.example a transport
// that fails, and nobody listens for down.example.
func fateOf(address string) fate {
	local, domain, _ := strings.Cut(address, "@")
	switch {
	case domain == "gone.example" || local == "refused":
		return bounced
	case domain == "down.example" || local == "later":
		return queued
	}
	return delivered
}

// routes is the configuration for that.
const routes = `
[retry]
first = "1s"
max_wait = "1s"

[transport.box]
url = "maildir:DIR/Maildir"

[transport.smart]
url = "smtp://ADDRESS"
tls = "none"

[transport.down]
url = "smtp://127.0.0.1:1"
tls = "none"

[transport.gone]
url = "fail:"
text = "there is no such domain"

[[route]]
to = ["box.example"]
transport = "box"

[[route]]
to = ["smart.example"]
transport = "smart"

[[route]]
to = ["down.example"]
transport = "down"

[[route]]
to = ["gone.example"]
transport = "gone"
`

func (l letter) submission(n int) submission {
	subject := "Subject: letter " + strconv.Itoa(n) + "\n"
	body := "Hello.\n.\n..\nThe end.\n" + strings.Repeat("One line of many in a long letter.\n", l.size/35)
	return submission{
		args:  append([]string{"-i", "-f", sender}, l.to...),
		stdin: strings.ReplaceAll(header, "ann@example.org", sender) + subject + "\n" + body,
	}
}

// A stage is a ground with the letters of a scenario in drop/.
type stage struct {
	*ground
	scenario
	address string   // of our server
	ids     []string // of the letters
	content []string // in wire form
}

// newStages returns n stages.
func newStages(t *testing.T, p programs, sc scenario, n int, fs *FileSystem) []*stage {
	t.Helper()
	stages := make([]*stage, n)
	for i := range stages {
		// The server comes and goes. An address of its own keeps its port from being given to somebody meanwhile.
		st := &stage{scenario: sc, address: fmt.Sprintf("127.%d.%d.%d:2525", 1+os.Getpid()>>8&127, os.Getpid()&255, 1+i)}
		st.ground = newGrounds(t, 1, fs, func(dir string) error { return st.submit(p, dir) })[0]
		stages[i] = st
	}
	return stages
}

// serve starts the server.
func (st *stage) serve() (server *smtptest.Server, err error) {
	// A child that another worker starts has our listeners until it has executed its program, which is not long.
	busy := func(err error) bool { return errors.Is(err, unix.EADDRINUSE) }
	err = patiently(busy, func() error {
		server, err = smtptest.Start(smtptest.Options{Addr: st.address, Replies: map[string]string{
			"RCPT TO:<later":   "451 4.2.0 later, please",
			"RCPT TO:<refused": "550 5.1.1 there is nobody of this name",
		}})
		return err
	})
	return server, err
}

// submit fills the spool with real runs of sendmail.
func (st *stage) submit(p programs, dir string) error {
	if err := prepareSpool(dir); err != nil {
		return err
	}
	if err := configure(dir, strings.NewReplacer("DIR", dir, "ADDRESS", st.address).Replace(routes)); err != nil {
		return err
	}
	d, err := drop.Open(filepath.Join(dir, "spool/drop"))
	if err != nil {
		return err
	}
	defer d.Close()
	for n, l := range st.letters {
		r, err := Run(p.submit(dir, l.submission(n)), Fault{})
		if err != nil || r.Code() != 0 {
			return fmt.Errorf("sendmail: exit status %d: %s: %w", r.Code(), r.Stderr, err)
		}
		ids, _, err := d.Names()
		if err != nil {
			return err
		}
		for _, id := range ids {
			if slices.Contains(st.ids, string(id)) {
				continue
			}
			m, err := d.Read(string(id))
			if err != nil {
				return err
			}
			content, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Size))
			if err := errors.Join(err, m.Close()); err != nil {
				return err
			}
			st.ids = append(st.ids, string(id))
			st.content = append(st.content, string(content))
		}
	}
	if len(st.ids) != len(st.letters) {
		return fmt.Errorf("%d messages in drop/ after %d submissions", len(st.ids), len(st.letters))
	}
	return nil
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

// A pass with a fault, then passes without until nothing changes any more: whatever happened, every recipient has met
// his fate in the end, once, and nobody had to clean up.
func TestPass(t *testing.T) {
	needTracer(t)
	p := shipped(t)
	for _, sc := range scenarios() {
		for i, h := range hazards()[:inProof(len(hazards()), 3)] {
			t.Run(sc.name+"/"+h.String(), func(t *testing.T) {
				stages := newStages(t, p, sc, workers(), h.fs)
				var c counts
				fired, findings := Sweep{Step: passStep(i), Workers: workers()}.Run(func(worker, at int) (bool, error) {
					tr := &trial{stage: stages[worker], programs: p, counts: &c}
					err := tr.run(Fault{At: at, Kind: h.kind(tr.ground)})
					return tr.fired(), err
				})
				c.report(t, fired, findings)
			})
		}
	}
}

// A pass that is killed, or loses its power, and then the pass that was to recover from it too. Pairs of calls are drawn
// at random, the same ones each time.
func TestPassDisturbedTwice(t *testing.T) {
	needTracer(t)
	p := shipped(t)
	all := scenarios()
	sc := all[len(all)-1]
	for _, h := range hazards()[:2] {
		t.Run(h.String(), func(t *testing.T) {
			stages := newStages(t, p, sc, workers(), h.fs)
			undisturbed := &trial{stage: stages[0], programs: p, counts: &counts{}}
			if err := undisturbed.run(Fault{}); err != nil {
				t.Fatal(err)
			}
			calls := len(undisturbed.crashes[0].report.Calls)
			var c counts
			done, findings := Sweep{Workers: workers()}.Run(func(worker, n int) (bool, error) {
				if n > inProof(1000, 10) {
					return false, nil
				}
				random := rand.New(rand.NewPCG(2, uint64(n)))
				tr := &trial{stage: stages[worker], programs: p, counts: &c}
				kind := h.kind(tr.ground)
				return true, tr.run(
					Fault{At: 1 + random.IntN(calls), Kind: kind},
					Fault{At: 1 + random.IntN(calls), Kind: kind},
				)
			})
			c.report(t, done, findings)
		})
	}
}

// A pass that is killed right after something has become visible or durable, and then, at each of its calls, the pass
// that is to recover from that.
func TestRecoveryDisturbed(t *testing.T) {
	needTracer(t)
	p := shipped(t)
	sc := scenario{"", []letter{{to: []string{"bob@smart.example", "erin@gone.example", "dave@down.example"}}}}
	stages := newStages(t, p, sc, workers(), nil)
	undisturbed := &trial{stage: stages[0], programs: p, counts: &counts{}}
	if err := undisturbed.run(Fault{}); err != nil {
		t.Fatal(err)
	}
	for i, first := range milestones(undisturbed.crashes[0].report.Calls) {
		if i%inProof(1, 8) != 0 {
			continue
		}
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			var c counts
			fired, findings := Sweep{Step: inProof(3, 150), Workers: workers()}.Run(func(worker, at int) (bool, error) {
				tr := &trial{stage: stages[worker], programs: p, counts: &c}
				err := tr.run(Fault{At: first.after + 1, Kind: Kill()}, Fault{At: at, Kind: Kill()})
				return tr.fired(), err
			})
			c.report(t, fired, findings)
		})
	}
}

// A milestone is a call of a pass that makes something visible to the next one.
type milestone struct {
	after int // its number
	what  string
}

func (m milestone) String() string { return fmt.Sprintf("after %d, %s", m.after, m.what) }

func milestones(calls []Call) []milestone {
	var list []milestone
	for i, c := range calls {
		name := filepath.Base(c.Path)
		switch {
		case name == "wake" || name == "index.db.new":
		case strings.HasPrefix(c.Name, "rename"), strings.HasPrefix(c.Name, "link"), strings.HasPrefix(c.Name, "unlink"),
			c.Name == "fdatasync", c.Name == "fsync" && strings.HasSuffix(name, ".journal"):
			list = append(list, milestone{i + 1, c.Name + " " + name})
		}
	}
	return list
}

// passStep returns how many calls lie between the trials of hazard i: all are tried with the first three.
func passStep(i int) int {
	if i < 3 {
		return inProof(1, 60)
	}
	return 7
}

// A trial is a pass with a fault, or several, and what follows.
type trial struct {
	*stage
	programs
	counts  *counts
	crashes []crash
	later   []smtptest.Message // what our server took in the passes after
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
		if err := lawful(c.report, c.fault); err != nil {
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

// A key is a recipient of a letter.
type key struct {
	letter  int
	address string
}

// evidence is what was found of each recipient.
type evidence struct {
	delivered map[key]int
	reported  map[key]int
	queued    map[key]int
}

func (tr *trial) find() (*evidence, error) {
	e := &evidence{map[key]int{}, map[key]int{}, map[key]int{}}
	took := tr.later
	for _, c := range tr.crashes {
		took = append(took, c.took...)
	}
	for _, m := range took {
		n := slices.Index(tr.content, string(m.Content))
		if n < 0 {
			return nil, fmt.Errorf("our server got what nobody sent: %.300q", m.Content)
		}
		for _, r := range m.Recipients {
			e.delivered[key{n, r.Address}]++
		}
	}
	listed, err := tr.listed()
	if err != nil {
		return nil, err
	}
	for id, recipients := range listed {
		n := slices.Index(tr.ids, id)
		if n < 0 {
			return nil, fmt.Errorf("%s is queued for %q, and nobody sent it", id, recipients)
		}
		for _, r := range recipients {
			e.queued[key{n, r}]++
		}
	}
	return e, tr.findInMaildir(e)
}

func (tr *trial) findInMaildir(e *evidence) error {
	files, err := filepath.Glob(filepath.Join(tr.dir, "Maildir", "[nc][eu][wr]", "*"))
	if err != nil {
		return err
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		from, rest, _ := strings.Cut(string(text), "\n")
		to, content, _ := strings.Cut(rest, "\n")
		address, ok := strings.CutPrefix(to, "Delivered-To: ")
		if !ok {
			return fmt.Errorf("%s begins with %q", name, to)
		}
		if from == "Return-Path: <>" {
			if err := tr.readReport(e, content); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			continue
		}
		n := slices.IndexFunc(tr.content, func(c string) bool { return strings.ReplaceAll(c, "\r\n", "\n") == content })
		if n < 0 {
			return fmt.Errorf("%s is none of the letters: %.300q", name, content)
		}
		e.delivered[key{n, address}]++
	}
	return nil
}

// readReport finds out about whom a report speaks.
func (tr *trial) readReport(e *evidence, text string) error {
	_, after, ok := strings.Cut(text, "\nSubject: letter ")
	number, _, _ := strings.Cut(after, "\n")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		return fmt.Errorf("a report about no letter: %.2000q", text)
	}
	const field = "\nFinal-Recipient: rfc822;"
	for {
		_, rest, ok := strings.Cut(text, field)
		if !ok {
			return nil
		}
		address, _, _ := strings.Cut(rest, "\n")
		e.reported[key{n, strings.TrimSpace(address)}]++
		text = rest
	}
}

// checkFates compares what was found with what must be.
func (tr *trial) checkFates(e *evidence) error {
	for n, l := range tr.letters {
		for _, address := range l.to {
			k := key{n, address}
			got := [3]int{e.delivered[k], e.reported[k], e.queued[k]}
			want := map[fate][3]int{delivered: {1, 0, 0}, bounced: {0, 1, 0}, queued: {0, 0, 1}}[fateOf(address)]
			tr.counts.add(string(fateOf(address)), 1)
			if extra := got[0] - 1; extra > 0 && extra <= tr.mayBeExtra(k) {
				tr.counts.add("twice, the fault between the reply and the commit", extra)
				got[0] = 1
			}
			if got != want {
				return fmt.Errorf("letter %d (%s) for %s: %d times delivered, %d reported, %d queued; it must be %s",
					n, tr.ids[n], address, got[0], got[1], got[2], fateOf(address))
			}
			delete(e.delivered, k)
			delete(e.reported, k)
			delete(e.queued, k)
		}
	}
	if len(e.delivered)+len(e.reported)+len(e.queued) > 0 {
		return fmt.Errorf("recipients that nobody named: %v", e)
	}
	return nil
}

// mayBeExtra returns how many faults fell between the reply of our server and the commit of the result: the one time
// when only the server knows.
func (tr *trial) mayBeExtra(k key) int {
	n := 0
	for _, c := range tr.crashes {
		if c.report.Fired && !tr.committed(c, k) && slices.ContainsFunc(c.took, func(m smtptest.Message) bool {
			return string(m.Content) == tr.content[k.letter] &&
				slices.ContainsFunc(m.Recipients, func(r smtptest.Recipient) bool { return r.Address == k.address })
		}) {
			n++
		}
	}
	return n
}

// committed reports whether the calls up to the fault show that the recipient's result was durable: the message is
// about to be removed, or the index to be synced after a line about him went into the journal.
func (tr *trial) committed(c crash, k key) bool {
	id := tr.ids[k.letter]
	line := fmt.Sprintf("\n%d ", slices.Index(tr.letters[k.letter].to, k.address))
	journaled := false
	for _, call := range c.report.Calls[:c.fault.At] {
		switch {
		case strings.HasPrefix(call.Name, "unlink") && strings.HasSuffix(call.Path, "queue/"+id):
			return true
		case call.Name == "write" && strings.HasSuffix(call.Path, "queue/"+id+".journal"):
			journaled = journaled || strings.Contains("\n"+call.Tail, line)
		case call.Name == "fdatasync" && strings.HasSuffix(call.Path, "index.db") && journaled:
			return true
		}
	}
	return false
}

// compareIndex checks that the index says what the files say, first by itself, then by what a new one says.
func (tr *trial) compareIndex(before *evidence) error {
	dir := filepath.Join(tr.dir, "spool")
	for _, remove := range []bool{false, true} {
		var complaints []string
		o := spool.Options{Compare: true, Now: time.Now, Route: unrouted, Routes: "compare", Logf: func(format string, args ...any) {
			complaints = append(complaints, fmt.Sprintf(format, args...))
		}}
		if remove {
			if err := os.Remove(filepath.Join(dir, "index.db")); err != nil {
				return err
			}
		}
		if err := acquire(dir, o); err != nil {
			return err
		}
		if len(complaints) > 0 && !remove {
			return fmt.Errorf("index and files differ: %q", complaints)
		}
	}
	after, err := tr.find()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(tr.crashes, crash.withoutJournal) {
		return nil
	}
	if fmt.Sprint(before.queued) != fmt.Sprint(after.queued) {
		return fmt.Errorf("the index listed %v, a new one lists %v", before.queued, after.queued)
	}
	return nil
}

// acquire takes the spool and gives it back.
func acquire(dir string, o spool.Options) error {
	// As with listeners, so with locks.
	held := func(err error) bool { return errors.Is(err, spool.ErrHeld) }
	return patiently(held, func() error {
		s, err := spool.Acquire(dir, o)
		if err != nil {
			return err
		}
		return s.End()
	})
}

// withoutJournal reports whether the pass said that it could not write a journal. Then the index knows better than the
// files, which is the lesser evil on a full disk.
func (c crash) withoutJournal() bool {
	return bytes.Contains(c.report.Stderr, []byte("cannot write the journal"))
}

func unrouted(_, _ mail.Path, _ int, _ bool) string { return "?" }
