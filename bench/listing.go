package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// listing measures mailq on a medium and on a large queue.
func listing(b *bench) error {
	for _, m := range []struct {
		n          int
		first, all *bar
	}{
		{10_000, nil, atMost(60)},
		{100_000, atMost(30), atMost(600)},
	} {
		q, err := b.waiting(m.n)
		if err != nil {
			return err
		}
		var first, all []time.Duration
		for range rounds {
			f, a, err := list(b.command(q.config, "mailq"), m.n)
			if err != nil {
				return err
			}
			first, all = append(first, f), append(all, a)
		}
		b.row(fmt.Sprintf("%d queued, first message shown after, ms", m.n), milliseconds(median(first)), m.first)
		b.row(fmt.Sprintf("%d queued, all, ms", m.n), milliseconds(median(all)), m.all)
	}
	return nil
}

// list runs mailq, reads what it prints, and returns when the first message and when everything was there.
func list(cmd *exec.Cmd, n int) (first, all time.Duration, err error) {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	lines := 0
	r := bufio.NewReaderSize(out, 64<<10)
	for {
		_, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, 0, errors.Join(err, cmd.Wait())
		}
		if lines++; lines == 2 { // the first is the heading
			first = time.Since(start)
		}
	}
	if err := cmd.Wait(); err != nil {
		return 0, 0, err
	}
	if lines < 2*n {
		return 0, 0, fmt.Errorf("mailq printed %d lines for %d messages", lines, n)
	}
	return first, time.Since(start), nil
}
