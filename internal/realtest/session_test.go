package realtest

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/mail"
	"slices"
	"strings"
	"testing"
)

// TestSessions has single messages go to ports of Postfix that differ in what they offer and refuse. The system trusts
// nobody's certificates: ca_file must.
func TestSessions(t *testing.T) {
	prove(t)
	bin := build(t)
	w := newWorld(t, sendersAndPostfix.root(t))
	w.furnish()
	w.startPostfix()
	w.install(bin)
	for _, tt := range []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"every login", testEveryLogin},
		{"implicit TLS, the strongest login", testImplicitTLS},
		{"nothing is sent without trust", testTrust},
		{"a server with few extensions", testSimpleServer},
		{"a server that takes few recipients", testFewRecipients},
		{"a server that refuses recipients", testRefusals},
		{"a message that is too large", testTooLarge},
		{"a report of success", testSuccessReport},
		{"delivery in the background", testBackground},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, w.with(t)) })
	}
}

// transportConfig is a configuration with one transport to a service of the receiving side.
func transportConfig(scheme, name, more string) string {
	return fmt.Sprintf(`
domain   = "web1.example"
hostname = "web1.example"
delivery = "queue"
log      = "stderr"
[retry]
first = "1s"
[transport.relay]
url           = "%s://%s@localhost:%d"
password_file = "/etc/postrider/relay.password"
%s
[[route]]
transport = "relay"
`, scheme, relayUser, services[name].port, more)
}

const trust = `ca_file = "/etc/postrider/ca.pem"`

// submit sends a small message with our sendmail.
func (w *world) submit(recipients ...string) {
	w.t.Helper()
	message := "From: ann@web1.example\nTo: " + strings.Join(recipients, ", ") + "\nSubject: hello\n\nhello\n.\n"
	if out, err := w.run("ann", []byte(message), append([]string{"/usr/local/sbin/sendmail", "-i"}, recipients...)...); err != nil || out != "" {
		w.t.Fatalf("sendmail: %v\n%s", err, out)
	}
}

// passUntilEmpty makes passes until the queue is empty, and returns their log. What is deferred is due again after a
// second.
func (w *world) passUntilEmpty() string {
	w.t.Helper()
	var logs strings.Builder
	w.eventually("the queue is empty", func() bool {
		_, log := w.pass()
		logs.WriteString(log)
		return w.mailq() == "Mail queue is empty\n"
	})
	return logs.String()
}

// loggedIn reports whether Postfix received the message with a login by the mechanism.
func (w *world) loggedIn(a arrival, mechanism string) bool {
	line := a.id() + ": client=unknown[127.0.0.1], sasl_method=" + mechanism + ","
	return encryptedLogin.MatchString(a.received) && strings.Contains(string(w.read("var/log/postfix.log")), line)
}

func testEveryLogin(t *testing.T, w *world) {
	for _, mechanism := range []string{"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"} {
		w.configure(transportConfig("submission", mechanism, trust), relayPassword)
		w.submit("bob@site.example")
		attempts, log := w.pass()
		got := w.arrivals()
		if len(attempts) != 1 || len(got) != 1 || attempts[0].sentAs() != got[0].id() || !w.loggedIn(got[0], mechanism) {
			t.Errorf("%s: %d messages arrived; the log:\n%s", mechanism, len(got), log)
		}
	}
}

func testImplicitTLS(t *testing.T, w *world) {
	w.configure(transportConfig("submissions", "submissions", trust), relayPassword)
	w.submit("bob@site.example")
	_, log := w.pass()
	if got := w.arrivals(); len(got) != 1 || !w.loggedIn(got[0], "SCRAM-SHA-256") {
		t.Errorf("%d messages arrived, want 1 with SCRAM-SHA-256; the log:\n%s", len(got), log)
	}
}

