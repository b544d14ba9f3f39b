package sts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postrider/postrider/deliver/dns"
)

// A world has one domain, example.com, whose record and policy can be changed.
type world struct {
	*Cache
	t       *testing.T
	now     time.Time
	record  any // the text, or an error
	policy  any // likewise
	fetched int
	log     strings.Builder
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), record: "v=STSv1; id=1;", policy: enforced(24 * time.Hour * 30)}
	w.Cache = w.cache(filepath.Join(t.TempDir(), "file"))
	return w
}

// cache returns one that knows what is in a file.
func (w *world) cache(file string) *Cache {
	return &Cache{
		TXT: func(_ context.Context, name string) ([]string, error) {
			if name != "_mta-sts.example.com" {
				return nil, &dns.Error{Kind: dns.NoName}
			}
			if err, ok := w.record.(error); ok {
				return nil, err
			}
			return []string{w.record.(string)}, nil
		},
		Fetch: func(context.Context, string) (string, error) {
			w.fetched++
			if err, ok := w.policy.(error); ok {
				return "", err
			}
			return w.policy.(string), nil
		},
		Now:  func() time.Time { return w.now },
		Logf: func(format string, args ...any) { fmt.Fprintf(&w.log, format+"\n", args...) },
		File: file,
	}
}

func enforced(age time.Duration) string {
	return fmt.Sprintf("version: STSv1\nmode: enforce\nmx: mx1.example.com\nmax_age: %d\n", age/time.Second)
}

var (
	gone       = &dns.Error{Name: "_mta-sts.example.com", Type: "TXT", Kind: dns.NoName, Reason: "it does not exist"}
	trouble    = &dns.Error{Name: "_mta-sts.example.com", Type: "TXT", Kind: dns.Failed, Reason: "SERVFAIL"}
	errOffline = errors.New("connection refused")
)

// want checks the policy, "" for none, and how often it was fetched so far.
func (w *world) want(mode Mode, fetched int) {
	w.t.Helper()
	p, err := w.Policy(w.t.Context(), "example.com")
	if err != nil || p.Mode != mode || w.fetched != fetched {
		w.t.Errorf("policy %q, %v, fetched %d times; want %q, fetched %d times", p.Mode, err, w.fetched, mode, fetched)
	}
	if mode == Enforce && !p.Names("mx1.example.com") {
		w.t.Errorf("hosts %q", p.Hosts)
	}
}

// later lets time go by, and another process take over.
func (w *world) later(d time.Duration) {
	w.now = w.now.Add(d)
	w.Cache = w.cache(w.File)
}

func TestPolicyIsFetchedOnce(t *testing.T) {
	w := newWorld(t)
	w.want(Enforce, 1)
	w.want(Enforce, 1)
	w.later(time.Hour)
	w.want(Enforce, 1)
	if p, err := w.Policy(t.Context(), "example.net"); err != nil || p.Mode != "" || w.fetched != 1 {
		t.Errorf("another domain: %+v, %v", p, err)
	}
}

func TestPolicyIsFetchedAgain(t *testing.T) {
	w := newWorld(t)
	w.want(Enforce, 1)
	w.record = "v=STSv1; id=2;"
	w.policy = strings.Replace(enforced(time.Hour), "enforce", "testing", 1)
	w.want(Testing, 2)
	w.later(59 * time.Minute)
	w.want(Testing, 2)
	w.later(2 * time.Minute)
	w.want(Testing, 3) // its time was over
	w.policy = enforced(300 * 24 * time.Hour)
	w.record = "v=STSv1; id=3;"
	w.want(Enforce, 4)
	w.later(23 * time.Hour)
	w.want(Enforce, 4)
	w.later(2 * time.Hour)
	w.want(Enforce, 5) // a day is over
}

// TestPolicyHolds has somebody in the way of everything that would tell us of the policy.
func TestPolicyHolds(t *testing.T) {
	w := newWorld(t)
	w.want(Enforce, 1)
	w.record = gone
	w.want(Enforce, 1)
	w.want(Enforce, 1)
	if n := strings.Count(w.log.String(), "says no more"); n != 1 {
		t.Errorf("told %d times:\n%s", n, w.log.String())
	}
	w.record = trouble
	w.want(Enforce, 1)
	w.record = "v=STSv1; id=2;"
	w.policy = errOffline
	w.want(Enforce, 2)
	w.want(Enforce, 2)
	w.later(4 * time.Minute)
	w.want(Enforce, 2)
	w.later(2 * time.Minute)
	w.want(Enforce, 3)
	w.record = "v=STSv1; id=1;"
	w.later(25 * time.Hour)
	w.want(Enforce, 4)
	w.later(59 * time.Minute)
	w.want(Enforce, 4) // it need not have changed, so that this is less urgent
	w.later(2 * time.Minute)
	w.want(Enforce, 5)
	w.later(29 * 24 * time.Hour)
	w.want("", 6) // nobody has heard of it for so long
	if !strings.Contains(w.log.String(), "mail goes on without: connection refused") {
		t.Errorf("log:\n%s", w.log.String())
	}
}

