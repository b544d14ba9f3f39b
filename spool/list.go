package spool

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
)

// An Entry is a message as mailq shows it.
type Entry struct {
	ID         mail.ID
	Arrival    time.Time
	Size       int64
	Sender     mail.Path
	Active     bool // being tried now
	Incoming   bool // still in drop/
	Held       bool // not to be sent before the time at which its recipients are due
	Recipients []EntryRecipient
}

// An EntryRecipient is a recipient that is not final.
type EntryRecipient struct {
	Path     mail.Path
	Attempts int
	Next     time.Time // when the next attempt is due
	Code     mail.EnhancedCode
	Reason   string // why the last attempt failed; "" if there was none, or no trouble
	Relay    string // who said so
}

// firstBatch is how many messages the first turn of List reads, so that something is seen soon.
const firstBatch = 100

// List yields every message of the spool at dir, in the order of arrival, those of queue/ before those of drop/. It reads
// a batch at a time and holds nothing while it yields, so a pass goes on beside a reader who takes his time; a message
// that comes or goes meanwhile may be missed. The error, if any, is the last thing yielded; fs.ErrPermission says that
// the caller may not read the spool. A spool that does not exist is empty.
func List(dir string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := list(dir, yield); err != nil && err != errStopped {
			yield(Entry{}, err)
		}
	}
}

// errStopped says that the reader has seen enough.
var errStopped = errors.New("stopped")

func list(dir string, yield func(Entry, error) bool) error {
	// First, so that what is taken in meanwhile is not missed.
	incoming, err := names(filepath.Join(dir, "drop"))
	if err != nil {
		return err
	}
	seen, err := listQueue(dir, incoming, yield)
	if err != nil {
		return err
	}
	var rest []mail.ID
	for _, id := range incoming {
		if !seen[id] {
			rest = append(rest, id)
		}
	}
	return listFiles(filepath.Join(dir, "drop"), rest, yield)
}

// names returns the messages in a directory; none if it does not exist.
func names(path string) ([]mail.ID, error) {
	d, err := drop.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	ids, _, err := d.Names()
	return ids, err
}

// listQueue yields what the index knows, and reports which of the given messages were among it.
func listQueue(dir string, incoming []mail.ID, yield func(Entry, error) bool) (seen map[mail.ID]bool, err error) {
	seen = map[mail.ID]bool{}
	watch := make(map[mail.ID]bool, len(incoming))
	for _, id := range incoming {
		watch[id] = true
	}
	gate, err := os.Open(filepath.Join(dir, "gate"))
	if errors.Is(err, fs.ErrNotExist) {
		return seen, nil // no pass has been here
	}
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	for after, most := mail.ID(""), firstBatch; ; most = batch {
		entries, err := readBatch(dir, gate, after, most)
		if errors.Is(err, errNoIndex) {
			ids, err := names(filepath.Join(dir, "queue"))
			if err != nil {
				return nil, err
			}
			return seen, listFiles(filepath.Join(dir, "queue"), ids, yield)
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			seen[e.ID] = watch[e.ID]
			after = e.ID
			if !yield(e, nil) {
				return nil, errStopped
			}
		}
		if len(entries) < most {
			return seen, nil
		}
	}
}

// readBatch takes one turn at the index.
func readBatch(dir string, gate *os.File, after mail.ID, most int) (entries []Entry, err error) {
	err = turn(dir, gate, false, func(x *tx) error {
		hops := map[string]*hop{}
		c := x.messages.Cursor()
		k, v := c.Seek([]byte(after))
		if k != nil && string(k) == string(after) {
			k, v = c.Next()
		}
		rk, rv := []byte(nil), []byte(nil)
		rc := x.recipients.Cursor()
		if k != nil {
			rk, rv = rc.Seek(k)
		}
		for ; k != nil && len(entries) < most; k, v = c.Next() {
			var m message
			if err := m.decode(k, v); err != nil {
				return err
			}
			e := Entry{ID: mail.ID(k), Arrival: m.arrival, Size: m.size, Sender: m.sender}
			for ; rk != nil && string(rk[:idLength]) <= string(k); rk, rv = rc.Next() {
				var p recipient
				if err := p.decode(rk, rv); err != nil {
					return err
				}
				if string(rk[:idLength]) != string(k) {
					continue
				}
				h, err := cachedHop(x, hops, p.hop)
				if err != nil {
					return err
				}
				e.Active = e.Active || p.active
				e.Held = e.Held || p.hop == heldHop
				r := entryRecipient(&p, h)
				if p.asked {
					r.Next = e.Arrival
				}
				e.Recipients = append(e.Recipients, r)
			}
			entries = append(entries, e)
		}
		return nil
	})
	return entries, err
}

func cachedHop(x *tx, hops map[string]*hop, name string) (*hop, error) {
	if h, ok := hops[name]; ok {
		return h, nil
	}
	h, ok, err := x.hop(name)
	if err != nil {
		return nil, err
	}
	if !ok {
		hops[name] = nil
		return nil, nil
	}
	hops[name] = &h
	return &h, nil
}

// entryRecipient gives the reason why a recipient waits: his own, or that of a next hop which takes no session.
func entryRecipient(p *recipient, h *hop) EntryRecipient {
	e := EntryRecipient{Path: p.path, Attempts: p.attempts, Next: p.next}
	last := p.last
	if h != nil {
		last = h.last
		if h.until.After(e.Next) {
			e.Next = h.until
		}
	}
	if last.Reply.Text != "" || last.Reply.Code != 0 {
		e.Code, e.Reason, e.Relay = last.Status(), last.Reply.String(), last.Relay
	}
	return e
}

// listFiles yields messages that no index describes.
func listFiles(path string, ids []mail.ID, yield func(Entry, error) bool) error {
	if len(ids) == 0 {
		return nil
	}
	d, err := drop.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	for _, id := range ids {
		f, err := d.Read(string(id))
		if err != nil {
			// Gone, being written, or not a message: a pass will say.
			continue
		}
		e := Entry{ID: id, Arrival: f.Arrival, Size: f.Size, Sender: f.Sender, Incoming: true}
		for _, r := range f.Recipients {
			e.Recipients = append(e.Recipients, EntryRecipient{Path: r.Path, Next: f.Begin()})
		}
		if err := f.Close(); err != nil {
			return err
		}
		if !yield(e, nil) {
			return errStopped
		}
	}
	return nil
}

// recipientOf returns the position that a recipient's key ends in.
func recipientOf(key []byte) int { return int(binary.BigEndian.Uint32(key[idLength:])) }
