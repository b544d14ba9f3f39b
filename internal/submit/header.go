package submit

import (
	"bytes"
	"io"
	"iter"

	"github.com/postrider/postrider/internal/mail"
)

// maxHeader is how long a header may be: it is kept in memory until the recipients are known.
const maxHeader = 16 << 20

func longHeader() error {
	return Refuse(ExitData, mail.EnhancedCode{5, 6, 0}, "header is longer than %d octets", maxHeader)
}

// maxFieldName is how far into a line we look for the colon that makes it a header field. A longer name could not stand
// on a line of RFC 5322 section 2.1.1.
const maxFieldName = 998

// readHeader reads the header, with CRLF after each line, and the beginning of the body's first line if it had to be read
// to find out that it belongs to no header; ends says whether that line is complete. Lines that mark messages in an mbox
// file ("From " and ">From ") are dropped in front of the header.
func readHeader(r *lineReader) (header, body []byte, ends bool, err error) {
	for {
		start := len(header)
		kind := undecided
		for ends = false; kind == undecided && !ends; {
			var piece []byte
			if piece, ends, err = r.next(); err != nil {
				return header, nil, false, headerError(err)
			}
			header = append(header, piece...)
			kind = classify(header[start:], ends, start == 0)
		}
		switch kind {
		case blankLine:
			return header, nil, false, nil
		case bodyLine:
			return header[:start:start], header[start:], ends, nil
		}
		for !ends {
			var piece []byte
			if piece, ends, err = r.next(); err != nil {
				return nil, nil, false, headerError(err)
			}
			header = append(header, piece...)
			if len(header) > maxHeader {
				return nil, nil, false, longHeader()
			}
		}
		if header = append(header, '\r', '\n'); len(header) > maxHeader {
			return nil, nil, false, longHeader()
		}
		if kind == mboxLine {
			header = header[:start]
		}
	}
}

// headerError tells the end of the text, which only means that there is no body, from failures.
func headerError(err error) error {
	if err == io.EOF {
		return nil
	}
	return Unreadable(err)
}

// lineKind is what a line in or after the header is.
type lineKind uint8

const (
	undecided lineKind = iota
	fieldLine          // starts or continues a field
	mboxLine
	blankLine
	bodyLine
)

// classify says what a line is by its beginning. whole is set if there is no more of it, first if no field comes before.
func classify(line []byte, whole, first bool) lineKind {
	if len(line) == 0 {
		if whole {
			return blankLine
		}
		return undecided
	}
	if line[0] == ' ' || line[0] == '\t' {
		if first {
			return bodyLine
		}
		return fieldLine
	}
	n := nameLength(line)
	decided := whole || n < len(line) || n > maxFieldName
	switch {
	case 0 < n && n < len(line) && n <= maxFieldName && line[n] == ':':
		return fieldLine
	case decided && first && bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From ")):
		return mboxLine
	case decided:
		return bodyLine
	}
	return undecided
}

// nameLength returns how long the field name at the start of a line is, with the blanks that RFC 822 allowed after it.
func nameLength(line []byte) int {
	n := 0
	for n < len(line) && '!' <= line[n] && line[n] <= '~' && line[n] != ':' {
		n++
	}
	for n > 0 && n < len(line) && (line[n] == ' ' || line[n] == '\t') {
		n++
	}
	return n
}

// A field is a field of the header.
type field struct {
	raw    []byte // all of it, with its line ends
	value  []byte // what follows the colon, without the last line end
	name   fieldName
	resent bool // the name starts with "Resent-"
}

// newField returns a field of ours.
func newField(name, value string) field {
	f := field{raw: []byte(name + ": " + value + "\r\n")}
	f.value = f.raw[len(name)+1 : len(f.raw)-len("\r\n")]
	f.name, f.resent = parseName([]byte(name))
	return f
}

// isEmpty reports whether the field says nothing.
func (f *field) isEmpty() bool { return len(bytes.TrimSpace(f.value)) == 0 }

// fieldName is a name that means something to us, in lower case and without "resent-".
type fieldName uint8

const (
	otherName fieldName = iota
	receivedName
	dateName
	fromName
	senderName
	replyToName
	toName
	ccName
	bccName
	messageIDName
	originalFromName
	priorityName    // MT-Priority (RFC 6758)
	tlsRequiredName // TLS-Required (RFC 8689 section 5)
	droppedName     // what only somebody else may add: Return-Path (RFC 5321 section 4.4), or would be wrong: Content-Length
)

func parseName(s []byte) (name fieldName, resent bool) {
	var buf [24]byte
	if len(s) > len(buf) {
		return otherName, false
	}
	lower := buf[:copy(buf[:], s)]
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	lower, resent = bytes.CutPrefix(lower, []byte("resent-"))
	switch string(lower) {
	case "date":
		return dateName, resent
	case "from":
		return fromName, resent
	case "sender":
		return senderName, resent
	case "reply-to":
		return replyToName, resent
	case "to":
		return toName, resent
	case "cc":
		return ccName, resent
	case "bcc":
		return bccName, resent
	case "message-id":
		return messageIDName, resent
	case "received":
		if !resent {
			return receivedName, false
		}
	case "x-original-from":
		if !resent {
			return originalFromName, false
		}
	case "mt-priority":
		if !resent {
			return priorityName, false
		}
	case "tls-required":
		if !resent {
			return tlsRequiredName, false
		}
	case "return-path", "content-length":
		if !resent {
			return droppedName, false
		}
	}
	return otherName, resent
}

// fields goes through the fields of a header.
func fields(header []byte) iter.Seq[field] {
	return func(yield func(field) bool) {
		for len(header) > 0 {
			n := fieldLength(header)
			f := field{raw: header[:n]}
			header = header[n:]
			name, value, _ := bytes.Cut(f.raw, []byte{':'})
			f.value = bytes.TrimSuffix(value, []byte("\r\n"))
			f.name, f.resent = parseName(bytes.TrimRight(name, " \t"))
			if !yield(f) {
				return
			}
		}
	}
}

// fieldLength returns how long the first field of a header is: up to a line that does not start with a blank.
func fieldLength(header []byte) int {
	for n := 0; ; {
		i := bytes.IndexByte(header[n:], '\n')
		if i < 0 {
			return len(header)
		}
		n += i + 1
		if n == len(header) || header[n] != ' ' && header[n] != '\t' {
			return n
		}
	}
}
