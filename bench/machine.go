package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// A load is what the processors have done since the machine started.
type load struct {
	busy, total time.Duration // of all processors together
	ours        time.Duration // this process and its children
}

// tick is the unit of /proc/stat: USER_HZ, 100 on every architecture that Go runs on.
const tick = time.Second / 100

// processors reads /proc/stat (proc(5)).
func processors() (load, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return load{}, err
	}
	var user, nice, system, idle, wait, hard, soft, steal int64
	first, _, _ := strings.Cut(string(stat), "\n")
	if _, err := fmt.Sscanf(first, "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &wait, &hard, &soft, &steal); err != nil {
		return load{}, fmt.Errorf("/proc/stat: %w", err)
	}
	busy := user + nice + system + hard + soft + steal
	l := load{busy: time.Duration(busy) * tick, total: time.Duration(busy+idle+wait) * tick}
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		if err := syscall.Getrusage(who, &r); err != nil {
			return load{}, err
		}
		l.ours += time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return l, nil
}

// foreignSince returns the share of the machine, in percent, that others used.
func (l load) foreignSince(before load) float64 {
	busy, total, ours := l.busy-before.busy, l.total-before.total, l.ours-before.ours
	if total <= 0 {
		return 0
	}
	return max(0, 100*float64(busy-ours)/float64(total))
}
