package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtpd"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/internal/submitd"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// accept serves the one client of the submission socket who is at standard input, as inetd and systemd arrange it, and has
// what he handed in delivered.
func accept(cfg *config.Config, stderr io.Writer) error {
	conn, err := net.FileConn(os.Stdin)
	if err != nil {
		return usageError{fmt.Errorf("standard input is no connection: %w", err)}
	}
	if _, ok := conn.(*net.UnixConn); !ok {
		return errors.Join(usageError{errors.New("standard input is no connection at a unix socket")}, conn.Close())
	}
	in, err := openIntake(cfg, true, stderr)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	in.attend(ctx, conn, true)
	stop()
	return in.deliver(cfg)
}

// openIntake opens the spool, which is made if it is missing.
func openIntake(cfg *config.Config, service bool, stderr io.Writer) (*intake, error) {
	helper, err := startSteward(cfg)
	if err != nil {
		return nil, err
	}
	if err := becomeOwner(cfg.Spool); err != nil {
		return nil, err
	}
	log, _, err := openLog(cfg.Log, stderr)
	if err != nil {
		return nil, err
	}
	in, err := newIntake(cfg, service, log)
	if errors.Is(err, fs.ErrNotExist) {
		if err = spool.Create(cfg.Spool); err == nil {
			in, err = newIntake(cfg, service, log)
		}
	}
	if err != nil {
		return nil, err
	}
	in.helper = helper
	return in, nil
}

// deliver makes a pass for what was taken, if the configuration wants that. A pass that is running is told of it.
func (in *intake) deliver(cfg *config.Config) error {
	err := in.dir.Close()
	if in.taken.Load() == 0 || cfg.Delivery != config.DeliverBackground {
		return err
	}
	// Who waits for the end of the connection need not wait for the pass.
	if errHangUp := hangUp(); errHangUp != nil {
		return errors.Join(err, errHangUp)
	}
	r, errRunner := newRunner(cfg, in.helper, in.logf, nil)
	if errRunner == nil {
		_, errRunner = r.once(false)
	}
	return errors.Join(err, errRunner)
}

// hangUp lets go of standard input and output.
func hangUp() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Dup3(int(null.Fd()), stdin, 0), unix.Dup3(int(null.Fd()), stdout, 0), null.Close())
}

// speaking is what the command line says of SMTP on standard input.
type speaking struct {
	through  int    // a descriptor over which messages are handed on; -1 for none
	delivery string // as the configuration has it
}

// smtpOnStdin speaks SMTP on standard input and output. Messages go the first of these ways that there is: over a
// descriptor; into the spool; over the submission socket.
func smtpOnStdin(cfg *config.Config, how speaking, stderr io.Writer) error {
	who, connected, err := atStdin()
	if err != nil {
		return err
	}
	ours, _, errOwner := owner(cfg.Spool)
	o := smtpd.Options{
		Hostname: cfg.Hostname, MaxSize: cfg.MaxMessageSize, Client: who.literal(), Pipe: !connected, Now: time.Now,
		Local: who.local(), Urgent: errOwner == nil && who.urgent(ours),
	}
	if connected {
		g, err := newGuests(cfg, true)
		if err != nil {
			return err
		}
		// Whatever the way is that we have, it is not there for others.
		if !g.maySpeak(who) {
			return errors.Join(fmt.Errorf("%s may not send mail here", who), refuse(&stdio{}, cfg.Hostname))
		}
	}
	if how.through >= 0 {
		unix.CloseOnExec(how.through)
		conn := os.NewFile(uintptr(how.through), "the way to sendmail")
		defer conn.Close() // whatever was sent has been answered
		if err := seeAsOwner(cfg.Spool); err != nil {
			return err
		}
		c := submitd.NewClient(submitd.Patient{ReadWriter: conn})
		o.Submit = func(s submit.Submission) (smtpd.Pending, error) { return c.Receive(submitd.Request{Submission: s}) }
		return converse(o)
	}
	if drop.Check(filepath.Join(cfg.Spool, "drop")) != nil && submitd.May(cfg.Spool) {
		o.Submit = func(s submit.Submission) (smtpd.Pending, error) { return handOver(cfg.Spool, s) }
		o.AtOnce = atOnce
		return converse(o)
	}
	in, err := openIntake(cfg, true, stderr)
	if err != nil {
		return err
	}
	if how.delivery != "" {
		cfg.Delivery = how.delivery
	}
	if connected {
		err := converse(in.options(context.Background(), &who))
		return errors.Join(err, in.deliver(cfg))
	}
	if cfg.Delivery == config.DeliverBackground && isOwner(cfg.Spool) {
		in.wake = func() { wake(cfg) }
	}
	o = in.options(context.Background(), &who)
	o.Pipe = true
	return errors.Join(converse(o), in.dir.Close())
}

