// Package alias says whom a local name stands for: it reads aliases(5), the file itself, without a database made of it.
package alias

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// A Table is an alias file that has been read.
type Table struct {
	// Programs lets aliases stand for files and commands. Otherwise these are left out.
	Programs bool

	file    string
	own     func(domain string) bool
	entries map[string]entry // by name in lower case
	longest int              // octets of the longest list
	total   int              // octets of all of them
}

// An entry is what stands behind one name.
type entry struct {
	line    int
	targets []string
}

// A Problem is something wrong with an alias file. The rest of the file counts nevertheless.
type Problem struct {
	File string
	Line int
	Text string
}

func (p Problem) String() string { return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text) }

// maxFile is how long an alias file, or a list that it includes, may be.
const maxFile = 16 << 20

// Load reads an alias file. A file that is missing is an empty one. It must belong to root or to the user we run as, and
// be writable by nobody else: whoever can write to it reads our mail. own says whose domains, in lower case, its names
// are looked up for: what it has at one of those is a local name.
func Load(file string, own func(domain string) bool) (*Table, []Problem, error) {
	b, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return &Table{file: file, own: own}, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("aliases: %w", err)
	}
	t, problems := parse(file, b)
	t.own = own
	return t, problems, nil
}

func readFile(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return readAll(f, file)
}

// readList reads a file that an alias includes. Others than who may write to the alias file may have a hand in its place.
func readList(file string) ([]byte, error) {
	f, err := openTrusted(file)
	if err != nil {
		return nil, err
	}
	return readAll(f, file)
}

// readAll reads a file, if it is one that only root and we can have written, and closes it.
func readAll(f *os.File, file string) ([]byte, error) {
	defer f.Close() // only read: closing cannot lose anything
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", file)
	}
	owner := int(st.Sys().(*syscall.Stat_t).Uid)
	if owner != 0 && owner != os.Geteuid() {
		return nil, fmt.Errorf("%s belongs to user %d, neither to root nor to us", file, owner)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s can be written to by others than its owner", file)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is longer than %d octets", file, maxFile)
	}
	return b, err
}

// parse reads the text of an alias file: "name: target, target", continued on lines that begin with a blank.
func parse(file string, text []byte) (*Table, []Problem) {
	t := &Table{file: file, entries: map[string]entry{}}
	var problems []Problem
	for line := range logicalLines(text, true) {
		complain := func(format string, args ...any) {
			problems = append(problems, Problem{file, line.number, fmt.Sprintf(format, args...)})
		}
		name, list, ok := splitEntry(line.text)
		if !ok {
			complain("no colon after the name")
			continue
		}
		name, err := unquoteName(name)
		if err != nil {
			complain("%v", err)
			continue
		}
		targets, err := splitTargets(list)
		if err != nil {
			complain("%s: %v", name, err)
			continue
		}
		if len(targets) == 0 {
			complain("%s: nobody after the colon", name)
			continue
		}
		if old, twice := t.entries[name]; twice {
			complain("%s: already in line %d; this one counts", name, old.line)
		}
		t.entries[name] = entry{line.number, targets}
		t.longest = max(t.longest, len(list))
		t.total += len(list)
	}
	return t, problems
}

// A logicalLine is an entry with its continuation lines, and the number of its first line.
type logicalLine struct {
	number int
	text   string
}

// logicalLines yields what is neither empty nor a comment. A # elsewhere than at the start of a line is no comment. A line
// goes on in the next one if it ends in a backslash, or, where that means something, if that begins with a blank.
func logicalLines(text []byte, blanksMean bool) func(func(logicalLine) bool) {
	return func(yield func(logicalLine) bool) {
		var current logicalLine
		number, open := 0, false // open: the line before ends in a backslash
		for raw := range bytes.Lines(text) {
			number++
			line, goesOn := strings.CutSuffix(strings.TrimRight(string(raw), " \t\r\n"), `\`)
			start := strings.Trim(line, " \t")
			if start == "" || start[0] == '#' {
				open = false
				continue
			}
			continues := open || blanksMean && (line[0] == ' ' || line[0] == '\t')
			open = goesOn
			if continues && current.text != "" {
				current.text += " " + start
				continue
			}
			if current.text != "" && !yield(current) {
				return
			}
			current = logicalLine{number, start}
		}
		if current.text != "" {
			yield(current)
		}
	}
}

// splitEntry cuts at the first colon outside quotes.
func splitEntry(s string) (name, list string, ok bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ':' && !quoted:
			return strings.TrimSpace(s[:i]), strings.TrimSpace(s[i+1:]), true
		}
	}
	return "", "", false
}

func unquoteName(s string) (string, error) {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	if s == "" || strings.ContainsAny(s, "\"\x00") {
		return "", fmt.Errorf("%q is not a name", s)
	}
	return strings.ToLower(s), nil
}

// splitTargets cuts at commas outside quotes and comments. Empty elements do not count.
func splitTargets(s string) (targets []string, err error) {
	start, quoted, depth := 0, false, 0
	add := func(part string) {
		if part = strings.TrimSpace(part); part != "" {
			targets = append(targets, part)
		}
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == ',' && depth == 0:
			add(s[start:i])
			start = i + 1
		}
	}
	if quoted {
		return nil, errors.New("a quote is not closed")
	}
	add(s[start:])
	return targets, nil
}

// Summary says in Sendmail's words how much there is in the file.
func (t *Table) Summary() string {
	return fmt.Sprintf("%s: %d aliases, longest %d bytes, %d bytes total", t.file, len(t.entries), t.longest, t.total)
}

// Check follows every alias, and says what would go wrong with it: loops, files and commands, addresses that are none.
func (t *Table) Check() []Problem {
	var problems []Problem
	for name, e := range t.entries {
		x, err := t.Expand(name, false)
		if err != nil {
			problems = append(problems, Problem{t.file, e.line, fmt.Sprintf("%s: %v", name, err)})
		}
		if errors.Is(err, errNobody) {
			continue // which says what was left out
		}
		for _, skipped := range x.Skipped {
			problems = append(problems, Problem{t.file, e.line, fmt.Sprintf("%s: %s", name, skipped)})
		}
	}
	sortProblems(problems)
	return problems
}
