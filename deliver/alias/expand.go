package alias

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postrider/postrider/internal/mail"
)

// An Expansion is what a name stands for in the end.
type Expansion struct {
	// Found is false if there is no such alias.
	Found bool
	// Targets are the addresses, each once. Those without a domain, or at one of our own, are local names that are no
	// aliases themselves.
	Targets []mail.Path
	// Programs are files and commands, each once: "/path", "/path/" for a Maildir, or "|command".
	Programs []string
	// Discards is set if nobody is among the targets on purpose: /dev/null.
	Discards bool
	// Owner is where reports go instead of to the sender, if there is an alias "owner-" plus the name: that name, or the
	// one address elsewhere that it stands for, which others can reach. Null if there is none.
	Owner mail.Path
	// Skipped says what of the list was left out, and why.
	Skipped []string
}

// Bounds of an expansion: a list that includes lists, or an alias that stands for very many.
const (
	maxDepth   = 50
	maxTargets = 100_000
)

// errLoop is the error for an alias that in the end stands for nobody but itself.
var errLoop = errors.New("alias loop")

var errNobody = errors.New("nobody is left behind the alias")

// Expand returns what a local name stands for; "name+suffix" is looked up as it is, and then without the suffix. The
// catch-all, "*" or "default", is for names that are nobody's: not for a user. It is an error if nobody is left behind a
// name, and if a list that it includes cannot be read: who stands in that must not be forgotten.
func (t *Table) Expand(name string, user bool) (Expansion, error) {
	key, ok := t.lookup(name)
	if !ok && !user {
		key, ok = t.catchAll(name)
	}
	if !ok {
		return Expansion{}, nil
	}
	x := &expander{table: t, seen: map[string]bool{}}
	x.Found = true
	x.Owner = t.owner(key)
	x.name(key, 0)
	switch {
	case x.unread != nil:
		return x.Expansion, x.unread
	case len(x.Targets)+len(x.Programs) > 0 || x.Discards && len(x.Skipped) == 0:
		return x.Expansion, nil
	case len(x.Skipped) > 0:
		return x.Expansion, fmt.Errorf("%w: %s", errNobody, strings.Join(x.Skipped, "; "))
	case x.looped:
		return x.Expansion, errLoop
	}
	return x.Expansion, errNobody
}

// owner returns the Owner of an expansion.
func (t *Table) owner(key string) mail.Path {
	name := "owner-" + key
	if _, ok := t.entries[name]; !ok || strings.HasPrefix(key, "owner-") {
		return mail.Path{}
	}
	if x, err := t.Expand(name, false); err == nil && len(x.Targets) == 1 && !t.isLocal(x.Targets[0]) {
		return x.Targets[0]
	}
	p, err := mail.ParsePath(name)
	if err != nil {
		return mail.Path{} // nobody could be told there
	}
	return p
}

// lookup returns the key of the alias for a name.
func (t *Table) lookup(name string) (key string, ok bool) {
	key = strings.ToLower(strings.Trim(name, `"`))
	if _, ok = t.entries[key]; ok {
		return key, true
	}
	base, _, plus := strings.Cut(key, "+")
	if plus && base != "" {
		if _, ok = t.entries[base]; ok {
			return base, true
		}
	}
	return "", false
}

// catchAll returns the key of the alias for everybody who has none.
func (t *Table) catchAll(name string) (key string, ok bool) {
	for _, key := range []string{"*", "default"} {
		if _, ok := t.entries[key]; ok && name != "" {
			return key, true
		}
	}
	return "", false
}

// An expander follows one name.
type expander struct {
	Expansion
	table  *Table
	seen   map[string]bool // names and addresses that have been followed
	looped bool
	listed int   // lists that we are in
	unread error // about the first list that could not be read
}

// name follows an alias. One that is met again has been followed already: nobody gets a message twice.
func (x *expander) name(key string, depth int) {
	if x.seen[key] {
		x.looped = true
		return
	}
	x.seen[key] = true
	if depth == maxDepth {
		x.skip("%s: more than %d aliases deep", key, maxDepth)
		return
	}
	for _, target := range x.table.entries[key].targets {
		x.target(key, target, depth)
	}
}

