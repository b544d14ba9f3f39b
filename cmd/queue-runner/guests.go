package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/listen"
	"github.com/postrider/postrider/internal/submit"
	"github.com/postrider/postrider/internal/submitd"
)

// A client is who is at the other end of a connection.
type client struct {
	uid   int        // of a unix socket; -1 if unknown
	addr  netip.Addr // of a TCP connection
	here  bool       // which comes from this host
	login string     // the name that he has logged in with; "" if he has not
}

// String returns what a log calls the client.
func (c client) String() string {
	if c.uid >= 0 {
		return fmt.Sprintf("userid %d", c.uid)
	}
	return c.addr.String()
}

// local reports whether nothing that the client says goes over a wire.
func (c client) local() bool { return c.uid >= 0 || c.here }

// urgent reports whether the client's messages may go before those of others, where the owner of the spool has this user
// ID.
func (c client) urgent(owner int) bool { return c.uid == 0 || c.uid > 0 && c.uid == owner }

// key tells clients apart who share what there is. Addresses that one client can have as many of as he likes are one: of
// this host all, and of an IPv6 network what one host is given.
func (c client) key() string {
	const network = 64
	switch {
	case c.uid >= 0:
	case c.here:
		return "this host"
	case c.addr.Is6():
		return netip.PrefixFrom(c.addr, network).Masked().String()
	}
	return c.String()
}

// literal returns the address as it stands in mail (RFC 5321 section 4.1.3); "" if there is none.
func (c client) literal() string {
	switch {
	case !c.addr.IsValid():
		return ""
	case c.addr.Is4():
		return "[" + c.addr.String() + "]"
	}
	return "[IPv6:" + c.addr.String() + "]"
}

// author is who is named in a message that does not say it.
func (c client) author() submit.Author {
	if c.uid >= 0 {
		return submit.AuthorOf(c.uid)
	}
	return submit.Author{Login: "postmaster"}
}

func identify(conn net.Conn) (client, error) {
	switch conn := conn.(type) {
	case *net.UnixConn:
		uid, err := submitd.PeerUID(conn)
		return client{uid: uid, here: true}, err
	case *net.TCPConn:
		return overTCP(conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(), conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr()), nil
	}
	return client{}, fmt.Errorf("%T is no connection of a client", conn)
}

// overTCP returns the client at the remote address of a connection. An IPv4 address is one, whatever the socket is.
func overTCP(remote, local netip.Addr) client {
	remote, local = remote.Unmap().WithZone(""), local.Unmap().WithZone("")
	return client{uid: -1, addr: remote, here: remote.IsLoopback() || remote == local}
}

// guests are who may hand in mail.
type guests struct {
	secrets
	peers []netip.Prefix
	open  bool         // unix sockets are for all users; else for our own, root, and those who are named
	users map[int]bool // who may speak SMTP at a unix socket, as configured; nil: nothing is
}

// newGuests reads from the configuration who they are. service says that who started us did so for the whole machine,
// whoever we are.
func newGuests(cfg *config.Config, service bool) (g guests, err error) {
	table, err := listen.Of(cfg)
	if err != nil {
		return g, err
	}
	g.secrets, g.peers, g.open = secretsOf(table), table.Peers, service || isService()
	g.users, err = userIDs(table.Users)
	return g, err
}

// isService reports whether we run as one of those who deliver for the whole machine. Others have a spool of their own, and
// a relay that knows them by their password: their mail is nobody else's.
func isService() bool {
	u, ok := submit.UserNamed(account)
	return os.Geteuid() == 0 || ok && os.Geteuid() == u.UID
}

// userIDs looks up who may connect: root always.
func userIDs(names []string) (map[int]bool, error) {
	if names == nil {
		return nil, nil
	}
	ids := map[int]bool{0: true}
	for _, name := range names {
		uid, err := strconv.Atoi(name)
		if err != nil {
			u, ok := submit.UserNamed(name)
			if !ok {
				return nil, &config.Error{File: "listen.users", Text: fmt.Sprintf("there is no user %q", name)}
			}
			uid = u.UID
		}
		ids[uid] = true
	}
	return ids, nil
}

// maySpeak reports whether a client may hand in mail by SMTP: to anybody, and without a password.
func (g *guests) maySpeak(c client) bool {
	if c.uid >= 0 {
		return g.users[c.uid] || g.users == nil && g.mayHandIn(c)
	}
	for _, p := range g.peers {
		if p.Contains(c.addr) {
			return true
		}
	}
	return c.here
}

// mayHandIn reports whether a client may use the submission socket.
func (g *guests) mayHandIn(c client) bool {
	return g.open || c.uid == 0 || c.uid == os.Geteuid() || g.users[c.uid]
}
