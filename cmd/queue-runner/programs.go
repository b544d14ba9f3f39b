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

// programTransport returns the transport for files and commands.
func (d dispatcher) programTransport(s *steward) deliver.Transport {
	return transportFunc(func(context.Context) (deliver.Session, error) {
		return deliver.OneByOne(&local.Session{One: func(ctx context.Context, m *mail.Message, n int) mail.Result {
			program, _ := programOf(m.Recipients[n].Path)
			return d.perform(ctx, s, assignment{Program: program}, forAlias(m, n), 0)
		}}), nil
	})
}

// job returns what delivers to a file or a command, and as whom.
func (l *lookup) job(ctx context.Context, program string) (j job, as users.User, err error) {
	table, err := l.load()
	if err != nil {
		return j, as, err
	}
	if l.as == "" || !table.Has(program) {
		return j, as, errors.New("the alias file and its user do not allow this any more")
	}
	if as, err = mustFind(ctx, l.as); err != nil {
		return j, as, fmt.Errorf("alias_user: %w", err)
	}
	if as.UID == 0 {
		return j, as, errors.New("alias_user: nothing is done as root")
	}
	j, err = programJob(program)
	j.User, j.Owner = as, as.UID
	return j, as, err
}

func programJob(program string) (job, error) {
	command, isCommand := strings.CutPrefix(program, "|")
	if !isCommand && strings.HasSuffix(program, "/") {
		return job{Scheme: "maildir", Path: program}, nil
	}
	if !isCommand {
		return job{Scheme: "mbox", Path: program}, nil
	}
	words, err := alias.Words(command)
	if err != nil {
		return job{}, err
	}
	return job{Scheme: "pipe", Path: words[0], Args: words[1:], Timeout: programTime, FromLine: true}, nil
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

// mayActAs says why nothing in the alias file would be delivered to a file or a command.
func mayActAs(name string) error {
	user, err := mustFind(context.Background(), name)
	switch {
	case err != nil:
		return fmt.Errorf("alias_user: %w", err)
	case user.UID == 0:
		return errors.New("alias_user: nothing is done as root")
	case user.UID != os.Geteuid() && os.Getuid() != 0:
		return fmt.Errorf("alias_user: queue-runner has to be started by root to act as %s", name)
	}
	return nil
}
