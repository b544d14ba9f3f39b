package deliver_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool"
)

// moved returns what has the pass go by another server for a.example.
func (w *world) moved(to *server) deliver.Change {
	o := w.opts
	o.Resolve = func(string) (deliver.Route, error) {
		return deliver.Route{Transport: to, Domain: "a.example", Concurrency: w.concurrency}, nil
	}
	return deliver.Change{Options: o, Spool: spool.Options{
		Route: func(_, rcpt mail.Path, _ int, _ bool) string { return rcpt.Domain() }, Routes: "moved", Now: w.clock, Logf: w.logf,
	}}
}

// A server that takes a minute for a message finishes it after a change, and gets no other: all else goes by the new
// configuration at once, also what the session was about to get.
func TestChangeCutsNothingOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.concurrency = 1
		before, after := &server{takes: time.Minute}, &server{}
		w.servers["a.example"] = before
		changes := make(chan deliver.Change)
		w.opts.Change = changes
		w.submitMany(20, "bob@a.example")
		w.during(func(wake chan<- struct{}) {
			time.Sleep(150 * time.Second)
			synctest.Wait()
			w.want("taken before", before.taken(), 2)
			changes <- w.moved(after)
			time.Sleep(time.Second)
			synctest.Wait()
			w.want("taken by the new server", after.taken(), 17)
			w.submit("ann@example.org", "cyd@a.example")
			wake <- struct{}{}
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			w.want("taken by the old server", before.taken(), 3)
			w.want("taken by the new server at last", after.taken(), 18)
			w.want("sessions with the old one", before.sessions(), 0)
		})
		w.want("waiting", w.waiting(), []string(nil))
	})
}

// What becomes of a session with the old server says nothing of the new one.
func TestTroubleBeforeAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		before, after := &server{takes: time.Minute, breaks: func(*mail.Message) bool { return true }}, &server{}
		w.servers["a.example"] = before
		changes := make(chan deliver.Change)
		w.opts.Change = changes
		w.submit("ann@example.org", "bob@a.example")
		w.during(func(wake chan<- struct{}) {
			time.Sleep(time.Second)
			changes <- w.moved(after)
			time.Sleep(2 * time.Minute)
			w.submit("ann@example.org", "cyd@a.example")
			wake <- struct{}{}
			time.Sleep(time.Second)
			synctest.Wait()
			w.want("delivered", after.has("cyd@a.example"), true)
		})
		w.want("next hop in trouble", w.logged("next hop"), 0)
	})
}
