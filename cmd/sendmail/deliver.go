package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/spool/drop"
)

// deliver takes a message from stdin. When it returns nil, the message is in the queue for good.
func (o *options) deliver(stdin, stdout *os.File) error {
	s, err := o.submission()
	if err != nil {
		return err
	}
	s.Content = stdin
	cfg, err := config.Load(o.configFile())
	if err != nil {
		return err
	}
	door, err := o.enter(cfg)
	if err != nil {
		return err
	}
	defer door.close() // nothing is written through it
	pending, err := door.receive(s)
	if err != nil {
		var refusal *submit.Error
		if errors.As(err, &refusal) && refusal.Returned {
			o.wakeForReport(cfg)
		}
		return err
	}
	// Before the message is in the queue: whoever kills us while we wait for the end must find no message there. What
	// comes after the message is nothing to us, nor is an error in reading it.
	_ = drain(stdin)
	deafen()
	id, err := pending.Commit()
	if err != nil {
		return err
	}
	o.accepted = true
	if _, ours := door.(direct); ours {
		o.wake(cfg, id, stdout)
	} else if o.verbose {
		fmt.Fprintf(stdout, "%s: queued, by way of the submission socket\n", id)
	}
	return nil
}

// submission returns what the command line says of the message.
func (o *options) submission() (s submit.Submission, err error) {
	uid := os.Getuid()
	user := sync.OnceValue(func() submit.Author { return submit.AuthorOf(uid) })
	s = submit.Submission{
		Author:           func() submit.Author { return submit.Author{Login: user().Login, Name: o.displayName(user().Name)} },
		HeaderRecipients: o.headerRecipients,
		Notify:           o.notify,
		Dots:             !o.ignoreDots,
		AsIs:             o.asIs,
		Partly:           o.errors != 'q', // else the status is all that may tell
		Returns:          o.mailsErrors(),
	}
	s.Arrival, s.Submitter = drop.Now(), uid
	s.Return, s.ID, s.SMTPUTF8 = o.ret, o.envelopeID, o.smtpUTF8
	if s.Sender, err = o.senderPath(user); err != nil {
		return s, err
	}
	if err := o.extend(&s.Envelope); err != nil {
		return s, err
	}
	s.Recipients, s.Rejected = o.recipients()
	if len(s.Recipients) == 0 && !o.headerRecipients && !s.Returns {
		// Whoever types the message at a terminal wants to know it before.
		if len(s.Rejected) > 0 {
			return s, submit.Refuse(submit.ExitData, mail.EnhancedCode{5, 1, 3}, "not a recipient address: %w", s.Rejected)
		}
		return s, submit.ErrNoRecipients
	}
	return s, nil
}

// extend completes an envelope with what -O says of it.
func (o *options) extend(env *mail.Envelope) (err error) {
	env.Priority = o.priority
	if o.requireTLS {
		env.TLS = mail.TLSRequired
	}
	if o.holdFor != "" {
		if env.Hold, err = mail.HoldFor(o.holdFor, env.Arrival); err != nil {
			return usage("option -O HoldFor: %w", err)
		}
	}
	if o.holdUntil != "" {
		if env.Hold, err = mail.HoldUntil(o.holdUntil, env.Arrival); err != nil {
			return usage("option -O HoldUntil: %w", err)
		}
	}
	if o.by != "" {
		if env.DeliverBy, err = mail.ParseBy(o.by, env.Arrival); err != nil {
			return usage("option -O DeliverBy: %w", err)
		}
	}
	if err := env.CheckTimes(env.Arrival); err != nil {
		return usage("option -O: %w", err)
	}
	return nil
}

// mailsErrors reports whether the caller wants errors to be mailed: cron does, who has nobody to show them to.
func (o *options) mailsErrors() bool { return o.errors == 'm' || o.errors == 'w' || o.errors == 'e' }

// displayName returns the name for a From field that is missing; known is the user's in passwd(5).
func (o *options) displayName(known string) string {
	if name := o.givenName(); name != "" {
		return name
	}
	return known
}

// givenName returns the name that the caller gives himself; "" if none. A bad one in the environment is none: whoever
// called us may not know of it.
func (o *options) givenName() string {
	if o.fullName != "" {
		return o.fullName
	}
	if name := os.Getenv("NAME"); !hasControl(name) {
		return name
	}
	return ""
}

// senderPath returns the address after -f, or the login of whoever runs us.
func (o *options) senderPath(user func() submit.Author) (mail.Path, error) {
	if !o.senderGiven {
		return mail.ParsePath(user().Login)
	}
	if strings.TrimSpace(o.sender) == "" {
		return mail.NullSender, nil
	}
	list, err := mail.ParseAddressList(o.sender)
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("%q: %d addresses", o.sender, len(list))
	}
	if err != nil {
		return mail.Path{}, usage("not a sender address: %w", err)
	}
	return list[0].Path, nil
}

// recipients returns the addresses in the operands, and what is none. Each may be a list: cron has "ann,bob" in one word.
func (o *options) recipients() (all []mail.Recipient, rejected mail.AddressErrors) {
	for _, word := range o.operands {
		if hasControl(word) {
			rejected = append(rejected, &mail.AddressError{Item: word, Err: mail.ErrControl})
			continue
		}
		list, err := mail.ParseAddressList(word)
		var each mail.AddressErrors
		if errors.As(err, &each) {
			rejected = append(rejected, each...)
		}
		for _, box := range list {
			if box.Path.IsNull() {
				rejected = append(rejected, &mail.AddressError{Item: word, Err: errNobody})
				continue
			}
			all = append(all, mail.Recipient{Path: box.Path, Notify: o.notify})
		}
	}
	return all, rejected
}

// errNobody is why the null sender is no recipient.
var errNobody = errors.New("nobody's address")
