package main

import (
	"fmt"
	"testing"

	"github.com/postrider/postrider/internal/smtptest"
)

// TestMailing sends one message to 10,000 recipients at one next hop: in as few transactions as the server has it, over no
// more sessions than allowed.
func TestMailing(t *testing.T) {
	const recipients, sessions = 10_000, 4
	var list []string
	for i := range recipients {
		list = append(list, fmt.Sprintf("u%d@example.com", i))
	}
	for _, tt := range []struct {
		extensions   []string
		takes        int // recipients in a transaction, whatever it announces; 0: all
		transactions int
	}{
		{[]string{"PIPELINING", "CHUNKING", "LIMITS RCPTMAX=1000"}, 1000, 10},
		{[]string{"PIPELINING", "LIMITS RCPTMAX=999"}, 999, 11},
		{[]string{"PIPELINING", "LIMITS RCPTMAX=500"}, 500, 20},
		{[]string{"LIMITS RCPTMAX=300"}, 300, 34},
		{[]string{"PIPELINING", "CHUNKING", "LIMITS RCPTMAX=100"}, 100, 100},
		{[]string{"PIPELINING", "CHUNKING", "LIMITS RCPTMAX=50"}, 50, 200},
		{[]string{"PIPELINING", "CHUNKING", "LIMITS RCPTMAX=7"}, 7, 1429},
		{[]string{"PIPELINING", "CHUNKING"}, 0, 100}, // as many recipients as every server must take (RFC 5321 section 4.5.3.1.8)
		// Who does not say what he takes is asked for a hundred, time and again: 452 for 30 may mean their mailboxes.
		{[]string{"PIPELINING", "CHUNKING"}, 70, 170},
	} {
		srv := smtptest.NewServer(t, smtptest.Options{Strict: true, Extensions: tt.extensions, MaxRecipients: tt.takes})
		w := newWorld(t, fmt.Sprintf("[transport.out]\nurl = \"smtp://%s\"\nconcurrency = %d\n[[route]]\ntransport = \"out\"\n", srv.Addr(), sessions))
		w.submit(list...)
		w.pass()
		seen := map[string]bool{}
		for _, m := range srv.Messages() {
			for _, r := range m.Recipients {
				if seen[r.Address] {
					t.Errorf("%q, %d: %s has it twice", tt.extensions, tt.takes, r.Address)
				}
				seen[r.Address] = true
			}
		}
		if len(seen) != recipients || len(w.waiting()) > 0 {
			t.Errorf("%q, %d: %d recipients have it, %d wait", tt.extensions, tt.takes, len(seen), len(w.waiting()))
		}
		if n := srv.Accepted(); n > tt.transactions {
			t.Errorf("%q, %d: %d transactions, want %d at most", tt.extensions, tt.takes, n, tt.transactions)
		}
		if n := srv.Connections(); n > sessions {
			t.Errorf("%q, %d: %d connections, want %d at most", tt.extensions, tt.takes, n, sessions)
		}
	}
}
