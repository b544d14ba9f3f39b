package realtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// newSite returns a world with Postfix and us in it, and nothing queued. Its system trusts nobody's certificates.
func newSite(t *testing.T) *world {
	t.Helper()
	prove(t)
	bin := build(t)
	w := newWorld(t, debianRoot(t))
	w.furnish()
	w.startPostfix()
	w.install(bin)
	return w
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

// passUntilEmpty makes passes until the queue is empty. What is deferred is due again after a second.
func (w *world) passUntilEmpty() {
	w.t.Helper()
	w.eventually("the queue is empty", func() bool {
		w.pass()
		return strings.HasPrefix(w.must("postrider", "/usr/local/sbin/mailq"), "Mail queue is empty")
	})
}

func TestEveryLogin(t *testing.T) {
	w := newSite(t)
	for _, mechanism := range []string{"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"} {
		w.configure(transportConfig("submission", mechanism, trust), relayPassword)
		w.submit("bob@site.example")
		attempts, log := w.pass()
		got := w.arrivals()
		if len(attempts) != 1 || len(got) != 1 || attempts[0].sentAs() != got[0].id() || !encryptedLogin.MatchString(got[0].received) {
			t.Errorf("%s: %d messages arrived; the log:\n%s", mechanism, len(got), log)
		} else if said := string(w.read("var/log/postfix.log")); !strings.Contains(said, got[0].id()+": client=unknown[127.0.0.1], sasl_method="+mechanism+",") {
			t.Errorf("Postfix did not see a login with %s", mechanism)
		}
	}

	// Of all that is offered, the strongest is taken.
	w.configure(transportConfig("submissions", "submissions", trust), relayPassword)
	w.submit("bob@site.example")
	if _, log := w.pass(); len(w.arrivals()) != 1 {
		t.Errorf("implicit TLS: nothing arrived; the log:\n%s", log)
	}
	if lines := string(w.read("var/log/postfix.log")); strings.Count(lines, "sasl_method=SCRAM-SHA-256,") != 2 {
		t.Error("with every mechanism on offer, SCRAM-SHA-256 was not taken")
	}
}

func TestNothingIsSentWithoutTrust(t *testing.T) {
	w := newSite(t)
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
		if queue := w.must("postrider", "/usr/local/sbin/mailq"); !strings.Contains(queue, tt.reason) {
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

func TestSimpleServer(t *testing.T) {
	w := newSite(t)
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

func TestServerTakesFewRecipients(t *testing.T) {
	w := newSite(t)
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

func TestBackgroundDelivery(t *testing.T) {
	w := newSite(t)
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
