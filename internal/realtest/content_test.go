package realtest

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
)

// A content is a message taken apart: its header fields, folded as they are and without the last line ending, and its
// body. Lines end in LF.
type content struct {
	fields []string
	body   []byte
}

var fieldStart = regexp.MustCompile(`^[!-9;-~]+[ \t]*:`)

// divide takes apart what has been received: the first empty line ends the header.
func divide(b []byte) content {
	header, body, found := bytes.Cut(b, []byte("\n\n"))
	if !found {
		header = bytes.TrimSuffix(header, []byte("\n"))
	}
	c := content{body: body}
	for line := range strings.SplitSeq(string(header), "\n") {
		if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
			c.fields[len(c.fields)-1] += "\n" + line
		} else {
			c.fields = append(c.fields, line)
		}
	}
	return c
}

// composed takes apart what a program wrote as sendmail reads it: mbox lines before the header are not part of it, the
// header ends before the first line that is none of its own, and the last line has an ending.
func composed(c call) content {
	var m content
	lines := c.lines()
	for len(lines) > 0 && (bytes.HasPrefix(lines[0], []byte("From ")) || bytes.HasPrefix(lines[0], []byte(">From "))) {
		lines = lines[1:]
	}
	for len(lines) > 0 {
		line := string(lines[0])
		if len(m.fields) > 0 && (strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")) {
			m.fields[len(m.fields)-1] += "\n" + line
		} else if fieldStart.MatchString(line) {
			m.fields = append(m.fields, line)
		} else {
			break
		}
		lines = lines[1:]
	}
	if len(lines) > 0 && len(lines[0]) == 0 {
		lines = lines[1:]
	}
	for _, line := range lines {
		m.body = append(append(m.body, line...), '\n')
	}
	return m
}

// repairs are what sendmail does to what a program wrote, besides making line endings one.
type repairs struct {
	add    []string            // regular expressions of the fields that were missing, besides Received
	remove []string            // names of the fields that are not sent
	change map[string]string   // fields that are sent otherwise
	body   func([]byte) []byte // nil if it is sent as it is
	coded  bool                // the server does not take it as it is: parts are sent in quoted-printable or base64
	folded bool                // lines of the header are too long: they are sent in shorter ones
}

// apply returns what should be sent, apart from what is added.
func (r repairs) apply(c content) content {
	var out content
	for _, field := range c.fields {
		name, _, _ := strings.Cut(field, ":")
		if slices.Contains(r.remove, strings.TrimSpace(name)) {
			continue
		}
		if other, ok := r.change[field]; ok {
			field = other
		}
		out.fields = append(out.fields, field)
	}
	out.body = c.body
	if r.body != nil {
		out.body = r.body(out.body)
	}
	return out
}

// check says how what arrived differs from what should have been sent under the queue ID; "" if it does not.
func (r repairs) check(composed, arrived content, id string) string {
	want, got := r.apply(composed), slices.Clone(arrived.fields)
	received := `Received: (?s:.*)\b` + id + `\b(?s:.*)`
	if len(got) == 0 || !regexp.MustCompile(`^(?:`+received+`)$`).MatchString(got[0]) {
		return fmt.Sprintf("the header does not begin with our Received field with the queue ID %s: %q", id, got)
	}
	got = got[1:]
	for _, added := range r.add {
		added := regexp.MustCompile(`^(?:` + added + `)$`)
		i := slices.IndexFunc(got, added.MatchString)
		if i < 0 {
			return fmt.Sprintf("no field matches %s in %q", added, got)
		}
		got = slices.Delete(got, i, i+1)
	}
	wantFields := want.fields
	if r.folded {
		got, wantFields = unfolded(got), unfolded(wantFields)
	}
	if r.coded {
		got, wantFields = withoutLabels(got), withoutLabels(wantFields)
	}
	if !slices.Equal(got, wantFields) {
		return fmt.Sprintf("header, apart from what is added:\n got %q\nwant %q", got, wantFields)
	}
	if r.coded {
		return sameDecoded(arrived, want)
	}
	if !bytes.Equal(arrived.body, want.body) {
		return "body: " + difference(arrived.body, want.body)
	}
	return ""
}

func unfolded(fields []string) []string {
	var all []string
	for _, f := range fields {
		all = append(all, strings.ReplaceAll(f, "\n", ""))
	}
	return all
}

// withoutLabels returns the fields but for those that say how the body is encoded.
func withoutLabels(fields []string) []string {
	labels := regexp.MustCompile(`(?i)^(?:MIME-Version|Content-Type|Content-Transfer-Encoding):`)
	return slices.DeleteFunc(slices.Clone(fields), labels.MatchString)
}

// sameDecoded says how what a reader sees of the body of got, which is in another transfer encoding, differs from that of
// want; "" if it does not.
func sameDecoded(got, want content) string {
	gotLeaves, err := leaves(got.header().Get, bytes.NewReader(got.body))
	if err != nil {
		return "what arrived: " + err.Error()
	}
	wantLeaves, err := leaves(want.header().Get, bytes.NewReader(want.body))
	if err != nil {
		return "what was sent: " + err.Error()
	}
	if len(gotLeaves) != len(wantLeaves) {
		return fmt.Sprintf("%d parts arrived of %d", len(gotLeaves), len(wantLeaves))
	}
	for i := range wantLeaves {
		if gotLeaves[i] != wantLeaves[i] {
			return fmt.Sprintf("part %d of %d: %s", i+1, len(wantLeaves), difference([]byte(gotLeaves[i]), []byte(wantLeaves[i])))
		}
	}
	return ""
}

// header returns the fields by name.
func (c content) header() textproto.MIMEHeader {
	h := textproto.MIMEHeader{}
	for _, f := range unfolded(c.fields) {
		name, value, _ := strings.Cut(f, ":")
		h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return h
}

// leaves returns what the parts of a message are that have no parts themselves, decoded, each after its media type, and
// with LF for CRLF.
func leaves(header func(string) string, body io.Reader) ([]string, error) {
	kind, params, err := mime.ParseMediaType(header("Content-Type"))
	if err != nil {
		kind = "text/plain"
	}
	switch {
	case strings.HasPrefix(kind, "multipart/"):
		var all []string
		for parts := multipart.NewReader(body, params["boundary"]); ; {
			part, err := parts.NextRawPart()
			if err == io.EOF {
				return all, nil
			}
			if err != nil {
				return nil, err
			}
			within, err := leaves(part.Header.Get, part)
			if err != nil {
				return nil, err
			}
			all = append(all, within...)
		}
	case kind == "message/rfc822":
		m, err := mail.ReadMessage(body)
		if err != nil {
			return nil, err
		}
		within, err := leaves(m.Header.Get, m.Body)
		return append([]string{kind + ": " + m.Header.Get("Subject")}, within...), err
	}
	switch strings.ToLower(header("Content-Transfer-Encoding")) {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	}
	b, err := io.ReadAll(body)
	return []string{kind + ": " + strings.ReplaceAll(string(b), "\r\n", "\n")}, err
}

// difference shows the place where two bodies part.
func difference(got, want []byte) string {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	near := func(b []byte) []byte { return b[max(0, min(i-40, len(b))):min(i+80, len(b))] }
	return fmt.Sprintf("got %d octets, want %d; they part at %d:\n got ...%q...\nwant ...%q...", len(got), len(want), i, near(got), near(want))
}
