package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
)

// asCommand makes the test binary be queue-runner.
const asCommand = "POSTRIDER_TEST_AS_QUEUE_RUNNER"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// A world is a spool and a configuration in a temporary directory.
type world struct {
	t      *testing.T
	dir    string
	config string
	log    string // of the passes that have ended
}

func newWorld(t *testing.T, settings string) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, dir: filepath.Join(dir, "spool"), config: filepath.Join(dir, "postrider.toml")}
	settings = fmt.Sprintf("spool = %q\nhostname = \"here.example\"\nlog = \"stderr\"\naliases = \"\"\n%s", w.dir, settings)
	if err := os.WriteFile(w.config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := spool.Create(w.dir); err != nil {
		t.Fatal(err)
	}
	return w
}

// slowly is a route for slow.example, to follow on what is for all other mail.
func slowly(s *smtptest.Server) string {
	return fmt.Sprintf("[transport.slow]\nurl = \"smtp://%s\"\n[[route]]\nto = [\"slow.example\"]\ntransport = \"slow\"\n", s.Addr())
}

func relayTo(s *smtptest.Server) string { return fmt.Sprintf("relay = \"smtp://%s\"\n", s.Addr()) }

// submit drops a message as sendmail does.
func (w *world) submit(rcpts ...string) mail.ID { return w.submitNotify(0, rcpts...) }

// submitNotify is submit with what its sender wants to hear of.
func (w *world) submitNotify(notify mail.Notify, rcpts ...string) mail.ID {
	w.t.Helper()
	return w.submitWith(func(env *mail.Envelope) {
		for i := range env.Recipients {
			env.Recipients[i].Notify = notify
		}
	}, rcpts...)
}

