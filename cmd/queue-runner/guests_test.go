package main

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// Whoever is let in may send mail to anywhere: nobody is, but programs of this host and those that are named.
func TestMaySpeak(t *testing.T) {
	peers := []netip.Prefix{netip.MustParsePrefix("192.0.2.64/28"), netip.MustParsePrefix("2001:db8::/32")}
	users := map[int]bool{0: true, 33: true}
	over := func(addr string, here bool) client {
		return client{uid: -1, addr: netip.MustParseAddr(addr), here: here}
	}
	user := func(uid int) client { return client{uid: uid, here: true} }
	for _, tt := range []struct {
		name  string
		who   client
		peers []netip.Prefix
		users map[int]bool
		want  bool
	}{
		{"this host", over("127.0.0.1", true), nil, nil, true},
		{"this host by IPv6", over("::1", true), nil, nil, true},
		{"this host at its own address", over("198.51.100.1", true), nil, nil, true},
		{"another host", over("192.0.2.65", false), nil, nil, false},
		{"another host by IPv6", over("2001:db8::1", false), nil, nil, false},
		{"a peer", over("192.0.2.65", false), peers, nil, true},
		{"a peer by IPv6", over("2001:db8::1", false), peers, nil, true},
		{"a neighbour of peers", over("192.0.2.80", false), peers, nil, false},
		{"a user", user(1000), nil, nil, true},
		{"a user who is named", user(33), peers, users, true},
		{"root", user(0), peers, users, true},
		{"a user who is not named", user(1000), peers, users, false},
		{"this host, whatever the users", over("127.0.0.1", true), nil, users, true},
	} {
		in := &guests{peers: tt.peers, users: tt.users, open: true}
		if got := in.maySpeak(tt.who); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Who runs a queue of his own does not send the mail of others, unless he says so.
func TestPrivateQueue(t *testing.T) {
	own, other := os.Geteuid(), 54321
	for _, tt := range []struct {
		name             string
		open             bool
		users            map[int]bool
		uid              int
		speak, submitted bool
	}{
		{"own", false, nil, own, true, true},
		{"root", false, nil, 0, true, true},
		{"another", false, nil, other, false, false},
		{"another who is named", false, map[int]bool{0: true, other: true}, other, true, true},
		{"another at a service", true, nil, other, true, true},
		{"another at a service, who is not named", true, map[int]bool{0: true}, other, false, true},
	} {
		in := &guests{open: tt.open, users: tt.users}
		who := client{uid: tt.uid, here: true}
		if speak, submitted := in.maySpeak(who), in.mayHandIn(who); speak != tt.speak || submitted != tt.submitted {
			t.Errorf("%s: SMTP %v, want %v; submission %v, want %v", tt.name, speak, tt.speak, submitted, tt.submitted)
		}
	}
}

func TestIdentify(t *testing.T) {
	for _, tt := range []struct{ network, address, literal string }{
		{"tcp", "127.0.0.1:0", "[127.0.0.1]"}, {"tcp", "[::1]:0", "[IPv6:::1]"}, {"unix", filepath.Join(t.TempDir(), "s"), ""},
	} {
		l, err := net.Listen(tt.network, tt.address)
		if err != nil {
			t.Logf("%s: %v", tt.address, err) // a machine without IPv6
			continue
		}
		defer l.Close()
		there, err := net.Dial(tt.network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer there.Close()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		c, err := identify(conn)
		if err != nil || c.literal() != tt.literal || !c.here || (c.uid == os.Getuid()) != (tt.network == "unix") {
			t.Errorf("%s: %+v, %q, %v", tt.address, c, c.literal(), err)
		}
	}
}

// Who has many addresses is one client, and shares with himself.
func TestClientsByKey(t *testing.T) {
	over := func(remote, local string) client {
		return overTCP(netip.MustParseAddr(remote), netip.MustParseAddr(local))
	}
	for _, tt := range []struct {
		name string
		a, b client
		same bool
	}{
		{"addresses of this host", over("127.0.0.1", "127.0.0.1"), over("127.9.9.9", "127.0.0.1"), true},
		{"this host, by IPv6 and by its own address", over("::1", "::1"), over("192.0.2.1", "192.0.2.1"), true},
		{"this host, at a socket for IPv6", over("127.0.0.1", "127.0.0.1"), over("::ffff:127.0.0.1", "::ffff:127.0.0.1"), true},
		{"other hosts", over("192.0.2.1", "192.0.2.9"), over("192.0.2.2", "192.0.2.9"), false},
		{"a host in a network of its own", over("2001:db8::1", "2001:db8:1::"), over("2001:db8::ffff:1", "2001:db8:1::"), true},
		{"two networks", over("2001:db8::1", "2001:db8:9::"), over("2001:db8:0:1::1", "2001:db8:9::"), false},
		{"two users", client{uid: 1, here: true}, client{uid: 2, here: true}, false},
		{"a user and an address", client{uid: 1, here: true}, over("127.0.0.1", "127.0.0.1"), false},
	} {
		if got := tt.a.key() == tt.b.key(); got != tt.same {
			t.Errorf("%s: %q, %q", tt.name, tt.a.key(), tt.b.key())
		}
	}
}
