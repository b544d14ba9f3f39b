package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
)

// sinkCommand is the first argument of this program when it is to be the server: a process of its own, so that its
// CPU time is not taken for that of anybody else.
const sinkCommand = "sink"

// counts is what a sink has seen.
type counts struct {
	Connections, Messages, Octets int64
}

// A smarthost is a running sink.
type smarthost struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stdout *bufio.Reader
}

// What a sink says to recipients.
const (
	accepting = "250 2.1.5 ok"
	deferring = "451 4.2.0 try again later"
)

// startSink starts a sink on the port and returns when it listens.
func startSink(port int, toRcpt string) (*smarthost, error) {
	cmd := exec.Command("/proc/self/exe", sinkCommand, "127.0.0.1:"+strconv.Itoa(port), toRcpt)
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
func sink(address, toRcpt string) error {
	l, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	var c counts
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			atomic.AddInt64(&c.Connections, 1)
			go c.serve(conn, toRcpt)
		}
	}()
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(counts{
		atomic.LoadInt64(&c.Connections), atomic.LoadInt64(&c.Messages), atomic.LoadInt64(&c.Octets),
	})
}

// serve answers one client. Replies leave when the client has sent nothing more to read: a pipelined group of commands
// gets one packet.
func (c *counts) serve(conn net.Conn, toRcpt string) {
	defer conn.Close()
	r, w := bufio.NewReaderSize(conn, 64<<10), bufio.NewWriterSize(conn, 4<<10)
	reply := func(s string) { w.WriteString(s) } // the error comes back with Flush
	reply("220 sink.example ESMTP\r\n")
	for {
		if r.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return
			}
		}
		line, err := r.ReadSlice('\n')
		if err != nil || len(line) < 4 {
			return
		}
		switch string(bytes.ToUpper(line[:4])) {
		case "EHLO":
			reply("250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 0\r\n")
		case "MAIL", "RSET", "NOOP":
			reply("250 2.0.0 ok\r\n")
		case "RCPT":
			reply(toRcpt + "\r\n")
		case "DATA":
			if toRcpt != accepting {
				reply("503 5.5.1 no recipients\r\n")
				continue
			}
			reply("354 go on\r\n")
			if err := w.Flush(); err != nil {
				return
			}
			n, err := skipContent(r)
			if err != nil {
				return
			}
			atomic.AddInt64(&c.Octets, n)
			atomic.AddInt64(&c.Messages, 1)
			reply("250 2.0.0 taken\r\n")
		case "QUIT":
			reply("221 2.0.0 bye\r\n")
			w.Flush() // whatever comes of it, this is the end
			return
		default:
			reply("500 5.5.1 what?\r\n")
		}
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
