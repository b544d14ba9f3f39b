package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/internal/submitd"
	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// speakSMTP has SMTP spoken at standard input and output, by queue-runner, which gets no more rights than the caller has.
// If those are enough, or there is nothing but the submission socket, we are done. If we may write into the spool and the
// caller may not, we stay, and take what it hands us in the protocol of the submission socket: what has rights is then
// what takes messages anyway, and not what reads commands.
func (o *options) speakSMTP(stdin, stdout *os.File) error {
	cfg, err := config.Load(o.configFile())
	if err != nil {
		return err
	}
	door, err := o.enter(cfg)
	if err != nil {
		return err
	}
	o.verbose = false // the session has the output
	args := append(o.configArgs(), "smtp")
	spool, ours := door.(direct)
	switch how := o.when(cfg); {
	case !ours || trusted() && how == 'b':
		return become("queue-runner", append(args, "--delivery", config.DeliverBackground)...)
	case trusted() && how == 'q':
		return become("queue-runner", append(args, "--delivery", config.DeliverQueue)...)
	}
	defer spool.close() // nothing is written through it
	conn, theirs, err := connection()
	if err != nil {
		return cannotRun("queue-runner", err)
	}
	speaker, err := startWith([]*os.File{stdin, stdout, os.Stderr, theirs}, "queue-runner", append(args, "--through", "3")...)
	if err := errors.Join(err, theirs.Close()); err != nil {
		return errors.Join(cannotRun("queue-runner", err), conn.Close())
	}
	// What is to end us ends it. We end when it has: not between a message and the word that we have it.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM)
	go func() {
		for s := range signals {
			_ = speaker.Signal(s) // it has ended by itself
		}
	}()
	uid := os.Getuid()
	server := submitd.Server{
		UID: uid, Author: func() submit.Author { return submit.AuthorOf(uid) }, Now: drop.Now,
		Submit: func(s submit.Submission) (mail.ID, error) { return o.submit(cfg, spool, s) },
	}
	err = errors.Join(server.Serve(context.Background(), submitd.Patient{ReadWriter: conn}), conn.Close())
	state, errWait := speaker.Wait()
	if err := errors.Join(err, errWait); err != nil {
		return submit.NotQueued(err)
	}
	return ended(state)
}

// submit takes a message of the session.
func (o *options) submit(cfg *config.Config, spool direct, s submit.Submission) (mail.ID, error) {
	p, err := spool.receive(s)
	if err != nil {
		return "", err
	}
	id, err := p.Commit()
	if err == nil {
		o.wake(cfg, id, nil)
	}
	return id, err
}

// connection returns both ends of one.
func connection() (ours, theirs *os.File, err error) {
	fd, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fd[0]), "connection"), os.NewFile(uintptr(fd[1]), "connection"), nil
}

// endedWith is the status of a program that has said itself what there was to be said.
type endedWith int

func (e endedWith) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func ended(state *os.ProcessState) error {
	switch code := state.ExitCode(); code {
	case 0:
		return nil
	case -1: // a signal
		return endedWith(submit.ExitTemporary)
	default:
		return endedWith(code)
	}
}
