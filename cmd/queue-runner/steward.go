package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/postrider/postrider/deliver/users"
	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// A steward is what remains root where mail is delivered as its recipients: a process that starts agents, and does nothing
// else. The one that makes passes, with all that strangers have written in its hands, is the owner of the spool. It tells
// the steward which transport is to be used for which recipient; what that means, and as whom it is done, the steward reads
// in the configuration itself. The agent then is that user, and gets the message from the pass over a socket.
type steward struct{ socket *os.File }

// needsSteward reports whether anything is delivered as somebody.
func needsSteward(cfg *config.Config) bool {
	for _, t := range cfg.Transports {
		if t.RunAs != "" {
			return true
		}
	}
	return cfg.AliasUser != ""
}

// startSteward starts the process, if we are root and there is a need. It ends when we do.
func startSteward(cfg *config.Config) (*steward, error) {
	if os.Geteuid() != 0 || !needsSteward(cfg) {
		return nil, nil
	}
	ours, theirs, err := socketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	cmd := again("steward")
	if cfg.File != "" {
		file, err := filepath.Abs(cfg.File)
		if err != nil {
			return nil, errors.Join(err, ours.Close(), theirs.Close())
		}
		cmd.Args = append(cmd.Args, "-C", file)
	}
	cmd.Env, cmd.Stdin, cmd.Stderr = os.Environ(), theirs, os.Stderr
	if err := errors.Join(cmd.Start(), theirs.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("start what delivers as users: %w", err), ours.Close())
	}
	go cmd.Wait() // it says what is wrong itself, and whoever asks it next will notice
	return &steward{ours}, nil
}

// again is this program once more, in a session of its own: what a terminal sends to us is not meant for it.
func again(command string) *exec.Cmd {
	return &exec.Cmd{Path: "/proc/self/exe", Args: []string{"queue-runner", command}, Dir: "/", SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
}

func socketPair(kind int) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// perform has an agent do an assignment, which may take as long as limit says: users can stop processes of theirs.
func (s *steward) perform(ctx context.Context, a assignment, limit time.Duration, m *mail.Message, n int) mail.Result {
	conn, err := s.ask(a)
	if err != nil {
		return mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "deliver as the recipient: %v", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "deliver as the recipient: %v", err)
	}
	stop := context.AfterFunc(ctx, func() {
		// The agent sees it, and tells what came of it.
		_ = conn.CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(farewell))
	})
	defer stop()
	r, err := serveAgent(conn, m, n)
	if err != nil {
		return mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 3, 0}, "the delivery as the recipient did not come to an end: %v", err)
	}
	return r
}

// farewell is how long an agent may take to end when it is told to.
const farewell = 3 * time.Second

// Limits of how long an agent may take.
const (
	mailboxTime = 5 * time.Minute  // for a mailbox: what waits for locks gives up long before
	agentMargin = 30 * time.Second // for all besides the program that it runs, and to end when the pass has lost patience
)

// limit returns how long the pass waits for an agent that does the job.
func (j job) limit() time.Duration {
	if j.Scheme == "pipe" {
		return j.Timeout + agentMargin
	}
	return mailboxTime
}

// ask sends an assignment to the steward together with one end of the connection that the agent is to have.
func (s *steward) ask(a assignment) (*net.UnixConn, error) {
	ours, theirs, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(a)
	if err == nil {
		err = unix.Sendmsg(int(s.socket.Fd()), text, unix.UnixRights(int(theirs.Fd())), nil, unix.MSG_NOSIGNAL)
	}
	conn, errConn := net.FileConn(ours)
	if err := errors.Join(err, errConn, theirs.Close(), ours.Close()); err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// maxAssignment is how long an assignment may be, in octets of JSON.
const maxAssignment = 16 << 10

// beSteward serves assignments that come in at standard input, until whoever sends them has ended.
func beSteward(cfg *config.Config) error {
	if os.Geteuid() != 0 {
		return usageError{errors.New("steward: only queue-runner starts this, as root")}
	}
	unhurried()
	d := dispatcher{cfg, newLookup(cfg, func(string, ...any) {})}
	read := modified(cfg.File)
	buf, rights := make([]byte, maxAssignment), make([]byte, unix.CmsgSpace(4))
	for {
		n, oob, _, _, err := unix.Recvmsg(0, buf, rights, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("steward: %w", err)
		}
		if n == 0 {
			return nil
		}
		conn, err := socketFrom(rights[:oob])
		if err != nil {
			return fmt.Errorf("steward: %w", err)
		}
		var a assignment
		if err := json.Unmarshal(buf[:n], &a); err != nil {
			return errors.Join(fmt.Errorf("steward: %w", err), conn.Close())
		}
		// A daemon follows changes of the configuration. One that cannot be read is not followed by it either.
		if now := modified(cfg.File); now != read {
			if changed, err := config.Load(cfg.File); err == nil {
				d = dispatcher{changed, newLookup(changed, func(string, ...any) {})}
			}
			read = now
		}
		go d.serve(a, conn)
	}
}

func modified(file string) (t time.Time) {
	if st, err := os.Stat(file); err == nil {
		t = st.ModTime()
	}
	return t
}

// unhurried lets a process end its work when all of a service are told to end: it does when the one it works for has.
func unhurried() { signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT) }

