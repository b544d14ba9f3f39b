package main

import (
	"fmt"
	"io"
	"sync"

	"github.com/postrider/postrider/spool"
)

// A narrator tells a person what goes on. That he has gone away is no reason to stop a delivery, so its errors are nobody's.
type narrator struct {
	mu    sync.Mutex
	to    io.Writer
	relay string // whose dialogue is being told
}

// dialogue tells a line of what we and a server say to each other.
func (n *narrator) dialogue(relay, line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if relay != n.relay {
		fmt.Fprintf(n.to, "%s\n", relay)
		n.relay = relay
	}
	fmt.Fprintf(n.to, "  %s\n", line)
}

// alongside returns a log whose lines are told, too.
func (n *narrator) alongside(log func(format string, args ...any)) func(format string, args ...any) {
	return func(format string, args ...any) {
		n.mu.Lock()
		fmt.Fprintf(n.to, format+"\n", args...)
		n.relay = ""
		n.mu.Unlock()
		log(format, args...)
	}
}

// outcome tells what has become of mail that another pass delivers, as far as the queue shows it.
func (n *narrator) outcome(dir string, o options) error {
	if !o.wait || o.only.All() {
		fmt.Fprintln(n.to, "another pass is running; it has been told")
		return nil
	}
	left := false
	for e, err := range spool.List(dir) {
		if err != nil {
			return fmt.Errorf("read the queue: %w", err)
		}
		for _, r := range e.Recipients {
			if o.only.Message(e.ID, e.Sender) && o.only.Recipient(r.Path) {
				fmt.Fprintf(n.to, "%s: to=%s, attempts=%d (%s)\n", e.ID, r.Path, r.Attempts, r.Reason)
				left = true
			}
		}
	}
	if !left {
		fmt.Fprintln(n.to, "another pass is done with this mail; the log says what became of it")
	}
	return nil
}
