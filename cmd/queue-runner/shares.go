package main

import (
	"context"
	"sync"
	"time"
)

// shares keeps one client from having what all want.
type shares struct {
	each int // for one client

	mu sync.Mutex
	of map[string]*share
}

// A share is what one client has. It is forgotten when nobody has or wants any of it.
type share struct {
	taken   chan struct{} // one for each
	holders int           // and those who wait
}

func newShares(each int) *shares { return &shares{each: each, of: map[string]*share{}} }

// take takes one for a client, and waits for it if he has all that he may. It reports whether it did; then give follows.
func (s *shares) take(ctx context.Context, who string, wait time.Duration) bool {
	s.mu.Lock()
	own := s.of[who]
	if own == nil {
		own = &share{taken: make(chan struct{}, s.each)}
		s.of[who] = own
	}
	own.holders++
	s.mu.Unlock()
	select {
	case own.taken <- struct{}{}:
		return true
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	select {
	case own.taken <- struct{}{}:
		return true
	case <-ctx.Done():
		s.leave(who, own)
		return false
	}
}

func (s *shares) give(who string) {
	s.mu.Lock()
	own := s.of[who]
	s.mu.Unlock()
	<-own.taken
	s.leave(who, own)
}

func (s *shares) leave(who string, own *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if own.holders--; own.holders == 0 {
		delete(s.of, who)
	}
}
