package failover_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/postrider/postrider/internal/dnstest"
	"github.com/postrider/postrider/internal/smtptest"
)

// What mail meets on its way to d.example, whose best host is mx1. Where there is mx2, it is one like most.
const (
	mx1Addr, mx2Addr = "192.0.2.1", "192.0.2.2"

	byMX1, byMX2 = "sent by mx1", "sent by mx2"

	// What servers are told.
	greeted   = "EHLO QUIT"
	refused   = "EHLO MAIL RCPT DATA QUIT"   // the message, before its content
	delivered = "EHLO MAIL RCPT DATA . QUIT" // and also who is refused after the content
)

var (
	onlyMX1 = []string{"d.example. 60 IN MX 10 mx1.d.example.", "mx1.d.example. 60 IN A " + mx1Addr}
	alsoMX2 = []string{"d.example. 60 IN MX 20 mx2.d.example.", "mx2.d.example. 60 IN A " + mx2Addr}
)

// script is a server that answers so to commands, given as pairs of the two.
func script(pairs ...string) smtptest.Options {
	o := smtptest.Options{Replies: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		o.Replies[pairs[i]] = pairs[i+1]
	}
	return o
}

func offering(extensions ...string) smtptest.Options {
	return smtptest.Options{Extensions: extensions}
}

// limited is script for a server that takes one recipient at a time.
func limited(pairs ...string) smtptest.Options {
	o := script(pairs...)
	o.Extensions = []string{"PIPELINING", "LIMITS RCPTMAX=1"}
	return o
}

