package smtp

import (
	"context"
	"errors"
	"slices"

	"github.com/postrider/postrider/internal/mail"
)

// Turns are how a server without both PIPELINING and CHUNKING gets its messages: one transaction after another. For one
// recipient that takes four round trips for a message (MAIL, RCPT, DATA, content), three with CHUNKING, and one with
// PIPELINING: then the next MAIL, RCPT and DATA go out with the end of the last content (RFC 2920 section 3.1).
type turns struct {
	*Session
	attempts <-chan mail.Attempt
	live     []*delivery  // taken and not answered
	now      *transaction // begun
	ahead    *transaction // its commands went out with the content of that one
}

// inTurn makes the attempts that come.
func (s *Session) inTurn(ctx context.Context, attempts <-chan mail.Attempt) {
	q := &turns{Session: s, attempts: attempts}
	defer q.windUp()
	for {
		if q.now = q.next(ctx); q.now == nil {
			return
		}
		q.now.run(q)
		if q.now.answered(q.now) {
			q.finish(q.now.delivery)
		}
	}
}

// windUp settles what is left. What anybody has panicked with goes on after that.
func (q *turns) windUp() {
	crash := recover()
	if crash != nil {
		q.crashed(crash)
	}
	for len(q.live) > 0 {
		q.finish(q.live[0])
	}
	if crash != nil {
		panic(crash)
	}
}

// crashed decides what was taken when our own code panicked: the session is out of step, and nobody is given back.
func (q *turns) crashed(crash any) {
	r := q.internalError(crash)
	q.breakOff(r)
	if t := q.now; t != nil && t.endsAt > 0 && t.conn.took(t.endsAt) {
		t.unknown(protocolError("internal error"))
	}
	for _, d := range q.live {
		d.decideAll(r)
	}
}

func (q *turns) finish(d *delivery) {
	q.live = slices.DeleteFunc(q.live, func(other *delivery) bool { return other == d })
	d.finish()
}

