package local

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/postrider/postrider/internal/mail"
)

// statuses says what the exit statuses of sysexits.h mean. Others are failures for good (5.3.0).
var statuses = map[int]struct {
	code mail.EnhancedCode
	word string
}{
	64: {mail.EnhancedCode{5, 3, 0}, "usage"},
	65: {mail.EnhancedCode{5, 6, 0}, "bad data"},
	66: {mail.EnhancedCode{5, 3, 0}, "no input"},
	67: {mail.EnhancedCode{5, 1, 1}, "no such user"},
	68: {mail.EnhancedCode{5, 1, 2}, "no such host"},
	69: {mail.EnhancedCode{5, 3, 0}, "unavailable"},
	70: {mail.EnhancedCode{5, 3, 0}, "internal error"},
	71: {mail.EnhancedCode{4, 3, 0}, "system error"},
	72: {mail.EnhancedCode{5, 3, 5}, "system file missing"},
	73: {mail.EnhancedCode{5, 2, 0}, "cannot create a file"},
	74: {mail.EnhancedCode{4, 3, 0}, "I/O error"},
	75: {mail.EnhancedCode{4, 3, 0}, "temporary failure"},
	76: {mail.EnhancedCode{5, 5, 0}, "protocol error"},
	77: {mail.EnhancedCode{5, 7, 0}, "not permitted"},
	78: {mail.EnhancedCode{4, 3, 5}, "configuration error"},
}

// verdict says what the end of a program means. Output that begins with a status code of RFC 3463, of a failure, has the
// last word about what kind of failure it is.
func verdict(state *os.ProcessState, err error, out *excerpt) mail.Result {
	if state == nil || err != nil && !errors.As(err, new(*exec.ExitError)) && !errors.Is(err, exec.ErrWaitDelay) {
		return mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 3, 0}, "the end of the program is not known: %v", err)
	}
	status := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return mail.Delay(mail.OfRecipient, mail.EnhancedCode{4, 3, 0}, "the program was ended by a signal: %v%s", status.Signal(), out)
	}
	exit := status.ExitStatus()
	if exit == 0 {
		return delivered("delivered to the program")
	}
	s, known := statuses[exit]
	text := fmt.Sprintf("the program exited with status %d", exit)
	if known {
		text += ", " + s.word
	} else {
		s.code = mail.EnhancedCode{5, 3, 0}
	}
	first, _, _ := strings.Cut(out.line(), " ")
	if c, ok := mail.ParseEnhancedCode(first); ok && c.Class() != 2 {
		s.code = c
	}
	r := mail.Result{Action: mail.Failed, Reply: mail.Reply{Enhanced: s.code, Text: text + out.String()}}
	if s.code.Class() == 4 {
		r.Action = mail.Delayed
	}
	return r
}

// An excerpt keeps the start of what a program writes.
type excerpt struct{ text []byte }

const (
	excerptSize = 4 << 10
	excerptLine = 300 // octets of a line that are shown
)

func (e *excerpt) Write(p []byte) (int, error) {
	e.text = append(e.text, p[:min(len(p), excerptSize-len(e.text))]...)
	return len(p), nil
}

// line returns the first line that is not empty, fit for a reply.
func (e *excerpt) line() string {
	text := strings.ToValidUTF8(string(e.text), "?")
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	first = strings.Map(func(c rune) rune {
		if c < ' ' || 0x7f <= c && c < 0xa0 {
			return ' '
		}
		return c
	}, strings.TrimSpace(first))
	if len(first) > excerptLine {
		first = first[:excerptLine]
		for !utf8.ValidString(first) {
			first = first[:len(first)-1]
		}
		first += "..."
	}
	return first
}

// String returns the line with a colon before it; "" if there is none.
func (e *excerpt) String() string {
	if line := e.line(); line != "" {
		return ": " + line
	}
	return ""
}
