package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/route"
	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/internal/submitd"
	"github.com/postrider/postrider/spool"
)

// A runner makes passes as one configuration says.
type runner struct {
	dir   string
	spool spool.Options
	pass  deliver.Options
}

// unrouted is the next hop of recipients that no route leads to. No transport has this name.
const unrouted = "?"

func newRunner(cfg *config.Config, s *steward, logf func(format string, args ...any), trace func(relay, line string)) (*runner, error) {
	table := routeTable(cfg)
	names := newLookup(cfg, logf)
	local := dispatcher{cfg, names}
	transports, err := openTransports(local, s, logf, trace)
	if err != nil {
		return nil, err
	}
	return &runner{
		dir: cfg.Spool,
		spool: spool.Options{
			Route: func(sender, rcpt mail.Path, attempts int, expanded bool) string {
				if !expanded && names.concerns(rcpt) {
					return aliases
				}
				if _, ok := programOf(rcpt); ok && expanded && names.concerns(rcpt) {
					return programs
				}
				hop, err := table.NextHop(sender, rcpt, attempts)
				if err != nil {
					return unrouted
				}
				return hop.String()
			},
			ByTLS: func(name string, wish mail.TLSWish) string {
				hop, err := route.ParseHop(name)
				if err != nil || cfg.Transports[hop.Transport].Scheme != "mx" {
					return name
				}
				hop.TLS = wish
				return hop.String()
			},
			Routes:   fingerprint(cfg),
			FailOver: failOver(cfg.Routes),
			Schedule: schedule(cfg),
			Reschedule: func(w spool.Waiting, now time.Time) time.Time {
				return retryAt(cfg, w.Hop).Reschedule(w, now)
			},
			Now:     time.Now,
			MaxWait: longestWait(cfg),
			Logf:    logf,
		},
		pass: deliver.Options{
			Resolve:   resolver(local, s, transports),
			Retry:     deliver.Retry(cfg.Retry),
			Hostname:  cfg.Hostname,
			Rewritten: submitHost(cfg).Rewritten,
			Logf:      logf,
			Now:       time.Now,
		},
	}, nil
}

// resolver returns what finds the way to a next hop.
func resolver(d dispatcher, s *steward, transports map[string]deliver.Transport) func(name string) (deliver.Route, error) {
	return func(name string) (deliver.Route, error) {
		switch name {
		case unrouted:
			return deliver.Route{}, route.ErrNoRoute
		case programs:
			return deliver.Route{Transport: d.programTransport(s)}, nil
		case aliases:
			return deliver.Route{Expander: d.names, Concurrency: 1}, nil
		}
		hop, err := route.ParseHop(name)
		if err != nil {
			return deliver.Route{}, err
		}
		t, ok := transports[hop.Transport]
		if !ok {
			return deliver.Route{}, fmt.Errorf("transport %q is not configured any more", hop.Transport)
		}
		if e, ok := t.(exchangers); ok {
			t = e[hop.TLS]
		}
		c, retry := d.cfg.Transports[hop.Transport], retryAt(d.cfg, name)
		return deliver.Route{
			Transport: t, Domain: hop.Domain, Concurrency: c.Concurrency, Retry: &retry, Rate: spool.Rate(c.Rate), RateName: hop.Transport,
		}, nil
	}
}

// retryAt returns the schedule of a next hop.
func retryAt(cfg *config.Config, name string) deliver.Retry {
	if hop, err := route.ParseHop(name); err == nil {
		if own := cfg.Transports[hop.Transport].Retry; own != (config.Retry{}) {
			return deliver.Retry(own)
		}
	}
	return deliver.Retry(cfg.Retry)
}

// schedule changes with whatever decides when mail is tried again.
func schedule(cfg *config.Config) string {
	all := fmt.Sprint(cfg.Retry)
	for _, name := range slices.Sorted(maps.Keys(cfg.Transports)) {
		all += fmt.Sprint(" ", name, cfg.Transports[name].Retry)
	}
	return all
}

// longestWait returns how long anything waits at most. Next hops have waits of their own, of less than an hour.
func longestWait(cfg *config.Config) time.Duration {
	longest := max(cfg.Retry.MaxWait, time.Hour)
	for _, t := range cfg.Transports {
		longest = max(longest, t.Retry.MaxWait)
		if t.Rate.Count > 0 {
			longest = max(longest, 2*t.Rate.Per)
		}
	}
	return longest
}

// failOver returns the least number of attempts after which mail may go another way; 0 if it never does.
func failOver(routes []config.Route) int {
	least := 0
	for _, r := range routes {
		if r.MinAttempts > 0 && (least == 0 || r.MinAttempts < least) {
			least = r.MinAttempts
		}
	}
	return least
}

