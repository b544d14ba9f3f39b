package doortest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// A conversation is a session with a program that speaks SMTP at its standard input and output.
type conversation struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err strings.Builder
}

func converse(t *testing.T, cmd *exec.Cmd) *conversation {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c := &conversation{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	cmd.Stderr = &c.err
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	c.hears("220 here.example ESMTP")
	return c
}

// says sends text, if it is any, and waits for a reply that begins with what is wanted.
func (c *conversation) says(text, want string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, text); err != nil {
		c.t.Fatal(err)
	}
	c.hears(want)
}

func (c *conversation) hears(want string) {
	c.t.Helper()
	for {
		line, err := c.out.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, want) && !strings.HasPrefix(line, want[:3]+"-") {
			c.t.Fatalf("%q, %v, %s; want %q", line, err, &c.err, want)
		}
		if line[3] == ' ' {
			return
		}
	}
}

// ends waits for the program to end.
func (c *conversation) ends(status int) {
	c.t.Helper()
	c.in.Close()
	rest, _ := io.ReadAll(c.out)
	_ = c.cmd.Wait() // the status says it
	if got := c.cmd.ProcessState.ExitCode(); got != status || len(rest) > 0 || (c.err.Len() > 0) != (status > 0) {
		c.t.Errorf("exit %d after %q, %s; want %d", got, rest, &c.err, status)
	}
}

// dialogues are what programs say to sendmail -bs. "|" is the end of a line in a message.
var dialogues = []struct {
	name string
	args []string
	say  []string // each line is sent when the one before was answered
	want []string // contents, without what we add
}{
	{"Symfony Mailer", []string{"-bs"}, []string{
		"EHLO [127.0.0.1]", "MAIL FROM:<app@example.org>", "RCPT TO:<bob@example.net>", "DATA", "From: app@example.org|To: bob@example.net|Subject: one|||..dot|.",
		"NOOP", "MAIL FROM:<app@example.org>", "RCPT TO:<cyd@example.net>", "DATA", "From: app@example.org|Subject: two|||.", "QUIT",
	}, []string{"To: bob@example.net|Subject: one|||.dot|", "Subject: two|||"}},
	{"Laravel", []string{"-bs", "-i"}, []string{
		"EHLO localhost", "MAIL FROM:<app@example.org>", "RCPT TO:<bob@example.net>", "RCPT TO:<cyd@example.net>", "DATA", "From: app@example.org|Subject: one||a|.", "RSET", "QUIT",
	}, []string{"Subject: one||a|"}},
	{"alpine", []string{"-bs", "-odb", "-oem"}, []string{
		"EHLO host.example", "MAIL FROM:<ann@example.org>", "RCPT TO:<bob@example.net> NOTIFY=SUCCESS,FAILURE", "DATA", "Subject: one||a|.", "QUIT",
	}, []string{"Subject: one||a|"}},
	{"a shell script", []string{"-bs"}, []string{"HELO me", "MAIL FROM:root", "RCPT TO:bob", "DATA", "Subject: one||a|.", "QUIT"}, []string{"Subject: one||a|"}},
}

// ways are how sendmail -bs brings its messages home.
var ways = []struct {
	name     string
	sendmail func(t *testing.T, w *world, args ...string) *exec.Cmd
	uid      int
}{
	{"spool", func(t *testing.T, w *world, args ...string) *exec.Cmd {
		return w.program("in.toml", "sendmail", args...)
	}, os.Getuid()},
	{"socket", func(t *testing.T, w *world, args ...string) *exec.Cmd {
		w.daemon(w.submission())
		return w.program("out.toml", "sendmail", args...)
	}, os.Getuid()},
	{"socket, as another user", func(t *testing.T, w *world, args ...string) *exec.Cmd {
		asRoot(t)
		w.daemon(w.submission())
		return asStranger(w.program("out.toml", "sendmail", args...))
	}, stranger},
	{"set-group-ID", func(t *testing.T, w *world, args ...string) *exec.Cmd {
		asRoot(t, "unshare", "setpriv")
		return w.setGroupID(args...)
	}, stranger},
}

