package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtpd"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/internal/submitd"
	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// Limits of what clients may have of us.
const (
	maxConnections = 1000 // of all together; others wait to be let in
	// shareOfOne is which part of them one client may have; more are turned away.
	shareOfOne = 4
	// shareOfUnknown is which part of them those have together who must log in.
	shareOfUnknown = 2
	// maxMessages is how many messages of one client are received at once. Each may need memory for its header.
	maxMessages = 16
	// atOnce is how many messages of one session are committed at the same time, if the client sends them so.
	atOnce = 8
	// messageWait is how long a client waits for his turn.
	messageWait = time.Minute
	// idleTimeout is how long a client may keep the submission socket without a message.
	idleTimeout = time.Minute
	// lastWords is how long what is under way may take when we are told to end.
	lastWords = 8 * time.Second
)

// An intake takes messages from programs that hand them in over a connection.
type intake struct {
	guests
	host     submit.Host
	dir      *drop.Dir
	places   int // for connections
	logf     func(format string, args ...any)
	clients  *shares
	messages *shares
	unknown  *shares      // connections of those who have to log in: they leave room for others
	taken    atomic.Int64 // messages
	wake     func()       // called after each, one at a time; nil if there is nobody to be told
	waking   sync.Mutex

	service   bool                   // as newIntake was told
	successor atomic.Pointer[intake] // who attends to new clients after a change of the configuration; nil: nobody else
	helper    *steward               // for the pass that follows
}

// newIntake opens the spool. service says that who started us did so for the whole machine, whoever we are.
func newIntake(cfg *config.Config, service bool, logf func(format string, args ...any)) (*intake, error) {
	dir, err := drop.Open(filepath.Join(cfg.Spool, "drop"))
	if err != nil {
		return nil, err
	}
	g, err := newGuests(cfg, service)
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	n := places()
	return &intake{
		guests: g, service: service, host: cfg.Host(), dir: dir, places: n, logf: logf,
		clients: newShares(max(1, n/shareOfOne)), messages: newShares(maxMessages), unknown: newShares(max(1, n/shareOfUnknown)),
	}, nil
}

// change has those who come from now on treated as another configuration says.
func (in *intake) change(cfg *config.Config) error {
	g, err := newGuests(cfg, in.service)
	if err != nil {
		return err
	}
	if err := g.check(); err != nil {
		return err
	}
	in.successor.Store(&intake{
		guests: g, host: cfg.Host(), dir: in.dir, places: in.places, logf: in.logf, clients: in.clients, messages: in.messages, unknown: in.unknown,
	})
	return nil
}

// serve lets clients in until ctx is done, also by one more door, to which it may succeed. It returns when the last one is out.
func (in *intake) serve(ctx context.Context, doors []door, succession <-chan door) error {
	var clients sync.WaitGroup
	entry := make(chan struct{}, in.places)
	open := func(d door) {
		clients.Go(func() {
			for ctx.Err() == nil {
				in.accept(ctx, d, &clients, entry)
			}
		})
	}
	for _, d := range doors {
		open(d)
	}
	select {
	case d := <-succession:
		doors = append(doors, d)
		open(d)
	case <-ctx.Done():
	}
	<-ctx.Done()
	err := closeDoors(doors)
	clients.Wait()
	return errors.Join(err, in.dir.Close())
}

// places returns how many connections there may be. Each, and its message, needs a descriptor; and passes need some.
func places() int {
	const share = 4
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return maxConnections
	}
	return int(max(1, min(maxConnections, limit.Cur/share)))
}

// accept lets one client in.
func (in *intake) accept(ctx context.Context, d door, clients *sync.WaitGroup, entry chan struct{}) {
	select {
	case entry <- struct{}{}:
	case <-ctx.Done():
		return
	}
	conn, err := d.Accept()
	if err != nil {
		<-entry
		if ctx.Err() == nil {
			// No descriptors, no memory: it passes.
			in.logf("accept at %s: %v", d.Addr(), err)
			sleep(ctx, time.Second)
		}
		return
	}
	clients.Go(func() {
		defer func() { <-entry }()
		host := in
		if next := in.successor.Load(); next != nil {
			host = next
		}
		host.attend(ctx, conn, d.submission)
	})
}

// attend serves a client, and closes the connection. No client can do more than end his own.
func (in *intake) attend(ctx context.Context, conn net.Conn, submission bool) {
	defer func() {
		if v := recover(); v != nil {
			in.logf("internal error: %v\n%s", v, debug.Stack())
		}
	}()
	defer conn.Close() // what is worth knowing, the client has been told
	over := make(chan struct{})
	defer close(over)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(lastWords):
			conn.Close()
		case <-over:
		}
	})
	defer stop()
	who, err := identify(conn)
	if err != nil {
		in.logf("%s: %v", conn.LocalAddr(), err)
		_ = in.turnAway(conn, submission, "who you are is not known here")
		return
	}
	if !in.clients.take(ctx, who.key(), 0) {
		in.logf("%s: more than %d connections", who, in.clients.each)
		_ = in.turnAway(conn, submission, "too many connections") // and if he has gone before, so much the better
		return
	}
	defer in.clients.give(who.key())
	if submission {
		err = in.submission(ctx, conn, who)
	} else {
		err = in.smtp(ctx, conn, who)
	}
	if err != nil && ctx.Err() == nil {
		in.logf("%s at %s: %v", who, conn.LocalAddr(), err)
	}
}

