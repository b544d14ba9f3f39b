package spool

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
)

// submitTLS drops a message whose sender says something of TLS.
func (w *world) submitTLS(sender string, wish mail.TLSWish, rcpt string) {
	w.t.Helper()
	d, err := drop.Open(filepath.Join(w.dir, "drop"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	env := &mail.Envelope{Arrival: drop.Now(), Sender: path(w.t, sender), Submitter: os.Getuid(), TLS: wish}
	env.Recipients = []mail.Recipient{{Path: path(w.t, rcpt)}}
	f, err := d.Create(env)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.WriteString(f, "Subject: hello\r\n\r\nhello\r\n"); err != nil {
		w.t.Fatal(err)
	}
	if _, err := f.Commit(mail.Facts{LongestLine: 14}); err != nil {
		w.t.Fatal(err)
	}
}

// TestTLSHasNextHopsOfItsOwn has mail for one domain take different ways, when it is taken in, when it is claimed and
// deferred, when the routes change, and when the index is lost.
func TestTLSHasNextHopsOfItsOwn(t *testing.T) {
	w := newWorld(t)
	w.opts.ByTLS = func(hop string, wish mail.TLSWish) string { return hop + "+" + wish.String() }
	w.submitTLS("ann@example.org", mail.TLSUnsaid, "bob@a.example")
	w.submitTLS("ann@example.org", mail.TLSRequired, "cyd@a.example")
	w.submitTLS("ann@example.org", mail.TLSNotRequired, "dan@a.example")
	w.submitTLS("", mail.TLSRequired, "eve@a.example") // a report goes on as best it can
	const relay = "relay/a.example"
	hops := func(s *Spool) map[string]int {
		t.Helper()
		list, _, err := w.dueNow(s)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]int{}
		for _, hop := range list {
			for _, c := range w.claim(s, hop) {
				found[hop] += len(c.Recipients)
				w.settle(s, c, mail.Delayed)
			}
		}
		w.now = w.now.Add(48 * 3600e9)
		return found
	}
	s := w.acquire()
	w.takeIn(s)
	want := map[string]int{relay: 2, relay + "+yes": 1, relay + "+no": 1}
	w.want("taken in", hops(s), want)
	w.want("deferred", hops(s), want)
	w.end(s)

	w.opts.Routes = "others"
	w.opts.Route = func(_, _ mail.Path, _ int, _ bool) string { return "other" }
	s = w.acquire()
	want = map[string]int{"other": 2, "other+yes": 1, "other+no": 1}
	w.want("routed again", hops(s), want)
	w.end(s)

	if err := os.Remove(filepath.Join(w.dir, "index.db")); err != nil {
		t.Fatal(err)
	}
	s = w.acquire()
	w.want("read again", hops(s), want)
	w.end(s)
}

// TestRecordOfOldTimes reads a record that was written before it said anything of TLS.
func TestRecordOfOldTimes(t *testing.T) {
	key := []byte("0123456789A")
	m := message{size: 7, tls: mail.TLSRequired}
	now := m.encode(key)
	old := seal(key, append([]byte(nil), now[:len(now)-1]...))
	for _, tt := range []struct {
		value []byte
		want  mail.TLSWish
	}{{now, mail.TLSRequired}, {old, mail.TLSUnsaid}} {
		var got message
		if err := got.decode(key, tt.value); err != nil || got.tls != tt.want || got.size != 7 {
			t.Errorf("%+v, %v, want TLS %v", got, err, tt.want)
		}
	}
}
