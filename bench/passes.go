package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// rounds is how often a pass or a listing is measured.
const rounds = 5

// pass measures the delivery of messages that wait in the index, as after an outage, and of new ones.
func pass(b *bench) error {
	const n = 2000
	var fromIndex, fromDrop []usage
	connections := int64(0)
	for i := range rounds {
		u, c, err := b.afterOutage(fmt.Sprintf("pass-%d", i), n)
		if err != nil {
			return err
		}
		fromIndex = append(fromIndex, u)
		connections = c.Connections
		if u, err = b.newMail(fmt.Sprintf("new-%d", i), n); err != nil {
			return err
		}
		fromDrop = append(fromDrop, u)
	}
	cpu, wall := medians(fromIndex)
	b.row("from index to committed result, messages/s", n/wall.Seconds(), atLeast(5000))
	b.row("CPU of queue-runner for one message, µs", microseconds(cpu)/n, atMost(150))
	b.row("connections", float64(connections), nil)
	cpu, wall = medians(fromDrop)
	b.row("taking them in as well, messages/s", n/wall.Seconds(), nil)
	b.row("CPU for one message then, µs", microseconds(cpu)/n, nil)
	return nil
}

func medians(all []usage) (cpu, wall time.Duration) {
	var cpus, walls []time.Duration
	for _, u := range all {
		cpus, walls = append(cpus, u.cpu), append(walls, u.wall)
	}
	return median(cpus), median(walls)
}

// soon is a schedule that makes what was deferred due again at once.
const (
	soonWait = time.Second
	soon     = "[retry]\nfirst = \"1s\"\nfactor = 1.0\nmax_wait = \"1s\"\n"
)

// afterOutage queues n messages while the smarthost is down, starts it, and measures the pass that delivers them.
func (b *bench) afterOutage(name string, n int) (u usage, c counts, err error) {
	port, err := freePort()
	if err != nil {
		return u, c, err
	}
	q, err := b.newQueue(name, fmt.Sprintf("relay = \"smtp://127.0.0.1:%d\"\n%s", port, soon))
	if err != nil {
		return u, c, err
	}
	if err := q.fill(n); err != nil {
		return u, c, err
	}
	if _, err := q.pass(); err != nil {
		return u, c, err
	}
	time.Sleep(2 * soonWait) // until they are due
	u, c, err = q.deliver(port, n, manner{})
	return u, c, errors.Join(err, os.RemoveAll(q.dir))
}

// newMail measures a pass over n messages that nobody has taken in.
func (b *bench) newMail(name string, n int) (u usage, err error) {
	port, err := freePort()
	if err != nil {
		return u, err
	}
	q, err := b.newQueue(name, fmt.Sprintf("relay = \"smtp://127.0.0.1:%d\"\n", port))
	if err != nil {
		return u, err
	}
	if err := q.fill(n); err != nil {
		return u, err
	}
	u, _, err = q.deliver(port, n, manner{})
	return u, errors.Join(err, os.RemoveAll(q.dir))
}

// deliver makes the pass that brings n messages to a sink, and checks that it did.
func (q *queue) deliver(port, n int, m manner) (u usage, c counts, err error) {
	s, err := startSink(port, m)
	if err != nil {
		return u, c, err
	}
	u, err = q.pass()
	c, errStop := s.stop()
	if err == nil && errStop == nil && c.Messages != int64(n) {
		err = fmt.Errorf("%d of %d messages arrived", c.Messages, n)
	}
	return u, c, errors.Join(err, errStop)
}

// idle measures passes that find nothing due, in a small and in a large queue.
func idle(b *bench) error {
	var cpus []time.Duration
	for _, n := range []int{100, 100_000} {
		q, err := b.waiting(n)
		if err != nil {
			return err
		}
		before, err := q.logged()
		if err != nil {
			return err
		}
		var all []usage
		for range 4 * rounds {
			u, err := q.pass()
			if err != nil {
				return err
			}
			all = append(all, u)
		}
		after, err := q.logged()
		if err != nil {
			return err
		}
		if after != before {
			return errors.New("something was due")
		}
		cpu, wall := medians(all)
		cpus = append(cpus, cpu)
		b.row(fmt.Sprintf("%d queued, CPU, ms", n), milliseconds(cpu), atMost(50))
		b.row(fmt.Sprintf("%d queued, wall, ms", n), milliseconds(wall), nil)
	}
	b.row("CPU, large queue / small queue", float64(cpus[1])/float64(cpus[0]), atMost(2))
	return nil
}

// dead measures passes over a large queue for a smarthost that hangs up on everybody.
func dead(b *bench) error {
	const n = 100_000
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close() // it ends with us anyway
	var connections atomic.Int64
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			conn.Close() // this is all it does
		}
	}()
	q, err := b.newQueue("dead", fmt.Sprintf("relay = \"smtp://%s\"\n%s", l.Addr(), soon))
	if err != nil {
		return err
	}
	if err := q.fill(n); err != nil {
		return err
	}
	if _, err := q.pass(); err != nil {
		return err
	}
	var all []usage
	most := int64(0)
	for range rounds {
		time.Sleep(2 * soonWait) // until the smarthost may be tried again
		connections.Store(0)
		u, err := q.pass()
		if err != nil {
			return err
		}
		all = append(all, u)
		most = max(most, connections.Load())
		if connections.Load() == 0 {
			return errors.New("the smarthost was not tried")
		}
	}
	cpu, wall := medians(all)
	b.row("connections in one pass", float64(most), atMost(1))
	b.row("wall, ms", milliseconds(wall), atMost(200))
	b.row("CPU, ms", milliseconds(cpu), nil)
	return os.RemoveAll(q.dir)
}