// submitWith is submit with what change makes of the envelope.
func (w *world) submitWith(change func(env *mail.Envelope), rcpts ...string) mail.ID {
	w.t.Helper()
	d, err := drop.Open(filepath.Join(w.dir, "drop"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	sender, err := mail.ParsePath("ann@example.org")
	if err != nil {
		w.t.Fatal(err)
	}
	env := &mail.Envelope{Arrival: drop.Now(), Sender: sender, Submitter: os.Getuid()}
	for _, r := range rcpts {
		p, err := mail.ParsePath(r)
		if err != nil {
			w.t.Fatal(err)
		}
		env.Recipients = append(env.Recipients, mail.Recipient{Path: p})
	}
	change(env)
	f, err := d.Create(env)
	if err != nil {
		w.t.Fatal(err)
	}
	io.WriteString(f, "From: ann@example.org\r\nSubject: figures\r\n\r\n.hello\r\n")
	id, err := f.Commit(mail.Facts{LongestLine: 21})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], append([]string{"-C", w.config}, args...)...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	return cmd
}

// run runs queue-runner to its end, and returns its exit status.
func (w *world) run(args ...string) int {
	w.t.Helper()
	cmd := w.command(args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	w.log += out.String()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		w.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func (w *world) pass() {
	w.t.Helper()
	if status := w.run(); status != 0 {
		w.t.Fatalf("queue-runner: exit %d:\n%s", status, w.log)
	}
}

// waiting returns what the spool lists: address, and reason.
func (w *world) waiting() []string {
	w.t.Helper()
	var list []string
	for e, err := range spool.List(w.dir) {
		if err != nil {
			w.t.Fatalf("List: %v", err)
		}
		for _, r := range e.Recipients {
			list = append(list, r.Path.Address()+": "+r.Reason)
		}
	}
	return list
}

func (w *world) wantLog(parts ...string) {
	w.t.Helper()
	for _, part := range parts {
		if !strings.Contains(w.log, part) {
			w.t.Errorf("%q is not in the log:\n%s", part, w.log)
		}
	}
}

func TestPassOverARealServer(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{Strict: true, Replies: map[string]string{
		"RCPT TO:<cyd@": "451 4.2.0 greylisted",
		"RCPT TO:<dan@": "550 5.1.1 no such user",
	}})
	w := newWorld(t, relayTo(s))
	id := w.submit("bob@example.net", "cyd@example.net", "dan@example.net")
	w.pass()
	w.wantLog(
		string(id)+": uid=", "from=<ann@example.org>, size=51, nrcpt=3 (queued)",
		string(id)+": to=<bob@example.net>, relay="+"127.0.0.1[127.0.0.1]:"+fmt.Sprint(s.Port()), "status=sent (250",
		"to=<cyd@example.net>", "dsn=4.2.0, status=deferred (451 4.2.0 greylisted)",
		"to=<dan@example.net>", "dsn=5.1.1, status=bounced (550 5.1.1 no such user)",
		"sender notified of non-delivery: ",
	)
	if got := w.waiting(); len(got) != 1 || got[0] != "cyd@example.net: 451 4.2.0 greylisted" {
		t.Errorf("waiting: %q", got)
	}
	messages := s.Messages()
	if len(messages) != 2 {
		t.Fatalf("%d messages arrived, want the message and its report", len(messages))
	}
	if got := string(messages[0].Content); !strings.HasSuffix(got, "\r\n\r\n.hello\r\n") {
		t.Errorf("content %q", got)
	}
	report := messages[1]
	if report.Sender != "" || report.Recipients[0].Address != "ann@example.org" || !strings.Contains(string(report.Content), "Final-Recipient: rfc822; dan@example.net") {
		t.Errorf("report from <%s> to %v:\n%s", report.Sender, report.Recipients, report.Content)
	}
	if s.Connections() != 1 {
		t.Errorf("%d connections, want one session for both", s.Connections())
	}
}

func TestSmarthostInTroubleDefers(t *testing.T) {
	greeting := func(reply string) map[string]string { return map[string]string{"CONNECT": reply} }
	tests := []struct {
		name    string
		options smtptest.Options
		reason  string
	}{
		{"refuses with 421", smtptest.Options{Replies: greeting("421 4.3.2 too busy")}, "421 4.3.2 too busy"},
		{"refuses with 554", smtptest.Options{Replies: greeting("554 5.7.1 go away")}, "554 5.7.1 go away"},
		{"hangs up", smtptest.Options{Replies: greeting(smtptest.Close)}, "lost connection"},
		{"421 at MAIL", smtptest.Options{Replies: map[string]string{"MAIL": "421 4.3.2 closing"}}, "421 4.3.2 closing"},
		{"421 at RCPT", smtptest.Options{Replies: map[string]string{"RCPT": "421 4.3.2 closing"}}, "421 4.3.2 closing"},
		{"421 at DATA", smtptest.Options{Replies: map[string]string{"DATA": "421 4.3.2 closing"}}, "421 4.3.2 closing"},
		{"421 at the end", smtptest.Options{Replies: map[string]string{".": "421 4.3.2 closing"}}, "421 4.3.2 closing"},
		{"hangs up at the end", smtptest.Options{Replies: map[string]string{".": smtptest.Close}}, "may arrive twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := smtptest.NewServer(t, tt.options)
			w := newWorld(t, relayTo(s))
			w.submit("bob@example.net")
			w.pass()
			if got := w.waiting(); len(got) != 1 || !strings.Contains(got[0], tt.reason) {
				t.Errorf("waiting: %q, want a reason with %q\n%s", got, tt.reason, w.log)
			}
			if n := len(s.Messages()); n != 0 {
				t.Errorf("%d messages accepted", n)
			}
		})
	}
}

func TestSmarthostThatIsNotThere(t *testing.T) {
	closed := smtptest.NewServer(t, smtptest.Options{})
	closed.Close()
	tests := []struct{ name, relay, reason string }{
		{"refuses connections", "smtp://" + closed.Addr(), "connection refused"},
		{"has no address", "smtp://smarthost.invalid", "smarthost.invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, fmt.Sprintf("relay = %q\n", tt.relay))
			w.submit("bob@example.net")
			w.submit("cyd@example.net")
			w.pass()
			got := w.waiting()
			if len(got) != 2 || !strings.Contains(got[0], tt.reason) || !strings.Contains(got[1], tt.reason) {
				t.Errorf("waiting: %q, want %q for both", got, tt.reason)
			}
			if n := strings.Count(w.log, "next hop relay: "); n != 1 {
				t.Errorf("%d tries, want 1\n%s", n, w.log)
			}
		})
	}
}

