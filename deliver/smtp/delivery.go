package smtp

import (
	"slices"
	"time"

	"github.com/postrider/postrider/deliver/idn"
	"github.com/postrider/postrider/deliver/recode"
	"github.com/postrider/postrider/internal/mail"
)

// A delivery is an attempt on its way, in as many transactions as the server wants. A slot is a position in its
// recipients and results.
type delivery struct {
	*Session
	mail.Attempt
	results []mail.Result
	decided []bool // slots whose result stands, whatever happens to the others

	todo []int // slots that no transaction has been begun for
	open int   // transactions that are not answered
	some bool  // the server would take some of the recipients

	recode bool  // the server does not take the content as it is
	mend   bool  // nor does BDAT: it has what is no CRLF, or does not end in one
	size   int64 // of what is sent, in octets
}

// take begins with an attempt. It may be over at once: if the server has announced that it takes none of it.
func (s *Session) take(a mail.Attempt) *delivery {
	d := &delivery{Session: s, Attempt: a, size: a.Size}
	d.results = make([]mail.Result, len(a.Positions))
	d.decided = make([]bool, len(a.Positions))
	if end := d.foresee(); end != nil {
		d.decideAll(*end)
		return d
	}
	d.todo = d.addressable()
	return d
}

func (d *delivery) foresee() *mail.Result {
	if err := d.measure(); err != nil {
		return d.unreadable(err)
	}
	return d.inVain()
}

// measure finds out how the content has to be sent, and how large it is then.
func (d *delivery) measure() (err error) {
	switch {
	case recode.Needed(d.Facts, d.ext.eightBit):
		d.recode = true
		d.size, err = recode.Size(d.Content, d.Size, d.ext.eightBit)
	case d.ext.chunking:
		d.mend, d.size, err = d.measureChunk()
	default:
		_, err = d.block(0) // before a server is bothered with a message that nobody can read
	}
	return err
}

// next begins the next transaction; nil if there is none.
func (d *delivery) next() *transaction {
	if len(d.todo) == 0 {
		return nil
	}
	n := min(len(d.todo), d.MaxRecipients())
	t := &transaction{delivery: d, slots: d.todo[:n:n], reset: !d.clean}
	d.todo = d.todo[n:]
	d.open++
	d.mails++
	d.clean = false
	return t
}

// answered takes note of a transaction that is over. It reports whether the delivery is, too.
func (d *delivery) answered(t *transaction) bool {
	d.open--
	d.some = d.some || len(t.accepted) > 0
	t.elsewhere()
	d.todo = append(t.again, d.todo...)
	if t.refused != nil {
		// What is true of the message or of the host is true of those whose turn has not come.
		for _, slot := range d.todo {
			d.decide(slot, *t.refused)
		}
		d.todo = nil
	}
	return d.open == 0 && len(d.todo) == 0
}

// finish tells what became of everybody. Those who are left when the session is over are of the session, not of
// themselves: the next one takes them.
func (d *delivery) finish() {
	if !slices.Contains(d.decided, true) {
		d.Done(nil)
		return
	}
	if slices.Contains(d.decided, false) {
		d.decideAll(d.noMore())
	}
	d.waitForThis()
	d.Done(d.results)
}

// waitForThis is elsewhere over all transactions: those who were put off in one wait for a host that took others in
// another.
func (d *delivery) waitForThis() {
	for slot := range d.results {
		if r := &d.results[slot]; d.some && r.Action == mail.Delayed && r.Scope == mail.OfRecipient {
			r.Elsewhere = false
		}
	}
}

func (s *Session) noMore() mail.Result {
	if s.over.Load() {
		return *s.why
	}
	if s.conn.interrupted.Load() {
		return s.delay(mail.OfUs, mail.EnhancedCode{4, 3, 2}, "interrupted")
	}
	return s.delay(mail.OfHost, mail.EnhancedCode{4, 5, 3}, "%s takes no more than %d transactions in a session", s.server.Host, s.most())
}

// sender returns the reverse-path as it is sent.
func (d *delivery) sender() mail.Path { return idn.Path(d.Sender) }

// forward returns the forward-path of a slot as it is sent.
func (d *delivery) forward(slot int) mail.Path { return idn.Path(d.recipient(slot).Path) }

func (d *delivery) recipient(slot int) *mail.Recipient { return &d.Recipients[d.Positions[slot]] }

// decide says what became of a slot, if that is not known yet.
func (d *delivery) decide(slot int, r mail.Result) {
	if !d.decided[slot] {
		d.results[slot], d.decided[slot] = r, true
	}
}

func (d *delivery) decideAll(r mail.Result) {
	for slot := range d.results {
		d.decide(slot, r)
	}
}

func (d *delivery) unreadable(err error) *mail.Result {
	r := d.delay(mail.OfMessage, mail.EnhancedCode{4, 3, 0}, "cannot read the message: %v", err)
	r.Relay, r.TLS = "", "" // not the server's doing
	return &r
}

// internalError is for a message over which our own code panics.
func (s *Session) internalError(crash any) mail.Result {
	r := s.delay(mail.OfMessage, mail.EnhancedCode{4, 3, 0}, "internal error: %v", crash)
	r.Relay, r.TLS = "", "" // not the server's doing
	return r
}

// inVain returns the refusal of a message that the server has announced not to take.
func (d *delivery) inVain() *mail.Result {
	var r mail.Result
	switch {
	case d.ext.size > 0 && d.size > d.ext.size:
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 3, 4}, "message of %d octets; %s takes at most %d", d.size, d.server.Host, d.ext.size)
	case !d.ext.utf8 && !d.sender().IsASCII():
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 6, 7}, "%s does not take addresses beyond ASCII (SMTPUTF8), and the sender's is one", d.server.Host)
	case !d.ext.utf8 && d.SMTPUTF8 && d.HeaderUTF8:
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 6, 9}, "%s does not take headers beyond ASCII (SMTPUTF8)", d.server.Host)
	default:
		return d.unkept(time.Now())
	}
	r.Elsewhere = true
	return &r
}

// addressable decides the recipients whose address the server has announced not to take, and returns the others' slots.
func (d *delivery) addressable() []int {
	slots := make([]int, 0, len(d.Positions))
	for slot := range d.Positions {
		if !d.ext.utf8 && !d.forward(slot).IsASCII() {
			r := d.fail(mail.OfRecipient, mail.EnhancedCode{5, 6, 7}, "%s does not take addresses beyond ASCII (SMTPUTF8)", d.server.Host)
			r.Elsewhere = true
			d.decide(slot, r)
			continue
		}
		slots = append(slots, slot)
	}
	return slots
}

// MaxRecipients returns how many recipients a transaction has at most.
func (s *Session) MaxRecipients() int {
	if s.ext.rcptMax > 0 {
		return s.ext.rcptMax
	}
	return s.server.MaxRecipients
}
