package config

import (
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

func (s *settings) readListen(v *node) error {
	if err := v.isTable("[listen]"); err != nil {
		return err
	}
	if err := read(s.doc, v, "listen.", &s.Listen, listenKeys); err != nil {
		return err
	}
	if len(s.Listen.Peers) > 0 {
		return nil
	}
	for i, e := range s.Listen.SMTP {
		if e.Network == "unix" || netip.MustParseAddrPort(e.Address).Addr().IsLoopback() {
			continue
		}
		item := v.values["smtp"].items[i]
		return s.doc.errorAt(item.offset, "listen.smtp: found %s, which other hosts can reach; expected an address like \"127.0.0.1:25\", or peers to say which hosts may", item.describe())
	}
	return nil
}

// endpoints takes a list of addresses to listen on. Names would have to be looked up, and could become others.
func (n *node) endpoints(to *[]Endpoint) error {
	return n.each(`a list such as ["127.0.0.1:25", "[::1]:25", "unix:/run/postrider/smtp"]`, func(item *node) error {
		if path, ok := strings.CutPrefix(item.text, "unix:"); ok {
			if !isPath(path) {
				return item.want(`an absolute path after unix:, as in "unix:/run/postrider/smtp"`)
			}
			*to = append(*to, Endpoint{"unix", filepath.Clean(path)})
			return nil
		}
		a, err := netip.ParseAddrPort(item.text)
		if err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
			return item.want(`an IP address and a port as in "127.0.0.1:25" or "[::1]:25", or "unix:" and a path`)
		}
		*to = append(*to, Endpoint{"tcp", a.String()})
		return nil
	})
}

// widest is how many bits of a network have to be given: who means everybody has made a mistake.
const widest = 8

// networks takes a list of IP addresses and networks.
func (n *node) networks(to *[]string) error {
	return n.each(`a list such as ["192.0.2.7", "192.0.2.0/24", "2001:db8::/32"]`, func(item *node) error {
		p, err := netip.ParsePrefix(item.text)
		if a, errAddr := netip.ParseAddr(item.text); errAddr == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || p.Bits() < widest {
			return item.want(`an IP address, or a network not as wide as that, as in "192.0.2.0/24"`)
		}
		*to = append(*to, p.Masked().String())
		return nil
	})
}

// users takes a list of login names and user IDs.
func (n *node) users(to *[]string) error {
	*to = []string{}
	return n.each(`a list such as ["www-data", "1000"]`, func(item *node) error {
		if item.text == "" || strings.ContainsFunc(item.text, func(r rune) bool { return isControl(r) || r == ':' || r == ' ' }) {
			return item.want(`a login name or a user ID in quotes`)
		}
		*to = append(*to, item.text)
		return nil
	})
}

// each goes through a list of strings.
func (n *node) each(want string, f func(item *node) error) error {
	if n.kind != unstable.Array {
		return n.want(want)
	}
	for _, item := range n.items {
		if item.kind != unstable.String {
			return item.want("a string in quotes")
		}
		if err := f(item); err != nil {
			return err
		}
	}
	return nil
}
