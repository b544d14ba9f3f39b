package dns

import (
	"context"
	"sync"
	"time"
)

// maxCached is how many answers are kept.
const maxCached = 8192

// A cache keeps answers for as long as they are believed, and lets those wait who ask what is just being asked.
type cache struct {
	mu      sync.Mutex
	entries map[question]*entry
}

// An entry is complete once done is closed.
type entry struct {
	done    chan struct{}
	answer  answer
	err     error
	expires time.Time
}

// get returns what is known, or asks.
func (c *cache) get(ctx context.Context, q question, now func() time.Time, ask func() (answer, error)) (answer, error) {
	for {
		e, ours := c.entry(q, now())
		if ours {
			e.answer, e.err = ask()
			e.expires = now().Add(e.answer.ttl)
			if !e.counts() {
				c.drop(q, e)
			}
			close(e.done)
			return e.answer, e.err
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			return answer{}, ctx.Err()
		}
		if e.counts() {
			return e.answer, e.err
		}
	}
}

// entry returns the entry for a question, and whether the caller has to complete it.
func (c *cache) entry(q question, now time.Time) (e *entry, ours bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[q]; e != nil && !e.over(now) {
		return e, false
	}
	if len(c.entries) >= maxCached {
		c.makeRoom(now)
	}
	e = &entry{done: make(chan struct{})}
	c.entries[q] = e
	return e, true
}

// counts reports whether an entry that is complete is an answer for others, too. It is none if whoever asked was interrupted.
func (e *entry) counts() bool { return e.err == nil || KindOf(e.err) != 0 }

// over reports whether an entry is complete and not believed any more.
func (e *entry) over(now time.Time) bool {
	select {
	case <-e.done:
		return !now.Before(e.expires)
	default:
		return false
	}
}

// makeRoom drops what is over, or, if nothing is, an eighth of all.
func (c *cache) makeRoom(now time.Time) {
	for q, e := range c.entries {
		if e.over(now) {
			delete(c.entries, q)
		}
	}
	for q := range c.entries {
		if len(c.entries) < maxCached-maxCached/8 {
			return
		}
		delete(c.entries, q) // those who wait for it have it already
	}
}

func (c *cache) drop(q question, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[q] == e {
		delete(c.entries, q)
	}
}
