package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/listen"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtpd"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/internal/submitd"
	"github.com/postrider/postrider/spool/drop"
)

// Limits of what clients may have of us.
const (
	maxConnections = 1000 // of all together; others wait to be let in
	maxOfOne       = 250  // connections of one client; more are turned away
	// maxMessages is how many messages of one client are received at once. Each may need memory for its header.
	maxMessages = 16
	// messageWait is how long a client waits for his turn.
	messageWait = time.Minute
	// idleTimeout is how long a client may keep the submission socket without a message.
	idleTimeout = time.Minute
	// lastWords is how long what is under way may take when we are told to end.
	lastWords = 10 * time.Second
)

// An intake takes messages from programs that hand them in over a connection.
type intake struct {
	host     submit.Host
	dir      *drop.Dir
	peers    []netip.Prefix
	open     bool         // unix sockets are for all users; else for our own, root, and those who are named
	users    map[int]bool // who may speak SMTP at a unix socket, as configured; nil: nothing is
	logf     func(format string, args ...any)
	clients  *shares
	messages *shares
	taken    atomic.Int64 // messages
	wake     func()       // called after each; nil if there is nobody to be told
}

// newIntake opens the spool. service says that who started us did so for the whole machine, whoever we are.
func newIntake(cfg *config.Config, service bool, logf func(format string, args ...any)) (*intake, error) {
	table, err := listen.Of(cfg)
	if err != nil {
		return nil, err
	}
	dir, err := drop.Open(filepath.Join(cfg.Spool, "drop"))
	if err != nil {
		return nil, err
	}
	in := &intake{
		host: cfg.Host(), dir: dir, peers: table.Peers, open: service || isService(), logf: logf, clients: newShares(maxOfOne), messages: newShares(maxMessages),
	}
	if in.users, err = userIDs(table.Users); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return in, nil
}

// isService reports whether we run as one of those who deliver for the whole machine. Others have a spool of their own, and
// a relay that knows them by their password: their mail is nobody else's.
func isService() bool {
	u, ok := submit.UserNamed(account)
	return os.Geteuid() == 0 || ok && os.Geteuid() == u.UID
}

// userIDs looks up who may connect: root always.
func userIDs(names []string) (map[int]bool, error) {
	if names == nil {
		return nil, nil
	}
	ids := map[int]bool{0: true}
	for _, name := range names {
		uid, err := strconv.Atoi(name)
		if err != nil {
			u, ok := submit.UserNamed(name)
			if !ok {
				return nil, &config.Error{File: "listen.users", Text: fmt.Sprintf("there is no user %q", name)}
			}
			uid = u.UID
		}
		ids[uid] = true
	}
	return ids, nil
}

// serve lets clients in until ctx is done. It returns when the last one is out.
func (in *intake) serve(ctx context.Context, doors []door) error {
	var clients sync.WaitGroup
	entry := make(chan struct{}, maxConnections)
	for _, d := range doors {
		clients.Go(func() {
			for ctx.Err() == nil {
				in.accept(ctx, d, &clients, entry)
			}
		})
	}
	<-ctx.Done()
	err := closeDoors(doors)
	clients.Wait()
	return errors.Join(err, in.dir.Close())
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
		in.attend(ctx, conn, d.submission)
	})
}

// attend serves a client, and closes the connection. No client can do more than end his own.
func (in *intake) attend(ctx context.Context, conn net.Conn, submission bool) {
	defer func() {
		if v := recover(); v != nil {
			in.logf("internal error: %v\n%s", v, debug.Stack())
		}
	}()
	var late *time.Timer
	stop := context.AfterFunc(ctx, func() { late = time.AfterFunc(lastWords, func() { conn.Close() }) })
	defer func() {
		if !stop() && late != nil {
			late.Stop()
		}
		conn.Close() // what is worth knowing, the client has been told
	}()
	who, err := identify(conn)
	if err != nil {
		in.logf("%s: %v", conn.LocalAddr(), err)
		return
	}
	if !in.clients.take(ctx, who.key(), 0) {
		in.logf("%s: more than %d connections", who.key(), maxOfOne)
		_ = in.turnAway(conn, submission) // and if he has gone before, so much the better
		return
	}
	defer in.clients.give(who.key())
	if submission {
		err = in.submission(ctx, conn, who)
	} else {
		err = in.smtp(ctx, conn, who, false)
	}
	if err != nil && ctx.Err() == nil {
		in.logf("%s at %s: %v", who.key(), conn.LocalAddr(), err)
	}
}

