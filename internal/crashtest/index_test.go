package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A damage is something that happens to index.db between two passes.
type damage struct {
	name  string
	cases func(size int) int // how many variants there are for an index of so many octets
	do    func(path string, n int, index []byte) error
	// helpless is how many variants may end in passes that fail, saying why, until somebody deletes the index: one bit
	// can turn its version into a newer one, which must be refused.
	helpless int
}

// damages returns all of them; the last one takes minutes and is left to the proof.
func damages() []damage {
	one := func(int) int { return 1 }
	cut := inProof(512, 4096)
	return []damage{
		{"deleted", one, func(path string, _ int, _ []byte) error { return os.Remove(path) }, 0},
		{"empty", one, func(path string, _ int, _ []byte) error { return os.Truncate(path, 0) }, 0},
		{"garbage", one, func(path string, _ int, index []byte) error {
			return os.WriteFile(path, bytes.Repeat([]byte("garbage "), len(index)/8), 0o600)
		}, 0},
		{"truncated", func(size int) int { return size / cut }, func(path string, n int, _ []byte) error {
			return os.Truncate(path, int64(n*cut))
		}, 0},
		{"a page of zeros", func(size int) int { return size / 4096 }, func(path string, n int, index []byte) error {
			damaged := bytes.Clone(index)
			clear(damaged[n*4096 : (n+1)*4096])
			return os.WriteFile(path, damaged, 0o600)
		}, 0},
		{"one bit flipped", func(int) int { return 2000 }, func(path string, n int, index []byte) error {
			random := rand.New(rand.NewPCG(1, uint64(n)))
			damaged := bytes.Clone(index)
			damaged[random.IntN(len(damaged))] ^= 1 << random.IntN(8)
			return os.WriteFile(path, damaged, 0o600)
		}, 4},
	}
}

// Whatever becomes of the index between two passes, nothing is lost, nothing that was delivered before is delivered
// again, and no human is needed: at most one pass fails.
func TestDamagedIndex(t *testing.T) {
	needTracer(t)
	p := shipped(t)
	// What waits for smart.example after the first pass goes through in the second.
	sc := scenario{"", []letter{
		{to: []string{"bob@box.example", "carol@smart.example", "dave@down.example"}},
		{to: []string{"erin@gone.example", "bob@smart.example"}},
		{to: []string{"later@smart.example", "bob@box.example"}},
	}}
	stages := newStages(t, p, sc, workers(), nil)
	for _, st := range stages {
		// Without a server: its mail is deferred.
		if log, err := (&trial{stage: st, programs: p}).plainPass(0); err != nil {
			t.Fatalf("%v: %s", err, log)
		}
		st.tree = nil
		if err := st.save(); err != nil {
			t.Fatal(err)
		}
	}
	all := damages()
	for _, d := range all[:inProof(len(all), len(all)-1)] {
		t.Run(d.name, func(t *testing.T) {
			var c counts
			done, findings := Sweep{Workers: workers()}.Run(func(worker, at int) (bool, error) {
				tr := &trial{stage: stages[worker], programs: p, counts: &c}
				return tr.damaged(d, at-1)
			})
			c.report(t, done, findings)
			if n := c.n["helpless"]; n > d.helpless {
				t.Errorf("%d variants needed a human", n)
			}
		})
	}
}

// damaged makes passes after variant n of the damage. It reports whether there is such a variant.
func (tr *trial) damaged(d damage, n int) (bool, error) {
	if err := tr.reset(); err != nil {
		return false, err
	}
	path := filepath.Join(tr.dir, "spool/index.db")
	index, err := os.ReadFile(path)
	if err != nil || n >= d.cases(len(index)) {
		return false, err
	}
	if err := d.do(path, n, index); err != nil {
		return true, err
	}
	tr.counts.add("trials", 1)
	if err := tr.afterDamage(); err != nil {
		return true, fmt.Errorf("variant %d: %w", n, err)
	}
	return true, nil
}

func (tr *trial) afterDamage() error {
	server, err := tr.serve()
	if err != nil {
		return err
	}
	log, err := tr.passesAfterDamage()
	if err := errors.Join(err, server.Close()); err != nil {
		return err
	}
	tr.later = server.Messages()
	found, err := tr.find()
	if err == nil {
		err = tr.checkFates(found)
	}
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, log)
	}
	return err
}

// passesAfterDamage makes passes until all that can be delivered is, the last one so late that index and files are
// compared, and returns their log. The first that meets the damage may fail.
func (tr *trial) passesAfterDamage() (log string, err error) {
	for _, after := range []time.Duration{0, 10 * time.Minute, 2 * time.Hour} {
		said, err := tr.plainPass(after)
		log += said
		if err != nil && !tr.died {
			tr.died = true
			tr.counts.add("passes that failed", 1)
			said, err = tr.plainPass(after)
			log += said
			if err != nil {
				tr.counts.add("helpless", 1)
				// The second may have set it aside, so that the third would do.
				if err := os.Remove(filepath.Join(tr.dir, "spool/index.db")); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return log, err
				}
				said, err = tr.plainPass(after)
				log += said
			}
		}
		if err != nil {
			return log, fmt.Errorf("%w\n%s", err, log)
		}
	}
	return log, nil
}
