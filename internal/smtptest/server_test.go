package smtptest

import (
	"bufio"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
)

// talk sends parts of a dialogue, each after the server has answered the one before with as many lines as it has, and
// returns all that the server said.
func talk(t *testing.T, s *Server, parts ...string) string {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	banner, err := r.ReadString('\n')
	if err != nil {
		return banner
	}
	said := banner
	for _, p := range parts {
		if _, err := io.WriteString(conn, p); err != nil {
			t.Fatal(err)
		}
		for range strings.Count(p, "\n") {
			for more := true; more; {
				line, err := r.ReadString('\n')
				said += line
				if err != nil {
					return said
				}
				more = len(line) > 3 && line[3] == '-'
			}
			if strings.HasSuffix(p, "\r\n.\r\n") {
				break // content has one answer
			}
		}
	}
	return said
}

func TestTransaction(t *testing.T) {
	s := NewServer(t, Options{Strict: true})
	said := talk(t, s, "EHLO client.invalid\r\n",
		"MAIL FROM:<ann@example.org> SIZE=5\r\nRCPT TO:<\"b>ob\"@example.com> NOTIFY=NEVER\r\nDATA\r\n",
		"..dot\r\n...\r\n\xff\r\n.\r\n", "QUIT\r\n")
	want := "220 mx.invalid ESMTP\r\n250-mx.invalid greets you\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n" +
		"250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n250 2.1.0 sender fine\r\n250 2.1.5 recipient fine\r\n" +
		"354 go ahead\r\n250 2.0.0 taken\r\n221 2.0.0 bye\r\n"
	if said != want {
		t.Errorf("the server said %q\nwant %q", said, want)
	}
	message := Message{
		Connection: 1, Hello: "client.invalid", Sender: "ann@example.org", Params: []string{"SIZE=5"},
		Recipients: []Recipient{{`"b>ob"@example.com`, []string{"NOTIFY=NEVER"}}},
		Content:    []byte(".dot\r\n..\r\n\xff\r\n"), Pipelined: true,
	}
	if got := s.Messages(); !reflect.DeepEqual(got, []Message{message}) {
		t.Errorf("it has %+v\nwant %+v", got, message)
	}
	if s.Connections() != 1 || s.Accepted() != 1 {
		t.Errorf("%d connections, %d messages", s.Connections(), s.Accepted())
	}
}

func TestScript(t *testing.T) {
	for _, tt := range []struct {
		name    string
		replies map[string]string
		parts   []string
		want    string // the end of what it says
	}{
		{"the longest key counts", map[string]string{"RCPT": "450 a", "RCPT TO:<bob@": "550 b"},
			[]string{"EHLO x\r\n", "MAIL FROM:<>\r\nrcpt to:<BOB@x>\r\n"}, "\r\n550 b\r\n"},
		{"several lines", map[string]string{"NOOP": "250 a\nb\nc"}, []string{"NOOP\r\n"}, "\r\n250-a\r\n250-b\r\n250 c\r\n"},
		{"hang up", map[string]string{"NOOP": Close}, []string{"NOOP\r\n"}, "220 mx.invalid ESMTP\r\n"},
		{"421 hangs up", map[string]string{"NOOP": "421 bye"}, []string{"NOOP\r\nNOOP\r\n"}, "ESMTP\r\n421 bye\r\n"},
		{"421 instead of a banner", map[string]string{"CONNECT": "421 busy"}, nil, "421 busy\r\n"},
		{"raw", map[string]string{"NOOP": Raw + "a\rb\n"}, []string{"NOOP\r\n"}, "ESMTP\r\na\rb\n"},
		{"refused content", map[string]string{".": "554 spam"},
			[]string{"EHLO x\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n", "x\r\n.\r\n"}, "354 go ahead\r\n554 spam\r\n"},
		{"refused while it is sent", map[string]string{"BODY": "554 spam"},
			[]string{"EHLO x\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n", "x\r\n.\r\n"}, "354 go ahead\r\n554 spam\r\n"},
	} {
		s := NewServer(t, Options{Replies: tt.replies})
		if said := talk(t, s, tt.parts...); !strings.HasSuffix(said, tt.want) {
			t.Errorf("%s: the server said %q, want %q at the end", tt.name, said, tt.want)
		}
		if n := s.Accepted(); n != 0 {
			t.Errorf("%s: %d messages", tt.name, n)
		}
	}
}

