package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/internal/submitd"
	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// intake measures the other ways in: the submission socket, and SMTP on standard input.
func intake(b *bench) error {
	small, err := b.messageFile("intake", smallMessage)
	if err != nil {
		return err
	}
	q, err := b.newQueue("intake", plainConfig)
	if err != nil {
		return err
	}
	d, err := q.startDaemon()
	if err != nil {
		return err
	}
	err = q.throughSocket(d, small)
	if err := errors.Join(err, d.stop()); err != nil {
		return err
	}
	return b.session()
}

// A daemon is queue-runner that serves the submission socket of a queue. It makes no passes: they would be measured, too.
type daemon struct {
	cmd  *exec.Cmd
	lock *os.File // of the pass that it waits for
	// outside is the queue as it is for who sees nothing of it but the socket.
	outside *queue
}

func (q *queue) startDaemon() (*daemon, error) {
	outside, err := q.b.newQueue(filepath.Base(q.dir)+"-outside", plainConfig)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{q.spool(), outside.spool()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Symlink(filepath.Join(q.spool(), submitd.Socket), filepath.Join(outside.spool(), submitd.Socket)); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(q.spool(), "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	d := &daemon{q.b.command(q.config, "queue-runner", "--daemon"), lock, outside}
	if err := d.cmd.Start(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	for range 1000 {
		if conn, err := submitd.Dial(q.spool()); err == nil {
			return d, conn.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errors.Join(errors.New("the daemon does not listen"), d.stop())
}

func (d *daemon) stop() error {
	return errors.Join(d.cmd.Process.Signal(unix.SIGTERM), d.cmd.Wait(), d.lock.Close())
}

// cpu returns what the threads of the daemon have run so far.
func (d *daemon) cpu() (sum time.Duration, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for _, task := range tasks {
		stat, err := os.ReadFile(task)
		if err != nil {
			return 0, err
		}
		ran, _, _ := strings.Cut(string(stat), " ")
		n, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// throughSocket compares submissions over the socket with those of who may write into the spool.
func (q *queue) throughSocket(d *daemon, small string) error {
	var ours, theirs []time.Duration
	before, err := d.cpu()
	if err != nil {
		return err
	}
	for range pairs {
		u, err := q.b.submit(q, small)
		if err != nil {
			return err
		}
		ours = append(ours, u.cpu)
		if u, err = q.b.submit(d.outside, small); err != nil {
			return err
		}
		theirs = append(theirs, u.cpu)
	}
	after, err := d.cpu()
	if err != nil {
		return err
	}
	served := (after - before) / pairs
	q.b.row("2 KB into the spool, CPU, ms", milliseconds(median(ours)), nil)
	q.b.row("2 KB over the socket, CPU of both ends, ms", milliseconds(median(theirs)+served), nil)
	q.b.row("of that in the daemon, ms", milliseconds(served), nil)
	q.b.row("socket / spool", float64(median(theirs)+served)/float64(median(ours)), atMost(2))

	rate, err := atATime(func(int) (usage, error) { return q.b.submit(d.outside, small) })
	if err != nil {
		return err
	}
	q.b.row("8 sendmail processes at a time, messages/s", rate, nil)
	if rate, err = connected(q.spool()); err != nil {
		return err
	}
	q.b.row("8 clients at a time, a connection for each message, messages/s", rate, atLeast(1500))
	return nil
}

// connected hands in messages without processes of their own.
func connected(spool string) (float64, error) {
	r := submitd.Request{}
	var err error
	if r.Sender, err = mail.ParsePath("ann@example.org"); err != nil {
		return 0, err
	}
	to, err := mail.ParsePath("bob@example.net")
	if err != nil {
		return 0, err
	}
	r.Recipients = []mail.Recipient{{Path: to}}
	text := letter(smallMessage)
	var wg sync.WaitGroup
	errs := make([]error, clients)
	start := time.Now()
	for c := range clients {
		wg.Go(func() {
			for n := c; n < together && errs[c] == nil; n += clients {
				r := r
				r.Submission = submit.Submission{Envelope: r.Envelope, Content: strings.NewReader(text)}
				errs[c] = handIn(spool, r)
			}
		})
	}
	wg.Wait()
	return together / time.Since(start).Seconds(), errors.Join(errs...)
}

func handIn(spool string, r submitd.Request) error {
	conn, err := submitd.Dial(spool)
	if err != nil {
		return err
	}
	p, err := submitd.NewClient(conn).Receive(r)
	if err == nil {
		_, err = p.Commit()
	}
	return errors.Join(err, conn.Close())
}

const inSession = 1000

// session measures one session of SMTP on standard input: with a client that waits for each reply, as most do, and with one
// that sends everything ahead. The first cannot be faster than files are made durable one after the other; for the second
// several are on their way at the same time.
func (b *bench) session() error {
	q, err := b.newQueue("session", plainConfig)
	if err != nil {
		return err
	}
	var waiting, files, ahead []float64
	for range rounds {
		for _, m := range []struct {
			rates   *[]float64
			measure func() (float64, error)
		}{{&waiting, q.converse}, {&files, q.writeFiles}, {&ahead, q.sendAhead}} {
			rate, err := m.measure()
			if err != nil {
				return err
			}
			*m.rates = append(*m.rates, rate)
		}
	}
	b.row("files of 2 KB made durable one after the other, files/s", median(files), nil)
	b.row("sendmail -bs, who waits for each reply, messages/s", median(waiting), nil)
	b.row("who waits / one after the other", median(waiting)/median(files), nil)
	b.row("sendmail -bs, who sends ahead (BDAT), messages/s", median(ahead), atLeast(3000))
	return nil
}

// writeFiles is what no session can be faster than.
func (q *queue) writeFiles() (rate float64, err error) {
	dir, err := drop.Open(filepath.Join(q.spool(), "drop"))
	if err != nil {
		return 0, err
	}
	text := []byte(strings.ReplaceAll(letter(smallMessage), "\n", "\r\n"))
	start := time.Now()
	for n := 0; n < inSession && err == nil; n++ {
		var w *drop.Writer
		if w, err = dir.Create(&mail.Envelope{Arrival: drop.Now()}); err != nil {
			break
		}
		if _, err = w.Write(text); err == nil {
			_, err = w.Commit(mail.Facts{})
		}
	}
	return inSession / time.Since(start).Seconds(), errors.Join(err, dir.Close())
}

// A dialogue is a session with sendmail -bs.
type dialogue struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	replies *bufio.Reader
}

func (q *queue) dialogue() (*dialogue, error) {
	cmd := q.b.command(q.config, "sendmail", "-bs")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	d := &dialogue{cmd, in, bufio.NewReader(out)}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return d, errors.Join(d.hears("220"), d.says("EHLO bench.example\r\n", "250"))
}

// hears reads a reply, which has to begin with the code.
func (d *dialogue) hears(code string) error {
	for {
		line, err := d.replies.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, code) {
			return fmt.Errorf("%q instead of %s: %w", line, code, err)
		}
		if line[3] == ' ' {
			return nil
		}
	}
}

func (d *dialogue) says(text, code string) error {
	_, err := io.WriteString(d.in, text)
	return errors.Join(err, d.hears(code))
}

func (d *dialogue) end() error {
	return errors.Join(d.says("QUIT\r\n", "221"), d.in.Close(), d.cmd.Wait())
}

const (
	saysSender    = "MAIL FROM:<ann@example.org>\r\n"
	saysRecipient = "RCPT TO:<bob@example.net>\r\n"
)

func (q *queue) converse() (rate float64, err error) {
	d, err := q.dialogue()
	content := strings.ReplaceAll(letter(smallMessage), "\n", "\r\n") + ".\r\n"
	start := time.Now()
	for n := 0; n < inSession && err == nil; n++ {
		err = errors.Join(d.says(saysSender, "250"), d.says(saysRecipient, "250"), d.says("DATA\r\n", "354"), d.says(content, "250"))
	}
	if err != nil {
		return 0, err
	}
	return inSession / time.Since(start).Seconds(), d.end()
}

func (q *queue) sendAhead() (rate float64, err error) {
	d, err := q.dialogue()
	if err != nil {
		return 0, err
	}
	content := strings.ReplaceAll(letter(smallMessage), "\n", "\r\n")
	message := fmt.Sprintf("%s%sBDAT %d LAST\r\n%s", saysSender, saysRecipient, len(content), content)
	sent := make(chan error, 1)
	start := time.Now()
	go func() {
		_, err := io.WriteString(d.in, strings.Repeat(message, inSession))
		sent <- err
	}()
	for n := 0; n < inSession && err == nil; n++ {
		err = errors.Join(d.hears("250 2.1.0"), d.hears("250 2.1.5"), d.hears("250 2.0.0"))
	}
	rate = inSession / time.Since(start).Seconds()
	if err != nil {
		return 0, err
	}
	return rate, errors.Join(<-sent, d.end())
}
