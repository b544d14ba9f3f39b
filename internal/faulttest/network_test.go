package faulttest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/dnstest"
	"github.com/postrider/postrider/internal/smtptest"
	"github.com/postrider/postrider/spool"
)

// inNetwork names the directory with our programs to a test that runs in a network of its own.
const inNetwork = "POSTRIDER_TEST_IN_NETWORK"

// A network is what lies between us and the servers, both of which are at port 2525.
type network struct {
	name   string
	rules  []string              // of nftables, for what arrives on either side; DNS stands for the port of the name server
	tc     string                // a queueing discipline of the interface
	hosts  string                // families of the mail exchanger's addresses: "4", "6" or "46"
	proxy  func(client net.Conn) // serves a connection of a SOCKS proxy on the way
	absent bool                  // there is no network but the loopback interface
	wants  string                // of all letters after the first pass; "" is anything
}

// What may be wanted.
const (
	arrives = "to arrive"
	defers  = "to be deferred"
	untried = "to wait without an attempt that counts"
)

var networks = []network{
	{name: "sound", hosts: "46", wants: arrives},
	{name: "drop", rules: []string{"tcp dport 2525 drop"}, hosts: "46", wants: defers},
	{name: "reset", rules: []string{"tcp dport 2525 reject with tcp reset"}, hosts: "46", wants: defers},
	{name: "host unreachable", rules: []string{"tcp dport 2525 reject with icmpx type host-unreachable"}, hosts: "46", wants: defers},
	{name: "prohibited", rules: []string{"tcp dport 2525 reject with icmpx type admin-prohibited"}, hosts: "4", wants: defers},
	{name: "loss of 30 percent", rules: []string{"tcp dport 2525 numgen random mod 100 < 30 drop", "tcp sport 2525 numgen random mod 100 < 30 drop"}, hosts: "4"},
	{name: "dies after 20 kB", rules: []string{"tcp dport 2525 quota over 20 kbytes drop"}, hosts: "4"},
	{name: "reset after 20 kB", rules: []string{"tcp dport 2525 quota over 20 kbytes reject with tcp reset"}, hosts: "4"},
	{name: "answers die", rules: []string{"tcp sport 2525 quota over 1500 bytes drop"}, hosts: "4"},
	{name: "answers are never heard", rules: []string{"tcp sport 2525 meta length > 60 drop"}, hosts: "4", wants: defers},
	{name: "large packets are lost", rules: []string{"tcp dport 2525 meta length > 900 drop"}, hosts: "4"},
	{name: "10 kbit", tc: "tbf rate 10kbit burst 2kb latency 400ms", hosts: "4", wants: arrives},
	{name: "no way to IPv4", rules: []string{"ip daddr 198.51.100.1 tcp dport 2525 drop"}, hosts: "46", wants: arrives},
	{name: "no way to IPv6", rules: []string{"ip6 daddr 2001:db8::1 tcp dport 2525 drop"}, hosts: "46", wants: arrives},
	{name: "IPv6 prohibited", rules: []string{"ip6 daddr 2001:db8::1 tcp dport 2525 reject with icmpx type admin-prohibited"}, hosts: "46", wants: arrives},
	{name: "IPv6 dies after the greeting", rules: []string{"ip6 saddr 2001:db8::1 tcp sport 2525 meta length > 150 drop"}, hosts: "46"},
	{name: "questions are lost", rules: []string{"udp dport DNS drop"}, hosts: "4", wants: untried},
	{name: "questions are rejected", rules: []string{"udp dport DNS reject"}, hosts: "4", wants: untried},
	{name: "half of the questions are lost", rules: []string{"udp dport DNS numgen random mod 2 0 drop"}, hosts: "4"},
	{name: "none", absent: true, hosts: "46", wants: untried},
	{name: "slow proxy", proxy: slowly, hosts: "4", wants: arrives},
	{name: "silent proxy", proxy: swallow, hosts: "4", wants: defers},
	{name: "proxy that hangs up", proxy: func(net.Conn) {}, hosts: "4", wants: defers},
	{name: "proxy that hangs up amid the first letter", proxy: briefly, hosts: "4"},
}

// ways are how mail finds the servers: by MX, and as to a relay.
var ways = map[string]string{
	"by MX":   "url = \"mx:\"\nport = 2525\n",
	"a relay": "url = \"smtp://host.mx.example:2525\"\n",
}

