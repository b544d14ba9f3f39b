package failover_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/deliver/failover"
	"github.com/postrider/postrider/deliver/mx"
	"github.com/postrider/postrider/deliver/smtp"
	"github.com/postrider/postrider/internal/smtptest"
)

// TestSlowServers says how long a pass waits for a server, with the timeouts that count when nothing else is said.
func TestSlowServers(t *testing.T) {
	after := func(d time.Duration, stage string) smtptest.Options {
		return smtptest.Options{OnCommand: func(line string) {
			if line == stage {
				time.Sleep(d)
			}
		}}
	}
	for _, tt := range []struct {
		name        string
		odd         smtptest.Options // mx1
		with, alone string           // what becomes of the letter with mx2, and without
		takes       time.Duration    // of the pass, in either case
	}{
		{"never greets", script("CONNECT", smtptest.Hang), byMX2, "deferred 4.4.2", 5 * time.Minute},
		{"answers after nine minutes", after(9*time.Minute, "."), byMX1, byMX1, 9 * time.Minute},
		{"never answers to the content", script(".", smtptest.Hang), "deferred 4.4.2", "deferred 4.4.2", 10 * time.Minute},
		{"never answers to QUIT", script("QUIT", smtptest.Hang), byMX1, byMX1, 5 * time.Second},
	} {
		for _, two := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, mx2 %v", tt.name, two), func(t *testing.T) {
				names, want := newNames(t, onlyMX1...), tt.alone
				if two {
					want = tt.with
					if err := names.Add(alsoMX2...); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, names, true)
					w.serve(mx1Addr, tt.odd)
					w.serve(mx2Addr, smtptest.Options{})
					w.submit(letter{})
					start := time.Now()
					w.pass()
					if got, took := w.became(letter{}), time.Since(start); got != want || took != tt.takes {
						t.Errorf("%s after %v, want %s after %v\n%s", got, took, want, tt.takes, strings.Join(w.log, "\n"))
					}
				})
			})
		}
	}
}

// TestNextAttempt has one letter tried again and again, and says at which address of mx1: at that of the other family,
// where we may have a better name; otherwise at the same once more, for those who make strangers wait.
func TestNextAttempt(t *testing.T) {
	const (
		six, four, other = "2001:db8::1", "192.0.2.1", "192.0.2.11"
		block, grey      = "550 5.7.1 blocked", "451 4.7.1 greylisted"
	)
	type list = []string
	type script = map[string]string
	for _, tt := range []struct {
		name    string
		two     bool              // there is mx2, too, which is not asked about what mx1 refuses
		addrs   list              // of mx1, in the order of the name server
		away    string            // one that cannot be reached the first time
		replies map[string]script // of the server at an address
		want    list              // of each attempt
	}{
		{"blocked at one family", false, list{six, four}, "", map[string]script{six: {"MAIL": block}},
			list{"deferred 4.7.1 at " + six, "sent by mx1 at " + four}},
		{"blocked at one family, and hung up on", false, list{six, four}, "", map[string]script{six: {"MAIL": smtptest.Raw + block + "\r\n", "RCPT": smtptest.Close}},
			list{"deferred 4.7.1 at " + six, "sent by mx1 at " + four}},
		{"blocked at both", false, list{six, four}, "", map[string]script{six: {"MAIL": block}, four: {"MAIL": block}},
			list{"deferred 4.7.1 at " + six, "bounced 5.7.1 at " + four}},
		{"blocked at one family, and there is mx2", true, list{six, four}, "", map[string]script{six: {"MAIL": block}},
			list{"deferred 4.7.1 at " + six, "sent by mx1 at " + four}},
		{"blocked at the only one", false, list{four}, "", map[string]script{four: {"MAIL": block}}, list{"bounced 5.7.1 at " + four}},
		{"greylisted at two of one family", false, list{four, other}, four, map[string]script{four: {"DATA": grey}, other: {"DATA": grey}},
			list{"deferred 4.7.1 at " + other, "deferred 4.7.1 at " + other, "deferred 4.7.1 at " + four}},
		{"greylisted at both families", false, list{six, four}, "", map[string]script{six: {"DATA": grey}, four: {"DATA": grey}},
			list{"deferred 4.7.1 at " + six, "deferred 4.7.1 at " + four, "deferred 4.7.1 at " + six}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			names := newNames(t, onlyMX1[0])
			w := newWorld(t, names, false)
			w.serve(mx2Addr, smtptest.Options{})
			if tt.two {
				if err := names.Add(alsoMX2...); err != nil {
					t.Fatal(err)
				}
			}
			for _, addr := range tt.addrs {
				kind := "A"
				if strings.Contains(addr, ":") {
					kind = "AAAA"
				}
				if err := names.Add(fmt.Sprintf("mx1.d.example. 60 IN %s %s", kind, addr)); err != nil {
					t.Fatal(err)
				}
				w.serve(addr, smtptest.Options{Replies: tt.replies[addr]})
			}
			connections := len(tt.want)
			if tt.away != "" {
				w.dead[tt.away] = syscall.ECONNREFUSED
				connections++
			}
			w.submit(letter{})
			for range tt.want {
				w.pass()
				w.now = w.now.Add(time.Hour)
				delete(w.dead, tt.away)
			}
			var got []string
			for _, o := range w.outcomes() {
				_, rest, _ := strings.Cut(o.relay, "[")
				addr, _, _ := strings.Cut(rest, "]")
				got = append(got, o.words+" at "+addr)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%q\nwant %q\n%s", got, tt.want, strings.Join(w.log, "\n"))
			}
			if n := len(w.dialled); n != connections {
				t.Errorf("%d connections, want %d", n, connections)
			}
		})
	}
}

