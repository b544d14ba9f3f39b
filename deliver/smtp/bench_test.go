package smtp

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postrider/postrider/internal/mail"
)

// sinkVariable makes the test binary a sink, in a process of its own so that its work is not counted as ours.
const sinkVariable = "POSTRIDER_TEST_SINK"

func TestMain(m *testing.M) {
	if os.Getenv(sinkVariable) != "" {
		if err := sink(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// sink prints its address and takes every message that comes, doing as little as it can, until its input ends.
func sink() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go swallow(conn)
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func swallow(conn net.Conn) {
	r, w := bufio.NewReaderSize(conn, 64<<10), bufio.NewWriter(conn)
	content := false
	fmt.Fprint(w, "220 sink ESMTP\r\n")
	for {
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		switch {
		case content:
			if content = string(line) != ".\r\n"; !content {
				_, _ = w.WriteString("250 2.0.0 Ok: queued\r\n")
			}
		case bytes.HasPrefix(line, []byte("EHLO")):
			_, _ = w.WriteString("250-sink\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n")
		case bytes.HasPrefix(line, []byte("DATA")):
			content = true
			_, _ = w.WriteString("354 End data with <CR><LF>.<CR><LF>\r\n")
		default:
			_, _ = w.WriteString("250 2.1.0 Ok\r\n")
		}
	}
}

// startSink returns the address of a sink.
func startSink(b *testing.B) *net.TCPAddr {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), sinkVariable+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := stdin.Close(); err != nil {
			b.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	addr, err := net.ResolveTCPAddr("tcp", strings.TrimSpace(line))
	if err != nil {
		b.Fatal(err)
	}
	return addr
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchmarkDeliver sends b.N messages of size octets over one session.
func benchmarkDeliver(b *testing.B, size int, recipients ...string) {
	addr := startSink(b)
	s := open(b, &Server{Host: "127.0.0.1", Port: addr.Port, Hello: "client.invalid"})
	line := strings.Repeat("x", 70) + "\r\n"
	m := message(b, "Subject: hello\r\n\r\n"+strings.Repeat(line, size/len(line)), recipients...)
	positions := all(m)
	b.ReportAllocs()
	runtime.GC()
	before := cpuTime(b)
	for b.Loop() {
		for _, r := range s.Deliver(context.Background(), m, positions) {
			if r.Action != mail.Relayed {
				b.Fatal(r)
			}
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N)/1e3, "cpu-µs/op")
}

func BenchmarkDeliver2KB(b *testing.B) { benchmarkDeliver(b, 2<<10, "bob@example.com") }

func BenchmarkDeliver1MB(b *testing.B) { benchmarkDeliver(b, 1<<20, "bob@example.com") }

func BenchmarkDeliver100Recipients(b *testing.B) {
	var recipients []string
	for i := range 100 {
		recipients = append(recipients, fmt.Sprintf("user%d@example.com", i))
	}
	benchmarkDeliver(b, 2<<10, recipients...)
}
