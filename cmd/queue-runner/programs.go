package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/alias"
	"github.com/postrider/postrider/deliver/local"
	"github.com/postrider/postrider/deliver/users"
	"github.com/postrider/postrider/internal/mail"
)

// programs is the next hop of files and commands in the alias file. No transport has this name.
const programs = "@|"

// programTime is how long a command in the alias file may take.
const programTime = 30 * time.Second

// programPath returns what stands in an envelope for a file or a command: an address at the domain of the alias.
func programPath(program, domain string) (mail.Path, error) {
	return mail.ParsePath(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(program) + `"@` + domain)
}

// programOf returns the file or command that an address stands for, if it does. Only in an envelope that we have made of
// an alias does it mean anything, and then only as long as the alias file has it.
func programOf(p mail.Path) (program string, ok bool) {
	s := p.Local()
	if len(s) < 3 || s[0] != '"' || s[1] != '|' && s[1] != '/' {
		return "", false
	}
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(s[1 : len(s)-1]), true
}

// programs returns the transport for files and commands.
func (l *lookup) programs() deliver.Transport {
	return transportFunc(func(context.Context) (deliver.Session, error) {
		return deliver.OneByOne(&local.Session{One: l.toProgram}), nil
	})
}

// toProgram delivers to the file or command that recipient n stands for.
func (l *lookup) toProgram(ctx context.Context, m *mail.Message, n int) mail.Result {
	program, _ := programOf(m.Recipients[n].Path)
	table, err := l.load()
	if err != nil {
		return mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 5}, "%v", err)
	}
	if l.as == "" || !table.Has(program) {
		return mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 3, 5}, "the alias file and its user do not allow this any more")
	}
	user, err := actAs(ctx, l.as)
	if err != nil {
		return mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 5}, "%v", err)
	}
	d, err := programDelivery(program, user)
	if err != nil {
		return mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 3, 5}, "%v", err)
	}
	return d(ctx, forAlias(m, n), 0)
}

// programDelivery returns what delivers to a file or a command.
func programDelivery(program string, user users.User) (mailer, error) {
	command, isCommand := strings.CutPrefix(program, "|")
	if !isCommand && strings.HasSuffix(program, "/") {
		return func(ctx context.Context, m *mail.Message, n int) mail.Result {
			d := &local.Maildir{Dir: program}
			defer d.Close()
			return d.Deliver(ctx, m, []int{n})[0]
		}, nil
	}
	if !isCommand {
		return local.Mbox{Path: program, Owner: user.UID}.Deliver, nil
	}
	words, err := alias.Words(command)
	if err != nil {
		return nil, err
	}
	return local.Pipe{Program: words[0], Args: words[1:], User: user, Timeout: programTime, FromLine: true}.Deliver, nil
}

// forAlias returns the message for the alias instead of what it stands for, which is nobody's address.
func forAlias(m *mail.Message, n int) *mail.Message {
	only := *m
	to := m.Recipients[n]
	if _, xtext, ok := strings.Cut(to.Original, ";"); ok {
		if address, err := mail.DecodeXtext(xtext); err == nil {
			if p, err := mail.ParsePath(address); err == nil && !p.IsNull() {
				to.Path = p
			}
		}
	}
	only.Recipients = []mail.Recipient{to}
	return &only
}

// actAs returns the user whom files and commands in the alias file are for. He is never root.
func actAs(ctx context.Context, name string) (users.User, error) {
	user, ok, err := users.Find(ctx, name)
	switch {
	case err != nil:
		return user, fmt.Errorf("look up the user %s: %w", name, err)
	case !ok:
		return user, fmt.Errorf("alias_user: there is no user %s", name)
	case user.UID == 0:
		return user, errors.New("alias_user: nothing is done as root")
	case user.UID != os.Geteuid():
		return user, fmt.Errorf("alias_user is %s, and queue-runner runs as user %d", name, os.Geteuid())
	}
	return user, nil
}

// mayActAs says why nothing in the alias file would be delivered to a file or a command.
func mayActAs(name string) error {
	_, err := actAs(context.Background(), name)
	return err
}
