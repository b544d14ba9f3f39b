package submit

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// readLines returns all that r has, with "\n" for each line end.
func readLines(t *testing.T, r *lineReader) string {
	t.Helper()
	var b strings.Builder
	for {
		piece, ends, err := r.next()
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		b.Write(piece)
		if ends {
			b.WriteByte('\n')
		}
	}
}

func TestLineEnds(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"LF", "a\nb\n", "a\nb\n"},
		{"CRLF", "a\r\nb\r\n", "a\nb\n"},
		{"mixed, as PHP writes", "To: a\r\n\r\nl1\nl2\n\r\n", "To: a\n\nl1\nl2\n\n"},
		{"several CRs before LF", "a\r\r\r\nb\n", "a\nb\n"},
		{"bare CR", "a\rb\n", "a\nb\n"},
		{"bare CRs", "a\r\rb\n", "a\n\nb\n"},
		{"bare CR at the end", "a\r", "a\n"},
		{"no line end at the end", "a\nb", "a\nb\n"},
		{"NUL", "a\x00b\n\x00\nc\r\x00\n", "ab\n\nc\n"},
		{"dots are text", ".\n..\n.x\n", ".\n..\n.x\n"},
	} {
		if got := readLines(t, newLineReader(strings.NewReader(tt.in), false)); got != tt.want {
			t.Errorf("%s: %q is read as %q, want %q", tt.name, tt.in, got, tt.want)
		}
	}
}

func TestDots(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"ends", "a\n.\nb\n", "a\n"},
		{"ends with CRLF", "a\r\n.\r\nb\r\n", "a\n"},
		{"ends with many CRs", "a\n.\r\r\r\nb\n", "a\n"},
		{"first line", ".\nb\n", ""},
		{"at the end without line end", "a\n.", "a\n"},
		{"doubled", "..\n..x\n...\n", ".\n.x\n..\n"},
		{"single before text", ".x\n", ".x\n"},
		{"within a line", "a.\n b..\n", "a.\n b..\n"},
		{"after a bare CR it is text", "a\r.\r\nb\n", "a\n.\nb\n"},
		{"before a bare CR it is text", ".\rb\n", ".\nb\n"},
		{"before text after CRs", ".\r\r.\n", ".\n\n.\n"},
		{"with a NUL", "a\n.\x00\nb\n", "a\n"},
	} {
		for name, src := range map[string]io.Reader{"": strings.NewReader(tt.in), " in single octets": iotest.OneByteReader(strings.NewReader(tt.in))} {
			if got := readLines(t, newLineReader(src, true)); got != tt.want {
				t.Errorf("%s%s: %q is read as %q, want %q", tt.name, name, tt.in, got, tt.want)
			}
		}
		if got, err := io.ReadAll(UntilDot(iotest.HalfReader(strings.NewReader(tt.in)))); err != nil || string(got) != tt.want {
			t.Errorf("%s: UntilDot reads %q as %q, %v; want %q", tt.name, tt.in, got, err, tt.want)
		}
	}
}

// Whoever types a message at a terminal wants it to be taken after the dot.
func TestUntilDotDoesNotReadOn(t *testing.T) {
	r, w := io.Pipe()
	defer r.Close()
	go io.WriteString(w, "hello\n.\n")
	if got, err := io.ReadAll(UntilDot(r)); err != nil || string(got) != "hello\n" {
		t.Errorf("read %q, %v", got, err)
	}
}

// Pieces do not depend on where reads end, and long runs of what is held back cost nothing.
func TestLinesAcrossReads(t *testing.T) {
	long := strings.Repeat("x", 3*readSize+1)
	returns := strings.Repeat("\r", 3*readSize)
	in := long + "\r\n" + strings.Repeat("y", readSize-1) + "\r\n" + "." + returns + "\n"
	if got, want := readLines(t, newLineReader(strings.NewReader(in), true)), long+"\n"+strings.Repeat("y", readSize-1)+"\n"; got != want {
		t.Errorf("%d octets are read as %d, want %d", len(in), len(got), len(want))
	}
	if got := readLines(t, newLineReader(strings.NewReader(returns+"x"), true)); got != strings.Repeat("\n", len(returns))+"x\n" {
		t.Errorf("%d CRs are read as %d octets", len(returns), len(got))
	}
	small := "a\r\n\r\r\nb\rc\x00\r\n..\n.\nz"
	if one, all := readLines(t, newLineReader(iotest.OneByteReader(strings.NewReader(small)), true)), readLines(t, newLineReader(strings.NewReader(small), true)); one != all {
		t.Errorf("in single octets %q is read as %q, at once as %q", small, one, all)
	}
}

func TestUntilDotReturnsErrors(t *testing.T) {
	src := io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(io.ErrUnexpectedEOF))
	if got, err := io.ReadAll(UntilDot(src)); err != io.ErrUnexpectedEOF || string(got) != "a\nb" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestReadError(t *testing.T) {
	r := newLineReader(io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(io.ErrUnexpectedEOF)), true)
	for {
		if _, _, err := r.next(); err != nil {
			if err != io.ErrUnexpectedEOF {
				t.Errorf("error %v, want that of the reader", err)
			}
			return
		}
	}
}

func BenchmarkLines(b *testing.B) {
	text := bytes.Repeat([]byte(strings.Repeat("x", 70)+"\n"), 1<<14)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		r := newLineReader(bytes.NewReader(text), true)
		for err := error(nil); err == nil; {
			_, _, err = r.next()
		}
	}
}
