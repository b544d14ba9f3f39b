// Package recode fits a message to a server that would not take it as it is: parts with octets above 127, or with lines
// that are too long, get a transfer encoding that has neither (RFC 2045 section 6), and header lines are folded.
//
// What is decoded at the other end is what went in, octet by octet. Signed parts are left alone, since any change would
// break the signature: whether it takes them is for the server to say. So is what cannot be understood.
package recode

import (
	"bufio"
	"bytes"
	"io"
	"slices"

	"github.com/postrider/postrider/internal/mail"
)

// MaxLine is how long a line may be, in octets without CRLF (RFC 5321 section 4.5.3.1.6).
const MaxLine = 998

// Needed reports whether a content of which this is known has to be recoded for a server. eightBit says whether that
// takes octets above 127 (8BITMIME, RFC 6152).
func Needed(f mail.Facts, eightBit bool) bool {
	return f.LongestLine > MaxLine || f.EightBit && !eightBit
}

// Size returns how many octets Write would write.
func Size(content io.ReaderAt, size int64, eightBit bool) (int64, error) {
	var n counter
	err := Write(&n, content, size, eightBit)
	return int64(n), err
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// Write writes a content of size octets, in wire form, for a server that takes octets above 127 only if eightBit is set.
// It reads the content more than once, and keeps little of it in memory. Errors are those of w and of the content.
func Write(w io.Writer, content io.ReaderAt, size int64, eightBit bool) error {
	e := &encoder{
		eightBit: eightBit,
		content:  content,
		lines:    newLineReader(content, size),
		out:      bufio.NewWriterSize(w, windowSize),
	}
	e.entity(0, kind{message: true}, nil)
	if e.open {
		e.writeString("\r\n")
	}
	if e.lines.failed() {
		return e.lines.err
	}
	return e.out.Flush()
}

// An encoder goes through a message from its beginning to its end: each entity, which is a header and a body (RFC 2045
// section 2.4), with the entities that it has for a body. After an error there are no more
// lines, which ends the walk.
type encoder struct {
	eightBit bool
	content  io.ReaderAt
	lines    *lineReader
	out      *bufio.Writer
	open     bool // what was encoded last has left its last line without an end
}

// maxDepth is how deep entities may stand in each other. What is deeper is left as it is.
const maxDepth = 20

// kind is what is known of an entity by where it stands.
type kind struct {
	message bool // it is a message, not part of one
	digest  bool // its type is message/rfc822 unless it says something else (RFC 2046 section 5.1.5)
	depth   int
}

// entity writes the entity that begins at off, and returns the delimiter that ends it: one of those within which it
// stands, the innermost last, or the end of the content.
func (e *encoder) entity(off int64, k kind, within []string) delimiter {
	h := e.readHeader(off, within)
	if h.signed || h.malformed || k.depth > maxDepth {
		return e.copyUntil(off, within)
	}
	t := h.mediaType(k.digest)
	switch {
	case !h.isIdentity():
	case t.is("multipart", "signed"), t.is("multipart", "encrypted"):
		e.writeHeader(&h, k.message)
		return e.copyUntil(h.end, within)
	case t.main == "multipart" && t.boundary != "":
		e.relabel(&h)
		e.writeHeader(&h, k.message)
		part := kind{digest: t.sub == "digest", depth: k.depth + 1}
		return e.multipart(h.end, part, append(slices.Clip(within), t.boundary))
	case t.is("message", "rfc822"):
		e.relabel(&h)
		e.writeHeader(&h, k.message)
		e.copy(h.end, h.body)
		return e.entity(h.body, kind{message: true, depth: k.depth + 1}, within)
	case t.main == "multipart", t.main == "message" && !t.isGlobal():
		// Nothing that may be encoded (RFC 2046 sections 5.1 and 5.2).
		e.writeHeader(&h, k.message)
		return e.copyUntil(h.end, within)
	}
	return e.leaf(&h, t, k.message, within)
}

// relabel says of an entity that consists of entities that it has no octets above 127 any more. What is signed within it
// may have some nevertheless: then the label is as wrong as sending it is, to a server that has not asked for it.
func (e *encoder) relabel(h *header) {
	if !e.eightBit && h.isWide() {
		h.encodeAs("7bit")
	}
}

// multipart writes a multipart body that begins at off; the last of within is its boundary.
func (e *encoder) multipart(off int64, part kind, within []string) delimiter {
	own := len(within) - 1
	d := e.copyUntil(off, within) // the preamble, which nobody is shown
	for d.level == own {
		e.copy(d.off, d.end)
		if d.closing {
			return e.copyUntil(d.end, within[:own])
		}
		d = e.entity(d.end, part, within)
	}
	return d
}

// leaf writes an entity that consists of no others.
func (e *encoder) leaf(h *header, t mediaType, message bool, within []string) delimiter {
	var s survey
	d := e.until(h.body, within, s.add)
	switch needed := s.longest > MaxLine || s.high > 0 && !e.eightBit; {
	case needed && h.isIdentity():
		how := s.choose(t)
		h.encodeAs(how)
		if s.high > 0 {
			h.addCharset(t, s.isUTF8())
		}
		e.writeHeader(h, message)
		e.copy(h.end, h.body)
		if how == "base64" {
			e.base64(h.body, d.text)
		} else {
			e.quotedPrintable(h.body, d.text)
		}
	case needed && h.encoding == "quoted-printable":
		e.writeHeader(h, message)
		e.copy(h.end, h.body)
		e.requote(h.body, d.text)
	case needed && h.encoding == "base64":
		e.writeHeader(h, message)
		e.copy(h.end, h.body)
		e.rewrap(h.body, d.text)
	default:
		if !needed {
			e.relabel(h)
		}
		e.writeHeader(h, message)
		e.copy(h.end, d.text)
	}
	e.copy(d.text, d.off)
	return d
}

// copyUntil copies all from off to the delimiter, and returns that.
func (e *encoder) copyUntil(off int64, within []string) delimiter {
	d := e.until(off, within, nil)
	e.copy(off, d.off)
	return d
}

func (e *encoder) copy(from, to int64) {
	if from >= to || e.lines.failed() {
		return
	}
	n, err := io.Copy(e.out, io.NewSectionReader(e.content, from, to-from))
	e.lines.fail(whole(n, to-from, err))
	e.open = false
}

func (e *encoder) write(p []byte) {
	_, err := e.out.Write(p)
	e.lines.fail(err)
}

func (e *encoder) writeString(s string) {
	_, err := e.out.WriteString(s)
	e.lines.fail(err)
}

// A delimiter is where an entity ends.
type delimiter struct {
	text    int64 // the end of what comes before it, without the line end that is part of the delimiter
	off     int64 // where its line begins
	end     int64 // where the next line does
	level   int   // whose it is, as a position in the list of boundaries; -1 for the end of the content
	closing bool  // there is no further part
}

// until looks for the first delimiter at off or after it, and has look see all the lines before it, if it is not nil.
func (e *encoder) until(off int64, within []string, look func(text []byte, ends bool)) delimiter {
	r := e.lines
	r.seek(off, r.size)
	d := delimiter{text: off, level: -1}
	for whole := true; ; {
		start := r.pos
		text, ends, err := r.next()
		if err != nil {
			d.text, d.off, d.end = r.pos, r.pos, r.pos
			return d
		}
		if whole && (ends || r.pos == r.size) {
			if d.level, d.closing = find(within, text); d.level >= 0 {
				d.off, d.end = start, r.pos
				return d
			}
		}
		if look != nil {
			look(text, ends)
		}
		d.text = start + int64(len(text))
		whole = ends
	}
}

// find tells whose delimiter a line is (RFC 2046 section 5.1.1); level is -1 if it is none.
func find(within []string, line []byte) (level int, closing bool) {
	line, dashes := bytes.CutPrefix(line, []byte("--"))
	if !dashes {
		return -1, false
	}
	line = bytes.TrimRight(line, " \t")
	for level := len(within) - 1; level >= 0; level-- {
		if rest, ok := bytes.CutPrefix(line, []byte(within[level])); ok && (len(rest) == 0 || string(rest) == "--") {
			return level, len(rest) > 0
		}
	}
	return -1, false
}