func isOwner(spool string) bool {
	uid, _, err := owner(spool)
	return err == nil && uid == os.Geteuid()
}

// wake has delivered what is in the spool, by a process of its own: the program that we talk to waits for our end, and that
// must not be the end of a pass. Nothing depends on it: the next pass, whoever starts it, takes everything along.
func wake(cfg *config.Config) {
	// The wake-up comes first: a pass that ends while we look will see it after it has let go of the lock.
	if err := spool.Wake(cfg.Spool); err != nil || spool.Running(cfg.Spool) {
		return
	}
	self, err := os.Executable()
	if err != nil {
		return
	}
	cmd := exec.Command(self)
	if cfg.File != "" {
		cmd.Args = append(cmd.Args, "-C", cfg.File)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err == nil {
		go cmd.Wait() // or, as long as the session lasts, what has ended is not quite gone
	}
}

// converse has the session.
func converse(o smtpd.Options) error {
	return smtpd.Serve(context.Background(), &stdio{}, o)
}

// handOver hands a message to the server of a spool. A connection for each: a session may last, and wait, for hours.
func handOver(spool string, s submit.Submission) (smtpd.Pending, error) {
	conn, err := submitd.Dial(spool)
	if err != nil {
		return nil, submit.NotQueued(err)
	}
	p, err := submitd.NewClient(conn).Receive(submitd.Request{Submission: s})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &handedOver{p, conn}, nil
}

// A handedOver is a message with a connection of its own, which ends with it.
type handedOver struct {
	*submitd.Pending
	conn *os.File
}

func (h *handedOver) Commit() (mail.ID, error) {
	defer h.conn.Close() // whatever was sent has been answered
	return h.Pending.Commit()
}

func (h *handedOver) Abort() error {
	defer h.conn.Close()
	return h.Pending.Abort()
}

// atStdin returns who is at standard input: whoever connected it, if it is a connection to a server's address, and
// otherwise whoever runs us. There are programs that use sockets for pipes: those have no address.
func atStdin() (who client, connected bool, err error) {
	remote, err := unix.Getpeername(stdin)
	if err != nil {
		return client{uid: os.Getuid(), here: true}, false, nil
	}
	local, err := unix.Getsockname(stdin)
	if err != nil {
		return client{}, true, os.NewSyscallError("getsockname", err)
	}
	switch local := local.(type) {
	case *unix.SockaddrInet4, *unix.SockaddrInet6:
		return overTCP(sockAddress(remote), sockAddress(local)), true, nil
	case *unix.SockaddrUnix:
		if local.Name == "" {
			return client{uid: os.Getuid(), here: true}, false, nil
		}
		uid, err := submitd.PeerOf(stdin)
		return client{uid: uid, here: true}, true, err
	}
	return client{}, true, usageError{fmt.Errorf("standard input is a connection of a kind that we do not know, %T", local)}
}

func sockAddress(sa unix.Sockaddr) netip.Addr {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr)
	}
	return netip.Addr{}
}

// stdio is standard input and output as a connection. They may be anything, and be shared with other programs, so they
// stay as they are: before a call that could block, it waits until that does not, or the deadline comes.
type stdio struct{ read, write time.Time }

func (s *stdio) Read(p []byte) (int, error) {
	if err := await(stdin, unix.POLLIN, s.read); err != nil {
		return 0, err
	}
	return os.Stdin.Read(p)
}

func (s *stdio) Write(p []byte) (int, error) {
	if err := await(stdout, unix.POLLOUT, s.write); err != nil {
		return 0, err
	}
	return os.Stdout.Write(p)
}

func (s *stdio) SetReadDeadline(t time.Time) error  { s.read = t; return nil }
func (s *stdio) SetWriteDeadline(t time.Time) error { s.write = t; return nil }

// Descriptors. To ask the files of package os for theirs would make them block.
const (
	stdin  = 0
	stdout = 1
)

// await waits for an event.
func await(fd int32, event int16, deadline time.Time) error {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: fd, Events: event}}, int(left.Milliseconds())+1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
