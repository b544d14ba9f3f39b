package faulttest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/failover"
	"github.com/postrider/postrider/deliver/mx"
	"github.com/postrider/postrider/deliver/smtp"
	"github.com/postrider/postrider/internal/smtptest"
)

// actions are what a server does in place of an answer. Those that are none of its business at some stage are tried there
// all the same.
var actions = []action{
	{"FIN", smtptest.Close},
	{"RST", smtptest.Reset},
	{"hang", smtptest.Hang},
	{"421", "421 4.3.2 going down"},
	{"5xx", "554 5.7.0 not you"},
	{"garbage", smtptest.Raw + "what is this?\r\n"},

	{"not reading", smtptest.Stall},
	{"4xx", "451 4.3.0 later"},
	{"5xx, then FIN", "554 5.7.0 not you\n" + smtptest.Close},
	{"421, and goes on", smtptest.Raw + "421 4.3.2 going down\r\n"},
	{"2xx, then RST", "250 2.0.0 fine\n" + smtptest.Reset},
	{"2xx, then FIN", "250 2.0.0 fine\n" + smtptest.Close},
	{"3xx", smtptest.Raw + "354 go ahead\r\n"},
	{"1xx", smtptest.Raw + "150 wait\r\n"},
	{"a reply too many", smtptest.Raw + "250 fine\r\n250 and more\r\n"},
	{"all replies ahead", smtptest.Raw + "220 a\r\n" + strings.Repeat("250 b\r\n", 5) + "354 c\r\n250 d\r\n221 e\r\n"},
	{"NUL", smtptest.Raw + "250 fi\x00ne\r\n"},
	{"bare CR", smtptest.Raw + "250 fi\rne\r\n"},
	{"codes that differ", smtptest.Raw + "250-one\r\n550 two\r\n"},
	{"a reply without end", smtptest.Raw + "250-one\r\n"},
	{"half a line, then FIN", smtptest.Raw + "250 fin\n" + smtptest.Close},
	{"endless lines", smtptest.Flood + "250-and so on\r\n"},
	{"endless line", smtptest.Flood + "220 and so on "},
	{"3xx, and 2xx at once", smtptest.Raw + "354 go ahead\r\n250 taken\r\n"},
	{"takes it, then FIN", smtptest.Took + smtptest.Close},
	{"takes it, then RST", smtptest.Took + smtptest.Reset},
	{"takes it, then hang", smtptest.Took + smtptest.Hang},
	{"takes it, then garbage", smtptest.Took + smtptest.Raw + "what is this?\r\n"},
	{"takes it, then endless lines", smtptest.Took + smtptest.Flood + "250-and so on\r\n"},
	{"announces a small size", "250 mx\nSIZE 1000"},
	{"announces a large size", "250 mx\nSIZE 99999999999999999999"},
	{"announces no size", "250 mx\nSIZE -1"},
	{"announces limits", "250 mx\nLIMITS RCPTMAX=1 MAILMAX=2"},
	{"announces nonsense", "250 mx\nLIMITS RCPTMAX=0 MAILMAX=0\nAUTH\n=\nSIZE\nSIZE=1\nDELIVERBY -5\n " + strings.Repeat("\nX", 100)},
	{"drip", smtptest.Drip + "59s 250-one octet a minute, whatever was asked\r\n250 is what you get from me\r\n"},
}

// An action is what is done, by a line of a script.
type action struct{ name, does string }

// silent says which actions are no more than silence on a connection that stays: only a deadline ends that.
func silent(action string) bool {
	switch action {
	case "takes it, then hang", "takes it, then garbage", "3xx, and 2xx at once", "hang", "not reading", "drip", "421, and goes on", "a reply without end", "3xx", "1xx", "all replies ahead", "a reply too many", "garbage", "NUL", "bare CR", "codes that differ":
		return true
	}
	return false
}

// miscounts says which actions are a reply too many or too few, each of which makes sense by itself.
func miscounts(action string) bool {
	return action == "a reply too many" || action == "all replies ahead" || action == "a reply without end"
}

// A cell is one case.
type cell struct {
	fault
	extensions string
	security   string // of securities
	socket     bool   // TCP and real time, rather than a pipe and time that passes while all wait
	beside     bool   // another server, which is sound, takes mail for the same domain
	sessions   int    // at once
	letters    int
}

