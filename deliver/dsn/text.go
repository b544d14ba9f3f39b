package dsn

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// clean returns s fit to be shown: on one line, in valid UTF-8, without control characters and those that reorder text.
func clean(s string) string {
	if ascii(s) && !strings.ContainsFunc(s, unprintable) {
		return s
	}
	return strings.Map(func(c rune) rune {
		switch {
		case c == utf8.RuneError:
			return '?'
		case unprintable(c):
			return ' '
		}
		return c
	}, s)
}

func unprintable(c rune) bool { return !unicode.IsPrint(c) }

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// toASCII puts a question mark for every character that is not ASCII.
func toASCII(s string) string {
	if ascii(s) {
		return s
	}
	return strings.Map(func(c rune) rune {
		if c >= 0x80 {
			return '?'
		}
		return c
	}, s)
}

// wordLength is above which a word is cut, in octets: not to be shown well, but to keep lines below maxLine.
const wordLength = 900

// fold breaks s at blanks into lines of at most width octets where the words allow it. A line never begins or ends
// with a blank, and is never empty.
func fold(s string, width int) []string {
	var lines []string
	var line strings.Builder
	for word := range strings.FieldsSeq(s) {
		for len(word) > wordLength {
			cut := wordLength
			for !utf8.RuneStart(word[cut]) {
				cut--
			}
			if line.Len() > 0 {
				lines = append(lines, line.String())
				line.Reset()
			}
			lines = append(lines, word[:cut])
			word = word[cut:]
		}
		if line.Len() > 0 && line.Len()+1+len(word) > width {
			lines = append(lines, line.String())
			line.Reset()
		}
		if line.Len() > 0 {
			line.WriteByte(' ')
		}
		line.WriteString(word)
	}
	if line.Len() > 0 {
		lines = append(lines, line.String())
	}
	return lines
}
