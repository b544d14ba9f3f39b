package spool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/spool/drop"
)

// A Selection picks queued mail. Each list has patterns, one of which must fit; an empty list fits everything. A pattern
// is a part of the queue ID or address, in any case of letters for addresses; after "!" it is a part that they must not
// have. A selection of recipients picks these and leaves the others of the message alone.
type Selection struct {
	IDs, Senders, Recipients []string
}

// All reports whether the selection picks everything.
func (sel *Selection) All() bool { return len(sel.IDs)+len(sel.Senders)+len(sel.Recipients) == 0 }

// Message reports whether the selection picks messages with this ID and sender.
func (sel *Selection) Message(id mail.ID, sender mail.Path) bool {
	return sel.id(id) && fits(sel.Senders, sender.Address(), strings.ToLower)
}

func (sel *Selection) id(id mail.ID) bool { return fits(sel.IDs, string(id), exactly) }

// Recipient reports whether the selection picks this recipient of the messages that it picks.
func (sel *Selection) Recipient(rcpt mail.Path) bool {
	return fits(sel.Recipients, rcpt.Address(), strings.ToLower)
}

func exactly(s string) string { return s }

func fits(patterns []string, s string, fold func(string) string) bool {
	if len(patterns) == 0 {
		return true
	}
	s = fold(s)
	for _, p := range patterns {
		part, without := strings.CutPrefix(p, "!")
		if strings.Contains(s, fold(part)) != without {
			return true
		}
	}
	return false
}

// wants reports whether the selection picks any recipient of an envelope.
func (sel *Selection) wants(id mail.ID, env *mail.Envelope) bool {
	if !sel.Message(id, env.Sender) {
		return false
	}
	for _, r := range env.Recipients {
		if sel.Recipient(r.Path) {
			return true
		}
	}
	return false
}

// selective reports whether this pass is for some of the queue only.
func (s *Spool) selective() bool { return s.opts.Only != nil && !s.opts.Only.All() }

// MakeDue has the selected recipients tried at once, even at next hops that are being left alone, by the pass that is
// running over the spool at dir or by the next one. It is for whoever has got ErrHeld. What is being tried at this
// moment stays as it is.
func MakeDue(dir string, sel Selection, now time.Time) error {
	gate, err := openGate(dir)
	if err != nil {
		return err
	}
	err = makeDue(func(f func(*tx) error) error { return turn(dir, gate, true, f) }, &sel, now, false)
	return errors.Join(err, gate.Close())
}

// makeDueBatch is how many recipients one turn looks at.
const makeDueBatch = 10000

// makeDue goes through the queue in turns. held says that no pass is running but ours, which has begun nothing yet: what
// seems to be being tried was cut off by a crash.
func makeDue(update func(func(*tx) error) error, sel *Selection, now time.Time, held bool) error {
	hops := map[string]bool{}
	for after := []byte(nil); ; {
		err := update(func(x *tx) (err error) {
			after, err = x.makeDueBatch(after, sel, now, held, hops)
			return err
		})
		if err != nil {
			return err
		}
		if after == nil {
			break
		}
	}
	return update(func(x *tx) error {
		for name := range hops {
			if err := x.retryHop(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeDueBatch takes some recipients from the key on, and returns where the next batch begins; nil at the end.
func (x *tx) makeDueBatch(from []byte, sel *Selection, now time.Time, held bool, hops map[string]bool) ([]byte, error) {
	var moves []move
	var m message
	var of mail.ID // m is its record
	c := x.recipients.Cursor()
	k, v := c.Seek(from)
	for i := 0; k != nil && i < makeDueBatch; i++ {
		d := move{id: mail.ID(k[:idLength]), n: recipientOf(k)}
		if sel.id(d.id) {
			if err := d.p.decode(k, v); err != nil {
				return nil, err
			}
			if d.id != of {
				var err error
				if m, _, err = x.message(d.id); err != nil {
					return nil, err
				}
				of = d.id
			}
			if sel.Message(d.id, m.sender) && sel.Recipient(d.p.path) && (held || !d.p.active) && d.p.hop != heldHop {
				hops[d.p.hop] = true
				d.old = d.p.dueKey(d.id, d.n)
				if d.p.makeDue(sel, now) {
					moves = append(moves, d)
				}
			}
		}
		k, v = c.Next()
	}
	next := append([]byte(nil), k...)
	return next, x.move(moves)
}

// makeDue has the recipient tried at once, and reports whether that changed anything. Where everybody is, nobody is
// asked for before all others.
func (p *recipient) makeDue(sel *Selection, now time.Time) (changed bool) {
	if sel.All() {
		changed = p.next.After(now)
		if changed {
			p.next = now
		}
		return changed
	}
	changed = !p.asked
	p.asked = true
	return changed
}

// retryHop lets a next hop in trouble be tried at once. How often it has failed is not forgotten.
func (x *tx) retryHop(name string) error {
	h, ok, err := x.hop(name)
	if err != nil || !ok {
		return err
	}
	h.until = time.Time{}
	return x.hops.Put([]byte(name), h.encode([]byte(name)))
}

// Outstanding reports whether selected recipients of the spool at dir have not been tried since the given time, and are
// not waiting for a next hop in trouble.
func Outstanding(dir string, sel Selection, since time.Time) (bool, error) {
	incoming, err := sel.incoming(filepath.Join(dir, "drop"))
	if err != nil || incoming {
		return incoming, err
	}
	gate, err := os.Open(filepath.Join(dir, "gate"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	found := false
	err = turn(dir, gate, false, func(x *tx) error {
		return x.messages.ForEach(func(k, v []byte) error {
			if found || !sel.id(mail.ID(k)) {
				return nil
			}
			var m message
			if err := m.decode(k, v); err != nil {
				return err
			}
			if !sel.Message(mail.ID(k), m.sender) {
				return nil
			}
			return x.eachRecipient(mail.ID(k), func(_ int, p recipient) error {
				h, _, err := x.hop(p.hop)
				waits := (p.asked || !p.next.After(since)) && !h.until.After(since)
				found = found || sel.Recipient(p.path) && (p.active || waits)
				return err
			})
		})
	})
	if errors.Is(err, errNoIndex) {
		err = nil
	}
	return found, errors.Join(err, gate.Close())
}

// incoming reports whether a selected message lies in drop/.
func (sel *Selection) incoming(path string) (bool, error) {
	d, err := drop.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer d.Close()
	ids, _, err := d.Names()
	for _, id := range ids {
		if !sel.id(id) {
			continue
		}
		// What cannot be read is no message, or is being written: nobody has asked for that.
		f, err := d.Read(string(id))
		if err != nil {
			continue
		}
		wanted := sel.wants(id, &f.Envelope)
		if err := f.Close(); err != nil || wanted {
			return wanted, err
		}
	}
	return false, err
}
