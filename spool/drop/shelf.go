package drop

import (
	"sync"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// A shelf has the large envelopes of the files that are open, and the last one. A message to very many recipients is read for
// each of its next hops, by many who are at it at the same time: one copy will do for them.
type shelf struct {
	mu   sync.Mutex // also held while one is read, which then serves all who want it
	of   map[identity]*shared
	last *shared
}

// An identity tells a file, as it is, from all others: whatever is done to one changes its last time.
type identity struct {
	dev, ino uint64
	size     int64
	changed  unix.Timespec
}

// A shared is an envelope, and the length of its text.
type shared struct {
	identity
	env    *mail.Envelope
	length int
	users  int // who have not put it back
}

// get returns the envelope of a file, which read reads if it is not there. It has to be put back.
func (s *shelf) get(of identity, read func() (*mail.Envelope, int, error)) (*shared, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.of[of]
	if p == nil {
		env, length, err := read()
		if err != nil {
			return nil, err
		}
		p = &shared{identity: of, env: env, length: length}
		if s.of == nil {
			s.of = map[identity]*shared{}
		}
		s.of[of] = p
	}
	p.users++
	if before := s.last; before != p {
		s.last = p
		s.tidy(before)
	}
	return p, nil
}

func (s *shelf) put(p *shared) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.users--
	s.tidy(p)
}

// tidy takes an envelope away that nobody has any more.
func (s *shelf) tidy(p *shared) {
	if p != nil && p.users == 0 && p != s.last {
		delete(s.of, p.identity)
	}
}
