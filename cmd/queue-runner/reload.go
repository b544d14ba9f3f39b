package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"

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

// runUntil makes a pass, and gives the spool back. If another runner is to take over, it ends the pass as a signal does,
// and returns that one.
func (r *runner) runUntil(ctx context.Context, s *spool.Spool, changed <-chan *runner) (next *runner, err error) {
	ctx, end := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case next = <-changed:
			end()
		case <-ctx.Done():
		}
	})
	err = r.run(ctx, s)
	end()
	waiting.Wait()
	return next, err
}
