package recode

import (
	"bytes"
	"mime"
	"strings"
)

// A header is what matters in the header of an entity.
type header struct {
	start int64 // in the content
	end   int64 // of the fields: where the blank line stands
	body  int64 // after the blank line

	contentType string // the value, unfolded; "" if there is none
	encoding    string // Content-Transfer-Encoding in lower case; "" if there is none
	version     bool   // there is a MIME-Version
	signed      bool   // a signature covers the body, and some of the header
	malformed   bool   // it is no header

	// What is to be written.
	newEncoding string // "" for what there is
	charset     string // to be added; "" for none
}

// maxValue is how long the value of a field that we have to understand may be. A longer one is not understood.
const maxValue = 8 << 10

// readHeader reads the header that begins at off.
func (e *encoder) readHeader(off int64, within []string) header {
	r := e.lines
	r.seek(off, r.size)
	h := header{start: off}
	var name, value []byte // of the field so far, if it is one that matters
	for whole := true; ; {
		at := r.pos
		text, ends, err := r.next()
		level := -1
		if whole && err == nil {
			level, _ = find(within, text)
		}
		if err != nil || level >= 0 {
			h.end, h.body = at, at
			break
		}
		if whole {
			switch {
			case len(text) == 0 && ends:
				h.take(name, value)
				h.end, h.body = at, r.pos
				return h
			case isBlank(text[0]):
				h.malformed = h.malformed || at == off
			default:
				h.take(name, value)
				before, after, ok := bytes.Cut(text, []byte{':'})
				name, value, text = append(name[:0], bytes.TrimRight(before, " \t")...), value[:0], after
				h.malformed = h.malformed || !ok || len(name) == 0 || bytes.ContainsAny(name, " \t")
			}
		}
		value = append(value, text[:min(len(text), maxValue-len(value))]...)
		whole = ends
	}
	h.take(name, value)
	return h
}

// take notes what a field says. Of two fields of a name the first counts.
func (h *header) take(name, value []byte) {
	v := strings.TrimSpace(string(value))
	switch strings.ToLower(string(name)) {
	case "content-type":
		if h.contentType == "" {
			h.contentType = v
		}
	case "content-transfer-encoding":
		if h.encoding == "" {
			h.encoding = strings.ToLower(withoutComments(v))
		}
	case "mime-version":
		h.version = true
	case "dkim-signature", "domainkey-signature", "arc-message-signature":
		h.signed = true
	}
}

// isIdentity reports whether the body is what it stands for.
func (h *header) isIdentity() bool { return h.encoding == "" || h.encoding == "7bit" || h.isWide() }

// isWide reports whether the body may have octets above 127 or long lines, by what the header says.
func (h *header) isWide() bool { return h.encoding == "8bit" || h.encoding == "binary" }

func (h *header) encodeAs(encoding string) { h.newEncoding = encoding }

// addCharset says what octets above 127 mean, if nothing does. A charset that is named stays, and so does what HTML may
// say within itself.
func (h *header) addCharset(t mediaType, utf8 bool) {
	switch {
	case t.main != "text" || t.charset:
	case utf8:
		h.charset = "utf-8"
	case t.sub == "plain":
		h.charset = "unknown-8bit" // RFC 1428 section 3
	}
}

// mediaType is what a Content-Type says.
type mediaType struct {
	main, sub string
	boundary  string // of a multipart type; "" if it has none that we could look for
	charset   bool   // one is named
}

func (t mediaType) is(main, sub string) bool { return t.main == main && t.sub == sub }

// isGlobal reports whether the type is one of RFC 6532 and RFC 6533, which may be encoded although they are messages.
func (t mediaType) isGlobal() bool { return strings.HasPrefix(t.sub, "global") }

// mediaType returns the type that the header gives. Without one, or with one that is none, it is text (RFC 2045 section
// 5.2).
func (h *header) mediaType(digest bool) mediaType {
	value := withoutComments(h.contentType)
	full, params, err := mime.ParseMediaType(value)
	if full == "" && err != nil {
		full, _, _ = strings.Cut(strings.ToLower(value), ";")
	}
	main, sub, ok := strings.Cut(strings.TrimSpace(full), "/")
	switch {
	case h.contentType == "" && digest:
		return mediaType{main: "message", sub: "rfc822"}
	case !ok:
		return mediaType{main: "text", sub: "plain", charset: h.contentType != ""}
	case err != nil || len(h.contentType) == maxValue: // what the parameters say is anybody's guess
		return mediaType{main: main, sub: sub, charset: true}
	}
	t := mediaType{main: main, sub: sub, charset: params["charset"] != ""}
	if b := params["boundary"]; len(b) <= maxBoundary && b == strings.TrimRight(b, " \t") {
		t.boundary = b
	}
	return t
}

// maxBoundary is how long a boundary may be. RFC 2046 section 5.1.1 names 70; some are longer.
const maxBoundary = 200

// withoutComments removes comments (RFC 5322 section 3.2.2) from the value of a structured field.
func withoutComments(s string) string {
	if !strings.Contains(s, "(") {
		return s
	}
	var b strings.Builder
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			if depth == 0 {
				b.WriteString(s[i : i+2])
			}
			i++
		case c == '"' && depth == 0:
			quoted = !quoted
			b.WriteByte(c)
		case c == '(' && !quoted:
			depth++
		case c == ')' && depth > 0:
			depth--
		case depth == 0:
			b.WriteByte(c)
		}
	}
	return strings.TrimSpace(b.String())
}

// writeHeader writes the fields of a header with what has changed; message is set if it is that of a message. Lines that
// are too long are folded.
func (e *encoder) writeHeader(h *header, message bool) {
	r := e.lines
	r.seek(h.start, h.end)
	f := folder{e: e}
	drop, whole := false, true
	for {
		text, ends, err := r.next()
		if err != nil {
			break
		}
		if whole && !isBlank(text[0]) {
			name, _, _ := bytes.Cut(text, []byte{':'})
			name = bytes.ToLower(bytes.TrimRight(name, " \t"))
			drop = h.replaces(string(name))
			f.addresses = isAddressList(string(name))
		}
		if !drop {
			f.write(text, ends, whole)
		}
		whole = ends
	}
	if !whole && !drop {
		f.end()
	}
	e.writeNew(h, message)
}

// replaces reports whether writeNew writes the field with a name in lower case.
func (h *header) replaces(name string) bool {
	switch name {
	case "content-transfer-encoding":
		return h.newEncoding != ""
	case "content-type":
		return h.charset != ""
	}
	return false
}

// writeNew writes what is new in a header.
func (e *encoder) writeNew(h *header, message bool) {
	if message && !h.version && (h.contentType != "" || h.newEncoding != "") {
		e.writeString("MIME-Version: 1.0\r\n")
	}
	if h.charset != "" {
		t := strings.TrimRight(h.contentType, "; \t")
		if t == "" {
			t = "text/plain"
		}
		f := folder{e: e}
		f.write([]byte("Content-Type: "+t+"; charset="+h.charset), true, true)
	}
	if h.newEncoding != "" {
		e.writeString("Content-Transfer-Encoding: " + h.newEncoding + "\r\n")
	}
}
