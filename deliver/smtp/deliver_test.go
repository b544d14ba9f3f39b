package smtp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

func path(t testing.TB, addr string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(addr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// message returns a message from ann to the recipients with content in wire form.
func message(t testing.TB, content string, recipients ...string) *mail.Message {
	t.Helper()
	m := &mail.Message{QueueID: "0123456789A", Content: strings.NewReader(content), Size: int64(len(content))}
	m.Sender = path(t, "ann@example.org")
	for _, r := range recipients {
		m.Recipients = append(m.Recipients, mail.Recipient{Path: path(t, r)})
	}
	return m
}

const letter = "Subject: hello\r\n\r\nhello\r\n"

// all returns the positions of all recipients of m.
func all(m *mail.Message) []int {
	var positions []int
	for i := range m.Recipients {
		positions = append(positions, i)
	}
	return positions
}

// client returns what reaches srv, in clear.
func client(srv *smtptest.Server) *Server {
	return &Server{Host: srv.Host(), Port: srv.Port(), Hello: "client.invalid"}
}

func open(t testing.TB, s *Server) *talk {
	t.Helper()
	session, err := Open(context.Background(), s)
	if err != nil {
		t.Fatalf("Open = %v", err)
	}
	return begin(t, session)
}

var scopes = [...]string{mail.OfRecipient: "recipient", mail.OfMessage: "message", mail.OfHost: "host", mail.OfUs: "us"}

// outcome puts into words what a result says.
func outcome(r mail.Result) string {
	if r.Action == mail.Relayed {
		return "relayed"
	}
	said := "us"
	if r.Remote {
		said = "server"
	}
	return fmt.Sprintf("%s of %s, %s says %s", r.Action, scopes[r.Scope], said, r.Status())
}

func outcomes(results []mail.Result) []string {
	var all []string
	for _, r := range results {
		all = append(all, outcome(r))
	}
	return all
}

// A dialect is what a server offers that changes how messages are sent.
type dialect struct {
	name                 string
	pipelining, chunking bool
}

// everyWay runs a test against servers of all dialects.
func everyWay(t *testing.T, test func(t *testing.T, way dialect, opts smtptest.Options)) {
	t.Helper()
	for _, way := range []dialect{
		{"DATA, pipelined", true, false},
		{"DATA, step by step", false, false},
		{"BDAT, pipelined", true, true},
		{"BDAT, step by step", false, true},
	} {
		t.Run(way.name, func(t *testing.T) {
			test(t, way, smtptest.Options{Strict: true, Extensions: way.offering("SIZE", "8BITMIME", "ENHANCEDSTATUSCODES")})
		})
	}
}

// offering returns the extensions of a server of this dialect that offers these as well.
func (d dialect) offering(others ...string) []string {
	list := slices.Clone(others)
	if d.pipelining {
		list = append(list, "PIPELINING")
	}
	if d.chunking {
		list = append(list, "CHUNKING")
	}
	return list
}

func TestDeliver(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Strict: true})
	s := open(t, client(srv))
	content := ".dot\r\n..\r\n\xe9\r\n"
	m := message(t, content, "bob@example.com", "eve@example.com")
	results := s.Deliver(t.Context(), m, []int{1})
	want := mail.Result{
		Action: mail.Relayed, Remote: true,
		Reply: mail.Reply{Code: 250, Enhanced: mail.EnhancedCode{2, 0, 0}, Text: "taken"},
		Relay: "127.0.0.1[127.0.0.1]:" + strconv.Itoa(srv.Port()), Notifies: true,
	}
	if len(results) != 1 || results[0] != want {
		t.Errorf("Deliver = %+v, want %+v", results, want)
	}
	got := srv.Messages()
	if len(got) != 1 || got[0].Sender != "ann@example.org" || len(got[0].Recipients) != 1 ||
		got[0].Recipients[0].Address != "eve@example.com" || string(got[0].Content) != content ||
		got[0].Hello != "client.invalid" || !got[0].Pipelined {
		t.Errorf("the server has %+v", got)
	}
}

func TestDeliverMessageAfterMessage(t *testing.T) {
	everyWay(t, func(t *testing.T, way dialect, opts smtptest.Options) {
		srv := smtptest.NewServer(t, opts)
		s := open(t, client(srv))
		for i := range 3 {
			m := message(t, fmt.Sprintf("Subject: %d\r\n", i), "bob@example.com")
			if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != "relayed" || !s.Usable() {
				t.Fatalf("message %d: %s", i, got)
			}
		}
		if n := srv.Connections(); n != 1 {
			t.Errorf("%d connections for three messages", n)
		}
		if slices.Contains(srv.Commands(), "RSET") {
			t.Errorf("RSET after a message that was taken: %q", srv.Commands())
		}
		s.Close()
		if s.Usable() {
			t.Error("usable after Close")
		}
		if got := outcomes(s.Deliver(t.Context(), message(t, letter, "bob@example.com"), []int{0})); got[0] != outcome(untried) {
			t.Errorf("after Close: %s", got)
		}
	})
}

