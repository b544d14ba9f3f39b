package failover_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/dns"
	"github.com/postrider/postrider/deliver/failover"
	"github.com/postrider/postrider/deliver/mx"
	"github.com/postrider/postrider/deliver/smtp"
	"github.com/postrider/postrider/internal/dnstest"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/spool"
	"github.com/postrider/postrider/spool/drop"
)

// A world is all that is between a program that hands in mail and the mailboxes of others: our queue and the passes over
// it, a name server, and servers that take mail. Only addresses are not what they seem: a connection to one goes to a
// server on loopback, or, in a bubble of testing/synctest, over a pipe.
type world struct {
	t      *testing.T
	names  *dnstest.Server
	bubble bool
	now    time.Time // of the clock, which stands still outside a bubble

	servers   map[string]*smtptest.Server // by address
	dead      map[string]error            // what connecting to an address comes to
	home      *smtptest.Server            // of the sender: gets the reports
	transport func() deliver.Transport    // of all mail but reports; made anew for each pass, as by a new process
	dir       string

	mu      sync.Mutex
	dialled []string // addresses, in order, without home's
	log     []string // of the passes so far
}

const homeAddr, ownAddr = "192.0.2.99", "192.0.2.100"

// newNames starts a name server that has these records, and knows where the sender lives.
func newNames(t *testing.T, records ...string) *dnstest.Server {
	t.Helper()
	return dnstest.NewServer(t, append([]string{"example.org. 60 IN MX 10 home.example.org.", "home.example.org. 60 IN A " + homeAddr}, records...)...)
}

// memoryDir returns a directory in memory where there is one: nothing here says what a crash leaves on a disk.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "postrider-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func newWorld(t *testing.T, names *dnstest.Server, bubble bool) *world {
	t.Helper()
	w := &world{
		t: t, names: names, bubble: bubble, now: time.Now(), dir: filepath.Join(memoryDir(t), "spool"),
		servers: map[string]*smtptest.Server{}, dead: map[string]error{},
	}
	w.transport = w.byMX
	w.home = w.serve(homeAddr, smtptest.Options{Hostname: "home.example.org"})
	if err := spool.Create(w.dir); err != nil {
		t.Fatal(err)
	}
	return w
}

// serve starts a server at an address.
func (w *world) serve(addr string, o smtptest.Options) *smtptest.Server {
	w.t.Helper()
	o.Strict = true
	start := smtptest.NewServer
	if w.bubble {
		start = smtptest.NewPipe
	}
	w.servers[addr] = start(w.t, o)
	return w.servers[addr]
}

// dial connects to whatever is at an address.
func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	addr, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	if addr != homeAddr {
		w.dialled = append(w.dialled, addr)
	}
	w.mu.Unlock()
	s, err := w.servers[addr], w.dead[addr]
	switch {
	case err != nil:
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	case s == nil:
		w.t.Errorf("nothing is at %s", addr)
		return nil, net.ErrClosed
	case w.bubble:
		return s.Dial(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, s.Addr())
}

// byMX is mail to the hosts that DNS names, from a host here.example that has a way to everywhere.
func (w *world) byMX() deliver.Transport {
	none := filepath.Join(w.t.TempDir(), "none")
	finder := &mx.Finder{
		DNS:  dns.New(dns.Options{Servers: []string{w.names.Addr()}, ResolvConf: none, Hosts: none, Now: w.clock}),
		Port: 25, Names: []string{"here.example"}, Routed: func(netip.Addr) bool { return true },
		Own: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr(ownAddr)}, nil },
	}
	return &failover.Transport{Find: finder.Domain, Dial: w.open(smtp.Server{TLS: smtp.TLSMay, Found: true}), Strangers: true, Now: w.clock}
}

