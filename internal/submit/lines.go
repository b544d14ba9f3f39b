package submit

import (
	"bytes"
	"io"
)

// A lineReader reads text with whatever line ends programs write, and returns it as lines without any. LF ends a line,
// and so does a bare CR, which a server could otherwise take for a line end of its own; any CRs right before an LF belong
// to it. NULs are dropped. Line by line, not by the first one: programs mix them.
type lineReader struct {
	src io.Reader
	// dots is set if a line of one dot ends the text, and of two dots that start a line the first is dropped. Only lines
	// that follow an LF count.
	dots bool

	buf      []byte
	pos, end int    // what is read and not used is buf[pos:end]
	marks    [3]int // where the next LF, CR and NUL are, at pos or after it; before pos if unknown
	err      error
	fresh    bool // at the start of a line that follows an LF, or of the text
	dot      bool // a dot that started such a line is held back
	returns  int  // CRs held back: an LF may follow
	unclosed bool // something of the current line has been returned, but not its end
}

// readSize is how much is read at once.
const readSize = 32 << 10

func newLineReader(src io.Reader, dots bool) *lineReader {
	return &lineReader{src: src, dots: dots, buf: make([]byte, readSize), fresh: true, marks: [3]int{-1, -1, -1}}
}

// next returns a piece of a line, and whether the line ends after it. A line may come in any number of pieces, some of
// them empty. A piece is valid until the next call. The last line ends even if the text does not end in a line end;
// after it, err is io.EOF.
func (r *lineReader) next() (piece []byte, ends bool, err error) {
	for {
		if r.pos == r.end {
			if r.err == nil {
				r.fill()
				continue
			}
			return r.finish()
		}
		switch c := r.buf[r.pos]; {
		case c == 0:
			r.pos++
		case c == '\r':
			r.pos++
			r.returns++
		case c == '\n':
			r.pos++
			r.returns = 0
			if r.dot {
				r.dot, r.pos, r.end, r.err = false, 0, 0, io.EOF
				return nil, false, io.EOF
			}
			r.fresh = true
			return r.line(nil)
		case r.dot && (r.returns > 0 || c != '.'):
			r.dot = false
			return r.part([]byte{'.'})
		case r.returns > 0:
			r.returns--
			r.fresh = false
			return r.line(nil)
		case r.fresh && r.dots && c == '.':
			r.pos++
			r.fresh, r.dot = false, true
		default:
			r.fresh, r.dot = false, false
			return r.text()
		}
	}
}

// text returns what comes before the next LF, CR or NUL, and takes the line end that follows.
func (r *lineReader) text() ([]byte, bool, error) {
	lf, cr := r.find(0, '\n'), r.find(1, '\r')
	stop := min(lf, cr, r.find(2, 0))
	piece := r.buf[r.pos:stop]
	switch {
	case stop == r.end:
	case stop == lf, stop == cr && cr+1 == lf && lf < r.end:
		r.pos = lf + 1
		r.fresh = true
		return r.line(piece)
	}
	r.pos = stop
	return r.part(piece)
}

// find returns where the next c is at pos or after it, or the end. It remembers it, so that nothing is looked at twice.
func (r *lineReader) find(mark int, c byte) int {
	at := &r.marks[mark]
	if *at < r.pos {
		*at = r.end
		if n := bytes.IndexByte(r.buf[r.pos:r.end], c); n >= 0 {
			*at = r.pos + n
		}
	}
	return *at
}

func (r *lineReader) part(piece []byte) ([]byte, bool, error) {
	r.unclosed = true
	return piece, false, nil
}

func (r *lineReader) line(piece []byte) ([]byte, bool, error) {
	r.unclosed = false
	return piece, true, nil
}

func (r *lineReader) fill() {
	r.pos, r.end, r.marks = 0, 0, [3]int{-1, -1, -1}
	r.end, r.err = r.src.Read(r.buf)
}

// finish returns what is held back at the end of the text.
func (r *lineReader) finish() ([]byte, bool, error) {
	switch {
	case r.err != io.EOF:
		return nil, false, r.err
	case r.dot:
		r.dot, r.returns = false, 0
	case r.returns > 0:
		r.returns--
		return r.line(nil)
	case r.unclosed:
		return r.line(nil)
	}
	return nil, false, io.EOF
}

// UntilDot reads text up to a line of one dot, and returns it without the dots that were added for that: the same text
// that a Submission with Dots has.
func UntilDot(src io.Reader) io.Reader { return &undotted{lines: newLineReader(src, true)} }

// An undotted is text put together again from lines. Each ends in LF.
type undotted struct {
	lines *lineReader
	piece []byte
	end   bool // an LF follows the piece
	err   error
}

func (u *undotted) Read(p []byte) (n int, err error) {
	for n < len(p) {
		switch {
		case len(u.piece) > 0:
			c := copy(p[n:], u.piece)
			u.piece = u.piece[c:]
			n += c
		case u.end:
			p[n], u.end = '\n', false
			n++
		case u.err != nil:
			if n > 0 {
				return n, nil
			}
			return 0, u.err
		case n > 0 && u.lines.pos == u.lines.end:
			return n, nil // rather than wait
		default:
			u.piece, u.end, u.err = u.lines.next()
		}
	}
	return n, nil
}