// next returns the next transaction, and waits for an attempt if it has to; nil if there is none.
func (q *turns) next(ctx context.Context) *transaction {
	if t := q.ahead; t != nil && !q.over.Load() {
		q.ahead = nil
		return t
	}
	for q.Usable() {
		if t := q.begun(); t != nil {
			return t
		}
		select {
		case a, ok := <-q.attempts:
			if !ok {
				return nil
			}
			q.take(a)
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// begun returns the next transaction for what was taken already.
func (q *turns) begun() *transaction {
	for _, d := range q.live {
		if t := d.next(); t != nil {
			return t
		}
	}
	return nil
}

func (q *turns) take(a mail.Attempt) {
	d := q.Session.take(a)
	if len(d.todo) == 0 {
		d.finish()
		return
	}
	q.live = append(q.live, d)
}

// group returns the commands of a transaction that can go out behind a content; none if nobody has one ready.
func (q *turns) group() []byte {
	if !q.ext.pipelining || !q.Usable() {
		return nil
	}
	t := q.begun()
	if t == nil {
		select {
		case a, ok := <-q.attempts:
			if ok {
				q.take(a)
				t = q.begun()
			}
		default:
		}
	}
	if t == nil {
		return nil
	}
	q.ahead = t
	if len(t.slots) > largeGroup/64 {
		return nil // it goes by itself
	}
	t.command, t.grouped = t.appendGroup(t.command[:0]), true
	q.conn.log.said(t.command)
	return t.command
}

// run carries a transaction out.
func (t *transaction) run(q *turns) {
	if !t.grouped {
		if t.conn.r.Buffered() > 0 {
			reply, err := t.unasked()
			t.stop(cmdMail, reply, err)
			return
		}
		if t.ext.pipelining {
			t.command, t.grouped = t.appendGroup(t.command[:0]), true
			t.conn.send(t.command, t.server.Timeouts.Mail)
		}
	}
	if t.reset {
		if reply, err := t.ask(cmdRset); err != nil || !positive(reply) {
			t.stop(cmdRset, reply, err)
			return
		}
	}
	reply, err := t.ask(cmdMail)
	switch {
	case err != nil || closing(reply) || intermediate(reply):
		t.stop(cmdMail, reply, err)
	case !positive(reply):
		t.drain()
		t.refuse(t.refusal(reply))
	case t.envelope():
		t.content(q)
	}
}

// appendGroup appends all that can be sent before an answer is needed (RFC 2920 section 3.1).
func (t *transaction) appendGroup(b []byte) []byte {
	return cmdData.append(t.appendEnvelope(b), t)
}

// appendEnvelope appends the commands before the content.
func (t *transaction) appendEnvelope(b []byte) []byte {
	if t.reset {
		b = cmdRset.append(b, t)
	}
	b = cmdMail.append(b, t)
	for _, slot := range t.slots {
		b = command{"RCPT", slot}.append(b, t)
	}
	return b
}

// ask returns the reply to a command, and sends it first unless it went with the group.
func (t *transaction) ask(c command) (mail.Reply, error) {
	if !t.grouped {
		if t.conn.r.Buffered() > 0 {
			return t.unasked()
		}
		t.command = c.append(t.command[:0], t)
		t.conn.send(t.command, t.server.Timeouts.Mail)
	}
	return t.conn.reply(c.limit(&t.server.Timeouts))
}

// envelope asks for each recipient. It reports whether the session goes on.
func (t *transaction) envelope() bool {
	for i, slot := range t.slots {
		c := command{"RCPT", slot}
		reply, err := t.ask(c)
		if err != nil || closing(reply) || intermediate(reply) {
			t.stop(c, reply, err)
			return false
		}
		if t.offered(slot, i == 0, reply) && !t.grouped {
			t.again = append(t.again, t.slots[i+1:]...)
			break
		}
	}
	return true
}

// stop is for a command whose answer ends the session: none, one that is out of place, or a farewell.
func (t *transaction) stop(c command, reply mail.Reply, err error) {
	switch {
	case err == nil && closing(reply):
		t.refuse(t.refusal(reply))
	case err == nil:
		err = outOfPlace(reply)
		fallthrough
	default:
		t.cut("sending "+c.verb, err)
	}
}

// cut is for a session that is lost before the content was sent to its end.
func (t *transaction) cut(doing string, err error) {
	if t.grouped {
		t.doubt(err)
	}
	r := t.lost(doing, err)
	if !t.conn.interrupted.Load() {
		t.refuse(r)
	}
}

// drain reads the replies to the rest of a group after its MAIL was refused.
func (t *transaction) drain() {
	if !t.grouped {
		return
	}
	taken := false
	for range t.slots {
		reply, err := t.ask(command{verb: "RCPT"})
		if err != nil || closing(reply) {
			t.confused()
			return
		}
		taken = taken || positive(reply)
	}
	reply, err := t.ask(cmdData)
	switch {
	case err != nil || closing(reply) || positive(reply) || taken && intermediate(reply):
		t.confused() // never ask a server this confused to send an empty message
	case intermediate(reply):
		t.loneDot()
	}
}

// confused ends a session that is of no more use, after its answer to this message.
func (s *Session) confused() {
	s.breakOff(s.delay(mail.OfHost, mail.EnhancedCode{4, 4, 2}, "the session with %s is over", s.server.Host))
}

// loneDot ends the content of a message for nobody that the server would take (RFC 2920 section 3.1).
func (t *transaction) loneDot() {
	if t.server.LMTP {
		t.confused() // nobody would answer
		return
	}
	t.conn.send([]byte(".\r\n"), t.server.Timeouts.Block)
	if reply, err := t.conn.reply(t.server.Timeouts.Final); err != nil || closing(reply) {
		t.confused()
	}
}

// content sends the content, if anybody wants it.
func (t *transaction) content(q *turns) {
	if len(t.accepted) == 0 && !t.grouped {
		return
	}
	chunk := t.ext.chunking && !t.grouped
	if !chunk && !t.data() {
		return
	}
	t.out = t.out[:0]
	if chunk {
		t.out = t.appendBdat(t.out)
		t.conn.log.said(t.out)
	}
	w := contentWriter{transaction: t, chunk: chunk, flush: t.flushInTurn}
	err := w.write()
	if err == nil {
		t.endsAt = t.conn.offered + int64(len(t.out))
		t.out = append(t.out, q.group()...)
		err = t.flushInTurn()
	}
	switch {
	case err == nil || t.endsAt > 0 && t.conn.took(t.endsAt):
		t.final(q)
	case err == errAnswered:
		t.early()
	default:
		t.cutShort(err)
	}
}

// data asks whether the content may be sent. It reports whether it may, and is wanted.
func (t *transaction) data() bool {
	reply, err := t.ask(cmdData)
	switch {
	case err != nil || closing(reply) || positive(reply):
		t.stop(cmdData, reply, err)
	case len(t.accepted) == 0:
		if intermediate(reply) {
			t.loneDot()
		}
	case !intermediate(reply):
		t.refuse(t.refusal(reply))
	default:
		return true
	}
	return false
}

// flushInTurn sends the output, unless the server has answered already: an answer counts only after the end.
func (t *transaction) flushInTurn() error {
	if t.conn.r.Buffered() > 0 {
		return errAnswered
	}
	if len(t.out) == 0 {
		return nil
	}
	err := t.conn.write(t.out, t.server.Timeouts.Block)
	t.out = t.out[:0]
	return err
}

// final reads the answer to the end of the content.
func (t *transaction) final(q *turns) {
	if t.server.LMTP {
		t.clean = t.finals() && q.ahead == nil
		return
	}
	reply, err := t.conn.reply(t.server.Timeouts.Final)
	if err == nil && intermediate(reply) {
		err = outOfPlace(reply)
	}
	if err != nil {
		t.lost("waiting for the answer to the message", err)
		t.unknown(err)
		return
	}
	t.answer(reply)
	t.clean = positive(reply) && q.ahead == nil
}

// early is for a server that has answered before the end of the content. A refusal stands; the rest of the content is
// not sent, so that nothing can come of it.
func (t *transaction) early() {
	reply, err := t.conn.reply(t.server.Timeouts.Quit)
	if err == nil && (positive(reply) || intermediate(reply)) {
		err = outOfPlace(reply)
	}
	if err != nil {
		t.cut("sending the message", err)
		return
	}
	t.confused()
	t.refuse(t.refusal(reply))
}

// cutShort is for content that could not be sent to its end, so that the server cannot have taken it.
func (t *transaction) cutShort(err error) {
	if local, ok := errors.AsType[*readError](err); ok {
		t.confused() // only hanging up tells the server that this is not all
		t.refuse(*t.unreadable(local.err))
		return
	}
	reply, replyErr := t.conn.reply(lastWords)
	if replyErr == nil && !positive(reply) && !intermediate(reply) {
		t.confused()
		t.refuse(t.refusal(reply))
		return
	}
	t.cut("sending the message", err)
}