func testTrust(t *testing.T, w *world) {
	for _, tt := range []struct{ name, config, password, reason string }{
		{"a certificate of an unknown authority", transportConfig("submission", "submission", ""), relayPassword, "certificate"},
		{"another password", transportConfig("submission", "submission", trust), "wrong-password", "535"},
	} {
		w.configure(tt.config, tt.password)
		w.submit("bob@site.example")
		attempts, log := w.pass()
		if !strings.Contains(log, tt.reason) || slices.ContainsFunc(attempts, func(a attempt) bool { return a.status != "deferred" }) {
			t.Errorf("%s: want it deferred because of %q; the log:\n%s", tt.name, tt.reason, log)
		}
		if queue := w.mailq(); !strings.Contains(queue, tt.reason) {
			t.Errorf("%s: mailq does not say why:\n%s", tt.name, queue)
		}
		if strings.Contains(log, tt.password) {
			t.Errorf("%s: the password is in the log:\n%s", tt.name, log)
		}
		if got := w.arrivals(); len(got) != 0 {
			t.Errorf("%s: %d messages arrived", tt.name, len(got))
		}
		w.configure(transportConfig("submission", "submission", trust), relayPassword)
		w.passUntilEmpty()
		if got := w.arrivals(); len(got) != 1 {
			t.Errorf("%s: when it was put right, %d messages arrived, want 1", tt.name, len(got))
		}
	}
}

func testSimpleServer(t *testing.T, w *world) {
	w.configure(transportConfig("submission", "simple", trust), relayPassword)
	w.submit("bob@site.example", "carol@other.example")
	_, log := w.pass()
	got := w.arrivals()
	if len(got) != 2 {
		t.Fatalf("%d messages arrived, want 2; the log:\n%s", len(got), log)
	}
	for _, a := range got {
		if body := string(divide(a.content).body); body != "hello\n.\n" {
			t.Errorf("body for %s: %q", a.recipient, body)
		}
	}
}

func testFewRecipients(t *testing.T, w *world) {
	w.configure(transportConfig("submission", "few", trust), relayPassword)
	w.submit(list(100)...)
	w.passUntilEmpty()
	copies := map[string]int{}
	for _, a := range w.arrivals() {
		copies[a.recipient]++
	}
	for _, r := range list(100) {
		if copies[r] != 1 {
			t.Errorf("%s got %d copies, want 1", r, copies[r])
		}
		delete(copies, r)
	}
	if len(copies) > 0 {
		t.Errorf("who else got one: %v", copies)
	}
}

// testRefusals has one recipient accepted, one refused and one asked to wait, in one transaction.
func testRefusals(t *testing.T, w *world) {
	w.configure(transportConfig("submission", "picky", trust), relayPassword)
	w.submit("bob@site.example", "gone@site.example", "busy@site.example")
	attempts, log := w.pass()
	status := map[string]string{}
	for _, a := range attempts {
		status[a.recipient] = a.status + " " + a.dsn
	}
	want := map[string]string{
		"bob@site.example": "sent 2.0.0", "gone@site.example": "bounced 5.1.1", "busy@site.example": "deferred 4.2.1",
		"ann@web1.example": "sent 2.0.0", // the report
	}
	if !maps.Equal(status, want) {
		t.Errorf("the pass came to %v, want %v; the log:\n%s", status, want, log)
	}
	w.expectReport(t, w.arrivals(), "bob@site.example", "gone@site.example", "5.1.1", "no such user here")
	if queue := w.mailq(); !strings.Contains(queue, "busy@site.example") || !strings.Contains(queue, "mailbox busy") || strings.Contains(queue, "gone@") || strings.Contains(queue, "bob@") {
		t.Errorf("mailq, when one recipient is left:\n%s", queue)
	}

	w.configure(transportConfig("submission", "submission", trust), relayPassword)
	w.passUntilEmpty()
	if got := w.arrivals(); len(got) != 1 || got[0].recipient != "busy@site.example" {
		t.Errorf("%d messages arrived, want the one that had to wait", len(got))
	}
}

func testTooLarge(t *testing.T, w *world) {
	w.configure(transportConfig("submission", "small", trust), relayPassword)
	large := "Subject: large\n\n" + strings.Repeat(strings.Repeat("x", 70)+"\n", 4000)
	if out, err := w.run("ann", []byte(large), "/usr/local/sbin/sendmail", "-i", "bob@site.example"); err != nil || out != "" {
		t.Fatalf("sendmail: %v\n%s", err, out)
	}
	w.passUntilEmpty()
	w.expectReport(t, w.arrivals(), "", "bob@site.example", "5.3.4", "")
}

