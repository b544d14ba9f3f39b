package deliver

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/postrider/postrider/deliver/dsn"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
)

// A clerk turns the results of an attempt into what the spool is told: it decides what has expired, and writes the
// reports to senders.
type clerk struct {
	*Options
	spool *spool.Spool
	retry Retry // the schedule of the next hop
}

// concludeAll concludes an attempt that had one result for every recipient of the claim.
func (k clerk) concludeAll(c spool.Claim, r mail.Result) event {
	f, err := k.spool.Read(c.ID)
	if err != nil {
		return unreadable(c, err)
	}
	defer f.Close()
	results := make([]mail.Result, len(c.Recipients))
	for i := range results {
		results[i] = r
	}
	return k.conclude(c, &f.Message, results, false)
}

// unreadable concludes an attempt at a message that cannot be read. It stays in the queue until somebody has seen to it.
func unreadable(c spool.Claim, err error) event {
	st := &spool.Settlement{Claim: c}
	for _, r := range c.Recipients {
		result := mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "the message cannot be read: %v", err)
		st.Dispositions = append(st.Dispositions, spool.Disposition{Recipient: r.Recipient, Result: result})
	}
	return event{settlement: st, lines: []string{fmt.Sprintf("%s: %v; deferred", c.ID, err)}}
}

// conclude makes of the results of an attempt a settlement, with the reports that it needs already durable, and the
// lines for the log. again says that whom the host has left open is tried again at once: that was not the last attempt for
// him, nor is he delayed.
func (k clerk) conclude(c spool.Claim, m *mail.Message, results []mail.Result, again bool) event {
	now := k.Now()
	st := &spool.Settlement{Claim: c}
	for i, r := range c.Recipients {
		result := results[i]
		if !(again && leftOpen(result)) && k.retry.givenUp(result, m.Begin(), now, r.Attempts) {
			result.Action = mail.Failed
		}
		d := spool.Disposition{Recipient: r.Recipient, Result: result}
		if !result.Action.Final() {
			// The wait begins when the attempt has failed (RFC 5321 section 4.5.4.1), which a silent server can put off
			// for longer than the wait.
			d.Next = k.retry.Next(c.ID, now, r.Attempts)
		}
		st.Dispositions = append(st.Dispositions, d)
	}
	e := event{settlement: st, again: again}
	k.report(&e, m, mail.Failed, func(i int) bool { return st.Dispositions[i].Result.Action == mail.Failed })
	k.report(&e, m, mail.Delayed, func(i int) bool {
		r := st.Dispositions[i].Result
		return !c.Recipients[i].Told && !(again && leftOpen(r)) && k.retry.worthTelling(r, m.Begin(), now, c.Recipients[i].Attempts)
	})
	if m.Sender.IsNull() && slices.ContainsFunc(st.Dispositions, func(d spool.Disposition) bool { return d.Result.Action == mail.Failed }) {
		e.lines = append(e.lines, fmt.Sprintf("%s: nobody is told of the non-delivery: the sender is null", m.QueueID))
	}
	for _, success := range []mail.Action{mail.Delivered, mail.Relayed, mail.Expanded} {
		k.report(&e, m, success, func(i int) bool {
			r := st.Dispositions[i].Result
			return r.Action == success && (!r.Notifies || escapes(m, r))
		})
	}
	var lines []string
	for _, d := range st.Dispositions {
		lines = append(lines, k.line(m, d))
	}
	e.lines = append(lines, e.lines...)
	return e
}

// leftOpen reports whether a result says nothing of the recipient or of the message.
func leftOpen(r mail.Result) bool { return r.Action == mail.Delayed && r.Scope >= mail.OfHost }

// report tells the sender about the recipients of a settlement for which about is true, in one message, and reports
// whether he needs to be told nothing more. If it cannot be written, nobody is given up: the recipients stay, and are tried
// again. What has arrived is not sent again for it.
func (k clerk) report(e *event, m *mail.Message, action mail.Action, about func(i int) bool) bool {
	var told []int
	for i, d := range e.settlement.Dispositions {
		if about(i) && k.wanted(action, m, d) {
			told = append(told, i)
		}
	}
	if len(told) == 0 {
		return true
	}
	t, err := k.writeReport(e.settlement, m, action, told)
	if err != nil {
		e.lines = append(e.lines, fmt.Sprintf("%s: cannot write a report to the sender: %v", m.QueueID, err))
		for _, i := range told {
			if isSuccess(action) {
				break
			}
			r := mail.Delay(mail.OfUs, mail.EnhancedCode{4, 3, 0}, "cannot write a report to the sender: %v", err)
			e.settlement.Dispositions[i].Result = r
		}
		return false
	}
	e.settlement.Children = append(e.settlement.Children, t)
	what := "non-delivery"
	switch {
	case action == mail.Delayed:
		what = "delay"
		for _, i := range told {
			e.settlement.Dispositions[i].Told = true
		}
	case isSuccess(action):
		what = "success"
	}
	e.lines = append(e.lines, fmt.Sprintf("%s: sender notified of %s: %s", m.QueueID, what, t.ID))
	return true
}

