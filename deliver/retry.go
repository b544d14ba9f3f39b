package deliver

import (
	"math"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// Retry is the schedule of attempts.
type Retry struct {
	First    time.Duration // wait after the first attempt
	Factor   float64       // each further wait is so many times longer
	MaxWait  time.Duration // no wait is longer
	Attempts int           // give up after so many; 0 means that only the age counts
	Expire   time.Duration // give up when the message is so old (RFC 5321 section 4.5.4.1)
}

// Wait returns how long after the given number of attempts the next one is due.
func (r Retry) Wait(attempts int) time.Duration {
	wait := float64(r.First) * math.Pow(r.Factor, float64(max(attempts, 1)-1))
	return time.Duration(min(wait, float64(r.MaxWait)))
}

// Bounds for a next hop that takes no session: it is tried again soon, since one try speaks for all that wait for it.
const (
	hopFirst = time.Minute
	hopMax   = 30 * time.Minute
)

// HopWait returns how long a next hop is left alone after it has refused so many sessions in a row: a minute, then
// twice as long each time up to half an hour, but never longer than a message would wait.
func (r Retry) HopWait(failures int) time.Duration {
	wait := float64(hopFirst) * math.Pow(2, float64(max(failures, 1)-1))
	return min(time.Duration(min(wait, float64(hopMax))), r.Wait(failures))
}

// expireAttempts is how often a message must have been tried before its age counts against it: neither a clock that
// jumped nor a machine that was off for a week may bounce what was hardly tried.
const expireAttempts = 3

// hoplessTime is how long a next hop must have been in trouble before mail that waits for it is given up, whatever its
// age: three tries in the first minutes after a start of the machine say nothing.
const hoplessTime = 4 * time.Hour

// hopless reports whether a next hop has been in trouble for so long that old mail need not wait for it any more.
func (r Retry) hopless(t spool.Trouble, now time.Time) bool {
	return t.Failures >= expireAttempts && now.Sub(t.Since) >= min(hoplessTime, r.Expire)
}

// givenUp reports whether a deferral is the last one. Trouble of our own never is: the sender could not help, and the
// report would meet the same trouble. Nor do tries of a dead host count against a limit of attempts: they are made as
// often as suits the host.
func (r Retry) givenUp(result mail.Result, arrival, now time.Time, attempts int) bool {
	switch {
	case result.Action != mail.Delayed || result.Scope == mail.OfUs:
		return false
	case result.Scope < mail.OfHost && r.Attempts > 0 && attempts >= r.Attempts:
		return true
	}
	return attempts >= expireAttempts && now.Sub(arrival) >= r.Expire
}

// noticeAttempt is the failed attempt after which the sender is told that his message is delayed.
const noticeAttempt = 5