// TestRefusalOfSomebodyElse has a server leave out a reply, so that the refusal of eve seems to be of bob: when that shows,
// since DATA is answered too early or something is not answered at all, nobody is refused.
func TestRefusalOfSomebodyElse(t *testing.T) {
	for extensions, want := range map[string]string{"PIPELINING": "4.5.0", "PIPELINING CHUNKING": "4.4.2"} {
		synctest.Test(t, func(t *testing.T) {
			srv := smtptest.NewPipe(t, smtptest.Options{Extensions: strings.Fields(extensions), Replies: map[string]string{
				"MAIL": smtptest.Raw + "250-fine\r\n", "RCPT TO:<eve@": "550 5.1.1 who?",
			}})
			s := open(t, &Server{Host: "127.0.0.1", Dial: srv.Dial})
			m := message(t, letter, "bob@example.com", "eve@example.com", "joe@example.com")
			for i, got := range outcomes(s.Deliver(t.Context(), m, all(m))) {
				if got != "delayed of host, us says "+want {
					t.Errorf("%s, recipient %d: %s\n%s", extensions, i, got, s.Transcript())
				}
			}
		})
	}
}

// TestReplyBeforeTheFirstMessage has a server say more than it was asked while the session is opened.
func TestReplyBeforeTheFirstMessage(t *testing.T) {
	for _, tt := range []struct{ name, stage, says string }{
		{"with the banner", "CONNECT", "220 hello\r\n250 ahead\r\n"},
		{"with the extensions", "EHLO", "250-hello\r\n250 8BITMIME\r\n250 ahead\r\n"},
		{"with more of them", "EHLO", "250-hello\r\n250-CHUNKING\r\n250 PIPELINING\r\n250 ahead\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := smtptest.NewServer(t, smtptest.Options{
				Extensions: []string{"PIPELINING", "CHUNKING"}, Replies: map[string]string{tt.stage: smtptest.Raw + tt.says},
			})
			session, err := Open(t.Context(), client(srv))
			if err == nil {
				m := message(t, letter, "bob@example.com")
				attempts := make(chan mail.Attempt, 1)
				attempts <- mail.Attempt{Message: m, Positions: all(m), Done: func(results []mail.Result) { err = &mail.Failure{Result: results[0]} }}
				err = session.Deliver(t.Context(), attempts)
			}
			f, ok := err.(*mail.Failure)
			if !ok || outcome(f.Result) != "delayed of host, us says 4.5.0" || !strings.Contains(f.Reply.Text, `"250 ahead" is out of place`) {
				t.Errorf("%v", err)
			}
			if slices.Contains(srv.Commands(), "MAIL FROM:<ann@example.org>") {
				t.Error("it was sent a message")
			}
		})
	}
}

