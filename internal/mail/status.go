package mail

import (
	"fmt"
	"strconv"
	"strings"
)

// An EnhancedCode is class, subject and detail of RFC 3463, as in 5.1.1. Its zero value means that none was given.
type EnhancedCode [3]int

// ParseEnhancedCode reads class.subject.detail as it starts a reply text.
func ParseEnhancedCode(s string) (EnhancedCode, bool) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || len(parts[0]) != 1 || strings.IndexByte("245", parts[0][0]) < 0 {
		return EnhancedCode{}, false
	}
	var c EnhancedCode
	for i, p := range parts {
		if len(p) == 0 || len(p) > 3 {
			return EnhancedCode{}, false
		}
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return EnhancedCode{}, false
		}
		c[i] = int(n)
	}
	return c, true
}

func (c EnhancedCode) String() string { return fmt.Sprintf("%d.%d.%d", c[0], c[1], c[2]) }

// Class returns 2 (success), 4 (persistent transient) or 5 (permanent); 0 if no code was given.
func (c EnhancedCode) Class() int { return c[0] }

// A Reply is what a server, or an agent of ours in its place, said: RFC 5321 section 4.2 and RFC 3463.
type Reply struct {
	Code     int          // three digits; 0 if nothing was received
	Enhanced EnhancedCode // zero if the reply carried none
	Text     string       // without the codes, lines joined with "\n", no control characters otherwise
}

// String returns the reply on one line, as logs and reports show it.
func (r Reply) String() string {
	var parts []string
	if r.Code != 0 {
		parts = append(parts, strconv.Itoa(r.Code))
	}
	if r.Code != 0 && r.Enhanced != (EnhancedCode{}) {
		parts = append(parts, r.Enhanced.String())
	}
	if r.Text != "" {
		parts = append(parts, strings.ReplaceAll(r.Text, "\n", " "))
	}
	return strings.Join(parts, " ")
}

// An Action is what became of a recipient in one attempt, in the words of RFC 3464 section 2.3.3.
type Action uint8

const (
	Delayed   Action = iota // stays in the queue; the zero value, so that what was not looked at is never lost
	Delivered               // into a mailbox
	Relayed                 // another server has taken responsibility
	Failed                  // for good: to be reported to the sender
	Expanded                // another message goes to whom the address stands for
)

func (a Action) String() string {
	return [...]string{"delayed", "delivered", "relayed", "failed", "expanded"}[a]
}

// Final reports whether the recipient needs no further attempt.
func (a Action) Final() bool { return a != Delayed }

// A Scope says whom a failure speaks of, and so how far it reaches.
type Scope uint8

const (
	OfRecipient Scope = iota // this address only
	OfMessage                // every recipient of the message at this next hop
	OfHost                   // the next hop: nothing for it need be tried now
	OfUs                     // our own trouble (login, DNS, disk, configuration): as OfHost, and never a reason to bounce
)

// A Result is the outcome of one attempt for one recipient.
type Result struct {
	Action Action
	Reply  Reply  // the words behind it: the remote's, or ours with Code 0
	Scope  Scope  // of a failure
	Relay  string // who said so, as "mx.example.net[192.0.2.1]:25", "mx.example.net:25" behind a proxy, or "maildir:/path"; "" before anybody was reached
	Remote bool   // Reply came over the wire from Relay: a Diagnostic-Code of type smtp
	TLS    string // "TLS1.3 unverified", "TLS1.3 verified", or "TLS1.3 verified dane", with what vouches for the host; "" in clear

	// Notifies says that the sender will hear of success from whoever has the message now, if he wants to (RFC 3461
	// section 5.2.1).
	Notifies bool

	// InTime says that whoever has the message now knows of its deadline (RFC 2852).
	InTime bool

	// Elsewhere says that another host of the same next hop may be asked at once: this one cannot have the message, and
	// its opinion of it need not be that of all.
	Elsewhere bool
}

// Status returns the code that log lines and reports give: the reply's own when it fits the action, else the class
// that the action implies, with what the reply code says by itself.
func (r Result) Status() EnhancedCode {
	class := map[Action]int{Delayed: 4, Delivered: 2, Relayed: 2, Failed: 5, Expanded: 2}[r.Action]
	switch c := r.Reply.Enhanced; {
	case c.Class() == class:
		return c
	case c.Class() == 4 && r.Action == Failed:
		return c // given up after its time: RFC 3464 section 2.3.4 keeps the temporary code
	case c != (EnhancedCode{}):
		return EnhancedCode{class, c[1], c[2]}
	default:
		says := implied[r.Reply.Code]
		return EnhancedCode{class, says[0], says[1]}
	}
}

// implied is subject and detail of what a reply code says by itself, whatever it is the answer to: RFC 5321 section 4.2.3,
// RFC 4954 section 6, RFC 7504. Most codes mean one thing after RCPT and another one elsewhere, and are not guessed at.
var implied = map[int][2]int{
	421: {3, 2},  // service not available
	521: {3, 2},  // no mail here, ever
	530: {7, 0},  // log in
	534: {7, 9},  // with a better mechanism
	535: {7, 8},  // with other credentials
	538: {7, 11}, // with TLS
	556: {1, 10}, // the domain takes no mail
}

// Delay returns a deferral in our own words.
func Delay(scope Scope, code EnhancedCode, format string, args ...any) Result {
	return Result{Action: Delayed, Scope: scope, Reply: Reply{Enhanced: code, Text: fmt.Sprintf(format, args...)}}
}

// A Failure is a Result as an error: what kept a session from being opened.
type Failure struct {
	Result
	Transcript string // the end of the dialogue, secrets blanked; "" if nobody was reached
}

func (f *Failure) Error() string { return f.Reply.String() }