// What a connection may be.
const (
	plain = "in clear"
	may   = "TLS if it can be had"
	must  = "TLS with a login"
	lmtp  = "LMTP"
)

// piped are the extensions with which many messages are sent at once.
const piped = "PIPELINING CHUNKING"

func (c cell) String() string {
	s := fmt.Sprintf("%s at %s, %s, %s, extensions %q", c.name, c.stage, c.when, c.security, c.extensions)
	if c.socket {
		s += ", by TCP"
	}
	if c.beside {
		s += ", beside a sound one"
	}
	if c.sessions > 1 {
		s += fmt.Sprintf(", %d sessions", c.sessions)
	}
	return s
}

// pointless says which cells have nothing to try, or nothing more than others.
func (c cell) pointless() bool {
	switch c.stage {
	case "STARTTLS", "handshake", "EHLO after TLS":
		if c.security != may && c.security != must {
			return true
		}
	case "AUTH", "AUTH END":
		if c.security != must {
			return true
		}
	}
	took, announced := strings.HasPrefix(c.does, smtptest.Took), strings.HasPrefix(c.name, "announces")
	return (opening(c.stage) || c.stage == "QUIT") && c.when == third ||
		took && (c.stage != "dot" || c.security == lmtp) || announced && (c.stage != "EHLO" || c.security == must) ||
		c.socket && (silent(c.name) || c.onceForAll()) || !c.socket && strings.Contains(c.name, "RST")
}

// onceForAll says that a server of LMTP gives one answer to a content, by BDAT, where one for each recipient is waited for.
func (c cell) onceForAll() bool {
	return c.security == lmtp && c.stage == "DATA" && strings.Contains(c.extensions, "CHUNKING")
}

// blind says that nobody can tell which reply is whose: several messages were on their way when the server lost count, or
// several recipients were to be answered for.
func (c cell) blind() bool {
	switch {
	case !miscounts(c.name) || opening(c.stage):
		return false
	case c.security == lmtp:
		return c.stage == "dot" || c.onceForAll()
	}
	return c.extensions == piped && (c.when != always || c.stage == "RSET")
}

// TestServers sends letters to a server that goes wrong at one stage, and again when it is well.
func TestServers(t *testing.T) {
	var count tally
	t.Run("cells", func(t *testing.T) {
		for _, c := range cells() {
			t.Run(c.String(), func(t *testing.T) {
				t.Parallel()
				if c.socket {
					count.add(t, c.run)
				} else {
					synctest.Test(t, func(t *testing.T) { count.add(t, c.run) })
				}
			})
		}
	})
	t.Log(&count)
}

// cells returns the product of everything, or a choice of it: the commonest actions at each stage, in clear and with TLS,
// to a server that wants one message after the other and to one that takes many at once; and some of all others.
func cells() []cell {
	all := []cell{{sessions: 1, letters: 7}}
	all = times(all, stages, func(c *cell, s string) { c.stage = s })
	all = times(all, actions, func(c *cell, a action) { c.action = a })
	all = times(all, []when{always, third, once}, func(c *cell, w when) { c.when = w })
	all = times(all, []string{plain, may, must, lmtp}, func(c *cell, s string) { c.security = s })
	all = times(all, []string{"", "PIPELINING", "CHUNKING", piped}, func(c *cell, e string) { c.extensions = e })
	all = times(all, []bool{false, true}, func(c *cell, b bool) { c.socket = b })
	all = times(all, []bool{false, true}, func(c *cell, b bool) { c.beside = b })
	all = times(all, []int{1, 3}, func(c *cell, n int) { c.sessions = n })
	all = slices.DeleteFunc(all, cell.pointless)
	if proof() {
		return all
	}
	var some []cell
	for n := 0; len(all) > 0; n++ {
		end := slices.IndexFunc(all, func(c cell) bool { return c.stage != all[0].stage || c.name != all[0].name })
		if end < 0 {
			end = len(all)
		}
		step := max(1, end/2)
		for i, c := range all[:end] {
			if c.common() || i%step == 5*n%step {
				some = append(some, c)
			}
		}
		all = all[end:]
	}
	return some
}

// times multiplies cells with the values of something.
func times[T any](cells []cell, values []T, set func(*cell, T)) (all []cell) {
	for _, c := range cells {
		for _, v := range values {
			set(&c, v)
			all = append(all, c)
		}
	}
	return all
}

