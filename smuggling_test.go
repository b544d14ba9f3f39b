package postrider

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/deliver/smtp"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/spool/drop"
)

// smuggled is what an attacker would have a server take for commands: a second message.
const smuggled = "MAIL FROM:<evil@example.net>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\nQUIT\r\n"

// TestOneMessageIsOneMessage submits every sequence of octets that somebody somewhere takes for the end of a line or of
// a message, with a second message behind it; has it stored, read back and sent, and looks at what was sent as servers
// do, those that keep to the standard and those that forgive: all must see one message.
func TestOneMessageIsOneMessage(t *testing.T) {
	most := 5
	if os.Getenv("POSTRIDER_PROOF") != "" {
		most = 7
	}
	way := newWay(t)
	for content := range sequences("\r", "\n", "\r\n", "\x00", ".", "x")(most) {
		way.take("Subject: s\n\nbefore" + content + smuggled)
		way.take("\r\n" + content + smuggled)
		way.take("Subject: s" + content + smuggled)
	}
	// What is recoded on the way leaves in another form.
	for content := range sequences("\r", "\r\n", "\x00", ".", "=\r\n")(most - 1) {
		way.take("\n\xff" + content + smuggled)
		way.take("Content-Transfer-Encoding: quoted-printable\n\n\xff" + content + smuggled)
		way.take("Content-Transfer-Encoding: base64\n\n" + strings.Repeat("x", 999) + content + smuggled)
		way.take("Content-Type: multipart/mixed; boundary=b\n\n--b\n\n\xff" + content + "\n--b--\n" + content + smuggled)
	}
	t.Logf("%d messages", way.n)
}

// sequences returns what goes through all sequences of up to so many units.
func sequences(units ...string) func(most int) func(yield func(string) bool) {
	return func(most int) func(yield func(string) bool) {
		return func(yield func(string) bool) { sequence(units, "", most, yield) }
	}
}

func sequence(units []string, before string, most int, yield func(string) bool) bool {
	if !yield(before) {
		return false
	}
	for _, u := range units {
		if strings.HasSuffix(before, "\r") && u == "\n" {
			continue // CR LF is a unit of its own
		}
		if most > 0 && !sequence(units, before+u, most-1, yield) {
			return false
		}
	}
	return true
}

// A way is that of a message through us: into a file, and out on a connection.
type way struct {
	t    *testing.T
	path string
	dir  *drop.Dir
	to   *mail.Path
	conn *tape
	n    int
}