// submitHost is the machine as submissions see it.
func submitHost(cfg *config.Config) *submit.Host {
	return &submit.Host{Name: cfg.Hostname, Domain: cfg.Domain, Local: cfg.LocalDomains, Rewrite: cfg.Rewrite, ForceFrom: cfg.ForceFrom, MaxSize: cfg.MaxMessageSize}
}

// fingerprint changes with whatever decides where mail goes, and how.
func fingerprint(cfg *config.Config) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%v\n%v\n%v\n%v\n%v\n%v", cfg.Routes, cfg.Transports, cfg.LocalDomains, cfg.Domain, cfg.Aliases, cfg.AliasUser))
	return hex.EncodeToString(sum[:])
}

// once makes one pass. If another one is running, it has been woken, and that is as good; with wait, once then returns
// when that one has tried what this one is for. made reports whether a pass was made here.
func (r *runner) once(wait bool) (made bool, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s, err := r.acquire(ctx, wait)
	for s != nil {
		made = true
		if err := r.run(ctx, s); err != nil {
			return made, err
		}
		// A wake-up that came after the pass last looked would be seen by nobody.
		if ctx.Err() != nil || !spool.Woken(r.dir) {
			return made, nil
		}
		r.spool.Only = nil // it is for whatever is due
		s, err = r.acquire(ctx, false)
	}
	return made, err
}

// acquire takes the spool for a pass. It returns none if another one is running, which has been told what this one is for.
func (r *runner) acquire(ctx context.Context, wait bool) (*spool.Spool, error) {
	s, err := spool.Acquire(r.dir, r.spool)
	if !errors.Is(err, spool.ErrHeld) || r.spool.Only == nil {
		return s, ignoreHeld(err)
	}
	if err := spool.MakeDue(r.dir, *r.spool.Only, time.Now()); err != nil {
		return nil, err
	}
	since := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		// Once more: the wake-up was left before there was a reason, and the other pass may have ended since.
		if s, err = spool.Acquire(r.dir, r.spool); !errors.Is(err, spool.ErrHeld) || !wait {
			return s, ignoreHeld(err)
		}
		sleep(ctx, pause)
		outstanding, err := spool.Outstanding(r.dir, *r.spool.Only, since)
		if err != nil || !outstanding || ctx.Err() != nil {
			return nil, err
		}
	}
}

// Bounds for looking at what another pass has done.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

func ignoreHeld(err error) error {
	if errors.Is(err, spool.ErrHeld) {
		return nil
	}
	return err
}

// renewal is how long a daemon has the spool without giving it back for a moment, so that its index is compacted and
// compared like that of separate passes.
const renewal = time.Hour

// heldRetry is how often a daemon tries to get the spool from a pass that was running when it started.
const heldRetry = time.Second

// attended makes passes, and takes messages that come in by the doors, until it is told to stop.
func (r *runner) attended(doors []door, interval time.Duration, again *reloader) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	cfg := again.cfg
	if err := spool.Create(cfg.Spool); err != nil {
		return err
	}
	service := slices.ContainsFunc(doors, func(d door) bool { return d.inherited })
	path := filepath.Join(cfg.Spool, submitd.Socket)
	doors, later, err := withSubmission(doors, path)
	if err != nil {
		// There are other ways in.
		r.spool.Logf("no submission socket: %v", err)
	}
	in, err := newIntake(cfg, service, r.spool.Logf)
	if err == nil {
		err = in.check()
	}
	if err != nil {
		return errors.Join(err, closeDoors(doors))
	}
	served, succession := make(chan error, 1), make(chan door)
	go func() { served <- in.serve(ctx, doors, succession) }()
	if later {
		go succeed(ctx, path, succession, r.spool.Logf)
	}
	again.intake = in
	changed := make(chan *runner)
	go again.follow(ctx, hangup, changed)
	err = r.daemon(ctx, interval, changed)
	stop()
	return errors.Join(err, <-served)
}

// daemon makes passes until ctx is done. After a change they are made as the new runner does.
func (r *runner) daemon(ctx context.Context, interval time.Duration, changed <-chan *runner) error {
	for ctx.Err() == nil {
		r.pass.Stay, r.pass.Renew = interval, renewal
		s, err := spool.Acquire(r.dir, r.spool)
		if errors.Is(err, spool.ErrHeld) {
			select {
			case r = <-changed:
			case <-time.After(heldRetry):
			case <-ctx.Done():
			}
			continue
		}
		if err != nil {
			return err
		}
		next, err := r.runWith(ctx, s, changed)
		if err != nil {
			return err
		}
		if next != nil {
			r = next
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// run makes a pass and gives the spool back.
func (r *runner) run(ctx context.Context, s *spool.Spool) error {
	watched, cancel := context.WithCancel(ctx)
	defer cancel()
	o := r.pass
	o.Wake = spool.Watch(watched, r.dir)
	if err := deliver.Pass(ctx, s, o); err != nil {
		return errors.Join(err, s.Abandon())
	}
	return s.End()
}
