package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	hour := Rate{100, time.Hour}
	type step struct {
		at    time.Duration
		spend int
		left  int           // after that
		again time.Duration // if nothing is left
	}
	for _, tt := range []struct {
		name  string
		rate  Rate
		steps []step
	}{
		{"all at once, and then none for an hour and a sixtieth", hour, []step{
			{0, 100, 0, 61 * time.Minute}, {60 * time.Minute, 0, 0, 61 * time.Minute}, {61 * time.Minute, 0, 100, 0},
		}},
		{"what is old makes room bit by bit", hour, []step{
			{0, 40, 60, 0}, {30 * time.Minute, 60, 0, 61 * time.Minute}, {61 * time.Minute, 40, 0, 91 * time.Minute}, {91 * time.Minute, 0, 60, 0},
		}},
		{"what comes within a sixtieth is forgotten together", hour, []step{
			{0, 50, 50, 0}, {59 * time.Second, 50, 0, 61 * time.Minute}, {61 * time.Minute, 0, 100, 0},
		}},
		{"what was not spent after all", hour, []step{{0, 40, 60, 0}, {time.Minute, 60, 0, 61 * time.Minute}, {2 * time.Minute, -70, 70, 0}}},
		{"what was not spent may have been that of long ago", hour, []step{
			{0, 50, 50, 0}, {10 * time.Minute, 50, 0, 61 * time.Minute}, {20 * time.Minute, -60, 60, 0}, {61 * time.Minute, 0, 60, 0}, {71 * time.Minute, 0, 100, 0},
		}},
		{"no more is given back than was spent", hour, []step{{0, 10, 90, 0}, {0, -50, 100, 0}}},
		{"the clock is set back: what was spent counts as of now", hour, []step{
			{10 * time.Hour, 100, 0, 11*time.Hour + time.Minute}, {time.Hour, 0, 0, 2*time.Hour + time.Minute}, {2*time.Hour + time.Minute, 0, 100, 0},
		}},
		{"two a second", Rate{2, time.Second}, []step{
			{0, 1, 1, 0}, {time.Second / 2, 1, 0, time.Second + time.Second/60}, {time.Second + time.Second/60, 1, 0, time.Second/2 + time.Second + time.Second/60},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var w window
			start := time.Unix(1e9, 0)
			for i, s := range tt.steps {
				now := start.Add(s.at)
				w = w.settle(tt.rate, now).spend(tt.rate, s.spend, now)
				left, again := w.left(tt.rate)
				if left != s.left || left == 0 && !again.Equal(start.Add(s.again)) {
					t.Fatalf("step %d: %d left, again after %v; want %d, %v", i, left, again.Sub(start), s.left, s.again)
				}
			}
		})
	}
}

// However it is spent, no span has more than the rate, and the record stays small.
func TestRateIsNeverExceeded(t *testing.T) {
	r := Rate{100, time.Hour}
	var w window
	var spent []time.Time
	now := time.Unix(1e9, 0)
	for i := range 5000 {
		now = now.Add(time.Duration(i%7*i%11) * time.Second)
		w = w.settle(r, now)
		left, _ := w.left(r)
		n := min(left, i%5)
		w = w.spend(r, n, now)
		for range n {
			spent = append(spent, now)
		}
		if len(w) > rateSteps+2 {
			t.Fatalf("%d slots", len(w))
		}
	}
	for i := r.Count; i < len(spent); i++ {
		if spent[i].Sub(spent[i-r.Count]) < r.Per {
			t.Fatalf("101 between %v and %v", spent[i-r.Count], spent[i])
		}
	}
	if len(spent) < 500 {
		t.Errorf("only %d were spent", len(spent))
	}
}

func (w *world) left(s *Spool, r Rate) int {
	w.t.Helper()
	n, _, err := s.Allowance("relay", r, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) spend(s *Spool, r Rate, n int) {
	w.t.Helper()
	if err := s.Spend("relay", r, n, w.now); err != nil {
		w.t.Fatal(err)
	}
}

// What was spent is known after a crash, and after the loss of the index.
func TestRateOutlivesTheIndex(t *testing.T) {
	w := newWorld(t)
	r := Rate{100, time.Hour}
	s := w.acquire()
	w.want("at first", w.left(s, r), 100)
	w.end(s)
	if _, err := os.Stat(filepath.Join(w.dir, "state.db")); err == nil {
		t.Error("state.db was made for nothing")
	}
	s = w.acquire()
	w.spend(s, r, 70)
	w.spend(s, r, -10)
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.dir, "index.db")); err != nil {
		t.Fatal(err)
	}
	s = w.acquire()
	w.want("left", w.left(s, r), 40)
	w.end(s)
}

func TestDamagedStateIsSetAside(t *testing.T) {
	w := newWorld(t)
	r := Rate{100, time.Hour}
	if err := os.WriteFile(filepath.Join(w.dir, "state.db"), []byte(strings.Repeat("garbage\n", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	s := w.acquire()
	w.want("left", w.left(s, r), 100)
	w.spend(s, r, 1)
	w.want("left after one", w.left(s, r), 99)
	w.end(s)
	w.want("bad/", w.files("bad"), []string{"state.db"})
	if !strings.HasPrefix(w.log[0], "ALARM: state.db is damaged") {
		t.Errorf("log %q", w.log)
	}
}

// Whatever page of it is damaged or missing, mail goes on: at worst all rates begin anew.
func TestDamagedStateStopsNothing(t *testing.T) {
	w := newWorld(t)
	r := Rate{100, time.Hour}
	s := w.acquire()
	for range 5 {
		w.spend(s, r, 1)
	}
	w.end(s)
	whole, err := os.ReadFile(filepath.Join(w.dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	damage := map[string][]byte{"empty": nil, "one octet": whole[:1], "half": whole[:len(whole)/2]}
	for at := 0; at < len(whole); at += page {
		torn := slices.Clone(whole)
		copy(torn[at:], strings.Repeat("garbage\n", page/8))
		damage[fmt.Sprintf("page %d", at/page)] = torn
		zero := slices.Clone(whole)
		clear(zero[at:min(at+page, len(zero))])
		damage[fmt.Sprintf("page %d of zeros", at/page)] = zero
	}
	for name, content := range damage {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if err := os.WriteFile(filepath.Join(w.dir, "state.db"), content, 0o600); err != nil {
				t.Fatal(err)
			}
			s := w.acquire()
			left := w.left(s, r)
			w.spend(s, r, 1)
			w.want("left after one", w.left(s, r), left-1)
			w.end(s)
			s = w.acquire()
			w.want("left, to the next pass", w.left(s, r), left-1)
			w.end(s)
		})
	}
}

// After the clock was set back, passes one after another wait for one span together and not each for its own.
func TestRateWhenTheClockIsSetBack(t *testing.T) {
	w := newWorld(t)
	r := Rate{100, time.Hour}
	s := w.acquire()
	w.spend(s, r, 100)
	w.end(s)
	w.now = w.now.Add(-24 * time.Hour)
	for range 7 {
		s = w.acquire()
		w.want("left", w.left(s, r), 0)
		w.end(s)
		w.now = w.now.Add(10 * time.Minute)
	}
	s = w.acquire()
	w.want("left after a span", w.left(s, r), 100)
	w.end(s)
}