// expectReport checks that among what arrived is one report to ann, about a recipient that failed with the status and
// the words of the server, and besides it only a message for other, or nothing.
func (w *world) expectReport(t *testing.T, arrivals []arrival, other, failed, status, words string) {
	t.Helper()
	for _, a := range arrivals {
		if a.recipient == other {
			other = ""
			continue
		}
		if a.recipient != "ann@web1.example" || a.sender != "" {
			t.Errorf("from <%s> to %s arrived:\n%s", a.sender, a.recipient, a.content)
			continue
		}
		parts, err := reportParts(a.content)
		if err != nil {
			t.Errorf("the report: %v\n%s", err, a.content)
			continue
		}
		for _, want := range []string{"\nFinal-Recipient: rfc822; " + failed + "\n", "\nAction: failed\n", "\nStatus: " + status + "\n", words} {
			if !strings.Contains(parts["message/delivery-status"], want) {
				t.Errorf("the report does not say %q:\n%s", want, parts["message/delivery-status"])
			}
		}
		if people := strings.Join(strings.Fields(parts["text/plain"]), " "); !strings.Contains(people, failed) || !strings.Contains(people, words) {
			t.Errorf("the report for people does not speak of %s and of %q:\n%s", failed, words, parts["text/plain"])
		}
		return
	}
	t.Errorf("no report arrived, of %d messages", len(arrivals))
}

// reportParts takes a report (RFC 3462) apart, by media type.
func reportParts(content []byte) (map[string]string, error) {
	m, err := mail.ReadMessage(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		return nil, fmt.Errorf("its type is %s, %v, %v", kind, params, err)
	}
	parts := map[string]string{}
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		part, err := r.NextPart()
		if err == io.EOF {
			return parts, nil
		}
		if err != nil {
			return nil, err
		}
		kind, _, err := mime.ParseMediaType(part.Header.Get("Content-Type"))
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(part)
		if err != nil {
			return nil, err
		}
		parts[kind] = "\n" + string(body)
	}
}

// testSuccessReport has Postfix report to the sender what our client passed on of the wish for it (RFC 3461).
func testSuccessReport(t *testing.T, w *world) {
	w.configure(transportConfig("submission", "submission", trust), relayPassword)
	message := []byte("To: bob@site.example\nSubject: hello\n\nhello\n")
	if out, err := w.run("ann", message, "/usr/local/sbin/sendmail", "-i", "-N", "success", "-R", "hdrs", "-V", "order+2B17", "bob@site.example"); err != nil || out != "" {
		t.Fatalf("sendmail: %v\n%s", err, out)
	}
	_, log := w.pass()
	got := w.arrivals()
	i := slices.IndexFunc(got, func(a arrival) bool { return a.recipient == "ann@web1.example" && a.sender == "" })
	if len(got) != 2 || i < 0 {
		t.Fatalf("%d messages arrived, want 2, one of them a report; the log:\n%s", len(got), log)
	}
	parts, err := reportParts(got[i].content)
	if err != nil {
		t.Fatalf("Postfix's report: %v\n%s", err, got[i].content)
	}
	for _, want := range []string{"\nOriginal-Envelope-Id: order+17\n", "\nAction: delivered\n"} {
		if !strings.Contains(parts["message/delivery-status"], want) {
			t.Errorf("Postfix's report does not say %q:\n%s", want, parts["message/delivery-status"])
		}
	}
	if parts["text/rfc822-headers"] == "" {
		t.Error("Postfix's report returns more than the header")
	}
}

func testBackground(t *testing.T, w *world) {
	w.configure(strings.Replace(transportConfig("submission", "submission", trust), `"queue"`, `"background"`, 1), relayPassword)
	message := []byte("Subject: disk full\n\n/var\n")
	if out, err := w.run("root", message, "/usr/local/sbin/sendmail", "-i", "bob@site.example"); err != nil || out != "" {
		t.Fatalf("sendmail: %v\n%s", err, out)
	}
	var got []arrival
	w.eventually("the message of root has arrived without a pass of ours", func() bool {
		got = append(got, w.arrivals()...)
		return len(got) > 0
	})
	if len(got) != 1 || got[0].sender != "root@web1.example" {
		t.Errorf("arrived: %+v", got)
	}
}