// common says which cells are always tried.
func (c cell) common() bool {
	n := slices.Index(actions, c.action)
	return n < 6 && c.when != once && (c.security == plain || c.security == must) && (c.extensions == "" || c.extensions == piped) &&
		c.socket == strings.Contains(c.name, "RST") && !c.beside && c.sessions == 1
}

// A tally counts cells.
type tally struct {
	cells, findings, fired, ambiguous, longest, most atomic.Int64
}

func (c *tally) String() string {
	return fmt.Sprintf("%d cells, %d findings: %d faults, %d possible duplicates, a pass took %v at most, a connection %d octets", c.cells.Load(),
		c.findings.Load(), c.fired.Load(), c.ambiguous.Load(), time.Duration(c.longest.Load()).Round(time.Second), c.most.Load())
}

// add runs a cell.
func (c *tally) add(t *testing.T, run func(t *testing.T, c *tally)) {
	c.cells.Add(1)
	defer func() {
		if t.Failed() {
			c.findings.Add(1)
		}
	}()
	run(t, c)
}

func most(a *atomic.Int64, n int64) {
	for old := a.Load(); n > old && !a.CompareAndSwap(old, n); old = a.Load() {
	}
}

// host is a server as the engine sees it.
type host struct {
	*smtptest.Server
	t     *testing.T
	cell  cell
	count *tally
}

// Bounds of what may come of a fault.
const (
	maxHeard = 160 << 10 // octets that are read from one connection
	maxPass  = wait - time.Hour
)

func (c cell) run(t *testing.T, count *tally) {
	w := newWorld(t, c.sessions, nil)
	c.compose(w)
	d, sound := newDirector(c.fault, w.letters), newDirector(fault{}, w.letters)
	bad := host{c.start(t, smtptest.Options{Script: d.script}), t, c, count}
	good := host{c.start(t, smtptest.Options{Hostname: "mx2.invalid", Script: sound.script}), t, c, count}
	resolve := w.opts.Resolve
	w.opts.Resolve = func(hop string) (deliver.Route, error) {
		if hop != "mx.example" {
			return resolve(hop)
		}
		hosts := []host{bad}
		if c.beside {
			hosts = append(hosts, good)
		}
		return deliver.Route{Transport: c.transport(w, hosts), Domain: hop, Concurrency: c.sessions}, nil
	}
	verdict := func() verdict {
		return verdict{append(bad.Messages(), good.Messages()...), func(rcpt string) bool { return d.hasRefused(rcpt) || sound.hasRefused(rcpt) }, d.hasClaimed, c.blind()}
	}
	w.submit()
	start := time.Now()
	w.pass()
	if took := time.Since(start); took > maxPass {
		t.Errorf("the pass took %v", took)
	} else {
		most(&count.longest, int64(took))
	}
	fates := w.judge(1, verdict())
	d.heal()
	w.later(wait + time.Hour)
	w.pass()
	w.judgeAll(2, verdict())
	for _, f := range fates {
		count.ambiguous.Add(int64(f.ambiguous))
	}
	count.fired.Add(int64(d.fired))
	if d.fired == 0 && !c.excused() {
		t.Error("nothing went wrong")
	}
	if len(d.early) > 0 && c.security == must {
		t.Errorf("%q in clear", d.early)
	}
	if n := bad.Connections(); n > 8*c.letters {
		t.Errorf("%d connections", n)
	}
	for _, s := range []host{bad, good} {
		for _, v := range s.Violations() {
			if v == "MAIL within a transaction" && c.blind() {
				continue // it answered for every recipient: who could know that it took nothing?
			}
			t.Errorf("the client breaks the protocol: %s", v)
		}
	}
}

// excused says at which stages some sessions do not come.
func (c cell) excused() bool { return c.stage == "RSET" || c.stage == "QUIT" || c.when == third }

// compose writes the letters: most have one recipient, some two; one of them nobody knows, one letter nobody wants; one is
// large.
func (c cell) compose(w *world) {
	for n := range c.letters {
		size, rcpts := 100, []string{fmt.Sprintf("r%d@mx.example", n)}
		switch n {
		case 1:
			size = 200 << 10
		case 2:
			rcpts = append(rcpts, "nobody@mx.example", "r2b@mx.example")
		}
		w.write(n, size, rcpts...)
	}
	w.letters[4].sender = "spam@home.example"
	w.letters[4].rcpts = []string{"r4.spam@mx.example"}
}

