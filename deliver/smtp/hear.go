package smtp

import "github.com/postrider/postrider/internal/mail"

// hear reads all the answers to a transaction. Each is read, whatever the ones before it said: they are told apart by
// counting alone. An error ends the session.
func (t *transaction) hear(p *pipeline) error {
	if t.reset {
		reply, err := t.hearOne(cmdRset, t.beginsAt)
		if err != nil {
			return err
		}
		if closing(reply) {
			t.refusal(reply)
			t.parted = true
		}
	}
	reply, err := t.hearOne(cmdMail, t.beginsAt)
	if err != nil {
		return err
	}
	if !positive(reply) {
		r := t.refusal(reply)
		t.refused = &r
	}
	for i, slot := range t.slots {
		reply, err := t.hearOne(command{verb: "RCPT"}, t.beginsAt)
		if err != nil {
			return err
		}
		if t.refused == nil {
			t.offered(slot, i == 0, reply)
			t.parted = t.parted || closing(reply)
		} else if positive(reply) {
			t.accepted = append(t.accepted, slot)
		} else if closing(reply) {
			t.refusal(reply)
		}
	}
	return t.hearFinal()
}

// hearFinal reads the answer to the content.
func (t *transaction) hearFinal() error {
	wanted := t.refused == nil && len(t.accepted) > 0 && !t.over.Load()
	if t.wanted != nil && t.conn.r.Buffered() > 0 {
		return t.hearUnasked()
	}
	if t.wanted != nil {
		t.wanted <- wanted
	}
	if t.wanted != nil && !wanted {
		t.endsAt = never
	} else {
		reply, err := t.hearOne(cmdBdat, t.endsAt)
		switch {
		case err != nil:
			return err
		case !t.conn.sentTo(t.endsAt):
			return t.hearEarly(reply)
		case t.refused != nil && positive(reply) && len(t.accepted) > 0:
			t.confused() // it has refused the sender and taken the message
		case t.refused == nil && len(t.accepted) > 0:
			t.answer(reply)
		case closing(reply):
			t.refusal(reply) // it changes nothing for this message
		}
	}
	if t.refused != nil {
		t.refuse(*t.refused)
	}
	return nil
}

// hearUnasked is for a server that says more than it was asked while the content waits for its answers, and is not sent.
func (t *transaction) hearUnasked() error {
	t.endsAt = never
	t.wanted <- false
	reply, err := t.unasked()
	if err != nil {
		t.lost("sending the message", err)
		return err
	}
	t.refuse(t.refusal(reply))
	return errAnswered
}

// hearEarly is for an answer to a content that is still being sent. A refusal stands; the rest of the content is not
// sent, so that nothing can come of it.
func (t *transaction) hearEarly(reply mail.Reply) error {
	if positive(reply) {
		err := outOfPlace(reply)
		t.lost("sending the message", err)
		return err
	}
	if len(t.accepted) > 0 && t.refused == nil {
		t.refuse(t.refusal(reply))
	}
	t.confused()
	return errAnswered
}

// hearOne reads the answer to a command that ends at a place among the octets sent. An error ends the session.
func (t *transaction) hearOne(c command, place int64) (mail.Reply, error) {
	limit := c.limit(&t.server.Timeouts)
	if t.broken {
		limit = min(limit, lastWords) // what was said to be the last word may not have been
	}
	reply, err := t.conn.replyTo(place, limit)
	if err == nil && (intermediate(reply) || c == cmdRset && !positive(reply) && !closing(reply)) {
		err = outOfPlace(reply)
	}
	if err != nil {
		t.lost("sending "+c.verb, err)
	} else if t.broken && !closing(reply) {
		t.wentOn = true
	}
	return reply, err
}
