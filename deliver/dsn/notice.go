package dsn

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-message"
	"github.com/postrider/postrider/internal/mail"
)

// notice writes the first part: what happened, to whom, why, and what to do about it, for people.
func (r *Report) notice(top *message.Writer, o *original) error {
	// Composed twice: once to learn whether it needs an encoding, without holding it.
	var seen facts
	if err := r.writeNotice(&seen, o); err != nil {
		return err
	}
	charset, encoding := "us-ascii", "7bit"
	if seen.EightBit {
		charset, encoding = "utf-8", "quoted-printable"
	}
	return part(top, "text/plain", map[string]string{"charset": charset}, encoding, "Notice", func(w io.Writer) error {
		return r.writeNotice(w, o)
	})
}

func (r *Report) writeNotice(w io.Writer, o *original) error {
	t := &textWriter{bufio.NewWriter(w)}
	t.para("", "This is the mail system of "+r.ReportingMTA+".")
	if s := o.subject(); s != "" {
		t.para("", "Your message of "+r.date(r.Original.Arrival)+",")
		t.para("    ", s)
	} else {
		t.para("", "Your message of "+r.date(r.Original.Arrival)+", which has no subject,")
	}
	t.para("", words[r.Action].message)
	for _, group := range r.groups() {
		r.writeGroup(t, group)
	}
	if next := r.outlook(); next != "" {
		t.para("", next)
	}
	t.para("", "The details for mail administrators follow, then "+returnedWords(o)+". The queue ID was "+string(r.Original.QueueID)+".")
	return t.w.Flush()
}

func returnedWords(o *original) string {
	if o.whole {
		return "your message"
	}
	return "the header of your message"
}

// outlook says what comes next; "" if nothing does.
func (r *Report) outlook() string {
	switch {
	case r.Action == mail.Delivered:
		return ""
	case r.Action == mail.Relayed || r.Action == mail.Expanded:
		return "You asked to be told of this. There will be no further report if it arrives."
	case r.Action != mail.Delayed && len(r.Recipients) == 1:
		return "Nothing more will be tried for this address. Recipients who are not named here are not affected."
	case r.Action != mail.Delayed:
		return "Nothing more will be tried for these addresses. Recipients who are not named here are not affected."
	case r.WillRetryUntil.IsZero():
		return "You need not do anything: it is tried again and again. If it has to be given up, you will be told."
	}
	return "You need not do anything: it is tried again until " + r.date(r.WillRetryUntil) +
		". If it has to be given up then, you will be told."
}

// An outcome is what recipients have in common who are explained together: a mailing to five hundred addresses that
// one relay refused is one reason, not five hundred.
type outcome struct {
	result   mail.Result
	attempts int
	age      string
}

// groups returns the recipients by outcome, in the order of the first of each.
func (r *Report) groups() [][]*Recipient {
	index := map[outcome]int{}
	var groups [][]*Recipient
	for i := range r.Recipients {
		rcpt := &r.Recipients[i]
		key := outcome{rcpt.Result, rcpt.Attempts, r.age(rcpt)}
		n, ok := index[key]
		if !ok {
			n = len(groups)
			index[key] = n
			groups = append(groups, nil)
		}
		groups[n] = append(groups[n], rcpt)
	}
	return groups
}

func (r *Report) writeGroup(t *textWriter, group []*Recipient) {
	for _, rcpt := range group {
		t.line("  ", rcpt.Path.Address()+formerly(rcpt))
	}
	t.end()
	result := &group[0].Result
	if !r.hasReason(result) {
		return
	}
	t.para("    ", r.tried(group[0])+said(result))
	if result.Reply != (mail.Reply{}) {
		for line := range strings.SplitSeq(reason(result.Reply), "\n") {
			t.line("        ", line)
		}
		t.end()
	}
	if a := advice(r, result); a != "" {
		t.para("    ", a)
	}
}

// hasReason reports whether there is more to say than what became of the message: of success, only a server's words.
func (r *Report) hasReason(result *mail.Result) bool {
	return result.Remote || r.Action == mail.Failed || r.Action == mail.Delayed
}

// formerly names the address that the sender wrote, if it became another one on the way.
func formerly(rcpt *Recipient) string {
	_, xtext, _ := strings.Cut(rcpt.Original, ";")
	written, err := mail.DecodeXtext(xtext)
	if err != nil || written == "" || strings.EqualFold(written, rcpt.Path.Address()) {
		return ""
	}
	return " (you wrote to " + written + ")"
}

// tried says how often and how long, where that matters: for what was given up, and what is still tried.
func (r *Report) tried(rcpt *Recipient) string {
	if rcpt.Result.Status().Class() != 4 || rcpt.Attempts < 2 {
		return ""
	}
	s := fmt.Sprintf("It was tried %d times in %s. ", rcpt.Attempts, r.age(rcpt))
	if r.Action == mail.Failed {
		s = fmt.Sprintf("It was tried %d times in %s, then given up. ", rcpt.Attempts, r.age(rcpt))
	}
	return s
}

// age says how long the message has been tried for the recipient.
func (r *Report) age(rcpt *Recipient) string {
	since := rcpt.FirstAttempt
	if since.IsZero() {
		since = r.Original.Arrival
	}
	return duration(r.Now.Sub(since))
}

// duration says d as one would in conversation.
func duration(d time.Duration) string {
	for _, unit := range []struct {
		d    time.Duration
		word string
	}{{24 * time.Hour, "days"}, {time.Hour, "hours"}} {
		if d >= 2*unit.d {
			return fmt.Sprintf("%d %s", d.Round(unit.d)/unit.d, unit.word)
		}
	}
	if d < 2*time.Minute {
		return "a minute"
	}
	return fmt.Sprintf("%d minutes", d.Round(time.Minute)/time.Minute)
}

// said introduces the words behind the result.
func said(result *mail.Result) string {
	switch {
	case result.Reply == (mail.Reply{}):
		return "No reason is known."
	case result.Remote && result.Relay != "":
		return "The server " + result.Relay + " answered:"
	case result.Remote:
		return "The server answered:"
	}
	return "The reason:"
}

// reason returns the reply as it came, line by line.
func reason(r mail.Reply) string {
	lines := r.Text[:min(len(r.Text), maxReason)]
	r.Text = ""
	if codes := r.String(); codes != "" {
		lines = strings.TrimSpace(codes + " " + lines)
	}
	if lines == "" {
		return r.Enhanced.String()
	}
	return lines
}

// maxReason is how much of a reply people are shown, in octets; all of it is in the second part.
const maxReason = 2 << 10

// textWidth is how long lines are, in octets.
const textWidth = 72

// A textWriter writes paragraphs. The bufio.Writer keeps the first error.
type textWriter struct{ w *bufio.Writer }

// para writes s as one paragraph of indented lines and an empty line.
func (t *textWriter) para(indent, s string) {
	t.line(indent, s)
	t.end()
}

// line writes s as indented lines, whatever is in it.
func (t *textWriter) line(indent, s string) {
	for _, line := range fold(clean(s), textWidth-len(indent)) {
		t.w.WriteString(indent)
		t.w.WriteString(line)
		t.w.WriteByte('\n')
	}
}

func (t *textWriter) end() { t.w.WriteByte('\n') }
