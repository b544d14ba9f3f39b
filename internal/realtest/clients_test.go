package realtest

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/smtptest"
)

// newClientWorld starts a world with programs that send mail, and our commands where they look for them. It skips the
// test, loudly, where that cannot be had.
func newClientWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: true clients are not tried: that needs root")
	}
	for _, tool := range []string{"apt-get", "dpkg", "nsenter", "unshare", "make"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: true clients are not tried: that needs %s", tool)
		}
	}
	if out, err := exec.Command("unshare", "-mpnui", "--fork", "mount", "-t", "tmpfs", "none", os.TempDir()).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: true clients are not tried: no namespaces here: %s", out)
	}
	root, err := clients.unpacked()
	if err != nil {
		t.Skipf("SKIPPED: true clients are not tried: %v", err)
	}
	bin := build(t)
	w := newWorld(t, root)
	w.furnish()
	w.installInPlace(bin)
	return w
}

// installInPlace puts the commands where a Debian system has a sendmail, and gives the sendmail the spool's group.
func (w *world) installInPlace(bin string) {
	w.t.Helper()
	w.must("root", "rm", "-f", "/usr/sbin/sendmail", "/usr/lib/sendmail", "/usr/bin/mailq", "/usr/bin/newaliases")
	for name, path := range map[string]string{"sendmail": "usr/sbin/sendmail", "queue-runner": "usr/sbin/queue-runner", "mailq": "usr/bin/mailq"} {
		b, err := os.ReadFile(filepath.Join(bin, name))
		if err != nil {
			w.t.Fatal(err)
		}
		w.write(path, b, 0o755, "root")
	}
	w.must("root", "ln", "-s", "../sbin/sendmail", "/usr/lib/sendmail")
	w.must("root", "ln", "-s", "../sbin/sendmail", "/usr/bin/newaliases")
	setup, err := os.ReadFile("../../packaging/setup")
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("tmp/setup", setup, 0o755, "root")
	w.must("root", "/tmp/setup", "/var/spool/postrider", "/usr/sbin/sendmail")
}

// sink starts a server that takes all mail in the network of the world, and configures it as the relay.
func (w *world) sink() *smtptest.Server {
	w.t.Helper()
	var s *smtptest.Server
	err := w.within(func() (err error) {
		s, err = smtptest.Start(smtptest.Options{})
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			w.t.Error(err)
		}
	})
	config := fmt.Sprintf("domain = %q\nhostname = %q\ndelivery = \"queue\"\nlog = \"stderr\"\nrelay = \"smtp://%s\"\n", hostname, hostname, s.Addr())
	w.write("etc/postrider/postrider.toml", []byte(config), 0o644, "root")
	return s
}

// TestClients has programs as they are compose mail, with our sendmail in its usual places, and looks at what a server
// gets. That no octet is changed that need not be is the proof's matter (TestRealInput).
func TestClients(t *testing.T) {
	w := newClientWorld(t)
	s := w.sink()
	var want []expected
	for _, program := range []string{"bsd-mailx", "mailutils", "mutt", "git send-email", "PHP mail()"} {
		i := slices.IndexFunc(compositions, func(c composition) bool { return c.program == program })
		c := compositions[i]
		out, err := w.run(c.user, []byte(c.stdin), "sh", "-euc", c.script)
		if err != nil || out != "" {
			t.Errorf("%s: %v, printed %q", program, err, out)
		}
		want = append(want, c.calls...)
		w.expectQueued(program, len(want))
	}
	w.startCron("")
	want = append(want, cronJobs.calls[0])
	w.eventually("cron has sent the output of a job", func() bool { return len(w.queued()) == len(want) })

	if out, err := w.run("root", nil, "newaliases"); err != nil || out != "" {
		t.Errorf("newaliases without a file of aliases: %v, printed %q", err, out)
	}
	if out := w.must("postrider", "mailq"); !strings.HasSuffix(out, fmt.Sprintf(" in %d Requests.\n", len(want))) {
		t.Errorf("before the pass mailq says:\n%s", out)
	}
	log, err := w.run("root", nil, "/usr/lib/sendmail", "-q")
	if err != nil {
		t.Fatal(err)
	}
	if out := w.must("postrider", "mailq"); out != "Mail queue is empty\n" {
		t.Errorf("after the pass mailq says:\n%s\nand the log is:\n%s", out, log)
	}
	for _, v := range s.Violations() {
		t.Error(v)
	}
	got := s.Messages()
	for _, e := range want {
		i := slices.IndexFunc(got, func(m smtptest.Message) bool { return e.is(m) })
		if i < 0 {
			t.Errorf("no message from <%s> to %q with the subject %q arrived", e.sender, e.recipients, e.subject)
			continue
		}
		if problem := e.problem(got[i].Content); problem != "" {
			t.Errorf("the message from <%s> with the subject %q: %s:\n%s", e.sender, e.subject, problem, got[i].Content)
		}
		got = slices.Delete(got, i, i+1)
	}
	for _, m := range got {
		t.Errorf("nobody sent this, from <%s> to %v:\n%s", m.Sender, m.Recipients, m.Content)
	}
}

