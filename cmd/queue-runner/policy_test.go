package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/dnstest"
	"github.com/postrider/postrider/internal/smtptest"
)

// startSocks runs a SOCKS5 proxy (RFC 1928) for which all that is on the web, at port 443, is one server. It returns its
// address, and what it was asked for.
func startSocks(t *testing.T, web string) (address string, asked func() []string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var list []string
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				to, err := readSocks(conn)
				if err != nil {
					t.Errorf("SOCKS client: %v", err)
					return
				}
				mu.Lock()
				list = append(list, to)
				mu.Unlock()
				if strings.HasSuffix(to, ":443") {
					to = web
				}
				if err := connect(conn, to); err != nil {
					t.Errorf("SOCKS: %v", err)
				}
			})
		}
	})
	return l.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(list)
	}
}

// readSocks returns what a client wants to be connected to, by name or IPv4 address.
func readSocks(conn net.Conn) (to string, err error) {
	read := func(n int) []byte {
		b := make([]byte, n)
		if err == nil {
			_, err = io.ReadFull(conn, b)
		}
		return b
	}
	read(int(read(2)[1])) // whatever way of logging in: none is needed
	if _, err := conn.Write([]byte{5, 0}); err != nil {
		return "", err
	}
	const byName = 3
	if read(4)[3] == byName {
		to = string(read(int(read(1)[0])))
	} else {
		to = net.IP(read(4)).String()
	}
	return fmt.Sprintf("%s:%d", to, binary.BigEndian.Uint16(read(2))), err
}

func connect(client net.Conn, to string) error {
	server, err := net.Dial("tcp", to)
	if err != nil {
		return err
	}
	if _, err := client.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(server, client) // either side may hang up
		server.Close()
	}()
	_, _ = io.Copy(client, server)
	return nil
}

// TestPolicyOfADomain has a domain whose policy (MTA-STS) names only the second of its hosts. It is fetched by way of the
// transport's proxy, and known to the next pass.
func TestPolicyOfADomain(t *testing.T) {
	servers, port := samePort(t, smtptest.Options{Hostname: "good.a.example", Certificate: smtptest.Valid}, smtptest.Options{Hostname: "other.a.example"})
	site := smtptest.NewServer(t, smtptest.Options{Hostname: "mta-sts.a.example", Certificate: smtptest.Valid})
	var fetched atomic.Int32
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "version: STSv1\r\nmode: enforce\r\nmx: good.a.example\r\nmax_age: 86400\r\n") // the client tells
	}))
	web.TLS, web.Config.ErrorLog = site.TLS().Clone(), log.New(io.Discard, "", 0)
	web.StartTLS()
	defer web.Close()
	proxy, asked := startSocks(t, web.Listener.Addr().String())
	dns := dnstest.NewServer(t,
		"a.example. 60 IN MX 5 other.a.example.", "other.a.example. 60 IN A 127.0.0.3",
		"a.example. 60 IN MX 10 good.a.example.", "good.a.example. 60 IN A 127.0.0.2",
		`_mta-sts.a.example. 60 IN TXT "v=STSv1; id=1;"`,
	)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, append(servers[0].CertPEM(), site.CertPEM()...), 0o644); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, strings.Replace(overMX(dns, port), "[[route]]", fmt.Sprintf("ca_file = %q\nsocks = \"socks5://%s\"\n[[route]]", ca, proxy), 1))
	for range 2 {
		w.submit("bob@a.example")
		w.pass()
	}
	w.wantLog(fmt.Sprintf("to=<bob@a.example>, relay=good.a.example[127.0.0.2]:%d, tls=TLS1.3/verified/sts, ", port))
	if n := len(servers[0].Messages()); n != 2 || servers[1].Connections() != 0 || fetched.Load() != 1 {
		t.Errorf("%d messages, %d connections to a host that is not named, the policy was fetched %d times\n%s", n, servers[1].Connections(), fetched.Load(), w.log)
	}
	if list := asked(); !slices.Contains(list, "mta-sts.a.example:443") {
		t.Errorf("the proxy was asked for %q", list)
	}
}

// TestWebByAddress connects to a web server by way of our name servers.
func TestWebByAddress(t *testing.T) {
	servers, port := samePort(t, smtptest.Options{})
	dns := dnstest.NewServer(t, "mta-sts.a.example. 60 IN A 127.0.0.9", "mta-sts.a.example. 60 IN A 127.0.0.2", "mta-sts.b.example. 60 IN A 127.0.0.9")
	w := newWorld(t, overMX(dns, port))
	cfg, err := config.Load(w.config)
	if err != nil {
		t.Fatal(err)
	}
	dial := outfit{cfg: cfg, dns: newResolver(cfg)}.web(cfg.Transports["mx"])
	conn, err := dial(t.Context(), "tcp", fmt.Sprintf("mta-sts.a.example:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 1)) // it greets when it has counted
	if err := errors.Join(err, conn.Close()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mta-sts.b.example", "mta-sts.c.example"} {
		if conn, err := dial(t.Context(), "tcp", fmt.Sprintf("%s:%d", name, port)); err == nil {
			t.Errorf("%s is connected to %v", name, conn.RemoteAddr())
		}
	}
	if n := servers[0].Connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}
