package local

import "io"

// A quoter writes text so that no line of it can be taken for the one that begins a message in an mbox: where "From "
// follows nothing but ">" from the start of a line, it gets one more ">" (the format called mboxrd, which can be undone).
type quoter struct {
	w       io.Writer
	matched int  // octets of "From " that are held back; inLine if no match is possible before the next line
	ended   bool // the last octet ended a line
}

const inLine = -1

const fromSpace = "From "

func (q *quoter) Write(p []byte) (int, error) {
	for i := 0; i < len(p); {
		n, err := q.step(p[i:])
		if err != nil {
			return i, err
		}
		i += n
	}
	if len(p) > 0 {
		q.ended = p[len(p)-1] == '\n'
	}
	return len(p), nil
}

// step takes some octets of p: a line, or the next one of what may become "From ".
func (q *quoter) step(p []byte) (taken int, err error) {
	switch {
	case q.matched == inLine:
		n := lineEnd(p)
		if p[n-1] == '\n' {
			q.matched = 0
		}
		_, err = q.w.Write(p[:n])
		return n, err
	case q.matched == 0 && p[0] == '>':
		_, err = q.w.Write(p[:1])
		return 1, err
	case p[0] != fromSpace[q.matched]:
		err = q.flush()
		q.matched = inLine
		return 0, err
	}
	q.matched++
	if q.matched == len(fromSpace) {
		q.matched = inLine
		_, err = io.WriteString(q.w, ">"+fromSpace)
	}
	return 1, err
}

// flush writes what is held back. It ends the text.
func (q *quoter) flush() error {
	if q.matched <= 0 {
		return nil
	}
	_, err := io.WriteString(q.w, fromSpace[:q.matched])
	q.matched = inLine
	return err
}

// lineEnd returns how long the first line of p is, with its end.
func lineEnd(p []byte) int {
	for i, c := range p {
		if c == '\n' {
			return i + 1
		}
	}
	return len(p)
}