func TestDialogues(t *testing.T) {
	for _, way := range ways {
		for _, tt := range dialogues {
			t.Run(way.name+"/"+tt.name, func(t *testing.T) {
				w := newWorld(t, queueing)
				w.hold() // alpine asks for a pass
				c := converse(t, way.sendmail(t, w, tt.args...))
				reply := map[string]string{"DATA": "354 ", "QUIT": "221 "}
				for _, line := range tt.say {
					want := reply[line]
					if want == "" {
						want = "250"
					}
					c.says(strings.ReplaceAll(line, "|", "\r\n")+"\r\n", want)
				}
				c.ends(0)
				all := w.letters()
				if len(all) != len(tt.want) {
					t.Fatalf("%d messages are in the spool, want %d", len(all), len(tt.want))
				}
				for i, m := range all {
					if !strings.HasSuffix(m.content, "\r\n"+strings.ReplaceAll(tt.want[i], "|", "\r\n")) || m.Submitter != way.uid {
						t.Errorf("queued by user %d: %q, want %q by %d", m.Submitter, m.content, tt.want[i], way.uid)
					}
				}
			})
		}
	}
}

const spoolers = 54321

// setGroupID is sendmail with the set-group-ID bit, with its configuration in the usual place, where nobody else sees it.
func (w *world) setGroupID(args ...string) *exec.Cmd {
	w.t.Helper()
	bin, etc, drop := filepath.Join(w.dir, "bin"), filepath.Join(w.dir, "etc"), filepath.Join(w.spool, "drop")
	program := filepath.Join(bin, "sendmail")
	err := errors.Join(os.Mkdir(bin, 0o755), os.MkdirAll(filepath.Join(etc, "postrider"), 0o755),
		exec.Command("cp", filepath.Join(programs, "sendmail"), filepath.Join(programs, "queue-runner"), bin).Run(),
		os.Chown(program, 0, spoolers), os.Chmod(program, 0o755|os.ModeSetgid), os.Chown(drop, -1, spoolers), os.Chmod(drop, 0o770|os.ModeSetgid),
		os.Rename(filepath.Join(w.dir, "in.toml"), filepath.Join(etc, "postrider/postrider.toml")))
	if err != nil {
		w.t.Fatal(err)
	}
	const script = `mount --bind "$ETC" /etc && exec setpriv --reuid="$ID" --regid="$ID" --clear-groups "$0" "$@"`
	cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "/bin/sh", "-c", script, program}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "ETC=" + etc, fmt.Sprintf("ID=%d", stranger)}
	return cmd
}