// TestReplies says what each reply means for each recipient.
func TestReplies(t *testing.T) {
	const (
		bob, eve, joe = "RCPT TO:<bob@", "RCPT TO:<eve@", "RCPT TO:<joe@"
		lost          = "delayed of host, us says 4.4.2"
		mistake       = "delayed of host, us says 4.5.0"
		perhaps       = "delayed of message, us says 4.4.2"
	)
	same := func(s string) []string { return []string{s, s, s} }
	type script map[string]string
	for _, tt := range []struct {
		name    string
		script  script
		want    []string // of bob, eve and joe
		over    bool     // the session is
		arrived int      // messages
	}{
		{"all taken", nil, same("relayed"), false, 1},
		{"251 and 252 are yes", script{bob: "251 will forward", eve: "252 cannot verify"}, same("relayed"), false, 1},
		{"any 2xx to the content is yes", script{".": "299 well"}, same("relayed"), false, 1},
		{"any 3xx to DATA is go ahead", script{"DATA": "399 well"}, same("relayed"), false, 1},

		{"each recipient by its own reply", script{eve: "550 5.1.1 who?", joe: "451 4.2.1 later"},
			[]string{"relayed", "failed of recipient, server says 5.1.1", "delayed of recipient, server says 4.2.1"}, false, 1},
		{"codes without enhanced ones", script{eve: "550 who?", joe: "450 later"},
			[]string{"relayed", "failed of recipient, server says 5.0.0", "delayed of recipient, server says 4.0.0"}, false, 1},
		{"unknown codes by their first digit", script{eve: "599 5.1.1 who?", joe: "499 later"},
			[]string{"relayed", "failed of recipient, server says 5.1.1", "delayed of recipient, server says 4.0.0"}, false, 1},
		{"the code rules over the enhanced one", script{eve: "450 5.1.1 who?"},
			[]string{"relayed", "delayed of recipient, server says 4.0.0", "relayed"}, false, 1},
		{"all recipients refused", script{"RCPT": "550 5.1.1 who?"}, same("failed of recipient, server says 5.1.1"), false, 0},
		{"all refused, and DATA taken", script{"RCPT": "550 5.1.1 who?", "DATA": "354 well"}, same("failed of recipient, server says 5.1.1"), false, 0},
		{"a mailbox is full", script{eve: "452 4.2.2 full", joe: "552 5.2.2 full"},
			[]string{"relayed", "delayed of recipient, server says 4.2.2", "failed of recipient, server says 5.2.2"}, false, 1},
		{"the first one is too many", script{"RCPT": "452 4.5.3 too many"}, same("delayed of recipient, server says 4.5.3"), false, 0},
		{"552 to the first", script{"RCPT": "552 5.3.4 too big"}, same("failed of recipient, server says 5.3.4"), false, 0},
		{"recipient wants a login", script{eve: "530 5.7.0 log in"}, []string{"relayed", "delayed of us, server says 4.7.0", "relayed"}, false, 1},

		{"MAIL 4xx", script{"MAIL": "451 4.3.0 later"}, same("delayed of message, server says 4.3.0"), false, 0},
		{"MAIL 5xx", script{"MAIL": "550 5.7.1 not you"}, same("failed of message, server says 5.7.1"), false, 0},
		{"MAIL 552", script{"MAIL": "552 5.3.4 too big"}, same("failed of message, server says 5.3.4"), false, 0},
		{"MAIL wants a login", script{"MAIL": "530 5.7.0 log in"}, same("delayed of us, server says 4.7.0"), true, 0},
		{"MAIL 3xx", script{"MAIL": "354 what"}, same(mistake), true, 0},
		{"MAIL refused, hung up", script{"MAIL": smtptest.Raw + "550 5.7.1 blocked\r\n", bob: smtptest.Close},
			same("failed of message, server says 5.7.1"), true, 0},
		{"MAIL refused, DATA taken", script{"MAIL": "550 5.7.1 no", "DATA": "354 go"}, same("failed of message, server says 5.7.1"), false, 0},
		{"MAIL refused, everything else taken", script{"MAIL": smtptest.Raw + "550 5.7.1 no\r\n", "RCPT": smtptest.Raw + "250 yes\r\n", "DATA": "354 go"},
			same("failed of message, server says 5.7.1"), true, 0},

		{"DATA 4xx", script{"DATA": "451 4.7.1 greylisted"}, same("delayed of message, server says 4.7.1"), false, 0},
		{"DATA 5xx", script{"DATA": "554 5.6.0 no"}, same("failed of message, server says 5.6.0"), false, 0},
		{"DATA 2xx", script{"DATA": "250 done"}, same(mistake), true, 0},

		{"content 4xx", script{".": "451 4.3.0 later"}, same("delayed of message, server says 4.3.0"), false, 0},
		{"content 5xx", script{".": "554 5.6.0 spam"}, same("failed of message, server says 5.6.0"), false, 0},
		{"content 5xx, a recipient refused before", script{eve: "550 5.1.1 who?", ".": "554 5.6.0 spam"},
			[]string{"failed of message, server says 5.6.0", "failed of recipient, server says 5.1.1", "failed of message, server says 5.6.0"}, false, 0},
		{"content 3xx", script{".": "354 more"}, same(perhaps), true, 0},
		{"content answered with garbage", script{".": smtptest.Raw + "what?\r\n"}, same(perhaps), true, 0},
		{"content answered with codes that differ", script{".": smtptest.Raw + "250-yes\r\n550 no\r\n"}, same(perhaps), true, 0},

		{"garbage", script{eve: smtptest.Raw + "what?\r\n"}, same(mistake), true, 0},
		{"bare CR", script{eve: smtptest.Raw + "250 a\rb\r\n"}, same(mistake), true, 0},
		{"endless line", script{eve: smtptest.Raw + "250 " + strings.Repeat("x", 100<<10) + "\r\n"}, same(mistake), true, 0},
		{"endless reply", script{eve: smtptest.Raw + strings.Repeat("250-x\r\n", 1000)}, same(mistake), true, 0},
		{"a reply too many", script{"MAIL": smtptest.Raw + "250 fine\r\n250 and more\r\n"}, same(mistake), true, 0},
		{"a reply too many, at last", script{joe: smtptest.Raw + "250 fine\r\n250 and more\r\n"}, same(mistake), true, 0},
		{"a recipient refused, then garbage", script{bob: "550 5.1.1 who?", eve: smtptest.Raw + "what?\r\n"},
			[]string{"failed of recipient, server says 5.1.1", mistake, mistake}, true, 0},
		{"a recipient refused, then hung up", script{bob: "550 5.1.1 who?", eve: smtptest.Close},
			[]string{"failed of recipient, server says 5.1.1", lost, lost}, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			everyWay(t, func(t *testing.T, way dialect, opts smtptest.Options) {
				if _, ok := tt.script["DATA"]; ok && way.chunking {
					return // there is no DATA
				}
				opts.Replies = tt.script
				arrived := tt.arrived
				srv := smtptest.NewServer(t, opts)
				s := open(t, client(srv))
				m := message(t, letter, "bob@example.com", "eve@example.com", "joe@example.com")
				results := s.Deliver(t.Context(), m, all(m))
				if got := outcomes(results); !reflect.DeepEqual(got, tt.want) {
					t.Errorf("Deliver: %q\nwant %q\n%s", got, tt.want, s.Transcript())
				}
				// The session that mail was refused in takes the next message. Step by step, less is asked, and so
				// not all that ends a session is heard.
				if over := !s.Usable(); over != tt.over && (way.pipelining && !way.chunking || !tt.over) {
					t.Errorf("the session is over: %v, want %v\n%s", over, tt.over, s.Transcript())
				} else if !over {
					for prefix := range tt.script {
						srv.SetReply(prefix, "")
					}
					if got := outcomes(s.Deliver(t.Context(), m, []int{0})); got[0] != "relayed" {
						t.Errorf("the next message: %q\n%s", got, s.Transcript())
					}
					arrived++
				}
				if n := srv.Accepted(); n != arrived {
					t.Errorf("%d messages have arrived, want %d", n, arrived)
				}
				if n := srv.Connections(); n != 1 {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}

// TestElsewhere says which answers leave it open whether another host takes the message.
func TestElsewhere(t *testing.T) {
	const bob, eve = "RCPT TO:<bob@", "RCPT TO:<eve@"
	type script map[string]string
	for _, tt := range []struct {
		name   string
		script script
		want   string // + or - for bob and eve
	}{
		{"all taken", nil, "--"},
		{"MAIL 4xx", script{"MAIL": "451 4.3.0 later"}, "++"},
		{"MAIL 5xx", script{"MAIL": "550 5.7.1 not you"}, "--"},
		{"MAIL 421", script{"MAIL": "421 4.3.2 closing"}, "++"},
		{"MAIL wants a login", script{"MAIL": "530 5.7.0 log in"}, "--"},
		{"all recipients 4xx", script{"RCPT": "451 4.7.1 greylisted"}, "++"},
		{"4xx and 5xx", script{bob: "451 4.7.1 greylisted", eve: "550 5.1.1 who?"}, "+-"},
		{"one was taken", script{eve: "451 4.2.1 later"}, "--"},
		{"hung up at a recipient", script{eve: smtptest.Close}, "++"},
		{"garbage", script{eve: smtptest.Raw + "what?\r\n"}, "++"},
		{"DATA 4xx", script{"DATA": "451 4.7.1 greylisted"}, "++"},
		{"DATA 5xx", script{"DATA": "554 5.6.0 no"}, "--"},
		{"hung up at the content", script{"BODY": smtptest.Close}, "++"},
		{"content 4xx", script{".": "451 4.3.0 later"}, "--"},
		{"content 421", script{".": "421 4.3.2 closing"}, "--"},
		{"content 5xx", script{".": "554 5.6.0 spam"}, "--"},
		{"hung up after the content", script{".": smtptest.Close}, "--"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			everyWay(t, func(t *testing.T, way dialect, opts smtptest.Options) {
				if _, ok := tt.script["DATA"]; ok && way.chunking {
					return // there is no DATA
				}
				opts.Replies = tt.script
				s := open(t, client(smtptest.NewServer(t, opts)))
				m := message(t, letter, "bob@example.com", "eve@example.com")
				if tt.script["BODY"] != "" {
					m.Size = 64 << 20
					m.Content = endless{m.Size}
				}
				if got := elsewhere(s.Deliver(t.Context(), m, all(m))); got != tt.want {
					t.Errorf("elsewhere: %s, want %s\n%s", got, tt.want, s.Transcript())
				}
			})
		})
	}
}

func TestElsewhereForWhatTheServerCannotTake(t *testing.T) {
	for _, tt := range []struct {
		name       string
		extensions []string
		recipients []string
		size       int
		want       string
	}{
		{"too large", []string{"SIZE 1000"}, []string{"bob@example.com"}, 2000, "+"},
		{"beyond ASCII", []string{"8BITMIME"}, []string{"bob@example.com", "ève@example.com"}, 20, "-+"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, client(smtptest.NewServer(t, smtptest.Options{Extensions: tt.extensions})))
			m := message(t, strings.Repeat("x", tt.size-2)+"\r\n", tt.recipients...)
			if got := elsewhere(s.Deliver(t.Context(), m, all(m))); got != tt.want {
				t.Errorf("elsewhere: %s, want %s\n%s", got, tt.want, s.Transcript())
			}
		})
	}
}

func elsewhere(results []mail.Result) string {
	s := ""
	for _, r := range results {
		s += map[bool]string{true: "+", false: "-"}[r.Elsewhere]
	}
	return s
}

// endless is content of many lines that needs no memory.
type endless struct{ size int64 }

func (e endless) ReadAt(p []byte, off int64) (int, error) {
	const line = "all work and no play makes jack a dull boy\r\n"
	if off >= e.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), e.size-off))
	for i := copy(p[:n], line[off%int64(len(line)):]); i < n; {
		i += copy(p[i:n], line)
	}
	return n, nil
}

