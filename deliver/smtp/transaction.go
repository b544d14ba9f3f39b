package smtp

import (
	"errors"
	"fmt"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// A transaction is MAIL, a RCPT for each slot, DATA and the content.
type transaction struct {
	*delivery
	slots    []int
	accepted []int // slots with a 2xx to RCPT
	again    []int // slots that were too many for this transaction
	sent     bool  // all of the content has been
}

// A command is one of those that begin a transaction.
type command struct {
	verb string
	slot int // of RCPT
}

var (
	cmdRset = command{verb: "RSET"}
	cmdMail = command{verb: "MAIL"}
	cmdData = command{verb: "DATA"}
)

func (c command) append(b []byte, t *transaction) []byte {
	switch c.verb {
	case "MAIL":
		return t.appendMail(b)
	case "RCPT":
		return t.appendRcpt(b, c.slot)
	default:
		return append(append(b, c.verb...), "\r\n"...)
	}
}

func (c command) limit(t *Timeouts) time.Duration {
	switch c.verb {
	case "MAIL":
		return t.Mail
	case "RCPT":
		return t.Recipient
	case "DATA":
		return t.Data
	default:
		return t.Reset
	}
}

// run carries the transaction out. It decides what can be decided of each slot, and returns what ends the delivery for
// all that are undecided; nil if it can go on with another transaction.
func (t *transaction) run() *mail.Result {
	// What the server says unasked would be taken for the answer to what we ask next.
	if t.conn.r.Buffered() > 0 {
		return t.unasked()
	}
	content, err := t.firstBlock()
	if err != nil {
		return t.unreadable(err)
	}
	reset := !t.clean
	t.mails++
	t.clean = false
	if t.ext.pipelining {
		t.sendGroup(reset)
	}
	if reset {
		reply, err := t.ask(cmdRset)
		if err != nil || !positive(reply) {
			return t.stopped(cmdRset, reply, err)
		}
	}
	reply, err := t.ask(cmdMail)
	if err != nil || closing(reply) || intermediate(reply) {
		return t.stopped(cmdMail, reply, err)
	}
	if !positive(reply) {
		t.drain(len(t.slots))
		return t.refusal(reply)
	}
	if end := t.envelope(); end != nil {
		return end
	}
	return t.data(content)
}

// elsewhere marks what another host may be asked about: a server that did not get the content to judge has not had it,
// and where it took some recipients it is in order, so that the others have to wait for it (RFC 5321 section 5.1).
func (t *transaction) elsewhere(end *mail.Result) {
	if end != nil {
		end.Elsewhere = !t.sent && end.Action == mail.Delayed && end.Scope != mail.OfUs && end.Relay != ""
	}
	if len(t.accepted) > 0 {
		return
	}
	for _, slot := range t.slots {
		if r := &t.results[slot]; t.decided[slot] && r.Action == mail.Delayed && r.Scope == mail.OfRecipient {
			r.Elsewhere = true
		}
	}
}

// sendGroup sends all that can be sent before an answer is needed (RFC 2920 section 3.1).
func (t *transaction) sendGroup(reset bool) {
	b := t.command[:0]
	if reset {
		b = cmdRset.append(b, t)
	}
	b = cmdMail.append(b, t)
	for _, slot := range t.slots {
		b = command{"RCPT", slot}.append(b, t)
	}
	b = cmdData.append(b, t)
	t.command = b
	t.conn.send(b, t.server.Timeouts.Mail)
}

// ask returns the reply to a command, and sends it first unless it went with the group.
func (t *transaction) ask(c command) (mail.Reply, error) {
	if !t.ext.pipelining {
		t.command = c.append(t.command[:0], t)
		t.conn.send(t.command, t.server.Timeouts.Mail)
	}
	return t.conn.reply(c.limit(&t.server.Timeouts))
}

// envelope asks for each recipient.
func (t *transaction) envelope() *mail.Result {
	for i, slot := range t.slots {
		c := command{"RCPT", slot}
		reply, err := t.ask(c)
		if err != nil || closing(reply) || intermediate(reply) {
			return t.stopped(c, reply, err)
		}
		switch {
		case positive(reply):
			t.accepted = append(t.accepted, slot)
		case i > 0 && len(t.accepted) > 0 && tooMany(reply):
			t.again = append(t.again, slot)
			if !t.ext.pipelining {
				t.again = append(t.again, t.slots[i+1:]...)
				return nil
			}
		default:
			t.decide(slot, t.refusalOf(mail.OfRecipient, reply))
		}
	}
	return nil
}

// tooMany reports whether a refusal of a recipient that is not the first is of the number of recipients: 452, of old
// 552 (RFC 5321 section 4.5.3.1.10), or x.5.3. What speaks of the mailbox (x.2.z) does not.
func tooMany(r mail.Reply) bool {
	if r.Enhanced[1] == 5 && r.Enhanced[2] == 3 {
		return true
	}
	return (r.Code == 452 || r.Code == 552) && r.Enhanced[1] != 2
}

// refusal is the result of a 4xx or 5xx to anything but RCPT.
func (t *transaction) refusal(reply mail.Reply) *mail.Result {
	r := t.refusalOf(mail.OfMessage, reply)
	t.barred = r.Scope == mail.OfUs
	return &r
}

func (t *transaction) refusalOf(scope mail.Scope, reply mail.Reply) mail.Result {
	switch reply.Code {
	case 530, 534, 535, 538: // log in, or log in better: the sender cannot help it (RFC 4954 section 6)
		return t.said(mail.Delayed, mail.OfUs, reply)
	case 421:
		t.broken = true
		return t.said(mail.Delayed, mail.OfHost, reply)
	}
	if reply.Code/100 == 5 {
		return t.said(mail.Failed, scope, reply)
	}
	return t.said(mail.Delayed, scope, reply)
}

// stopped is for a command whose answer ends the session: none, one that is out of place, or a farewell.
func (t *transaction) stopped(c command, reply mail.Reply, err error) *mail.Result {
	t.broken = true
	var r mail.Result
	switch {
	case err != nil:
		r = t.lost("sending "+c.verb, err)
	case closing(reply):
		r = t.said(mail.Delayed, mail.OfHost, reply)
	default:
		r = t.lost("sending "+c.verb, outOfPlace(reply))
	}
	return &r
}

func outOfPlace(r mail.Reply) error {
	return protocolError(fmt.Sprintf("reply %q is out of place", r.String()))
}

// unasked ends a session in which the server has spoken out of turn: to say goodbye, most likely.
func (t *transaction) unasked() *mail.Result {
	reply, err := t.conn.reply(t.server.Timeouts.Quit)
	if err != nil || closing(reply) {
		return t.stopped(cmdMail, reply, err)
	}
	return t.stopped(cmdMail, reply, outOfPlace(reply))
}

// drain reads the replies to the rest of a group after its MAIL was refused.
func (t *transaction) drain(recipients int) {
	if !t.ext.pipelining {
		return
	}
	taken := false
	for range recipients {
		reply, err := t.ask(command{verb: "RCPT"})
		if err != nil || closing(reply) {
			t.broken = true
			return
		}
		taken = taken || positive(reply)
	}
	reply, err := t.ask(cmdData)
	switch {
	case err != nil || closing(reply) || positive(reply) || taken && intermediate(reply):
		t.broken = true // never ask a server this confused to send an empty message
	case intermediate(reply):
		t.loneDot()
	}
}

// loneDot ends the content of a message for nobody that the server would take (RFC 2920 section 3.1).
func (t *transaction) loneDot() {
	t.conn.send([]byte(".\r\n"), t.server.Timeouts.Block)
	if reply, err := t.conn.reply(t.server.Timeouts.Final); err != nil || closing(reply) {
		t.broken = true
	}
}

// data asks for the content to be sent, and sends it.
func (t *transaction) data(first []byte) *mail.Result {
	if len(t.accepted) == 0 && !t.ext.pipelining {
		return nil
	}
	reply, err := t.ask(cmdData)
	if err != nil || closing(reply) || positive(reply) {
		return t.stopped(cmdData, reply, err)
	}
	if len(t.accepted) == 0 {
		if intermediate(reply) {
			t.loneDot()
		}
		return nil
	}
	if !intermediate(reply) {
		return t.refusal(reply)
	}
	sent, err := t.sendContent(first)
	if err != nil {
		return t.cutShort(err)
	}
	if !sent {
		return t.early()
	}
	return t.final()
}

// final reads the answer to the end of the content: the one that counts.
func (t *transaction) final() *mail.Result {
	t.sent = true
	reply, err := t.conn.reply(t.server.Timeouts.Final)
	if err != nil || intermediate(reply) {
		if err == nil {
			err = outOfPlace(reply)
		}
		t.broken = true
		r := t.delay(mail.OfMessage, mail.EnhancedCode{4, 4, 2},
			"the message was sent, but %s did not say whether it took it (%s): it may arrive twice", t.server.Host, t.reason(err))
		return &r
	}
	if !positive(reply) {
		return t.refusal(reply)
	}
	t.clean = true
	done := t.said(mail.Relayed, mail.OfRecipient, reply)
	done.Notifies = t.ext.dsn
	for _, slot := range t.accepted {
		t.decide(slot, done)
	}
	return nil
}

func (t *transaction) reason(err error) string {
	if t.conn.interrupted.Load() {
		return "interrupted"
	}
	return why(err)
}

// early is for a server that has answered before the end of the content. A refusal stands; the rest of the content is
// not sent, so that nothing can come of it.
func (t *transaction) early() *mail.Result {
	reply, err := t.conn.reply(t.server.Timeouts.Quit)
	if err == nil && !closing(reply) && (positive(reply) || intermediate(reply)) {
		err = outOfPlace(reply)
	}
	t.broken = true
	if err != nil {
		r := t.lost("sending the message", err)
		return &r
	}
	return t.refusal(reply)
}

// cutShort is for content that could not be sent to its end, so that the server cannot have taken it.
func (t *transaction) cutShort(err error) *mail.Result {
	var local *readError
	if errors.As(err, &local) {
		t.broken = true // only hanging up tells the server that this is not all
		return t.unreadable(local.err)
	}
	reply, replyErr := t.conn.reply(lastWords)
	t.broken = true
	if replyErr == nil && !positive(reply) && !intermediate(reply) {
		return t.refusal(reply)
	}
	r := t.lost("sending the message", err)
	return &r
}

func (d *delivery) unreadable(err error) *mail.Result {
	r := d.delay(mail.OfMessage, mail.EnhancedCode{4, 3, 0}, "cannot read the message: %v", err)
	r.Relay, r.TLS = "", "" // not the server's doing
	return &r
}
