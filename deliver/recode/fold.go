package recode

import "bytes"

// A folder breaks lines of a header that are too long (RFC 5322 section 2.2.3): before blanks, so that what is unfolded
// again is what was there; and in a list of addresses after commas, where a blank changes nothing. A word that is longer
// than a line stays as it is.
type folder struct {
	e         *encoder
	addresses bool // the field is a list of addresses

	column int    // of the line so far
	word   []byte // not written yet
	broken bool   // the beginning of the word is written: it was too long to be kept
	comma  bool   // the word before ended in a comma
	quoted bool
}

// isAddressList reports whether a field, its name in lower case, is a list of addresses.
func isAddressList(name string) bool {
	switch name {
	case "to", "cc", "from", "reply-to", "resent-to", "resent-cc", "resent-from", "resent-reply-to":
		return true
	}
	return false
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// write writes a line, or a piece of one that whole says is the first.
func (f *folder) write(text []byte, ends, whole bool) {
	if whole {
		f.column, f.word, f.broken, f.comma, f.quoted = 0, f.word[:0], false, false, false
		if ends && len(text) <= MaxLine {
			f.e.write(text)
			f.e.writeString("\r\n")
			return
		}
	}
	for i, c := range text {
		if isBlank(c) && len(f.word) > 0 && !isBlank(f.word[len(f.word)-1]) {
			f.flush()
		}
		f.word = append(f.word, c)
		switch {
		case c == '"' && (i == 0 || text[i-1] != '\\'):
			f.quoted = !f.quoted
		case c == ',' && f.addresses && !f.quoted:
			f.flush()
			f.comma = true
		case len(f.word) > MaxLine:
			f.flush()
			f.broken = true
		}
	}
	if ends {
		f.end()
	}
}

func (f *folder) end() {
	f.flush()
	f.e.writeString("\r\n")
}

// flush writes the word, on a line of its own if it does not fit and may be.
func (f *folder) flush() {
	if len(f.word) == 0 {
		return
	}
	blank := isBlank(f.word[0])
	if f.column+len(f.word) > MaxLine && f.column > 0 && !f.broken && (blank || f.comma) && len(bytes.Trim(f.word, " \t")) > 0 {
		f.e.writeString("\r\n")
		f.column = 0
		if !blank {
			f.e.writeString(" ")
			f.column = 1
		}
	}
	f.e.write(f.word)
	f.column += len(f.word)
	f.word, f.broken, f.comma = f.word[:0], false, false
}