// TestServerGoesAway has the server end the dialogue at each stage, in each way.
func TestServerGoesAway(t *testing.T) {
	const (
		lost    = "delayed of host, us says 4.4.2"
		farther = "delayed of host, server says 4.3.2"
	)
	for _, stage := range []string{"RSET", "MAIL", "RCPT TO:<eve@", "DATA", "BODY", "."} {
		for _, end := range []string{smtptest.Close, smtptest.Reset, "421 4.3.2 closing"} {
			t.Run(stage+" "+end, func(t *testing.T) {
				everyWay(t, func(t *testing.T, way dialect, opts smtptest.Options) {
					if stage == "DATA" && way.chunking {
						return // there is no DATA
					}
					opts.Replies = map[string]string{"RCPT TO:<nobody@": "550 5.1.1 who?"}
					srv := smtptest.NewServer(t, opts)
					s := open(t, client(srv))
					first := message(t, letter, "nobody@example.com") // so that there is something to reset
					if got := outcomes(s.Deliver(t.Context(), first, all(first))); got[0] != "failed of recipient, server says 5.1.1" {
						t.Fatal(got)
					}
					srv.SetReply(stage, end)
					m := message(t, "", "bob@example.com", "eve@example.com")
					m.Content, m.Size = strings.NewReader(letter), int64(len(letter))
					if stage == "BODY" { // more than the network holds, so that it cannot be out before the server has gone
						m.Size = 64 << 20
						m.Content = endless{m.Size}
					}
					want := lost
					switch {
					case end[0] == '4' && !(stage == "BODY"):
						want = farther
					case stage == ".":
						want = "delayed of message, us says 4.4.2"
					}
					results := s.Deliver(t.Context(), m, all(m))
					for _, r := range results {
						got := outcome(r)
						// What was said right before a reset may or may not get through.
						if got != want && !(stage == "BODY" && end[0] == '4' && got == farther) {
							t.Errorf("%s, want %s\n%s", got, want, s.Transcript())
						}
						if warned := strings.Contains(r.Reply.Text, "may arrive twice"); warned != (stage == "." && !r.Remote) {
							t.Errorf("warned of a duplicate: %v: %s", warned, r.Reply)
						}
					}
					if s.Usable() {
						t.Error("the session is usable")
					}
					if n := srv.Accepted(); n != 0 {
						t.Errorf("%d messages have arrived", n)
					}
				})
			})
		}
	}
}

