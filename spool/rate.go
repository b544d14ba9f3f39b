package spool

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// A Rate is a limit: no more than Count in any span of Per. Its zero value is none.
type Rate struct {
	Count int
	Per   time.Duration
}

// rateSteps is how many parts a span is counted in. What is counted in one of them is forgotten when all of it is old.
const rateSteps = 60

// A window is what was spent of a Rate of late: at most a slot for each part of the span.
type window []slot

// A slot is what was spent from a time on, for a part of the span.
type slot struct {
	at time.Time
	n  int
}

// settle forgets what is old. What lies in the future was written before the clock was set back: nobody knows when it
// was, so it counts as of now, which at worst waits for too long, and never for longer than one span.
func (w window) settle(r Rate, now time.Time) window {
	var kept window
	late := 0
	for _, s := range w {
		switch {
		case s.at.After(now):
			late += s.n
		case now.Before(s.at.Add(r.Per + r.Per/rateSteps)):
			kept = append(kept, s)
		}
	}
	return kept.spend(r, late, now)
}

// ahead reports whether some of it lies in the future.
func (w window) ahead(now time.Time) bool {
	return slices.ContainsFunc(w, func(s slot) bool { return s.at.After(now) })
}

// spend counts n as of now, or gives back -n: of what was counted first, since nobody knows as of when it was, and what
// counts for too short a time would let the rate be exceeded.
func (w window) spend(r Rate, n int, now time.Time) window {
	for ; n < 0 && len(w) > 0; w = w[1:] {
		if w[0].n > -n {
			w[0].n += n
			return w
		}
		n += w[0].n
	}
	if n <= 0 {
		return w
	}
	if len(w) > 0 && now.Sub(w[len(w)-1].at) < r.Per/rateSteps {
		w[len(w)-1].n += n
		return w
	}
	return append(w, slot{now, n})
}

// left returns how many more are allowed, and, if none are, when some will be.
func (w window) left(r Rate) (n int, again time.Time) {
	n = r.Count
	for _, s := range w {
		n -= s.n
	}
	if n > 0 {
		return n, time.Time{}
	}
	// After a change of the rate more than one slot may have to go.
	for _, s := range w {
		if n += s.n; n > 0 {
			return 0, s.at.Add(r.Per + r.Per/rateSteps)
		}
	}
	return 0, again
}

func (w window) encode(key []byte) []byte {
	b := make([]byte, 4, 16+16*len(w))
	b = binary.AppendVarint(b, int64(len(w)))
	for _, s := range w {
		b = appendTime(b, s.at)
		b = binary.AppendVarint(b, int64(s.n))
	}
	return seal(key, b)
}

func decodeWindow(key, value []byte) (w window, err error) {
	r, err := unseal(key, value)
	if err != nil {
		return nil, err
	}
	for n := r.int(); n > 0 && r.err == nil; n-- {
		w = append(w, slot{r.time(), int(r.int())})
	}
	return w, r.err
}

// Allowance returns how many more a rate allows of what has this name, and, if none are allowed, when some will be.
func (s *Spool) Allowance(name string, r Rate, now time.Time) (n int, again time.Time, err error) {
	if err := s.loadRate(name); err != nil {
		return 0, again, err
	}
	if s.rates[name].ahead(now) {
		// Did only this pass know as of when it counts, the next one would have the whole wait begin again.
		if err := s.Spend(name, r, 0, now); err != nil {
			return 0, again, err
		}
	}
	s.rates[name] = s.rates[name].settle(r, now)
	n, again = s.rates[name].left(r)
	return n, again, nil
}

// Spend counts n of what has this name; what turned out not to be spent is given back as -n. When it returns nil, a crash
// does not forget it. After an error it may be counted or not: nobody may have it.
func (s *Spool) Spend(name string, r Rate, n int, now time.Time) error {
	if err := s.loadRate(name); err != nil {
		return err
	}
	w := s.rates[name].settle(r, now).spend(r, n, now)
	key := []byte(name)
	if err := s.updateState(func(x *state) error { return x.rates.Put(key, w.encode(key)) }); err != nil {
		return fmt.Errorf("write state.db: %w", err)
	}
	s.rates[name] = w
	return nil
}

// loadRate reads what was spent before this pass. It is kept from then on: nobody else spends.
func (s *Spool) loadRate(name string) error {
	if _, ok := s.rates[name]; ok {
		return nil
	}
	var w window
	err := s.viewState(func(x *state) error {
		v := x.rates.Get([]byte(name))
		if v == nil {
			return nil
		}
		var err error
		w, err = decodeWindow([]byte(name), v)
		return err
	})
	if err != nil {
		return fmt.Errorf("read state.db: %w", err)
	}
	s.rates[name] = w
	return nil
}