func (w *world) expectQueued(program string, n int) {
	w.t.Helper()
	if got := len(w.queued()); got != n {
		w.t.Errorf("after %s %d messages are queued, want %d", program, got, n)
	}
}

// is reports whether a message is the expected one, by its envelope and subject.
func (e expected) is(m smtptest.Message) bool {
	var rcpts []string
	for _, r := range m.Recipients {
		rcpts = append(rcpts, r.Address)
	}
	slices.Sort(rcpts)
	parsed, err := mail.ReadMessage(bytes.NewReader(m.Content))
	if err != nil {
		return false
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(parsed.Header.Get("Subject"))
	return err == nil && subject == e.subject && m.Sender == e.sender && slices.Equal(rcpts, slices.Sorted(slices.Values(e.recipients)))
}

// problem says what is wrong with a message as its reader sees it; "" if nothing is.
func (e expected) problem(content []byte) string {
	m, err := mail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		return err.Error()
	}
	for _, name := range []string{"Date", "Message-Id", "From"} {
		if len(m.Header[name]) != 1 {
			return fmt.Sprintf("%d %s fields, want one", len(m.Header[name]), name)
		}
	}
	if _, err := m.Header.Date(); err != nil {
		return err.Error()
	}
	for _, name := range []string{"From", "To"} {
		list, err := m.Header.AddressList(name)
		if err != nil {
			return name + ": " + err.Error()
		}
		for _, a := range list {
			if !strings.Contains(a.Address, "@") {
				return name + " has a bare address"
			}
		}
	}
	for name := range m.Header {
		if strings.HasSuffix(strings.ToLower(name), "bcc") {
			return "it has a " + name + " field"
		}
	}
	text, err := readableText(m.Header.Get, m.Body)
	if err != nil {
		return err.Error()
	}
	if !strings.Contains(text, e.text) {
		return fmt.Sprintf("the text is %q, want %q in it", text, e.text)
	}
	return ""
}

// readableText returns the text of a message or part, the first of several, with LF for CRLF.
func readableText(header func(string) string, body io.Reader) (string, error) {
	kind, params, err := mime.ParseMediaType(header("Content-Type"))
	if err != nil {
		kind = "text/plain"
	}
	if strings.HasPrefix(kind, "multipart/") {
		part, err := multipart.NewReader(body, params["boundary"]).NextRawPart()
		if err != nil {
			return "", err
		}
		return readableText(part.Header.Get, part)
	}
	switch encoding := strings.ToLower(header("Content-Transfer-Encoding")); encoding {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "", "7bit", "8bit":
	default:
		return "", fmt.Errorf("Content-Transfer-Encoding %s", encoding)
	}
	b, err := io.ReadAll(body)
	if strings.EqualFold(params["charset"], "iso-8859-1") {
		runes := make([]rune, len(b))
		for i, c := range b {
			runes[i] = rune(c)
		}
		b = []byte(string(runes))
	}
	return strings.ReplaceAll(string(b), "\r\n", "\n"), err
}
