package mail

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bounds of Envelope.Priority (RFC 6710).
const (
	MinPriority = -9
	MaxPriority = 9
)

// ParsePriority reads the value of MT-PRIORITY (RFC 6710 section 4): a number of one digit, without a needless sign.
func ParsePriority(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s || n < MinPriority || n > MaxPriority {
		return 0, fmt.Errorf("%q is not a number from %d to %d", s, MinPriority, MaxPriority)
	}
	return n, nil
}

// A Hold keeps a message from being sent before a time (FUTURERELEASE, RFC 4865). Its zero value is none.
type Hold struct {
	Until time.Time
	// Asked is how it was asked for, as reports have it (RFC 4865 section 7): "for;3600" or "until;2026-11-22T03:00:00Z".
	Asked string
}

// MaxHold is how long a message may be held; CheckTimes sees to it.
const MaxHold = 60 * 24 * time.Hour

// The words in front of what was asked for.
const (
	askedFor   = "for;"
	askedUntil = "until;"
)

// HoldFor reads the value of HOLDFOR: seconds from now, of at most nine digits.
func HoldFor(s string, now time.Time) (Hold, error) {
	n, err := parseSeconds(s)
	if err != nil || n < 1 {
		return Hold{}, fmt.Errorf("%q is not a number of seconds", s)
	}
	return newHold(now.Add(time.Duration(n)*time.Second), askedFor+s, now)
}

// HoldUntil reads the value of HOLDUNTIL: a time of RFC 3339 in UTC.
func HoldUntil(s string, now time.Time) (Hold, error) {
	t, err := parseUTC(s)
	if err != nil {
		return Hold{}, err
	}
	return newHold(t, askedUntil+s, now)
}

func newHold(until time.Time, asked string, now time.Time) (Hold, error) {
	if !until.After(now) {
		return Hold{}, errors.New("the time is over already")
	}
	return Hold{Until: until.UTC().Truncate(time.Second), Asked: asked}, nil
}

// ParseHold reads what String returns.
func ParseHold(s string) (Hold, error) {
	until, asked, _ := strings.Cut(s, " ")
	t, err := parseUTC(until)
	if err != nil {
		return Hold{}, err
	}
	switch kind, what, _ := strings.Cut(asked, ";"); kind {
	case "for":
		_, err = parseSeconds(what)
	case "until":
		_, err = parseUTC(what)
	default:
		err = fmt.Errorf("%q says neither for nor until when", asked)
	}
	return Hold{t, asked}, err
}

// String returns the hold as text on one line; "" for none.
func (h Hold) String() string {
	if h.Until.IsZero() {
		return ""
	}
	return h.Until.UTC().Format(time.RFC3339) + " " + h.Asked
}

// parseUTC reads a time of RFC 3339 with the zone Z, of a length that cannot fill a line.
func parseUTC(s string) (time.Time, error) {
	const most = len("2026-11-22T03:00:00.123456789Z")
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || !strings.HasSuffix(s, "Z") || len(s) > most || t.Unix() <= 0 {
		return time.Time{}, fmt.Errorf("%q is not a time in UTC such as 2026-11-22T03:00:00Z", s)
	}
	return t, nil
}

// parseSeconds reads up to nine digits.
func parseSeconds(s string) (int64, error) {
	const digits = 9
	if len(s) > digits || strings.Trim(s, "0123456789") != "" {
		return 0, errors.New("not up to nine digits")
	}
	return strconv.ParseInt(s, 10, 64)
}

// A DeliverBy is a time by which a message is of use (DELIVERBY, RFC 2852). Its zero value is none.
type DeliverBy struct {
	Deadline time.Time
	Return   bool // mode R: after that, it is returned. Otherwise mode N: the sender is told, and it is sent later
	Trace    bool // T: the sender wants to know where it goes
}