func TestLoginAtASmarthost(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{Certificate: smtptest.Valid, Users: map[string]string{"alerts": "S3CR3T"}})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	password := filepath.Join(t.TempDir(), "password")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(ca, string(s.CertPEM()))
	write(password, "wrong\n")
	w := newWorld(t, fmt.Sprintf("[transport.out]\nurl = \"submission://alerts@localhost:%d\"\npassword_file = %q\nca_file = %q\n[[route]]\ntransport = \"out\"\n", s.Port(), password, ca))
	w.submit("bob@example.net")
	w.pass()
	if got := w.waiting(); len(got) != 1 || !strings.Contains(got[0], "535") {
		t.Errorf("wrong password: waiting %q", got)
	}
	// A smarthost in trouble is left alone for a minute, unless the configuration changes.
	write(password, "S3CR3T\n")
	again, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	write(w.config, strings.Replace(string(again), "[transport.out]", "[transport.out]\nconcurrency = 1", 1))
	w.pass()
	if got := w.waiting(); len(got) != 0 {
		t.Errorf("right password: waiting %q\n%s", got, w.log)
	}
	if m := s.Messages(); len(m) != 1 || m[0].User != "alerts" || !m[0].TLS {
		t.Errorf("arrived: %+v", m)
	}
	w.wantLog("tls=TLS1.3/verified")
	if strings.Contains(w.log, "S3CR3T") {
		t.Errorf("the password is in the log:\n%s", w.log)
	}
}

// TestLMTP hands one message to an LMTP server at a unix socket and at a port, where somebody's mailbox is full.
func TestLMTP(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "lmtp")
	script := map[string]string{". eve@": "452 4.2.2 full"}
	local := smtptest.NewServer(t, smtptest.Options{Addr: socket, LMTP: true, Replies: script})
	other := smtptest.NewServer(t, smtptest.Options{LMTP: true, Replies: script})
	w := newWorld(t, fmt.Sprintf(`
[transport.local]
url = "lmtp+unix:%s"
[transport.other]
url = "lmtp://%s"
[[route]]
to = ["local.example"]
transport = "local"
[[route]]
transport = "other"
`, socket, other.Addr()))
	w.submit("bob@local.example", "eve@local.example", "bob@other.example", "eve@other.example")
	w.pass()
	if got := w.waiting(); len(got) != 2 || !strings.Contains(got[0], "eve@") || !strings.Contains(got[1], "452 4.2.2 full") {
		t.Errorf("waiting: %q", got)
	}
	for _, s := range []*smtptest.Server{local, other} {
		if m := s.Messages(); len(m) != 1 || len(m[0].Recipients) != 1 || !strings.HasPrefix(m[0].Recipients[0].Address, "bob@") {
			t.Errorf("arrived: %+v", m)
		}
	}
	w.wantLog("relay=unix:"+socket, "status=sent (250 2.0.0 delivered)", "status=deferred (452 4.2.2 full)")
}

// TestProxyIsOurs defers what a proxy keeps from going out: the server was never asked.
func TestProxyIsOurs(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{})
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := nobody.Close(); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, fmt.Sprintf("[transport.out]\nurl = \"smtp://%s\"\nsocks = \"socks5://%s\"\n[[route]]\ntransport = \"out\"\n", s.Addr(), nobody.Addr()))
	w.submit("bob@example.net")
	w.pass()
	if got := w.waiting(); len(got) != 1 || !strings.Contains(got[0], "cannot connect to the SOCKS proxy "+nobody.Addr().String()) {
		t.Errorf("waiting %q", got)
	}
	if n := s.Connections(); n != 0 {
		t.Errorf("%d connections past the proxy", n)
	}
}

