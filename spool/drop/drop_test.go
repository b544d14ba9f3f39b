package drop

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

func parse(t testing.TB, s string) mail.Path {
	t.Helper()
	p, err := mail.ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func open(t testing.TB) *Dir {
	t.Helper()
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// full is an envelope with everything that one can have.
func full(t testing.TB) *mail.Envelope {
	return &mail.Envelope{
		Arrival: time.Date(2026, 11, 21, 22, 0, 0, 1000, time.UTC), Sender: parse(t, "ann@example.org"),
		OriginalSender: parse(t, "ann@web1.invalid"), Submitter: 1000, Return: mail.ReturnHeaders, ID: "job+3D77", SMTPUTF8: true,
		Priority: -3, TLS: mail.TLSRequired,
		Hold:      mail.Hold{Until: time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC), Asked: "for;86400"},
		DeliverBy: mail.DeliverBy{Deadline: time.Date(2026, 11, 23, 22, 0, 0, 0, time.UTC), Return: true, Trace: true},
		Settles:   &mail.Settles{Of: "7QK2M0A9XZ4", Recipients: []int{0, 12}},
		Recipients: []mail.Recipient{
			{Path: parse(t, "bob@example.net"), Notify: mail.NotifyNever},
			{Path: parse(t, `"a <b> \"c"@example.net`), Notify: mail.NotifyFailure | mail.NotifyDelay, Original: "rfc822;<x>@example.net"},
			{Path: parse(t, "jürgen@example.net"), Expanded: true},
		},
	}
}

// submission is one with everything that a submission can have.
func submission(t testing.TB) *mail.Envelope {
	env := full(t)
	env.Settles = nil
	for i := range env.Recipients {
		env.Recipients[i].Expanded = false
	}
	return env
}

func write(t testing.TB, d *Dir, env *mail.Envelope, content string, facts mail.Facts) mail.ID {
	t.Helper()
	w, err := d.Create(env)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	id, err := w.Commit(facts)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	facts := mail.Facts{EightBit: true, HeaderUTF8: true, LongestLine: 998}
	contents := map[string]string{
		"empty":            "",
		"small":            "Subject: x\r\n\r\nhello\r\n",
		"as the buffer":    strings.Repeat("x", bufferSize),
		"more than a read": strings.Repeat("0123456789abcde\r\n", 10000),
	}
	for name, content := range contents {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			for how, env := range map[string]*mail.Envelope{"Read": submission(t), "ReadOwn": full(t)} {
				read := map[string]func(string) (*File, error){"Read": d.Read, "ReadOwn": d.ReadOwn}[how]
				id := write(t, d, env, content, facts)
				f, err := read(string(id))
				if err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				if err := f.Verify(); err != nil {
					t.Errorf("%s: Verify: %v", how, err)
				}
				got, err := io.ReadAll(io.NewSectionReader(f.Content, 0, f.Size))
				if err != nil || string(got) != content || f.Size != int64(len(content)) {
					t.Errorf("%s: content of %d octets, size %d, %v; want %d", how, len(got), f.Size, err, len(content))
				}
				want := mail.Message{QueueID: id, Envelope: *env, Size: f.Size, Facts: facts}
				want.Submitter = 1000 // our own file: what it says is believed
				if diff := cmp.Diff(want, f.Message, cmpopts.IgnoreFields(mail.Message{}, "Content"), cmp.AllowUnexported(mail.Path{})); diff != "" {
					t.Errorf("%s (-want +got):\n%s", how, diff)
				}
				if err := f.Close(); err != nil {
					t.Errorf("%s: Close: %v", how, err)
				}
			}
		})
	}
}

func TestEnvelopeLongerThanARead(t *testing.T) {
	d := open(t)
	env := submission(t)
	for range 100_000 {
		env.Recipients = append(env.Recipients, mail.Recipient{Path: parse(t, "somebody-else@example.net")})
	}
	f, err := d.Read(string(write(t, d, env, "x\r\n", mail.Facts{})))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(f.Recipients) != len(env.Recipients) {
		t.Errorf("%d recipients, want %d", len(f.Recipients), len(env.Recipients))
	}
}

