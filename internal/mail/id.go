package mail

import (
	"fmt"
	"time"
)

// An ID is a queue ID: the name of a message in the spool, in log lines and in Received fields. It has 11 characters
// from [0-9A-Z], the first from [0-9A-F] (programs that read mailq expect so), and sorts by time of arrival.
type ID string

const (
	idLength = 11
	digits   = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	// salts is how many IDs share one microsecond; a random salt keeps apart messages that a clock set back, or two
	// processors, would give the same time. 16 salts leave room for microseconds until the year 2085.
	salts = 16
)

// MakeID returns the ID of a message that arrives at t. salt should be random. Two messages can still be given one ID;
// who creates the file must refuse a name that exists.
func MakeID(t time.Time, salt uint8) ID {
	n := uint64(max(t.UnixMicro(), 0))*salts + uint64(salt%salts)
	var b [idLength]byte
	for i := idLength - 1; i >= 0; i-- {
		b[i] = digits[n%36]
		n /= 36
	}
	return ID(b[:])
}

// ParseID returns the ID that s spells, or an error if it has not the form of one. File names from a directory that
// others can write to pass through here before they are used.
func ParseID(s string) (ID, error) {
	if len(s) != idLength || s[0] > 'F' {
		return "", fmt.Errorf("%q is not a queue ID", s)
	}
	for i := range len(s) {
		if !('0' <= s[i] && s[i] <= '9' || 'A' <= s[i] && s[i] <= 'Z') {
			return "", fmt.Errorf("%q is not a queue ID", s)
		}
	}
	return ID(s), nil
}

// Time returns the time of arrival that the ID was made from, to the microsecond.
func (id ID) Time() time.Time {
	var n uint64
	for i := range len(id) {
		d := uint64(id[i] - '0')
		if id[i] >= 'A' {
			d = uint64(id[i]-'A') + 10
		}
		n = n*36 + d
	}
	return time.UnixMicro(int64(n / salts))
}
