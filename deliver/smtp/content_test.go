package smtp

import (
	"bytes"
	"strings"
	"testing"
)

// onTheWire returns content as it is sent, read in blocks that end at these offsets.
func onTheWire(content string, ends ...int) string {
	w := wireWriter{dots: true}
	var out []byte
	start := 0
	for _, end := range ends {
		out = w.append(out, []byte(content[start:end]))
		start = end
	}
	return string(w.end(w.append(out, []byte(content[start:])))) + ".\r\n"
}

func TestWireForm(t *testing.T) {
	for _, tt := range []struct{ name, content, want string }{
		{"nothing", "", ".\r\n"},
		{"a line", "one\r\n", "one\r\n.\r\n"},
		{"no end of the last line", "one", "one\r\n.\r\n"},
		{"a dot", ".\r\n", "..\r\n.\r\n"},
		{"two dots", "..\r\n", "...\r\n.\r\n"},
		{"a dot before text", ".x\r\n", "..x\r\n.\r\n"},
		{"a dot within a line", "x.\r\n", "x.\r\n.\r\n"},
		{"a dot without end", "x\r\n.", "x\r\n..\r\n.\r\n"},
		{"empty lines", "\r\n\r\n", "\r\n\r\n.\r\n"},
		{"bare LF", "a\nb", "a\r\nb\r\n.\r\n"},
		{"bare CR", "a\rb", "a\r\nb\r\n.\r\n"},
		{"CR at the end", "a\r", "a\r\n.\r\n"},
		{"CR CR LF", "a\r\r\nb", "a\r\n\r\nb\r\n.\r\n"},
		{"LF CR", "a\n\rb", "a\r\n\r\nb\r\n.\r\n"},
		{"a dot between bare LFs", "a\n.\nb", "a\r\n..\r\nb\r\n.\r\n"},
		{"a dot between bare CRs", "a\r.\rb", "a\r\n..\r\nb\r\n.\r\n"},
		{"octets above 127 and NUL", "\xff\x00\r\n", "\xff\x00\r\n.\r\n"},
	} {
		for cut := range len(tt.content) + 1 {
			if got := onTheWire(tt.content, cut); got != tt.want {
				t.Errorf("%s: %q, read in blocks of %d and %d octets, is sent as %q, want %q",
					tt.name, tt.content, cut, len(tt.content)-cut, got, tt.want)
			}
		}
	}
}

// loneDots counts the dots that somebody could take for the end of a message: between any two of CR and LF.
func loneDots(wire string) int {
	n := 0
	for i := 1; i+1 < len(wire); i++ {
		if wire[i] == '.' && strings.IndexByte("\r\n", wire[i-1]) >= 0 && strings.IndexByte("\r\n", wire[i+1]) >= 0 {
			n++
		}
	}
	return n
}

// checkWire holds that the wire has nothing that any known server takes for the end of a message, but one.
func checkWire(t *testing.T, content, wire string) {
	t.Helper()
	for i := range len(wire) {
		if wire[i] == '\r' && (i+1 == len(wire) || wire[i+1] != '\n') || wire[i] == '\n' && (i == 0 || wire[i-1] != '\r') {
			t.Fatalf("%q is sent as %q: bare CR or LF", content, wire)
		}
	}
	start := "\r\n" + wire // the DATA command ended so
	if n := loneDots(start); n != 1 || !strings.HasSuffix(start, "\r\n.\r\n") {
		t.Fatalf("%q is sent as %q: %d ends of a message", content, wire, n)
	}
	if got := unstuffed(wire); got != asLines(content) {
		t.Fatalf("%q is sent as %q and arrives as %q", content, wire, got)
	}
}

// unstuffed is what a server makes of wire (RFC 5321 section 4.5.2).
func unstuffed(wire string) string {
	var b strings.Builder
	for line := range strings.SplitAfterSeq(strings.TrimSuffix(wire, ".\r\n"), "\r\n") {
		b.WriteString(strings.TrimPrefix(line, "."))
	}
	return b.String()
}

// asLines is what should arrive: every line ending made CRLF, and one at the end of content.
func asLines(content string) string {
	s := strings.ReplaceAll(content, "\r\n", "\n")
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r", "\n"), "\n", "\r\n")
	if s != "" && !strings.HasSuffix(s, "\r\n") {
		s += "\r\n"
	}
	return s
}

// TestNothingCanBeSmuggled tries every content of up to seven of these pieces, read in blocks of every size.
func TestNothingCanBeSmuggled(t *testing.T) {
	pieces := []string{"\r", "\n", "\r\n", "\x00", ".", ".."}
	longest := 7
	if testing.Short() {
		longest = 5
	}
	var try func(content string, left int)
	n := 0
	try = func(content string, left int) {
		checkWire(t, content, onTheWire(content))
		if cut := n % (len(content) + 1); onTheWire(content, cut) != onTheWire(content) {
			t.Fatalf("%q read in two blocks, of %d octets first, is sent as %q", content, cut, onTheWire(content, cut))
		}
		n++
		if left == 0 {
			return
		}
		for _, p := range pieces {
			try(content+p, left-1)
		}
	}
	try("", longest)
}

// FuzzWireForm holds the same for any content.
func FuzzWireForm(f *testing.F) {
	f.Add("a\r\n.\r\nMAIL FROM:<x>\r\n", 3)
	f.Add("a\n.\nb", 2)
	f.Fuzz(func(t *testing.T, content string, cut int) {
		wire := onTheWire(content)
		checkWire(t, content, wire)
		cut = max(0, min(cut, len(content)))
		if got := onTheWire(content, cut); got != wire {
			t.Fatalf("%q is sent as %q, in two blocks as %q", content, wire, got)
		}
	})
}

func BenchmarkWireForm(b *testing.B) {
	content := bytes.Repeat([]byte(strings.Repeat("x", 70)+"\r\n"), 1<<20/72)
	b.SetBytes(int64(len(content)))
	var out []byte
	for b.Loop() {
		var w wireWriter
		out = w.append(out[:0], content)
	}
}
