package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
	"golang.org/x/sys/unix"
)

// A world is a spool in a temporary directory, and what it said.
type world struct {
	t    *testing.T
	dir  string
	opts Options
	log  []string
	now  time.Time
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "spool"), now: time.Now()}
	w.opts = Options{
		Route: func(_, rcpt mail.Path, _ int, _ bool) string { return "relay/" + rcpt.Domain() },
		Now:   func() time.Time { return w.now },
		Logf:  func(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) },
	}
	if err := Create(w.dir); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) acquire() *Spool {
	w.t.Helper()
	s, err := Acquire(w.dir, w.opts)
	if err != nil {
		w.t.Fatalf("Acquire: %v", err)
	}
	return s
}

func (w *world) end(s *Spool) {
	w.t.Helper()
	if err := s.End(); err != nil {
		w.t.Fatalf("End: %v", err)
	}
}

func path(t testing.TB, s string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// submit drops a message as sendmail does.
func (w *world) submit(rcpts ...string) mail.ID {
	w.t.Helper()
	d, err := drop.Open(filepath.Join(w.dir, "drop"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	env := &mail.Envelope{Arrival: drop.Now(), Sender: path(w.t, "ann@example.org"), Submitter: os.Getuid()}
	for _, r := range rcpts {
		env.Recipients = append(env.Recipients, mail.Recipient{Path: path(w.t, r)})
	}
	f, err := d.Create(env)
	if err != nil {
		w.t.Fatal(err)
	}
	io.WriteString(f, "Subject: hello\r\n\r\nhello\r\n")
	id, err := f.Commit(mail.Facts{LongestLine: 14})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) takeIn(s *Spool) []Taken {
	w.t.Helper()
	taken, _, _, err := s.TakeIn()
	if err != nil {
		w.t.Fatalf("TakeIn: %v", err)
	}
	return taken
}

// dueNow returns what is due now, and when the next will be.
func (w *world) dueNow(s *Spool) (hops []string, next time.Time, err error) {
	ready, next, err := s.Due(w.now, 100, nil)
	for _, r := range ready {
		hops = append(hops, r.Hop)
	}
	return hops, next, err
}

func (w *world) claim(s *Spool, hop string) []Claim {
	w.t.Helper()
	claims, err := s.Claim(w.now, Wanted{hop, Most{Messages: 100}, func(_ mail.ID, attempts int) time.Time {
		return w.now.Add(time.Duration(attempts) * time.Hour)
	}})
	if err != nil {
		w.t.Fatalf("Claim: %v", err)
	}
	return claims[0]
}

func (w *world) settle(s *Spool, c Claim, actions ...mail.Action) {
	w.t.Helper()
	st := Settlement{Claim: c}
	for i, a := range actions {
		r := mail.Result{Action: a, Reply: mail.Reply{Code: 450, Enhanced: mail.EnhancedCode{4, 2, 0}, Text: "come back"}}
		st.Dispositions = append(st.Dispositions, Disposition{Recipient: c.Recipients[i].Recipient, Result: r})
	}
	if err := s.Settle([]Settlement{st}, nil); err != nil {
		w.t.Fatalf("Settle: %v", err)
	}
}

// waiting returns the recipients that the spool lists, as "ID address".
func (w *world) waiting() []string {
	w.t.Helper()
	var list []string
	for e, err := range List(w.dir) {
		if err != nil {
			w.t.Fatalf("List: %v", err)
		}
		for _, r := range e.Recipients {
			list = append(list, string(e.ID)+" "+r.Path.Address())
		}
	}
	return list
}

func (w *world) files(dir string) []string {
	w.t.Helper()
	entries, err := os.ReadDir(filepath.Join(w.dir, dir))
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (w *world) want(what string, got, want any) {
	w.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestMessageGoesThroughItsStates(t *testing.T) {
	w := newWorld(t)
	id := w.submit("bob@a.example", "cyd@b.example")
	w.want("listed in drop/", w.waiting(), []string{string(id) + " bob@a.example", string(id) + " cyd@b.example"})

	s := w.acquire()
	w.takeIn(s)
	w.want("drop/", w.files("drop"), []string(nil))
	hops, _, err := w.dueNow(s)
	if err != nil {
		t.Fatal(err)
	}
	w.want("due", hops, []string{"relay/a.example", "relay/b.example"})

	c := w.claim(s, "relay/a.example")
	w.want("claim", c, []Claim{{ID: id, Recipients: []Claimed{{Recipient: 0, Attempts: 1}}, Pending: 2}})
	w.settle(s, c[0], mail.Relayed)
	w.want("queue/ with a journal", w.files("queue"), []string{string(id), string(id) + ".journal"})
	w.want("one is left", w.waiting(), []string{string(id) + " cyd@b.example"})

	w.settle(s, w.claim(s, "relay/b.example")[0], mail.Relayed)
	w.want("queue/", w.files("queue"), []string(nil))
	w.end(s)
	w.want("nothing is left", w.waiting(), []string(nil))
	w.want("log", w.log, []string(nil))
	w.want("spool", w.files("."), []string{"bad", "drop", "gate", "index.db", "lock", "queue"})
}

// An index most of which is free is written anew when a pass ends, and says what it said before.
func TestIndexBecomesSmaller(t *testing.T) {
	w := newWorld(t)
	w.submit("bob@a.example")
	s := w.acquire()
	w.takeIn(s)
	w.dead(s, "relay/b.example", mail.OfHost)
	const most = compactPages * 8192
	for _, f := range []func(x *tx) error{
		func(x *tx) error { return x.meta.Put([]byte("much"), make([]byte, most)) },
		func(x *tx) error { return x.meta.Delete([]byte("much")) },
		func(*tx) error { return nil },
	} {
		if err := s.update(f); err != nil {
			t.Fatal(err)
		}
	}
	w.end(s)
	st, err := os.Stat(filepath.Join(w.dir, "index.db"))
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > 1<<20 {
		t.Errorf("%d octets", st.Size())
	}
	s = w.acquire()
	defer w.end(s)
	hops, next, err := w.dueNow(s)
	if err != nil {
		t.Fatal(err)
	}
	w.want("due", hops, []string{"relay/a.example"})
	w.want("next", next, time.Time{})
	trouble, err := s.HopTrouble("relay/b.example")
	if err != nil || trouble.Failures != 1 {
		t.Errorf("HopTrouble = %+v, %v", trouble, err)
	}
	w.want("log", w.log, []string(nil))
}

func TestDeferredRecipientWaitsForItsTime(t *testing.T) {
	w := newWorld(t)
	w.submit("bob@a.example")
	s := w.acquire()
	defer w.end(s)
	w.takeIn(s)
	for attempt := 1; attempt <= 3; attempt++ {
		c := w.claim(s, "relay/a.example")
		if len(c) != 1 || c[0].Recipients[0].Attempts != attempt {
			t.Fatalf("claim %d = %+v", attempt, c)
		}
		w.settle(s, c[0], mail.Delayed)
		hops, next, err := w.dueNow(s)
		if err != nil || len(hops) > 0 {
			t.Fatalf("after attempt %d: due %v, %v", attempt, hops, err)
		}
		if want := w.now.Add(time.Duration(attempt) * time.Hour); next.Sub(want).Abs() > time.Millisecond {
			t.Errorf("after attempt %d: next at %v, want %v", attempt, next, want)
		}
		w.now = next
	}
}

func TestNextHopInTroubleIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.submit("bob@a.example")
	s := w.acquire()
	defer w.end(s)
	w.takeIn(s)
	until := w.now.Add(time.Minute).Truncate(time.Microsecond)
	trouble := HopState{Hop: "relay/a.example", Until: until, Last: mail.Delay(mail.OfHost, mail.EnhancedCode{4, 4, 1}, "connection refused")}
	for range 2 {
		if err := s.Settle(nil, []HopState{trouble}); err != nil {
			t.Fatal(err)
		}
	}
	hops, next, err := w.dueNow(s)
	if err != nil || len(hops) > 0 || !next.Equal(until) {
		t.Errorf("Due = %v, %v, %v; want nothing until %v", hops, next, err, until)
	}
	got, err := s.HopTrouble("relay/a.example")
	if err != nil || got.Failures != 2 || !got.Until.Equal(until) || got.Since.IsZero() {
		t.Errorf("HopTrouble = %+v, %v", got, err)
	}
	for e, err := range List(w.dir) {
		if err != nil || e.Recipients[0].Reason != "connection refused" || e.Recipients[0].Code != (mail.EnhancedCode{4, 4, 1}) {
			t.Errorf("List = %+v, %v; want the reason of the next hop", e, err)
		}
	}
	if err := s.Settle(nil, []HopState{{Hop: "relay/a.example"}}); err != nil {
		t.Fatal(err)
	}
	if hops, _, _ = w.dueNow(s); len(hops) != 1 {
		t.Errorf("after the trouble is over: due %v", hops)
	}
}

func TestUntriedRecipientKeepsItsAttempts(t *testing.T) {
	w := newWorld(t)
	w.submit("bob@a.example")
	s := w.acquire()
	defer w.end(s)
	w.takeIn(s)
	c := w.claim(s, "relay/a.example")[0]
	if err := s.Settle([]Settlement{{Claim: c, Dispositions: []Disposition{{Recipient: 0, Next: w.now, Untried: true}}}}, nil); err != nil {
		t.Fatal(err)
	}
	w.want("claimed again", w.claim(s, "relay/a.example"), []Claim{{ID: c.ID, Recipients: []Claimed{{Recipient: 0, Attempts: 1}}, Pending: 1}})
}

// What a crash, or the loss of the index, leaves must neither lose a message nor send one again to who has it.
func TestNothingIsLostOrSentTwice(t *testing.T) {
	damage := map[string]func(t *testing.T, index string){
		"index kept":    func(*testing.T, string) {},
		"index deleted": func(t *testing.T, index string) { os.Remove(index) },
		"index empty":   func(t *testing.T, index string) { os.Truncate(index, 0) },
		"index garbage": func(t *testing.T, index string) {
			os.WriteFile(index, bytes.Repeat([]byte("garbage!"), 4096), 0o600)
		},
	}
	for name, harm := range damage {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			both := w.submit("bob@a.example", "cyd@b.example")
			whole := w.submit("dan@b.example")
			s := w.acquire()
			w.takeIn(s)
			w.settle(s, w.claim(s, "relay/a.example")[0], mail.Relayed)
			if err := s.Abandon(); err != nil {
				t.Fatal(err)
			}
			late := w.submit("eve@c.example")
			harm(t, filepath.Join(w.dir, "index.db"))

			s = w.acquire()
			w.takeIn(s)
			w.end(s)
			w.want("waiting", w.waiting(), []string{string(both) + " cyd@b.example", string(whole) + " dan@b.example", string(late) + " eve@c.example"})
		})
	}
}

// One bit of the list of free pages, which has no checksum, has bbolt write where no file can reach.
func TestIndexWithUnreachableFreePageIsRebuilt(t *testing.T) {
	w := newWorld(t)
	id := w.submit("bob@a.example")
	s := w.acquire()
	w.takeIn(s)
	w.end(s)
	index := filepath.Join(w.dir, "index.db")
	content, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	const page, kind, freelist, first = 4096, 8, 0x10, 16 // of bbolt's format
	waiting := []string{string(id) + " bob@a.example"}
	for _, bit := range []int{47, 51} { // too far for a file; an offset below 0
		damaged, flipped := slices.Clone(content), 0
		for at := 0; at < len(damaged); at += page {
			if damaged[at+kind] == freelist {
				damaged[at+first+bit/8] ^= 1 << (bit % 8)
				flipped++
			}
		}
		if err := os.WriteFile(index, damaged, 0o600); err != nil || flipped == 0 {
			t.Fatalf("%d lists of free pages: %v", flipped, err)
		}
		waiting = append(waiting, string(w.submit("cyd@b.example"))+" cyd@b.example")
		s = w.acquire()
		if _, _, _, err := s.TakeIn(); !errors.Is(err, errDamaged) {
			t.Errorf("bit %d: the first pass: %v", bit, err)
		}
		_ = s.End() // it has failed

		s = w.acquire()
		w.takeIn(s)
		w.end(s)
		w.want("waiting", w.waiting(), waiting)
	}
}

func TestIndexTruncatedAnywhereIsRebuilt(t *testing.T) {
	w := newWorld(t)
	var want []string
	for i := range 50 {
		rcpt := fmt.Sprintf("u%d@a.example", i)
		want = append(want, string(w.submit(rcpt))+" "+rcpt)
	}
	s := w.acquire()
	w.takeIn(s)
	w.end(s)
	index := filepath.Join(w.dir, "index.db")
	whole, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	for size := 0; size < len(whole); size += 7 * 512 {
		if err := os.WriteFile(index, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		// One pass may die of it; the next one must not.
		for try := 0; ; try++ {
			s, err := Acquire(w.dir, w.opts)
			if err == nil {
				_, err = s.Claim(w.now, Wanted{"relay/a.example", Most{Messages: 1}, func(mail.ID, int) time.Time { return w.now }})
				if err := s.End(); err != nil && try > 0 {
					t.Fatalf("cut at %d: End: %v", size, err)
				}
			}
			if err == nil {
				break
			}
			if try > 0 {
				t.Fatalf("cut at %d: %v", size, err)
			}
		}
		if got := w.waiting(); !slices.Equal(got, want) {
			t.Fatalf("cut at %d: %d of %d messages", size, len(got), len(want))
		}
	}
}

func TestTombstoneOutlivesACrash(t *testing.T) {
	w := newWorld(t)
	id := w.submit("bob@a.example")
	s := w.acquire()
	w.takeIn(s)
	c := w.claim(s, "relay/a.example")[0]
	saved, err := os.ReadFile(filepath.Join(w.dir, "queue", string(id)))
	if err != nil {
		t.Fatal(err)
	}
	w.settle(s, c, mail.Relayed)
	s.Abandon()
	// As if the power had failed between the commit and the removal.
	if err := os.WriteFile(filepath.Join(w.dir, "queue", string(id)), saved, 0o640); err != nil {
		t.Fatal(err)
	}
	s = w.acquire()
	w.want("waiting", w.waiting(), []string(nil))
	w.want("queue/", w.files("queue"), []string(nil))
	w.end(s)
}

func TestReportIsProofOfItsRecipients(t *testing.T) {
	w := newWorld(t)
	id := w.submit("bob@a.example", "cyd@b.example")
	s := w.acquire()
	w.takeIn(s)
	w.claim(s, "relay/a.example")
	r, err := s.CreateChild(&mail.Envelope{
		Arrival: drop.Now(), Submitter: os.Getuid(),
		Recipients: []mail.Recipient{{Path: path(t, "ann@example.org")}},
		Settles:    &mail.Settles{Of: id, Recipients: []int{0}},
	})
	if err != nil {
		t.Fatal(err)
	}
	report, err := r.Commit(mail.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	// The crash comes before Settle.
	s.Abandon()
	s = w.acquire()
	w.end(s)
	w.want("waiting", w.waiting(), []string{string(id) + " cyd@b.example", string(report) + " ann@example.org"})
}

func TestHostileDrop(t *testing.T) {
	w := newWorld(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	in := func(name string) string { return filepath.Join(w.dir, "drop", name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	good := w.submit("bob@a.example")
	must(os.Symlink(secret, in("70000000001")))
	must(unix.Mkfifo(in("70000000002"), 0o600))
	must(os.Mkdir(in("70000000003"), 0o700))
	must(os.WriteFile(in("70000000004"), []byte("postrider-message 1\nsender: <a@b>\n"), 0o600))
	must(os.Chtimes(in("70000000004"), old, old))
	must(os.WriteFile(in("70000000005"), []byte("postrider-message 1\n"), 0o600))
	must(os.WriteFile(in("junk\nname"), []byte("x"), 0o600))
	linked := w.submit("eve@a.example")
	must(os.Link(in(string(linked)), in("70000000006")))
	newer, err := os.ReadFile(in(string(good)))
	must(err)
	must(os.WriteFile(in("70000000007"), bytes.Replace(newer, []byte("postrider-message 1"), []byte("postrider-message 9"), 1), 0o600))
	must(os.WriteFile(in("70000000008"), bytes.Replace(newer, []byte("hello\r\n"), []byte("hellO\r\n"), 1), 0o600))
	must(os.Chtimes(in("70000000008"), old, old))
	must(os.WriteFile(in("70000000009"), []byte("postrider-message 1\nsender: <"), 0o600))
	must(os.Truncate(in("70000000009"), 64<<20+1)) // more than an envelope may have

	s := w.acquire()
	defer w.end(s)
	taken := w.takeIn(s)
	if len(taken) != 1 || taken[0].ID != good {
		t.Errorf("taken: %+v, want only %s", taken, good)
	}
	bad := w.files("bad")
	slices.Sort(bad)
	want := []string{"70000000001", "70000000002", "70000000003", "70000000004", "70000000006", "70000000008", "70000000009", "junk\nname", string(linked)}
	slices.Sort(want)
	w.want("bad/", bad, want)
	w.want("left in drop/: perhaps still written, and of a newer version", w.files("drop"), []string{"70000000005", "70000000007"})
	for _, line := range w.log {
		if strings.ContainsAny(line, "\n") {
			t.Errorf("log line %q", line)
		}
	}
}

func TestIDInUseAfterClockWasSetBack(t *testing.T) {
	w := newWorld(t)
	first := w.submit("bob@a.example")
	s := w.acquire()
	defer w.end(s)
	w.takeIn(s)
	second := w.submit("cyd@a.example")
	if err := os.Rename(filepath.Join(w.dir, "drop", string(second)), filepath.Join(w.dir, "drop", string(first))); err != nil {
		t.Fatal(err)
	}
	taken := w.takeIn(s)
	if len(taken) != 1 || taken[0].ID == first {
		t.Fatalf("taken: %+v", taken)
	}
	w.want("waiting", w.waiting(), []string{string(first) + " bob@a.example", string(taken[0].ID) + " cyd@a.example"})
}

func TestClockSetBackADay(t *testing.T) {
	w := newWorld(t)
	w.opts.MaxWait = 16 * time.Hour
	queued := w.submit("bob@a.example")
	s := w.acquire()
	defer w.end(s)
	w.takeIn(s)
	w.settle(s, w.claim(s, "relay/a.example")[0], mail.Delayed)
	until := w.now.Add(time.Minute)
	if err := s.Settle(nil, []HopState{{Hop: "relay/a.example", Until: until}}); err != nil {
		t.Fatal(err)
	}
	dropped := w.submit("cyd@a.example")
	w.now = w.now.Add(-24 * time.Hour)
	w.takeIn(s)
	hops, _, err := w.dueNow(s)
	if err != nil || len(hops) != 1 {
		t.Fatalf("Due = %v, %v; want the next hop at once", hops, err)
	}
	var got []mail.ID
	for range 2 {
		for _, c := range w.claim(s, "relay/a.example") {
			got = append(got, c.ID)
			w.settle(s, c, mail.Relayed)
		}
	}
	slices.Sort(got)
	w.want("claimed", got, []mail.ID{queued, dropped})
}

func TestQueuedMailFollowsTodaysRoutes(t *testing.T) {
	w := newWorld(t)
	w.submit("bob@a.example")
	s := w.acquire()
	w.takeIn(s)
	if err := s.Settle(nil, []HopState{{Hop: "relay/a.example", Until: w.now.Add(time.Hour)}}); err != nil {
		t.Fatal(err)
	}
	w.end(s)
	w.opts.Route = func(_, _ mail.Path, _ int, _ bool) string { return "other" }
	w.opts.Routes = "changed"
	s = w.acquire()
	defer w.end(s)
	hops, _, err := w.dueNow(s)
	if err != nil {
		t.Fatal(err)
	}
	w.want("due", hops, []string{"other"})
}

func TestSecondPassLeavesAWakeUp(t *testing.T) {
	w := newWorld(t)
	s := w.acquire()
	if _, err := Acquire(w.dir, w.opts); !errors.Is(err, ErrHeld) {
		t.Errorf("second Acquire: %v, want %v", err, ErrHeld)
	}
	w.end(s)
	if !Woken(w.dir) || Woken(w.dir) {
		t.Error("want exactly one wake-up")
	}
}

func TestLongestWaitingGoesFirst(t *testing.T) {
	w := newWorld(t)
	var want []mail.ID
	for range 5 {
		want = append(want, w.submit("bob@a.example"))
	}
	s := w.acquire()
	defer w.end(s)
	w.takeIn(s)
	var got []mail.ID
	for _, c := range w.claim(s, "relay/a.example") {
		got = append(got, c.ID)
	}
	w.want("order", got, want)
}

func TestOverdue(t *testing.T) {
	w := newWorld(t)
	id := w.submit("bob@a.example", "cyd@b.example")
	s := w.acquire()
	defer w.end(s)
	w.takeIn(s)
	none, err := s.Overdue("relay/a.example", time.Now().Add(-time.Hour), 10)
	if err != nil || len(none) > 0 {
		t.Errorf("Overdue for young messages: %+v, %v", none, err)
	}
	got, err := s.Overdue("relay/a.example", time.Now().Add(time.Hour), 10)
	if err != nil {
		t.Fatal(err)
	}
	w.want("overdue", got, []Claim{{ID: id, Recipients: []Claimed{{Recipient: 0, Attempts: 0}}, Pending: 2}})
}

func TestListReadsInBatches(t *testing.T) {
	w := newWorld(t)
	const n = firstBatch + batch + 1
	for range n {
		w.submit("bob@a.example")
	}
	s := w.acquire()
	for len(w.takeIn(s)) > 0 {
	}
	w.submit("new@a.example")
	if got := len(w.waiting()); got != n+1 {
		t.Errorf("%d messages listed, want %d", got, n+1)
	}
	w.end(s)
	for e, err := range List(w.dir) {
		if err != nil || e.Incoming {
			t.Errorf("first: %+v, %v", e, err)
		}
		break
	}
}

// A reader who takes his time holds up nobody: while he looks at a message, a pass can do all that it has to.
func TestListHoldsUpNoPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a turn that is not to be had fails without waiting
		w := newWorld(t)
		const n = firstBatch + 5 // two turns
		for range n {
			w.submit("bob@a.example")
		}
		s := w.acquire()
		w.takeIn(s)
		listed, tried := 0, 0
		for _, err := range List(w.dir) {
			if err != nil {
				t.Fatal(err)
			}
			if listed++; listed%firstBatch > 1 && listed < n {
				continue // the first and the last one of each turn are enough
			}
			w.submit("cyd@b.example")
			w.takeIn(s)
			for _, c := range w.claim(s, "relay/b.example") {
				w.settle(s, c, mail.Relayed)
				tried++
			}
		}
		w.want("listed", listed, n)
		w.want("tried meanwhile", tried, 4)
		w.end(s)
	})
}

func TestListOfWhatIsNotThere(t *testing.T) {
	for e, err := range List(filepath.Join(t.TempDir(), "none")) {
		t.Errorf("List = %+v, %v; want nothing", e, err)
	}
}

func TestJournalOfZeros(t *testing.T) {
	w := newWorld(t)
	id := w.submit("bob@a.example", "cyd@b.example")
	s := w.acquire()
	w.takeIn(s)
	w.settle(s, w.claim(s, "relay/a.example")[0], mail.Relayed)
	s.Abandon()
	// As a power failure leaves a file that was being added to.
	j, err := os.OpenFile(filepath.Join(w.dir, "queue", string(id)+".journal"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	j.Write(make([]byte, 70000))
	j.Close()
	if err := os.Remove(filepath.Join(w.dir, "index.db")); err != nil {
		t.Fatal(err)
	}
	w.end(w.acquire())
	w.want("waiting", w.waiting(), []string{string(id) + " cyd@b.example"})
}

func TestOddFileInDropStopsNobody(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("unix", filepath.Join(w.dir, "drop", "70000000001"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	id := w.submit("bob@a.example")
	s := w.acquire()
	defer w.end(s)
	if taken := w.takeIn(s); len(taken) != 1 || taken[0].ID != id {
		t.Errorf("taken: %+v", taken)
	}
}

func TestIDOfATombstoneGivenAgain(t *testing.T) {
	w := newWorld(t)
	id := w.submit("bob@a.example")
	s := w.acquire()
	w.takeIn(s)
	w.settle(s, w.claim(s, "relay/a.example")[0], mail.Relayed)
	second := w.submit("cyd@b.example")
	if err := os.Rename(filepath.Join(w.dir, "drop", string(second)), filepath.Join(w.dir, "drop", string(id))); err != nil {
		t.Fatal(err)
	}
	w.takeIn(s)
	s.Abandon()
	w.end(w.acquire())
	w.want("waiting", w.waiting(), []string{string(id) + " cyd@b.example"})
	w.want("queue/", w.files("queue"), []string{string(id)})
}

func TestIndexDeletedUnderAPass(t *testing.T) {
	w := newWorld(t)
	w.submit("bob@a.example")
	s := w.acquire()
	w.takeIn(s)
	c := w.claim(s, "relay/a.example")[0]
	if err := os.Remove(filepath.Join(w.dir, "index.db")); err != nil {
		t.Fatal(err)
	}
	st := Settlement{Claim: c, Dispositions: []Disposition{{Recipient: 0, Result: mail.Result{Action: mail.Relayed}}}}
	if err := s.Settle([]Settlement{st}, nil); err == nil {
		t.Error("Settle without an index: no error")
	}
	if err := s.Salvage(st); err != nil {
		t.Errorf("Salvage: %v", err)
	}
	s.Abandon()
	s = w.acquire()
	w.want("queue/ after the comparison", w.files("queue"), []string(nil))
	w.end(s)
	w.want("waiting", w.waiting(), []string(nil))
	w.want("queue/", w.files("queue"), []string(nil))
}

func TestWhatACrashLeftBeingTriedIsNot(t *testing.T) {
	w := newWorld(t)
	w.submit("bob@a.example")
	s := w.acquire()
	w.takeIn(s)
	w.claim(s, "relay/a.example")
	s.Abandon()
	w.end(w.acquire())
	for e, err := range List(w.dir) {
		if err != nil || e.Active {
			t.Errorf("%+v, %v", e, err)
		}
	}
}

func TestTakeInMindsVeryManyRecipients(t *testing.T) {
	w := newWorld(t)
	var many []string
	for i := range batchRecipients {
		many = append(many, fmt.Sprintf("u%d@a.example", i))
	}
	for range 2 {
		w.submit(many...)
	}
	s := w.acquire()
	defer w.end(s)
	taken, more, _, err := s.TakeIn()
	if err != nil || len(taken) != 1 || !more {
		t.Errorf("TakeIn = %d messages, more %v, %v; want one at a time", len(taken), more, err)
	}
}

func TestGateThatSomebodyKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.acquire()
		defer s.Abandon()
		gate, err := openGate(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		defer gate.Close()
		if err := flock(gate, unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.dueNow(s); err == nil || !strings.Contains(err.Error(), "kept locked by another process") {
			t.Errorf("Due = %v", err)
		}
	})
}

func TestComparisonMakesDueWhoeverIsNot(t *testing.T) {
	w := newWorld(t)
	id := w.submit("bob@a.example")
	s := w.acquire()
	w.takeIn(s)
	if err := s.update(func(x *tx) error {
		p, _, err := x.recipient(id, 0)
		return errors.Join(err, x.due.Delete(p.dueKey(id, 0)))
	}); err != nil {
		t.Fatal(err)
	}
	w.want("claims", len(w.claim(s, "relay/a.example")), 0)
	s.Abandon()
	s = w.acquire()
	w.want("claims after a comparison", len(w.claim(s, "relay/a.example")), 1)
	w.end(s)
}
