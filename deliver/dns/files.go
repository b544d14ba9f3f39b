package dns

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// resolvConf is what resolv.conf(5) says.
type resolvConf struct {
	servers  []string // "192.0.2.53:53"
	search   []string // domains, in lower case
	timeout  time.Duration
	attempts int
	tcp      bool
	trustAD  bool // the servers, and the way to them, are trusted with DNSSEC
}

// trusts reports whether a server is believed what it says of DNSSEC: nobody stands between us and one on this host.
func (c resolvConf) trusts(server string) bool {
	addr, err := netip.ParseAddrPort(server)
	return c.trustAD || err == nil && addr.Addr().Unmap().IsLoopback()
}

// Bounds of resolv.conf(5).
const (
	maxServers  = 3
	maxSearch   = 6
	maxTimeout  = 30 * time.Second
	maxAttempts = 5
)

// parseResolvConf reads the file; one that is missing is empty, and what is empty means a name server on this host.
func parseResolvConf(data []byte) resolvConf {
	c := resolvConf{timeout: 5 * time.Second, attempts: 2}
	for line := range strings.Lines(string(data)) {
		if i := strings.IndexAny(line, "#;"); i == 0 {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if _, err := netip.ParseAddr(f[1]); err == nil && len(c.servers) < maxServers {
				c.servers = append(c.servers, net.JoinHostPort(f[1], "53"))
			}
		case "domain", "search":
			c.search = nil
			for _, domain := range f[1:min(len(f), maxSearch+1)] {
				if domain = strings.ToLower(strings.Trim(domain, ".")); isHost(domain) {
					c.search = append(c.search, domain)
				}
			}
		case "options":
			for _, option := range f[1:] {
				c.option(option)
			}
		}
	}
	if len(c.servers) == 0 {
		c.servers = []string{"127.0.0.1:53", "[::1]:53"}
	}
	return c
}

// option takes one of the options that concern us.
func (c *resolvConf) option(s string) {
	name, value, _ := strings.Cut(s, ":")
	n, err := strconv.Atoi(value)
	switch {
	case name == "use-vc":
		c.tcp = true
	case name == "trust-ad":
		c.trustAD = true
	case name == "timeout" && err == nil && n > 0:
		c.timeout = min(time.Duration(n)*time.Second, maxTimeout)
	case name == "attempts" && err == nil && n > 0:
		c.attempts = min(n, maxAttempts)
	}
}

// hosts is what hosts(5) says: addresses by name, in lower case.
type hosts map[string][]netip.Addr

func parseHosts(data []byte) hosts {
	h := hosts{}
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(strings.ToLower(line))
		if len(f) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(f[0])
		if err != nil {
			continue
		}
		for _, name := range f[1:] {
			name = strings.TrimSuffix(name, ".")
			h[name] = append(h[name], addr.Unmap())
		}
	}
	return h
}

// A watched is a file that may change while we run: a laptop comes into another network.
type watched[T any] struct {
	path  string
	parse func([]byte) T

	mu     sync.Mutex
	looked time.Time
	read   bool
	was    []byte
	value  T
}

// lookAgain is how long a file is taken to be as it was.
const lookAgain = 5 * time.Second

// maxFile keeps a wrong name from filling the memory.
const maxFile = 1 << 20

func (w *watched[T]) get(now time.Time) T {
	w.mu.Lock()
	defer w.mu.Unlock()
	if age := now.Sub(w.looked); w.read && age >= 0 && age < lookAgain {
		return w.value
	}
	data := readFile(w.path)
	if !w.read || !bytes.Equal(data, w.was) {
		w.value = w.parse(data)
	}
	w.read, w.looked, w.was = true, now, data
	return w.value
}

// readFile returns what a file has, and nothing if it cannot be read: there is a default for that.
func readFile(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close() // only read: closing cannot lose anything
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil
	}
	return data
}