func socketFrom(rights []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("no socket: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("no socket: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), nil
}

// serve starts the agent for an assignment, and waits for it. If there is none, conn hears why.
func (d dispatcher) serve(a assignment, conn *os.File) {
	defer conn.Close() // the agent has its own
	j, as, refused := d.job(context.Background(), a)
	if refused == nil {
		refused = mayBe(as, true)
	}
	if refused == nil && as.Name == "" {
		refused = &mail.Result{Reply: mail.Reply{Enhanced: mail.EnhancedCode{4, 3, 5}, Text: "that is not done as anybody"}}
	}
	if refused == nil {
		err := runAgent(j, as, conn)
		if err == nil {
			return // it has answered, or nobody can
		}
		r := mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 3, 0}, "%v", err)
		refused = &r
	}
	_ = answer(conn, *refused) // who does not hear it knows as much
}

// runAgent runs the agent to its end. The error says why it could not be started.
//
// It starts as root, and becomes the user itself: the memory of a process that has changed its user after it was started
// is closed to that user, and with it the right to write to mailboxes that come from mailGroup.
func runAgent(j job, as users.User, conn *os.File) error {
	groups, err := users.Groups(as)
	if err != nil {
		return fmt.Errorf("look up the groups of %s: %w", as.Name, err)
	}
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := again("agent")
	cmd.Args = append(cmd.Args, identity{as.UID, as.GID, append(groups, mailGroup(j)...)}.words()...)
	cmd.Env, cmd.Stdin, cmd.ExtraFiles = []string{"PATH=/usr/bin:/bin"}, conn, []*os.File{r}
	err = cmd.Start()
	if errors.Join(err, r.Close()) != nil {
		return errors.Join(fmt.Errorf("act as %s: %w", as.Name, err), w.Close())
	}
	_, _ = w.Write(text) // an agent that ends before it has read this is missed by the pass
	_ = w.Close()
	waitAtMost(cmd, j.limit()+agentMargin)
	return nil
}

// waitAtMost waits for the end of a process, and brings it about when the time has passed. What it did it has told, or
// nobody waits for it any more.
func waitAtMost(cmd *exec.Cmd, limit time.Duration) {
	late := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	_ = cmd.Wait()
}

// mailGroup returns the group of root's directory of mailboxes, such as /var/mail, if it is one that members may make files
// in: users are no members, but programs that deliver to them have always had this right. A path in a home is none of
// root's, wherever its user has it lead.
func mailGroup(j job) []int {
	var st unix.Stat_t
	if j.Scheme != "mbox" || j.InHome || unix.Stat(filepath.Dir(j.Path), &st) != nil || st.Uid != 0 || st.Gid == 0 || st.Mode&0o020 == 0 {
		return nil
	}
	return []int{int(st.Gid)}
}

// plain makes a result of an agent, who is a user and may want to tell us anything, what it can be at most: about himself.
func plain(r mail.Result) mail.Result {
	text := func(s string, most int) string {
		s = strings.ToValidUTF8(strings.Map(func(c rune) rune {
			if c < ' ' || 0x7f <= c && c < 0xa0 {
				return ' '
			}
			return c
		}, s), "?")
		return s[:min(len(s), most)]
	}
	out := mail.Result{Relay: text(r.Relay, 300), Reply: mail.Reply{Enhanced: r.Reply.Enhanced, Text: text(r.Reply.Text, 1000)}}
	if r.Action == mail.Delivered || r.Action == mail.Failed {
		out.Action = r.Action
	}
	if r.Scope == mail.OfMessage {
		out.Scope = r.Scope
	}
	for _, n := range out.Reply.Enhanced {
		if n < 0 || n > 999 {
			out.Reply.Enhanced = mail.EnhancedCode{}
		}
	}
	return out
}
