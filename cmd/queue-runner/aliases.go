package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/alias"
	"github.com/postrider/postrider/deliver/users"
	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
)

// aliases is the next hop of recipients whose names have to be looked up first. No transport has this name.
const aliases = "@"

// machinery are names that must exist (RFC 5321 section 4.5.1), or that we write mail in: without an alias they are root.
var machinery = map[string]bool{"postmaster": true, "mailer-daemon": true}

const root = "root"

func rootPath() mail.Path {
	p, err := mail.ParsePath(root)
	if err != nil {
		panic(err) // a constant
	}
	return p
}

// A lookup says whom a name at one of our own domains stands for.
type lookup struct {
	file  string
	local []string // domains
	names []string // local, and the domain that is appended to bare names
	as    string   // the user whom files and commands in the file are for; "" if there are none
	users bool     // mail for local goes to mailboxes of this host: a name must be an alias or a user
	logf  func(format string, args ...any)

	mu       sync.Mutex
	table    *alias.Table
	modified time.Time // when the file that table was read from was
	size     int64
}

func newLookup(cfg *config.Config, logf func(format string, args ...any)) *lookup {
	l := &lookup{file: cfg.Aliases, local: cfg.LocalDomains, as: cfg.AliasUser, logf: logf, users: deliversLocally(cfg)}
	l.names = append(slices.Clone(l.local), cfg.Domain)
	return l
}

// deliversLocally reports whether mail for this host's own names ends up in mailboxes here.
func deliversLocally(cfg *config.Config) bool {
	table := routeTable(cfg)
	for _, domain := range cfg.LocalDomains {
		rcpt, err := mail.ParsePath("postmaster@" + domain)
		if err != nil {
			return false
		}
		hop, err := table.NextHop(mail.NullSender, rcpt, 0)
		if err != nil || !isMailbox(cfg.Transports[hop.Transport]) {
			return false
		}
	}
	return len(cfg.LocalDomains) > 0
}

// isMailbox reports whether a transport keeps mail on this host, for its users.
func isMailbox(t config.Transport) bool {
	return t.Scheme == "maildir" || t.Scheme == "mbox" || t.ForUsers()
}

// concerns reports whether an address has to be looked up.
func (l *lookup) concerns(rcpt mail.Path) bool {
	domain := rcpt.Domain()
	if domain == "" {
		return true
	}
	return l.users && slices.Contains(l.local, domain) || l.file != "" && l.isOwn(domain)
}

// isOwn reports whether names at a domain are those that the alias file is about.
func (l *lookup) isOwn(domain string) bool { return slices.Contains(l.names, domain) }

// Expand implements deliver.Expander.
func (l *lookup) Expand(ctx context.Context, rcpt mail.Path) (deliver.Expansion, error) {
	if _, ok := programOf(rcpt); ok {
		return deliver.Expansion{}, &mail.Failure{Result: mail.Result{Action: mail.Failed, Reply: mail.Reply{
			Enhanced: mail.EnhancedCode{5, 1, 3}, Text: "nobody can write to a file or a command",
		}}}
	}
	table, err := l.load()
	if err != nil {
		return deliver.Expansion{}, trouble(err)
	}
	// Who has an alias is known, whoever else cannot be asked.
	user, unsure := l.isUser(ctx, rcpt)
	if unsure != nil && !errors.Is(unsure, users.ErrUnsure) {
		return deliver.Expansion{}, trouble(unsure)
	}
	x, err := table.Expand(rcpt.Local(), user || unsure != nil)
	if !x.Found && !user && machinery[strings.ToLower(rcpt.Local())] {
		if x, err = table.Expand(root, true); !x.Found {
			x = alias.Expansion{Found: true, Targets: []mail.Path{rootPath()}}
		}
	}
	if err != nil {
		return deliver.Expansion{}, trouble(fmt.Errorf("alias %s: %w", rcpt.Local(), err))
	}
	if !x.Found && unsure != nil {
		return deliver.Expansion{}, &mail.Failure{Result: unknown(unsure)}
	}
	if !x.Found && !user {
		return deliver.Expansion{}, &mail.Failure{Result: mail.Result{Action: mail.Failed, Reply: mail.Reply{
			Enhanced: mail.EnhancedCode{5, 1, 1}, Text: "no alias and no user of this host has this name",
		}}}
	}
	return l.qualify(x, rcpt.Domain())
}

