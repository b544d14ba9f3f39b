package smtp

import (
	"testing"
	"time"
)

func TestAddressesOfANameAreAsPeopleWriteThem(t *testing.T) {
	s := &Server{Host: "localhost", Timeouts: Timeouts{Connect: time.Minute}}
	addrs, failed := s.resolve(t.Context())
	if failed != nil {
		t.Fatal(failed.Reply)
	}
	for _, addr := range addrs {
		if addr.Is4In6() {
			t.Errorf("localhost is %v, want %v", addr, addr.Unmap())
		}
	}
}
