package crashtest

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
)

// A pass with a fault, then passes without until nothing changes any more: whatever happened, every recipient has met
// his fate in the end, once, and nobody had to clean up.
func TestPass(t *testing.T) {
	needTracer(t)
	p := shipped(t)
	all := scenarios()
	for n, sc := range all {
		for i, h := range hazards()[:inProof(len(hazards()), 3)] {
			step := passStep(i, n >= len(all)-2)
			if step == 0 {
				continue
			}
			t.Run(sc.name+"/"+h.String(), func(t *testing.T) {
				stages := newStages(t, p, sc, workers(), h.fs)
				var c counts
				fired, findings := Sweep{Step: step, Workers: workers()}.Run(func(worker, at int) (bool, error) {
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
				if n > inProof(400, 10) {
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
			fired, findings := Sweep{Step: inProof(7, 150), Workers: workers()}.Run(func(worker, at int) (bool, error) {
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

// passStep returns how many calls lie between the trials of hazard i; 0 means no trial. Nothing is left out where a pass
// is killed or the power goes, and where every call fails once in the scenarios that have everything in them.
func passStep(i int, everything bool) int {
	switch {
	case i < 2 || i == 2 && everything:
		return inProof(1, 60)
	case i == 2:
		return inProof(3, 60)
	case everything:
		return 11
	}
	return 0
}
