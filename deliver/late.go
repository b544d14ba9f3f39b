package deliver

import (
	"fmt"
	"slices"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// lateBatch is how many messages whose deadline is over are dealt with at once.
const lateBatch = 100

// meetDeadlines deals with the messages that should have been delivered by now (RFC 2852 section 4.1.1): those which are
// of no more use to their senders are returned, wherever they wait; of the others the sender is told. It returns when the
// next deadline is.
func (p *pass) meetDeadlines() (next time.Time, err error) {
	for {
		claims, next, err := p.spool.Late(p.Now(), lateBatch)
		if err != nil || len(claims) == 0 {
			return next, err
		}
		group := make([]event, 0, len(claims))
		some := false
		for _, c := range claims {
			e := p.late(c)
			some = some || e.settlement.Told || slices.ContainsFunc(e.settlement.Dispositions, final)
			group = append(group, e)
		}
		if err := p.commit(group); err != nil {
			return next, err
		}
		if !some {
			return next, nil // nobody could be told: later, perhaps
		}
	}
}

// late concludes for recipients of one message whose deadline is over.
func (k clerk) late(c spool.Claim) event {
	f, err := k.spool.Read(c.ID)
	if err != nil {
		// It stays until somebody has seen to it: there is nothing to return.
		e := unreadable(c, err)
		e.settlement.Dispositions, e.settlement.Told = nil, true
		return e
	}
	defer f.Close()
	by := f.DeliverBy
	wanted := fmt.Sprintf("it was to be delivered by %s", by.Deadline.UTC().Format(time.RFC1123))
	results := make([]mail.Result, len(c.Recipients))
	if by.Return {
		for i := range results {
			results[i] = mail.Delay(mail.OfMessage, mail.EnhancedCode{5, 4, 7}, "%s, or not at all", wanted)
			results[i].Action = mail.Failed
		}
		return k.conclude(c, &f.Message, results, false)
	}
	e := event{settlement: &spool.Settlement{Claim: c}}
	for _, r := range c.Recipients {
		result := mail.Delay(mail.OfMessage, mail.EnhancedCode{4, 4, 7}, "%s; it is still being tried", wanted)
		e.settlement.Dispositions = append(e.settlement.Dispositions, spool.Disposition{Recipient: r.Recipient, Result: result})
	}
	told := k.report(&e, &f.Message, mail.Delayed, func(int) bool { return true })
	// Only the sender hears of it: nothing has become of the recipients.
	e.settlement.Dispositions, e.settlement.Told = nil, told
	return e
}