// What speaks SMTP has the rights of the caller, and no others.
func TestSpeakerHasNoRights(t *testing.T) {
	asRoot(t, "unshare", "setpriv")
	w := newWorld(t, queueing)
	cmd := w.setGroupID("-bs")
	speaker := filepath.Join(w.dir, "bin", "queue-runner")
	if err := errors.Join(os.Remove(speaker), os.WriteFile(speaker, []byte("#!/bin/sh\nid -G\nls /proc/$$/fd\necho $@; env | sort\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, "SECRET=1", "POSTRIDER_CONFIG=/dev/null")
	out, status := run(t, cmd, "")
	want := fmt.Sprintf("%d\n0\n1\n10\n2\n3\nsmtp --through 3\nPATH=", stranger) // 10 is the script
	if status != 0 || !strings.HasPrefix(out, want) || strings.Contains(out, "SECRET") || strings.Contains(out, "POSTRIDER") {
		t.Errorf("exit %d:\n%s\nwant %s", status, out, want)
	}
}

// Where it is asked for, a message has been tried when the session goes on.
func TestInteractiveDelivery(t *testing.T) {
	w := newWorld(t, queueing)
	c := converse(t, w.program("in.toml", "sendmail", "-bs", "-odi"))
	c.says("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n", "250")
	c.hears("250")
	c.hears("354")
	c.says("Subject: x\r\n\r\n.\r\n", "250 2.0.0 ")
	for _, dir := range []string{"drop", "queue"} {
		if left, err := os.ReadDir(filepath.Join(w.spool, dir)); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
	c.says("QUIT\r\n", "221")
	c.ends(0)
}

// A session that goes on for days has its messages delivered meanwhile.
func TestBackgroundDelivery(t *testing.T) {
	w := newWorld(t, "")
	c := converse(t, w.program("in.toml", "sendmail", "-bs"))
	for range 3 {
		c.says("MAIL FROM:<a@x.example>\r\n", "250")
		c.says("RCPT TO:<b@x.example>\r\n", "250")
		c.says("DATA\r\n", "354")
		c.says("Subject: x\r\n\r\n.\r\n", "250 2.0.0 ")
	}
	for waiting := true; waiting; runtime.Gosched() {
		left, err := os.ReadDir(filepath.Join(w.spool, "drop"))
		waiting = err != nil || len(left) > 0
	}
	c.says("QUIT\r\n", "221")
	c.ends(0)
}

func TestSessionsThatEndEarly(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			for _, tt := range []struct {
				name, say string
				hear      []string
				status    int
			}{
				{"without a farewell", "EHLO app\r\n", []string{"250"}, 0},
				{"in the envelope", "MAIL FROM:<a@x.example>\r\n", []string{"250"}, 0},
				{"in the message", "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\nSubject: x\r\n", []string{"250", "250", "354"}, 75},
				{"in a chunk", "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nBDAT 100 LAST\r\nSubject: x\r\n", []string{"250", "250"}, 75},
			} {
				w := newWorld(t, queueing)
				c := converse(t, way.sendmail(t, w, "-bs"))
				if _, err := io.WriteString(c.in, tt.say); err != nil {
					t.Fatal(err)
				}
				for _, reply := range tt.hear {
					c.hears(reply)
				}
				c.ends(tt.status)
				if n := len(w.letters()); n > 0 {
					t.Errorf("%s: %d messages are in the spool", tt.name, n)
				}
			}
		})
	}
}

func TestThousandMessagesInOneSession(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			w := newWorld(t, queueing)
			c := converse(t, way.sendmail(t, w, "-bs"))
			const many = 1000
			go func() {
				for n := range many {
					fmt.Fprintf(c.in, "MAIL FROM:<a@x.example>\r\nRCPT TO:<b%d@x.example>\r\nBDAT 14 LAST\r\nSubject: x\r\n\r\n", n)
				}
				io.WriteString(c.in, "QUIT\r\n")
			}()
			for range many {
				c.hears("250 2.1.0 ")
				c.hears("250 2.1.5 ")
				c.hears("250 2.0.0 ")
			}
			c.hears("221 ")
			c.ends(0)
			if n := len(w.letters()); n != many {
				t.Errorf("%d messages are in the spool", n)
			}
		})
	}
}

