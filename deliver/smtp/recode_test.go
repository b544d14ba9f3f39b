package smtp

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// eightBitLetter is one with octets above 127 and a long line; recodedLetter is how it is sent to a server that takes
// no such octets.
var (
	longLine       = strings.Repeat("0123456789", 100)
	eightBitLetter = "Subject: hello\r\n\r\nGrüße aus Köln, nothing else\r\n.\r\n" + longLine + "\r\n"
	recodedLetter  = "Subject: hello\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" +
		"Gr=C3=BC=C3=9Fe aus K=C3=B6ln, nothing else\r\n=2E\r\n" + softBreaks(longLine) + "\r\n"
)

func softBreaks(s string) string {
	if len(s) <= 76 {
		return s
	}
	return s[:75] + "=\r\n" + softBreaks(s[75:])
}

func eightBit(t testing.TB, content string) *mail.Message {
	m := message(t, content, "bob@example.com")
	m.EightBit = true
	for line := range strings.SplitSeq(content, "\r\n") {
		m.LongestLine = max(m.LongestLine, len(line))
	}
	return m
}

// TestRecoding sends one message to servers of several kinds, one after the other: to each as it wants it.
func TestRecoding(t *testing.T) {
	short := strings.ReplaceAll(eightBitLetter, longLine, "short")
	recodedShort := strings.ReplaceAll(recodedLetter, softBreaks(longLine), "short")
	signed := "DKIM-Signature: x\r\n" + eightBitLetter
	for _, tt := range []struct {
		name    string
		offers  []string
		content string
		mail    string
		want    string
	}{
		{"8-bit to one that knows it", []string{"8BITMIME", "SIZE"}, short, fmt.Sprintf(" SIZE=%d BODY=8BITMIME", len(short)), short},
		{"8-bit to one that does not", []string{"SIZE"}, short, fmt.Sprintf(" SIZE=%d", len(recodedShort)), recodedShort},
		{"a long line, to one that knows 8-bit", []string{"8BITMIME", "SIZE"}, eightBitLetter, fmt.Sprintf(" SIZE=%d BODY=8BITMIME", len(recodedLetter)), recodedLetter},
		{"a long line, to one that does not", nil, eightBitLetter, "", recodedLetter},
		{"signed", []string{"SIZE"}, signed, fmt.Sprintf(" SIZE=%d", len(signed)), signed},
	} {
		for _, pipelining := range []bool{false, true} {
			if pipelining {
				tt.offers = append(tt.offers, "PIPELINING")
			}
			srv := smtptest.NewServer(t, smtptest.Options{Strict: true, Extensions: append([]string{}, tt.offers...)})
			s := open(t, client(srv))
			m := eightBit(t, tt.content)
			for range 2 {
				if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != "relayed" || !s.Usable() {
					t.Fatalf("%s: %s", tt.name, got)
				}
			}
			for _, got := range srv.Messages() {
				if string(got.Content) != tt.want {
					t.Errorf("%s: %q has arrived, want %q", tt.name, got.Content, tt.want)
				}
			}
			if got := srv.Commands()[2]; got != "MAIL FROM:<ann@example.org>"+tt.mail {
				t.Errorf("%s: sent %s, want %s", tt.name, got, tt.mail)
			}
			if log := s.Transcript(); !strings.Contains(log, fmt.Sprintf("(%d octets of content", len(tt.want))) {
				t.Errorf("%s: transcript %q", tt.name, log)
			}
		}
	}
}

func TestTooBigOnceRecoded(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Strict: true, Extensions: []string{fmt.Sprintf("SIZE %d", len(recodedLetter)-1)}})
	s := open(t, client(srv))
	m := eightBit(t, eightBitLetter)
	r := s.Deliver(t.Context(), m, all(m))[0]
	if outcome(r) != "failed of message, us says 5.3.4" || !strings.Contains(r.Reply.Text, fmt.Sprintf("of %d octets", len(recodedLetter))) {
		t.Errorf("%s (%s)", outcome(r), r.Reply)
	}
}

// unsteady is content that can be read so many times from its beginning to its end, and then only in part.
type unsteady struct {
	io.ReaderAt
	ends  int64
	times int
	after io.ReaderAt
}

func (u *unsteady) ReadAt(p []byte, off int64) (int, error) {
	r := u.ReaderAt
	if u.times < 0 {
		r = u.after
	}
	n, err := r.ReadAt(p, off)
	if off+int64(n) == u.ends {
		u.times--
	}
	return n, err
}

func TestRecodedContentThatCannotBeRead(t *testing.T) {
	content := "Subject: x\r\n\r\n" + strings.Repeat("äöü und noch mehr\r\n", 20_000)
	for _, tt := range []struct {
		name   string
		times  int // that it can be read: to survey and write it, to measure it first
		after  io.ReaderAt
		usable bool
	}{
		{"not even to measure it", -1, failingAt{strings.NewReader(content), 100_000}, true},
		{"not when it is sent", 2, failingAt{strings.NewReader(content), 100_000}, false},
		{"shorter than it was", 2, strings.NewReader(content[:100_000]), false},
	} {
		srv := smtptest.NewServer(t, smtptest.Options{Strict: true, Extensions: []string{"PIPELINING"}})
		s := open(t, client(srv))
		m := eightBit(t, content)
		m.Content = &unsteady{strings.NewReader(content), m.Size, tt.times, tt.after}
		got := s.Deliver(t.Context(), m, all(m))[0]
		if outcome(got) != "delayed of message, us says 4.3.0" || got.Relay != "" || s.Usable() != tt.usable {
			t.Errorf("%s: %s (%s, usable: %v)", tt.name, outcome(got), got.Reply, s.Usable())
		}
		s.Close()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if n := srv.Accepted(); n != 0 {
			t.Errorf("%s: %d messages have arrived", tt.name, n)
		}
	}
}

func TestAnswerBeforeTheEndOfRecodedContent(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{
		Extensions: []string{"PIPELINING"},
		Replies:    map[string]string{"DATA": smtptest.Raw + "354 go\r\n552 5.3.4 too big\r\n"},
	})
	s := open(t, client(srv))
	m := eightBit(t, eightBitLetter)
	if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != "failed of message, server says 5.3.4" || s.Usable() {
		t.Errorf("%s (usable: %v)", got, s.Usable())
	}
}
