package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
	"github.com/postrider/postrider/spool"
)

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
	took := slices.Clone(tr.later)
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

// readReport finds out about whom a report speaks. One of a delay does not count: nothing has become of anybody.
func (tr *trial) readReport(e *evidence, text string) error {
	if strings.Contains(text, "\nAction: delayed\n") {
		return nil
	}
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
	if tr.died && strings.HasSuffix(k.address, "@smart.example") {
		n++
	}
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
