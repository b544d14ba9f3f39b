package deliver_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// counts returns how many recipients it has got, and how many sessions there were and are.
func (s *server) counts() (got, opened, now int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got), s.opened, s.now
}

// A daemon keeps a session for a while: mail that comes meanwhile goes the same way, and later mail by a new one.
func TestIdleSessionIsKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &server{}
		w.servers["a.example"] = s
		w.during(func(wake chan<- struct{}) {
			for i, pause := range []time.Duration{time.Second, 4 * time.Second, 6 * time.Second, time.Second} {
				w.submit("ann@example.org", fmt.Sprintf("u%d@a.example", i))
				wake <- struct{}{}
				synctest.Wait()
				got, _, _ := s.counts()
				w.want("delivered", got, i+1)
				time.Sleep(pause)
				synctest.Wait()
			}
			_, opened, now := s.counts()
			w.want("sessions", opened, 2)
			w.want("open", now, 1)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			_, _, now = s.counts()
			w.want("open at last", now, 0)
		})
	})
}

// An idle session does not keep a pass from ending, nor another next hop from having its place.
func TestIdleSessionsMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var hops []*server
		for i := range 200 {
			s := &server{}
			hops = append(hops, s)
			w.servers[fmt.Sprintf("h%d.example", i)] = s
			w.submit("ann@example.org", fmt.Sprintf("bob@h%d.example", i))
		}
		w.during(func(wake chan<- struct{}) {
			start := time.Now()
			for {
				synctest.Wait()
				n := 0
				for _, s := range hops {
					got, _, _ := s.counts()
					n += got
				}
				if n == len(hops) {
					break
				}
				time.Sleep(time.Millisecond)
			}
			if got := time.Since(start); got > time.Second {
				t.Errorf("200 next hops took %v", got)
			}
		})
		for i, s := range hops {
			_, _, now := s.counts()
			w.want(fmt.Sprintf("sessions of %d left open", i), now, 0)
		}
	})
}
