package smtp

import (
	"github.com/postrider/postrider/internal/mail"
)

// finals reads the answers of LMTP to the end of the content: one for each recipient whose RCPT was accepted, in their
// order (RFC 2033 section 4.2). It reports whether the message is in everybody's mailbox. Whoever has been answered for is
// that, also when the server hangs up before the next; of the others nobody knows.
func (t *transaction) finals() (all bool) {
	t.judged, all = true, true
	for _, slot := range t.accepted {
		reply, err := t.conn.reply(t.server.Timeouts.Final)
		if err == nil && intermediate(reply) {
			err = outOfPlace(reply)
		}
		if err != nil {
			t.lost("waiting for the answers to the message", err)
			t.unknown(err)
			return false
		}
		if !positive(reply) {
			t.decide(slot, t.refusalOf(mail.OfRecipient, reply))
			all = false
			continue
		}
		done := t.said(mail.Delivered, mail.OfRecipient, reply)
		done.Notifies = t.ext.dsn
		t.decide(slot, done)
	}
	return all
}
