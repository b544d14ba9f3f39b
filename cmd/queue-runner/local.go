package main

import (
	"context"
	"os"
	"slices"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/local"
	"github.com/postrider/postrider/deliver/users"
	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
)

// A mailer delivers to one recipient on this host, who is at position n of the envelope.
type mailer func(ctx context.Context, m *mail.Message, n int) mail.Result

// oneByOne makes of what delivers to one recipient what makes a transport.
func oneByOne(to func(config.Transport) mailer) func(outfit, config.Transport) deliver.Transport {
	return func(_ outfit, t config.Transport) deliver.Transport {
		return transportFunc(func(context.Context) (deliver.Session, error) {
			return deliver.OneByOne(&local.Session{One: to(t)}), nil
		})
	}
}

func mbox(t config.Transport) mailer { return local.Mbox{Path: t.Path, Owner: os.Geteuid()}.Deliver }

func pipe(t config.Transport) mailer {
	p := local.Pipe{Program: t.Path, Args: t.Args, Timeout: t.Timeout}
	return func(ctx context.Context, m *mail.Message, n int) mail.Result {
		with := p
		var ok bool
		var err error
		if slices.Contains(t.Args, "{user}") {
			with.User, ok, err = users.Find(ctx, m.Recipients[n].Path.Local())
		} else {
			with.User, err = users.Self()
			ok = true
		}
		switch {
		case err != nil:
			return mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "look up the user: %v", err)
		case !ok:
			return noUser
		}
		return with.Deliver(ctx, m, n)
	}
}

// noUser is the answer for a recipient who would have to be a user of this host.
var noUser = mail.Result{Action: mail.Failed, Reply: mail.Reply{Enhanced: mail.EnhancedCode{5, 1, 1}, Text: "no user of this host has this name"}}
