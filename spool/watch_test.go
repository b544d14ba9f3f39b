package spool

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// The kernel tells of what comes. No poll does it here: while a bubble waits for something outside of it, its clock stands
// still.
func TestWatchIsToldByTheKernel(t *testing.T) {
	over := make(chan struct{}) // closed when all have had enough time together
	defer time.AfterFunc(time.Minute, func() { close(over) }).Stop()
	for _, tt := range []struct {
		name  string
		begin func(w *world) (end func()) // what comes comes with its end
	}{
		{"a submission", func(w *world) func() {
			return func() { w.submit("bob@a.example") }
		}},
		{"a file that gets its name when it is complete", func(w *world) func() {
			unnamed := filepath.Join(w.dir, "bad", "70000000001")
			w.must(os.WriteFile(unnamed, nil, 0o600))
			return func() { w.must(os.Rename(unnamed, filepath.Join(w.dir, "drop", "70000000001"))) }
		}},
		{"a file that had its name before it was complete", func(w *world) func() {
			f, err := os.Create(filepath.Join(w.dir, "drop", "70000000001"))
			w.must(err)
			return func() { w.must(f.Close()) }
		}},
		{"a wake-up, and nothing else", func(w *world) func() {
			return func() { w.must(Wake(w.dir)) }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				end := tt.begin(w)
				signal := Watch(t.Context(), w.dir)
				end()
				select {
				case <-signal:
				case <-over:
					t.Error("no signal")
				}
			})
		})
	}
}

// Where the kernel cannot tell, there is a signal every second, whatever came.
func TestWatchWithoutTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signal := Watch(t.Context(), filepath.Join(t.TempDir(), "none")) // cannot be watched
		for start, n := time.Now(), time.Duration(1); n <= 3; n++ {
			<-signal
			if after := time.Since(start); after > n*time.Second {
				t.Errorf("signal %d after %v", n, after)
			}
		}
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}
