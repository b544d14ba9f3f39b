package submit

import (
	"slices"
	"strings"

	"github.com/postrider/postrider/internal/mail"
)

// Rewritten returns what becomes of the address of a sender, in the envelope and in From and Sender fields: a bare one
// gets the domain, and then it is replaced if the host has another one for it. The null sender stays what it is.
func (h *Host) Rewritten(p mail.Path) mail.Path {
	p = h.qualify(p)
	if p.IsNull() {
		return p
	}
	to := h.ForceFrom
	if to == "" {
		to = h.rule(p)
	}
	if strings.HasPrefix(to, "@") {
		to = p.Local() + to
	}
	rewritten, err := mail.ParsePath(to)
	if err != nil || rewritten.IsNull() {
		return p
	}
	return rewritten
}

// rule returns what Rewrite has for an address, "" if nothing: what says most about it counts.
func (h *Host) rule(p mail.Path) string {
	if len(h.Rewrite) == 0 {
		return ""
	}
	local, domain := strings.ToLower(p.Local()), p.Domain()
	if to, ok := h.Rewrite[local+"@"+domain]; ok {
		return to
	}
	if to, ok := h.Rewrite[local]; ok && h.isOwn(domain) {
		return to
	}
	if to, ok := h.Rewrite["@"+domain]; ok {
		return to
	}
	for found := true; found; _, domain, found = strings.Cut(domain, ".") {
		if to, ok := h.Rewrite["@."+domain]; ok {
			return to
		}
	}
	return ""
}

// isOwn reports whether addresses of a domain, which is in lower case, are those of this host's users.
func (h *Host) isOwn(domain string) bool {
	return domain == h.Domain || slices.Contains(h.Local, domain)
}

// writeFrom writes a From field with its addresses rewritten. What it was before, readers and answers may need.
func (m *mending) writeFrom(w *meter, f field) {
	w.fieldWithAddresses(f, m.host.Rewritten)
	if !f.resent {
		m.writeOriginal(w, string(f.value))
	}
}

// writeOriginal writes what a From field was whose addresses have been replaced. If that was done whatever they were,
// answers go to the author nevertheless, provided that he can be reached there.
func (m *mending) writeOriginal(w *meter, value string) {
	var authors []string
	replaced := false
	_ = mail.EachAddress(value, func(box mail.Mailbox) { // what is no address, nobody could answer to
		was := m.host.qualify(box.Path)
		replaced = replaced || m.host.Rewritten(was) != was
		if m.host.ForceFrom != "" && m.host.isRoutable(was) {
			authors = append(authors, strings.TrimSpace(box.Phrase+" "+was.String()))
		}
	})
	if !replaced {
		return
	}
	if !m.has[originalFromName][0] {
		w.field([]byte("X-Original-From: " + strings.TrimLeft(value, " \t") + "\r\n"))
	}
	if len(authors) > 0 && !m.has[replyToName][0] {
		w.field([]byte("Reply-To: " + strings.Join(authors, ",\r\n ") + "\r\n"))
	}
}

// isRoutable reports whether an answer to an address could arrive: not at a name of this host, nor at one that has a
// meaning only around it (RFC 6761, RFC 6762 and RFC 9476).
func (h *Host) isRoutable(p mail.Path) bool {
	domain := p.Domain()
	dot := strings.LastIndexByte(domain, '.')
	if dot < 0 || slices.Contains(h.Local, domain) {
		return false
	}
	switch domain[dot+1:] {
	case "localdomain", "localhost", "local", "lan", "home", "internal", "invalid", "test", "alt", "arpa", "onion":
		return false
	}
	return true
}

// hasAddress reports whether a From field has somebody in it.
func hasAddress(f field) bool {
	somebody := false
	_ = mail.EachAddress(string(f.value), func(box mail.Mailbox) { somebody = somebody || !box.Path.IsNull() })
	return somebody
}

// nameIn returns what may be the name in a From field without an address.
func nameIn(value []byte) string {
	name, _, _ := strings.Cut(string(value), "<")
	return strings.Trim(strings.ReplaceAll(name, "\r\n", ""), " \t\"")
}