// TestNetworks has our programs send through networks that lose, refuse and delay.
func TestNetworks(t *testing.T) {
	bin := os.Getenv(inNetwork)
	if bin == "" {
		bin = needNetworks(t)
	}
	findings := tally{}
	t.Run("cells", func(t *testing.T) {
		for _, n := range networks {
			for way, transport := range ways {
				t.Run(n.name+", "+way, func(t *testing.T) {
					if os.Getenv(inNetwork) != "" {
						n.run(t, bin, transport)
						return
					}
					t.Parallel()
					findings.add(t, func(t *testing.T, _ *tally) { inside(t, bin) })
				})
			}
		}
	})
	if os.Getenv(inNetwork) == "" {
		t.Logf("%d cells, %d findings", findings.cells.Load(), findings.findings.Load())
	}
}

// needNetworks skips the test where there can be no such networks. It returns where our programs are.
func needNetworks(t *testing.T) (bin string) {
	if !proof() {
		t.Skip("SKIPPED: networks that lose, refuse and delay are not tried; set POSTRIDER_PROOF=1 (needs root, nft and iproute2)")
	}
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: networks that lose, refuse and delay need root")
	}
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	for _, tool := range []string{"nft", "tc", "ip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: networks that lose, refuse and delay need %s", tool)
		}
	}
	bin = t.TempDir()
	if out, err := exec.Command("make", "-s", "-C", "../..", "build", "BIN="+bin).CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	return bin
}

// inside runs this test once more, in a network of its own.
func inside(t *testing.T, bin string) {
	var parts []string
	for part := range strings.SplitSeq(t.Name(), "/") {
		parts = append(parts, "^"+regexp.QuoteMeta(part)+"$")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", strings.Join(parts, "/"), "-test.timeout", "15m", "-test.v")
	cmd.Env = append(os.Environ(), inNetwork+"="+bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("the pass took")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// run makes the network, sends letters, mends it, and makes another pass.
func (n network) run(t *testing.T, bin, transport string) {
	w := &remote{world: &world{t: t, dir: filepath.Join(t.TempDir(), "spool")}, bin: bin}
	w.build(n, transport)
	for i := range 6 {
		size := 100
		if i == 1 {
			size = 40 << 10
		}
		if n.tc != "" {
			size = 100
		}
		w.write(i, size, fmt.Sprintf("r%d@mx.example", i))
	}
	w.submit()
	for _, rule := range n.rules {
		w.must("nft", "add", "rule", "inet", "fault", "in", strings.ReplaceAll(rule, "DNS", w.dnsPort))
	}
	if n.tc != "" {
		w.must("ip", "link", "set", "lo", "mtu", "1500")
		w.must("sh", "-c", "tc qdisc add dev lo root "+n.tc)
	}
	start := time.Now()
	w.pass()
	t.Logf("the pass took %v", time.Since(start).Round(100*time.Millisecond))
	for rcpt, f := range w.judge(1, verdict{taken: w.taken(), refused: none}) {
		if n.wants == arrives && f.sent == 0 || n.wants == defers && (f.sent > 0 || !f.waiting) || n.wants == untried && f.sent > 0 {
			t.Errorf("%s: %+v, want it %s", rcpt, *f, n.wants)
		}
	}
	if n.wants == untried {
		w.wantUntried()
	}
	w.must("nft", "flush", "chain", "inet", "fault", "in")
	if n.tc != "" {
		w.must("tc", "qdisc", "del", "dev", "lo", "root")
	}
	if n.absent {
		w.appear()
	}
	if n.proxy != nil {
		w.serve = relay
	}
	w.pass("--now")
	w.judgeAll(2, verdict{taken: w.taken(), refused: none})
}

// A remote is a world whose engine is our programs.
type remote struct {
	*world
	bin, config string
	dnsPort     string
	servers     []*smtptest.Server
	serve       func(net.Conn) // of the proxy, if there is one
}

// build makes the network without its faults.
func (w *remote) build(n network, transport string) {
	w.t.Helper()
	w.must("ip", "link", "set", "lo", "up")
	for name, value := range map[string]string{"tcp_syn_retries": "2", "tcp_retries2": "4"} { // it is not that the kernel's patience is tested
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	if !n.absent {
		w.appear()
	}
	w.must("nft", "add", "table", "inet", "fault")
	w.must("nft", "add chain inet fault in { type filter hook input priority 0; }")
	zone := []string{"mx.example. 60 IN MX 1 host.mx.example."}
	if strings.Contains(n.hosts, "4") {
		zone = append(zone, "host.mx.example. 60 IN A 198.51.100.1")
	}
	if strings.Contains(n.hosts, "6") {
		zone = append(zone, "host.mx.example. 60 IN AAAA 2001:db8::1")
	}
	names := dnstest.NewServer(w.t, zone...)
	_, w.dnsPort, _ = strings.Cut(names.Addr(), ":")
	dir := filepath.Dir(w.dir)
	socks := ""
	if n.proxy != nil {
		w.serve = n.proxy
		socks = fmt.Sprintf("socks = %q\n", "socks5://"+w.startProxy())
	}
	w.config = filepath.Join(dir, "postrider.toml")
	settings := fmt.Sprintf(`spool = %q
hostname = "here.example"
log = "stderr"
delivery = "queue"
aliases = ""
resolvers = [%q]
[transport.out]
%s[[route]]
transport = "out"
`, w.dir, names.Addr(), transport+socks)
	if err := os.WriteFile(w.config, []byte(settings), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := spool.Create(w.dir); err != nil {
		w.t.Fatal(err)
	}
}

// appear gives the network its hosts.
func (w *remote) appear() {
	w.t.Helper()
	w.must("ip", "addr", "add", "198.51.100.1/32", "dev", "lo")
	w.must("ip", "addr", "add", "2001:db8::1/128", "dev", "lo", "nodad")
	for _, addr := range []string{"198.51.100.1:2525", "[2001:db8::1]:2525"} {
		w.servers = append(w.servers, smtptest.NewServer(w.t, smtptest.Options{Addr: addr, Extensions: []string{"PIPELINING", "CHUNKING", "8BITMIME"}}))
	}
}

func (w *remote) must(name string, args ...string) {
	w.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		w.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// submit calls sendmail.
func (w *remote) submit() {
	w.t.Helper()
	for i := range w.letters {
		l := &w.letters[i]
		l.content = fmt.Sprintf("To: someone@mx.example\r\nDate: Mon, 2 Feb 2026 10:00:00 +0000\r\nMessage-ID: <%s>\r\n%s", l.sender, l.content)
		cmd := exec.Command(filepath.Join(w.bin, "sendmail"), append([]string{"-C", w.config, "-i", "-f", l.sender}, l.rcpts...)...)
		cmd.Stdin = strings.NewReader(l.content)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			w.t.Fatalf("sendmail: %v\n%s", err, out)
		}
	}
}

// longestPass is how long a pass may take: as long as a server has for the answer to a message, and some more.
const longestPass = 12 * time.Minute

// pass calls queue-runner, which ends by itself.
func (w *remote) pass(args ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), longestPass)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(w.bin, "queue-runner"), append([]string{"-C", w.config}, args...)...).CombinedOutput()
	w.log = append(w.log, strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")...)
	if err != nil {
		w.t.Fatalf("queue-runner: %v, %v\n%s", err, ctx.Err(), out)
	}
}

func (w *remote) taken() (all []smtptest.Message) {
	for _, s := range w.servers {
		all = append(all, s.Messages()...)
	}
	return all
}

// wantUntried complains of attempts that were counted.
func (w *remote) wantUntried() {
	w.t.Helper()
	for e, err := range spool.List(w.dir) {
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range e.Recipients {
			if r.Attempts > 0 {
				w.t.Errorf("%s: an attempt was counted: %s", r.Path.Address(), r.Reason)
			}
		}
	}
}

// startProxy starts a SOCKS proxy that serves as it is told to.
func (w *remote) startProxy() string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				w.serve(conn)
			}()
		}
	}()
	return l.Addr().String()
}

