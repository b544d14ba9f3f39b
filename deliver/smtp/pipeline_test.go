package smtp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/smtptest"
)

// series returns n messages, of which each has a sender, a recipient and a size of its own.
func series(t testing.TB, n int) []*mail.Message {
	var list []*mail.Message
	for i := range n {
		content := "Subject: " + strings.Repeat("x", i) + "\r\n"
		m := message(t, content, fmt.Sprintf("u%d@example.com", i))
		m.Sender = path(t, fmt.Sprintf("s%d@example.org", i))
		list = append(list, m)
	}
	return list
}

// deliverAll hands a session all of the messages at once, and returns the result of the first recipient of each; untried
// for those that it did not take, or gave back.
func deliverAll(t testing.TB, ctx context.Context, s *Session, messages []*mail.Message) []mail.Result {
	t.Helper()
	results := make([]mail.Result, len(messages))
	told := make([]int, len(messages))
	attempts := make(chan mail.Attempt, len(messages))
	for i, m := range messages {
		results[i] = untried
		attempts <- mail.Attempt{Message: m, Positions: all(m), Done: func(r []mail.Result) {
			if told[i]++; r != nil {
				results[i] = r[0]
			}
		}}
	}
	close(attempts)
	err := s.Deliver(ctx, attempts)
	taken := len(messages) - len(attempts)
	for i, n := range told {
		if want := min(1, max(0, taken-i)); n != want {
			t.Errorf("message %d was answered %d times, want %d", i, n, want)
		}
	}
	if err == nil && taken < len(messages) && s.over.Load() {
		t.Error("the session ended early, and did not say why")
	}
	return results
}

func opened(t testing.TB, to *Server) *Session {
	t.Helper()
	s, err := Open(context.Background(), to)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// arrived returns the local parts of the recipients of what the server took.
func arrived(srv *smtptest.Server) []string {
	var list []string
	for _, m := range srv.Messages() {
		for _, r := range m.Recipients {
			list = append(list, m.Sender[:strings.Index(m.Sender, "@")]+" to "+r.Address[:strings.Index(r.Address, "@")])
		}
	}
	return list
}

// TestSeries has one message of eight go wrong while others are on their way: the one alone is told so, and what was on
// its way is taken for no other.
func TestSeries(t *testing.T) {
	const (
		taken   = "relayed"
		later   = "delayed of host, server says 4.7.0"
		perhaps = "delayed of message, us says 4.4.2"
	)
	never := outcome(untried)
	type script map[string]string
	for _, tt := range []struct {
		name   string
		script script
		want   string   // of number 4
		then   []string // what may become of those after it
	}{
		{"nothing", nil, taken, []string{taken}},
		{"recipient refused", script{"RCPT TO:<u4@": "550 5.1.1 who?"}, "failed of recipient, server says 5.1.1", []string{taken}},
		{"recipient refused, and its content taken", script{"RCPT TO:<u4@": "550 5.1.1 who?", "BDAT 15 LAST": "250 fine"}, "failed of recipient, server says 5.1.1", []string{taken}},
		{"sender refused", script{"MAIL FROM:<s4@": "550 5.7.1 not you"}, "failed of message, server says 5.7.1", []string{taken}},
		{"sender deferred", script{"MAIL FROM:<s4@": "451 4.7.1 later"}, "delayed of message, server says 4.7.1", []string{taken}},
		{"content refused", script{"BDAT 15 LAST": "554 5.6.0 spam"}, "failed of message, server says 5.6.0", []string{taken}},
		{"content deferred", script{"BDAT 15 LAST": "452 4.3.1 full"}, "delayed of message, server says 4.3.1", []string{taken}},
		{"login wanted", script{"MAIL FROM:<s4@": "530 5.7.0 log in"}, "delayed of us, server says 4.7.0", []string{taken, never}},
		{"goodbye at MAIL", script{"MAIL FROM:<s4@": "421 4.7.0 enough"}, later, []string{never}},
		{"goodbye at RCPT", script{"RCPT TO:<u4@": "421 4.7.0 enough"}, later, []string{never}},
		{"goodbye at the content", script{"BDAT 15 LAST": "421 4.7.0 enough"}, later, []string{never}},
		{"goodbye at MAIL, and nothing of it", script{"MAIL FROM:<s4@": smtptest.Raw + "421 4.7.0 enough\r\n"}, later, []string{taken, never}},
		{"goodbye at RCPT, and nothing of it", script{"RCPT TO:<u4@": smtptest.Raw + "421 4.7.0 enough\r\n"}, later, []string{taken, never}},
		{"lost at MAIL", script{"MAIL FROM:<s4@": smtptest.Close}, perhaps, []string{perhaps, never}},
		{"lost at RCPT", script{"RCPT TO:<u4@": smtptest.Close}, perhaps, []string{perhaps, never}},
		{"lost at the content", script{"BDAT 15 LAST": smtptest.Close}, perhaps, []string{perhaps, never}},
		{"garbage", script{"RCPT TO:<u4@": smtptest.Raw + "what?\r\n"}, perhaps, []string{perhaps, never}},
		{"go ahead, where it is out of place", script{"MAIL FROM:<s4@": smtptest.Raw + "354 go\r\n"}, perhaps, []string{perhaps, never}},
		{"content taken after the sender was refused", script{
			"MAIL FROM:<s4@": smtptest.Raw + "550 5.7.1 not you\r\n", "RCPT TO:<u4@": smtptest.Raw + "250 fine\r\n", "BDAT 15 LAST": "250 taken",
		}, "failed of message, server says 5.7.1", []string{taken, never}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := smtptest.NewServer(t, smtptest.Options{
				Strict: true, Extensions: []string{"PIPELINING", "CHUNKING"}, Replies: tt.script,
			})
			s := opened(t, client(srv))
			var relayed []string
			for i, got := range outcomes(deliverAll(t, t.Context(), s, series(t, 8))) {
				want := []string{taken}
				if i == 4 {
					want = []string{tt.want}
				} else if i > 4 {
					want = tt.then
				}
				if !slices.Contains(want, got) {
					t.Errorf("message %d: %s, want %q\n%s", i, got, want, s.Transcript())
				}
				if got == taken {
					relayed = append(relayed, fmt.Sprintf("s%d to u%d", i, i))
				}
			}
			// After a reset, or garbage, the server may have taken what we cannot know of.
			got := arrived(srv)
			if known := got[:min(len(got), len(relayed))]; !slices.Equal(known, relayed) || len(got) > len(relayed) && tt.want != perhaps {
				t.Errorf("arrived: %q; relayed: %q", got, relayed)
			}
		})
	}
}

// TestGoodbyeThatIsNone has a server refuse one of two recipients with a 421, and go on.
func TestGoodbyeThatIsNone(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{
		Strict: true, Extensions: []string{"PIPELINING", "CHUNKING"},
		Replies: map[string]string{"RCPT TO:<eve@": smtptest.Raw + "421 4.7.0 not now\r\n"},
	})
	s := open(t, client(srv))
	if got := outcomes(s.Deliver(t.Context(), series(t, 1)[0], []int{0})); got[0] != "relayed" {
		t.Fatal(got)
	}
	m := message(t, letter, "bob@example.com", "eve@example.com")
	want := []string{"relayed", "delayed of host, server says 4.7.0"}
	if got := outcomes(s.Deliver(t.Context(), m, all(m))); !reflect.DeepEqual(got, want) || s.Usable() {
		t.Errorf("%q (usable: %v), want %q", got, s.Usable(), want)
	}
	if got := arrived(srv); !slices.Equal(got, []string{"s0 to u0", "ann to bob"}) {
		t.Errorf("arrived: %q", got)
	}
}

// TestSeriesOverAPipe has a server that reads nothing while its answers are not read, and 200 messages.
func TestSeriesOverAPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := smtptest.NewPipe(t, smtptest.Options{Strict: true, Extensions: []string{"PIPELINING", "CHUNKING"}})
		s := opened(t, &Server{Host: "127.0.0.1", Dial: srv.Dial})
		for i, r := range deliverAll(t, t.Context(), s, series(t, 200)) {
			if r.Action != mail.Relayed {
				t.Fatalf("message %d: %s (%s)", i, outcome(r), r.Reply)
			}
		}
		if n := srv.Accepted(); n != 200 {
			t.Errorf("%d have arrived", n)
		}
	})
}

// TestFlightGrows holds that a server is sent one message, then two at a time, and so on, but never more than it may
// have.
func TestFlightGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, seen := farServer(time.Second)
		s := opened(t, &Server{Host: "127.0.0.1", Dial: dial})
		start := time.Now()
		deliverAll(t, t.Context(), s, series(t, 100))
		// The greeting and EHLO, the first envelope, then 1, 2, 4, 8, 16 and 32 messages, and twice what is left; QUIT.
		if got := time.Since(start).Round(time.Second); got > 12*time.Second {
			t.Errorf("a hundred messages took %v", got)
		}
		if *seen != maxFlight {
			t.Errorf("%d messages on their way at once, want %d", *seen, maxFlight)
		}
	})
}

// farServer answers everything after a while, however much it is sent meanwhile. seen is how many messages it had not
// answered at once.
func farServer(away time.Duration) (dial func(context.Context, string, string) (net.Conn, error), seen *int) {
	type answer struct {
		text string
		at   time.Time
	}
	seen = new(int)
	return func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		replies := make(chan answer, 1000)
		var flight atomic.Int64
		go func() {
			defer close(replies)
			r := bufio.NewReader(theirs)
			text := "220 far away"
			for {
				replies <- answer{text + "\r\n", time.Now().Add(away)}
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				text = "250 fine"
				var size int64
				switch n, _ := fmt.Sscanf(line, "BDAT %d LAST", &size); {
				case n == 1:
					if _, err := io.CopyN(io.Discard, r, size); err != nil {
						return
					}
					text = "250 taken"
					*seen = max(*seen, int(flight.Add(1)))
				case strings.HasPrefix(line, "EHLO"):
					text = "250-far\r\n250-CHUNKING\r\n250 PIPELINING"
				}
			}
		}()
		go func() {
			defer theirs.Close()
			for a := range replies {
				time.Sleep(time.Until(a.at))
				if a.text == "250 taken\r\n" {
					flight.Add(-1)
				}
				if _, err := io.WriteString(theirs, a.text); err != nil {
					return
				}
			}
		}()
		return ours, nil
	}, seen
}

// TestSplitAmongOthers has messages for more recipients than the server takes at once.
func TestSplitAmongOthers(t *testing.T) {
	for _, extensions := range [][]string{{"PIPELINING", "CHUNKING"}, {"PIPELINING", "CHUNKING", "LIMITS RCPTMAX=3"}, {"PIPELINING"}} {
		srv := smtptest.NewServer(t, smtptest.Options{Strict: true, Extensions: extensions, MaxRecipients: 3})
		s := opened(t, client(srv))
		messages := series(t, 20)
		for i, m := range messages {
			if i%3 == 2 {
				for n := range 9 {
					m.Recipients = append(m.Recipients, mail.Recipient{Path: path(t, fmt.Sprintf("u%dx%d@example.com", i, n))})
				}
			}
		}
		for i, r := range deliverAll(t, t.Context(), s, messages) {
			if r.Action != mail.Relayed {
				t.Errorf("%q: message %d: %s (%s)", extensions, i, outcome(r), r.Reply)
			}
		}
		got := arrived(srv)
		slices.Sort(got)
		if n := len(slices.Compact(got)); n != len(got) || n != 20+6*9 {
			t.Errorf("%q: %d recipients were reached, %d of them once", extensions, len(got), n)
		}
		for _, to := range got {
			var sender, recipient int
			if _, err := fmt.Sscanf(to, "s%d to u%d", &sender, &recipient); err != nil || sender != recipient {
				t.Errorf("%q: arrived: %s", extensions, to)
			}
		}
	}
}

// TestUnreadableAmongOthers has a content that cannot be read to its end: those before it are answered.
func TestUnreadableAmongOthers(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Extensions: []string{"PIPELINING", "CHUNKING"}})
	s := opened(t, client(srv))
	messages := series(t, 8)
	const size = 5000 * 44 // whole lines
	messages[4].Size = size
	messages[4].Content = &unsteady{ReaderAt: endless{size}, ends: size, after: failingAt{endless{size}, 100 << 10}}
	got := outcomes(deliverAll(t, t.Context(), s, messages))
	want := append(slices.Repeat([]string{"relayed"}, 4), "delayed of message, us says 4.3.0", outcome(untried), outcome(untried), outcome(untried))
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if n := srv.Accepted(); n != 4 {
		t.Errorf("%d messages have arrived", n)
	}
}

// TestChunksAsTheyAre sends content of every kind: what arrives is what the file has, each CR and LF made part of a CRLF.
func TestChunksAsTheyAre(t *testing.T) {
	big := strings.Repeat("all work and no play\r\n", 100_000)
	for _, tt := range []struct{ name, content, want string }{
		{"nothing", "", ""},
		{"dots", ".\r\n..\r\n.x\r\n", ".\r\n..\r\n.x\r\n"},
		{"no end of the last line", "one", "one\r\n"},
		{"bare LF", "a\nb\r\n", "a\r\nb\r\n"},
		{"bare CR", "a\rb\r\n", "a\r\nb\r\n"},
		{"CR at the end", "a\r\nb\r", "a\r\nb\r\n"},
		{"big", big, big},
		{"big, without an end", big + "x", big + "x\r\n"},
		{"big, a bare LF in the middle", big + "x\ny" + big, big + "x\r\ny" + big},
		{"CRLF across blocks", strings.Repeat("x", blockSize-1) + "\r\n", strings.Repeat("x", blockSize-1) + "\r\n"},
		{"CR and LF that only seem to belong together", "\n" + strings.Repeat("x", blockSize) + "\r", "\r\n" + strings.Repeat("x", blockSize) + "\r\n"},
	} {
		for _, certificate := range []smtptest.Certificate{smtptest.NoTLS, smtptest.Valid} {
			for _, fromFile := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, file %v, TLS %v", tt.name, fromFile, certificate != smtptest.NoTLS), func(t *testing.T) {
					srv := smtptest.NewServer(t, smtptest.Options{Strict: true, Certificate: certificate, Extensions: []string{"PIPELINING", "CHUNKING", "SIZE"}})
					to := client(srv)
					to.TLS = TLSMay
					messages := series(t, 3)
					messages[1].Content, messages[1].Size = strings.NewReader(tt.content), int64(len(tt.content))
					if fromFile {
						messages[1].Content = section(t, tt.content)
					}
					s := opened(t, to)
					for i, r := range deliverAll(t, t.Context(), s, messages) {
						if r.Action != mail.Relayed || (r.TLS != "") != (certificate != smtptest.NoTLS) {
							t.Errorf("message %d: %+v", i, r)
						}
					}
					got := srv.Messages()
					if len(got) != 3 || string(got[1].Content) != tt.want {
						t.Fatalf("%d messages have arrived, not as they should", len(got))
					}
					if want := fmt.Sprintf("SIZE=%d", len(tt.want)); !slices.Contains(got[1].Params, want) {
						t.Errorf("announced %q, want %s", got[1].Params, want)
					}
				})
			}
		}
	}
}

// section returns content as the spool has it: a part of a file.
func section(t *testing.T, content string) io.ReaderAt {
	name := filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(name, []byte("envelope\n"+content+"\ntrailer"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return io.NewSectionReader(f, int64(len("envelope\n")), int64(len(content)))
}

// TestFileThatShrinks has the system send a file that has become shorter.
func TestFileThatShrinks(t *testing.T) {
	content := strings.Repeat("all work and no play\r\n", 100_000)
	part := section(t, content).(*io.SectionReader)
	outer, _, _ := part.Outer()
	name := outer.(*os.File).Name()
	srv := smtptest.NewServer(t, smtptest.Options{Extensions: []string{"PIPELINING", "CHUNKING"}, OnCommand: func(line string) {
		if strings.HasPrefix(line, "RCPT") {
			if err := os.Truncate(name, 1<<20); err != nil {
				t.Error(err)
			}
		}
	}})
	s := open(t, client(srv))
	m := message(t, "", "bob@example.com")
	m.Content, m.Size = part, part.Size()
	if got := outcomes(s.Deliver(t.Context(), m, all(m))); got[0] != "delayed of message, us says 4.3.0" {
		t.Error(got)
	}
	if n := srv.Accepted(); n != 0 {
		t.Errorf("%d messages have arrived", n)
	}
}

// TestSeriesInterrupted cancels while messages are on their way.
func TestSeriesInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	srv := smtptest.NewServer(t, smtptest.Options{
		Extensions: []string{"PIPELINING", "CHUNKING"}, Replies: map[string]string{"MAIL FROM:<s4@": smtptest.Hang},
		OnCommand: func(line string) {
			if strings.HasPrefix(line, "MAIL FROM:<s4@") {
				cancel()
			}
		},
	})
	got := outcomes(deliverAll(t, ctx, opened(t, client(srv)), series(t, 8)))
	for i, r := range got {
		perhaps := r == "delayed of message, us says 4.4.2"
		if !perhaps && r != "relayed" && r != outcome(untried) || i > 4 && r == "relayed" {
			t.Errorf("message %d: %s", i, r)
		}
	}
}

// TestIdleSession has the server hang up while there is nothing to do, with and without a word.
func TestIdleSession(t *testing.T) {
	for _, tt := range []struct{ says, want string }{
		{"", "delayed of host, us says 4.4.2"},
		{"421 4.4.2 idle\r\n", "delayed of host, server says 4.4.2"},
		{"250 2.0.0 and again\r\n", "delayed of host, us says 4.5.0"},
	} {
		srv := smtptest.NewServer(t, smtptest.Options{
			Extensions: []string{"PIPELINING", "CHUNKING"},
			Replies:    map[string]string{".": smtptest.Raw + "250 2.0.0 taken\r\n" + tt.says, "RSET": smtptest.Close},
		})
		s := open(t, client(srv))
		if got := outcomes(s.Deliver(t.Context(), series(t, 1)[0], []int{0})); got[0] != "relayed" {
			t.Fatal(got)
		}
		if tt.says == "" {
			if err := srv.Close(); err != nil {
				t.Fatal(err)
			}
		}
		<-s.ended
		if f, ok := errors.AsType[*mail.Failure](s.err); !ok || outcome(f.Result) != tt.want {
			t.Errorf("%q: Deliver = %v", tt.says, s.err)
		}
	}
}

// TestReplyDeadlineBeginsWhenTheContentIsOut has a network that takes an hour for what the server then answers in time.
func TestReplyDeadlineBeginsWhenTheContentIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := newConn(ours)
		defer c.close()
		go func() {
			time.Sleep(time.Hour)
			if _, err := io.CopyN(io.Discard, theirs, 100); err != nil {
				t.Error(err)
			}
			time.Sleep(59 * time.Second)
			if _, err := io.WriteString(theirs, "250 taken\r\n"); err != nil {
				t.Error(err)
			}
		}()
		go func() {
			if err := c.write(make([]byte, 100), 2*time.Hour); err != nil {
				t.Error(err)
			}
		}()
		if _, err := c.replyTo(100, time.Minute); err != nil {
			t.Error(err)
		}
		start := time.Now()
		if _, err := c.replyTo(100, time.Minute); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// TestSeriesInEveryWay has servers of the other dialects refuse some of what comes.
func TestSeriesInEveryWay(t *testing.T) {
	everyWay(t, func(t *testing.T, _ dialect, opts smtptest.Options) {
		opts.Replies = map[string]string{"RCPT TO:<u2@": "550 5.1.1 who?", "MAIL FROM:<s5@": "451 4.7.1 later", "RCPT TO:<u6@": "452 4.2.2 full"}
		srv := smtptest.NewServer(t, opts)
		got := outcomes(deliverAll(t, t.Context(), opened(t, client(srv)), series(t, 9)))
		want := slices.Repeat([]string{"relayed"}, 9)
		want[2], want[5], want[6] = "failed of recipient, server says 5.1.1", "delayed of message, server says 4.7.1", "delayed of recipient, server says 4.2.2"
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if got := arrived(srv); !slices.Equal(got, []string{"s0 to u0", "s1 to u1", "s3 to u3", "s4 to u4", "s7 to u7", "s8 to u8"}) {
			t.Errorf("arrived: %q", got)
		}
	})
}

// TestResetBehindWhatIsUnanswered has a message be taken between the moment when the next one is begun and the moment when
// it is on its way: the one after that is preceded by RSET none the less.
func TestResetBehindWhatIsUnanswered(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	s := &Session{server: (&Server{Host: "127.0.0.1"}).withDefaults(), conn: newConn(ours), clean: true}
	defer s.conn.close()
	p := &pipeline{Session: s, change: make(chan struct{}, 1), heard: make(chan struct{}), room: 1}
	for _, m := range series(t, 3) {
		p.take(mail.Attempt{Message: m, Positions: all(m), Done: func([]mail.Result) {}}, true)
	}
	first, _, _ := p.begun()
	p.launch(first)
	p.room = 2
	second, _, _ := p.begun()
	first.accepted = first.slots
	p.answered(first)
	p.launch(second)
	third, _, _ := p.begun()
	if first.reset || !second.reset || !third.reset {
		t.Errorf("RSET before each: %v, %v, %v; want it before the second and the third", first.reset, second.reset, third.reset)
	}
}

// A step is what a staged server waits for, and what it says then.
type step struct{ until, say string }

// gone is what a server waits for until the client hangs up.
const gone = "\x00"

// staged dials a server with PIPELINING and CHUNKING that takes the first message of a series, plays the steps and hangs
// up.
func staged(t *testing.T, steps ...step) *Server {
	steps = append([]step{
		{"", "220 stage\r\n"},
		{"EHLO stage\r\n", "250-stage\r\n250-CHUNKING\r\n250 PIPELINING\r\n"},
		{"RCPT TO:<u0@example.com>\r\n", "250 fine\r\n250 fine\r\n"},
		{"Subject: \r\n", "250 taken\r\n"},
	}, steps...)
	return &Server{Host: "127.0.0.1", Hello: "stage", Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			r := bufio.NewReader(theirs)
			for _, step := range steps {
				for read := ""; !strings.HasSuffix(read, step.until); {
					c, err := r.ReadByte()
					if err != nil && step.until == gone {
						return
					}
					if err != nil {
						t.Errorf("the client hangs up after %q; %q should come", read, step.until)
						return
					}
					read += string(c)
				}
				if _, err := io.WriteString(theirs, step.say); err != nil {
					t.Error(err)
				}
			}
		}()
		return pipeEnd{ours}, nil
	}}
}

// A pipeEnd can be read when the other end is closed, whatever the deadline, as a socket can.
type pipeEnd struct{ net.Conn }

func (p pipeEnd) SetReadDeadline(t time.Time) error {
	if err := p.Conn.SetReadDeadline(t); err != io.ErrClosedPipe {
		return err
	}
	return nil
}

// TestLastWords has a server say goodbye to the second of three messages when it has read all three, and hang up.
func TestLastWords(t *testing.T) {
	const perhaps = "delayed of message, us says 4.4.2"
	for _, tt := range []struct{ name, says, second, third string }{
		{"at the content of a message for nobody", "250 fine\r\n550 5.1.1 who?\r\n421 4.7.0 enough\r\n", "failed of recipient, server says 5.1.1", outcome(untried)},
		{"at the content of a refused message", "550 5.7.1 no\r\n503 5.5.1 no\r\n421 4.7.0 enough\r\n", "failed of message, server says 5.7.1", outcome(untried)},
		{"at a recipient of a refused message", "550 5.7.1 no\r\n421 4.7.0 enough\r\n", "failed of message, server says 5.7.1", outcome(untried)},
		{"and goes on to answer", "250 fine\r\n421 4.7.0 not now\r\n503 5.5.1 nobody\r\n", "delayed of host, server says 4.7.0", perhaps},
		{"and has more to say in taking it", "250 fine\r\n421 4.7.0 not now\r\n503 5.5.1 nobody\r\n250 fine\r\n", "delayed of host, server says 4.7.0", perhaps},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := opened(t, staged(t, step{"Subject: xx\r\n", tt.says}))
				got := outcomes(deliverAll(t, t.Context(), s, series(t, 3)))
				if want := []string{"relayed", tt.second, tt.third}; !slices.Equal(got, want) {
					t.Errorf("%q, want %q", got, want)
				}
			})
		})
	}
}

// TestSilenceAfterGoodbye has a server say goodbye to the second of three messages when it has read all three, and neither
// hang up nor go on.
func TestSilenceAfterGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := opened(t, staged(t, step{"Subject: xx\r\n", "250 fine\r\n250 fine\r\n421 4.7.0 enough\r\n"}, step{gone, ""}))
		start := time.Now()
		got := outcomes(deliverAll(t, t.Context(), s, series(t, 3)))
		want := []string{"relayed", "delayed of host, server says 4.7.0", "delayed of message, us says 4.4.2"} // it may go on reading
		if waited := time.Since(start); !slices.Equal(got, want) || waited != 5*time.Second {
			t.Errorf("%q after %v, want %q after 5s", got, waited, want)
		}
	})
}

// TestSilenceWhenWeCannotBeHeard has a network take nothing of what we say, whoever waits for the answer, before or after.
func TestSilenceWhenWeCannotBeHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := newConn(ours)
		defer c.close()
		reply := func() error { _, err := c.replyTo(100, 10*time.Minute); return err }
		before, start := make(chan error), time.Now()
		go func() { before <- reply() }()
		if err := c.write(make([]byte, 100), time.Minute); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		if err := <-before; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute+5*time.Second {
			t.Errorf("before: %v after %v, want 1m5s", err, time.Since(start))
		}
		start = time.Now()
		if err := reply(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 5*time.Second {
			t.Errorf("after: %v after %v, want 5s", err, time.Since(start))
		}
	})
}

// TestLostInTheMiddle has a server hang up with one message sent to it, and a part of the next: only that one can have arrived.
func TestLostInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := opened(t, staged(t, step{"MAIL FROM:<s2@", ""}))
		messages := series(t, 3)
		long := message(t, "Subject: long\r\n\r\n"+strings.Repeat("long\r\n", 5000), "u2@example.com")
		long.Sender, messages[2] = messages[2].Sender, long
		got := outcomes(deliverAll(t, t.Context(), s, messages))
		if want := []string{"relayed", "delayed of message, us says 4.4.2", outcome(untried)}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// TestUnreadableBehindWhatIsNotSentYet has a content that cannot be read, when the message before it is still to be sent.
func TestUnreadableBehindWhatIsNotSentYet(t *testing.T) {
	for _, tt := range []struct{ name, says, second string }{
		{"that is taken", "250 fine\r\n250 fine\r\n250 taken\r\n", "relayed"},
		{"that is not answered", "250 fine\r\n", "delayed of message, us says 4.4.2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := opened(t, staged(t, step{"Subject: x\r\n", tt.says}))
				messages := series(t, 3)
				m := messages[2]
				m.Content = &unsteady{ReaderAt: m.Content, ends: m.Size, after: failingAt{m.Content, 0}}
				got := outcomes(deliverAll(t, t.Context(), s, messages))
				if want := []string{"relayed", tt.second, "delayed of message, us says 4.3.0"}; !slices.Equal(got, want) {
					t.Errorf("%q, want %q", got, want)
				}
			})
		})
	}
}

// TestInterruptedIsNotTheServersDoing cancels between two transactions of a message.
func TestInterruptedIsNotTheServersDoing(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	s := &Session{server: &Server{Host: "127.0.0.1"}, conn: newConn(ours)}
	defer s.conn.close()
	s.conn.interrupted.Store(true)
	if got := outcome(s.noMore()); got != "delayed of us, us says 4.3.2" {
		t.Error(got)
	}
}

// TestLongReply has a recipient refused in very many words, of which not all are kept.
func TestLongReply(t *testing.T) {
	srv := smtptest.NewServer(t, smtptest.Options{Replies: map[string]string{
		"RCPT TO:<u0@": "550 5.1.1 " + strings.Repeat(strings.Repeat("no ", 300)+"\n", 50) + "never",
	}})
	r := deliverAll(t, t.Context(), opened(t, client(srv)), series(t, 1))[0]
	if text := r.Reply.Text; r.Action != mail.Failed || !strings.HasPrefix(text, "no no ") || !strings.HasSuffix(text, " [cut]") || len(text) > maxKept+10 {
		t.Errorf("%v, with %d octets: %.100s", r.Action, len(text), text)
	}
}

// TestPanic has our own code panic on either side of a pipeline while a message is not answered.
func TestPanic(t *testing.T) {
	for _, tt := range []struct {
		name      string
		inContent bool
		steps     []step
		want      []string
	}{
		{"sender", true, []step{{"Subject: x\r\n", ""}, {gone, ""}}, []string{"relayed", "delayed of message, us says 4.4.2", ""}},
		{"reader", false, []step{{"Subject: xx\r\n", "250 fine\r\n250 fine\r\n250 taken\r\n"}, {gone, ""}}, []string{"relayed", "relayed", "delayed of message, us says 4.4.2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := opened(t, staged(t, tt.steps...))
				messages, got := series(t, 3), make([]string, 3)
				if tt.inContent {
					messages[2].Content = panicking{}
				}
				attempts, crash := make(chan mail.Attempt), make(chan any)
				go func() {
					defer func() { crash <- recover() }()
					t.Errorf("Deliver = %v", s.Deliver(t.Context(), attempts))
				}()
				for i, m := range messages {
					if tt.inContent {
						synctest.Wait() // those before it are on their way
					}
					attempts <- mail.Attempt{Message: m, Positions: all(m), Done: func(results []mail.Result) {
						got[i] += outcomes(results)[0]
						if i == 1 && !tt.inContent {
							panic("boom")
						}
					}}
				}
				if c := <-crash; c != "boom" {
					t.Errorf("Deliver panics with %v", c)
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("%q, want %q", got, tt.want)
				}
			})
		})
	}
}

type panicking struct{}

func (panicking) ReadAt([]byte, int64) (int, error) { panic("boom") }
