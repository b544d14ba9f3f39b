package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/postrider/postrider/deliver/dns"
	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
)

// errNowhere is for addresses that mail cannot go to: 67 (EX_NOUSER), as callers of sendmail -bv expect.
var errNowhere = errors.New("mail for some of these cannot be delivered")

// An explanation says where mail would go, without sending any.
type explanation struct {
	cfg     *config.Config
	host    *submit.Host
	names   *lookup
	dns     *dns.Resolver
	sender  mail.Path
	to      strings.Builder
	nowhere bool
}

// explain writes for each address in words, which are lists as on the command line of sendmail, what it becomes and which
// transport takes it. It neither connects to servers nor looks into the spool; it only asks DNS for the hosts of domains. The sender is whoever runs us unless one
// is given; what he is sent as is told if it is something else.
func explain(cfg *config.Config, sender string, words []string, w io.Writer) error {
	x := &explanation{cfg: cfg, host: submitHost(cfg), dns: newResolver(cfg)}
	x.names = newLookup(cfg, func(format string, args ...any) { fmt.Fprintf(&x.to, "note: "+format+"\n", args...) })
	if err := x.from(sender); err != nil {
		return err
	}
	for _, word := range words {
		list, err := mail.ParseAddressList(word)
		var each mail.AddressErrors
		if errors.As(err, &each) {
			for _, err := range each {
				x.dead("%v", err)
			}
		}
		for _, box := range list {
			if box.Path.IsNull() {
				x.dead("%q: nobody's address", word)
				continue
			}
			x.recipient(box.Path, false, "")
		}
	}
	if _, err := io.WriteString(w, x.to.String()); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if x.nowhere {
		return errNowhere
	}
	return nil
}

// from takes the sender.
func (x *explanation) from(sender string) error {
	if sender == "" {
		sender = submit.AuthorOf(os.Getuid()).Login
	}
	list, err := mail.ParseAddressList(sender)
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("%q: %d addresses", sender, len(list))
	}
	if err != nil {
		return usageError{fmt.Errorf("not a sender address: %w", err)}
	}
	given := list[0].Path
	x.sender = x.host.Rewritten(given)
	if x.sender != given {
		fmt.Fprintf(&x.to, "from %s: sent as %s\n", given.Address(), x.sender.Address())
	}
	return nil
}

func (x *explanation) dead(format string, args ...any) {
	x.nowhere = true
	fmt.Fprintf(&x.to, format+"\n", args...)
}

// recipient explains one address. What an alias stands for is explained below it, and indented; expanded says that no
// alias is looked for any more.
func (x *explanation) recipient(rcpt mail.Path, expanded bool, indent string) {
	full := x.qualified(rcpt)
	as := indent + rcpt.Address()
	if full != rcpt {
		as += ", that is " + full.Address()
	}
	if !expanded && x.names.concerns(full) && x.alias(full, as, indent) {
		return
	}
	if program, ok := programOf(full); ok && expanded {
		fmt.Fprintf(&x.to, "%s%s: as %s\n", indent, program, x.cfg.AliasUser)
		return
	}
	hop, err := routeTable(x.cfg).NextHop(x.sender, full, 0)
	if err != nil {
		x.dead("%s: %v", as, err)
		return
	}
	t := x.cfg.Transports[hop.Transport]
	x.nowhere = x.nowhere || t.Scheme == "fail"
	fmt.Fprintf(&x.to, "%s: %s (%s)\n", as, transportWords(t)+rateWords(t.Rate), hop.Transport)
	if t.Scheme == "mx" {
		x.hosts(t, hop.Domain, indent+"  ")
	}
}

// hosts lists the hosts of a domain in the order in which they are tried.
func (x *explanation) hosts(t config.Transport, domain, indent string) {
	hosts, err := finder(x.cfg, x.dns, t).Domain(context.Background(), domain)
	if err != nil {
		x.dead("%s%v", indent, err)
	}
	for _, h := range hosts {
		fmt.Fprintf(&x.to, "%s%s %v\n", indent, h.Name, h.Addrs)
	}
}

func (x *explanation) qualified(p mail.Path) mail.Path {
	if p.Domain() != "" {
		return p
	}
	full, err := mail.ParsePath(p.Address() + "@" + x.cfg.Domain)
	if err != nil {
		return p
	}
	return full
}

// alias explains what an address stands for, and reports whether that is not itself.
func (x *explanation) alias(full mail.Path, as, indent string) bool {
	found, err := x.names.Expand(context.Background(), full)
	if err != nil {
		x.dead("%s: %v", as, err)
		return true
	}
	if !found.Found {
		return false
	}
	fmt.Fprintf(&x.to, "%s: an alias\n", as)
	for _, skipped := range found.Skipped {
		fmt.Fprintf(&x.to, "%s  left out: %s\n", indent, skipped)
	}
	if len(found.Targets) == 0 {
		fmt.Fprintf(&x.to, "%s  discarded\n", indent)
	}
	for _, t := range found.Targets {
		x.recipient(t.Path, t.Expanded, indent+"  ")
	}
	return true
}
