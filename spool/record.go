package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// errDamaged is the error for a record that is not what was written.
var errDamaged = errors.New("damaged index record")

// A message is the record of a queued message.
type message struct {
	arrival  time.Time
	size     int64
	sender   mail.Path
	pending  int       // recipients that are not final
	journal  bool      // there is one
	begin    time.Time // when it could be sent: its age counts from then
	deadline time.Time // see Late; zero if there is none, or none any more
	tls      mail.TLSWish
}

// A recipient is the record of a recipient that is not final.
type recipient struct {
	path     mail.Path
	hop      string    // of the next attempt
	next     time.Time // when it is due
	attempts int
	priority int
	asked    bool // somebody has asked for him: due before all others
	active   bool // an attempt has been recorded, and no result
	expanded bool // aliases have been looked up
	last     mail.Result
	lastTime time.Time // of the last attempt; zero if there was none
	told     bool      // the sender has been told of the delay
}

// A hop is the record of a next hop that did not take a session.
type hop struct {
	until    time.Time // do not try before
	tries    int       // in a row, whoever was to blame
	failures int       // those of them that the next hop was to blame for
	since    time.Time // the first of these
	last     mail.Result
	full     bool // it waits because it may not have more, and not for any trouble
}

// maxText is how much of a reply is kept in the index.
const maxText = 1000

// A record is its fields in order: numbers as varints, strings with their length. The first four octets are a CRC of
// the key and the rest, so that neither a flipped bit nor a value under another key passes for one.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func seal(key, value []byte) []byte {
	binary.BigEndian.PutUint32(value, checksum(key, value))
	return value
}

func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value[4:])
}

func unseal(key, value []byte) (*reader, error) {
	if len(value) < 4 || binary.BigEndian.Uint32(value) != checksum(key, value) {
		return nil, errDamaged
	}
	return &reader{b: value[4:]}, nil
}

func (m *message) encode(key []byte) []byte {
	b := make([]byte, 4, 64)
	b = appendTime(b, m.arrival)
	b = binary.AppendVarint(b, m.size)
	b = appendString(b, m.sender.Address())
	b = binary.AppendVarint(b, int64(m.pending))
	b = appendBool(b, m.journal)
	b = appendTime(b, m.begin)
	b = appendTime(b, m.deadline)
	b = append(b, byte(m.tls))
	return seal(key, b)
}

func (m *message) decode(key, value []byte) error {
	r, err := unseal(key, value)
	if err != nil {
		return err
	}
	m.arrival = r.time()
	m.size = r.int()
	m.sender = r.path()
	m.pending = int(r.int())
	m.journal = r.bool()
	m.begin = r.time()
	m.deadline = r.time()
	if len(r.b) > 0 { // once it was not written
		m.tls = mail.TLSWish(r.byte())
	}
	return r.err
}

func (p *recipient) encode(key []byte) []byte {
	b := make([]byte, 4, 192)
	b = appendString(b, p.path.Address())
	b = appendString(b, p.hop)
	b = appendTime(b, p.next)
	b = binary.AppendVarint(b, int64(p.attempts))
	b = binary.AppendVarint(b, int64(p.priority))
	b = appendBool(b, p.asked)
	b = appendBool(b, p.active)
	b = appendBool(b, p.expanded)
	b = appendTime(b, p.lastTime)
	b = appendResult(b, p.last)
	b = appendBool(b, p.told)
	return seal(key, b)
}

func (p *recipient) decode(key, value []byte) error {
	r, err := unseal(key, value)
	if err != nil {
		return err
	}
	p.path = r.path()
	p.hop = r.string()
	p.next = r.time()
	p.attempts = int(r.int())
	p.priority = int(r.int())
	p.asked = r.bool()
	p.active = r.bool()
	p.expanded = r.bool()
	p.lastTime = r.time()
	p.last = r.result()
	p.told = len(r.b) > 0 && r.bool() // once it was not written
	return r.err
}

func (h *hop) encode(key []byte) []byte {
	b := make([]byte, 4, 128)
	b = appendTime(b, h.until)
	b = binary.AppendVarint(b, int64(h.tries))
	b = binary.AppendVarint(b, int64(h.failures))
	b = appendTime(b, h.since)
	b = appendResult(b, h.last)
	b = appendBool(b, h.full)
	return seal(key, b)
}

