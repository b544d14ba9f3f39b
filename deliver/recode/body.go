package recode

import (
	"bytes"
	"encoding/base64"
	"io"
	"unicode/utf8"
)

// A survey is what is known of a body.
type survey struct {
	octets  int64 // without line ends
	high    int64 // of them above 127
	costly  int64 // of them, those that need three in quoted-printable
	longest int   // line

	line   int    // length so far
	tail   []byte // the beginning of a character, at most three octets
	broken bool   // it is not UTF-8
}

// add takes a line, or a piece of one.
func (s *survey) add(text []byte, ends bool) {
	s.octets += int64(len(text))
	s.line += len(text)
	s.longest = max(s.longest, s.line)
	high := s.high
	for _, c := range text {
		if !isPlain(c) {
			s.costly++
			if c >= 0x80 {
				s.high++
			}
		}
	}
	if s.high > high || len(s.tail) > 0 {
		s.checkUTF8(text)
	}
	if ends {
		s.line = 0
		s.broken = s.broken || len(s.tail) > 0
		s.tail = s.tail[:0]
	}
}

// checkUTF8 keeps what may be continued in the next piece.
func (s *survey) checkUTF8(text []byte) {
	if len(s.tail) > 0 {
		text = append(s.tail, text...)
	}
	n := len(text)
	for n > 0 && len(text)-n < utf8.UTFMax && !utf8.RuneStart(text[n-1]) {
		n--
	}
	if n > 0 && !utf8.FullRune(text[n-1:]) {
		n--
	} else {
		n = len(text)
	}
	s.broken = s.broken || !utf8.Valid(text[:n])
	s.tail = append([]byte(nil), text[n:]...)
}

// isUTF8 reports whether all of it was UTF-8.
func (s *survey) isUTF8() bool { return !s.broken && len(s.tail) == 0 }

// choose returns the encoding for a body: quoted-printable for text, which stays readable, unless base64 is shorter.
func (s *survey) choose(t mediaType) string {
	if t.main == "text" && 6*s.costly <= s.octets {
		return "quoted-printable"
	}
	return "base64"
}

// base64 writes what stands from off to end in base64 (RFC 2045 section 6.8).
func (e *encoder) base64(off, end int64) {
	w := base64.NewEncoder(base64.StdEncoding, &wrapper{e: e})
	n, err := io.Copy(w, io.NewSectionReader(e.content, off, end-off))
	e.lines.fail(whole(n, end-off, err))
	_ = w.Close() // the writer below keeps the error
}

// rewrap writes base64 that stands from off to end in lines of the usual length.
func (e *encoder) rewrap(off, end int64) {
	w := &wrapper{e: e}
	e.lines.seek(off, end)
	for {
		text, _, err := e.lines.next()
		if err != nil {
			return
		}
		_, _ = w.Write(bytes.Trim(text, " \t")) // it has no error
	}
}

// maxEncoded is how long an encoded line may be (RFC 2045 sections 6.7 and 6.8).
const maxEncoded = 76

// A wrapper breaks what is written to it into lines.
type wrapper struct {
	e      *encoder
	column int
}

func (w *wrapper) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if w.column == maxEncoded {
			w.e.writeString("\r\n")
			w.column = 0
		}
		part := p[:min(len(p), maxEncoded-w.column)]
		w.e.write(part)
		w.e.open = true
		w.column += len(part)
		p = p[len(part):]
	}
	return n, nil
}
