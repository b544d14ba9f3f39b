package deliver

import (
	"hash/fnv"
	"math"
	"strconv"
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

// Next returns when the attempt after one at now is due, the given number of which has been made then. That is up to a
// tenth of the wait sooner, so that what failed together does not come back together; all recipients of a message do.
// The last attempt is made when the message expires, not up to a whole wait later.
func (r Retry) Next(id mail.ID, now time.Time, attempts int) time.Time {
	next := now.Add(sooner(r.Wait(attempts), string(id)+strconv.Itoa(attempts)))
	// The ID is made together with the arrival, some microseconds before or after it.
	expires := id.Time().Add(r.Expire + time.Second)
	if attempts+1 >= expireAttempts && expires.After(now) && next.After(expires) {
		return expires
	}
	return next
}

// sooner takes up to a tenth off a wait, always the same for the same seed.
func sooner(wait time.Duration, seed string) time.Duration {
	const share = 10
	h := fnv.New32a()
	h.Write([]byte(seed)) // it cannot fail
	return wait - time.Duration(float64(wait)/share*float64(h.Sum32())/math.MaxUint32)
}

// Reschedule returns when somebody is due who was scheduled by another configuration: at once if he would have been given
// up by now, and otherwise no later than this one says.
func (r Retry) Reschedule(w spool.Waiting, now time.Time) time.Time {
	if r.Attempts > 0 && w.Attempts >= r.Attempts || now.Sub(w.Begin) >= r.Expire {
		return now
	}
	if next := w.Last.Add(r.Wait(w.Attempts)); next.Before(w.Next) {
		return next
	}
	return w.Next
}

// Bounds for a next hop that takes no session: it is tried again soon, since one try speaks for all that wait for it.
const (
	hopFirst = time.Minute
	hopMax   = 30 * time.Minute
)

// HopWait returns how long a next hop is left alone after so many tries in a row to open a session: a minute, then twice
// as long each time up to half an hour, less up to a tenth, but never longer than a message would wait.
func (r Retry) HopWait(hop string, tries int) time.Duration {
	wait := float64(hopFirst) * math.Pow(2, float64(max(tries, 1)-1))
	return sooner(min(time.Duration(min(wait, float64(hopMax))), r.Wait(tries)), hop+strconv.Itoa(tries))
}

// expireAttempts is how often a message must have been tried before its age counts against it: neither a clock that
// jumped nor a machine that was off for a week may bounce what was hardly tried, or call it delayed.
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

// worthTelling reports whether the sender is to hear of a deferral, unless he has. How often a host is tried that takes no
// session at all says nothing: then it is time when that attempt would have been made at another.
func (r Retry) worthTelling(result mail.Result, begin, now time.Time, attempts int) bool {
	if result.Action != mail.Delayed || result.Scope == mail.OfUs {
		return false
	}
	if result.Scope < mail.OfHost {
		return attempts >= noticeAttempt
	}
	wait := time.Duration(0)
	for n := 1; n < noticeAttempt; n++ {
		wait += r.Wait(n)
	}
	return attempts >= expireAttempts && now.Sub(begin) >= wait
}