// TestInterrupted cancels the context at each stage, with a server that has gone silent there.
func TestInterrupted(t *testing.T) {
	for _, stage := range []string{"MAIL", "RCPT", "DATA", "BODY", "."} {
		t.Run(stage, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			srv := smtptest.NewServer(t, smtptest.Options{
				Extensions: []string{"PIPELINING"},
				Replies:    map[string]string{stage: smtptest.Hang},
				OnCommand: func(line string) {
					if strings.HasPrefix(line, stage) {
						cancel()
					}
				},
			})
			s := open(t, client(srv))
			m := message(t, letter, "bob@example.com")
			if stage == "BODY" {
				m.Size = 1 << 40
				m.Content = endless{m.Size}
			}
			got, want := outcomes(s.Deliver(ctx, m, all(m)))[0], outcome(untried)
			if stage == "." {
				want = "delayed of message, us says 4.4.2"
			}
			if got != want || s.Usable() {
				t.Errorf("%s (usable: %v), want %s", got, s.Usable(), want)
			}
		})
	}
}

func TestInterruptedBefore(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Strict: true})
	s := open(t, client(srv))
	m := message(t, letter, "bob@example.com")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := outcomes(s.Deliver(ctx, m, all(m))); got[0] != outcome(untried) || s.Usable() {
		t.Errorf("%s (usable: %v)", got, s.Usable())
	}
}

func TestTooManyRecipients(t *testing.T) {
	var five []string
	for i := range 5 {
		five = append(five, fmt.Sprintf("user%d@example.com", i))
	}
	from2 := func(reply string) map[string]string {
		return map[string]string{"RCPT TO:<user3": reply, "RCPT TO:<user4": reply}
	}
	for _, tt := range []struct {
		name   string
		opts   smtptest.Options
		most   int   // Server.MaxRecipients
		groups []int // recipients of each message that arrived
		want   string
	}{
		{name: "452 from the third on", opts: smtptest.Options{MaxRecipients: 2}, groups: []int{2, 2, 1}},
		{name: "452 from the second on", opts: smtptest.Options{MaxRecipients: 1}, groups: []int{1, 1, 1, 1, 1}},
		{name: "RCPTMAX=1", opts: smtptest.Options{MaxRecipients: 1, Extensions: []string{"LIMITS RCPTMAX=1"}}, groups: []int{1, 1, 1, 1, 1}},
		{name: "RCPTMAX=3", opts: smtptest.Options{MaxRecipients: 3, Extensions: []string{"LIMITS RCPTMAX=3"}}, groups: []int{3, 2}},
		{name: "RCPTMAX rules over our own limit", opts: smtptest.Options{Extensions: []string{"LIMITS RCPTMAX=3"}}, most: 1, groups: []int{3, 2}},
		{name: "our own limit", most: 4, groups: []int{4, 1}},
		{name: "RCPTMAX that is none", opts: smtptest.Options{Extensions: []string{"LIMITS RCPTMAX=abc"}}, groups: []int{5}},
		{name: "452 for two, always", opts: smtptest.Options{Replies: from2("452 4.3.1 full")}, groups: []int{3},
			want: "delayed of recipient, server says 4.3.1"},
		{name: "552 for two, always", opts: smtptest.Options{Replies: from2("552 too many")}, groups: []int{3},
			want: "failed of recipient, server says 5.0.0"},
		{name: "5.5.3 for two, always", opts: smtptest.Options{Replies: from2("550 5.5.3 too many")}, groups: []int{3},
			want: "failed of recipient, server says 5.5.3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			everyWay(t, func(t *testing.T, way dialect, opts smtptest.Options) {
				opts = tt.opts
				opts.Strict, opts.Extensions = true, way.offering(tt.opts.Extensions...)
				srv := smtptest.NewServer(t, opts)
				to := client(srv)
				to.MaxRecipients = tt.most
				s := open(t, to)
				m := message(t, letter, five...)
				for i, got := range outcomes(s.Deliver(t.Context(), m, all(m))) {
					want := "relayed"
					if tt.want != "" && i >= 3 {
						want = tt.want
					}
					if got != want {
						t.Errorf("%s: %s, want %s", five[i], got, want)
					}
				}
				var groups []int
				seen := map[string]bool{}
				for _, m := range srv.Messages() {
					groups = append(groups, len(m.Recipients))
					for _, r := range m.Recipients {
						if seen[r.Address] {
							t.Errorf("%s has it twice", r.Address)
						}
						seen[r.Address] = true
					}
				}
				if !reflect.DeepEqual(groups, tt.groups) {
					t.Errorf("messages arrived for %v recipients, want %v\n%s", groups, tt.groups, s.Transcript())
				}
				if n := srv.Connections(); n != 1 {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}

func TestContentRefusedForTheFirstOfTooMany(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Strict: true, MaxRecipients: 1, Replies: map[string]string{".": "554 5.6.0 spam"}})
	s := open(t, client(srv))
	m := message(t, letter, "bob@example.com", "eve@example.com", "joe@example.com")
	for _, got := range outcomes(s.Deliver(t.Context(), m, all(m))) {
		if got != "failed of message, server says 5.6.0" {
			t.Error(got)
		}
	}
	if n := slices.Index(slices.Compact(srv.Commands()), "RSET"); n >= 0 {
		t.Errorf("another transaction for a message that was refused: %q", srv.Commands())
	}
}

func TestMailMax(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Strict: true, Extensions: []string{"PIPELINING", "LIMITS RCPTMAX=1 MAILMAX=2"}})
	s := open(t, client(srv))
	m := message(t, letter, "bob@example.com", "eve@example.com", "joe@example.com")
	// Another session can be opened at once.
	want := []string{"relayed", "relayed", "delayed of host, us says 4.5.3"}
	if got := outcomes(s.Deliver(t.Context(), m, all(m))); !reflect.DeepEqual(got, want) || s.Usable() {
		t.Errorf("Deliver: %q (usable: %v), want %q", got, s.Usable(), want)
	}
}

