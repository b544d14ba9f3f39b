package crashtest

import (
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
)

// A mutant is the product with a bug planted in it, and the sweep that must see it.
type mutant struct {
	name    string
	patches []patch
	pass    string // scenario of a pass; "" for the first submission to sendmail
	hazard  int    // of hazards
}

// The hazards that mutants are exposed to.
const (
	kills = iota
	powerLosses
	eio
)

const (
	dropFile    = "spool/drop/drop.go"
	settleFile  = "spool/settle.go"
	maildirFile = "deliver/local/file.go"
)

const syncFile = `	if err := w.f.Sync(); err != nil {
		return err
	}
`

const linkFile = `	if err := w.link(); err != nil {
		return err
	}
`

// mutants are all of them; the first few are tried always.
func mutants() []mutant {
	return []mutant{
		{"the name comes after the sync", []patch{{file: dropFile, old: linkFile + syncFile, new: syncFile + linkFile}}, "", powerLosses},
		{"what failed stays", []patch{{file: dropFile, old: "if w.named {\n\t\tif e :=", new: "if false {\n\t\tif e :="}}, "", eio},
		{"no journal", []patch{{file: settleFile, old: "return s.appendJournal(st.ID, final)", new: "return nil"}},
			"one delivered, one deferred", kills},

		{"the file is not synced", []patch{{file: dropFile, old: syncFile}}, "", powerLosses},
		{"an error of the sync is ignored", []patch{{file: dropFile, old: syncFile, new: "_ = w.f.Sync()\n"}}, "", eio},
		{"an error of a write is ignored", []patch{{file: dropFile, old: "_, w.err = w.f.Write(w.buf)", new: "_, _ = w.f.Write(w.buf)"}}, "", eio},
		{"an error of close refuses what is durable", []patch{{file: dropFile,
			old: "_ = w.close()\n\treturn w.id, nil", new: "return w.id, w.close()",
		}}, "", eio},

		{"what a dead pass left is not looked at", []patch{{file: "spool/spool.go", old: "if unclean || fresh", new: "_ = unclean; if fresh"}},
			"two delivered", kills},
		{"no tombstone", []patch{{file: settleFile, old: "return x.tombstones.Put(key, nil)", new: "return nil"}}, "relayed", kills},
		{"removed before the commit", []patch{{file: settleFile,
			old: "done = append(done, finished{st.ID, journal})", new: "if err := s.remove([]finished{{st.ID, journal}}); err != nil { return err }",
		}}, "two delivered", kills},
		{"a failed commit is ignored", []patch{
			{file: "spool/index.go", old: "\t\ts.failed = fmt.Errorf(\"index: %w\", err)\n\t}\n\treturn s.checked(err)", new: "\t}\n\treturn nil"},
		}, "two delivered", eio},
		{"the journal is not synced", []patch{{file: "spool/journal.go", old: "err = f.Sync()", new: "err = nil"}},
			"one delivered, one deferred", powerLosses},
		{"a report is no proof", []patch{{file: "spool/compare.go", old: "case a.Envelope.Settles != nil:", new: "case false:"}},
			"one delivered, one bounced", kills},
		{"a report is not synced", []patch{{file: dropFile, old: syncFile}}, "one delivered, one bounced", powerLosses},
		{"what goes into a Maildir is not synced", []patch{{file: maildirFile, old: "err = f.Sync()", new: "err = nil"}},
			"two delivered", powerLosses},
		{"a new name in the Maildir at each attempt", []patch{{file: maildirFile, old: "n, hashDigits, hash, suffix", new: "n, hashDigits, rand.Uint64(), suffix"}},
			"two delivered", kills},
	}
}

// sweeps is how many may be needed to see a bug. A call has not the same number in each run, since goroutines take turns as
// they like: a sweep may step over the only call at which a bug shows.
const sweeps = 4

// The sweeps see each bug that is planted in the product.
func TestMutants(t *testing.T) {
	needTracer(t)
	for i, m := range mutants() {
		t.Run(m.name, func(t *testing.T) {
			if i >= inProof(i+1, 3) {
				// Not built, but the patch must still fit.
				if err := writeOverlay(filepath.Join(t.TempDir(), "overlay.json"), m.patches); err != nil {
					t.Error(err)
				}
				return
			}
			p := shipped(t)
			if m.pass == "" {
				p.sendmail = buildPatched(t, m.patches, "./cmd/sendmail").sendmail
			} else {
				p.queueRunner = buildPatched(t, m.patches, "./cmd/queue-runner").queueRunner
				p.ahead = buildPatched(t, append(later(), m.patches...), "./cmd/queue-runner").queueRunner
			}
			fired, findings := m.sweep(t, p)
			for n := 1; len(findings) == 0 && n < sweeps; n++ {
				var again int
				again, findings = m.sweep(t, p)
				fired += again
			}
			if len(findings) == 0 {
				t.Fatalf("not seen by %d faults", fired)
			}
			t.Logf("%s: seen after %d faults: %v", t.Name(), fired, findings[0])
		})
	}
}

// sweep sweeps until something is found.
func (m mutant) sweep(t *testing.T, p programs) (fired int, findings []error) {
	var found atomic.Bool
	var c counts
	h := hazards()[m.hazard]
	until := func(fired bool, err error) (bool, error) {
		if err != nil {
			found.Store(true)
		}
		return fired, err
	}
	if m.pass == "" {
		s := submissions()[0]
		grounds := newGrounds(t, workers(), h.fs, prepareSpool)
		return Sweep{Workers: workers()}.Run(func(worker, at int) (bool, error) {
			if found.Load() {
				return false, nil
			}
			g := grounds[worker]
			return until(trySendmail(p, s, g, Fault{At: at, Kind: h.kind(g)}, &c))
		})
	}
	all := scenarios()
	sc := all[slices.IndexFunc(all, func(sc scenario) bool { return sc.name == m.pass })]
	stages := newStages(t, p, sc, workers(), h.fs)
	return Sweep{Workers: workers()}.Run(func(worker, at int) (bool, error) {
		if found.Load() {
			return false, nil
		}
		tr := &trial{stage: stages[worker], programs: p, counts: &c}
		err := tr.run(Fault{At: at, Kind: h.kind(tr.ground)})
		return until(tr.fired(), err)
	})
}

// Where the file system knows no unnamed files, sendmail is as safe.
func TestSendmailWithNamedFiles(t *testing.T) {
	needTracer(t)
	p := buildPatched(t, []patch{
		{file: dropFile, old: `unix.Openat(int(w.dir.f.Fd()), ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, fileMode)`, new: "-1, error(unix.EOPNOTSUPP)"},
		{file: dropFile, old: "return &Dir{path: path, f: f}, nil", new: "return &Dir{path: path, f: f, syncNames: true}, nil"},
	}, "./cmd/sendmail")
	for _, h := range hazards()[:3] {
		t.Run(h.String(), func(t *testing.T) { sweepSendmail(t, p, submissions()[0], h) })
	}
}
