package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

func setMode(m mode) func(*options, string) error {
	return func(o *options, _ string) error { o.mode = m; return nil }
}

func setDaemon(o *options, _ string) error {
	o.mode, o.background = runDaemon, true
	return nil
}

func setIgnoreDots(o *options, value string) error {
	o.ignoreDots = isYes(value)
	return nil
}

func setVerbose(o *options, value string) error {
	o.verbose = isYes(value)
	return nil
}

// isYes reads a switch, which is on if it only is named.
func isYes(value string) bool { return value == "" || strings.IndexByte("TtYy1", value[0]) >= 0 }

func setErrors(o *options, value string) error {
	if value != "" && strings.IndexByte("pmwqe", value[0]) >= 0 {
		o.errors = value[0]
	}
	return nil
}

func setDelivery(o *options, value string) error {
	switch {
	case value == "":
		o.delivery = 0
	case value[0] == 'b' || value[0] == 'i' || value[0] == 'q':
		o.delivery = value[0]
	case value[0] == 'd':
		o.delivery = 'q'
	case value[0] == 'f':
		o.delivery = 'i'
	}
	return nil
}

func setDebug(o *options, value string) error {
	o.version = o.version || value == "0.1" || value == "0.4"
	return nil
}

// setFullName takes a display name. It ends up in a header field, where a line end could start another one.
func setFullName(o *options, value string) error {
	if hasControl(value) {
		return usage("control character in the name after -F")
	}
	o.fullName = value
	return nil
}

func setSender(o *options, value string) error {
	if hasControl(value) || strings.HasPrefix(value, "-") {
		return usage("not a sender address: %q", value)
	}
	o.sender, o.senderGiven = value, true
	return nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func setNotify(o *options, value string) (err error) {
	if o.notify, err = mail.ParseNotify(value); err != nil {
		return usage("option -N: %w", err)
	}
	return nil
}

func setReturn(o *options, value string) (err error) {
	if o.ret, err = mail.ParseReturn(value); err != nil {
		return usage("option -R: %w", err)
	}
	return nil
}

// maxEnvelopeID is how long an ENVID may be (RFC 3461 section 4.4).
const maxEnvelopeID = 100

// setEnvelopeID takes an ENVID. One that could not be sent is dropped: it is for the sender's convenience only.
func setEnvelopeID(o *options, value string) error {
	if _, err := mail.DecodeXtext(value); err == nil && len(value) <= maxEnvelopeID {
		o.envelopeID = value
	}
	return nil
}

// setHoldFor takes a time from now on. Its unit is not left out: Sendmail's is minutes then, and that of SMTP seconds.
func setHoldFor(o *options, value string) error {
	seconds, err := parseSeconds(value)
	if err != nil {
		return usage("option -O HoldFor: %w", err)
	}
	o.holdFor = seconds
	return nil
}

// parseSeconds returns a time with units as a number of seconds.
func parseSeconds(s string) (string, error) {
	if strings.Trim(s, "0123456789") == "" {
		return "", fmt.Errorf("%q is not a time like 30m", s)
	}
	d, err := parseInterval(s)
	return strconv.FormatInt(int64(d/time.Second), 10), err
}

func setHoldUntil(o *options, value string) error {
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return usage("option -O HoldUntil: %q is not a time like 2026-12-24T18:00:00+01:00", value)
	}
	o.holdUntil = t.UTC().Format(time.RFC3339)
	return nil
}

func setDeliverBy(o *options, value string) error {
	after, mode, _ := strings.Cut(value, ";")
	seconds, err := parseSeconds(after)
	if err != nil {
		return usage("option -O DeliverBy: %w", err)
	}
	o.by = seconds + ";" + mode
	return nil
}

func setPriority(o *options, value string) (err error) {
	if o.priority, err = mail.ParsePriority(value); err != nil {
		return usage("option -O MTPriority: %w", err)
	}
	return nil
}

func setRequireTLS(o *options, value string) error {
	o.requireTLS = isYes(value)
	return nil
}

// setQueueRun reads what follows -q: nothing, a time, or a choice of messages.
func setQueueRun(o *options, value string) error {
	o.queueRun = true
	without := strings.HasPrefix(value, "!")
	kind := strings.TrimPrefix(value, "!")
	switch {
	case value == "" || value == "f" || value == "p":
		return nil
	case kind == "":
		return o.refuse("option -q! needs I, R or S, and a text")
	case strings.IndexByte("QLG", kind[0]) >= 0:
		return o.refuse("option %q is not supported: there is one queue, and nothing in it is set apart", "-q"+value)
	}
	if option, ok := choices[kind[0]]; ok {
		text := kind[1:]
		if without {
			text = "!" + text
		}
		o.only = append(o.only, option, text)
		return nil
	}
	every, err := parseInterval(strings.TrimPrefix(value, "p"))
	if err != nil {
		return o.refuse("option -q: %w", err)
	}
	o.every = every
	return nil
}

// choices are the ways to pick mail with -q, and what our other programs call them.
var choices = map[byte]string{'I': "--only-id", 'R': "--only-recipient", 'S': "--only-sender"}

// parseInterval reads a time as Sendmail writes it: numbers with the units w, d, h, m and s, or minutes without.
func parseInterval(s string) (time.Duration, error) {
	units := map[byte]time.Duration{'w': 7 * 24 * time.Hour, 'd': 24 * time.Hour, 'h': time.Hour, 'm': time.Minute, 's': time.Second}
	sum, rest := time.Duration(0), s
	for rest != "" {
		digits := 0
		for digits < len(rest) && '0' <= rest[digits] && rest[digits] <= '9' {
			digits++
		}
		n, err := strconv.Atoi(rest[:digits])
		unit, known := time.Minute, true
		if rest = rest[digits:]; rest != "" {
			unit, known = units[rest[0]]
			rest = rest[1:]
		}
		if err != nil || !known || n > 10_000 {
			return 0, fmt.Errorf("%q is not a time like 30m", s)
		}
		sum += time.Duration(n) * unit
	}
	if sum <= 0 {
		return 0, fmt.Errorf("%q is not a time like 30m", s)
	}
	return sum, nil
}