func (x *expander) skip(format string, args ...any) {
	x.Skipped = append(x.Skipped, fmt.Sprintf(format, args...))
}

// target follows one element of a list.
func (x *expander) target(alias, s string, depth int) {
	bare := strings.Trim(s, `"`)
	switch {
	case bare == "/dev/null":
		x.Discards = true
	case strings.HasPrefix(bare, "|"), strings.HasPrefix(bare, "/"):
		x.program(s)
	case strings.HasPrefix(strings.ToLower(bare), ":include:"):
		x.include(alias, strings.TrimSpace(bare[len(":include:"):]), depth)
	case strings.HasPrefix(bare, `\`):
		x.address(alias, bare, depth)
	default:
		x.address(alias, s, depth)
	}
}

// program adds a file or a command.
func (x *expander) program(s string) {
	p, ok := program(s)
	err := checkProgram(p)
	switch {
	case !x.table.Programs && strings.HasPrefix(p, "|"):
		x.skip("commands are not run: %s", s)
	case !x.table.Programs:
		x.skip("mail is not appended to files: %s", s)
	case x.listed > 0:
		x.skip("a list cannot name files and commands: %s", s)
	case !ok || err != nil:
		x.skip("%s: %v", s, err)
	case !x.seen["to "+p] && len(x.Targets)+len(x.Programs) < maxTargets:
		x.seen["to "+p] = true
		x.Programs = append(x.Programs, p)
	}
}

// include follows a file with one list a line.
func (x *expander) include(alias, file string, depth int) {
	if !strings.HasPrefix(file, "/") {
		x.skip(":include: needs an absolute path: %s", file)
		return
	}
	if x.seen[file] || depth == maxDepth {
		x.looped = true
		return
	}
	x.seen[file] = true
	b, err := readList(file)
	if err != nil {
		if x.unread == nil {
			x.unread = fmt.Errorf(":include: %w", err)
		}
		return
	}
	x.listed++
	defer func() { x.listed-- }()
	for line := range logicalLines(b, false) {
		targets, err := splitTargets(line.text)
		if err != nil {
			x.skip("%s:%d: %v", file, line.number, err)
		}
		for _, target := range targets {
			x.target(alias, target, depth+1)
		}
	}
}

// address follows an address: a local name may be an alias again, unless a backslash says that it is none.
func (x *expander) address(alias, s string, depth int) {
	plain := strings.HasPrefix(s, `\`)
	boxes, err := mail.ParseAddressList(strings.TrimPrefix(s, `\`))
	if err != nil || len(boxes) == 0 {
		x.skip("not an address: %s", s)
		return
	}
	for _, box := range boxes {
		p := box.Path
		key, ok := "", false
		if !plain && x.table.isLocal(p) {
			key, ok = x.table.lookup(p.Local())
		}
		if !ok || key == alias { // "ann: ann, bob" keeps a copy with ann
			x.add(p)
			continue
		}
		x.name(key, depth+1)
	}
}

// isLocal reports whether a target is one of the names that the file is about.
func (t *Table) isLocal(p mail.Path) bool {
	return p.Domain() == "" || t.own != nil && t.own(p.Domain())
}

func (x *expander) add(p mail.Path) {
	local := p.Local()
	if x.table.isLocal(p) {
		local = strings.ToLower(local)
	}
	key := "to " + local + "@" + p.Domain()
	if p.IsNull() || x.seen[key] {
		return
	}
	x.seen[key] = true
	if len(x.Targets) == maxTargets {
		x.skip("more than %d addresses: %s and the rest are left out", maxTargets, p)
		return
	}
	if len(x.Targets) < maxTargets {
		x.Targets = append(x.Targets, p)
	}
}

func sortProblems(list []Problem) {
	slices.SortFunc(list, func(a, b Problem) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Text, b.Text)) })
}
