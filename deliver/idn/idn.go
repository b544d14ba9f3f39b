// Package idn gives internationalized domains the form that DNS and every server know: A-labels (RFC 5890).
package idn

import (
	"fmt"
	"unicode/utf8"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/net/idna"
)

// The rules for names that are looked up (RFC 5891 section 5), with the mappings that people rely on (UTS 46): capital
// letters, other dots. They are strict about ASCII: the mappings could otherwise make a delimiter out of a wide one.
var profile = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false), idna.VerifyDNSLength(true))

// Domain returns a domain in A-labels. One that is ASCII is returned as it is, whatever it says; the error is for one
// that has no such form.
func Domain(domain string) (string, error) {
	if isASCII(domain) {
		return domain, nil
	}
	if !utf8.ValidString(domain) {
		return "", fmt.Errorf("%q is not UTF-8", domain)
	}
	a, err := profile.ToASCII(domain)
	if err != nil {
		return "", fmt.Errorf("%q is not a domain: %w", domain, err)
	}
	return a, nil
}

// Path returns the path with its domain in A-labels, which needs no SMTPUTF8. It returns a path as it is if that has a
// local part beyond ASCII, which no other form exists for (RFC 6531 section 3.2), or a domain that has no such form.
func Path(p mail.Path) mail.Path {
	if p.IsASCII() || !isASCII(p.Local()) {
		return p
	}
	domain, err := Domain(p.Domain())
	if err != nil {
		return p
	}
	a, err := mail.ParsePath(p.Local() + "@" + domain)
	if err != nil {
		return p
	}
	return a
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