func TestPolicyThatCannotBeFetched(t *testing.T) {
	w := newWorld(t)
	for _, broken := range []any{errOffline, "<html>"} {
		w.policy = broken
		fetched := w.fetched
		w.want("", fetched+1)
		w.want("", fetched+1)
		w.later(4 * time.Minute)
		w.want("", fetched+1)
		w.later(2 * time.Minute)
	}
	w.policy = enforced(time.Hour)
	w.want(Enforce, 3)
}

// TestWordsOfStrangers has a web server say what is not to be read in a log.
func TestWordsOfStrangers(t *testing.T) {
	w := newWorld(t)
	w.policy = errors.New("500 \x1b[2J\r\n\xff\u2028" + strings.Repeat("x", 10000))
	w.want("", 1)
	if got := w.log.String(); strings.ContainsAny(strings.TrimSuffix(got, "\n"), "\x1b\r\n\ufffd\u2028") || len(got) > 500 || !strings.Contains(got, "500 ?[2J??") {
		t.Errorf("log: %q", got)
	}
}

func TestTroubleOfDNS(t *testing.T) {
	w := newWorld(t)
	w.record = trouble
	if p, err := w.Policy(t.Context(), "example.com"); !errors.Is(err, trouble) {
		t.Errorf("Policy = %+v, %v", p, err)
	}
	w.record = gone
	w.want("", 0)
}

// TestInterrupted has a pass end while a policy is fetched: that is not the fault of the domain.
func TestInterrupted(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.Fetch = func(context.Context, string) (string, error) {
		cancel()
		return "", ctx.Err()
	}
	if _, err := w.Policy(ctx, "example.com"); !errors.Is(err, context.Canceled) {
		t.Errorf("Policy: %v", err)
	}
	w.later(0)
	w.want(Enforce, 1)
}

// TestOneFetchForMany has a hundred sessions want the policy of a domain at once.
func TestOneFetchForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Fetch = func(context.Context, string) (string, error) {
			w.fetched++
			time.Sleep(time.Second)
			return enforced(time.Hour), nil
		}
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if p, err := w.Policy(t.Context(), "example.com"); err != nil || p.Mode != Enforce {
					t.Errorf("Policy = %+v, %v", p, err)
				}
			})
		}
		all.Wait()
		if w.fetched != 1 {
			t.Errorf("fetched %d times", w.fetched)
		}
	})
}

func TestFile(t *testing.T) {
	w := newWorld(t)
	w.want(Enforce, 1)
	data, err := os.ReadFile(w.File)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		data    []byte
		fetched int
	}{
		{"as it was", data, 0},
		{"with a line that a crash cut short", append(bytes.Clone(data), `{"Domain":"exa`...), 0},
		{"with garbage in front", append([]byte("\x00\xff\n{}\n[]\n{\"Domain\":7}\n"), data...), 0},
		{"cut short itself", data[:len(data)/2], 1},
		{"empty", nil, 1},
		{"for a time beyond all bounds", bytes.Replace(data, []byte(`"MaxAge":`), []byte(`"MaxAge":1000`), 1), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(w.File, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			w.t, w.fetched = t, 0
			w.later(0)
			w.want(Enforce, tt.fetched)
			w.later(0)
			w.want(Enforce, tt.fetched) // what was learned can be read after what was there before
		})
	}
}

func TestFileThatCannotBeWritten(t *testing.T) {
	w := newWorld(t)
	w.Cache = w.cache(filepath.Join(w.File, "in", "nothing"))
	w.want(Enforce, 1)
	w.want(Enforce, 1)
	if !strings.Contains(w.log.String(), "cannot write down") {
		t.Errorf("log: %s", w.log.String())
	}
}

// TestBounds learns of more domains than are remembered, again and again.
func TestBounds(t *testing.T) {
	w := newWorld(t)
	w.TXT = func(context.Context, string) ([]string, error) { return []string{"v=STSv1; id=1;"}, nil }
	for i := range 2*maxEntries + 10 {
		if _, err := w.Policy(t.Context(), fmt.Sprintf("d%d.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.entries); n > maxEntries || n < maxEntries/2 {
		t.Errorf("%d domains are remembered", n)
	}
	size := func() int64 {
		st, err := os.Stat(w.File)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	const line = 250
	for i := range 3 * maxEntries {
		w.now = w.now.Add(48 * time.Hour)
		if _, err := w.Policy(t.Context(), fmt.Sprintf("e%d.example", i%100)); err != nil {
			t.Fatal(err)
		}
	}
	if n := size(); n > 4*maxEntries*line {
		t.Errorf("the file has %d octets", n)
	}
	w.later(0)
	fetched := w.fetched
	if _, err := w.Policy(t.Context(), "e99.example"); err != nil || w.fetched != fetched {
		t.Errorf("fetched again, %v", err)
	}
}