// wanted reports whether the sender of a message is to be told of a disposition.
func (k clerk) wanted(action mail.Action, m *mail.Message, d spool.Disposition) bool {
	r := m.Recipients[d.Recipient]
	return dsn.Wanted(action, m.Sender, r) || isSuccess(action) && escapes(m, d.Result) && !m.Sender.IsNull() && r.Notify != mail.NotifyNever
}

// escapes reports whether a message with a deadline has gone where nobody minds it, or its sender wants to know of every
// step: he is told that it has been relayed (RFC 2852 section 4.1.4.2).
func escapes(m *mail.Message, r mail.Result) bool {
	by := m.DeliverBy
	return r.Action == mail.Relayed && !by.Deadline.IsZero() && (!r.InTime || by.Trace)
}

func isSuccess(a mail.Action) bool { return a != mail.Failed && a != mail.Delayed }

// writeReport makes the report durable. What a message makes our own code do when we return it is an error like others:
// the pass goes on, and who has the message does not get it again.
func (k clerk) writeReport(st *spool.Settlement, m *mail.Message, action mail.Action, told []int) (report spool.Taken, err error) {
	env := mail.Envelope{
		Arrival:    drop.Now(),
		Sender:     mail.NullSender,
		Recipients: []mail.Recipient{{Path: m.Sender}},
		Submitter:  os.Geteuid(),
		SMTPUTF8:   !m.Sender.IsASCII(),
		Priority:   m.Urgency(os.Geteuid()),
		TLS:        m.TLS,
	}
	if action == mail.Failed {
		env.Settles = &mail.Settles{Of: m.QueueID}
		for _, i := range told {
			env.Settles.Recipients = append(env.Settles.Recipients, st.Dispositions[i].Recipient)
		}
	}
	w, err := k.spool.CreateChild(&env)
	if err != nil {
		return spool.Taken{}, err
	}
	defer func() {
		if p := recover(); p != nil {
			err = errors.Join(fmt.Errorf("internal error: %v", p), w.Abort())
		}
	}()
	from, err := mail.ParsePath("MAILER-DAEMON@" + k.Hostname)
	if err != nil {
		return spool.Taken{}, errors.Join(err, w.Abort())
	}
	from = k.rewritten(from)
	now := k.Now()
	r := dsn.Report{
		Action: action, ReportingMTA: k.Hostname, Now: now, ID: w.ID(),
		MessageID: "dsn." + string(w.ID()) + "@" + k.Hostname, From: from,
		Original: m, WillRetryUntil: k.lastTry(m),
	}
	for _, i := range told {
		d := st.Dispositions[i]
		r.Recipients = append(r.Recipients, dsn.Recipient{
			Recipient: m.Recipients[d.Recipient], Result: d.Result,
			Attempts: st.Recipients[i].Attempts, FirstAttempt: m.Begin(), LastAttempt: now,
		})
	}
	facts, err := r.Compose(w)
	if err != nil {
		return spool.Taken{}, errors.Join(err, w.Abort())
	}
	size := w.Size()
	id, err := w.Commit(facts)
	return spool.Taken{ID: id, Size: size, Envelope: env}, err
}

// lastTry returns when a message is given up.
func (k clerk) lastTry(m *mail.Message) time.Time {
	expires := m.Begin().Add(k.retry.Expire)
	if by := m.DeliverBy; by.Return && by.Deadline.Before(expires) {
		return by.Deadline
	}
	return expires
}

func (k clerk) rewritten(p mail.Path) mail.Path {
	if k.Rewritten == nil {
		return p
	}
	return k.Rewritten(p)
}

// line is what the mail log says of one recipient and attempt.
func (k clerk) line(m *mail.Message, d spool.Disposition) string {
	status := map[mail.Action]string{mail.Delayed: "deferred", mail.Delivered: "sent", mail.Relayed: "sent", mail.Failed: "bounced", mail.Expanded: "expanded"}
	relay := d.Result.Relay
	if relay == "" {
		relay = "none"
	}
	secure := ""
	if d.Result.TLS != "" {
		secure = ", tls=" + strings.ReplaceAll(d.Result.TLS, " ", "/")
	}
	return fmt.Sprintf("%s: to=%s, relay=%s%s, delay=%s, dsn=%s, status=%s (%s)", m.QueueID, m.Recipients[d.Recipient].Path,
		relay, secure, elapsed(k.Now().Sub(m.Arrival)), d.Result.Status(), status[d.Result.Action], d.Result.Reply)
}
