package mail

import (
	"errors"
	"fmt"
	"strings"
)

// ParseNotify reads the value of NOTIFY, in any case: NEVER alone, or a list of SUCCESS, FAILURE and DELAY.
func ParseNotify(s string) (Notify, error) {
	var n Notify
	for word := range strings.SplitSeq(strings.ToUpper(s), ",") {
		bit := Notify(0)
		for _, w := range notifyWords {
			if w.word == strings.TrimSpace(word) {
				bit = w.bit
			}
		}
		if bit == 0 {
			return 0, fmt.Errorf("%q is none of never, success, failure, delay", word)
		}
		n |= bit
	}
	if n&NotifyNever != 0 && n != NotifyNever {
		return 0, fmt.Errorf("never stands alone, not in %q", s)
	}
	return n, nil
}

// ParseReturn reads the value of RET, in any case.
func ParseReturn(s string) (Return, error) {
	switch strings.ToUpper(s) {
	case "FULL":
		return ReturnFull, nil
	case "HDRS":
		return ReturnHeaders, nil
	}
	return ReturnDefault, fmt.Errorf("%q is neither full nor hdrs", s)
}

// AppendText appends the recipient as text on one line, "notify=LIST orcpt=TYPE;XTEXT expanded=yes <address>" without what
// is not set.
func (r Recipient) AppendText(b []byte) []byte {
	if r.Notify != 0 {
		b = fmt.Appendf(b, "notify=%s ", r.Notify)
	}
	if r.Original != "" {
		b = fmt.Appendf(b, "orcpt=%s ", r.Original)
	}
	if r.Expanded {
		b = append(b, "expanded=yes "...)
	}
	return append(b, r.Path.String()...)
}

// ParseRecipient reads what AppendText writes. It trusts nothing.
func ParseRecipient(s string) (r Recipient, err error) {
	for !strings.HasPrefix(s, "<") {
		word, rest, ok := strings.Cut(s, " ")
		if !ok {
			return r, errors.New("recipient without address")
		}
		key, v, _ := strings.Cut(word, "=")
		switch key {
		case "notify":
			r.Notify, err = ParseNotify(v)
		case "orcpt":
			r.Original, err = v, checkOriginal(v)
		case "expanded":
			r.Expanded = true
		default:
			err = errors.New("unknown parameter")
		}
		if err != nil {
			return r, err
		}
		s = rest
	}
	r.Path, err = ParseBracketed(s)
	if err == nil && r.Path.IsNull() {
		err = errors.New("null recipient")
	}
	return r, err
}

// checkOriginal accepts what RCPT may carry after ORCPT=: printable octets without blanks.
func checkOriginal(s string) error {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return ErrControl
		}
	}
	return nil
}

// ParseBracketed returns the path that s spells, which must stand in angle brackets.
func ParseBracketed(s string) (Path, error) {
	if len(s) < 2 || s[0] != '<' || s[len(s)-1] != '>' {
		return Path{}, errors.New("address not in angle brackets")
	}
	return ParsePath(s)
}

// EncodeXtext returns s as xtext (RFC 3461 section 4): octets that could end a parameter become +HH.
func EncodeXtext(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < '!' || c > '~' || c == '+' || c == '=' {
			fmt.Fprintf(&b, "+%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// DecodeXtext returns what xtext stands for. It is an error if s is not xtext.
func DecodeXtext(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < '!' || c > '~' || c == '=' {
			return "", fmt.Errorf("%q is not xtext", s)
		}
		if c != '+' {
			b.WriteByte(c)
			continue
		}
		if i+2 >= len(s) {
			return "", fmt.Errorf("%q is not xtext", s)
		}
		hi, lo := strings.IndexByte("0123456789ABCDEF", s[i+1]), strings.IndexByte("0123456789ABCDEF", s[i+2])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("%q is not xtext", s)
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	return b.String(), nil
}