func TestUntilItIsCommitted(t *testing.T) {
	for name, named := range map[string]bool{"without a name": false, "with its name": true} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			w, err := d.Create(submission(t))
			if err != nil {
				t.Fatal(err)
			}
			if named {
				// As on a file system that has no unnamed files.
				if err := w.Abort(); err != nil {
					t.Fatal(err)
				}
				w.buf = make([]byte, 0, bufferSize)
				if err := w.openNamed(); err != nil {
					t.Fatal(err)
				}
				if err := unix.Flock(int(w.f.Fd()), unix.LOCK_EX); err != nil {
					t.Fatal(err)
				}
				w.emit(appendEnvelope(nil, submission(t)))
				d.syncNames = true
			}
			ids, others, err := d.Names()
			if err != nil || len(others) > 0 || (len(ids) > 0) != named {
				t.Errorf("names %v, %v, %v", ids, others, err)
			}
			if _, err := d.Read(string(w.ID())); named && !errors.Is(err, ErrBusy) || !named && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("Read = %v", err)
			}
			id, err := w.Commit(mail.Facts{})
			if err != nil {
				t.Fatal(err)
			}
			f, err := d.Read(string(id))
			if err != nil {
				t.Fatalf("after Commit: %v", err)
			}
			f.Close()
		})
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	d := open(t)
	w, err := d.Create(submission(t))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "half of it")
	if err := errors.Join(w.Abort(), w.Abort()); err != nil {
		t.Errorf("Abort: %v", err)
	}
	w, err = d.Create(submission(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.openNamed(); err != nil {
		t.Fatal(err)
	}
	if err := w.Abort(); err != nil {
		t.Errorf("Abort: %v", err)
	}
	entries, err := os.ReadDir(d.path)
	if err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestIDInUseIsPassedOver(t *testing.T) {
	d := open(t)
	w, err := d.Create(submission(t))
	if err != nil {
		t.Fatal(err)
	}
	taken := w.ID()
	if err := os.WriteFile(filepath.Join(d.path, string(taken)), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := w.Commit(mail.Facts{})
	if err != nil || id <= taken {
		t.Errorf("Commit = %q, %v, want an ID after %q", id, err, taken)
	}
	if b, err := os.ReadFile(filepath.Join(d.path, string(taken))); err != nil || string(b) != "other" {
		t.Errorf("the other file: %q, %v", b, err)
	}
	m, err := d.Read(string(id))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Verify(), m.Close()); err != nil {
		t.Error(err)
	}
}

// TestManyInOneMicrosecond: busy hosts do that.
func TestManyInOneMicrosecond(t *testing.T) {
	d := open(t)
	ids := map[mail.ID]bool{}
	for range 50 {
		w, err := d.Create(full(t))
		if err != nil {
			t.Fatal(err)
		}
		id, err := w.Commit(mail.Facts{})
		if err != nil {
			t.Fatal(err)
		}
		ids[id] = true
	}
	if len(ids) != 50 {
		t.Errorf("%d IDs for 50 messages", len(ids))
	}
}

func TestModeWhateverTheUmask(t *testing.T) {
	for _, mask := range []int{0, 0o777} {
		d := open(t)
		id := func() mail.ID {
			defer syscall.Umask(syscall.Umask(mask))
			return write(t, d, submission(t), "x\r\n", mail.Facts{})
		}()
		st, err := os.Stat(filepath.Join(d.path, string(id)))
		if err != nil || st.Mode().Perm() != fileMode {
			t.Errorf("umask %o: mode %v, %v", mask, st.Mode(), err)
		}
	}
}

// Whatever is not exactly what was written is refused.
func TestEveryDamageIsSeen(t *testing.T) {
	d := open(t)
	id := write(t, d, full(t), "Subject: x\r\n\r\nhello\r\n", mail.Facts{LongestLine: 10})
	name := filepath.Join(d.path, string(id))
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, b []byte) {
		t.Helper()
		if err := os.WriteFile(name, b, 0o640); err != nil {
			t.Fatal(err)
		}
		f, err := d.Read(string(id))
		if err == nil {
			err = f.Verify()
			f.Close()
		}
		if err == nil {
			t.Errorf("%s is not seen", what)
		}
	}
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1
		check("a flipped bit at "+string(whole[:i]), damaged)
		check("an end at "+string(whole[:i]), whole[:i])
		zeroed := bytes.Clone(whole)
		clear(zeroed[i:])
		check("zeros from "+string(whole[:i]), zeroed)
	}
	check("an octet more", append(bytes.Clone(whole), '\n'))
}

