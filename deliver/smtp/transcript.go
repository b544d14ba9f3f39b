package smtp

import (
	"bytes"
	"strings"

	"github.com/postrider/postrider/internal/mail"
)

const (
	maxTranscript     = 8 << 10 // octets
	maxTranscriptLine = 512
)

// A transcript is the end of a dialogue, for whoever wants to know why it failed. What we said is marked "C: ", what
// the server said "S: ".
type transcript struct{ buf []byte }

// said records command lines of ours.
func (t *transcript) said(lines []byte) {
	for len(lines) > 0 {
		line, rest, _ := bytes.Cut(lines, []byte("\r\n"))
		t.add("C: ", line)
		lines = rest
	}
}

// note records something of ours that is no command, or one that is not to be seen.
func (t *transcript) note(text string) { t.add("C: ", []byte(text)) }

// heard records a reply.
func (t *transcript) heard(r mail.Reply) {
	var line [maxTranscriptLine]byte
	head := mail.Reply{Code: r.Code, Enhanced: r.Enhanced}.String()
	for text := range strings.SplitSeq(r.Text, "\n") {
		b := append(append(line[:0], head...), ' ')
		t.add("S: ", append(b, text...))
	}
}

func (t *transcript) add(mark string, line []byte) {
	if len(t.buf) > 2*maxTranscript {
		t.buf = append(t.buf[:0], t.end()...)
	}
	t.buf = append(t.buf, mark...)
	t.buf = append(t.buf, line[:min(len(line), maxTranscriptLine)]...)
	t.buf = append(t.buf, '\n')
}

// end returns the last lines, maxTranscript octets at most.
func (t *transcript) end() []byte {
	if len(t.buf) <= maxTranscript {
		return t.buf
	}
	_, end, _ := bytes.Cut(t.buf[len(t.buf)-maxTranscript-1:], []byte("\n"))
	return end
}

func (t *transcript) String() string { return string(t.end()) }