// start starts a server as the cell has it.
func (c cell) start(t *testing.T, o smtptest.Options) *smtptest.Server {
	o.Extensions = append(strings.Fields(c.extensions), "ENHANCEDSTATUSCODES")
	switch c.security {
	case lmtp:
		o.LMTP = true
	case may:
		o.Certificate = smtptest.UnknownCA
	case must:
		o.Certificate, o.Users = smtptest.Valid, map[string]string{"ann": "secret"}
	}
	if c.socket {
		return smtptest.NewServer(t, o)
	}
	return smtptest.NewPipe(t, o)
}

// transport leads to hosts.
func (c cell) transport(w *world, hosts []host) deliver.Transport {
	var list []mx.Host
	for n := range hosts {
		list = append(list, address(n))
	}
	open := func(ctx context.Context, h mx.Host) (deliver.Session, error) {
		to := hosts[h.Addrs[0].As4()[3]]
		s, err := smtp.Open(ctx, to.server(h))
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	if len(hosts) == 1 {
		return transportFunc(func(ctx context.Context) (deliver.Session, error) { return open(ctx, list[0]) })
	}
	return &failover.Transport{
		Find: func(context.Context, string) ([]mx.Host, error) { return list, nil }, Dial: open, Strangers: true, Now: w.now,
	}
}

// address is where host n is met.
func address(n int) mx.Host {
	return mx.Host{Name: fmt.Sprintf("mx%d.invalid", n), Port: 25, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})}}
}

// A transportFunc is a transport that is only a function.
type transportFunc func(ctx context.Context) (deliver.Session, error)

func (f transportFunc) Open(ctx context.Context, _ string) (deliver.Session, error) { return f(ctx) }

// server returns how to connect to a host. Where time does not pass by itself, nothing is waited for as long as usual.
func (h host) server(to mx.Host) *smtp.Server {
	s := &smtp.Server{Host: to.Name, Addrs: to.Addrs, Hello: "here.example", Dial: h.dial}
	if h.cell.socket {
		const d = 30 * time.Second
		s.Timeouts = smtp.Timeouts{Greeting: d, Hello: d, TLS: d, Mail: d, Recipient: d, Data: d, Block: d, Final: d}
	}
	switch h.cell.security {
	case lmtp:
		s.LMTP = true
	case may:
		s.TLS = smtp.TLSMay
	case must:
		s.TLS, s.RootCAs, s.Host = smtp.TLSVerify, h.CertPool(), "127.0.0.1"
		s.User, s.Password = "ann", func() (string, error) { return "secret", nil }
	}
	return s
}

func (h host) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var conn net.Conn
	var err error
	if h.cell.socket {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", h.Addr())
	} else {
		conn, err = h.Server.Dial(ctx, "", "")
	}
	if err != nil {
		return nil, err
	}
	if h.cell.socket {
		return conn, nil
	}
	return &meter{Conn: wire(conn), t: h.t, count: h.count}, nil
}

// wire puts a wire with room for some octets before a connection: who sends need not wait until the other side reads.
func wire(far net.Conn) net.Conn {
	near, end := net.Pipe()
	sent := make(chan []byte, 128)
	go func() {
		defer close(sent)
		for {
			b := make([]byte, 1<<10)
			n, err := end.Read(b)
			if err != nil {
				return
			}
			sent <- b[:n]
		}
	}()
	go func() {
		for b := range sent {
			if _, err := far.Write(b); err != nil {
				break
			}
		}
		far.Close()
		end.Close()
		for range sent {
		}
	}()
	go func() {
		b := make([]byte, 2<<10)
		for {
			n, err := far.Read(b)
			if err == nil {
				_, err = end.Write(b[:n])
			}
			if err != nil {
				far.Close()
				end.Close()
				return
			}
		}
	}()
	return near
}

// A meter counts what is read from a host.
type meter struct {
	net.Conn
	t     *testing.T
	count *tally
	heard int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	if m.heard += int64(n); m.heard > maxHeard {
		m.t.Errorf("%d octets were read from a connection", m.heard)
		return 0, net.ErrClosed
	}
	most(&m.count.most, m.heard)
	return n, err
}