func TestHostileEnvelopes(t *testing.T) {
	good := string(appendEnvelope(nil, full(t)))
	endless := strings.Repeat("x\x01", 1<<20)
	tests := []struct{ name, text string }{
		{"no magic", "From: x\n\n"},
		{"no sender", strings.Replace(good, "sender: <ann@example.org>\n", "", 1)},
		{"no recipients", "postrider-message 1\narrival: 2026-11-21T22:00:00Z\nsender: <>\n\n"},
		{"unknown field", strings.Replace(good, "sender:", "shell: rm\nsender:", 1)},
		{"null recipient", strings.Replace(good, "<bob@example.net>", "<>", 1)},
		{"recipient without brackets", strings.Replace(good, "<bob@example.net>", "bob@example.net", 1)},
		{"carriage return in an address", strings.Replace(good, "<bob@", "<bo\rb@", 1)},
		{"two addresses in one", strings.Replace(good, "<bob@", "<eve@example.net> <bob@", 1)},
		{"control character in orcpt", strings.Replace(good, "orcpt=rfc822;", "orcpt=rfc822;\x01", 1)},
		{"report on a path", strings.Replace(good, "settles: 7QK2M0A9XZ4", "settles: ../../../../", 1)},
		{"endless line without a field", good[:len(good)-1] + endless + "\n\n"},
		{"endless address", strings.Replace(good, "<ann@", "<"+endless, 1)},
		{"endless number", strings.Replace(good, "submitter: ", "submitter: "+endless, 1)},
		{"negative position", strings.Replace(good, "7QK2M0A9XZ4 0 12", "7QK2M0A9XZ4 -1", 1)},
	}
	if _, _, err := parseEnvelope([]byte(good)); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	for _, tt := range tests {
		if env, _, err := parseEnvelope([]byte(tt.text)); err == nil || len(err.Error()) > 500 {
			t.Errorf("%s: %+v, %.600v; want an error of at most 500 octets", tt.name, env, err)
		}
	}
	if _, _, err := parseEnvelope([]byte("postrider-message 2\n\n")); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer version: %v, want %v", err, ErrNewer)
	}
}

// Only we say of a message that others are final because of it, or that aliases have been looked up.
func TestSubmissionCannotSpeakForTheQueue(t *testing.T) {
	d := open(t)
	settles, expanded := submission(t), submission(t)
	settles.Settles = &mail.Settles{Of: "7QK2M0A9XZ4", Recipients: []int{0}}
	expanded.Recipients[0].Expanded = true
	for _, env := range []*mail.Envelope{settles, expanded} {
		id := write(t, d, env, "x\r\n", mail.Facts{})
		if _, err := d.Read(string(id)); err == nil {
			t.Errorf("a submission with %+v is read", env)
		}
		f, err := d.ReadOwn(string(id))
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

func FuzzEnvelope(f *testing.F) {
	f.Add(appendEnvelope(nil, full(f)))
	f.Add([]byte("postrider-message 1\nsender: <>\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		env, n, err := parseEnvelope(b)
		if err != nil {
			return
		}
		if n > len(b) {
			t.Fatalf("length %d of %d", n, len(b))
		}
		for _, r := range append(env.Recipients, mail.Recipient{Path: env.Sender}) {
			if strings.ContainsAny(r.Path.Address()+r.Original+env.ID, "\r\n\x00") {
				t.Errorf("a line end gets through: %+v", r)
			}
		}
		again, _, err := parseEnvelope(appendEnvelope(nil, env))
		if err != nil {
			t.Fatalf("what was accepted is not accepted again: %v", err)
		}
		if diff := cmp.Diff(env, again, cmp.AllowUnexported(mail.Path{})); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzTrailer(f *testing.F) {
	f.Add(appendCRC(appendTrailer(nil, 2048, mail.Facts{EightBit: true, LongestLine: 998}), 0x89abcdef))
	f.Fuzz(func(t *testing.T, b []byte) {
		size, facts, crc, err := parseTrailer(b)
		if again := appendCRC(appendTrailer(nil, size, facts), crc); err == nil && string(again) != string(b) {
			t.Errorf("%q is taken for %q", b, again)
		}
	})
}

// What no reader takes is no message.
func TestEnvelopeThatIsTooLong(t *testing.T) {
	d := open(t)
	env := submission(t)
	env.Recipients = nil
	to := mail.Recipient{Path: parse(t, strings.Repeat("x", 1000)+"@example.net")}
	line := len(to.AppendText([]byte("recipient: "))) + 1
	for range (maxEnvelope - len(appendEnvelope(nil, env))) / line {
		env.Recipients = append(env.Recipients, to)
	}
	f, err := d.Read(string(write(t, d, env, "x\r\n", mail.Facts{})))
	if err != nil || len(f.Recipients) != len(env.Recipients) {
		t.Fatalf("an envelope as long as may be: %v", err)
	}
	f.Close()
	env.Recipients = append(env.Recipients, to)
	if _, err := d.Create(env); !errors.Is(err, ErrEnvelope) {
		t.Errorf("Create: %v", err)
	}
	if ids, others, err := d.Names(); len(ids) != 1 || len(others) > 0 {
		t.Errorf("left are %v and %v, %v", ids, others, err)
	}
	// Others who make one by hand need not even fill it.
	const sparse = "7QK2M0A9XZ4"
	name := filepath.Join(d.path, sparse)
	if err := errors.Join(os.WriteFile(name, appendEnvelope(nil, submission(t))[:200], 0o600), os.Truncate(name, maxEnvelope+1)); err != nil {
		t.Fatal(err)
	}
	for how, read := range map[string]func(string) (*File, error){"Read": d.Read, "ReadOwn": d.ReadOwn} {
		if _, err := read(sparse); !errors.Is(err, ErrEnvelope) {
			t.Errorf("%s: %v", how, err)
		}
	}
}
