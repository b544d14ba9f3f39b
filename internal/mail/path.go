package mail

import (
	"errors"
	"fmt"
	"strings"
)

// A Path is a mailbox as it stands in an envelope, local-part@domain, without the angle brackets of RFC 5321 section
// 4.1.2. It holds no control characters, so it can be written to a command, a header field or a log line as it is.
// Its zero value is the null reverse-path, <>.
type Path struct{ addr string }

// NullSender is the reverse-path of bounces: what comes from it is never answered (RFC 5321 section 4.5.5).
var NullSender Path

// maxPath is how long a path may be. RFC 5321 section 4.5.3.1.3 names 256; long verp senders exceed it, and some
// servers take them, so the server of the next hop is left to judge anything below this.
const maxPath = 1024

// ErrControl is the error for an address with a control character: one that could end a command or a line.
var ErrControl = errors.New("control character in address")

// ParsePath returns the path that addr spells; "" and "<>" are the null sender. One pair of angle brackets is removed.
// The address is otherwise kept byte for byte: only what could be mistaken for the end of a command, and what cannot be
// an address at all, is refused.
func ParsePath(addr string) (Path, error) {
	addr = strings.TrimSpace(addr)
	if strings.HasPrefix(addr, "<") && strings.HasSuffix(addr, ">") {
		addr = addr[1 : len(addr)-1]
	}
	if len(addr) > maxPath {
		return Path{}, fmt.Errorf("address of %d octets; at most %d are allowed", len(addr), maxPath)
	}
	for i := range len(addr) {
		if addr[i] < ' ' || addr[i] == 0x7f || isC1(addr[i:]) {
			return Path{}, ErrControl
		}
	}
	if _, _, err := split(addr); err != nil {
		return Path{}, err
	}
	return Path{addr}, nil
}

// isC1 reports whether s begins with a control character beyond ASCII, U+0080 to U+009F, in UTF-8. Terminals obey some.
func isC1(s string) bool { return len(s) > 1 && s[0] == 0xc2 && 0x80 <= s[1] && s[1] <= 0x9f }

// split finds the last @ outside quotes. It refuses angle brackets and blanks outside quotes, which would end the
// argument of MAIL or RCPT.
func split(addr string) (local, domain string, err error) {
	at, quoted := -1, false
	for i := 0; i < len(addr); i++ {
		switch c := addr[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '@':
			at = i
		case c == '<' || c == '>' || c == ' ':
			return "", "", fmt.Errorf("%q in address %q", c, addr)
		}
	}
	if quoted {
		return "", "", fmt.Errorf("unbalanced quote in address %q", addr)
	}
	if at < 0 {
		return addr, "", nil
	}
	if addr[0] == '@' { // alone, or before another one, where it would be read as a source route
		return "", "", fmt.Errorf("no local part in address %q", addr)
	}
	if at == len(addr)-1 {
		return "", "", fmt.Errorf("no domain in address %q", addr)
	}
	return addr[:at], addr[at+1:], nil
}

// IsNull reports whether p is the null sender.
func (p Path) IsNull() bool { return p.addr == "" }

// Address returns the path without angle brackets; "" for the null sender.
func (p Path) Address() string { return p.addr }

// String returns the path in angle brackets, as MAIL and RCPT want it.
func (p Path) String() string { return "<" + p.addr + ">" }

// Local returns the local part as written, quotes included.
func (p Path) Local() string {
	local, _, _ := split(p.addr)
	return local
}

// Domain returns the domain in lower case, or "" for a bare name.
func (p Path) Domain() string {
	_, domain, _ := split(p.addr)
	return strings.ToLower(domain)
}

// IsASCII reports whether every octet of the path is ASCII. A path that is not needs SMTPUTF8 (RFC 6531).
func (p Path) IsASCII() bool {
	for i := range len(p.addr) {
		if p.addr[i] >= 0x80 {
			return false
		}
	}
	return true
}