// TestOddServers has a queue run once with a letter in it. The better host of its domain is odd; with mx2 there is a second
// one, which is asked in one connection if it gets the mail, and otherwise not at all.
func TestOddServers(t *testing.T) {
	const bob, cyd, dan = "RCPT TO:<bob@", "RCPT TO:<cyd@", "RCPT TO:<dan@"
	three := letter{to: "bob cyd dan"}
	five := letter{to: "bob cyd dan eve fay"}
	for _, tt := range []struct {
		name  string
		odd   smtptest.Options
		mail  letter
		with  string // what becomes of whom with mx2
		alone string // and without; "": the same
		told  string // what mx1 is told, in both cases; "": that depends on who is faster
	}{
		{"answers as most do", script(), letter{}, byMX1, "", delivered},

		// The greeting. Who takes no mail today may take it tomorrow; only 521 means never (RFC 7504), if all hosts say so.
		// 554 without an enhanced code is not reported as 4.3.2: what it means depends on the command, and the server says
		// what it means if it knows.
		{"hangs up at once", script("CONNECT", smtptest.Close), letter{}, byMX2, "deferred 4.4.2", ""},
		{"greets with 421", script("CONNECT", "421 busy"), letter{}, byMX2, "deferred 4.3.2", ""},
		{"greets with 554", script("CONNECT", "554 no service"), letter{}, byMX2, "deferred 4.0.0", ""},
		{"greets with 554 5.3.2", script("CONNECT", "554 5.3.2 no service"), letter{}, byMX2, "deferred 4.3.2", ""},
		{"greets with 521", script("CONNECT", "521 never"), letter{}, byMX2, "bounced 5.3.2", ""},
		{"greets in 30 lines", script("CONNECT", strings.Repeat("220 hello\n", 29)+"220 there"), letter{}, byMX1, "", delivered},
		{"greets with no reply at all", script("CONNECT", smtptest.Raw+"hello there\r\n"), letter{}, byMX2, "deferred 4.5.0", ""},

		// EHLO, and what is offered in reply to it.
		{"knows no EHLO", script("EHLO", "500 what?"), letter{}, byMX1, "", "EHLO HELO MAIL RCPT DATA . QUIT"},
		{"knows no HELO either", script("EHLO", "500 what?", "HELO", "502 what?"), letter{}, byMX2, "deferred 4.0.0", "EHLO HELO"},
		{"takes one recipient at a time", limited(), three, byMX1, "",
			"EHLO MAIL RCPT DATA . RSET MAIL RCPT DATA . RSET MAIL RCPT DATA . QUIT"},
		{"takes one recipient at a time, and puts the first off", limited(bob, "451 4.7.1 greylisted"), three,
			"bob deferred 4.7.1, cyd sent by mx1, dan sent by mx1", "", "EHLO MAIL RCPT DATA RSET MAIL RCPT DATA . RSET MAIL RCPT DATA . QUIT"},
		{"has a limit that is no number", offering("PIPELINING", "LIMITS RCPTMAX=abc"), three, byMX1, "", "EHLO MAIL RCPT RCPT RCPT DATA . QUIT"},
		{"has limits that are no words", offering("PIPELINING", "LIMITS ;;"), three, byMX1, "", "EHLO MAIL RCPT RCPT RCPT DATA . QUIT"},
		{"takes no message of this size", offering("PIPELINING", "SIZE 1000"), letter{text: hello + strings.Repeat("and more\n", 500)},
			byMX2, "bounced 5.3.4", greeted},
		{"takes no address beyond ASCII", offering("PIPELINING", "8BITMIME"), letter{to: "b\u00f6b"}, byMX2, "bounced 5.6.7", greeted},
		{"takes no address beyond ASCII, and one of two is", offering("PIPELINING", "8BITMIME"), letter{to: "b\u00f6b cyd"},
			"b\u00f6b sent by mx2, cyd sent by mx1", "b\u00f6b bounced 5.6.7, cyd sent by mx1", delivered},

		// MAIL. A 5xx to it is the last word on the message; it is not shopped around.
		{"puts the sender off", script("MAIL", "451 4.3.0 later"), letter{}, byMX2, "deferred 4.3.0", refused},
		{"refuses the sender", script("MAIL", "550 5.7.1 not you"), letter{}, "bounced 5.7.1", "", refused},
		{"finds the message too big", script("MAIL", "552 5.3.4 too big"), letter{}, "bounced 5.3.4", "", refused},
		{"refuses the sender and hangs up", script("MAIL", smtptest.Raw+"550 5.7.1 blocked\r\n", "RCPT", smtptest.Close), letter{},
			"bounced 5.7.1", "", "EHLO MAIL RCPT"},

		// RCPT. Each recipient has the answer to his own, and the others' changes nothing for him.
		{"knows no such recipient", script("RCPT", "550 5.1.1 who?"), letter{}, "bounced 5.1.1", "", refused},
		{"knows no such recipient, and wants the content", script("RCPT", "550 5.1.1 who?", "DATA", "354 go on"), letter{},
			"bounced 5.1.1", "", delivered},
		{"knows none of three", script("RCPT", "550 5.1.1 who?"), three, "bounced 5.1.1", "", "EHLO MAIL RCPT RCPT RCPT DATA QUIT"},
		{"takes one, refuses one, puts one off", script(cyd, "550 5.1.1 who?", dan, "451 4.2.1 later"), three,
			"bob sent by mx1, cyd bounced 5.1.1, dan deferred 4.2.1", "", "EHLO MAIL RCPT RCPT RCPT DATA . QUIT"},
		{"refuses one, puts two off", script(bob, "550 5.1.1 who?", "RCPT", "451 4.7.1 greylisted"), three,
			"bob bounced 5.1.1, cyd sent by mx2, dan sent by mx2", "bob bounced 5.1.1, cyd deferred 4.7.1, dan deferred 4.7.1",
			"EHLO MAIL RCPT RCPT RCPT DATA QUIT"},
		{"will forward", script("RCPT", "251 will forward"), letter{}, byMX1, "", delivered},
		{"cannot verify", script("RCPT", "252 cannot verify"), letter{}, byMX1, "", delivered},
		{"says 4xx and means 5.x", script("RCPT", "450 5.1.1 who?"), letter{}, byMX2, "deferred 4.0.0", refused},
		{"says 5xx and means 4.x", script("RCPT", "550 4.2.1 later"), letter{}, "bounced 5.0.0", "", refused},
		{"puts off as a matter of policy", script("RCPT", "451 4.7.1 not now"), letter{}, byMX2, "deferred 4.7.1", refused},
		{"puts off as a matter of policy, in the wrong class", script("RCPT", "451 5.7.1 not now"), letter{}, byMX2, "deferred 4.0.0", refused},

		// Too many recipients: what is too much for one transaction goes into the next, in the same session and the same
		// attempt. The first one is never too many, or that would go on for ever.
		{"takes two recipients, 452 to the others", smtptest.Options{MaxRecipients: 2}, five, byMX1, "", twoByTwo},
		{"takes two recipients, 552 to the others", smtptest.Options{MaxRecipients: 2, TooMany: "552 too many"}, five, byMX1, "", twoByTwo},
		{"takes two recipients, 550 5.5.3 to the others", smtptest.Options{MaxRecipients: 2, TooMany: "550 5.5.3 too many"}, five, byMX1, "", twoByTwo},
		{"452 to all", script("RCPT", "452 4.5.3 too many"), three, byMX2, "deferred 4.5.3", "EHLO MAIL RCPT RCPT RCPT DATA QUIT"},
		{"452 to one, each time", script(cyd, "452 4.3.1 full"), three,
			"bob sent by mx1, cyd deferred 4.3.1, dan sent by mx1", "", "EHLO MAIL RCPT RCPT RCPT DATA . MAIL RCPT DATA QUIT"},

		// DATA, and the end of the content. Nobody else is asked about what one host has had as a whole.
		{"greylists at DATA", script("DATA", "451 4.7.1 greylisted"), letter{}, byMX2, "deferred 4.7.1", refused},
		{"refuses at DATA", script("DATA", "554 5.7.1 no"), letter{}, "bounced 5.7.1", "", refused},
		{"hangs up after the content", script(".", smtptest.Close), letter{}, "deferred 4.4.2", "", "EHLO MAIL RCPT DATA ."},
		{"refuses the content", script(".", "554 5.6.0 content"), letter{}, "bounced 5.6.0", "", delivered},
		{"puts the content off", script(".", "451 4.3.0 later"), letter{}, "deferred 4.3.0", "", delivered},
		{"shuts down after the content", script(".", "421 4.3.2 shutting down"), letter{}, "deferred 4.3.2", "", "EHLO MAIL RCPT DATA ."},

		// What is no reply (RFC 5321 section 4.2).
		{"says a line of 100 kB", script("MAIL", smtptest.Raw+"250 "+strings.Repeat("x", 100<<10)+"\r\n"), letter{}, byMX2, "deferred 4.5.0", ""},
		{"says lines without end", script("MAIL", smtptest.Raw+strings.Repeat("250-x\r\n", 1000)), letter{}, byMX2, "deferred 4.5.0", ""},
		{"says two codes in one reply", script("MAIL", smtptest.Raw+"250-one\r\n550 two\r\n"), letter{}, byMX2, "deferred 4.5.0", "EHLO MAIL RCPT DATA"},
		{"says a code of two digits", script("MAIL", smtptest.Raw+"25x fine\r\n"), letter{}, byMX2, "deferred 4.5.0", "EHLO MAIL RCPT DATA"},
		{"says no code", script("MAIL", smtptest.Raw+"fine\r\n"), letter{}, byMX2, "deferred 4.5.0", "EHLO MAIL RCPT DATA"},
	} {
		for _, two := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, mx2 %v", tt.name, two), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, newNames(t, onlyMX1...), false)
				want := tt.with
				if two {
					if err := w.names.Add(alsoMX2...); err != nil {
						t.Fatal(err)
					}
				} else if tt.alone != "" {
					want = tt.alone
				}
				o := tt.odd
				o.Hostname = "mx1.d.example"
				mx1, mx2 := w.serve(mx1Addr, o), w.serve(mx2Addr, smtptest.Options{Hostname: "mx2.d.example"})
				w.submit(tt.mail)
				w.pass()
				if got := w.became(tt.mail); got != want {
					t.Errorf("%s\nwant %s\n%s", got, want, strings.Join(w.log, "\n"))
				}
				if got := dialogue(mx1); tt.told != "" && got != tt.told {
					t.Errorf("mx1 was told %q\nwant %q", got, tt.told)
				}
				if got, want := mx2.Connections(), strings.Contains(want, byMX2); got > 1 || (got == 1) != want {
					t.Errorf("%d connections to mx2, which is needed: %v", got, want)
				}
				for _, m := range mx1.Messages() {
					if len(m.Params) > 0 && strings.Contains(tt.told, "HELO") {
						t.Errorf("MAIL with %q for a server that offers nothing", m.Params)
					}
				}
				lost := tt.odd.Replies["."] == smtptest.Close
				if warned := strings.Contains(strings.Join(w.log, "\n"), "it may arrive twice"); warned != lost {
					t.Errorf("the log warns of a duplicate: %v, want %v:\n%s", warned, lost, strings.Join(w.log, "\n"))
				}
			})
		}
	}
}