// turnAway tells a client to come again.
func (in *intake) turnAway(conn smtpd.Conn, submission bool) error {
	if submission {
		return tell(conn, "75 4.3.2 - too many submissions at once\n")
	}
	return tell(conn, "421 4.7.0 %s Too many connections\r\n", in.host.Name)
}

// tell says why there is nothing more to be said. Whoever does not listen hears the end.
func tell(conn smtpd.Conn, format string, args ...any) error {
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(conn, format, args...)
	return err
}

// A client is who is at the other end of a connection.
type client struct {
	uid  int        // of a unix socket; -1 if unknown
	addr netip.Addr // of a TCP connection
	here bool       // which comes from this host
}

// key tells clients apart.
func (c client) key() string {
	if c.uid >= 0 {
		return fmt.Sprintf("userid %d", c.uid)
	}
	return c.addr.String()
}

// literal returns the address as it stands in mail (RFC 5321 section 4.1.3); "" if there is none.
func (c client) literal() string {
	switch {
	case !c.addr.IsValid():
		return ""
	case c.addr.Is4():
		return "[" + c.addr.String() + "]"
	}
	return "[IPv6:" + c.addr.String() + "]"
}

func identify(conn net.Conn) (client, error) {
	switch conn := conn.(type) {
	case *net.UnixConn:
		uid, err := submitd.PeerUID(conn)
		return client{uid: uid, here: true}, err
	case *net.TCPConn:
		remote, local := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(), conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		return client{uid: -1, addr: remote.WithZone(""), here: remote.IsLoopback() || remote == local}, nil
	}
	return client{}, fmt.Errorf("%T is no connection of a client", conn)
}

// maySpeak reports whether a client may hand in mail by SMTP: to anybody, and without a password.
func (in *intake) maySpeak(c client) bool {
	if c.uid >= 0 {
		return in.users[c.uid] || in.users == nil && in.mayHandIn(c)
	}
	for _, p := range in.peers {
		if p.Contains(c.addr) {
			return true
		}
	}
	return c.here
}

// mayHandIn reports whether a client may use the submission socket.
func (in *intake) mayHandIn(c client) bool {
	return in.open || c.uid == 0 || c.uid == os.Geteuid() || in.users[c.uid]
}

// author is who is named in a message that does not say it.
func (c client) author() submit.Author {
	if c.uid >= 0 {
		return submit.AuthorOf(c.uid)
	}
	return submit.Author{Login: "postmaster"}
}

// submission answers one client of the submission socket.
func (in *intake) submission(ctx context.Context, conn submitd.Conn, who client) error {
	if !in.mayHandIn(who) {
		in.logf("%s may not hand in mail here", who.key())
		return tell(conn, "77 5.7.1 - this is the queue of user %d, for his own mail\n", os.Geteuid())
	}
	s := submitd.Server{
		UID: who.uid, Author: who.author, Idle: idleTimeout, Now: drop.Now,
		Submit: func(s submit.Submission) (mail.ID, error) { return in.take(ctx, who, s) },
	}
	return s.Serve(conn)
}

// smtp has a session with one client.
func (in *intake) smtp(ctx context.Context, conn smtpd.Conn, who client, pipe bool) error {
	if !in.maySpeak(who) {
		in.logf("%s may not send mail here", who.key())
		return tell(conn, "554 5.7.1 %s takes no mail from you\r\n", in.host.Name)
	}
	return smtpd.Serve(ctx, conn, smtpd.Options{
		Hostname: in.host.Name, MaxSize: in.host.MaxSize, Client: who.literal(), Pipe: pipe, Now: time.Now,
		Submit: func(s submit.Submission) (mail.ID, error) {
			s.Arrival, s.Submitter, s.Author = drop.Now(), who.uid, who.author
			id, err := in.take(ctx, who, s)
			if err == nil && who.uid < 0 {
				in.logf("%s: client=%s, protocol=%s", id, s.Client, s.Protocol)
			}
			return id, err
		},
	})
}

var errTooMany = submit.Refuse(submit.ExitTemporary, mail.EnhancedCode{4, 3, 2}, "too many messages at once")

// take has a message written into the spool, when it is the client's turn.
func (in *intake) take(ctx context.Context, who client, s submit.Submission) (mail.ID, error) {
	if !in.messages.take(ctx, who.key(), messageWait) {
		return "", errTooMany
	}
	defer in.messages.give(who.key())
	p, err := in.host.Receive(in.dir, s)
	if err != nil {
		return "", err
	}
	id, err := p.Commit()
	if err != nil {
		return "", err
	}
	in.taken.Add(1)
	if in.wake != nil {
		in.wake()
	}
	return id, nil
}