func TestSMTPOnSockets(t *testing.T) {
	w := newWorld(t, queueing)
	path := filepath.Join(w.dir, "smtp")
	tcp := w.listen("tcp", "127.0.0.1:0")
	d := w.daemon(w.submission(), tcp, w.listen("unix", path))
	content := "From: app@example.org\r\nSubject: net/smtp\r\n\r\n.\r\n"
	if err := smtp.SendMail(tcp.Addr().String(), nil, "app@example.org", []string{"bob@example.net"}, []byte(content)); err != nil {
		t.Fatal(err)
	}
	m := w.one()
	if m.Submitter != -1 || !strings.HasPrefix(m.content, "Received: from localhost ([127.0.0.1])\r\n\tby here.example (postrider) with UTF8SMTP\r\n") || !strings.HasSuffix(m.content, "\r\n\r\n.\r\n") {
		t.Errorf("queued by user %d: %q", m.Submitter, m.content)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := smtp.NewClient(conn, "here.example")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Mail("app@example.org"), c.Rcpt("cyd@example.net")); err != nil {
		t.Fatal(err)
	}
	body, err := c.Data()
	if err == nil {
		_, err = io.WriteString(body, "Subject: unix\r\n\r\n")
	}
	if err := errors.Join(err, body.Close(), c.Quit()); err != nil {
		t.Fatal(err)
	}
	all := w.letters()
	if len(all) != 2 || all[1].Submitter != os.Getuid() || !strings.HasPrefix(all[1].content, fmt.Sprintf("Received: by here.example (postrider, from userid %d) with UTF8SMTP\r\n", os.Getuid())) {
		t.Errorf("%d messages, the last: %q", len(all), all[len(all)-1].content)
	}
	// The daemon ends although a client is there, who is told.
	idle, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	replies := bufio.NewReader(idle)
	if line, err := replies.ReadString('\n'); err != nil || !strings.HasPrefix(line, "220 ") {
		t.Errorf("%q, %v", line, err)
	}
	if log := d.stop(); !strings.Contains(log, string(m.QueueID)+": client=localhost ([127.0.0.1]), protocol=UTF8SMTP\n") {
		t.Errorf("log: %s", log)
	}
	if line, err := replies.ReadString('\n'); err != nil || !strings.HasPrefix(line, "421 4.3.2 ") {
		t.Errorf("%q, %v", line, err)
	}
}

// Beside a socket for all addresses there is no room for one that the configuration names, and no need.
func TestSocketForAllAddresses(t *testing.T) {
	all, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	at := fmt.Sprintf("127.0.0.1:%d", all.Addr().(*net.TCPAddr).Port)
	w := newWorld(t, fmt.Sprintf("%s[listen]\nsmtp = [%q]\n", queueing, at))
	d := w.daemon(w.submission(), all)
	if err := smtp.SendMail(at, nil, "app@example.org", []string{"bob@example.net"}, []byte("Subject: x\r\n\r\n.\r\n")); err != nil {
		t.Fatalf("%v\n%s", err, d.stop())
	}
	w.one()
}

const pythonClient = `
import smtplib, sys
from email.message import EmailMessage
with smtplib.SMTP(sys.argv[1], int(sys.argv[2])) as s:
    for n in range(3):
        m = EmailMessage()
        m["From"], m["To"], m["Subject"] = "app@example.org", "bob@example.net, cyd@example.net", "number %d" % n
        m.set_content(".\n..\nGrüße\n")
        s.send_message(m, mail_options=["BODY=8BITMIME"], rcpt_options=["NOTIFY=NEVER"])
    try:
        s.sendmail("app@example.org", ["no address@x", "bob@example.net"], "Subject: four\r\n\r\nx\r\n")
    except smtplib.SMTPException as e:
        sys.exit(repr(e))
`

func TestPythonSMTPLib(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: python3 is missing")
	}
	w := newWorld(t, queueing)
	tcp := w.listen("tcp", "127.0.0.1:0")
	w.daemon(w.submission(), tcp)
	host, port, _ := net.SplitHostPort(tcp.Addr().String())
	accepts(t, exec.Command(python, "-c", pythonClient, host, port), "")
	all := w.letters()
	if len(all) != 4 || len(all[0].Recipients) != 2 || all[0].Recipients[0].Notify.String() != "NEVER" || len(all[3].Recipients) != 1 {
		t.Fatalf("%d messages: %+v", len(all), all)
	}
	if !strings.Contains(all[2].content, "Subject: number 2\r\n") || !strings.HasSuffix(all[2].content, "\r\n\r\n.\r\n..\r\nGrüße\r\n") {
		t.Errorf("queued: %q", all[2].content)
	}
}