const twoByTwo = "EHLO MAIL RCPT RCPT RCPT RCPT RCPT DATA . MAIL RCPT RCPT RCPT DATA . MAIL RCPT DATA . QUIT"

// TestOddDomains has a queue run once with a letter in it to a domain that cannot be found, or only with some trouble.
func TestOddDomains(t *testing.T) {
	const (
		mx1IPv6 = "2001:db8::1"
		second  = "192.0.2.11" // another address of mx1
		absent  = "mx1.d.example. 60 IN TXT nothing"
	)
	mxIs1, mx1Is := onlyMX1[0], onlyMX1[1]
	type list = []string
	type errs = map[string]error
	for _, tt := range []struct {
		name    string
		records list
		asked   map[string]string // what the name server does when it is asked
		dead    errs              // addresses, and why they cannot be connected to
		with    string            // what becomes of it if there is an MX 20 mx2 as well; "": that would make no sense
		alone   string
		dialled string // addresses in order; that of mx2 comes last if it is there
	}{
		// Addresses that lead nowhere. One connection that fails at once costs no time.
		{"nobody listens", onlyMX1, nil, errs{mx1Addr: syscall.ECONNREFUSED}, byMX2, "deferred 4.4.1", mx1Addr},
		{"nobody listens at the first of two addresses", list{mxIs1, mx1Is, "mx1.d.example. 60 IN A " + second}, nil,
			errs{mx1Addr: syscall.ECONNREFUSED}, byMX1, byMX1, mx1Addr + " " + second},
		{"there is no way to IPv6", list{mxIs1, mx1Is, "mx1.d.example. 60 IN AAAA " + mx1IPv6}, nil,
			errs{mx1IPv6: syscall.ENETUNREACH}, byMX1, byMX1, mx1IPv6 + " " + mx1Addr},
		{"there is no network", onlyMX1, nil, errs{mx1Addr: syscall.ENETUNREACH, mx2Addr: syscall.ENETUNREACH},
			"deferred 4.4.1 untried", "deferred 4.4.1 untried", mx1Addr},

		// What the name server knows for sure bounces at once, and nobody is connected to.
		{"takes no mail", list{"d.example. 60 IN MX 0 ."}, nil, nil, "", "bounced 5.1.10", ""},
		{"does not exist", nil, nil, nil, "", "bounced 5.1.2", ""},
		{"has neither MX nor address", list{"d.example. 60 IN TXT nothing"}, nil, nil, "", "bounced 5.4.4", ""},
		{"has an address and no MX", list{"d.example. 60 IN A " + mx1Addr}, nil, nil, "", "sent by d", mx1Addr},
		{"mx1 has no address", list{mxIs1, absent}, nil, nil, byMX2, "bounced 5.4.4", ""},
		{"mx1 does not exist", list{mxIs1}, nil, nil, byMX2, "bounced 5.4.4", ""},

		// What it cannot tell now it may tell later.
		{"nobody knows its MX", onlyMX1, map[string]string{"MX d.example": dnstest.Fail}, nil, "deferred 4.4.3", "deferred 4.4.3", ""},
		{"nobody knows the address of mx1", onlyMX1, map[string]string{"mx1.d.example": dnstest.Fail}, nil, byMX2, "deferred 4.4.4", ""},

		// Aliases.
		{"an alias of an alias of an alias", list{
			"d.example. 60 IN CNAME e.example.", "e.example. 60 IN CNAME f.example.", "f.example. 60 IN CNAME g.example.",
			"g.example. 60 IN MX 10 mx1.d.example.", mx1Is,
		}, nil, nil, "", byMX1, mx1Addr},
		{"aliases in a circle", list{"d.example. 60 IN CNAME e.example.", "e.example. 60 IN CNAME d.example."}, nil, nil, "", "deferred 4.4.3", ""},
		{"mx1 is an alias", list{mxIs1, "mx1.d.example. 60 IN CNAME mx1.e.example.", "mx1.e.example. 60 IN A " + mx1Addr}, nil, nil,
			byMX1, byMX1, mx1Addr},

		// Ourselves, and who is no better than we are (RFC 5321 section 5.1).
		{"we are its best host", list{"d.example. 60 IN MX 10 here.example.", "here.example. 60 IN A " + ownAddr}, nil, nil,
			"bounced 5.4.6", "bounced 5.4.6", ""},
		{"its best host has our address", list{mxIs1, "mx1.d.example. 60 IN A " + ownAddr}, nil, nil, "bounced 5.4.6", "bounced 5.4.6", ""},
		{"we stand in for its best host", append(list{"d.example. 60 IN MX 15 here.example.", "here.example. 60 IN A " + ownAddr}, onlyMX1...),
			nil, errs{mx1Addr: syscall.ECONNREFUSED}, "deferred 4.4.1", "deferred 4.4.1", mx1Addr},
	} {
		for _, two := range []bool{true, false} {
			want, dialled := tt.alone, strings.Fields(tt.dialled)
			if two {
				want = tt.with
			}
			if want == "" {
				continue
			}
			t.Run(fmt.Sprintf("%s, mx2 %v", tt.name, two), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, newNames(t, tt.records...), false)
				if two {
					if err := w.names.Add(alsoMX2...); err != nil {
						t.Fatal(err)
					}
				}
				for question, what := range tt.asked {
					w.names.Behave(question, what)
				}
				for _, addr := range []string{mx1Addr, mx1IPv6, second, mx2Addr} {
					if w.dead[addr] = tt.dead[addr]; w.dead[addr] == nil {
						w.serve(addr, smtptest.Options{})
					}
				}
				w.submit(letter{})
				w.pass()
				if got := w.became(letter{}); got != want {
					t.Errorf("%s\nwant %s\n%s", got, want, strings.Join(w.log, "\n"))
				}
				if two && (want == byMX2 || w.dead[mx2Addr] != nil) {
					dialled = append(dialled, mx2Addr)
				}
				w.wantList("were dialled", w.dialled, dialled)
			})
		}
	}
}