func (h *hop) decode(key, value []byte) error {
	r, err := unseal(key, value)
	if err != nil {
		return err
	}
	h.until = r.time()
	h.tries = int(r.int())
	h.failures = int(r.int())
	h.since = r.time()
	h.last = r.result()
	h.full = len(r.b) > 0 && r.bool() // once it was not written
	return r.err
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.AppendVarint(b, 0)
	}
	return binary.AppendVarint(b, t.UnixMicro())
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendResult(b []byte, r mail.Result) []byte {
	text := r.Reply.Text
	if len(text) > maxText {
		text = text[:maxText]
	}
	b = append(b, byte(r.Action), byte(r.Scope))
	b = appendBool(b, r.Remote)
	b = binary.AppendVarint(b, int64(r.Reply.Code))
	for _, n := range r.Reply.Enhanced {
		b = binary.AppendVarint(b, int64(n))
	}
	b = appendString(b, text)
	b = appendString(b, r.Relay)
	return appendString(b, r.TLS)
}

// A reader takes fields off a record. After the first error it returns zero values.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() { r.b, r.err = nil, errDamaged }

func (r *reader) int() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) string() string {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > uint64(len(r.b)-n) {
		r.fail()
		return ""
	}
	s := string(r.b[n : n+int(v)])
	r.b = r.b[n+int(v):]
	return s
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) bool() bool { return r.byte() != 0 }

func (r *reader) time() time.Time {
	us := r.int()
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us)
}

func (r *reader) path() mail.Path {
	p, err := mail.ParsePath(r.string())
	if err != nil {
		r.fail()
	}
	return p
}

func (r *reader) result() mail.Result {
	var v mail.Result
	v.Action, v.Scope = mail.Action(r.byte()), mail.Scope(r.byte())
	if v.Action > mail.Expanded || v.Scope > mail.OfUs {
		r.fail()
		return mail.Result{}
	}
	v.Remote = r.bool()
	v.Reply.Code = int(r.int())
	for i := range v.Reply.Enhanced {
		v.Reply.Enhanced[i] = int(r.int())
	}
	v.Reply.Text = r.string()
	v.Relay = r.string()
	v.TLS = r.string()
	return v
}

// Keys. IDs have a fixed length, so a recipient's key is the message's and a number; the key of what is due sorts by
// next hop, then class, then time.

func messageKey(id mail.ID) []byte { return []byte(id) }

func recipientKey(id mail.ID, n int) []byte {
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 16), id...), uint32(n))
}

// A class says who goes first at a next hop, whatever the time: whom somebody has asked for, then by priority.
type class byte

const classAsked class = 0

func classOf(priority int) class { return class(1 + mail.MaxPriority - priority) }

func (p *recipient) dueKey(id mail.ID, n int) []byte {
	c := classOf(p.priority)
	if p.asked {
		c = classAsked
	}
	return due{p.hop, c, p.next, id, n}.key()
}

// A due is an entry of the index of what is due.
type due struct {
	hop   string
	class class
	time  time.Time
	id    mail.ID
	n     int
}

func (d due) key() []byte {
	b := append(make([]byte, 0, len(d.hop)+1+dueTail), d.hop...)
	b = append(b, 0, byte(d.class))
	b = binary.BigEndian.AppendUint64(b, uint64(max(d.time.UnixMicro(), 0)))
	b = append(b, d.id...)
	return binary.BigEndian.AppendUint32(b, uint32(d.n))
}

// idLength is the length of a queue ID.
const idLength = 11

// dueTail is the length of what follows the next hop and its NUL in a key of what is due.
const dueTail = 1 + 8 + idLength + 4

func parseDueKey(key []byte) (due, error) {
	cut := len(key) - dueTail - 1
	if cut < 0 || key[cut] != 0 {
		return due{}, errDamaged
	}
	tail := key[cut+2:]
	return due{
		hop:   string(key[:cut]),
		class: class(key[cut+1]),
		time:  time.UnixMicro(int64(binary.BigEndian.Uint64(tail))),
		id:    mail.ID(tail[8 : 8+idLength]),
		n:     int(binary.BigEndian.Uint32(tail[8+idLength:])),
	}, nil
}

// Where the entries of a next hop begin, those of a class of it, and those of what comes after it.

func hopKey(hop string) []byte            { return append([]byte(hop), 0) }
func classKey(hop string, c class) []byte { return append([]byte(hop), 0, byte(c)) }
func afterHopKey(hop string) []byte       { return append([]byte(hop), 1) }
