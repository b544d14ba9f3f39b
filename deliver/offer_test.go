package deliver

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// A belated stop comes while a sitting opens a message.
type belated struct {
	context.Context // is done
	s               *sitting
}

func (b belated) Err() error {
	if len(b.s.trials) == 0 {
		return nil
	}
	return b.Context.Err()
}

// A session that waits for a message does not get one that was being opened when the pass was told to stop.
func TestStopWhileAMessageIsOpened(t *testing.T) {
	q := submitted(t, filepath.Join(t.TempDir(), "spool"), "a")
	claims, err := q.Claim(time.Now(), spool.Wanted{Hop: "aliases", Most: spool.Most{Messages: 1}, Again: func(mail.ID, int) time.Time { return time.Now() }})
	if err != nil {
		t.Fatal(err)
	}
	done, stop := context.WithCancel(t.Context())
	stop()
	for range 100 {
		s := &sitting{worker: &worker{clerk: clerk{spool: q}}, attempts: make(chan mail.Attempt, 1), trials: map[*trial]bool{}, quiet: make(chan struct{}, 1)}
		s.soft = belated{done, s}
		if left := s.offer(claims[0]); len(left) != 1 || len(s.attempts) != 0 || len(s.trials) != 0 {
			t.Fatalf("%d claims are left, %d were handed over and %d are open; want one left", len(left), len(s.attempts), len(s.trials))
		}
	}
	if err := q.Abandon(); err != nil {
		t.Fatal(err)
	}
}
