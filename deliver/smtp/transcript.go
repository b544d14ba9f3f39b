package smtp

import (
	"bytes"
	"strconv"
	"strings"
	"sync"

	"github.com/postrider/postrider/internal/mail"
)

const (
	maxTranscript     = 8 << 10 // octets
	maxTranscriptLine = 512
)

// A transcript is the end of a dialogue, for whoever wants to know why it failed. What we said is marked "C: ", what
// the server said "S: ".
type transcript struct {
	mu    sync.Mutex
	buf   []byte
	trace func(line string) // nil if nobody listens
}

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
	var line [2 * maxTranscriptLine]byte
	head := strconv.AppendInt(line[:0], int64(r.Code), 10)
	if r.Enhanced != (mail.EnhancedCode{}) {
		for i, n := range r.Enhanced {
			head = strconv.AppendInt(append(head, " .."[i]), int64(n), 10)
		}
	}
	head = append(head, ' ')
	for text := range strings.SplitSeq(r.Text, "\n") {
		t.add("S: ", append(head, text[:min(len(text), maxTranscriptLine)]...))
	}
}

func (t *transcript) add(mark string, line []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.buf) > 2*maxTranscript {
		t.buf = append(t.buf[:0], t.end()...)
	}
	start := len(t.buf)
	t.buf = append(t.buf, mark...)
	t.buf = append(t.buf, line[:min(len(line), maxTranscriptLine)]...)
	if t.trace != nil {
		t.trace(string(t.buf[start:]))
	}
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

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.end())
}
