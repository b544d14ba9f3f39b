package realtest

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// prove skips the test unless the proof was asked for and can be had.
func prove(t *testing.T) {
	t.Helper()
	if os.Getenv("POSTRIDER_PROOF") == "" {
		t.Skip("SKIPPED: real input is not proven; set POSTRIDER_PROOF=1 (needs root, apt and dpkg)")
	}
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: real input is not proven; POSTRIDER_PROOF needs root")
	}
	for _, tool := range []string{"apt-get", "dpkg", "nsenter", "make"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: real input is not proven; POSTRIDER_PROOF needs %s", tool)
		}
	}
}

// relayConfig is what an administrator writes who has one smarthost. The authority that signed its certificate is one
// that the system trusts.
const relayConfig = `
domain        = "web1.example"
hostname      = "web1.example"
delivery      = "queue"
log           = "stderr"
relay         = "submission://` + relayUser + `@localhost:587"
password_file = "/etc/postrider/relay.password"
`

// A shipment is a message on its way: what was composed, what should come of it, and its queue ID.
type shipment struct {
	program string
	name    string // with what the program does
	call    call
	expected
	id string
}

// TestRealInput has real programs compose mail, makes one pass, and compares what a real Postfix received.
func TestRealInput(t *testing.T) {
	prove(t)
	bin := build(t)
	w := newWorld(t, sendersAndPostfix.root(t))
	w.furnish()
	w.startPostfix()
	w.install(bin)
	w.installKeeper()
	w.configure(relayConfig, relayPassword)
	w.write("etc/ssl/certs/ca-certificates.crt", w.read("etc/postrider/ca.pem"), 0o644, "root")

	var shipments []shipment
	for _, c := range compositions {
		out, err := w.run(c.user, []byte(c.stdin), "sh", "-euc", c.script)
		if err != nil || out != "" {
			t.Errorf("%s, %s: %v, printed %q", c.program, c.does, err, out)
		}
		shipments = append(shipments, w.ship(t, c, shipments)...)
	}
	w.startCron(crontabOfRoot)
	w.eventually("cron has sent the output of its jobs", func() bool { return w.finished(len(cronJobs.calls)) })
	shipments = append(shipments, w.ship(t, cronJobs, shipments)...)

	keepSamples(t, shipments)

	attempts, log := w.pass()
	w.compare(t, shipments, attempts, w.arrivals())
	if t.Failed() {
		t.Logf("the log of the pass:\n%.20000s", log)
	}
	if out := w.mailq(); out != "Mail queue is empty\n" {
		t.Errorf("after the pass mailq says:\n%s", out)
	}
	if left := w.must("postrider", "find", "drop", "queue", "bad", "-type", "f"); left != "" {
		t.Errorf("after the pass the spool still has:\n%s", left)
	}
}

// startCron starts cron, which runs the jobs of a system start at once: those of ann, and those in the table of the system.
func (w *world) startCron(system string) {
	permit := []byte("auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n")
	w.write("etc/pam.d/cron", permit, 0o644, "root")
	w.write("etc/pam.d/other", permit, 0o644, "root")
	w.write("var/spool/cron/crontabs/ann", []byte(crontabOfAnn), 0o600, "ann")
	w.write("etc/crontab", []byte(system), 0o644, "root")
	w.must("root", "cron")
}

// ship takes the calls that a composition led to, and the messages that they left in the queue besides those before.
func (w *world) ship(t *testing.T, c composition, before []shipment) []shipment {
	t.Helper()
	name := c.program + ", " + c.does
	calls := w.calls()
	ids := slices.DeleteFunc(w.queued(), func(id string) bool {
		return slices.ContainsFunc(before, func(s shipment) bool { return s.id == id })
	})
	if len(calls) != len(c.calls) || len(ids) != len(calls) {
		t.Errorf("%s: sendmail was called %d times and queued %d messages, want %d", name, len(calls), len(ids), len(c.calls))
		return nil
	}
	var shipments []shipment
	for i, call := range calls {
		if call.status != "0" {
			t.Errorf("%s: sendmail %q exited with status %q", name, call.argv[1:], call.status)
		}
		shipments = append(shipments, shipment{program: c.program, name: name, call: call, expected: c.calls[i], id: ids[i]})
	}
	return shipments
}

// keepSamples keeps the calls of programs, numbered for each program, where POSTRIDER_PROOF_SAMPLES says.
func keepSamples(t *testing.T, shipments []shipment) {
	t.Helper()
	number := map[string]int{}
	for _, s := range shipments {
		if s.program == aScript {
			continue
		}
		number[s.program]++
		name := strings.ReplaceAll(strings.TrimSuffix(s.program, "()"), " ", "-")
		if err := s.call.keepSample(fmt.Sprintf("%s-%d", name, number[s.program])); err != nil {
			t.Error(err)
		}
	}
}

// compare follows each recipient of each message from the line in our log to the message that Postfix delivered under
// the ID in that line. All must be there once, with the right content, and nothing else.
func (w *world) compare(t *testing.T, shipments []shipment, attempts []attempt, arrivals []arrival) {
	t.Helper()
	var counts struct{ messages, recipients, octets, equal int }
	programs := map[string]bool{}
	logged, arrived := map[string]string{}, map[string][]arrival{}
	for _, a := range attempts {
		key := a.id + " " + a.recipient
		if logged[key] != "" || a.sentAs() == "" {
			t.Errorf("logged: %+v", a)
		}
		logged[key] = a.sentAs()
	}
	for _, a := range arrivals {
		key := a.id() + " " + a.recipient
		arrived[key] = append(arrived[key], a)
	}
	for _, s := range shipments {
		counts.messages++
		programs[s.program] = true
		for _, r := range s.recipients {
			counts.recipients++
			as := logged[s.id+" "+r]
			delete(logged, s.id+" "+r)
			got := arrived[as+" "+r]
			delete(arrived, as+" "+r)
			if as == "" || len(got) != 1 {
				t.Errorf("%s: %s was sent to %s as %q, and arrived %d times", s.name, s.id, r, as, len(got))
				continue
			}
			counts.octets += len(got[0].content)
			if problem := s.compare(got[0]); problem != "" {
				t.Errorf("%s, for %s: %s", s.name, r, problem)
			} else {
				counts.equal++
			}
		}
	}
	for key := range logged {
		t.Errorf("sent, but nobody asked for it: %s", key)
	}
	for key, a := range arrived {
		t.Errorf("arrived, but nobody sent it: %s, %d times, from <%s>:\n%.2000s", key, len(a), a[0].sender, a[0].content)
	}
	t.Logf("%d programs composed %d messages for %d recipients; %d octets arrived; %d of %d comparisons equal",
		len(programs), counts.messages, counts.recipients, counts.octets, counts.equal, counts.recipients)
}

// compare says what is wrong with a message that arrived; "" if nothing is.
func (s shipment) compare(a arrival) string {
	if a.sender != s.sender {
		return fmt.Sprintf("the reverse-path is <%s>, want <%s>", a.sender, s.sender)
	}
	if !encryptedLogin.MatchString(a.received) {
		return "it came without TLS or login: " + a.received
	}
	return s.check(composed(s.call), divide(a.content), s.id)
}
