package smtp

import (
	"os"
	"strconv"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// unkept returns the refusal of a message whose sender asks for what this session cannot give him.
func (d *delivery) unkept(now time.Time) *mail.Result {
	if r := d.unprotected(); r != nil {
		return r
	}
	return d.belated(now)
}

// unprotected is for REQUIRETLS (RFC 8689 section 4.2.1).
func (d *delivery) unprotected() *mail.Result {
	if d.Wish() != mail.TLSRequired || d.server.Unix {
		return nil
	}
	var r mail.Result
	switch {
	case d.server.Found && d.server.Vouched == "":
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 7, 30}, "the sender requires TLS, and nobody vouches for %s being the right host (DANE, MTA-STS)", d.server.Host)
	case d.tls == "":
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 7, 10}, "the sender requires TLS, and there is none to %s", d.server.Host)
	case !d.verified:
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 7, 30}, "the sender requires TLS, and nobody vouches for the certificate of %s", d.server.Host)
	case !d.ext.requireTLS:
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 7, 30}, "the sender requires TLS, and %s does not promise it for the rest of the way (REQUIRETLS)", d.server.Host)
	default:
		return nil
	}
	r.Elsewhere = true
	return &r
}

// belated is for DELIVERBY in mode R (RFC 2852 section 4.1.4). Other hosts are not looked for only because of it.
func (d *delivery) belated(now time.Time) *mail.Result {
	by := d.DeliverBy
	if !by.Return {
		return nil
	}
	var r mail.Result
	switch left := by.Left(now); {
	case left <= 0:
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 4, 7}, "the time by which the sender wants it delivered is over")
	case d.server.LMTP:
		return nil // it is delivered here and now
	case !d.ext.deliverBy:
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 3, 3}, "%s does not promise to deliver it in time, or to return it (DELIVERBY)", d.server.Host)
	case left < d.ext.leastTime:
		r = d.fail(mail.OfMessage, mail.EnhancedCode{5, 4, 7}, "%s wants %d seconds to deliver it, and there are %d left", d.server.Host, d.ext.leastTime, left)
	default:
		return nil
	}
	return &r
}

// appendWishes appends the parameters of MAIL that say what the sender asks for, to a server that knows them.
func (d *delivery) appendWishes(b []byte, now time.Time) []byte {
	m := d.Message
	if d.ext.requireTLS && d.tls != "" && m.TLS == mail.TLSRequired {
		b = append(b, " REQUIRETLS"...)
	}
	if d.ext.deliverBy && !m.DeliverBy.Deadline.IsZero() {
		b = append(append(b, " BY="...), m.DeliverBy.By(now)...)
	}
	if n := m.Urgency(os.Geteuid()); d.ext.priority && n != 0 {
		b = strconv.AppendInt(append(b, " MT-PRIORITY="...), int64(n), 10)
	}
	return b
}