// The session in which a recipient was refused, and the content of his message wanted all the same, takes the next one.
func TestSessionStaysInStep(t *testing.T) {
	w := newWorld(t, newNames(t, onlyMX1...), false)
	mx1 := w.serve(mx1Addr, smtptest.Options{Replies: map[string]string{"RCPT TO:<bob@": "550 5.1.1 who?", "DATA": "354 go on"}})
	w.submit(letter{to: "bob"})
	w.submit(letter{to: "cyd"})
	w.pass()
	var got []string
	for _, o := range w.outcomes() {
		got = append(got, o.rcpt+" "+o.words)
	}
	w.wantList("is what became of them", got, []string{"bob bounced 5.1.1", "cyd sent by mx1"})
	w.wantList("are reported", w.reports(), []string{"failed bob"})
	if got, want := dialogue(mx1), "EHLO MAIL RCPT DATA . RSET MAIL RCPT DATA . QUIT"; got != want {
		t.Errorf("mx1 was told %q, want %q", got, want)
	}
}

// TestContentArrives says what a server gets of what a program wrote.
func TestContentArrives(t *testing.T) {
	long := strings.Repeat("0123456789", 100)
	soft := ""
	for rest := long; rest != ""; {
		n := min(len(rest), 75)
		soft += rest[:n] + "=\r\n"
		rest = rest[n:]
	}
	soft = strings.TrimSuffix(soft, "=\r\n") + "\r\n"
	const mime = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"
	for _, tt := range []struct {
		name       string
		header     string
		body       string
		extensions []string
		want       string // of the body
		params     string // of MAIL, but SIZE
	}{
		{"lines that begin with dots", "", ".\n..\n.x\nx.\n", nil, ".\r\n..\r\n.x\r\nx.\r\n", ""},
		{"no end of the last line", "", "one\ntwo", nil, "one\r\ntwo\r\n", ""},
		{"a dot without end", "", "one\n.", nil, "one\r\n.\r\n", ""},
		{"nothing", "", "", nil, "", ""},
		{"LF and CRLF", "", "one\ntwo\r\nthree\n", nil, "one\r\ntwo\r\nthree\r\n", ""},
		{"a dot between LF and CRLF", "", "one\n.\r\nMAIL FROM:<x>\n", nil, "one\r\n.\r\nMAIL FROM:<x>\r\n", ""},
		{"a line of 1000 octets", "", long + "\n", nil, soft, ""},
		{"8-bit, and the server takes it", mime, "we meet at the caf\u00e9\n", []string{"PIPELINING", "8BITMIME"}, "we meet at the caf\u00e9\r\n", "BODY=8BITMIME"},
		{"8-bit, and the server takes none", mime, "we meet at the caf\u00e9\n", []string{"PIPELINING"}, "we meet at the caf=C3=A9\r\n", ""},
		{"8-bit and dots, by BDAT", mime, ".\ncaf\u00e9\n.", []string{"CHUNKING", "8BITMIME"}, ".\r\ncaf\u00e9\r\n.\r\n", "BODY=8BITMIME"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, newNames(t, onlyMX1...), false)
			mx1 := w.serve(mx1Addr, smtptest.Options{Extensions: tt.extensions})
			w.submit(letter{text: "From: ann@example.org\nSubject: hello\n" + tt.header + "\n" + tt.body})
			w.pass()
			got := mx1.Messages()
			if len(got) != 1 {
				t.Fatalf("%d messages have arrived\n%s", len(got), strings.Join(w.log, "\n"))
			}
			_, body, _ := strings.Cut(string(got[0].Content), "\r\n\r\n")
			params := slices.DeleteFunc(got[0].Params, func(p string) bool { return strings.HasPrefix(p, "SIZE=") })
			if body != tt.want || strings.Join(params, " ") != tt.params {
				t.Errorf("arrived, with %q: %q\nwant, with %q: %q", params, body, tt.params, tt.want)
			}
		})
	}
}

