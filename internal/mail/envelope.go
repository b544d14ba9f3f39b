package mail

import (
	"io"
	"time"
)

// An Envelope is what is known of a message apart from its content (RFC 5321 section 2.3.1, RFC 3461).
type Envelope struct {
	Arrival    time.Time
	Sender     Path
	Recipients []Recipient

	// OriginalSender is the sender as he was handed in, if another address took the place of his; otherwise null.
	OriginalSender Path
	// Submitter is the user ID of who handed the message in: of the process, never what the message says. -1 if unknown.
	Submitter int
	Return    Return // RET (RFC 3461 section 4.3)
	ID        string // ENVID in xtext (RFC 3461 section 4.4); "" if none
	SMTPUTF8  bool   // the submitter asked for RFC 6531 treatment
	Priority  int    // as the submitter wants it (RFC 6710): MinPriority to MaxPriority, higher is sooner; see Urgency
	TLS       TLSWish
	Hold      Hold
	DeliverBy DeliverBy

	// Settles is set for a message that we made of another one: a report to its sender, or its copy for the addresses
	// that an alias stands for.
	Settles *Settles
}

// Urgency returns the priority that counts where the owner of the spool has this user ID. Anybody may ask for less haste
// than others, but only root and the owner for more: whom to trust is left to us.
func (e *Envelope) Urgency(owner int) int {
	p := min(max(e.Priority, MinPriority), MaxPriority)
	if p > 0 && e.Submitter != 0 && e.Submitter != owner {
		return 0
	}
	return p
}

// Begin returns when the first attempt is due, from which the age of a message counts.
func (e *Envelope) Begin() time.Time {
	if e.Hold.Until.After(e.Arrival) {
		return e.Hold.Until
	}
	return e.Arrival
}

// A Recipient is a forward-path and the notifications wanted for it.
type Recipient struct {
	Path     Path
	Notify   Notify // NOTIFY (RFC 3461 section 4.1); 0 if not given
	Original string // ORCPT, "type;xtext" byte for byte (RFC 3461 section 4.2); "" if none
	Expanded bool   // aliases have been looked up: they are not again
}

// Settles names recipients of another message who are final because this one exists. It is the proof of that, should
// the index be lost between the making of this message and the commit of the results.
type Settles struct {
	Of         ID
	Recipients []int // positions in the Recipients of that message
}

// Return is how much of the message a report sends back.
type Return uint8

const (
	ReturnDefault Return = iota // not given: ours to choose
	ReturnFull                  // RET=FULL
	ReturnHeaders               // RET=HDRS
)

// Notify is the set of events that the sender wants to hear of.
type Notify uint8

const (
	NotifyNever Notify = 1 << iota
	NotifySuccess
	NotifyFailure
	NotifyDelay
)

// WantsFailure reports whether a final failure is to be reported: unless told otherwise, it is (RFC 3461 section 4.1).
func (n Notify) WantsFailure() bool { return n == 0 || n&NotifyFailure != 0 }

// WantsDelay reports whether a delay is to be reported; RFC 3461 section 4.1 leaves the default to us.
func (n Notify) WantsDelay() bool { return n == 0 || n&NotifyDelay != 0 }

var notifyWords = []struct {
	bit  Notify
	word string
}{{NotifyNever, "NEVER"}, {NotifySuccess, "SUCCESS"}, {NotifyFailure, "FAILURE"}, {NotifyDelay, "DELAY"}}

// String returns the value as it follows NOTIFY=; "" if none was given.
func (n Notify) String() string {
	s := ""
	for _, w := range notifyWords {
		if n&w.bit == 0 {
			continue
		}
		if s != "" {
			s += ","
		}
		s += w.word
	}
	return s
}

// String returns the value as it follows RET=; "" if none was given.
func (r Return) String() string { return [...]string{"", "FULL", "HDRS"}[r] }

// A Message is an accepted message, ready to be sent.
type Message struct {
	QueueID ID
	Envelope
	Content io.ReaderAt // wire form: every line ends in CRLF; dots are not doubled
	Size    int64       // of Content, in octets: what SIZE announces (RFC 1870)
	Facts
}

// Facts are what a client must know of a content before it sends it.
type Facts struct {
	EightBit    bool // some octet is above 127: BODY=8BITMIME (RFC 6152)
	HeaderUTF8  bool // some octet of the header is above 127: needs SMTPUTF8 unless it is left as it is
	LongestLine int  // in octets without CRLF; above 998 breaks RFC 5321 section 4.5.3.1.6
}
