package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

func agentMessage(t *testing.T, content string) *mail.Message {
	t.Helper()
	to, err := mail.ParsePath("bob@here.example")
	if err != nil {
		t.Fatal(err)
	}
	m := &mail.Message{QueueID: "0N41Z7C2K9A", Content: strings.NewReader(content), Size: int64(len(content))}
	m.Recipients = []mail.Recipient{{}, {Path: to, Original: "rfc822;all@here.example"}}
	return m
}

// An agent gets a message of any size, any part of it as often as it likes, and nothing about other recipients.
func TestAgentGetsTheMessage(t *testing.T) {
	content := strings.Repeat("A line of many.\r\n", 50_000)
	pass, agent := net.Pipe()
	results := make(chan mail.Result, 1)
	go func() {
		r, err := serveAgent(pass, agentMessage(t, content), 1)
		if err != nil {
			r.Reply.Text = err.Error()
		}
		results <- r
		pass.Close()
	}()
	var l letter
	if err := readFrame(agent, &l); err != nil {
		t.Fatal(err)
	}
	d := &distant{conn: agent, pieces: make(chan []byte)}
	ctx, cancel := context.WithCancelCause(t.Context())
	go d.receive(cancel)
	m, err := l.message(d)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Recipients) != 1 || m.Recipients[0].Path.Address() != "bob@here.example" || m.Recipients[0].Original != "rfc822;all@here.example" {
		t.Errorf("recipients %+v", m.Recipients)
	}
	for _, from := range []int64{0, 17, m.Size - 1, m.Size, 0} {
		got, err := io.ReadAll(io.NewSectionReader(m.Content, from, m.Size-from))
		if err != nil || string(got) != content[from:] {
			t.Errorf("from %d: %d octets, %v; want %d", from, len(got), err, m.Size-from)
		}
	}
	if n, err := m.Content.ReadAt(make([]byte, 10), m.Size-4); n != 4 || err != io.EOF {
		t.Errorf("across the end: %d, %v", n, err)
	}
	if err := answer(agent, mail.Result{Action: mail.Delivered, Reply: mail.Reply{Text: "done"}}); err != nil {
		t.Fatal(err)
	}
	if r := <-results; r.Action != mail.Delivered || r.Reply.Text != "done" {
		t.Errorf("result %+v", r)
	}
	<-ctx.Done()
	if _, err := m.Content.ReadAt(make([]byte, 1), 0); err == nil || !errors.Is(context.Cause(ctx), errPassEnded) {
		t.Errorf("after the end: %v, %v", err, context.Cause(ctx))
	}
}

// Whatever an agent says, the pass hands out nothing but the message, and does not take it for a success.
func TestAgentTalksNonsense(t *testing.T) {
	for _, words := range []string{
		"", "x", "p", "p\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00\x00\x01", "p\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x01",
		"p\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff", "r", "r\xff\xff\xff\xff", "r\x00\x00\x00\x02{]", "r\x00\x00\x00\x02{}",
	} {
		pass, agent := net.Pipe()
		go func() {
			defer agent.Close()
			var l letter
			if readFrame(agent, &l) == nil {
				io.WriteString(agent, words)
			}
		}()
		r, err := serveAgent(pass, agentMessage(t, "Text.\r\n"), 1)
		if r.Action != mail.Delayed || err == nil && words != "r\x00\x00\x00\x02{}" {
			t.Errorf("%q: %+v, %v", words, r, err)
		}
		pass.Close()
	}
}

// A user who stops the process that delivers to him does not stop anybody else.
func TestAgentThatIsStopped(t *testing.T) {
	ours, theirs, err := socketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	r := (&steward{ours}).perform(t.Context(), assignment{}, time.Millisecond, agentMessage(t, "Text.\r\n"), 1)
	if r.Action != mail.Delayed || r.Scope != mail.OfRecipient || !strings.Contains(r.Reply.Text, "did not come to an end: ") {
		t.Errorf("result %+v", r)
	}
	cmd := exec.Command("/bin/sh", "-c", "kill -STOP $$")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitAtMost(cmd, time.Millisecond)
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Errorf("ended with %v", cmd.ProcessState)
	}
	for _, tt := range []struct {
		j    job
		want time.Duration
	}{{job{Scheme: "pipe", Timeout: time.Hour}, time.Hour + agentMargin}, {job{Scheme: "mbox", Timeout: time.Hour}, mailboxTime}} {
		if got := tt.j.limit(); got != tt.want {
			t.Errorf("limit of %+v: %v, want %v", tt.j, got, tt.want)
		}
	}
}

func TestIdentity(t *testing.T) {
	i := identity{64002, 64003, []int{64003, 8}}
	if got, err := parseIdentity(i.words()); err != nil || fmt.Sprint(got) != fmt.Sprint(i) {
		t.Errorf("%v: %v, %v", i, got, err)
	}
	for _, words := range []string{"", "1", "0 0", "0 5 5", "-1 5", "5 -1", "5 x", "4294967295 5", "5 5 4294967295"} {
		if got, err := parseIdentity(strings.Fields(words)); err == nil {
			t.Errorf("%q: %v", words, got)
		}
	}
}