func TestViolations(t *testing.T) {
	begin := []string{"EHLO x\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<a@b>\r\n", "DATA\r\n"}
	long := strings.Repeat("x", 64<<10-1)
	for _, tt := range []struct {
		name  string
		parts []string
		want  string // in the first one; "" for none
	}{
		{"none", append(begin, "x\r\n\r\n.\r\n"), ""},
		{"a long line", append(begin, long+"\r\n"+long+"x\r\n.\r\n"), ""},
		{"bare LF after a command", []string{"NOOP\n"}, "bare LF after command"},
		{"bare CR in a command", []string{"NOOP x\ry\r\n"}, "bare CR or NUL"},
		{"bare LF in content", append(begin, "x\ny\r\n.\r\n"), "bare LF in the content"},
		{"bare CR in content", append(begin, "x\ry\r\n.\r\n"), "bare CR in the content"},
		{"bare CR in a long line", append(begin, long+"\ry\r\n.\r\n"), "bare CR in the content"},
		{"a dot that smuggles", append(begin, "x\n.\nMAIL FROM:<>\r\n.\r\n"), "bare LF in the content"},
		{"a group without PIPELINING", []string{"NOOP\r\nNOOP\r\n"}, "without PIPELINING"},
		{"no such command", []string{"DATE\r\n"}, "unknown command"},
	} {
		s := NewServer(t, Options{Extensions: []string{}})
		talk(t, s, tt.parts...)
		got := strings.Join(s.Violations(), "; ")
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: violations %q, want %q", tt.name, got, tt.want)
		}
	}
	s := NewServer(t, Options{})
	talk(t, s, "EHLO x\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n.\r\n")
	if got := s.Violations(); len(got) != 1 || got[0] != "more before DATA was answered" {
		t.Errorf("content before the 354: violations %q", got)
	}
}

// failures is a test that counts its failures.
type failures struct {
	cleanups []func()
	errors   int
}

func (f *failures) Helper()               {}
func (f *failures) Cleanup(c func())      { f.cleanups = append(f.cleanups, c) }
func (f *failures) Errorf(string, ...any) { f.errors++ }
func (f *failures) Fatalf(string, ...any) { f.errors++ }

func TestStrictFailsTheTest(t *testing.T) {
	for _, strict := range []bool{false, true} {
		f := &failures{}
		s := NewServer(f, Options{Strict: strict})
		talk(t, s, "NOOP\n")
		for _, c := range f.cleanups {
			c()
		}
		if (f.errors > 0) != strict {
			t.Errorf("strict %v: %d errors", strict, f.errors)
		}
	}
}

func TestLimits(t *testing.T) {
	s := NewServer(t, Options{Strict: true, MaxRecipients: 1, MaxMessages: 1})
	said := talk(t, s, "EHLO x\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", "x\r\n.\r\n", "MAIL FROM:<>\r\n")
	if !strings.Contains(said, "452 4.5.3 too many recipients\r\n354") || !strings.HasSuffix(said, "421 4.7.0 enough of you\r\n") {
		t.Errorf("the server said %q", said)
	}
}

func TestDiscard(t *testing.T) {
	s := NewServer(t, Options{Strict: true, Discard: true})
	talk(t, s, "EHLO x\r\n", "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n", "x\r\n.\r\n")
	if s.Accepted() != 1 || s.Messages() != nil || s.Commands() != nil {
		t.Errorf("%d messages, kept %v and %v", s.Accepted(), s.Messages(), s.Commands())
	}
}

func TestScriptKnowsTheConnection(t *testing.T) {
	s := NewServer(t, Options{Replies: map[string]string{"NOOP": "250 as ever"}, Script: func(connection int, line string) string {
		if connection == 2 && line == "NOOP" {
			return "250 for you\n" + Close
		}
		return ""
	}})
	for i, want := range []string{"\r\n250 as ever\r\n250 as ever\r\n", "\r\n250 for you\r\n"} {
		if said := talk(t, s, "NOOP\r\n", "NOOP\r\n"); !strings.HasSuffix(said, want) {
			t.Errorf("connection %d: the server said %q, want %q at the end", i+1, said, want)
		}
	}
}

// TestTook has a server take a message, and not say so.
func TestTook(t *testing.T) {
	s := NewServer(t, Options{Replies: map[string]string{".": Took + Close}})
	said := talk(t, s, "EHLO x\r\n", "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", "hello\r\n.\r\n")
	if !strings.HasSuffix(said, "\r\n354 go ahead\r\n") || s.Accepted() != 1 {
		t.Errorf("the server said %q, and took %d messages", said, s.Accepted())
	}
}

func TestDripAndFlood(t *testing.T) {
	s := NewServer(t, Options{Replies: map[string]string{"CONNECT": Drip + "1us 220 hi\r\n", "EHLO": Flood + "250-x\r\n"}})
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); line != "220 hi\r\n" || err != nil {
		t.Errorf("drip: %q, %v", line, err)
	}
	if _, err := io.WriteString(conn, "EHLO x\r\n"); err != nil {
		t.Fatal(err)
	}
	for range 10000 {
		if line, err := r.ReadString('\n'); line != "250-x\r\n" || err != nil {
			t.Fatalf("flood: %q, %v", line, err)
		}
	}
}