// TestThousandsOfRecipients has a server that reads no further while nobody takes its replies.
func TestThousandsOfRecipients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		srv := smtptest.NewPipe(t, smtptest.Options{
			Strict: true, Extensions: []string{"PIPELINING", "DSN", fmt.Sprintf("LIMITS RCPTMAX=%d", n)},
		})
		s := open(t, &Server{Host: "127.0.0.1", Dial: srv.Dial})
		var recipients []string
		for i := range n {
			recipients = append(recipients, fmt.Sprintf("user%d@example.com", i))
		}
		m := message(t, letter, recipients...)
		for i, r := range s.Deliver(t.Context(), m, all(m)) {
			if r.Action != mail.Relayed {
				t.Fatalf("recipient %d: %s (%s)", i, outcome(r), r.Reply)
			}
		}
		if got := srv.Messages(); len(got) != 1 || len(got[0].Recipients) != n {
			t.Errorf("%d messages", len(got))
		}
	})
}

func TestParameters(t *testing.T) {
	const dsn, utf8, eight, size = "DSN", "SMTPUTF8", "8BITMIME", "SIZE 100"
	for _, tt := range []struct {
		name       string
		offers     []string
		change     func(m *mail.Message)
		mail, rcpt string
	}{
		{name: "nothing offered", mail: "<ann@example.org>", rcpt: "<bob@example.com>", change: func(m *mail.Message) {
			m.EightBit, m.Return, m.Envelope.ID, m.Recipients[0].Notify = true, mail.ReturnFull, "x", mail.NotifyNever
		}},
		{name: "the null sender", change: func(m *mail.Message) { m.Sender = mail.NullSender }, mail: "<>", rcpt: "<bob@example.com>"},
		{name: "size", offers: []string{size}, mail: "<ann@example.org> SIZE=25", rcpt: "<bob@example.com>"},
		{name: "7-bit content", offers: []string{eight, utf8}, mail: "<ann@example.org>", rcpt: "<bob@example.com>"},
		{name: "8-bit content", offers: []string{eight}, change: func(m *mail.Message) { m.EightBit = true },
			mail: "<ann@example.org> BODY=8BITMIME", rcpt: "<bob@example.com>"},
		{name: "8-bit header that nobody asked SMTPUTF8 for", offers: []string{eight, utf8}, change: func(m *mail.Message) { m.HeaderUTF8 = true },
			mail: "<ann@example.org> BODY=8BITMIME", rcpt: "<bob@example.com>"},
		{name: "8-bit header that somebody did", offers: []string{utf8}, change: func(m *mail.Message) { m.HeaderUTF8, m.SMTPUTF8 = true, true },
			mail: "<ann@example.org> BODY=8BITMIME SMTPUTF8", rcpt: "<bob@example.com>"},
		{name: "SMTPUTF8 asked for in vain", offers: []string{utf8}, change: func(m *mail.Message) { m.SMTPUTF8 = true },
			mail: "<ann@example.org>", rcpt: "<bob@example.com>"},
		{name: "recipient beyond ASCII", offers: []string{utf8, dsn}, change: func(m *mail.Message) { m.Recipients[0].Path = path(t, "bøb@example.com") },
			mail: "<ann@example.org> SMTPUTF8", rcpt: "<bøb@example.com>"},
		{name: "domains beyond ASCII", offers: []string{utf8, dsn}, change: func(m *mail.Message) {
			m.Sender, m.Recipients[0].Path = path(t, "Ann@Bücher.example"), path(t, "bob@straße.example")
		}, mail: "<Ann@xn--bcher-kva.example>", rcpt: "<bob@xn--strae-oqa.example> ORCPT=rfc822;bob@xn--strae-oqa.example"},
		{name: "domains beyond ASCII, and a server that does not know them", change: func(m *mail.Message) {
			m.Sender, m.Recipients[0].Path = path(t, "Ann@Bücher.example"), path(t, "bob@straße.example")
		}, mail: "<Ann@xn--bcher-kva.example>", rcpt: "<bob@xn--strae-oqa.example>"},
		{name: "local part and domain beyond ASCII", offers: []string{utf8}, change: func(m *mail.Message) { m.Recipients[0].Path = path(t, "bøb@straße.example") },
			mail: "<ann@example.org> SMTPUTF8", rcpt: "<bøb@straße.example>"},
		{name: "notifications", offers: []string{dsn}, change: func(m *mail.Message) {
			m.Return, m.Envelope.ID = mail.ReturnHeaders, "QQ+2B314"
			m.Recipients[0].Notify = mail.NotifySuccess | mail.NotifyFailure
			m.Recipients[0].Original = "rfc822;robert+2B@example.net"
		}, mail: "<ann@example.org> RET=HDRS ENVID=QQ+2B314", rcpt: "<bob@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;robert+2B@example.net"},
		{name: "original recipient made up", offers: []string{dsn}, change: func(m *mail.Message) { m.Recipients[0].Path = path(t, `"b o+b"@example.com`) },
			mail: "<ann@example.org>", rcpt: `<"b o+b"@example.com> ORCPT=rfc822;"b+20o+2Bb"@example.com`},
		{name: "parameters that could end the line", offers: []string{dsn}, change: func(m *mail.Message) {
			m.Envelope.ID, m.Recipients[0].Original = "x\r\nRSET", "rfc822;a b"
		}, mail: "<ann@example.org>", rcpt: "<bob@example.com>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := smtptest.NewServer(t, smtptest.Options{Strict: true, Extensions: append([]string{"PIPELINING"}, tt.offers...)})
			s := open(t, client(srv))
			m := message(t, letter, "bob@example.com")
			if tt.change != nil {
				tt.change(m)
			}
			if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != "relayed" {
				t.Error(got)
			}
			want := []string{"CONNECT", "EHLO client.invalid", "MAIL FROM:" + tt.mail, "RCPT TO:" + tt.rcpt, "DATA", "."}
			if got := srv.Commands(); !reflect.DeepEqual(got, want) {
				t.Errorf("sent %q\nwant %q", got, want)
			}
		})
	}
}

