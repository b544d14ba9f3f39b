package drop

import (
	"io"
	"os"
	"slices"
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
