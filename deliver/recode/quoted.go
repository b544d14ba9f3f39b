package recode

import "bytes"

// quotedPrintable writes what stands from off to end in quoted-printable (RFC 2045 section 6.7).
func (e *encoder) quotedPrintable(off, end int64) {
	q := quoter{e: e}
	e.lines.seek(off, end)
	for {
		text, ends, err := e.lines.next()
		if err != nil {
			break
		}
		for len(text) > 0 {
			if n := q.plain(text); n > 0 {
				text = text[n:]
				continue
			}
			q.literal(text[0], text[1:], ends)
			text = text[1:]
		}
		if ends {
			q.endLine()
		}
	}
	q.end()
}

// requote writes quoted-printable that stands from off to end with lines of the usual length, and without octets that do
// not belong there.
func (e *encoder) requote(off, end int64) {
	q := quoter{e: e}
	e.lines.seek(off, end)
	var kept []byte // of a line that comes in pieces
	for {
		text, ends, err := e.lines.next()
		if err != nil {
			break
		}
		text = append(kept, text...)
		kept = nil
		last := ends || e.lines.pos >= end
		if last {
			text = bytes.TrimRight(text, " \t") // what was added on the way (rule 3)
		} else if n := openEnd(text); n < len(text) {
			kept = append(kept, text[n:]...)
			text = text[:n]
		}
		soft := false
		for i := 0; i < len(text); i++ {
			switch {
			case text[i] != '=':
				q.literal(text[i], text[i+1:], last)
			case i+2 < len(text) && isHex(text[i+1]) && isHex(text[i+2]):
				q.put([3]byte(text[i:]), 3)
				i += 2
			case i+1 == len(text) && last:
				soft = true
			default:
				q.literal('=', text[i+1:], last)
			}
		}
		if ends && !soft {
			q.endLine()
		}
	}
	q.end()
}

// openEnd returns where in a piece of a line that goes on something begins whose meaning depends on what follows.
func openEnd(text []byte) int {
	n := len(bytes.TrimRight(text, " \t"))
	if len(text)-n > MaxLine {
		return len(text) // no program adds so many blanks: they are meant
	}
	for i := n - 1; i >= 0 && i >= n-2; i-- {
		if text[i] == '=' {
			return i
		}
	}
	return n
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' || 'a' <= c && c <= 'f'
}

// A quoter writes quoted-printable. It holds back one token, an octet as it is or encoded as three: how it is written
// depends on whether the line ends after it.
type quoter struct {
	e      *encoder
	column int
	held   [3]byte
	length int  // of the token held back; 0: none
	first  bool // it must not begin a line as it is
}

// plain takes what need not be looked at octet by octet: those that stay as they are, in the midst of a line. It returns
// how many these are.
func (q *quoter) plain(text []byte) int {
	q.release(maxEncoded - 1)
	if q.column == 0 {
		return 0
	}
	n := 0
	for most := min(maxEncoded-1-q.column, len(text)-1); n < most && isPlain(text[n]); n++ {
	}
	q.e.write(text[:n])
	q.column += n
	return n
}

// isPlain reports whether an octet may stay as it is, unless it is the first or the last of a line.
func isPlain(c byte) bool { return ' ' <= c && c < 0x7f && c != '=' || c == '\t' }

// literal takes an octet; rest is what is known of what follows it, and last is set if that is all of the line.
func (q *quoter) literal(c byte, rest []byte, last bool) {
	if !isPlain(c) {
		q.put(encoded(c), 3)
		return
	}
	q.put([3]byte{c}, 1)
	q.first = isDelicate(c, rest, last)
}

// isDelicate reports whether a line must not begin so: a dot could end the message at a server that is not careful, and
// "From " gets a ">" in many a mailbox. Two dashes could become a delimiter, of which there was none.
func isDelicate(c byte, rest []byte, last bool) bool {
	switch c {
	case '.':
		return true
	case '-':
		return bytes.HasPrefix(rest, []byte{'-'}) || len(rest) == 0 && !last
	case 'F':
		const more = "rom "
		return bytes.HasPrefix(rest, []byte(more)) || !last && len(rest) < len(more)
	}
	return false
}

func encoded(c byte) [3]byte {
	const digits = "0123456789ABCDEF"
	return [3]byte{'=', digits[c>>4], digits[c&15]}
}

// put holds back a token, after the one that was held back.
func (q *quoter) put(token [3]byte, length int) {
	q.release(maxEncoded - 1)
	q.held, q.length, q.first = token, length, false
}

// release writes what is held back, on a line that may be so long.
func (q *quoter) release(limit int) {
	if q.length == 0 {
		return
	}
	begins := q.column == 0 || q.column+q.length > limit
	if begins && q.first {
		q.held, q.length = encoded(q.held[0]), 3
	}
	if q.column+q.length > limit {
		q.e.writeString("=\r\n")
		q.column = 0
	}
	q.e.write(q.held[:q.length])
	q.column += q.length
	q.length = 0
}

// endLine writes the end of a line. A blank must not stand before it.
func (q *quoter) endLine() {
	q.end()
	q.e.writeString("\r\n")
	q.e.open, q.column = false, 0
}

// end writes what is held back at the end of a line or of the body.
func (q *quoter) end() {
	if q.length == 1 && isBlank(q.held[0]) {
		q.held, q.length = encoded(q.held[0]), 3
	}
	q.release(maxEncoded)
	q.e.open = q.column > 0
}
