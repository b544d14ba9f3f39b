package dsn

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/emersion/go-message"
	"github.com/postrider/postrider/internal/mail"
)

// maxHeader bounds what is looked at, and sent back, of a header, in octets.
const maxHeader = 64 << 10

// maxLine is how long a line may be, without CRLF (RFC 5321 section 4.5.3.1.6).
const maxLine = 998

// An original is the message that a report is about, as far as the report shows it.
type original struct {
	header   []byte     // whole fields of the header, at most maxHeader octets
	whole    bool       // the message is sent back whole
	facts    mail.Facts // of what is sent back
	boundary string     // of the report
}

// readOriginal reads the header of the message and decides how much of the message goes back.
func readOriginal(r *Report) (*original, error) {
	header, err := readHeader(r.Original)
	if err != nil {
		return nil, err
	}
	limit := r.MaxOriginal
	if limit == 0 {
		limit = defaultMaxOriginal
	}
	o := &original{header: wholeFields(header, limit)}
	// A message is returned whole or not at all: a MIME part that is cut is worse than none. What was to be sent over TLS
	// only is not (RFC 8689 section 5): the way back may have none.
	if r.Action == mail.Failed && r.Original.Return != mail.ReturnHeaders && r.Original.TLS != mail.TLSRequired && r.Original.Size <= limit {
		if err := o.inspect(r.ID, o.content(r), r.Original.Size); err != nil {
			return nil, err
		}
		if o.whole = o.returnable(r); o.whole {
			return o, nil
		}
	}
	return o, o.inspect(r.ID, bytes.NewReader(o.header), int64(len(o.header)))
}

// inspect learns what must be known of the text that is returned, which has so many octets. The boundary carries a hash of it, for no text
// contains its own hash.
func (o *original) inspect(id mail.ID, text io.Reader, size int64) error {
	var seen facts
	hash := sha256.New()
	if err := copyAll(io.MultiWriter(&seen, hash), text, size); err != nil {
		return err
	}
	o.facts = seen.Facts
	o.boundary = "=_" + string(id) + "_" + hex.EncodeToString(hash.Sum(nil)[:8])
	return nil
}

// copyAll copies text that has so many octets. Less is an error: a message that ends early would pass for whole.
func copyAll(w io.Writer, text io.Reader, size int64) error {
	n, err := io.Copy(w, text)
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// returnable reports whether the whole message may stand in a part of the report. An encoding that would mend long
// lines is not allowed for message/rfc822 (RFC 2046 section 5.2.1). A message that asked for SMTPUTF8 may not go where
// its header cannot (RFC 6533 section 6.3); one that has octets above 127 without asking goes back as it came.
func (o *original) returnable(r *Report) bool {
	return o.facts.LongestLine <= maxLine && (r.global() || !r.Original.SMTPUTF8 || !o.facts.HeaderUTF8)
}

func (o *original) content(r *Report) io.Reader {
	return io.NewSectionReader(r.Original.Content, 0, r.Original.Size)
}

// readHeader returns the header of the message, without the empty line that ends it. Of a header that is too long it
// returns the first fields.
func readHeader(m *mail.Message) ([]byte, error) {
	b := make([]byte, min(m.Size, maxHeader))
	if n, err := m.Content.ReadAt(b, 0); err != nil && (err != io.EOF || n < len(b)) {
		return nil, err
	}
	if bytes.HasPrefix(b, []byte("\r\n")) {
		return nil, nil
	}
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return b[:i+2], nil
	}
	if int64(len(b)) == m.Size {
		return b, nil
	}
	return wholeFields(b, int64(len(b))-1), nil
}

// wholeFields returns as many whole fields as fit in limit octets.
func wholeFields(header []byte, limit int64) []byte {
	if int64(len(header)) <= limit {
		return header
	}
	for i := limit; i >= 2; i-- {
		if header[i-1] == '\n' && header[i] != ' ' && header[i] != '\t' {
			return header[:i]
		}
	}
	return nil
}

// field returns the value of the first field of that name, unfolded; "" if there is none.
func (o *original) field(name string) string {
	value, found := "", false
	for line := range strings.SplitSeq(string(o.header), "\r\n") {
		if found {
			if line == "" || line[0] != ' ' && line[0] != '\t' {
				break
			}
			value += line
			continue
		}
		key, v, ok := strings.Cut(line, ":")
		if ok && strings.EqualFold(strings.TrimRight(key, " \t"), name) {
			value, found = v, true
		}
	}
	return strings.TrimSpace(value)
}

// maxSubject is how much of a subject is shown, in characters; maxRawSubject how much of it is decoded, in octets.
const (
	maxSubject    = 200
	maxRawSubject = 4 << 10
)

// subject returns the subject in UTF-8, fit to be shown.
func (o *original) subject() string {
	s := o.field("Subject")
	s = s[:min(len(s), maxRawSubject)]
	if decoded, err := new(mime.WordDecoder).DecodeHeader(s); err == nil {
		s = decoded // else in a charset that we do not know: shown as it is
	}
	s = strings.Join(strings.Fields(clean(s)), " ")
	if r := []rune(s); len(r) > maxSubject {
		s = string(r[:maxSubject]) + "..."
	}
	return s
}

// messageID returns the Message-ID with its angle brackets; "" if there is none that can be referred to.
func (o *original) messageID() string {
	id := o.field("Message-ID")
	if len(id) < 3 || len(id) > 250 || id[0] != '<' || strings.IndexByte(id, '>') != len(id)-1 {
		return ""
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] >= 0x7f {
			return ""
		}
	}
	return id
}

// returned writes the third part: the message, or its header.
func (r *Report) returned(top *message.Writer, o *original) error {
	if o.whole {
		return r.returnWhole(top, o)
	}
	body := func(w io.Writer) error {
		_, err := w.Write(o.header)
		return err
	}
	const description = "Header of your message"
	if r.global() && utf8.Valid(o.header) && o.facts.LongestLine <= maxLine {
		return part(top, "message/global-headers", nil, encodingOf(o.facts), description, body)
	}
	if !o.facts.EightBit && o.facts.LongestLine <= maxLine {
		return part(top, "text/rfc822-headers", nil, "7bit", description, body)
	}
	var params map[string]string
	if utf8.Valid(o.header) {
		params = map[string]string{"charset": "utf-8"}
	}
	return part(top, "text/rfc822-headers", params, "quoted-printable", description, body)
}

func (r *Report) returnWhole(top *message.Writer, o *original) error {
	contentType := "message/rfc822"
	if r.global() && o.facts.HeaderUTF8 {
		contentType = "message/global"
	}
	return part(top, contentType, nil, encodingOf(o.facts), "Your message", func(w io.Writer) error {
		return copyAll(w, o.content(r), r.Original.Size)
	})
}

// encodingOf returns the name of no encoding at all.
func encodingOf(f mail.Facts) string {
	if f.EightBit {
		return "8bit"
	}
	return "7bit"
}
