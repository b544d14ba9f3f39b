package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
)

// expand looks up the recipients of a claim. Who stands for himself goes on to his next hop; for the others there is a
// copy of the message to whom they stand for, durable before they are final.
func (w *worker) expand(ctx context.Context, c spool.Claim) event {
	f, err := w.spool.Read(c.ID)
	if err != nil {
		return unreadable(c, err)
	}
	defer f.Close()
	var onward []spool.Disposition
	concluded := spool.Claim{ID: c.ID, Pending: c.Pending}
	var results []mail.Result
	var found []expanded
	for _, r := range c.Recipients {
		if w.stopped() {
			onward = append(onward, spool.Disposition{Recipient: r.Recipient, Untried: true, Next: w.Now()})
			continue
		}
		x, err := w.lookUp(ctx, f.Recipients[r.Recipient].Path)
		if err == nil && !x.Found {
			onward = append(onward, spool.Disposition{Recipient: r.Recipient, Untried: true, Expanded: true, Next: w.Now()})
			continue
		}
		concluded.Recipients = append(concluded.Recipients, r)
		switch {
		case err != nil:
			results = append(results, failureOf(err))
		case len(x.Targets) == 0:
			results = append(results, discarded)
		default:
			found = append(found, expanded{len(results), r.Recipient, x})
			results = append(results, mail.Result{})
		}
	}
	children, lines := w.copies(&f.Message, found, results)
	e := w.conclude(concluded, &f.Message, results, false)
	e.settlement.Dispositions = append(e.settlement.Dispositions, onward...)
	e.settlement.Children = append(e.settlement.Children, children...)
	e.lines = append(e.lines, lines...)
	return e
}

// lookUp asks the Expander. What an address makes our own code do must not end the pass for all others.
func (w *worker) lookUp(ctx context.Context, rcpt mail.Path) (x Expansion, err error) {
	defer func() {
		if p := recover(); p != nil {
			x, err = Expansion{}, fmt.Errorf("internal error: %v", p)
		}
	}()
	return w.route.Expander.Expand(ctx, rcpt)
}

// copies makes the messages that take the place of the recipients found, and puts what became of them into results.
func (k clerk) copies(m *mail.Message, found []expanded, results []mail.Result) (children []spool.Taken, lines []string) {
	for _, list := range byOwner(found) {
		for _, c := range k.copiesTo(m, list) {
			if c.err == nil {
				children = append(children, c.child)
			}
			for _, x := range c.list {
				results[x.index] = expansionResult(c.child.ID, x, c.err)
				for _, s := range x.Skipped {
					lines = append(lines, fmt.Sprintf("%s: alias of %s: %s", m.QueueID, m.Recipients[x.recipient].Path, s))
				}
			}
		}
	}
	return children, lines
}

// A copied is the message that takes the place of some recipients, or why there is none.
type copied struct {
	list  []expanded
	child spool.Taken
	err   error
}

// copiesTo makes one message for all, or several where its envelope would be too long. Each of them takes the place of whole
// recipients: one that says so of whom another one is for as well could be all that is left by a crash.
func (k clerk) copiesTo(m *mail.Message, list []expanded) []copied {
	child, err := k.copyTo(m, list)
	if !errors.Is(err, drop.ErrEnvelope) || len(list) == 1 {
		return []copied{{list, child, err}}
	}
	half := len(list) / 2
	return append(k.copiesTo(m, list[:half]), k.copiesTo(m, list[half:])...)
}

// discarded is what becomes of a recipient whom an alias has nobody for.
var discarded = mail.Result{Action: mail.Delivered, Relay: "aliases", Reply: mail.Reply{
	Enhanced: mail.EnhancedCode{2, 0, 0}, Text: "discarded, as its alias says",
}}

func failureOf(err error) mail.Result {
	var f *mail.Failure
	if errors.As(err, &f) {
		return f.Result
	}
	return mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "%v", err)
}

// expanded is a recipient of a message, and whom he stands for.
type expanded struct {
	index     int // of his result
	recipient int // in the envelope
	Expansion
}

// byOwner groups expansions whose copies have the same sender, and so can be one message.
func byOwner(found []expanded) map[mail.Path][]expanded {
	groups := map[mail.Path][]expanded{}
	for _, x := range found {
		groups[x.Owner] = append(groups[x.Owner], x)
	}
	return groups
}

func expansionResult(child mail.ID, x expanded, err error) mail.Result {
	if err != nil {
		return mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "cannot copy the message for whom the alias stands for: %v", err)
	}
	var to []string
	for _, t := range x.Targets {
		to = append(to, t.Path.String())
	}
	const shown = 5
	if len(to) > shown {
		to = append(to[:shown], fmt.Sprintf("and %d more", len(to)-shown))
	}
	return mail.Result{
		Action: mail.Expanded, Relay: "aliases", Notifies: len(x.Targets) == 1,
		Reply: mail.Reply{Enhanced: mail.EnhancedCode{2, 0, 0}, Text: fmt.Sprintf("to %s as %s", strings.Join(to, " "), child)},
	}
}

// copyTo makes the message that takes the place of some recipients.
func (k clerk) copyTo(m *mail.Message, list []expanded) (spool.Taken, error) {
	env := mail.Envelope{
		Arrival: drop.Now(), Sender: m.Sender, Submitter: m.Submitter,
		Return: m.Return, ID: m.Envelope.ID, SMTPUTF8: m.SMTPUTF8, Priority: m.Priority, TLS: m.TLS, DeliverBy: m.DeliverBy,
		Settles: &mail.Settles{Of: m.QueueID},
	}
	if owner := list[0].Owner; !owner.IsNull() && !m.Sender.IsNull() {
		env.Sender = k.rewritten(owner)
	}
	at := map[mail.Path]bool{}
	for _, x := range list {
		env.Settles.Recipients = append(env.Settles.Recipients, x.recipient)
		for _, t := range x.Targets {
			if at[t.Path] {
				continue
			}
			at[t.Path] = true
			env.Recipients = append(env.Recipients, inherit(t, m.Recipients[x.recipient], len(x.Targets) > 1))
		}
	}
	w, err := k.spool.CreateChild(&env)
	if err != nil {
		return spool.Taken{}, err
	}
	trace := fmt.Sprintf("Received: by %s (postrider, alias, from userid %d)\r\n\tid %s; %s\r\n",
		k.Hostname, os.Geteuid(), w.ID(), k.Now().Format(time.RFC1123Z))
	if _, err := io.WriteString(w, trace); err != nil {
		return spool.Taken{}, errors.Join(err, w.Abort())
	}
	if _, err := io.Copy(w, io.NewSectionReader(m.Content, 0, m.Size)); err != nil {
		return spool.Taken{}, errors.Join(err, w.Abort())
	}
	size := w.Size()
	id, err := w.Commit(m.Facts)
	return spool.Taken{ID: id, Size: size, Envelope: env}, err
}

// inherit gives a target the notifications of the recipient it takes the place of (RFC 3461 section 5.2.7.3): all of them
// if it is the only one; otherwise, since the original is delivered as far as its sender is concerned, all but success.
func inherit(target, from mail.Recipient, several bool) mail.Recipient {
	target.Original = from.Original
	if target.Original == "" {
		target.Original = "rfc822;" + mail.EncodeXtext(from.Path.Address())
	}
	target.Notify = from.Notify
	if several && target.Notify&mail.NotifySuccess != 0 {
		target.Notify &^= mail.NotifySuccess
		if target.Notify == 0 {
			target.Notify = mail.NotifyNever
		}
	}
	return target
}
