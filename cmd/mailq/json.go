package main

import (
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// jsonLines is the listing of Postfix's postqueue -j, with keys of ours after Postfix's own.
type jsonLines struct{}

func (jsonLines) appendEntry(b []byte, e *spool.Entry) []byte {
	b = append(b, `{"queue_name": "`...)
	b = append(b, queueName(e)...)
	b = append(b, `", "queue_id": "`...)
	b = append(b, e.ID...)
	b = append(b, `", "arrival_time": `...)
	b = strconv.AppendInt(b, e.Arrival.Unix(), 10)
	b = append(b, `, "message_size": `...)
	b = strconv.AppendInt(b, e.Size, 10)
	b = append(b, `, "forced_expire": false, "sender": `...)
	b = appendJSONString(b, senderOf(e))
	b = append(b, `, "recipients": [`...)
	for i := range e.Recipients {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendJSONRecipient(b, &e.Recipients[i])
	}
	return append(b, "]}\n"...)
}

func appendJSONRecipient(b []byte, r *spool.EntryRecipient) []byte {
	b = append(b, `{"address": `...)
	b = appendJSONString(b, r.Path.Address())
	if r.Reason != "" {
		b = append(b, `, "delay_reason": `...)
		b = appendJSONString(b, r.Reason)
	}
	if !r.Next.IsZero() {
		b = append(b, `, "next_attempt": `...)
		b = strconv.AppendInt(b, r.Next.Unix(), 10)
	}
	b = append(b, `, "attempts": `...)
	b = strconv.AppendInt(b, int64(r.Attempts), 10)
	if r.Code != (mail.EnhancedCode{}) {
		b = append(b, `, "status": "`...)
		b = strconv.AppendInt(b, int64(r.Code[0]), 10)
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(r.Code[1]), 10)
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(r.Code[2]), 10)
		b = append(b, '"')
	}
	if r.Relay != "" {
		b = append(b, `, "relay": `...)
		b = appendJSONString(b, r.Relay)
	}
	return append(b, '}')
}

func (jsonLines) appendEnd(b []byte) []byte { return b }

// queueName returns the queue that Postfix would have the message in.
func queueName(e *spool.Entry) string {
	switch {
	case e.Incoming:
		return "maildrop"
	case e.Active:
		return "active"
	case e.Held:
		return "hold"
	}
	for i := range e.Recipients {
		if e.Recipients[i].Attempts > 0 {
			return "deferred"
		}
	}
	return "incoming"
}

// appendJSONString appends s as a JSON string (RFC 8259 section 7), with what is not UTF-8 replaced and all control
// characters escaped.
func appendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case unicode.IsControl(c):
			const hex = "0123456789abcdef"
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
		default:
			b = utf8.AppendRune(b, c)
		}
	}
	return append(b, '"')
}
