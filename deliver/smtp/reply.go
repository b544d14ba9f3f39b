package smtp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/postrider/postrider/internal/mail"
)

// What a server may say at once. RFC 5321 section 4.5.3.1.5 gives a line 512 octets; many need more.
const (
	maxLine  = 2048 // octets, with the end of the line
	maxLines = 128
	maxReply = 64 << 10 // octets
)

// A protocolError is something that is not SMTP: nothing that follows it can be trusted to answer what we ask.
type protocolError string

func (e protocolError) Error() string { return string(e) }

// A strayLine is a line that is no reply, whole: it may quote a secret, and what is cut is not recognized as one.
type strayLine string

func (s strayLine) Error() string { return fmt.Sprintf("%q is not a reply", shorten(string(s))) }

func (s strayLine) Unwrap() error { return protocolError(s.Error()) }

// A misplaced is a reply, in words, to something that was not asked.
type misplaced string

func (m misplaced) Error() string { return fmt.Sprintf("reply %q is out of place", string(m)) }

func (m misplaced) Unwrap() error { return protocolError(m.Error()) }

// readReply reads one reply (RFC 5321 section 4.2): lines of one code, the last without a hyphen. The enhanced code is
// taken whether or not it was announced, if its class is the code's (RFC 2034 section 4). Errors: protocolError,
// io.EOF if there was nothing, io.ErrUnexpectedEOF in the middle, or that of the connection.
func readReply(r *bufio.Reader) (mail.Reply, error) {
	var reply mail.Reply
	var text []byte
	total := 0
	for n := 1; ; n++ {
		line, err := readLine(r)
		if err != nil {
			if n > 1 && err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return mail.Reply{}, err
		}
		if total += len(line); total > maxReply || n > maxLines {
			return mail.Reply{}, protocolError("endless reply")
		}
		code, last, ok := parseCode(line)
		if !ok {
			return mail.Reply{}, strayLine(appendPrintable(nil, line))
		}
		if n == 1 {
			reply.Code = code
		} else if code != reply.Code {
			return mail.Reply{}, protocolError(fmt.Sprintf("reply %d goes on as %d", reply.Code, code))
		}
		enhanced, words := cutEnhanced(code, line[min(4, len(line)):])
		if reply.Enhanced == (mail.EnhancedCode{}) {
			reply.Enhanced = enhanced
		}
		if n > 1 {
			text = append(text, '\n')
		}
		text = appendPrintable(text, words)
		if last {
			reply.Text = string(text)
			return reply, nil
		}
	}
}

// readLine returns the next line without its end. A LF alone ends a line too, as some servers have it; a CR or NUL
// within one is not SMTP.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if len(line) > maxLine || errors.Is(err, bufio.ErrBufferFull) {
		return nil, protocolError("endless reply line")
	}
	if err == io.EOF && len(line) > 0 {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	line = line[:len(line)-1]
	if len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	for _, c := range line {
		if c == '\r' || c == 0 {
			return nil, protocolError("CR or NUL in a reply")
		}
	}
	return line, nil
}

// parseCode reads three digits and what follows them: a blank, nothing, or the hyphen of a line that is not the last.
func parseCode(line []byte) (code int, last, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' {
		return 0, false, false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		code = code*10 + int(c-'0')
	}
	if len(line) == 3 || line[3] == ' ' {
		return code, true, true
	}
	return code, false, line[3] == '-'
}

// cutEnhanced takes an enhanced code of the class of code from the start of a line.
func cutEnhanced(code int, text []byte) (mail.EnhancedCode, []byte) {
	if len(text) < len("2.0.0") || int(text[0]-'0') != code/100 || text[1] != '.' {
		return mail.EnhancedCode{}, text
	}
	word, rest, _ := bytes.Cut(text, []byte(" "))
	enhanced, ok := mail.ParseEnhancedCode(strings.TrimSuffix(string(word), ":")) // as some servers write it
	if !ok {
		return mail.EnhancedCode{}, text
	}
	return enhanced, rest
}

// appendPrintable appends what a server said with a ? for each octet that is not printable ASCII: its words go into
// logs, reports and terminals.
func appendPrintable(dst, text []byte) []byte {
	for _, c := range text {
		if c < ' ' || c > '~' {
			c = '?'
		}
		dst = append(dst, c)
	}
	return dst
}

// printable is appendPrintable for a line of our own that may quote others.
func printable(s string) string { return string(appendPrintable(nil, []byte(s))) }

func shorten(line string) string { return line[:min(len(line), 60)] }

func positive(r mail.Reply) bool     { return r.Code/100 == 2 }
func intermediate(r mail.Reply) bool { return r.Code/100 == 3 }

// closing is the reply of a server that is about to hang up, to whatever command (RFC 5321 section 3.8).
func closing(r mail.Reply) bool { return r.Code == 421 }
