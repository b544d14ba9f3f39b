package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/spool"
)

// A reloader reads the configuration again for a daemon that keeps its sockets, its spool and its log.
type reloader struct {
	file    string
	cfg     *config.Config // as it was when the daemon started
	rebuild func(*config.Config) (*runner, error)
	intake  *intake
	logf    func(format string, args ...any)
}

// follow reads the configuration at each signal until ctx is done, and hands on a runner that goes by it. If there is a
// mistake in it, everything stays as it was.
func (l *reloader) follow(ctx context.Context, signals <-chan os.Signal, changed chan<- *runner) {
	for {
		select {
		case <-signals:
		case <-ctx.Done():
			return
		}
		next, err := l.reload()
		if err != nil {
			l.logf("the configuration stays as it was: %v", err)
			continue
		}
		select {
		case changed <- next:
		case <-ctx.Done():
			return
		}
	}
}

func (l *reloader) reload() (*runner, error) {
	cfg, err := config.Load(l.file)
	if err != nil {
		return nil, err
	}
	if cfg.Spool != l.cfg.Spool {
		return nil, fmt.Errorf("%s: the spool is another one, which takes a restart", cfg.File)
	}
	next, err := l.rebuild(cfg)
	if err != nil {
		return nil, err
	}
	if err := l.intake.change(cfg); err != nil {
		return nil, err
	}
	l.logf("configuration read again")
	if !slices.EqualFunc(cfg.Listen.SMTP, l.cfg.Listen.SMTP, func(a, b config.Written) bool { return a.Text == b.Text }) || cfg.Log != l.cfg.Log {
		l.logf("listen.smtp and log stay as they were until a restart")
	}
	return next, nil
}

// runWith makes a pass, and gives the spool back. It hands on every other runner that is to take over from then on, and
// returns the last one.
func (r *runner) runWith(ctx context.Context, s *spool.Spool, changed <-chan *runner) (last *runner, err error) {
	ctx, end := context.WithCancel(ctx)
	changes := make(chan deliver.Change)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		for {
			select {
			case next := <-changed:
				last = next
			case <-ctx.Done():
				return
			}
			select {
			case changes <- deliver.Change{Options: last.pass, Spool: last.spool}:
			case <-ctx.Done():
			}
		}
	})
	r.pass.Change = changes
	err = r.run(ctx, s)
	end()
	waiting.Wait()
	return last, err
}