func TestMaildirDiscardAndFail(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "Maildir")
	w := newWorld(t, fmt.Sprintf(`
[transport.home]
url = "maildir:%s"
[transport.void]
url = "discard:"
[transport.no]
url = "fail:"
text = "we do not write to them"
[[route]]
to = ["void.example"]
transport = "void"
[[route]]
to = ["no.example"]
transport = "no"
[[route]]
transport = "home"
`, dir))
	w.submit("bob@example.net", "x@void.example", "y@no.example")
	w.pass()
	if got := w.waiting(); len(got) != 0 {
		t.Errorf("waiting: %q", got)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "new"))
	if err != nil || len(entries) != 2 {
		t.Errorf("Maildir has %d messages, %v; want the message and the report", len(entries), err)
	}
	w.wantLog("status=bounced (we do not write to them)", "relay=discard", "relay=maildir:"+dir)
}

func TestNoRouteKeepsTheMail(t *testing.T) {
	w := newWorld(t, "")
	w.submit("bob@example.net")
	w.pass()
	if got := w.waiting(); len(got) != 1 || !strings.Contains(got[0], "set relay in postrider.toml") {
		t.Errorf("waiting: %q", got)
	}
}

func TestExitStatus(t *testing.T) {
	tests := []struct {
		name   string
		spoil  func(t *testing.T, w *world)
		args   []string
		status int
		says   string
	}{
		{"unknown flag", nil, []string{"--nonsense"}, 64, "nonsense"},
		{"argument", nil, []string{"what"}, 64, `unexpected argument "what"`},
		{"bad interval", nil, []string{"--interval", "0s"}, 64, "interval"},
		{"the version, whatever is wrong", func(t *testing.T, w *world) { os.Remove(w.config) }, []string{"--version", "what"}, 0, "postrider " + version() + "\n"},
		{"mistake in the configuration", func(t *testing.T, w *world) {
			os.WriteFile(w.config, []byte("relay = 7\n"), 0o600)
		}, nil, 78, ":1:9: "},
		{"configuration missing", func(t *testing.T, w *world) { os.Remove(w.config) }, nil, 78, "no such file"},
		{"spool that cannot be made", func(t *testing.T, w *world) {
			os.WriteFile(w.config, []byte("spool = \"/proc/none/spool\"\n"), 0o600)
		}, nil, 75, "/proc/none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "")
			if tt.spoil != nil {
				tt.spoil(t, w)
			}
			cmd := w.command(tt.args...)
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != tt.status {
				t.Errorf("%v, want status %d", err, tt.status)
			}
			if tt.status == 0 {
				if stdout.String() != tt.says || stderr.Len() > 0 {
					t.Errorf("standard output %q, standard error %q; want %q and nothing", &stdout, &stderr, tt.says)
				}
				return
			}
			line, rest, ended := strings.Cut(stderr.String(), "\n")
			if !strings.HasPrefix(line, "queue-runner: ") || !strings.Contains(line, tt.says) || !ended || rest != "" || stdout.Len() > 0 {
				t.Errorf("standard output %q, standard error %q; want nothing and one line with %q", &stdout, &stderr, tt.says)
			}
		})
	}
}

// A background is a queue-runner that runs on.
type background struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
	once  sync.Once
}

func (w *world) start(args ...string) *background {
	w.t.Helper()
	cmd := w.command(args...)
	out, err := cmd.StderrPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	b := &background{t: w.t, cmd: cmd, lines: make(chan string, 1000)}
	go func() {
		defer close(b.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			b.lines <- s.Text()
		}
	}()
	w.t.Cleanup(func() { cmd.Process.Kill(); b.wait() })
	return b
}

