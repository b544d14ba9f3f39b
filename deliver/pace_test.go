package deliver

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

func TestPace(t *testing.T) {
	const (
		success = -1 - iota
		trouble
	)
	type step struct {
		after time.Duration
		what  int // success, trouble, or how many sessions there are when another is refused
		times int
		want  int // sessions allowed then
	}
	for _, tt := range []struct {
		name  string
		most  int
		steps []step
	}{
		{"grows by one with each success", 10, []step{{0, success, 1, 2}, {0, success, 2, 4}, {0, success, 4, 8}}},
		{"up to its limit", 4, []step{{0, success, 100, 4}}},
		{"one is one", 1, []step{{0, success, 100, 1}, {0, trouble, 1, 1}}},
		{"trouble halves it", 20, []step{{0, success, 15, 16}, {0, trouble, 1, 8}, {time.Second, trouble, 1, 4}, {time.Second, trouble, 1, 2}}},
		{"but leaves one", 20, []step{{0, trouble, 1, 1}, {time.Second, trouble, 1, 1}}},
		{"sessions that fail together are one trouble", 20, []step{{0, success, 15, 16}, {0, trouble, 9, 8}, {time.Second / 2, trouble, 1, 8}}},
		{"no growth until it is calm", 20, []step{{0, success, 15, 16}, {0, trouble, 1, 8}, {9 * time.Second, success, 99, 8}}},
		{"then one for each round", 20, []step{
			{0, success, 15, 16}, {0, trouble, 1, 8}, {10 * time.Second, success, 7, 8}, {0, success, 1, 9}, {0, success, 9, 10},
		}},
		{"a session refused beside five", 20, []step{{0, success, 9, 10}, {0, 5, 1, 5}, {10 * time.Second, success, 5, 6}}},
		{"several refused", 20, []step{{0, success, 9, 10}, {0, 5, 1, 5}, {0, 6, 1, 5}}},
		{"a clock that was set back does not keep it calm for ever", 20, []step{{0, trouble, 1, 1}, {-24 * time.Hour, success, 1, 2}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, now := newPace(tt.most), time.Unix(1e9, 0)
			if p.now != 1 {
				t.Errorf("begins with %d sessions", p.now)
			}
			for i, s := range tt.steps {
				now = now.Add(s.after)
				for range s.times {
					switch s.what {
					case success:
						p.success(now)
					case trouble:
						p.trouble(now)
					default:
						p.refused(s.what, now)
					}
				}
				if p.now != s.want {
					t.Fatalf("step %d: %d sessions, want %d", i, p.now, s.want)
				}
			}
		})
	}
}

// A server that is overloaded by more than six sessions gets about as many, most of the time.
func TestPaceFindsWhatAServerBears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bears = 6
		p := newPace(50)
		var sum, rounds int
		for start := time.Now(); time.Since(start) < time.Hour; rounds++ {
			time.Sleep(time.Second) // a round
			for range p.now {
				p.success(time.Now())
			}
			if p.now > bears {
				p.trouble(time.Now())
			}
			sum += p.now
		}
		if mean := float64(sum) / float64(rounds); mean < bears/2 || mean > bears {
			t.Errorf("%.1f sessions on average", mean)
		}
	})
}

// A pass that is to end and waits for its sessions has nothing else to look at.
func TestPassThatStopsDoesNotSpin(t *testing.T) {
	p := &pass{stopping: true, more: true, overdue: map[string]mail.Result{"a": {}}}
	if wait := p.pause(time.Time{}); wait == 0 {
		t.Error("no pause")
	}
}
