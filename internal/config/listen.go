package config

import (
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
	if (s.Listen.Certificate == "") != (s.Listen.Key == "") {
		return s.doc.errorAt(v.at("certificate", "key"), "listen: certificate and key stand together, or not at all")
	}
	s.place(s.Listen.SMTP, v.values["smtp"])
	s.place(s.Listen.Peers, v.values["peers"])
	return nil
}

// place fills in where the strings of a list stand.
func (s *settings) place(list []Written, v *node) {
	for i := range list {
		at := s.doc.errorAt(v.items[i].offset, "")
		list[i].Line, list[i].Column = at.Line, at.Column
	}
}

// endpoints takes a list of addresses to listen on, as they are.
func (n *node) endpoints(to *[]Written) error {
	return n.written(to, `a list such as ["127.0.0.1:25", "[::1]:25", "unix:/run/postrider/smtp"]`)
}

// networks takes a list of IP addresses and networks, as they are.
func (n *node) networks(to *[]Written) error {
	return n.written(to, `a list such as ["192.0.2.7", "192.0.2.0/24", "2001:db8::/32"]`)
}

func (n *node) written(to *[]Written, want string) error {
	return n.each(want, func(item *node) error {
		*to = append(*to, Written{Text: item.text})
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
