package crashtest

import (
	"fmt"
	"sync"
)

// A Trial runs a program with a fault at its call number at and judges what is left. It reports whether the fault
// fired; an error is a finding, or a failure of the harness itself. Trials of different workers run at the same time.
type Trial func(worker, at int) (fired bool, err error)

// A Sweep is a series of trials, at the calls 1, 1+Step, 1+2·Step, ... until the program ends before the fault is due.
type Sweep struct {
	Step    int // 0 means 1: every call
	Workers int // trials at once, numbered from 0; 0 means 1
}

// ends is how many trials must see the program end before the fault: the number of calls differs a little from run
// to run.
const ends = 3

// Run runs the sweep. It returns how many faults fired and the findings of all trials.
func (s Sweep) Run(trial Trial) (fired int, findings []error) {
	var mu sync.Mutex
	next, unfired := 1, 0
	take := func() (at int, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		at = next
		next += max(s.Step, 1)
		return at, unfired < ends
	}
	give := func(at int, hit bool, err error) {
		mu.Lock()
		defer mu.Unlock()
		if hit {
			fired++
		} else {
			unfired++
		}
		if err != nil {
			findings = append(findings, fmt.Errorf("call %d: %w", at, err))
		}
	}
	var group sync.WaitGroup
	for worker := range max(s.Workers, 1) {
		group.Go(func() {
			for at, ok := take(); ok; at, ok = take() {
				hit, err := trial(worker, at)
				give(at, hit, err)
			}
		})
	}
	group.Wait()
	return fired, findings
}
