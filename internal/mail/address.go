package mail

import (
	"errors"
	"fmt"
	"strings"
)

// A Mailbox is one address of a list, and where it stands in the list.
type Mailbox struct {
	Path   Path
	Phrase string // the display name as written, quotes and all; "" if there is none

	// Start and End are where the address stands, a source route included but not brackets, phrase and comments around
	// it: to replace these octets is to change the address and nothing else.
	Start, End int
}

// ParseAddressList reads the addresses of a header field (RFC 5322 section 3.4) or of a word of a command line. It takes
// what programs write, not only what the RFC allows: bare names, empty items, dots anywhere, octets above 127, ";" where
// "," is meant; and groups, comments, folded lines and source routes, which are dropped (RFC 5321 appendix C). Blanks do
// not separate addresses. A Path may be bare, and null where the list has "<>".
//
// The error, of type AddressErrors, names the items that are not addresses; the list has all the others nevertheless.
func ParseAddressList(s string) ([]Mailbox, error) {
	var list []Mailbox
	err := EachAddress(s, func(m Mailbox) { list = append(list, m) })
	return list, err
}

// EachAddress calls f with each address that ParseAddressList would return, and returns the same error. A list may have
// millions.
func EachAddress(s string, f func(Mailbox)) error {
	p := addressParser{s: s, found: f}
	p.reset()
	for p.pos < len(s) {
		p.step()
	}
	p.endItem()
	if len(p.errs) == 0 {
		return nil
	}
	return p.errs
}

// An AddressError says why something is not an address.
type AddressError struct {
	Item string // what was written, or its beginning
	Err  error
}

func (e *AddressError) Error() string { return fmt.Sprintf("%q: %v", e.Item, e.Err) }

func (e *AddressError) Unwrap() error { return e.Err }

// AddressErrors are those of a list, in its order: the first hundred.
type AddressErrors []*AddressError

const maxAddressErrors = 100

// Error returns the first, on one line.
func (e AddressErrors) Error() string {
	if len(e) == 1 {
		return e[0].Error()
	}
	return fmt.Sprintf("%v (and %d more)", e[0], len(e)-1)
}

// Unwrap returns the first.
func (e AddressErrors) Unwrap() error { return e[0] }

// Reasons why an item is not an address.
var (
	errBlank     = errors.New("blank in address")
	errBrackets  = errors.New("unbalanced angle brackets")
	errComment   = errors.New("comment without end")
	errQuote     = errors.New("quote without end")
	errLiteral   = errors.New("domain literal without end")
	errColon     = errors.New("misplaced colon")
	errNoAddress = errors.New("empty")
)

// addressParser goes through a list once, from left to right, and never back.
type addressParser struct {
	s     string
	pos   int
	group bool // within a group
	found func(Mailbox)
	errs  AddressErrors

	addressItem
}

// An addressItem is what is known of the item being read: what stands between two commas.
type addressItem struct {
	start  int // of the item
	phrase string
	angle  angle

	// The address so far: what stands in angle brackets, or everything until one opens. From first to last in the list;
	// where blanks and comments stand in between, text has it without them.
	first, last int
	text        []byte
	at          bool // an @ was seen, outside quotes

	spoiled error // the item is no address
	apart   error // nor is it one unless an angle bracket follows: then these words are a phrase
}

// angle is where an item stands with regard to its angle brackets.
type angle uint8

const (
	noAngle angle = iota
	inRoute
	inAngle
	afterAngle
)

// step reads one token.
func (p *addressParser) step() {
	switch c := p.s[p.pos]; c {
	case ' ', '\t', '\r', '\n':
		p.pos++
	case '(':
		p.skipComment()
	case '"':
		p.quoted()
	case '<':
		p.open()
	case '>':
		p.shut()
	case ',':
		if p.angle == inRoute {
			p.pos++
			return
		}
		p.endItem()
	case ';':
		p.endItem()
		p.group = false
	case ':':
		p.colon()
	case '[':
		if p.first >= 0 && p.s[p.last-1] == '@' {
			p.literal()
			return
		}
		p.word()
	default:
		p.word()
	}
}

// add takes s[from:to] into the address.
func (p *addressParser) add(from, to int) {
	p.pos = to
	if p.angle == inRoute || p.angle == afterAngle {
		return
	}
	if p.first < 0 {
		p.first, p.last = from, to
		return
	}
	if from != p.last {
		// Blanks are allowed around dots and the @ only, and after a route.
		if routed := p.text != nil && len(p.text) == 0; !routed && !isGlue(p.s[p.last-1]) && !isGlue(p.s[from]) {
			p.apart = errBlank
		}
		p.detach()
	}
	if p.text != nil {
		p.text = append(p.text, p.s[from:to]...)
	}
	p.last = to
}

func isGlue(c byte) bool { return c == '.' || c == '@' }