func TestRefusalsForeseen(t *testing.T) {
	for _, tt := range []struct {
		name   string
		offers []string
		change func(m *mail.Message)
		want   []string // of bob and eve
	}{
		{"too big", []string{"SIZE 20"}, nil, []string{"failed of message, us says 5.3.4", "failed of message, us says 5.3.4"}},
		{"just fits", []string{"SIZE 25"}, nil, []string{"relayed", "relayed"}},
		{"sender beyond ASCII", nil, func(m *mail.Message) { m.Sender = path(t, "änn@example.org") },
			[]string{"failed of message, us says 5.6.7", "failed of message, us says 5.6.7"}},
		{"recipient beyond ASCII", nil, func(m *mail.Message) { m.Recipients[0].Path = path(t, "bøb@example.com") },
			[]string{"failed of recipient, us says 5.6.7", "relayed"}},
		{"a domain beyond ASCII that has no other form", nil, func(m *mail.Message) { m.Recipients[0].Path = path(t, "bob@☃\u2028.example") },
			[]string{"failed of recipient, us says 5.6.7", "relayed"}},
		{"header beyond ASCII", nil, func(m *mail.Message) { m.HeaderUTF8, m.SMTPUTF8 = true, true },
			[]string{"failed of message, us says 5.6.9", "failed of message, us says 5.6.9"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := smtptest.NewServer(t, smtptest.Options{Strict: true, Extensions: append([]string{"PIPELINING"}, tt.offers...)})
			s := open(t, client(srv))
			m := message(t, letter, "bob@example.com", "eve@example.com")
			if tt.change != nil {
				tt.change(m)
			}
			if got := outcomes(s.Deliver(t.Context(), m, all(m))); !reflect.DeepEqual(got, tt.want) || !s.Usable() {
				t.Errorf("Deliver: %q (usable: %v), want %q", got, s.Usable(), tt.want)
			}
		})
	}
}

// failingAt is content that cannot be read from an offset on.
type failingAt struct {
	io.ReaderAt
	off int64
}

func (f failingAt) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.off {
		return 0, errors.New("input/output error")
	}
	return f.ReaderAt.ReadAt(p, off)
}

func TestContentThatCannotBeRead(t *testing.T) {
	size := int64(200 << 10)
	for _, tt := range []struct {
		name    string
		content io.ReaderAt
		usable  bool
	}{
		{"not at all", failingAt{endless{size}, 0}, true},
		{"not to its end", failingAt{endless{size}, 100 << 10}, false},
		{"shorter than it was", endless{size - 1}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := smtptest.NewServer(t, smtptest.Options{Strict: true})
			s := open(t, client(srv))
			m := message(t, "", "bob@example.com")
			m.Content, m.Size = tt.content, size
			got := s.Deliver(t.Context(), m, all(m))[0]
			if outcome(got) != "delayed of message, us says 4.3.0" || got.Relay != "" || s.Usable() != tt.usable {
				t.Errorf("%s (usable: %v)", outcome(got), s.Usable())
			}
			s.Close()
			if err := srv.Close(); err != nil {
				t.Error(err)
			}
			if n := srv.Accepted(); n != 0 {
				t.Errorf("%d messages have arrived", n)
			}
		})
	}
}