// Nobody hands in mail for the world by a socket who is not meant to.
func TestUsersOfASocket(t *testing.T) {
	asRoot(t)
	for users, want := range map[string]string{`[]`: "554 ", `["daemon"]`: "554 ", `["12345"]`: "220 "} {
		w := newWorld(t, queueing+"[listen]\nusers = "+users+"\n")
		path := filepath.Join(w.dir, "smtp")
		w.daemon(w.submission(), w.listen("unix", path))
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "220 ") {
			t.Errorf("users = %s: root hears %q, %v", users, line, err)
		}
		conn.Close()
		listener := filepath.Join(w.dir, "listener")
		if err := exec.Command("cp", os.Args[0], listener).Run(); err != nil {
			t.Fatal(err)
		}
		cmd := asStranger(exec.Command(listener))
		cmd.Env = []string{greetedBy + "=" + path}
		out, _ := run(t, cmd, "")
		if !strings.HasPrefix(out, want) {
			t.Errorf("users = %s: a stranger hears %q, want %q", users, out, want)
		}
	}
}

// Without [listen] there is no port: what is not asked for, nobody can misuse.
func TestNoPortByItself(t *testing.T) {
	w := newWorld(t, queueing)
	d := w.daemon(w.submission())
	accepts(t, w.program("out.toml", "sendmail", "bob"), hello) // it is up
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		if n := sockets(t, d.cmd.Process.Pid, table); n > 0 {
			t.Errorf("%d sockets of %s", n, table)
		}
	}
}

// sockets counts those of a process that are in a table of the kernel.
func sockets(t *testing.T, pid int, table string) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/" + table)
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(fds) == 0 {
		t.Fatalf("%d descriptors, %v", len(fds), err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); strings.HasPrefix(to, "socket:[") && strings.Contains(string(text), " "+strings.Trim(to, "socket:[]")+" ") {
			n++
		}
	}
	return n
}

// Whoever is at the other end of standard input must be one who may, by whatever way his message would go: the one who
// runs the program does not vouch for him.
func TestStrangerAtStdin(t *testing.T) {
	asRoot(t)
	for _, config := range []string{"in.toml", "out.toml"} {
		w := newWorld(t, queueing+"[listen]\nusers = []\n")
		w.daemon(w.submission())
		path := filepath.Join(w.dir, "smtp")
		l := w.listen("unix", path).(*net.UnixListener)
		client := filepath.Join(w.dir, "client")
		if err := exec.Command("cp", os.Args[0], client).Run(); err != nil {
			t.Fatal(err)
		}
		cmd := asStranger(exec.Command(client))
		cmd.Env = []string{greetedBy + "=" + path}
		var heard strings.Builder
		cmd.Stdout = &heard
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		conn, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		f, err := conn.File()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		for _, args := range [][]string{{"-bs"}, {"-bs", "-odi"}} {
			server := w.program(config, "sendmail", args...)
			server.Stdin, server.Stdout = f, f
			if err := server.Run(); server.ProcessState.ExitCode() != 75 {
				t.Errorf("%s, %s: %v", config, args, err)
			}
		}
		f.Close()
		if _ = cmd.Wait(); heard.String() != "554 " {
			t.Errorf("%s: he hears %q", config, heard.String())
		}
	}
}

// A connection by TCP at standard input is one over the network, whoever runs the program.
func TestInetd(t *testing.T) {
	w := newWorld(t, "")
	l := w.listen("tcp", "127.0.0.1:0")
	sent := make(chan error)
	go func() {
		sent <- smtp.SendMail(l.Addr().String(), nil, "app@example.org", []string{"bob@example.net"}, []byte("Subject: x\r\n\r\n"))
	}()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	server := w.program("in.toml", "queue-runner", "smtp")
	server.Stdin, server.Stdout = f, f
	var log strings.Builder
	server.Stderr = &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := errors.Join(<-sent, server.Wait()); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"client=localhost ([127.0.0.1])", "uid=-1", "status=sent"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, &log)
		}
	}
}