// isUser reports whether a name needs no alias. Where mail does not end in mailboxes here, every name is good.
func (l *lookup) isUser(ctx context.Context, rcpt mail.Path) (bool, error) {
	if !l.users || !slices.Contains(l.local, rcpt.Domain()) {
		return true, nil
	}
	_, ok, err := users.Find(ctx, rcpt.Local())
	return ok, err
}

// trouble is a failure of our own making: mail waits until somebody has mended it.
func trouble(err error) error {
	return &mail.Failure{Result: mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 5}, "%v", err)}
}

// qualify gives local names the domain of the address that they came from. They have been looked up.
func (l *lookup) qualify(x alias.Expansion, domain string) (deliver.Expansion, error) {
	out := deliver.Expansion{Found: x.Found, Skipped: x.Skipped}
	for _, t := range x.Targets {
		r := mail.Recipient{Path: t, Expanded: l.concerns(t)}
		if t.Domain() == "" {
			p, err := mail.ParsePath(t.Address() + "@" + domain)
			if err != nil {
				return out, trouble(err)
			}
			r.Path = p
		}
		out.Targets = append(out.Targets, r)
	}
	for _, program := range x.Programs {
		p, err := programPath(program, domain)
		if err != nil {
			return out, trouble(err)
		}
		out.Targets = append(out.Targets, mail.Recipient{Path: p, Expanded: true})
	}
	out.Owner = x.Owner
	if !x.Owner.IsNull() && x.Owner.Domain() == "" {
		owner, err := mail.ParsePath(x.Owner.Address() + "@" + domain)
		if err != nil {
			return out, trouble(err)
		}
		out.Owner = owner
	}
	return out, nil
}

// load returns the aliases, read again if the file has changed.
func (l *lookup) load() (*alias.Table, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var modified time.Time
	var size int64
	if st, err := os.Stat(l.file); err == nil {
		modified, size = st.ModTime(), st.Size()
	}
	if l.table != nil && modified.Equal(l.modified) && size == l.size {
		return l.table, nil
	}
	table, problems, err := l.read()
	if err != nil {
		return nil, err
	}
	for _, p := range problems {
		l.logf("%s", p)
	}
	l.table, l.modified, l.size = table, modified, size
	return table, nil
}

// read reads the file.
func (l *lookup) read() (*alias.Table, []alias.Problem, error) {
	table, problems, err := alias.Load(l.file, l.isOwn)
	if err != nil {
		return nil, nil, err
	}
	table.Programs = l.as != ""
	return table, problems, nil
}

// syntaxError is for an alias file with mistakes in it: 65 (EX_DATAERR), as callers of newaliases expect.
type syntaxError struct{ error }

// newAliases checks the alias file, and says what there is in it in the words of Sendmail.
func newAliases(cfg *config.Config, stdout, stderr io.Writer) error {
	if cfg.Aliases == "" {
		return nil
	}
	if _, err := os.Stat(cfg.Aliases); os.IsNotExist(err) {
		return nil
	}
	table, problems, err := newLookup(cfg, nil).read()
	if err != nil {
		return syntaxError{err}
	}
	for _, p := range append(problems, table.Check()...) {
		fmt.Fprintln(stderr, p)
	}
	if len(problems) > 0 {
		return syntaxError{fmt.Errorf("%s: %d entries are not understood", cfg.Aliases, len(problems))}
	}
	_, err = fmt.Fprintln(stdout, table.Summary())
	return err
}
