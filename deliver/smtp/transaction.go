package smtp

import (
	"errors"
	"os"
	"slices"

	"github.com/postrider/postrider/internal/mail"
)

// A transaction is MAIL, a RCPT for each slot, and the content, by DATA or by BDAT.
type transaction struct {
	*delivery
	slots    []int
	accepted []int        // slots with a 2xx to RCPT
	again    []int        // slots that were too many for this transaction
	refused  *mail.Result // what was said of the message or the host, if that ended it
	judged   bool         // the server had all of the content when it answered, or hung up
	parted   bool         // the server said goodbye to it, with more to be answered
	reset    bool         // RSET goes first
	grouped  bool         // its commands were sent together
	beginsAt int64        // where the content begins among the octets sent, with BDAT
	endsAt   int64        // and where it ends
	wanted   chan bool    // gets the answer whether the content is to follow; nil if it does anyway
}

// refuse ends the transaction for all who are undecided, but for those who were too many. Another host may be asked unless
// this one has had the content to judge.
func (t *transaction) refuse(r mail.Result) {
	r.Elsewhere = !t.judged && r.Action == mail.Delayed && r.Scope != mail.OfUs && r.Relay != ""
	t.refused = &r
	for _, slot := range t.slots {
		if !slices.Contains(t.again, slot) {
			t.decide(slot, r)
		}
	}
}

// doubt takes back what was decided of recipients if err says that one of the replies to a group of commands is too many
// or missing: a refusal may have been meant for somebody else.
func (t *transaction) doubt(err error) {
	if _, ok := errors.AsType[misplaced](err); !ok && !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	for _, slot := range t.slots {
		t.decided[slot] = false
	}
}

// elsewhere marks recipients whom another host may be asked about. Where this one took others it is in order, so that
// they have to wait for it (RFC 5321 section 5.1).
func (t *transaction) elsewhere() {
	if len(t.accepted) > 0 {
		return
	}
	for _, slot := range t.slots {
		if r := &t.results[slot]; t.decided[slot] && r.Action == mail.Delayed && (r.Scope == mail.OfRecipient || r.Scope == mail.OfHost) {
			r.Elsewhere = true
		}
	}
}

// offered takes the answer to a RCPT; first says that it was the first one. It reports whether the recipient was one too
// many.
func (t *transaction) offered(slot int, first bool, reply mail.Reply) (excess bool) {
	switch {
	case positive(reply):
		t.accepted = append(t.accepted, slot)
	case !first && len(t.accepted) > 0 && tooMany(reply):
		t.again = append(t.again, slot)
		return true
	default:
		t.decide(slot, t.refusalOf(mail.OfRecipient, reply))
	}
	return false
}

// tooMany reports whether a refusal of a recipient that is not the first is of the number of recipients: 452, of old
// 552 (RFC 5321 section 4.5.3.1.10), or x.5.3. What speaks of the mailbox (x.2.z) does not.
func tooMany(r mail.Reply) bool {
	if r.Enhanced[1] == 5 && r.Enhanced[2] == 3 {
		return true
	}
	return (r.Code == 452 || r.Code == 552) && r.Enhanced[1] != 2
}

// answer takes the answer to the end of the content: the one that counts.
func (t *transaction) answer(reply mail.Reply) {
	t.judged = true
	if !positive(reply) {
		t.refuse(t.refusal(reply))
		return
	}
	done := t.said(mail.Relayed, mail.OfRecipient, reply)
	done.Notifies, done.InTime = t.ext.dsn, t.ext.deliverBy
	for _, slot := range t.accepted {
		t.decide(slot, done)
	}
}

// unknown is for a message that was sent to its end, and nobody knows whether the server took it.
func (t *transaction) unknown(err error) {
	t.judged = true
	reason := why(err)
	if t.conn.interrupted.Load() {
		reason = "interrupted"
	}
	t.refuse(t.delay(mail.OfMessage, mail.EnhancedCode{4, 4, 2},
		"the message was sent, but %s did not say whether it took it (%s): it may arrive twice", t.server.Host, reason))
}

// refusal is the result of a 4xx or 5xx to anything but RCPT.
func (s *Session) refusal(reply mail.Reply) mail.Result {
	r := s.refusalOf(mail.OfMessage, reply)
	if r.Scope == mail.OfUs {
		s.end(r) // every message would be told the same
	}
	return r
}

func (s *Session) refusalOf(scope mail.Scope, reply mail.Reply) mail.Result {
	switch reply.Code {
	case 530, 534, 535, 538: // log in, or log in better: the sender cannot help it (RFC 4954 section 6)
		return s.said(mail.Delayed, mail.OfUs, reply)
	case 421:
		r := s.said(mail.Delayed, mail.OfHost, reply)
		s.breakOff(r)
		return r
	}
	if reply.Code/100 == 5 {
		return s.said(mail.Failed, scope, reply)
	}
	return s.said(mail.Delayed, scope, reply)
}

func outOfPlace(r mail.Reply) error { return misplaced(r.String()) }