// swallow reads and says nothing.
func swallow(client net.Conn) { _, _ = io.Copy(io.Discard, client) }

// relay is a sound proxy.
func relay(client net.Conn) { relayWith(client, func(p []byte) []byte { return p }) }

// slowly takes its time for each part.
func slowly(client net.Conn) {
	relayWith(client, func(p []byte) []byte {
		time.Sleep(100 * time.Millisecond)
		return p
	})
}

// briefly hangs up after some kilobytes.
func briefly(client net.Conn) {
	left := 2 << 10
	relayWith(client, func(p []byte) []byte {
		if left -= len(p); left < 0 {
			return nil
		}
		return p
	})
}

// relayWith connects to the one server that there is, whatever it is asked for (RFC 1928), and passes on what each part
// becomes; nil ends that.
func relayWith(client net.Conn, part func([]byte) []byte) {
	var greeting, request [64]byte
	if _, err := client.Read(greeting[:]); err != nil {
		return
	}
	_, err := client.Write([]byte{5, 0})
	if _, readErr := client.Read(request[:]); err != nil || readErr != nil {
		return
	}
	server, err := net.Dial("tcp", "198.51.100.1:2525")
	if err != nil {
		return
	}
	defer server.Close()
	if _, err := client.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		return
	}
	go func() {
		defer client.Close()
		_, _ = io.Copy(client, server)
	}()
	b := make([]byte, 1<<10)
	for {
		n, err := client.Read(b)
		if err != nil {
			return
		}
		p := part(b[:n])
		if p == nil {
			return
		}
		if _, err := server.Write(p); err != nil {
			return
		}
	}
}