// open returns what opens a session with a host, in the way that like says.
func (w *world) open(like smtp.Server) func(ctx context.Context, h mx.Host) (deliver.Session, error) {
	return func(ctx context.Context, h mx.Host) (deliver.Session, error) {
		s := like
		s.Host, s.Port, s.Addrs, s.Hello, s.Dial = h.Name, h.Port, h.Addrs, "here.example", w.dial
		if server := w.servers[h.Addrs[0].String()]; server != nil {
			s.RootCAs = server.CertPool()
		}
		session, err := smtp.Open(ctx, &s)
		if err != nil {
			return nil, err
		}
		return session, nil
	}
}

func (w *world) clock() time.Time {
	if w.bubble {
		return time.Now()
	}
	return w.now
}

// A letter is what a program hands in. Its zero value is one from ann to bob at d.example.
type letter struct {
	to     string // local parts; "" means bob
	text   string // with LF; "" means a short one
	change func(env *mail.Envelope)
}

func (l letter) recipients() []string {
	if l.to == "" {
		return []string{"bob"}
	}
	return strings.Fields(l.to)
}

const hello = "From: ann@example.org\nSubject: hello\n\nhello\n"

// submit hands a letter in.
func (w *world) submit(l letter) {
	w.t.Helper()
	if l.text == "" {
		l.text = hello
	}
	s := submit.Submission{Content: strings.NewReader(l.text)}
	s.Arrival, s.Sender, s.Submitter = drop.Now(), w.path("ann@example.org"), os.Getuid()
	for _, local := range l.recipients() {
		s.Recipients = append(s.Recipients, mail.Recipient{Path: w.path(local + "@d.example")})
	}
	if l.change != nil {
		l.change(&s.Envelope)
	}
	d, err := drop.Open(filepath.Join(w.dir, "drop"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	host := submit.Host{Name: "here.example", Domain: "here.example"}
	p, err := host.Receive(d, s)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := p.Commit(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) path(s string) mail.Path {
	w.t.Helper()
	p, err := mail.ParsePath(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// pass makes a pass over the queue, with one session at a time for each domain.
func (w *world) pass() {
	w.t.Helper()
	transports := map[string]deliver.Transport{"": w.transport(), "example.org": w.byMX()}
	logf := func(format string, args ...any) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.log = append(w.log, fmt.Sprintf(format, args...))
	}
	s, err := spool.Acquire(w.dir, spool.Options{
		Route: func(_, rcpt mail.Path, _ int, _ bool) string { return rcpt.Domain() }, Now: w.clock, Logf: logf,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	err = deliver.Pass(w.t.Context(), s, deliver.Options{
		Resolve: func(hop string) (deliver.Route, error) {
			t := transports[hop]
			if t == nil {
				t = transports[""]
			}
			return deliver.Route{Transport: t, Domain: hop, Concurrency: 1}, nil
		},
		Retry:    deliver.Retry{First: 10 * time.Minute, Factor: 2, MaxWait: 2 * time.Hour, Expire: 24 * time.Hour},
		Hostname: "here.example", Logf: logf, Now: w.clock,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.End(); err != nil {
		w.t.Fatal(err)
	}
}

// attempted is a line of the log.
var attempted = regexp.MustCompile(`: to=<(.*)@d\.example>, relay=([^,]+),.* dsn=([0-9.]+), status=([a-z]+) \(`)

// An outcome is what became of a recipient in an attempt.
type outcome struct{ rcpt, relay, words string }

// outcomes returns what the log says of the attempts at each recipient of d.example, in order.
func (w *world) outcomes() (all []outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range w.log {
		m := attempted.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		o := outcome{rcpt: m[1], relay: m[2], words: m[4] + " " + m[3]}
		if m[4] == "sent" {
			host, _, _ := strings.Cut(m[2], ".")
			o.words = "sent by " + host
		}
		all = append(all, o)
	}
	return all
}

// became puts into words what became of a letter in its first attempt: "sent by mx1" if that is true of all recipients,
// "bob sent by mx1, cyd bounced 5.1.1" otherwise; "untried" says that the attempt does not count. It fails the test unless
// queue, reports and mailboxes agree with the log.
func (w *world) became(l letter) string {
	w.t.Helper()
	all, waits := w.outcomes(), w.waiting()
	var failed, list []string
	same, waiting := true, 0
	for _, rcpt := range l.recipients() {
		n := slices.IndexFunc(all, func(o outcome) bool { return o.rcpt == rcpt })
		if n < 0 {
			w.t.Errorf("nothing is logged of %s", rcpt)
			continue
		}
		words, copies := all[n].words, 0
		switch {
		case strings.HasPrefix(words, "sent"):
			copies = 1
		case strings.HasPrefix(words, "bounced"):
			failed = append(failed, rcpt)
		default:
			waiting++
			if n, ok := waits[rcpt]; !ok || n > 1 {
				w.t.Errorf("%s is said to be %s, and waits: %v, after %d attempts", rcpt, words, ok, n)
			} else if n == 0 {
				words += " untried"
			}
		}
		if got := w.copies(rcpt); got != copies {
			w.t.Errorf("%s is said to be %s, and has the message %d times", rcpt, words, got)
		}
		same = same && all[n].words == all[0].words
		list = append(list, rcpt+" "+words)
	}
	if len(all) != len(list) || len(waits) != waiting {
		w.t.Errorf("%d recipients, %d attempts, %d wait in the queue, %d should", len(list), len(all), len(waits), waiting)
	}
	var reports []string
	if len(failed) > 0 {
		reports = []string{"failed " + strings.Join(failed, ", failed ")}
	}
	w.wantList("are reported, each line in one message", w.reports(), reports)
	if same && len(list) > 0 {
		_, words, _ := strings.Cut(list[0], " ")
		return words
	}
	return strings.Join(list, ", ")
}

func (w *world) wantList(what string, got, want []string) {
	w.t.Helper()
	if !slices.Equal(got, want) {
		w.t.Errorf("%q %s; want %q", got, what, want)
	}
}

// copies returns how often a recipient has got a message.
func (w *world) copies(rcpt string) (n int) {
	for _, s := range w.servers {
		for _, m := range s.Messages() {
			for _, r := range m.Recipients {
				if r.Address == rcpt+"@d.example" {
					n++
				}
			}
		}
	}
	return n
}

// waiting returns who waits in the queue, and after how many attempts.
func (w *world) waiting() map[string]int {
	w.t.Helper()
	waits := map[string]int{}
	for e, err := range spool.List(w.dir) {
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range e.Recipients {
			waits[r.Path.Local()] = r.Attempts
		}
	}
	return waits
}

// reports returns what each report that has come home says, as "failed bob, failed cyd".
func (w *world) reports() (list []string) {
	for _, m := range w.home.Messages() {
		var said []string
		rcpt := ""
		for line := range bytes.Lines(m.Content) {
			name, value, _ := strings.Cut(strings.TrimSpace(string(line)), ": ")
			switch name {
			case "Final-Recipient":
				_, address, _ := strings.Cut(value, "; ")
				rcpt, _, _ = strings.Cut(strings.ReplaceAll(address, `\x{F6}`, "\u00f6"), "@")
			case "Action":
				said = append(said, value+" "+rcpt)
			}
		}
		list = append(list, strings.Join(said, ", "))
	}
	return list
}

// dialogue returns what a server was told, as "EHLO MAIL RCPT DATA . QUIT"; several connections are separated by "; ".
func dialogue(s *smtptest.Server) string {
	var connections []string
	var verbs []string
	end := func() {
		if verbs != nil {
			connections = append(connections, strings.Join(verbs, " "))
		}
	}
	for _, line := range s.Commands() {
		verb, _, _ := strings.Cut(line, " ")
		if verb == "CONNECT" {
			end()
			verbs = []string{}
			continue
		}
		verbs = append(verbs, verb)
	}
	end()
	return strings.Join(connections, "; ")
}
