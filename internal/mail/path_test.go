package mail

import (
	"errors"
	"testing"
)

func TestParsePathRefusesControls(t *testing.T) {
	for addr, refused := range map[string]bool{
		"a\rb@x": true, "a\x00@x": true, "a\x7f@x": true, "a@x\n.y": true,
		"a\u0080@x": true, "\u009b31m@x": true, "a@x\u009f": true, "\"\u0085\"@x": true,
		"a\u00a0@x": false, "J\u00f6rg@x": false, "a\u0400@x": false, "\xc2@x": false, "a\x9b@x": false,
	} {
		if _, err := ParsePath(addr); errors.Is(err, ErrControl) != refused || err != nil && !refused {
			t.Errorf("ParsePath(%q) = %v, want refused %t", addr, err, refused)
		}
	}
}