// ParseBy reads the value of BY: seconds from now, which may be over in mode N, and what is to be done then.
func ParseBy(s string, now time.Time) (DeliverBy, error) {
	number, mode, _ := strings.Cut(s, ";")
	digits := strings.TrimPrefix(strings.TrimPrefix(number, "-"), "+")
	n, err := parseSeconds(digits)
	if len(number)-len(digits) > 1 {
		err = errors.New("two signs")
	}
	by, known := parseMode(mode)
	if err != nil || !known {
		return DeliverBy{}, fmt.Errorf("%q is not seconds;R or seconds;N", s)
	}
	if strings.HasPrefix(number, "-") {
		n = -n
	}
	if by.Return && n <= 0 {
		return DeliverBy{}, errors.New("the time is over already")
	}
	by.Deadline = now.Add(time.Duration(n) * time.Second).UTC().Truncate(time.Second)
	return by, nil
}

func parseMode(s string) (by DeliverBy, ok bool) {
	switch s = strings.ToUpper(s); s {
	case "R", "RT":
		by.Return = true
	case "N", "NT":
	default:
		return by, false
	}
	by.Trace = len(s) == 2
	return by, true
}

func (d DeliverBy) mode() string {
	mode := "N"
	if d.Return {
		mode = "R"
	}
	if d.Trace {
		mode += "T"
	}
	return mode
}

// Left returns the seconds that are left at now, as the next hop is to be told them.
func (d DeliverBy) Left(now time.Time) int64 {
	const most = 999_999_999 // nine digits
	return min(max(int64(d.Deadline.Sub(now)/time.Second), -most), most)
}

// By returns the value of BY at now.
func (d DeliverBy) By(now time.Time) string {
	return strconv.FormatInt(d.Left(now), 10) + ";" + d.mode()
}

// ParseDeliverBy reads what String returns.
func ParseDeliverBy(s string) (DeliverBy, error) {
	deadline, mode, _ := strings.Cut(s, " ")
	t, err := parseUTC(deadline)
	if err != nil {
		return DeliverBy{}, err
	}
	by, ok := parseMode(mode)
	if !ok {
		return DeliverBy{}, fmt.Errorf("%q is neither R nor N", mode)
	}
	by.Deadline = t
	return by, nil
}

// String returns the deadline as text on one line; "" for none.
func (d DeliverBy) String() string {
	if d.Deadline.IsZero() {
		return ""
	}
	return d.Deadline.UTC().Format(time.RFC3339) + " " + d.mode()
}

// CheckTimes refuses what Hold and DeliverBy of a message that is submitted now cannot mean: reports are not held (RFC 4865
// section 3), nothing is for ever, and what is held is not to be delivered before.
func (e *Envelope) CheckTimes(now time.Time) error {
	hold, deadline := e.Hold.Until, e.DeliverBy.Deadline
	switch {
	case hold.IsZero():
		return nil
	case e.Sender.IsNull():
		return errors.New("a report is not held")
	case hold.After(now.Add(MaxHold)):
		return fmt.Errorf("a message is held for %d days at most", MaxHold/(24*time.Hour))
	case !deadline.IsZero() && !deadline.After(hold):
		return errors.New("the message is to be delivered before it may be sent")
	}
	return nil
}

// TLSWish is what the submitter says of TLS on the way (RFC 8689).
type TLSWish uint8

const (
	TLSUnsaid      TLSWish = iota
	TLSRequired            // REQUIRETLS: no step without it, and without a server that promises the same
	TLSNotRequired         // a header field "TLS-Required: No": rather in clear than not at all
)

var tlsWishes = [...]string{"", "yes", "no"}

// Wish returns what TLS a message needs. A report goes on without what the message wanted that it is about: better that than
// that nobody hears what became of it (RFC 8689 section 5).
func (e *Envelope) Wish() TLSWish {
	if e.TLS == TLSRequired && e.Sender.IsNull() {
		return TLSUnsaid
	}
	return e.TLS
}

// String returns the wish as text; "" if there is none.
func (w TLSWish) String() string { return tlsWishes[w] }

// ParseTLSWish reads what String returns.
func ParseTLSWish(s string) (TLSWish, error) {
	switch s {
	case "yes":
		return TLSRequired, nil
	case "no":
		return TLSNotRequired, nil
	}
	return TLSUnsaid, fmt.Errorf("%q is neither yes nor no", s)
}
