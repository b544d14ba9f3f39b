package mail

import (
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
