package smtp

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/mail"
)

func TestReadReply(t *testing.T) {
	code := func(a, b, c int) mail.EnhancedCode { return mail.EnhancedCode{a, b, c} }
	for _, tt := range []struct {
		name, in string
		want     mail.Reply
	}{
		{"one line", "250 fine\r\n", mail.Reply{Code: 250, Text: "fine"}},
		{"nothing after the code", "250\r\n", mail.Reply{Code: 250}},
		{"nothing after the blank", "250 \r\n", mail.Reply{Code: 250}},
		{"LF alone ends a line", "250 fine\n", mail.Reply{Code: 250, Text: "fine"}},
		{"several lines", "250-one\r\n250-two\r\n250 three\r\n", mail.Reply{Code: 250, Text: "one\ntwo\nthree"}},
		{"the last line without text", "250-one\r\n250\r\n", mail.Reply{Code: 250, Text: "one\n"}},
		{"enhanced code", "550 5.1.1 who?\r\n", mail.Reply{Code: 550, Enhanced: code(5, 1, 1), Text: "who?"}},
		{"enhanced code with a colon", "550 5.1.1: who?\r\n", mail.Reply{Code: 550, Enhanced: code(5, 1, 1), Text: "who?"}},
		{"enhanced code alone", "250 2.0.0\r\n", mail.Reply{Code: 250, Enhanced: code(2, 0, 0)}},
		{"enhanced code on each line", "550-5.7.1 no\r\n550 5.7.1 never\r\n", mail.Reply{Code: 550, Enhanced: code(5, 7, 1), Text: "no\nnever"}},
		{"enhanced code on the last line only", "550-no\r\n550 5.7.1 never\r\n", mail.Reply{Code: 550, Enhanced: code(5, 7, 1), Text: "no\nnever"}},
		{"enhanced code of three digits", "550 5.7.510 no\r\n", mail.Reply{Code: 550, Enhanced: code(5, 7, 510), Text: "no"}},
		{"enhanced code of another class is text", "450 5.1.1 who?\r\n", mail.Reply{Code: 450, Text: "5.1.1 who?"}},
		{"enhanced code that is none", "550 5.1 who?\r\n", mail.Reply{Code: 550, Text: "5.1 who?"}},
		{"a version is no enhanced code", "220 2.0.0beta ready\r\n", mail.Reply{Code: 220, Text: "2.0.0beta ready"}},
		{"an address is no enhanced code", "550 5.6.7.8 is listed\r\n", mail.Reply{Code: 550, Text: "5.6.7.8 is listed"}},
		{"unknown codes", "299 well\r\n", mail.Reply{Code: 299, Text: "well"}},
		{"controls and 8-bit are masked", "550 a\x1b[2J\tb\xe9\u2028\x85\r\n", mail.Reply{Code: 550, Text: "a?[2J?b?????"}},
		{"the longest line", "250 " + strings.Repeat("x", maxLine-6) + "\r\n", mail.Reply{Code: 250, Text: strings.Repeat("x", maxLine-6)}},
		{"the most lines", strings.Repeat("250-\r\n", maxLines-1) + "250 \r\n", mail.Reply{Code: 250, Text: strings.Repeat("\n", maxLines-1)}},
	} {
		got, err := readReply(bufio.NewReaderSize(strings.NewReader(tt.in), 2*maxLine))
		if err != nil || got != tt.want {
			t.Errorf("%s: readReply(%q) = %+v, %v, want %+v", tt.name, tt.in, got, err, tt.want)
		}
	}
}

func TestReadReplyThatIsNone(t *testing.T) {
	var protocol = errors.New("any protocol error")
	for _, tt := range []struct {
		name, in string
		want     error
	}{
		{"nothing", "", io.EOF},
		{"one octet", "2", io.ErrUnexpectedEOF},
		{"no end of line", "250 fine", io.ErrUnexpectedEOF},
		{"no last line", "250-one\r\n", io.ErrUnexpectedEOF},
		{"an empty line", "\r\n", protocol},
		{"no code", "hello\r\n", protocol},
		{"letters in the code", "25x fine\r\n", protocol},
		{"two digits", "25 fine\r\n", protocol},
		{"four digits", "2500 fine\r\n", protocol},
		{"text glued to the code", "250fine\r\n", protocol},
		{"code below 200", "150 wait\r\n", protocol},
		{"code above 599", "650 what\r\n", protocol},
		{"codes that differ", "250-one\r\n550 two\r\n", protocol},
		{"bare CR", "250 a\rb\r\n", protocol},
		{"CR CR LF", "250 a\r\r\n", protocol},
		{"CR alone never ends a line", "250 a\r250 b\r" + strings.Repeat("x", 3*maxLine), protocol},
		{"NUL", "250 a\x00b\r\n", protocol},
		{"line too long", "250 " + strings.Repeat("x", maxLine-5) + "\r\n", protocol},
		{"line of 100 kB", "250 " + strings.Repeat("x", 100<<10) + "\r\n", protocol},
		{"too many lines", strings.Repeat("250-\r\n", maxLines) + "250 \r\n", protocol},
		{"too much in all", strings.Repeat("250-"+strings.Repeat("x", 2000)+"\r\n", 40), protocol},
	} {
		got, err := readReply(bufio.NewReaderSize(strings.NewReader(tt.in), 2*maxLine))
		if tt.want == protocol {
			if _, ok := errors.AsType[protocolError](err); !ok {
				t.Errorf("%s: readReply = %+v, %v, want a protocol error", tt.name, got, err)
			}
		} else if err != tt.want {
			t.Errorf("%s: readReply = %+v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
}

// FuzzReadReply holds that whatever a server says, a reply is bounded, printable, and ends where its last line ends.
func FuzzReadReply(f *testing.F) {
	f.Add([]byte("250-2.1.0 one\r\n250 2.1.0 two\r\nrest"))
	f.Add([]byte("550 5.1.1 \xff\x00\r\n"))
	f.Add([]byte("354\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		source := strings.NewReader(string(in))
		r := bufio.NewReaderSize(source, 2*maxLine)
		reply, err := readReply(r)
		used := in[:len(in)-source.Len()-r.Buffered()]
		if len(used) > maxReply+2*maxLine {
			t.Fatalf("%d octets read", len(used))
		}
		if err != nil {
			return
		}
		if reply.Code < 200 || reply.Code > 599 || reply.Enhanced.Class() != 0 && reply.Enhanced.Class() != reply.Code/100 {
			t.Fatalf("readReply(%q) = %+v", used, reply)
		}
		if strings.ContainsFunc(reply.Text, func(c rune) bool { return c != '\n' && (c < ' ' || c > '~') }) {
			t.Fatalf("readReply(%q) lets %q through", used, reply.Text)
		}
		if lines := strings.Count(string(used), "\n"); used[len(used)-1] != '\n' || strings.Count(reply.Text, "\n") != lines-1 {
			t.Fatalf("readReply(%q) = %q: not as many lines", used, reply.Text)
		}
		again, err := readReply(bufio.NewReaderSize(strings.NewReader(string(used)), 2*maxLine))
		if err != nil || again != reply {
			t.Fatalf("readReply(%q) = %+v, then %+v, %v", used, reply, again, err)
		}
	})
}
