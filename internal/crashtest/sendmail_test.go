package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// A submission is one run of sendmail and what it should leave in drop/.
type submission struct {
	name       string
	args       []string
	stdin      string
	recipients []string
	content    string // without the Received fields, which differ from run to run
}

// header has all that sendmail would otherwise add.
const header = "From: ann@example.org\nDate: Sat, 21 Nov 2026 22:00:00 +0000\nMessage-ID: <1@example.org>\n"

func submissions() []submission {
	long := strings.Repeat("This line is one of very many.\n", 5<<20/31)
	return []submission{{
		name:       "recipients as arguments",
		args:       []string{"-i", "-f", "ann@example.org", "bob@example.net", "carol@example.net"},
		stdin:      header + "To: bob@example.net\n\nHello.\n.\nStill here.\n",
		recipients: []string{"bob@example.net", "carol@example.net"},
		content:    header + "To: bob@example.net\n\nHello.\n.\nStill here.\n",
	}, {
		name:       "recipients from the header",
		args:       []string{"-t", "-i", "-f", "ann@example.org"},
		stdin:      header + "To: bob@example.net\nCc: carol@example.net\nBcc: dave@example.net\n\nHello.\n",
		recipients: []string{"bob@example.net", "carol@example.net", "dave@example.net"},
		content:    header + "To: bob@example.net\nCc: carol@example.net\n\nHello.\n",
	}, {
		name:       "ended by a dot",
		args:       []string{"-f", "ann@example.org", "bob@example.net"},
		stdin:      header + "To: bob@example.net\n\nHello.\n.\nNot any more.\n",
		recipients: []string{"bob@example.net"},
		content:    header + "To: bob@example.net\n\nHello.\n",
	}, {
		name:       "five megabytes",
		args:       []string{"-i", "-f", "ann@example.org", "bob@example.net"},
		stdin:      header + "To: bob@example.net\n\n" + long,
		recipients: []string{"bob@example.net"},
		content:    header + "To: bob@example.net\n\n" + long,
	}}
}

// sendmail exits with 0 exactly if the message is there for good, once; otherwise it leaves nothing, or, if it could
// not even clean up, a message that nobody was promised.
func TestSendmail(t *testing.T) {
	needTracer(t)
	p := shipped(t)
	for _, s := range submissions()[:inProof(4, 1)] {
		all := len(hazards())
		if len(s.stdin) > 1<<20 {
			all = 6 // slow, and the rest is known by then
		}
		for _, h := range hazards()[:inProof(all, 4)] {
			t.Run(s.name+"/"+h.String(), func(t *testing.T) { sweepSendmail(t, p, s, h) })
		}
	}
}

func sweepSendmail(t *testing.T, p programs, s submission, h hazard) {
	grounds := newGrounds(t, workers(), h.fs, prepareSpool)
	var c counts
	fired, findings := Sweep{Workers: workers()}.Run(func(worker, at int) (bool, error) {
		g := grounds[worker]
		return trySendmail(p, s, g, Fault{At: at, Kind: h.kind(g)}, &c)
	})
	c.report(t, fired, findings)
}

// A spool that is missing, sendmail makes. Whatever happens to the first submission, the next one is accepted: what is there
// of the spool is as it should be.
func TestSendmailMakesTheSpool(t *testing.T) {
	needTracer(t)
	p := shipped(t)
	s := submissions()[0]
	for _, h := range hazards()[:inProof(len(hazards()), 4)] {
		t.Run(h.String(), func(t *testing.T) {
			grounds := newGrounds(t, workers(), h.fs, prepareNothing)
			var c counts
			fired, findings := Sweep{Step: inProof(1, 2), Workers: workers()}.Run(func(worker, at int) (bool, error) {
				g := grounds[worker]
				fired, err := trySendmail(p, s, g, Fault{At: at, Kind: h.kind(g)}, &c)
				if err == nil {
					err = tryAgain(p, s, g)
				}
				return fired, err
			})
			c.report(t, fired, findings)
		})
	}
}