// TestOddRelays has all mail go to a relay of ours, which is odd, and then to another one if there is one.
func TestOddRelays(t *testing.T) {
	wrong := func(reply string) smtptest.Options {
		return smtptest.Options{Certificate: smtptest.Valid, Users: map[string]string{"ann": "secret"}, Replies: map[string]string{"AUTH": reply}}
	}
	three := letter{to: "bob cyd dan"}
	for _, tt := range []struct {
		name  string
		odd   smtptest.Options // relay1
		mail  letter
		with  string // what becomes of whom with relay2
		alone string
	}{
		// A login is ours to mend: nobody is bounced for it, and it is no attempt. A reply without an enhanced code means 4.7.8.
		{"refuses the login", wrong("535 5.7.8 who?"), letter{}, "sent by relay2", "deferred 4.7.8 untried"},
		{"refuses the login without saying why", wrong("535 no"), letter{}, "sent by relay2", "deferred 4.7.8 untried"},
		{"cannot say who we are now", wrong("454 4.7.0 later"), letter{}, "sent by relay2", "deferred 4.7.0"},
		{"never takes mail", script("CONNECT", "521 never"), letter{}, "sent by relay2", "deferred 4.3.2"},

		// By LMTP each recipient has an answer of his own after the content, which nobody else is asked about.
		{"puts the message into one mailbox of three", lmtp(". cyd", "452 4.2.2 full", ". dan", "550 5.2.1 closed"), three,
			"bob sent by relay1, cyd deferred 4.2.2, dan bounced 5.2.1", "bob sent by relay1, cyd deferred 4.2.2, dan bounced 5.2.1"},
		{"hangs up after the first answer of three", lmtp(". cyd", smtptest.Close, ". dan", smtptest.Close), three,
			"bob sent by relay1, cyd deferred 4.4.2, dan deferred 4.4.2", "bob sent by relay1, cyd deferred 4.4.2, dan deferred 4.4.2"},
	} {
		for _, two := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, relay2 %v", tt.name, two), func(t *testing.T) {
				t.Parallel()
				w, want := newWorld(t, newNames(t), false), tt.alone
				first, second := tt.odd, tt.odd
				first.Hostname, second.Hostname, second.Replies = "relay1.example", "relay2.example", nil
				w.serve(mx1Addr, first)
				w.serve(mx2Addr, second)
				like := smtp.Server{LMTP: tt.odd.LMTP}
				if tt.odd.Users != nil {
					like.TLS, like.User, like.Password = smtp.TLSVerify, "ann", func() (string, error) { return "secret", nil }
				}
				hosts := []mx.Host{relay(1, mx1Addr)}
				if two {
					want, hosts = tt.with, append(hosts, relay(2, mx2Addr))
				}
				w.transport = func() deliver.Transport {
					find := func(context.Context, string) ([]mx.Host, error) { return hosts, nil }
					return &failover.Transport{Find: find, Dial: w.open(like), Now: w.clock}
				}
				w.submit(tt.mail)
				w.pass()
				if got := w.became(tt.mail); got != want {
					t.Errorf("%s\nwant %s\n%s", got, want, strings.Join(w.log, "\n"))
				}
			})
		}
	}
}

func relay(n int, addr string) mx.Host {
	return mx.Host{Name: fmt.Sprintf("relay%d.example", n), Port: 587, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
}

func lmtp(pairs ...string) smtptest.Options {
	o := script(pairs...)
	o.LMTP = true
	return o
}
