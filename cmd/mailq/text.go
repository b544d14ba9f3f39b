package main

import (
	"bytes"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postrider/postrider/spool"
)

// text is the listing of Postfix's mailq, with Sendmail's line of the total before its own: monitoring plugins that
// know only one of the two find theirs.
type text struct {
	verbose bool // tell attempts and when the next one is due
	some    bool // not all of the queue is listed

	messages int
	octets   int64
	second   int64 // that clock shows
	clock    []byte
}

const (
	heading = "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------\n"
	// idWidth, sizeWidth and indent are the columns of the heading.
	idWidth   = 11
	sizeWidth = 7
	indent    = 41
	// reasonEnd is the column that a reason in its parentheses ends in, if it is not longer.
	reasonEnd = 78
)

func (t *text) appendEntry(b []byte, e *spool.Entry) []byte {
	if t.messages == 0 {
		b = append(b, heading...)
	} else {
		b = append(b, '\n')
	}
	t.messages++
	t.octets += e.Size
	start := len(b)
	b = append(b, e.ID...)
	if e.Active {
		b = append(b, '*')
	} else if e.Held {
		b = append(b, '!')
	}
	// The sign may need the column before the size; the size then gives way.
	b = appendPadded(b, idWidth-(len(b)-start))
	b = append(b, ' ')
	var digits [20]byte
	size := strconv.AppendInt(digits[:0], e.Size, 10)
	b = appendPadded(b, idWidth+1+sizeWidth-(len(b)-start)-len(size))
	b = append(b, size...)
	b = append(b, ' ')
	b = append(b, t.time(e.Arrival)...)
	b = append(b, ' ')
	b = appendSafe(b, senderOf(e))
	b = append(b, '\n')
	return t.appendRecipients(b, e)
}

// appendRecipients writes a line for each recipient, with the reason before those that it holds back.
func (t *text) appendRecipients(b []byte, e *spool.Entry) []byte {
	shown := ""
	for i := range e.Recipients {
		r := &e.Recipients[i]
		reason := reasonOf(r)
		if e.Held && reason == "" {
			reason = "held until " + string(bytes.TrimSpace(t.time(r.Next))) + ", as the sender wants"
		}
		if reason != shown {
			shown = reason
			if reason == "" {
				reason = "reason unavailable"
			}
			b = appendPadded(b, reasonEnd-len("()")-utf8.RuneCountInString(reason))
			b = append(b, '(')
			b = appendSafe(b, reason)
			b = append(b, ')', '\n')
		}
		b = appendPadded(b, indent)
		b = appendSafe(b, r.Path.Address())
		b = append(b, '\n')
		if t.verbose {
			b = t.appendSchedule(b, r)
		}
	}
	return b
}

// appendSchedule writes how often a recipient has been tried, and when he is next.
func (t *text) appendSchedule(b []byte, r *spool.EntryRecipient) []byte {
	b = appendPadded(b, indent+2)
	b = strconv.AppendInt(b, int64(r.Attempts), 10)
	b = append(b, " attempts"...)
	if r.Attempts == 1 {
		b = b[:len(b)-1]
	}
	if !r.Next.IsZero() {
		b = append(b, ", due "...)
		b = append(b, bytes.TrimSpace(t.time(r.Next))...)
	}
	return append(b, '\n')
}

// reasonOf returns why a recipient waits, and who says so, unless the words name him.
func reasonOf(r *spool.EntryRecipient) string {
	if r.Relay == "" || r.Reason == "" || strings.Contains(r.Reason, r.Relay) {
		return r.Reason
	}
	return r.Relay + ": " + r.Reason
}

func (t *text) appendEnd(b []byte) []byte {
	switch {
	case t.messages == 0 && t.some:
		return append(b, "No queued mail is like that\n"...)
	case t.messages == 0:
		return append(b, "Mail queue is empty\n"...)
	}
	b = append(b, "\n\t\tTotal requests: "...)
	b = strconv.AppendInt(b, int64(t.messages), 10)
	b = append(b, "\n-- "...)
	b = strconv.AppendInt(b, t.octets/1024, 10)
	b = append(b, " Kbytes in "...)
	b = strconv.AppendInt(b, int64(t.messages), 10)
	b = append(b, " Request"...)
	if t.messages != 1 {
		b = append(b, 's')
	}
	return append(b, ".\n"...)
}

// time returns the local time as ctime(3) does, without the year. Messages often come many in a second.
func (t *text) time(at time.Time) []byte {
	if s := at.Unix(); s != t.second || t.clock == nil {
		t.second = s
		t.clock = at.Local().AppendFormat(t.clock[:0], "Mon Jan _2 15:04:05 ")
	}
	return t.clock
}

func appendPadded(b []byte, n int) []byte {
	const blanks = "                                                                                "
	return append(b, blanks[:max(n, 0)]...)
}

// appendSafe appends s with a question mark for whatever could play tricks on a terminal or break a line.
func appendSafe(b []byte, s string) []byte {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return appendSafeRunes(b, s)
		}
	}
	return append(b, s...)
}

func appendSafeRunes(b []byte, s string) []byte {
	for _, c := range s {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			c = '?'
		}
		b = utf8.AppendRune(b, c)
	}
	return b
}