// detach starts a copy of the address, which is no longer a part of the list as it stands.
func (p *addressParser) detach() {
	if p.text == nil {
		p.text = append(make([]byte, 0, 64), p.s[p.first:p.last]...)
	}
}

func (p *addressParser) word() {
	from := p.pos
	if p.angle == inAngle && p.first < 0 && p.s[from] == '@' {
		p.angle, p.first, p.last = inRoute, from, from
	}
	to := from + 1 // a "[" that starts no literal is an ordinary character
	for at := p.s[from] == '@'; to < len(p.s) && !(at && p.s[to] == '['); to++ {
		if strings.IndexByte(" \t\r\n()\"<>,;:", p.s[to]) >= 0 {
			break
		}
		at = p.s[to] == '@'
		p.at = p.at || at
	}
	p.at = p.at || p.s[from] == '@'
	p.add(from, to)
}

func (p *addressParser) quoted() {
	from := p.pos
	folded := false
	for i := from + 1; i < len(p.s); i++ {
		switch p.s[i] {
		case '\\':
			i++
		case '\r', '\n':
			folded = true
		case '"':
			if folded && p.angle != inRoute && p.angle != afterAngle {
				p.addUnfolded(from, i+1)
				return
			}
			p.add(from, i+1)
			return
		}
	}
	p.spoil(errQuote)
	p.pos = len(p.s)
}

// addUnfolded is add for what has line ends in it.
func (p *addressParser) addUnfolded(from, to int) {
	if p.first < 0 {
		p.first, p.last = from, from
	}
	p.detach()
	kept := len(p.text)
	p.add(from, to)
	text := p.text[:kept]
	for _, c := range p.text[kept:] {
		if c != '\r' && c != '\n' {
			text = append(text, c)
		}
	}
	p.text = text
}

func (p *addressParser) literal() {
	from := p.pos
	for i := from + 1; i < len(p.s); i++ {
		switch p.s[i] {
		case '\\':
			i++
		case ']':
			p.add(from, i+1)
			return
		}
	}
	p.spoil(errLiteral)
	p.pos = len(p.s)
}

func (p *addressParser) skipComment() {
	depth := 0
	for i := p.pos; i < len(p.s); i++ {
		switch p.s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			depth--
		}
		if depth == 0 {
			p.pos = i + 1
			return
		}
	}
	p.spoil(errComment)
	p.pos = len(p.s)
}

func (p *addressParser) open() {
	if p.angle != noAngle {
		p.spoil(errBrackets)
	}
	p.phrase = strings.Trim(p.s[p.start:p.pos], " \t\r\n")
	p.pos++
	p.angle, p.first, p.last, p.text, p.apart = inAngle, -1, p.pos, nil, nil
}

func (p *addressParser) shut() {
	if p.angle != inAngle {
		p.spoil(errBrackets)
	}
	p.angle = afterAngle
	p.pos++
}

func (p *addressParser) colon() {
	p.pos++
	switch {
	case p.angle == inRoute:
		// What follows replaces the route, which stays part of what is to be replaced.
		p.angle, p.last, p.text = inAngle, p.pos, make([]byte, 0, 64)
	case p.angle == noAngle && !p.group && !p.at && p.first >= 0 && p.spoiled == nil:
		p.group = true
		p.reset()
	default:
		p.spoil(errColon)
	}
}

func (p *addressParser) spoil(err error) {
	if p.spoiled == nil {
		p.spoiled = err
	}
}

func (p *addressParser) reset() {
	p.addressItem = addressItem{start: p.pos, first: -1}
}

// endItem concludes the item at a separator or at the end of the list.
func (p *addressParser) endItem() {
	if m, err := p.mailbox(); err == nil {
		p.found(m)
	} else if err != errNoAddress && len(p.errs) < maxAddressErrors {
		p.errs = append(p.errs, &AddressError{excerpt(p.s[p.start:p.pos]), err})
	}
	p.pos++
	p.reset()
}

func (p *addressParser) mailbox() (m Mailbox, err error) {
	switch {
	case p.spoiled != nil:
		return m, p.spoiled
	case p.angle == inAngle || p.angle == inRoute:
		return m, errBrackets
	case p.apart != nil:
		return m, p.apart
	case p.first < 0 && p.angle == noAngle:
		return m, errNoAddress
	case p.first < 0:
		return Mailbox{Phrase: p.phrase, Start: p.last, End: p.last}, nil
	}
	addr := p.s[p.first:p.last]
	if p.text != nil {
		addr = string(p.text)
	}
	if m.Path, err = ParsePath(addr); err != nil {
		return m, err
	}
	if m.Path.IsNull() {
		return m, errBrackets // a route to nowhere
	}
	m.Phrase, m.Start, m.End = p.phrase, p.first, p.last
	return m, nil
}

// excerpt returns the beginning of what is not an address.
func excerpt(s string) string {
	const most = 60
	s = strings.Trim(s, " \t\r\n")
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
