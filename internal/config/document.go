package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"
)

// A node is a value of the file with the place where it stands.
type node struct {
	kind   unstable.Kind // Table also for inline tables; Array, and ArrayTable for the tables of [[name]]
	offset int           // in the file
	text   string        // of a string what it means, of another scalar what was written
	items  []*node       // of Array and ArrayTable
	keys   []string      // of a table, in the order of the file
	values map[string]*node
	keyAt  map[string]int // offsets
	open   openness
}

// openness says what may still be added to a table (TOML 1.0, "Table" and "Inline Table").
type openness uint8

const (
	closed   openness = iota // inline, or an array that was written as a value
	implied                  // named only as part of [its.name]: may get a header of its own
	dotted                   // made by dotted.keys: may get more of them
	headered                 // has had its [header]
)

// A document is the file as a tree.
type document struct {
	file string
	data []byte
	root *node
}

// errorAt returns an Error about the character that the octet at offset is part of.
func (d *document) errorAt(offset int, format string, args ...any) *Error {
	offset = min(offset, len(d.data))
	for offset > 0 && offset < len(d.data) && !utf8.RuneStart(d.data[offset]) {
		offset--
	}
	before := d.data[:offset]
	line := bytes.LastIndexByte(before, '\n') + 1
	return &Error{
		File:   d.file,
		Line:   bytes.Count(before, []byte("\n")) + 1,
		Column: utf8.RuneCount(before[line:]) + 1,
		Text:   fmt.Sprintf(format, args...),
	}
}

// readDocument parses data and refuses what is defined twice; it knows nothing of the keys that have a meaning. The
// reader is used as a parser only: it gives positions for everything, also to errors that are found much later, and
// costs sendmail neither its reflection nor its JSON.
func readDocument(file string, data []byte) (*document, error) {
	// Editors on Windows begin a file with a mark that nobody sees. It is no column either.
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	d := &document{file: file, data: data, root: newTable(0, headered)}
	var p unstable.Parser
	p.Reset(data)
	current := d.root
	for p.NextExpression() {
		e := p.Expression()
		var err error
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			current, err = d.header(e)
		case unstable.KeyValue:
			err = d.keyValue(current, e)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := p.Error(); err != nil {
		var pe *unstable.ParserError
		if !errors.As(err, &pe) {
			return nil, &Error{File: file, Text: err.Error()}
		}
		hint := ""
		if strings.HasSuffix(pe.Message, "at start of value") {
			hint = "; text stands in quotes"
		}
		// What the parser highlights is part of data: what is left behind its start tells where that is.
		return nil, d.errorAt(cap(data)-cap(pe.Highlight), "%s%s", pe.Message, hint)
	}
	return d, nil
}

func newTable(offset int, o openness) *node {
	return &node{kind: unstable.Table, offset: offset, open: o, values: map[string]*node{}, keyAt: map[string]int{}}
}

func (n *node) add(name string, offset int, v *node) {
	n.keys = append(n.keys, name)
	n.values[name] = v
	n.keyAt[name] = offset
}

// A step is one part of a dotted key.
type step struct {
	name   string
	offset int
}

func steps(it unstable.Iterator) []step {
	var s []step
	for it.Next() {
		s = append(s, step{string(it.Node().Data), int(it.Node().Raw.Offset)})
	}
	return s
}

// header goes to the table that a [header] or [[header]] opens.
func (d *document) header(e *unstable.Node) (*node, error) {
	path := steps(e.Key())
	t := d.root
	for _, s := range path[:len(path)-1] {
		next := t.values[s.name]
		if next == nil {
			next = newTable(s.offset, implied)
			t.add(s.name, s.offset, next)
		}
		if next.kind == unstable.ArrayTable {
			next = next.items[len(next.items)-1]
		}
		if next.kind != unstable.Table || next.open == closed {
			return nil, d.twice(t, s)
		}
		t = next
	}
	last := path[len(path)-1]
	old := t.values[last.name]
	if e.Kind == unstable.ArrayTable {
		if old == nil {
			old = &node{kind: unstable.ArrayTable, offset: last.offset, open: headered}
			t.add(last.name, last.offset, old)
		}
		if old.kind != unstable.ArrayTable {
			return nil, d.twice(t, last)
		}
		table := newTable(last.offset, headered)
		old.items = append(old.items, table)
		return table, nil
	}
	if old == nil {
		old = newTable(last.offset, implied)
		t.add(last.name, last.offset, old)
	}
	if old.kind != unstable.Table || old.open != implied {
		return nil, d.twice(t, last)
	}
	old.open = headered
	return old, nil
}

// keyValue adds key = value to the table, making the tables that dots in the key name.
func (d *document) keyValue(t *node, e *unstable.Node) error {
	path := steps(e.Key())
	for _, s := range path[:len(path)-1] {
		next := t.values[s.name]
		if next == nil {
			next = newTable(s.offset, dotted)
			t.add(s.name, s.offset, next)
		}
		if next.open != dotted {
			return d.twice(t, s)
		}
		t = next
	}
	last := path[len(path)-1]
	if t.values[last.name] != nil {
		return d.twice(t, last)
	}
	v, err := d.value(e.Value(), last.offset)
	if err != nil {
		return err
	}
	t.add(last.name, last.offset, v)
	return nil
}

// value copies a parsed value. Of arrays the parser keeps no place: they get that of their key.
func (d *document) value(v *unstable.Node, keyAt int) (*node, error) {
	n := &node{kind: v.Kind, offset: keyAt}
	if v.Raw.Length > 0 {
		n.offset = int(v.Raw.Offset)
	}
	switch v.Kind {
	case unstable.Array:
		for it := v.Children(); it.Next(); {
			item, err := d.value(it.Node(), keyAt)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
	case unstable.InlineTable:
		n = newTable(n.offset, dotted)
		for it := v.Children(); it.Next(); {
			if err := d.keyValue(n, it.Node()); err != nil {
				return nil, err
			}
		}
		n.close()
	default:
		n.text = string(v.Data)
	}
	return n, nil
}

// close ends an inline table, whose dotted keys must not be extended from outside either.
func (n *node) close() {
	if n.kind != unstable.Table {
		return
	}
	n.open = closed
	for _, v := range n.values {
		v.close()
	}
}

func (d *document) twice(t *node, s step) error {
	first := d.errorAt(t.keyAt[s.name], "")
	return d.errorAt(s.offset, "%q stands here again; it was set in line %d", s.name, first.Line)
}

// describe says what was found, on one line and not too long.
func (n *node) describe() string {
	switch n.kind {
	case unstable.String:
		return quote(n.text)
	case unstable.Integer, unstable.Float:
		return "the number " + shorten(n.text)
	case unstable.Bool:
		return n.text
	case unstable.Array:
		return "a list"
	case unstable.Table, unstable.ArrayTable:
		return "a table"
	default:
		return "a date or time"
	}
}

func quote(s string) string { return fmt.Sprintf("%q", shorten(s)) }

func shorten(s string) string {
	const most = 60
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