func TestBigContentArrives(t *testing.T) {
	size := int64(5<<20 + 12345)
	srv := smtptest.NewServer(t, smtptest.Options{Strict: true})
	s := open(t, client(srv))
	m := message(t, "", "bob@example.com")
	m.Content, m.Size = endless{size}, size
	if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != "relayed" {
		t.Fatal(got)
	}
	want, err := io.ReadAll(io.NewSectionReader(endless{size}, 0, size))
	if err != nil {
		t.Fatal(err)
	}
	got := srv.Messages()[0].Content
	if !bytes.Equal(bytes.TrimRight(got, "\r\n"), bytes.TrimRight(want, "\r\n")) {
		t.Errorf("%d octets arrived, not those %d that were sent", len(got), len(want))
	}
}

func TestEveryOctetArrives(t *testing.T) {
	var content []byte
	for c := range 256 {
		if c != '\r' && c != '\n' {
			content = append(content, '.', byte(c), byte(c), '\r', '\n', byte(c), '\r', '\n')
		}
	}
	everyWay(t, func(t *testing.T, way dialect, opts smtptest.Options) {
		srv := smtptest.NewServer(t, opts)
		s := open(t, client(srv))
		m := message(t, string(content), "bob@example.com")
		if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != "relayed" {
			t.Fatal(got)
		}
		if got := srv.Messages()[0].Content; !bytes.Equal(got, content) {
			t.Errorf("sent %q, arrived %q", content, got)
		}
	})
}

// TestAnswerBeforeTheEnd has a server that answers the content along with DATA: that is no yes to what it has not seen.
func TestAnswerBeforeTheEnd(t *testing.T) {
	for _, tt := range []struct{ early, want string }{
		{"250 2.0.0 taken", "delayed of host, us says 4.5.0"},
		{"354 more", "delayed of host, us says 4.5.0"},
		{"552 5.3.4 too big", "failed of message, server says 5.3.4"},
		{"451 4.3.1 full", "delayed of message, server says 4.3.1"},
		{"421 4.3.2 closing", "delayed of host, server says 4.3.2"},
	} {
		srv := smtptest.NewServer(t, smtptest.Options{
			Replies: map[string]string{"DATA": smtptest.Raw + "354 go\r\n" + tt.early + "\r\n"},
		})
		s := open(t, client(srv))
		m := message(t, letter, "bob@example.com")
		if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != tt.want || s.Usable() {
			t.Errorf("%s: %s (usable: %v), want %s", tt.early, got, s.Usable(), tt.want)
		}
		s.Close()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if n := srv.Accepted(); n != 0 {
			t.Errorf("%s: %d messages have arrived", tt.early, n)
		}
	}
}

// TestUnaskedReply has a server say more than it was asked: its next reply is not the answer to the next command.
func TestUnaskedReply(t *testing.T) {
	for _, tt := range []struct{ more, want string }{
		{"250 2.0.0 and again", "delayed of host, us says 4.5.0"},
		{"421 4.3.2 closing", "delayed of host, server says 4.3.2"},
	} {
		srv := smtptest.NewServer(t, smtptest.Options{
			Replies: map[string]string{".": smtptest.Raw + "250 2.0.0 taken\r\n" + tt.more + "\r\n"},
		})
		s := open(t, client(srv))
		m := message(t, letter, "bob@example.com")
		if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != "relayed" {
			t.Errorf("%s: %s", tt.more, got)
		}
		if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != tt.want || s.Usable() {
			t.Errorf("%s: then %s (usable: %v), want %s", tt.more, got, s.Usable(), tt.want)
		}
	}
}

func TestTranscriptIsBounded(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Strict: true, Discard: true, Replies: map[string]string{"RCPT": "250 " + strings.Repeat("x", 2000)}})
	s := open(t, client(srv))
	m := message(t, letter, "bob@example.com")
	for range 200 {
		if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != "relayed" {
			t.Fatal(got)
		}
	}
	log := s.Transcript()
	if len(log) > maxTranscript || cap(s.conn.log.buf) > 8*maxTranscript {
		t.Errorf("%d octets, %d in memory", len(log), cap(s.conn.log.buf))
	}
	if !strings.HasSuffix(log, "C: (25 octets of content, and a dot)\nS: 250 2.0.0 taken\n") || strings.Contains(log, "hello") {
		t.Errorf("the transcript is %s", log)
	}
	for line := range strings.Lines(log) {
		if !strings.HasPrefix(line, "C: ") && !strings.HasPrefix(line, "S: ") {
			t.Errorf("line %q", line)
		}
	}
}

// FuzzEnvelope holds that no address or parameter can make more than one command of itself.
func FuzzEnvelope(f *testing.F) {
	f.Add("ann@example.org", `"a\"> b"@example.com`, "x", "rfc822;y")
	f.Add("", "a@b\r\nDATA", "x y", "rfc822;\n")
	f.Fuzz(func(t *testing.T, sender, recipient, id, original string) {
		from, err := mail.ParsePath(sender)
		if err != nil {
			return
		}
		to, err := mail.ParsePath(recipient)
		if err != nil {
			return
		}
		m := &mail.Message{}
		m.Sender, m.Envelope.ID = from, id
		m.Recipients = []mail.Recipient{{Path: to, Original: original}}
		s := &Session{ext: extensions{pipelining: true, dsn: true, utf8: true, sized: true}}
		tr := &transaction{delivery: &delivery{Session: s, Attempt: mail.Attempt{Message: m, Positions: []int{0}}}, slots: []int{0}}
		for _, line := range []string{string(tr.appendMail(nil)), string(tr.appendRcpt(nil, 0))} {
			text, ok := strings.CutSuffix(line, "\r\n")
			if !ok || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
				t.Fatalf("%q", line)
			}
		}
	})
}
