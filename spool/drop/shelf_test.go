package drop

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/mail"
)

// However many have a message to very many recipients open, its envelope is there once; and what has another file's name is
// not taken for it.
func TestLargeEnvelopesAreShared(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	write := func(rcpt string) mail.ID {
		t.Helper()
		to, err := mail.ParsePath(rcpt)
		if err != nil {
			t.Fatal(err)
		}
		env := &mail.Envelope{Arrival: Now(), Recipients: slices.Repeat([]mail.Recipient{{Path: to}}, 10_000)}
		w, err := d.Create(env)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "hello\r\n")
		id, err := w.Commit(mail.Facts{})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	open := func(id mail.ID) *File {
		t.Helper()
		f, err := d.ReadOwn(string(id))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first, second := write("bob@a.example"), write("cyd@a.example")
	a, b := open(first), open(first)
	if &a.Recipients[0] != &b.Recipients[0] {
		t.Error("two copies")
	}
	a.Close()
	c := open(second)
	c.Close()
	if again := open(first); &again.Recipients[0] != &b.Recipients[0] {
		t.Error("a copy of what somebody has")
	} else {
		again.Close()
	}
	b.Close()
	b.Close()
	open(second).Close()
	if len(d.shelf.of) != 1 {
		t.Errorf("%d envelopes are kept that nobody has", len(d.shelf.of))
	}
	if err := os.Rename(d.path+"/"+string(first), d.path+"/"+string(second)); err != nil {
		t.Fatal(err)
	}
	other := open(second)
	defer other.Close()
	if got := other.Recipients[0].Path.Address(); got != "bob@a.example" {
		t.Errorf("recipient %s", got)
	}
}

// As many small messages as a pass may have in flight are open without a descriptor each.
func TestSmallFilesTakeNoDescriptors(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	bob, err := mail.ParsePath("bob@a.example")
	if err != nil {
		t.Fatal(err)
	}
	var files []*File
	for _, size := range []int{1, smallFile} {
		w, err := d.Create(&mail.Envelope{Arrival: Now(), Recipients: []mail.Recipient{{Path: bob}}})
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, strings.Repeat("x", size))
		id, err := w.Commit(mail.Facts{})
		if err != nil {
			t.Fatal(err)
		}
		before := descriptors(t)
		for range 10 {
			f, err := d.ReadOwn(string(id))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		if want := size / smallFile * 10; descriptors(t)-before != want {
			t.Errorf("%d octets: %d descriptors, want %d", size, descriptors(t)-before, want)
		}
	}
	for _, f := range files {
		if got, err := io.ReadAll(io.NewSectionReader(f.Content, 0, f.Size)); err != nil || strings.Trim(string(got), "x") != "" || int64(len(got)) != f.Size {
			t.Errorf("%d octets: %v", len(got), err)
		}
		if err := errors.Join(f.Verify(), f.Close()); err != nil {
			t.Error(err)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
