// Command deliver delivers one message to two recipients, for the crash tests: "maildir" or "mbox" and the path are its
// arguments. It exits with 0 if both are delivered.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/postrider/postrider/deliver/local"
	"github.com/postrider/postrider/internal/mail"
)

const letter = "Subject: hello\r\n\r\nFirst line.\r\nLast line.\r\n"

func main() {
	m := &mail.Message{QueueID: "0N41Z7C2K9A", Content: strings.NewReader(letter), Size: int64(len(letter))}
	m.Arrival = time.Unix(1791531652, 0)
	for _, address := range []string{"bob@example.net", "carol@example.net"} {
		p, err := mail.ParsePath(address)
		if err != nil {
			panic(err)
		}
		m.Recipients = append(m.Recipients, mail.Recipient{Path: p})
	}
	var d session = &local.Maildir{Dir: os.Args[2]}
	if os.Args[1] == "mbox" {
		d = &local.Session{One: local.Mbox{Path: os.Args[2], Owner: os.Geteuid()}.Deliver}
	}
	status := 0
	for _, r := range d.Deliver(context.Background(), m, []int{0, 1}) {
		if r.Action != mail.Delivered {
			fmt.Fprintln(os.Stderr, r.Reply)
			status = 75
		}
	}
	d.Close()
	os.Exit(status)
}

type session interface {
	Deliver(ctx context.Context, m *mail.Message, recipients []int) []mail.Result
	Close()
}