// turnAway tells a client to come again.
func (in *intake) turnAway(conn smtpd.Conn, submission bool, why string) error {
	if submission {
		return tell(conn, "75 4.3.2 - %s\n", why)
	}
	return tell(conn, "421 4.3.2 %s %s\r\n", in.host.Name, why)
}

// refuse tells a client that he may not send mail.
func refuse(conn smtpd.Conn, hostname string) error {
	return tell(conn, "554 5.7.1 %s takes no mail from you\r\n", hostname)
}

// tell says why there is nothing more to be said. Whoever does not listen hears the end.
func tell(conn smtpd.Conn, format string, args ...any) error {
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(conn, format, args...)
	return err
}

// submission answers one client of the submission socket.
func (in *intake) submission(ctx context.Context, conn submitd.Conn, who client) error {
	if !in.mayHandIn(who) {
		in.logf("%s may not hand in mail here", who)
		return tell(conn, "77 5.7.1 - this is the queue of user %d, for his own mail\n", os.Geteuid())
	}
	s := submitd.Server{
		UID: who.uid, Author: who.author, Idle: idleTimeout, Now: drop.Now,
		Submit: func(s submit.Submission) (mail.ID, error) {
			p, err := in.host.Receive(in.dir, s)
			if err != nil {
				return "", err
			}
			return in.commit(p)
		},
		Turn: func(serve func() error) error {
			if !in.messages.take(ctx, who.key(), messageWait) {
				return errTooMany
			}
			defer in.messages.give(who.key())
			return serve()
		},
	}
	return s.Serve(ctx, conn)
}

// smtp has a session with one client, if he may, or may log in.
func (in *intake) smtp(ctx context.Context, conn net.Conn, who client) error {
	known := in.maySpeak(who)
	switch {
	case known:
	case in.logins == "":
		in.logf("%s may not send mail here", who)
		return refuse(conn, in.host.Name)
	case !in.unknown.take(ctx, "unknown", 0):
		return in.turnAway(conn, false, "too many connections")
	default:
		defer in.unknown.give("unknown")
	}
	o := in.options(ctx, &who)
	o.Stranger, o.Private = !known, who.uid >= 0
	if in.logins != "" {
		o.Users = in.readLogins
		o.LoggedIn = func(name string, err error) {
			if who.login = name; err != nil {
				in.logf("%s tried to log in: %v", who, err)
			}
		}
	}
	if in.certificate != "" && !o.Private {
		o.StartTLS = func() (smtpd.Conn, error) {
			secured, err := in.secure(ctx, conn)
			if err != nil {
				return nil, err
			}
			conn = secured
			return secured, nil
		}
	}
	err := smtpd.Serve(ctx, conn, o)
	if secured, ok := conn.(*tls.Conn); ok {
		_ = secured.CloseWrite() // who has gone does not need to be told
	}
	return err
}

// options returns those of a session. Who the client is may become known meanwhile.
func (in *intake) options(ctx context.Context, who *client) smtpd.Options {
	return smtpd.Options{
		Hostname: in.host.Name, MaxSize: in.host.MaxSize, Client: who.literal(), AtOnce: atOnce, Now: time.Now,
		Local: who.local(), Urgent: who.urgent(os.Geteuid()),
		Submit: func(s submit.Submission) (smtpd.Pending, error) {
			if !in.messages.take(ctx, who.key(), messageWait) {
				return nil, errTooMany
			}
			s.Arrival, s.Submitter, s.Author = drop.Now(), who.uid, who.author
			p, err := in.host.Receive(in.dir, s)
			if err != nil {
				in.messages.give(who.key())
				return nil, err
			}
			return &received{p, in, *who, s}, nil
		},
	}
}

// A received is a message of a session, which takes its turn until it is in the queue.
type received struct {
	*submit.Pending
	in  *intake
	who client
	s   submit.Submission
}

func (r *received) Commit() (id mail.ID, err error) {
	defer r.in.messages.give(r.who.key())
	defer func() {
		// It may run beside the session, where nobody else would keep it from ending all of them.
		if v := recover(); v != nil {
			r.in.logf("internal error: %v\n%s", v, debug.Stack())
			err = submit.NotQueued(errors.New("internal error"))
		}
	}()
	id, err = r.in.commit(r.Pending)
	switch {
	case err != nil:
	case r.who.login != "":
		r.in.logf("%s: client=%s, protocol=%s, login=%s", id, r.s.Client, r.s.Protocol, r.who.login)
	case r.who.uid < 0:
		r.in.logf("%s: client=%s, protocol=%s", id, r.s.Client, r.s.Protocol)
	}
	return id, err
}

func (r *received) Abort() error {
	defer r.in.messages.give(r.who.key())
	return r.Pending.Abort()
}

var errTooMany = submit.Refuse(submit.ExitTemporary, mail.EnhancedCode{4, 3, 2}, "too many messages at once")

// commit puts a message into the queue, and tells who waits for one.
func (in *intake) commit(p *submit.Pending) (mail.ID, error) {
	id, err := p.Commit()
	if err != nil {
		return "", err
	}
	in.taken.Add(1)
	if in.wake != nil {
		in.waking.Lock()
		defer in.waking.Unlock()
		in.wake()
	}
	return id, nil
}