// tryAgain submits a message without a fault, after one with a fault.
func tryAgain(p programs, s submission, g *ground) error {
	r, err := Run(p.submit(g.dir, s), Fault{})
	if err == nil && r.Code() != 0 {
		err = fmt.Errorf("the next submission: exit status %d: %s", r.Code(), r.Stderr)
	}
	if err != nil {
		return err
	}
	for name, mode := range map[string]fs.FileMode{"spool": fs.ModeDir | 0o755, "spool/drop": fs.ModeDir | fs.ModeSetgid | 0o770} {
		info, err := os.Stat(filepath.Join(g.dir, name))
		if err != nil {
			return err
		}
		if info.Mode() != mode {
			return fmt.Errorf("%s has mode %v after the next submission, want %v", name, info.Mode(), mode)
		}
	}
	return nil
}

// prepareSpool makes a spool without any message, and its configuration.
func prepareSpool(dir string) error {
	for _, name := range []string{"", "drop", "queue", "bad"} {
		if err := os.MkdirAll(filepath.Join(dir, "spool", name), 0o755); err != nil {
			return err
		}
	}
	return prepareNothing(dir)
}

// prepareNothing makes a configuration, and leaves the spool to sendmail.
func prepareNothing(dir string) error {
	return configure(dir, "relay = \"maildir:"+dir+"/Maildir\"\n")
}

// configure writes a configuration file that ends as given.
func configure(dir, end string) error {
	text := "spool = \"" + dir + "/spool\"\nhostname = \"host.example\"\ndomain = \"example.org\"\ndelivery = \"queue\"\nlog = \"stderr\"\n" + end
	return os.WriteFile(filepath.Join(dir, "postrider.toml"), []byte(text), 0o600)
}

func (p programs) submit(dir string, s submission) Command {
	return Command{
		Path: p.sendmail, Args: append([]string{"-C", filepath.Join(dir, "postrider.toml")}, s.args...),
		Dir: "/", Env: []string{"PATH=/usr/bin:/bin"}, Stdin: []byte(s.stdin),
	}
}

func trySendmail(p programs, s submission, g *ground, f Fault, c *counts) (bool, error) {
	if err := g.reset(); err != nil {
		return false, err
	}
	r, err := Run(p.submit(g.dir, s), f)
	if err != nil {
		return r.Fired, err
	}
	err = honest(g.dir, r, f)
	if err == nil && f.Kind.what != powerLoss {
		err = s.checkRefusal(g.dir, r, f)
	}
	if err != nil {
		return r.Fired, fmt.Errorf("%s: %w", r.describe(f), err)
	}
	// The power goes after every trial: what an ignored error failed to save is seen in no other way.
	if err := g.blackout(); err != nil {
		return r.Fired, err
	}
	there, err := s.judge(g.dir)
	if err == nil && r.Succeeded() && there == 0 {
		err = errors.New("accepted, and lost")
	}
	if err != nil {
		return r.Fired, fmt.Errorf("%s, then without power: %w", r.describe(f), err)
	}
	c.add("trials", 1)
	if r.Succeeded() {
		c.add("accepted", 1)
	} else {
		c.add("there though not accepted", there)
	}
	return r.Fired, nil
}

// checkRefusal checks that nothing is there after a refusal, unless the program was killed or could not clean up.
func (s submission) checkRefusal(dir string, r Report, f Fault) error {
	there, err := s.judge(dir)
	if err != nil || r.Succeeded() || !r.Status.Exited() || f.Kind.what == persistentErrno {
		return err
	}
	if there > 0 {
		return errors.New("refused, and there nevertheless")
	}
	for _, pattern := range []string{".*", "spool/.*"} {
		half, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(half) > 0 {
			return fmt.Errorf("litter: %q, %v", half, err)
		}
	}
	return nil
}

