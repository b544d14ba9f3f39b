package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/local"
	"github.com/postrider/postrider/deliver/users"
	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
)

// A job is a delivery on this host to one recipient, with all that depends on who he is filled in.
type job struct {
	Scheme   string // maildir, mbox or pipe
	Path     string
	InHome   bool // Path begins with the home of a user
	Args     []string
	Timeout  time.Duration
	FromLine bool
	Owner    int        // user ID of whom the mailbox is
	User     users.User // who does it, or for whom a program does
}

// deliver does it, in this process and as whoever that is, for the recipient at position n of the envelope.
func (j job) deliver(ctx context.Context, m *mail.Message, n int) mail.Result {
	switch j.Scheme {
	case "maildir":
		d := &local.Maildir{Dir: j.Path}
		defer d.Close()
		return d.Deliver(ctx, m, []int{n})[0]
	case "mbox":
		return local.Mbox{Path: j.Path, Owner: j.Owner}.Deliver(ctx, m, n)
	case "pipe":
		return local.Pipe{Program: j.Path, Args: j.Args, User: j.User, Timeout: j.Timeout, FromLine: j.FromLine}.Deliver(ctx, m, n)
	}
	return mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 5}, "no mailbox is a %q", j.Scheme)
}

// An assignment says what is to be done for a recipient, by names that only a configuration gives a meaning.
type assignment struct {
	Transport string
	Program   string // of the alias file, instead of a transport
	Recipient string // address
}

// A dispatcher makes jobs of assignments.
type dispatcher struct {
	cfg   *config.Config
	names *lookup
}

// job says what an assignment amounts to, and as whom it is done: nobody special if as has no name.
func (d dispatcher) job(ctx context.Context, a assignment) (j job, as users.User, refused *mail.Result) {
	if a.Program != "" {
		j, as, err := d.names.job(ctx, a.Program)
		if err != nil {
			r := mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 3, 5}, "%v", err)
			return j, as, &r
		}
		return j, as, nil
	}
	rcpt, err := mail.ParsePath(a.Recipient)
	t, ok := d.cfg.Transports[a.Transport]
	if err != nil || !ok {
		r := mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 3, 5}, "no transport %q, or no recipient", a.Transport)
		return j, as, &r
	}
	return transportJob(ctx, t, rcpt)
}

// transportJob is the job of a transport for a recipient.
func transportJob(ctx context.Context, t config.Transport, rcpt mail.Path) (j job, as users.User, refused *mail.Result) {
	j = job{Scheme: t.Scheme, Path: t.Path, Args: slices.Clone(t.Args), Timeout: t.Timeout, Owner: os.Geteuid()}
	var rcptUser users.User
	var err error
	if t.ForUsers() {
		var ok bool
		if rcptUser, ok, err = users.Find(ctx, rcpt.Local()); err == nil && !ok {
			return j, as, &noUser
		}
		j.Owner = rcptUser.UID
	}
	switch {
	case err != nil:
	case t.RunAs == config.Recipient:
		as = rcptUser
	case t.RunAs != "":
		as, err = mustFind(ctx, t.RunAs)
		j.Owner = as.UID
	}
	if err != nil {
		r := unknown(err)
		return j, as, &r
	}
	if j.User = as; as.Name == "" {
		if j.User, err = users.Self(); err != nil {
			r := mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 5}, "look up who we are: %v", err)
			return j, as, &r
		}
	}
	if strings.HasPrefix(j.Path, "{home}") && !filepath.IsAbs(rcptUser.Home) {
		r := mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 3, 5}, "the user has no home")
		return j, as, &r
	}
	j.InHome = strings.HasPrefix(j.Path, "{home}")
	j.Path = filepath.Clean(strings.NewReplacer("{user}", rcptUser.Name, "{home}", rcptUser.Home).Replace(j.Path))
	for i, arg := range j.Args {
		if arg == "{user}" {
			j.Args[i] = rcptUser.Name
		}
	}
	return j, as, nil
}

// noUser is the answer for a recipient who would have to be a user of this host.
var noUser = mail.Result{Action: mail.Failed, Reply: mail.Reply{Enhanced: mail.EnhancedCode{5, 1, 1}, Text: "no user of this host has this name"}}

// unknown is the answer for a recipient of whom it cannot be said now whether he is a user of this host. Who may be none at
// all must not wait for ever, nor keep others waiting.
func unknown(err error) mail.Result {
	if errors.Is(err, users.ErrUnsure) {
		return mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 1, 1}, "look up the user: %v", err)
	}
	return mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 5}, "look up the user: %v", err)
}

func mustFind(ctx context.Context, name string) (users.User, error) {
	u, ok, err := users.Find(ctx, name)
	if err == nil && !ok {
		err = fmt.Errorf("there is no user %s", name)
	}
	return u, err
}

// perform does an assignment: by the steward, if there is one and it has to be done as somebody, otherwise as we are.
func (d dispatcher) perform(ctx context.Context, s *steward, a assignment, m *mail.Message, n int) mail.Result {
	var err error
	j, as, refused := d.job(ctx, a)
	if refused == nil {
		refused = mayBe(as, s != nil)
	}
	switch {
	case refused != nil:
		return *refused
	case as.Name != "" && as.UID != os.Geteuid() && s != nil:
		return s.perform(ctx, a, j.limit(), m, n)
	case as.Name != "" && as.UID != os.Geteuid() && !d.loose(a):
		return mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 3, 5}, "queue-runner has to be started, or started again, by root to act as %s", as.Name)
	case as.Name != "" && as.UID != os.Geteuid():
		// A program that we run, with our rights, must not go by what is in the home of the recipient.
		if j.User, err = users.Self(); err != nil {
			return mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 5}, "look up who we are: %v", err)
		}
	}
	return j.deliver(ctx, m, n)
}

// loose reports whether what is to be done as the recipient may be done as we are, where we cannot be anybody else: a
// mailbox in a place that the recipient has no hand in, or a program.
func (d dispatcher) loose(a assignment) bool {
	t := d.cfg.Transports[a.Transport]
	return a.Program == "" && t.RunAs == config.Recipient && !strings.HasPrefix(t.Path, "{home}")
}

// mayBe refuses what would be done as root.
func mayBe(as users.User, privileged bool) *mail.Result {
	if as.Name == "" || as.UID != 0 || !privileged && os.Geteuid() != 0 {
		return nil
	}
	r := mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 3, 5}, "%s is root, and nothing is delivered as root: he needs an alias", as.Name)
	return &r
}

// localTransport is the transport for what depends on who the recipient is, or on who we can be.
func (d dispatcher) localTransport(s *steward, name string) deliver.Transport {
	return transportFunc(func(context.Context) (deliver.Session, error) {
		return deliver.OneByOne(&local.Session{One: func(ctx context.Context, m *mail.Message, n int) mail.Result {
			return d.perform(ctx, s, assignment{Transport: name, Recipient: m.Recipients[n].Path.Address()}, m, n)
		}}), nil
	})
}
