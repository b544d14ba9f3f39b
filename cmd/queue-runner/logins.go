package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/listen"
	"github.com/postrider/postrider/internal/login"
	"golang.org/x/sys/unix"
)

// secrets are the files that a daemon needs for STARTTLS and AUTH. They are read when they are needed: who renews a
// certificate, or adds a user, has nothing else to do.
type secrets struct {
	certificate, key string
	logins           string
}

func secretsOf(t listen.Table) secrets { return secrets{t.Certificate, t.Key, t.Logins} }

// check reads the files, to have it known at once if that cannot be done.
func (s *secrets) check() error {
	var errs []error
	if s.certificate != "" {
		_, err := s.pair()
		errs = append(errs, err)
	}
	if s.logins != "" {
		_, err := s.readLogins()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *secrets) pair() (tls.Certificate, error) {
	chain, err := os.ReadFile(s.certificate)
	if err != nil {
		return tls.Certificate{}, &config.Error{File: "listen.certificate", Text: err.Error()}
	}
	key, err := config.ReadSecret(s.key)
	if err != nil {
		return tls.Certificate{}, &config.Error{File: "listen.key", Text: err.Error()}
	}
	pair, err := tls.X509KeyPair(chain, []byte(key))
	if err != nil {
		return pair, &config.Error{File: "listen.certificate", Text: fmt.Sprintf("%s and %s: %v", s.certificate, s.key, err)}
	}
	return pair, nil
}

func (s *secrets) readLogins() (login.Users, error) {
	text, err := config.ReadSecret(s.logins)
	if err != nil {
		return nil, &config.Error{File: "listen.logins", Text: err.Error()}
	}
	users, err := login.Parse(text)
	if err != nil {
		return nil, &config.Error{File: "listen.logins", Text: fmt.Sprintf("%s: %v", s.logins, err)}
	}
	return users, nil
}

// secure makes a connection one that nobody else can read.
func (s *secrets) secure(ctx context.Context, conn net.Conn) (*tls.Conn, error) {
	pair, err := s.pair()
	if err != nil {
		return nil, err
	}
	c := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}})
	return c, c.HandshakeContext(ctx)
}

// printLogin reads a password, and writes the line for the file of those who may log in.
func printLogin(name string, stdin *os.File, stdout, stderr io.Writer) error {
	password, err := askPassword(stdin, stderr)
	if err != nil {
		return fmt.Errorf("read the password: %w", err)
	}
	line, err := login.Line(name, password)
	if err != nil {
		return usageError{fmt.Errorf("login: %w", err)}
	}
	_, err = fmt.Fprintln(stdout, line)
	return err
}

// askPassword reads a line. At a terminal it is not shown.
func askPassword(stdin *os.File, stderr io.Writer) (password string, err error) {
	fd := int(stdin.Fd())
	if terminal, errTerminal := unix.IoctlGetTermios(fd, unix.TCGETS); errTerminal == nil {
		show, errHide := hideTyping(fd, *terminal)
		if errHide != nil {
			return "", errHide
		}
		defer func() {
			_, errPrint := fmt.Fprintln(stderr)
			err = errors.Join(err, show(), errPrint)
		}()
		if _, err := fmt.Fprint(stderr, "Password: "); err != nil {
			return "", err
		}
	}
	const most = 64 << 10
	line, err := bufio.NewReader(io.LimitReader(stdin, most)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// hideTyping has a terminal show nothing of what is typed until show is called, or a signal ends us.
func hideTyping(fd int, terminal unix.Termios) (show func() error, err error) {
	restore := func() error { return unix.IoctlSetTermios(fd, unix.TCSETSF, &terminal) }
	ending := make(chan os.Signal, 1)
	unwatch := func() {
		signal.Stop(ending)
		close(ending)
	}
	signal.Notify(ending, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	go func() {
		s, ok := <-ending
		if !ok {
			return
		}
		_ = restore() // there is nobody left to be told
		signal.Reset(s)
		_ = unix.Kill(unix.Getpid(), s.(unix.Signal))
	}()
	silent := terminal
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &silent); err != nil {
		unwatch()
		return nil, err
	}
	return func() error {
		unwatch()
		return restore()
	}, nil
}
