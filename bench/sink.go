package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"
)

// sinkCommand is the first argument of this program when it is to be the server: a process of its own, so that its
// CPU time is not taken for that of anybody else.
const sinkCommand = "sink"

// counts is what a sink has seen.
type counts struct {
	Connections, Messages, Octets int64
	Most                          int64 // connections at once
}

// A smarthost is a running sink.
type smarthost struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stdout *bufio.Reader
}

// A manner is how a sink behaves. Its zero value takes everything at once, with PIPELINING.
type manner struct {
	ToRcpt  string        // what it says to recipients; "" means accepting
	Away    time.Duration // how long after what it answers an answer comes, as if it were so far away
	Dialect *dialect      // nil means PIPELINING
}

// A dialect is what a sink offers of what saves round trips.
type dialect struct{ Pipelining, Chunking bool }

// What a sink says to recipients.
const (
	accepting = "250 2.1.5 ok"
	deferring = "451 4.2.0 try again later"
)

// startSink starts a sink on the port and returns when it listens.
func startSink(port int, m manner) (*smarthost, error) {
	how, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", sinkCommand, "127.0.0.1:"+strconv.Itoa(port), string(how))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &smarthost{cmd, stdin, bufio.NewReader(stdout)}
	if _, err := s.stdout.ReadString('\n'); err != nil {
		return nil, errors.Join(err, stdin.Close(), cmd.Wait())
	}
	return s, nil
}

// stop ends the sink and returns what it has seen.
func (s *smarthost) stop() (c counts, err error) {
	if err := s.stdin.Close(); err != nil {
		return c, err
	}
	err = json.NewDecoder(s.stdout).Decode(&c)
	return c, errors.Join(err, s.cmd.Wait())
}

// sink is the server: it forgets every message that it accepts. It says that it listens by a line, ends with its
// standard input, and then prints its counts.
func sink(address, how string) error {
	var m manner
	if err := json.Unmarshal([]byte(how), &m); err != nil {
		return err
	}
	m.ToRcpt = cmp.Or(m.ToRcpt, accepting)
	m.Dialect = cmp.Or(m.Dialect, &dialect{Pipelining: true})
	l, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	var c counts
	var open atomic.Int64
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			atomic.AddInt64(&c.Connections, 1)
			c.Most = max(c.Most, open.Add(1)) // by this goroutine alone
			go func() {
				defer open.Add(-1)
				c.serve(conn, m)
			}()
		}
	}()
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	<-accepted
	return json.NewEncoder(os.Stdout).Encode(counts{
		atomic.LoadInt64(&c.Connections), atomic.LoadInt64(&c.Messages), atomic.LoadInt64(&c.Octets), c.Most,
	})
}

// serve answers one client.
func (c *counts) serve(conn net.Conn, m manner) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	w := newAnswers(conn, m.Away)
	defer w.end()
	w.say("220 sink.example ESMTP\r\n")
	for {
		if r.Buffered() == 0 {
			w.send() // a pipelined group of commands gets one packet
		}
		line, err := r.ReadSlice('\n')
		if err != nil || len(line) < 4 {
			return
		}
		switch string(bytes.ToUpper(line[:4])) {
		case "EHLO":
			w.say(m.Dialect.hello())
		case "MAIL", "RSET", "NOOP":
			w.say("250 2.0.0 ok\r\n")
		case "RCPT":
			w.say(m.ToRcpt + "\r\n")
		case "DATA":
			if m.ToRcpt != accepting {
				w.say("503 5.5.1 no recipients\r\n")
				continue
			}
			w.say("354 go on\r\n")
			w.send()
			n, err := skipContent(r)
			if err != nil {
				return
			}
			c.taken(n)
			w.say("250 2.0.0 taken\r\n")
		case "BDAT":
			n, err := strconv.Atoi(string(bytes.Fields(line)[1])) // all that comes here is "BDAT n LAST"
			if err == nil {
				_, err = r.Discard(n)
			}
			if err != nil {
				return
			}
			c.taken(int64(n))
			w.say("250 2.0.0 taken\r\n")
		case "QUIT":
			w.say("221 2.0.0 bye\r\n")
			return
		default:
			w.say("500 5.5.1 what?\r\n")
		}
	}
}

func (c *counts) taken(octets int64) {
	atomic.AddInt64(&c.Octets, octets)
	atomic.AddInt64(&c.Messages, 1)
}

func (d *dialect) hello() string {
	lines := "250-sink.example\r\n"
	if d.Pipelining {
		lines += "250-PIPELINING\r\n"
	}
	if d.Chunking {
		lines += "250-CHUNKING\r\n"
	}
	return lines + "250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 0\r\n"
}

// answers are on their way to a client: for as long as it is away. An error of the connection is seen by who reads.
type answers struct {
	conn net.Conn
	away time.Duration
	text []byte
	late chan answer // nil if nothing takes time
	done chan struct{}
}

type answer struct {
	text []byte
	at   time.Time
}

func newAnswers(conn net.Conn, away time.Duration) *answers {
	a := &answers{conn: conn, away: away}
	if away == 0 {
		return a
	}
	a.late, a.done = make(chan answer, 10_000), make(chan struct{})
	go func() {
		defer close(a.done)
		for next := range a.late {
			time.Sleep(time.Until(next.at))
			a.conn.Write(next.text)
		}
	}()
	return a
}

func (a *answers) say(text string) { a.text = append(a.text, text...) }

// send sends what was said.
func (a *answers) send() {
	if len(a.text) == 0 {
		return
	}
	if a.late == nil {
		a.conn.Write(a.text)
		a.text = a.text[:0]
		return
	}
	a.late <- answer{a.text, time.Now().Add(a.away)}
	a.text = nil
}

func (a *answers) end() {
	a.send()
	if a.late != nil {
		close(a.late)
		<-a.done
	}
}

// skipContent reads up to the line that is a dot, and returns how many octets stood before it.
func skipContent(r *bufio.Reader) (n int64, err error) {
	start := true // of a line
	for {
		line, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return n, err
		}
		if start && string(line) == ".\r\n" {
			return n, nil
		}
		n += int64(len(line))
		start = err == nil
	}
}
