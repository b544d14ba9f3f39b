package spool

import (
	"encoding/binary"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// deadlineKey sorts by time. What has a deadline (RFC 2852) meets it wherever it waits, also for a next hop in trouble.
func deadlineKey(t time.Time, id mail.ID) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(max(t.UnixMicro(), 0))), id...)
}

func (x *tx) putDeadline(id mail.ID, t time.Time) error {
	if t.IsZero() {
		return nil
	}
	return x.deadlines.Put(deadlineKey(t, id), nil)
}

func (x *tx) dropDeadline(id mail.ID, t time.Time) error {
	if t.IsZero() {
		return nil
	}
	return x.deadlines.Delete(deadlineKey(t, id))
}

// Late returns, for up to most messages whose deadline is over, the recipients who are not being tried, as a claim would,
// and when the next deadline is; the zero time if there is none. What comes of them is settled with Settlement.Told, or
// makes them final.
func (s *Spool) Late(now time.Time, most int) (claims []Claim, next time.Time, err error) {
	err = s.view(func(x *tx) error {
		c := x.deadlines.Cursor()
		for k, _ := c.First(); k != nil && len(claims) < most; k, _ = c.Next() {
			if len(k) != 8+idLength {
				return errDamaged
			}
			if at := time.UnixMicro(int64(binary.BigEndian.Uint64(k))); at.After(now) {
				next = at
				break
			}
			claim := Claim{ID: mail.ID(k[8:])}
			m, ok, err := x.message(claim.ID)
			if err != nil {
				return err
			}
			if !ok {
				return errDamaged
			}
			claim.Pending = m.pending
			if err := x.eachRecipient(claim.ID, func(n int, p recipient) error {
				if !s.claimed[claimKey{claim.ID, n}] && len(claim.Recipients) < maxClaim {
					claim.Recipients = append(claim.Recipients, Claimed{n, p.attempts, p.told})
				}
				return nil
			}); err != nil {
				return err
			}
			if len(claim.Recipients) > 0 {
				claims = append(claims, claim)
			}
		}
		return nil
	})
	return claims, next, err
}
