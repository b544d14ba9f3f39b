package crashtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/smtptest"
	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// A scenario is a pass over a spool that sendmail has filled. What becomes of a recipient follows from his address:
// see fateOf.
type scenario struct {
	name    string
	letters []letter
}

// A letter is one message.
type letter struct {
	to   []string
	size int // of the body, at least
}

const sender = "ann@box.example"

func scenarios() []scenario {
	return []scenario{
		{"two delivered", []letter{{to: []string{"bob@box.example", "carol@box.example"}}}},
		{"one delivered, one deferred", []letter{{to: []string{"bob@box.example", "dave@down.example"}}}},
		{"one delivered, one bounced", []letter{{to: []string{"bob@box.example", "erin@gone.example"}}}},
		{"relayed", []letter{{to: []string{"bob@smart.example"}}}},
		{"several relayed", []letter{
			{to: []string{"bob@smart.example", "carol@smart.example"}},
			{to: []string{"bob@smart.example", "refused@smart.example"}},
			{to: []string{"later@smart.example", "carol@smart.example"}, size: 100 << 10},
			{to: []string{"bob@smart.example"}},
		}},
		{"everything at once", []letter{
			{to: []string{"bob@box.example", "carol@smart.example", "dave@down.example"}},
			{to: []string{"erin@gone.example"}},
			{to: []string{"later@smart.example", "refused@smart.example", "bob@box.example"}},
			{to: []string{"carol@smart.example"}},
			{to: []string{"dave@down.example", "erin@gone.example"}},
		}},
	}
}

// fate is what must become of a recipient in the end.
type fate string

const (
	delivered fate = "delivered"
	bounced   fate = "bounced"
	queued    fate = "queued"
)

// fateOf says what becomes of an address: box.example is a Maildir, smart.example our server, gone.example a transport
// that fails, and nobody listens for down.example.
func fateOf(address string) fate {
	local, domain, _ := strings.Cut(address, "@")
	switch {
	case domain == "gone.example" || local == "refused":
		return bounced
	case domain == "down.example" || local == "later":
		return queued
	}
	return delivered
}

// routes is the configuration for that.
const routes = `
[retry]
first = "5m"
max_wait = "5m"

[transport.box]
url = "maildir:DIR/Maildir"

[transport.smart]
url = "smtp://ADDRESS"
tls = "none"

[transport.down]
url = "smtp://127.0.0.1:1"
tls = "none"

[transport.gone]
url = "fail:"
text = "there is no such domain"

[[route]]
to = ["box.example"]
transport = "box"

[[route]]
to = ["smart.example"]
transport = "smart"

[[route]]
to = ["down.example"]
transport = "down"

[[route]]
to = ["gone.example"]
transport = "gone"
`

func (l letter) submission(n int) submission {
	subject := "Subject: letter " + strconv.Itoa(n) + "\n"
	body := "Hello.\n.\n..\nThe end.\n" + strings.Repeat("One line of many in a long letter.\n", l.size/35)
	return submission{
		args:  append([]string{"-i", "-f", sender}, l.to...),
		stdin: strings.ReplaceAll(header, "ann@example.org", sender) + subject + "\n" + body,
	}
}

// A stage is a ground with the letters of a scenario in drop/.
type stage struct {
	*ground
	scenario
	address string   // of our server
	ids     []string // of the letters
	content []string // in wire form
}

// newStages returns n stages.
func newStages(t *testing.T, p programs, sc scenario, n int, fs *FileSystem) []*stage {
	t.Helper()
	stages := make([]*stage, n)
	for i := range stages {
		// The server comes and goes. An address of its own keeps its port from being given to somebody meanwhile.
		st := &stage{scenario: sc, address: fmt.Sprintf("127.%d.%d.%d:2525", 1+os.Getpid()>>8&127, os.Getpid()&255, 1+i)}
		st.ground = newGrounds(t, 1, fs, func(dir string) error { return st.submit(p, dir) })[0]
		stages[i] = st
	}
	return stages
}

// serve starts the server.
func (st *stage) serve() (server *smtptest.Server, err error) {
	// A child that another worker starts has our listeners until it has executed its program, which is not long.
	busy := func(err error) bool { return errors.Is(err, unix.EADDRINUSE) }
	err = patiently(busy, func() error {
		server, err = smtptest.Start(smtptest.Options{Addr: st.address, Replies: map[string]string{
			"RCPT TO:<later":   "451 4.2.0 later, please",
			"RCPT TO:<refused": "550 5.1.1 there is nobody of this name",
		}})
		return err
	})
	return server, err
}

// submit fills the spool with real runs of sendmail.
func (st *stage) submit(p programs, dir string) error {
	if err := prepareSpool(dir); err != nil {
		return err
	}
	if err := configure(dir, strings.NewReplacer("DIR", dir, "ADDRESS", st.address).Replace(routes)); err != nil {
		return err
	}
	d, err := drop.Open(filepath.Join(dir, "spool/drop"))
	if err != nil {
		return err
	}
	defer d.Close()
	for n, l := range st.letters {
		r, err := Run(p.submit(dir, l.submission(n)), Fault{})
		if err != nil || r.Code() != 0 {
			return fmt.Errorf("sendmail: exit status %d: %s: %w", r.Code(), r.Stderr, err)
		}
		ids, _, err := d.Names()
		if err != nil {
			return err
		}
		for _, id := range ids {
			if slices.Contains(st.ids, string(id)) {
				continue
			}
			m, err := d.Read(string(id))
			if err != nil {
				return err
			}
			content, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Size))
			if err := errors.Join(err, m.Close()); err != nil {
				return err
			}
			st.ids = append(st.ids, string(id))
			st.content = append(st.content, string(content))
		}
	}
	if len(st.ids) != len(st.letters) {
		return fmt.Errorf("%d messages in drop/ after %d submissions", len(st.ids), len(st.letters))
	}
	return nil
}