// judge returns whether the message is in drop/, 0 or 1. It is an error if there is something else, or more.
func (s submission) judge(dir string) (int, error) {
	d, err := drop.Open(filepath.Join(dir, "spool/drop"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer d.Close()
	ids, others, err := d.Names()
	if err != nil {
		return 0, err
	}
	if len(others) > 0 {
		return 0, fmt.Errorf("litter: %q", others)
	}
	complete := 0
	for _, id := range ids {
		err := s.compare(d, string(id))
		switch {
		case errors.Is(err, drop.ErrIncomplete):
			// Torn by the power loss before it was synced; the next pass sets it aside.
		case err != nil:
			return 0, err
		default:
			complete++
		}
	}
	if complete > 1 {
		return 0, fmt.Errorf("%d messages", complete)
	}
	return complete, nil
}

// compare reads a message file and compares it with what was submitted.
func (s submission) compare(d *drop.Dir, name string) error {
	m, err := d.Read(name)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Verify(); err != nil {
		return err
	}
	var recipients []string
	for _, r := range m.Recipients {
		recipients = append(recipients, r.Path.Address())
	}
	if !slices.Equal(recipients, s.recipients) || m.Sender.Address() != "ann@example.org" {
		return fmt.Errorf("envelope from %v to %v", m.Sender, recipients)
	}
	content, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Size))
	if err != nil {
		return err
	}
	if got, want := withoutReceived(content), crlf(s.content); !bytes.Equal(got, want) {
		return fmt.Errorf("content differs: %d octets, want %d: %.300q", len(got), len(want), got)
	}
	return nil
}

// withoutReceived removes the Received fields that a content in wire form begins with.
func withoutReceived(content []byte) []byte {
	received := false
	for {
		line, rest, found := bytes.Cut(content, []byte("\r\n"))
		folded := received && len(line) > 0 && (line[0] == ' ' || line[0] == '\t')
		if received = folded || bytes.HasPrefix(line, []byte("Received:")); !found || !received {
			return content
		}
		content = rest
	}
}

func crlf(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

// honest checks what sendmail tells its caller: one line with every status but 0, and nothing with 0.
func honest(dir string, r Report, f Fault) error {
	code := r.Code()
	switch lines := bytes.Count(r.Stderr, []byte("\n")); {
	case len(r.Stdout) > 0:
		return fmt.Errorf("standard output: %q", r.Stdout)
	case code >= 64 && code <= 78 && lines != 1 && !mute(r, f):
		return fmt.Errorf("exit status %d and %d lines: %q", code, lines, r.Stderr)
	case code == 0 && lines > 0:
		return fmt.Errorf("exit status 0 and yet: %q", r.Stderr)
	}
	return lawful(dir, r, f)
}

// lawful checks the exit status: 0, one of sysexits.h, or that of the fault itself. A disk that is full is 75.
func lawful(dir string, r Report, f Fault) error {
	switch code := r.Code(); {
	case code != 0 && code != 75 && diskFull(dir, r, f):
		return fmt.Errorf("exit status %d where the disk is full: %s", code, r.Stderr)
	case code == 0, code >= 64 && code <= 78:
		return nil
	case code == 137 && (f.Kind.what == kill || f.Kind.what == powerLoss):
		return nil
	case code == 128+int(f.Kind.signal) && f.Kind.what == signal:
		return nil
	case code == 2 && r.Fired && f.At <= 3:
		// The Go runtime gives up if it cannot look at descriptors 0 to 2, before anything of ours is run.
		return nil
	default:
		return fmt.Errorf("exit status %d: %s", code, r.Stderr)
	}
}

// diskFull reports whether the fault was that there was no room for a file below dir.
func diskFull(dir string, r Report, f Fault) bool {
	return r.Fired && (f.Kind.errno == unix.ENOSPC || f.Kind.errno == unix.EDQUOT) && strings.Contains(r.Calls[f.At-1].Path, dir)
}

// mute reports whether the fault kept the program from saying anything.
func mute(r Report, f Fault) bool {
	return f.Kind.what == persistentErrno || r.Fired && strings.Contains(r.Calls[f.At-1].Path, "stderr")
}

// describe names the fault and the call it struck.
func (r Report) describe(f Fault) string {
	if !r.Fired {
		return fmt.Sprintf("without a fault, exit status %d", r.Code())
	}
	return fmt.Sprintf("%v at %v, exit status %d", f.Kind, r.Calls[f.At-1], r.Code())
}