// until waits for a line of the log.
func (b *background) until(part string) {
	b.t.Helper()
	patience := time.After(time.Minute)
	for {
		select {
		case line, ok := <-b.lines:
			if !ok {
				b.t.Fatalf("ended without %q in its log", part)
			}
			if strings.Contains(line, part) {
				return
			}
		case <-patience:
			b.t.Fatalf("no %q in its log", part)
		}
	}
}

func (b *background) wait() (status int) {
	b.once.Do(func() {
		for range b.lines {
		}
		b.cmd.Wait()
	})
	return b.cmd.ProcessState.ExitCode()
}

func TestDaemon(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{})
	w := newWorld(t, relayTo(s))
	b := w.start("--daemon", "--interval", "1h")
	for _, rcpt := range []string{"bob@example.net", "cyd@example.net", "dan@example.net"} {
		// Nothing but the submission itself wakes it.
		w.submit(rcpt)
		b.until("to=<" + rcpt + ">")
	}
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := b.wait(); status != 0 {
		t.Errorf("exit %d after SIGTERM", status)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "running")); !os.IsNotExist(err) {
		t.Errorf("the mark of a running pass is left: %v", err)
	}
}

// What has become due behind its back, with no signal, a daemon finds when its interval is over, or when it is woken.
func TestDaemonLooksAgain(t *testing.T) {
	for _, tt := range []struct {
		name, interval string
		wake           func(w *world)
	}{
		{"after the interval", "100ms", func(*world) {}},
		{"for a wake-up, and nothing else", "1h", func(w *world) {
			if status := w.run(); status != 0 || w.log != "" {
				w.t.Errorf("second queue-runner: exit %d:\n%s", status, w.log)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			connected := make(chan struct{}, 10)
			slow := smtptest.NewServer(t, smtptest.Options{
				Replies:   map[string]string{"CONNECT": smtptest.Hang},
				OnCommand: func(string) { connected <- struct{}{} },
			})
			s := smtptest.NewServer(t, smtptest.Options{Replies: map[string]string{"RCPT": "451 4.2.0 greylisted"}})
			w := newWorld(t, relayTo(s)+slowly(slow))
			w.submit("bob@example.net")
			w.pass()
			w.log = ""
			s.SetReply("RCPT", "")
			w.submit("x@slow.example")
			b := w.start("--daemon", "--interval", tt.interval)
			<-connected // it has looked, and has nothing to do but to wait
			if err := spool.MakeDue(w.dir, spool.Selection{Recipients: []string{"bob@"}}, time.Now()); err != nil {
				t.Fatal(err)
			}
			tt.wake(w)
			b.until("to=<bob@example.net>")
		})
	}
}

// A pass that waits for one server delivers to others what a second queue-runner was called for, and does not wait
// for the first one when it is told to stop.
func TestSecondRunnerWakesTheFirst(t *testing.T) {
	connected := make(chan struct{}, 10)
	slow := smtptest.NewServer(t, smtptest.Options{
		Replies:   map[string]string{"CONNECT": smtptest.Hang},
		OnCommand: func(string) { connected <- struct{}{} },
	})
	s := smtptest.NewServer(t, smtptest.Options{})
	w := newWorld(t, relayTo(s)+slowly(slow))
	w.submit("x@slow.example")
	b := w.start()
	<-connected
	w.submit("bob@example.net")
	if status := w.run(); status != 0 || w.log != "" {
		t.Errorf("second queue-runner: exit %d:\n%s", status, w.log)
	}
	b.until("to=<bob@example.net>")
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := b.wait(); status != 0 {
		t.Errorf("exit %d after SIGTERM", status)
	}
	if got := w.waiting(); len(got) != 1 || got[0] != "x@slow.example: " {
		t.Errorf("waiting: %q", got)
	}
}
