package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
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
		in := &intake{peers: tt.peers, users: tt.users, open: true}
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
		in := &intake{open: tt.open, users: tt.users}
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

// One client does not take what others need, and nothing is remembered of those who have gone.
func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShares(2)
		ctx := t.Context()
		start := time.Now()
		for range 2 {
			if !s.take(ctx, "ann", 0) {
				t.Error("ann does not get what is hers")
			}
		}
		if s.take(ctx, "ann", 0) || s.take(ctx, "ann", time.Minute) || time.Since(start) != time.Minute {
			t.Errorf("ann got three, or an answer after %v", time.Since(start))
		}
		if !s.take(ctx, "bob", 0) {
			t.Error("bob does not get what is his")
		}
		got := make(chan bool)
		go func() { got <- s.take(ctx, "ann", time.Minute) }()
		time.Sleep(time.Second)
		s.give("ann")
		if !<-got || time.Since(start) != time.Minute+time.Second {
			t.Errorf("ann waited until %v", time.Since(start))
		}
		ended, end := context.WithCancel(ctx)
		end()
		if s.take(ended, "ann", time.Hour) {
			t.Error("ann got one after the end")
		}
		for _, who := range []string{"ann", "ann", "bob"} {
			s.give(who)
		}
		if len(s.of) > 0 {
			t.Errorf("%d clients are remembered", len(s.of))
		}
	})
}