func newWay(t *testing.T) *way {
	t.Helper()
	w := &way{t: t, path: memory(t)}
	dir, err := drop.Open(w.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	to, err := mail.ParsePath("bob@example.com")
	if err != nil {
		t.Fatal(err)
	}
	w.dir, w.to = dir, &to
	return w
}

// memory returns a directory in memory, if there is a place for one: thousands of files are made in it.
func memory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "postrider-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// take submits, stores, reads and sends a message, and checks what was sent.
func (w *way) take(content string) {
	w.t.Helper()
	s := submit.Submission{Content: strings.NewReader(content), Author: func() submit.Author { return submit.Author{Login: "ann"} }}
	s.Arrival, s.Sender, s.Recipients = drop.Now(), *w.to, []mail.Recipient{{Path: *w.to}}
	host := submit.Host{Name: "here.example", Domain: "here.example"}
	p, err := host.Receive(w.dir, s)
	if err != nil {
		w.t.Fatal(err)
	}
	id, err := p.Commit()
	if err != nil {
		w.t.Fatal(err)
	}
	f, err := w.dir.ReadOwn(string(id))
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(filepath.Join(w.path, string(id))); err != nil {
		w.t.Fatal(err)
	}
	w.send(&f.Message)
	w.check(content)
	w.n++
}

func (w *way) send(m *mail.Message) {
	w.t.Helper()
	w.conn = &tape{}
	w.conn.say("220 server.example\r\n")
	to := &smtp.Server{Host: "127.0.0.1", Hello: "here.example", Dial: func(context.Context, string, string) (net.Conn, error) { return w.conn, nil }}
	out, err := smtp.Open(context.Background(), to)
	if err != nil {
		w.t.Fatal(err)
	}
	w.conn.sent.Reset()
	attempts, answer := make(chan mail.Attempt, 1), make(chan []mail.Result, 1)
	attempts <- mail.Attempt{Message: m, Positions: []int{0}, Done: func(results []mail.Result) { answer <- results }}
	close(attempts)
	if err := out.Deliver(context.Background(), attempts); err != nil {
		w.t.Fatal(err)
	}
	if r := <-answer; len(r) != 1 || r[0].Action != mail.Relayed {
		w.t.Fatalf("%+v", r)
	}
}

// check looks at what was sent since MAIL.
func (w *way) check(content string) {
	w.t.Helper()
	sent := w.conn.sent.String()
	if rest := strings.ReplaceAll(sent, "\r\n", ""); strings.ContainsAny(rest, "\r\n\x00") {
		w.t.Fatalf("%q is sent as %q: bare CR, LF or NUL", content, sent)
	}
	lenient := strings.NewReplacer("\x00", "", "\r\n", "\n", "\r", "\n").Replace(sent)
	for name, lines := range map[string][]string{
		"a strict server":  strings.SplitAfter(sent, "\r\n"),
		"a lenient server": strings.SplitAfter(lenient, "\n"),
		"one that ignores blanks at the end of lines": strings.SplitAfter(strings.ReplaceAll(lenient, " \n", "\n"), "\n"),
	} {
		if n := messages(lines); n != 1 {
			w.t.Fatalf("%q is sent as %q: %d messages for %s", content, sent, n, name)
		}
	}
}

// messages returns how many messages there are in what a client sent, line by line; -1 if it does not end with the last.
func messages(lines []string) int {
	n, inContent := 0, false
	for i, line := range lines {
		switch command := strings.TrimRight(line, "\r\n"); {
		case inContent:
			inContent = command != "."
		case command == "DATA":
			n++
			inContent = true
		case command == "" && i == len(lines)-1:
		case command == "QUIT" && i == len(lines)-2:
		case !strings.HasPrefix(command, "MAIL FROM:<bob@") && command != "RCPT TO:<bob@example.com>":
			return -1
		}
	}
	if inContent {
		return -1
	}
	return n
}

// A tape is a connection with a server that does what it should, and a record of what it is sent.
type tape struct {
	net.Conn // what is not here is not used
	sent     bytes.Buffer
	unread   []byte // sent, and not understood yet
	content  bool
	replies  bytes.Buffer
}

func (c *tape) say(s string) { c.replies.WriteString(s) }

func (c *tape) Write(p []byte) (int, error) {
	c.sent.Write(p)
	c.unread = append(c.unread, p...)
	for {
		line, rest, found := bytes.Cut(c.unread, []byte("\r\n"))
		if !found {
			return len(p), nil
		}
		c.unread = rest
		switch {
		case c.content:
			if c.content = string(line) != "."; !c.content {
				c.say("250 taken\r\n")
			}
		case string(line) == "DATA":
			c.content = true
			c.say("354 go ahead\r\n")
		case bytes.HasPrefix(line, []byte("EHLO ")):
			c.say("250-server.example\r\n250 PIPELINING\r\n")
		default:
			c.say("250 fine\r\n")
		}
	}
}

func (c *tape) Read(p []byte) (int, error) {
	if c.replies.Len() == 0 {
		return 0, io.ErrUnexpectedEOF // nothing more will come
	}
	return c.replies.Read(p)
}

func (c *tape) Close() error                     { return nil }
func (c *tape) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (c *tape) RemoteAddr() net.Addr             { return c.LocalAddr() }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }
