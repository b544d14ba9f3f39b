package submitd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
)

// A queue takes messages, unless it refuses them.
type queue struct {
	submissions []submit.Submission
	contents    []string
	refuse      error
	unread      bool // refuse without having read anything
}

func (q *queue) submit(s submit.Submission) (mail.ID, error) {
	if q.unread {
		return "", q.refuse
	}
	b, err := io.ReadAll(s.Content)
	if err != nil {
		return "", submit.Unreadable(err)
	}
	if q.refuse != nil {
		return "", q.refuse
	}
	q.submissions, q.contents = append(q.submissions, s), append(q.contents, string(b))
	return mail.MakeID(testTime.Add(time.Duration(len(q.contents))*time.Microsecond), 0), nil
}

var testTime = time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC)

func (q *queue) server() *Server {
	return &Server{
		UID: 1000, Author: func() submit.Author { return submit.Author{Login: "ann", Name: "Ann Example"} },
		Submit: q.submit, Now: func() time.Time { return testTime },
	}
}

// pair returns both ends of a connection over a socket.
func pair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return server, client
}

// connect starts a server, and returns the client's end of a connection to it. The server has ended when the test does.
func (q *queue) connect(t *testing.T) net.Conn {
	t.Helper()
	server, client := pair(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := q.server().Serve(context.Background(), server); err != nil {
			t.Errorf("Serve: %v", err)
		}
		server.Close()
	}()
	t.Cleanup(func() { client.Close(); <-ended })
	return client
}

func path(t *testing.T, addr string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(addr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// request returns one in which everything is said.
func request(t *testing.T, content io.Reader) Request {
	r := Request{FullName: "Jürgen \"J\" Example", Submission: submit.Submission{
		Content: content, HeaderRecipients: true, Notify: mail.NotifyFailure | mail.NotifyDelay, AsIs: true, Protocol: "ESMTP", Partly: true, Returns: true,
		Rejected: mail.AddressErrors{{Item: "a b\n+=", Err: errors.New("blank in address")}},
	}}
	r.Sender = path(t, "jürgen@example.org")
	r.Recipients = []mail.Recipient{{Path: path(t, "bob@example.net")}, {Path: path(t, `"c d"@x`), Notify: mail.NotifyNever, Original: "rfc822;c+20d@x"}}
	r.Return, r.ID, r.SMTPUTF8 = mail.ReturnHeaders, "id+2B", true
	day := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	r.Priority, r.TLS, r.Hold = -3, mail.TLSRequired, mail.Hold{Until: day, Asked: "for;3600"}
	r.DeliverBy = mail.DeliverBy{Deadline: day.Add(time.Hour), Return: true, Trace: true}
	return r
}

// send hands in a message.
func send(c *Client, r Request) (mail.ID, error) {
	p, err := c.Receive(r)
	if err != nil {
		return "", err
	}
	return p.Commit()
}

func TestEverythingArrives(t *testing.T) {
	q := &queue{}
	c := NewClient(q.connect(t))
	large := strings.Repeat("Subject: hello\n\x00\r0\n", 50_000)
	for n, content := range []string{"To: x\n\nhello\n", large, "", "0\n"} {
		r := request(t, iotest.HalfReader(strings.NewReader(content)))
		id, err := send(c, r)
		if err != nil || len(q.contents) != n+1 || q.contents[n] != content {
			t.Fatalf("message %d: %s, %v", n, id, err)
		}
		want := r.Submission
		want.Arrival, want.Submitter = testTime, 1000
		got := q.submissions[n]
		if got.Author() != (submit.Author{Login: "ann", Name: r.FullName}) {
			t.Errorf("author %v", got.Author())
		}
		opts := []cmp.Option{
			cmpopts.IgnoreFields(submit.Submission{}, "Content", "Author"), cmp.Comparer(func(a, b mail.Path) bool { return a == b }),
			cmp.Comparer(func(a, b *mail.AddressError) bool { return a.Error() == b.Error() }),
		}
		if diff := cmp.Diff(want, got, opts...); diff != "" {
			t.Errorf("message %d (-sent +taken):\n%s", n, diff)
		}
	}
}

// What a client does not say is for the server to know.
func TestUnsigned(t *testing.T) {
	q := &queue{}
	r := Request{Unsigned: true, Submission: submit.Submission{Content: strings.NewReader("hi\n")}}
	r.Sender = path(t, "root@elsewhere.example")
	r.Recipients = []mail.Recipient{{Path: path(t, "bob"), Expanded: true}}
	if _, err := send(NewClient(q.connect(t)), r); err != nil {
		t.Fatal(err)
	}
	s := q.submissions[0]
	if s.Sender.Address() != "ann" || s.Author().Name != "Ann Example" || s.Submitter != 1000 || s.Recipients[0].Expanded {
		t.Errorf("taken: %+v by %v", s, s.Author())
	}
}

func TestDots(t *testing.T) {
	q := &queue{}
	s := submit.Submission{Content: strings.NewReader("a\n..b\n.\nc\n"), Dots: true}
	if _, err := send(NewClient(q.connect(t)), Request{Submission: s}); err != nil {
		t.Fatal(err)
	}
	if q.contents[0] != "a\n.b\n" || q.submissions[0].Dots {
		t.Errorf("taken: %q, %+v", q.contents[0], q.submissions[0])
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct{ err, want error }{
		{submit.Refuse(69, mail.EnhancedCode{5, 3, 4}, "message is larger than %d octets", 10), submit.Refuse(69, mail.EnhancedCode{5, 3, 4}, "message is larger than 10 octets")},
		{&submit.Error{Status: 65, Code: mail.EnhancedCode{5, 1, 3}, Err: errors.New("two\nlines"), Returned: true},
			&submit.Error{Status: 65, Code: mail.EnhancedCode{5, 1, 3}, Err: errors.New("two lines"), Returned: true}},
		{submit.NotQueued(os.ErrPermission), submit.NotQueued(os.ErrPermission)},
		{errors.New("who knows"), submit.NotQueued(errors.New("who knows"))},
		{submit.Refuse(64, mail.EnhancedCode{5, 5, 1}, "%s", strings.Repeat("x", 10_000)), nil},
	} {
		for _, unread := range []bool{false, true} {
			q := &queue{refuse: tt.err, unread: unread}
			c := NewClient(q.connect(t))
			_, err := send(c, request(t, strings.NewReader(strings.Repeat("x", 3*chunkSize))))
			var got, want *submit.Error
			if !errors.As(err, &got) {
				t.Fatalf("%.80v is told as %.80v", tt.err, err)
			}
			if errors.As(tt.want, &want) && (got.Status != want.Status || got.Code != want.Code || got.Error() != want.Error() || got.Returned != want.Returned) {
				t.Errorf("%.80v is told as %+v, want %+v", tt.err, got, want)
			}
			// The connection goes on.
			q.refuse, q.unread = nil, false
			if _, err := send(c, request(t, strings.NewReader("hi\n"))); err != nil || len(q.contents) != 1 {
				t.Errorf("after %.80v: %d messages, %.80v", tt.err, len(q.contents), err)
			}
		}
	}
}

// A client that is not sendmail may not have looked whether what it asks for makes sense.
func TestTimes(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(r *Request)
		want string // "" if the message is taken
	}{
		{"sixty days", func(r *Request) { r.Hold.Until = testTime.Add(mail.MaxHold) }, ""},
		{"a second more", func(r *Request) { r.Hold.Until = testTime.Add(mail.MaxHold + time.Second) }, "a message is held for 60 days at most"},
		{"over while the message was written", func(r *Request) { r.Hold.Until = testTime.Add(-time.Hour) }, ""},
		{"a report", func(r *Request) { r.Sender = mail.NullSender }, "a report is not held"},
		{"a deadline before", func(r *Request) { r.DeliverBy.Deadline = testTime.Add(time.Hour) }, "the message is to be delivered before it may be sent"},
	} {
		q := &queue{}
		c := NewClient(q.connect(t))
		r := request(t, strings.NewReader("hi\n"))
		r.DeliverBy.Deadline = testTime.Add(2 * mail.MaxHold)
		tt.edit(&r)
		_, err := send(c, r)
		var refusal *submit.Error
		switch {
		case tt.want == "":
			if err != nil || len(q.contents) != 1 {
				t.Errorf("%s: %v", tt.name, err)
			}
		case !errors.As(err, &refusal) || refusal.Status != submit.ExitUsage || refusal.Code != mail.EnhancedCode{5, 5, 4} || err.Error() != tt.want:
			t.Errorf("%s: %+v, want %q", tt.name, err, tt.want)
		}
		// The connection goes on.
		if _, err := send(c, request(t, strings.NewReader("next\n"))); err != nil || q.contents[len(q.contents)-1] != "next\n" {
			t.Errorf("after %s: %q, %v", tt.name, q.contents, err)
		}
	}
}

// What cannot be read to its end is forgotten, and the next message is not in its way.
func TestGivenUp(t *testing.T) {
	q := &queue{}
	c := NewClient(q.connect(t))
	torn := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("torn")))
	var refusal *submit.Error
	if _, err := send(c, request(t, torn)); !errors.As(err, &refusal) || refusal.Status != submit.ExitIO || !strings.Contains(err.Error(), "torn") {
		t.Errorf("torn content: %v", err)
	}
	p, err := c.Receive(request(t, strings.NewReader("unwanted")))
	if err == nil {
		err = p.Abort()
	}
	if err != nil {
		t.Errorf("Abort: %v", err)
	}
	if _, err := send(c, request(t, strings.NewReader("wanted"))); err != nil || len(q.contents) != 1 || q.contents[0] != "wanted" {
		t.Errorf("taken %q, %v", q.contents, err)
	}
}

// wire is what a client sends for one message.
func wire(t *testing.T) string {
	var sent strings.Builder
	c := NewClient(script{strings.NewReader("0 7UU4F9BFZU0\n"), &sent})
	if id, err := send(c, request(t, iotest.OneByteReader(strings.NewReader("hello\n")))); err != nil || id != "7UU4F9BFZU0" {
		t.Fatalf("%s, %v", id, err)
	}
	return sent.String()
}

// A client that dies, wherever that is, has not sent a message.
func TestCutOff(t *testing.T) {
	whole := wire(t)
	for n := range len(whole) {
		q := &queue{}
		answers := serve(t, q, whole[:n])
		if len(q.contents) > 0 || strings.Contains(answers, "0 ") {
			t.Fatalf("%d messages were taken of %q; answers %q", len(q.contents), whole[:n], answers)
		}
	}
	q := &queue{}
	if answers := serve(t, q, whole+whole); len(q.contents) != 2 || strings.Count(answers, "\n") != 2 {
		t.Errorf("%d messages were taken of two; answers %q", len(q.contents), answers)
	}
}

// A script is the other end of a connection that says what it has to, whatever it hears.
type script struct {
	io.Reader
	io.Writer
}

func (s script) SetReadDeadline(time.Time) error  { return nil }
func (s script) SetWriteDeadline(time.Time) error { return nil }

func serve(t *testing.T, q *queue, in string) (answers string) {
	t.Helper()
	var replies strings.Builder
	_ = q.server().Serve(context.Background(), script{strings.NewReader(in), &replies}) // what is wrong is in the answers
	return replies.String()
}

func TestWrongRequests(t *testing.T) {
	const start = greeting + "\n"
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"SMTP", "EHLO app\n", "64 5.5.2 - "},
		{"a newer version", "postrider-submit 2\n\n", "64 5.5.2 - "},
		{"an unknown field", start + "file: /etc/passwd\n", "64 5.5.2 - "},
		{"a field without value", start + "sender\n", "64 5.5.2 - "},
		{"CR LF", start + "sender: <a@x>\r\n", "64 5.5.2 - "},
		{"NUL", start + "sender: <a\x00@x>\n", "64 5.5.2 - "},
		{"a sender without brackets", start + "sender: a@x\n", "64 5.5.2 - "},
		{"nobody as a recipient", start + "recipient: <>\n", "64 5.5.2 - "},
		{"a flag with a value", start + "as-is: no\n", "64 5.5.2 - "},
		{"a name of a protocol with a line in it", start + "protocol: SMTP\tX\n", "64 5.5.2 - "},
		{"a name of a protocol with a word in it", start + "protocol: SMTP id 1\n", "64 5.5.2 - "},
		{"an identifier that is not xtext", start + "envid: a=b\n", "64 5.5.2 - "},
		{"a line that is too long", start + "name: " + strings.Repeat("x", maxRequestLine) + "\n", "64 5.5.2 - "},
		{"a line without end", start + strings.Repeat("x", 2*chunkSize), "64 5.5.2 - "},
		{"too many lines", start + strings.Repeat("recipient: <"+strings.Repeat("x", 1000)+"@x>\n", maxRequest/1000), "64 5.5.2 - "},
		{"a chunk of nobody knows what", start + "\nhello\n0\n", ""},
		{"a chunk of less than nothing", start + "\n-1\nx0\n", ""},
		{"a chunk of more than anybody has", start + "\n99999999999\nx0\n", ""},
	} {
		q := &queue{}
		if got := serve(t, q, tt.in); !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") || len(q.contents) > 0 {
			t.Errorf("%s: answer %q, want %q...; taken: %q", tt.name, got, tt.want, q.contents)
		}
	}
}

// Whatever a server does instead of answering, the message counts as not queued.
func TestWrongAnswers(t *testing.T) {
	for _, answer := range []string{"", "0", "0 \n", "0 ../../etc\n", "hello\n", "999 5.0.0 - x\n", "-1 5.0.0 - x\n", "65 x\n", strings.Repeat("0", 2*maxAnswer) + "\n"} {
		c := NewClient(script{strings.NewReader(answer), io.Discard})
		_, err := send(c, request(t, strings.NewReader("hi\n")))
		var refusal *submit.Error
		if !errors.As(err, &refusal) || refusal.Status != submit.ExitTemporary {
			t.Errorf("answer %.20q: %v", answer, err)
		}
	}
}

// A server that hangs up early has said why, and that is what counts.
func TestAnswerBeforeTheEnd(t *testing.T) {
	server, client := pair(t)
	go func() {
		io.ReadFull(server, make([]byte, 10))
		io.WriteString(server, "75 4.3.2 - too many submissions at once\n")
		server.Close()
	}()
	_, err := send(NewClient(client), request(t, strings.NewReader(strings.Repeat("x", 10<<20))))
	var refusal *submit.Error
	if !errors.As(err, &refusal) || refusal.Code != (mail.EnhancedCode{4, 3, 2}) {
		t.Errorf("error %v", err)
	}
}

func TestPeerUID(t *testing.T) {
	server, client := pair(t)
	for _, end := range []net.Conn{server, client} {
		if uid, err := PeerUID(end.(*net.UnixConn)); err != nil || uid != os.Getuid() {
			t.Errorf("PeerUID = %d, %v; want %d", uid, err, os.Getuid())
		}
	}
}

func TestDial(t *testing.T) {
	dir := t.TempDir()
	if _, err := Dial(dir); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), filepath.Join(dir, Socket)) {
		t.Errorf("nobody there: %v", err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, Socket))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	l.Close()
}

// pauseHere is where a client does something else for a while.
const pauseHere = "..."

// Nobody keeps a connection without a word. A message may take its time.
func TestTimeouts(t *testing.T) {
	for _, tt := range []struct {
		name, say string
		want      time.Duration
	}{
		{"says nothing", "", time.Minute},
		{"stops in the request", greeting + "\nsender: <", time.Minute},
		{"stops in the message", greeting + "\nrecipient: <bob>\n\n5\nhe", contentTimeout},
		{"stops after some of the message", greeting + "\nrecipient: <bob>\n\n5\nhello" + pauseHere + "2\nyo", contentTimeout + contentTimeout/2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, client := net.Pipe()
				go func() {
					for n, part := range strings.Split(tt.say, pauseHere) {
						time.Sleep(time.Duration(n) * contentTimeout / 2)
						io.WriteString(client, part)
					}
				}()
				q := &queue{}
				s := q.server()
				s.Now, s.Idle = time.Now, time.Minute
				start := time.Now()
				err := s.Serve(t.Context(), server)
				if took := time.Since(start); took != tt.want || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("over after %v, %v; want %v", took, err, tt.want)
				}
				server.Close()
				client.Close()
			})
		})
	}
}

// Nothing is read of a client whose turn it is not, so he needs no memory.
func TestTurn(t *testing.T) {
	q := &queue{}
	s := q.server()
	turns := 0
	s.Turn = func(serve func() error) error {
		if turns++; turns > 1 {
			return submit.Refuse(75, mail.EnhancedCode{4, 3, 2}, "too many")
		}
		return serve()
	}
	var answers strings.Builder
	err := s.Serve(t.Context(), script{strings.NewReader(wire(t) + wire(t) + wire(t)), &answers})
	if first, second, _ := strings.Cut(answers.String(), "\n"); !strings.HasPrefix(first, "0 ") || second != "75 4.3.2 - too many\n" || len(q.contents) != 1 || err == nil {
		t.Errorf("%d messages were taken, %v; answers %q", len(q.contents), err, answers.String())
	}
}

// Told to end, a server waits for the message under way, and for no other.
func TestStop(t *testing.T) {
	whole := wire(t)
	for _, tt := range []struct {
		name, before, after string
		messages            int
		want                time.Duration
	}{
		{"without a word", "", "", 0, graceTime},
		{"after a message", whole, "", 1, graceTime},
		{"at a request that is on its way", whole, whole, 2, graceTime},
		{"in a request", whole[:40], whole[40:], 1, graceTime},
		{"in a message", whole[:len(whole)-3], whole[len(whole)-3:], 1, graceTime},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, client := net.Pipe()
				go io.Copy(io.Discard, client)
				q := &queue{}
				s := q.server()
				s.Idle = time.Minute
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- s.Serve(ctx, server) }()
				io.WriteString(client, tt.before)
				synctest.Wait()
				start := time.Now()
				stop()
				io.WriteString(client, tt.after)
				if err := <-ended; err != nil || len(q.contents) != tt.messages || time.Since(start) != tt.want {
					t.Errorf("over after %v with %d messages, %v; want %v, %d", time.Since(start), len(q.contents), err, tt.want, tt.messages)
				}
				server.Close()
				client.Close()
			})
		})
	}
}

func ExampleClient() {
	conn := script{strings.NewReader("0 7UU4F9BFZU0\n"), os.Stdout}
	r := Request{Unsigned: true, Submission: submit.Submission{Content: strings.NewReader("Subject: hello\n\nIt works.\n")}}
	bob, err := mail.ParsePath("bob@example.net")
	if err != nil {
		panic(err)
	}
	r.Recipients = []mail.Recipient{{Path: bob, Notify: mail.NotifyFailure}}
	p, err := NewClient(conn).Receive(r)
	if err != nil {
		panic(err)
	}
	id, err := p.Commit()
	fmt.Println(id, err)
	// Output:
	// postrider-submit 1
	// recipient: notify=FAILURE <bob@example.net>
	//
	// 26
	// Subject: hello
	//
	// It works.
	// 0
	// 7UU4F9BFZU0 <nil>
}
