package alias

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func table(t *testing.T, text string) *Table {
	t.Helper()
	tab, problems := parse("aliases", []byte(text))
	if len(problems) > 0 {
		t.Fatalf("parse: %v", problems)
	}
	tab.own = isOwn
	return tab
}

func isOwn(domain string) bool { return domain == "here.example" || domain == "localhost" }

func TestExpand(t *testing.T) {
	include := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(include, []byte("# people\neve@example.net, fay\n\n  # indented\n  gus@example.net\n\thal\r\nida, \\\njoe"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, aliases, lookup string
		want                  string // targets; "-" if there is no such alias
		skipped               int
	}{
		{"no such alias", "root: ann", "bob", "-", 0},
		{"to an address elsewhere", "root: ann@example.net", "root", "ann@example.net", 0},
		{"in any case", "Root: ann@example.net", "rOOT", "ann@example.net", 0},
		{"to several", "root: ann@example.net, bob", "root", "ann@example.net bob", 0},
		{"continued", "root: ann,\n  bob,\n\tcyd", "root", "ann bob cyd", 0},
		{"continued with a backslash", "root: ann, \\\n  bob", "root", "ann bob", 0},
		{"continued with a backslash alone", "root: ann, \\\nbob\\\n, cyd\\", "root", "ann bob cyd", 0},
		{"a backslash joins no comment and no empty line", "root: ann\\\n\nbob: cyd", "bob", "cyd", 0},
		{"comments and empty lines", "# x\n\nroot: ann\n  # not the end\n  , bob\n", "root", "ann bob", 0},
		{"a # that is no comment", "root: ann#1", "root", "ann#1", 0},
		{"chain", "root: admin\nadmin: ann@example.net", "root", "ann@example.net", 0},
		{"each once", "root: ann, a\na: ann, bob", "root", "ann bob", 0},
		{"keeps a copy", "ann: ann, bob@example.net", "ann", "ann bob@example.net", 0},
		{"no further", "root: \\admin\nadmin: ann", "root", "admin", 0},
		{"no further, quoted", "root: \"\\admin\"\nadmin: ann", "root", "admin", 0},
		{"chain by way of our own domain", "root: admin@here.example\nadmin: ann@example.net", "root", "ann@example.net", 0},
		{"to itself at our own domain", "root: Root@HERE.example, ann@example.net", "root", "Root@HERE.example ann@example.net", 0},
		{"to itself elsewhere", "root: root@example.net", "root", "root@example.net", 0},
		{"each once in any case", "root: Ann, ann, Ann@localhost, ann@localhost, Ann@example.net, ann@example.net", "root", "Ann Ann@localhost Ann@example.net ann@example.net", 0},
		{"nobody on purpose", "root: /dev/null", "root", "", 0},
		{"nobody on purpose, beside somebody", "root: /dev/null, ann", "root", "ann", 0},
		{"quoted name", "\"john doe\": ann", "john doe", "ann", 0},
		{"quoted name with a colon", "\"a:b\": ann", "a:b", "ann", 0},
		{"phrase", "root: Ann <ann@example.net>", "root", "ann@example.net", 0},
		{"comma in a phrase", "root: \"Doe, Ann\" <ann@example.net>, bob", "root", "ann@example.net bob", 0},
		{"suffix", "root: ann", "root+cron", "ann", 0},
		{"suffix of its own", "root: ann\nroot+cron: bob", "root+cron", "bob", 0},
		{"everybody else", "root: ann\n*: bob", "nobody", "bob", 0},
		{"everybody else, in msmtp's words", "root: ann\ndefault: bob", "nobody", "bob", 0},
		{"everybody else does not catch what the file names", "root: ann\n*: bob", "root", "ann", 0},
		{"included list", "staff: :include:" + include, "staff", "eve@example.net fay gus@example.net hal ida joe", 0},
		{"command", "root: ann, \"|/bin/cat x\"", "root", "ann", 1},
		{"file", "root: ann, /var/log/mail", "root", "ann", 1},
		{"loop beside somebody", "a: b, ann\nb: a", "a", "ann", 0},
		{"empty elements", "root: , ann,, bob,", "root", "ann bob", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x, err := table(t, tt.aliases).Expand(tt.lookup, false)
			if err != nil {
				t.Fatal(err)
			}
			got := "-"
			if x.Found {
				var list []string
				for _, p := range x.Targets {
					list = append(list, p.Address())
				}
				got = strings.Join(list, " ")
			}
			if got != tt.want || len(x.Skipped) != tt.skipped {
				t.Errorf("Expand(%q) = %q, skipped %q; want %q, %d skipped", tt.lookup, got, x.Skipped, tt.want, tt.skipped)
			}
		})
	}
}

func TestNobodyLeft(t *testing.T) {
	for name, tt := range map[string]struct {
		aliases string
		want    string
	}{
		"loop":                              {"a: b\nb: c\nc: a", "alias loop"},
		"loop by way of our own domains":    {"a: b@localhost\nb: a@here.example", "alias loop"},
		"command":                           {"a: |cat", "nobody is left behind the alias: commands are not run: |cat"},
		"command, and nobody on purpose":    {"a: /dev/null, |cat", "nobody is left behind the alias: commands are not run: |cat"},
		"the null sender":                   {"a: <>", "nobody is left behind the alias"},
		"list that is missing":              {"a: :include:/nonexistent/list", ":include: open /nonexistent/list: no such file or directory"},
		"list that is missing for somebody": {"a: ann, b\nb: :include:/nonexistent/list", ":include: open /nonexistent/list: no such file or directory"},
		"list without a place":              {"a: :include:list", "nobody is left behind the alias: :include: needs an absolute path: list"},
	} {
		if x, err := table(t, tt.aliases).Expand("a", false); err == nil || err.Error() != tt.want || !x.Found {
			t.Errorf("%s: %+v, %v; want %s", name, x, err, tt.want)
		}
	}
}

func TestOwner(t *testing.T) {
	tab := table(t, "staff: ann, bob\nowner-staff: eve\nroot: ann\nfar: ann\nowner-far: chief\nchief: eve@example.net\n"+
		"here: ann\nowner-here: eve@localhost\nfew: ann\nowner-few: eve@example.net, fay@example.net\nloop: ann\nowner-loop: loop, owner-owner-loop\nowner-owner-loop: owner-loop")
	for name, want := range map[string]string{
		"staff": "owner-staff", "root": "", "owner-staff": "", "far": "eve@example.net", "here": "owner-here", "few": "owner-few", "loop": "owner-loop",
	} {
		if x, err := tab.Expand(name, false); err != nil || x.Owner.Address() != want {
			t.Errorf("owner of %s: %q, %v; want %q", name, x.Owner, err, want)
		}
	}
}

func TestDepthAndWidthHaveBounds(t *testing.T) {
	var deep strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&deep, "a%d: a%d\n", i, i+1)
	}
	if x, err := table(t, deep.String()).Expand("a0", false); err == nil || len(x.Skipped) != 1 {
		t.Errorf("deep: %+v, %v", x, err)
	}
	var wide strings.Builder
	for i := range 40 {
		fmt.Fprintf(&wide, "b%d: b%d, b%d\n", i, i+1, i+2)
	}
	if _, err := table(t, wide.String()).Expand("b0", false); err != nil {
		t.Errorf("wide: %v", err) // and it ends, though there are 2^40 ways
	}
}

func TestProblemsHaveTheirLine(t *testing.T) {
	text := "root: ann\nno colon here\n: nobody\nbob:\n\"open: x\nroot: eve\ncyd: \"x\n"
	_, problems := parse("aliases", []byte(text))
	var got []string
	for _, p := range problems {
		got = append(got, p.String())
	}
	want := []string{
		"aliases:2: no colon after the name",
		`aliases:3: "" is not a name`,
		"aliases:4: bob: nobody after the colon",
		"aliases:5: no colon after the name",
		"aliases:6: root: already in line 1; this one counts",
		"aliases:7: cyd: a quote is not closed",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLastOfTwoCounts(t *testing.T) {
	tab, problems := parse("aliases", []byte("root: ann\nRoot: eve\n"))
	x, err := tab.Expand("root", false)
	if err != nil || len(problems) != 1 || len(x.Targets) != 1 || x.Targets[0].Address() != "eve" {
		t.Errorf("root is %v, %v, with problems %v; want eve, and one that says so", x.Targets, err, problems)
	}
}

func TestCheckFollowsEveryAlias(t *testing.T) {
	var got []string
	for _, p := range table(t, "a: b\nb: a@localhost\nc: ann, |cat\nd: <>,ann\ne: /dev/null, |cat\nf: ann, :include:/nonexistent/list").Check() {
		got = append(got, p.String())
	}
	want := []string{"aliases:1: a: alias loop", "aliases:2: b: alias loop", "aliases:3: c: commands are not run: |cat",
		"aliases:5: e: nobody is left behind the alias: commands are not run: |cat",
		"aliases:6: f: :include: open /nonexistent/list: no such file or directory"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFileThatOthersCanWriteTo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "aliases")
	if err := os.WriteFile(file, []byte("root: ann\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if tab, _, err := Load(file, isOwn); err != nil || tab.Summary() != file+": 1 aliases, longest 3 bytes, 3 bytes total" {
		t.Errorf("Load: %v, %v", tab, err)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(file, isOwn); err == nil {
		t.Error("a file that everybody can write to is taken")
	}
	if tab, problems, err := Load(file+".none", isOwn); err != nil || len(problems) > 0 || len(tab.entries) > 0 {
		t.Errorf("missing file: %v, %v, %v; want an empty table", tab, problems, err)
	}
	if _, _, err := Load(filepath.Dir(file), isOwn); err == nil {
		t.Error("a directory is taken for a file")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("root: ann, \"Doe, Bob\" <bob@example.net>, \\cyd, |cmd\n  , more\n", "root")
	f.Add("a: a\n", "a")
	f.Fuzz(func(t *testing.T, text, name string) {
		tab, _ := parse("aliases", []byte(text))
		for target := range tab.entries {
			for _, s := range tab.entries[target].targets {
				if strings.Contains(strings.ToLower(s), ":include:") {
					return // no files of this machine
				}
			}
		}
		x, err := tab.Expand(name, false)
		if err != nil {
			return
		}
		for _, p := range x.Targets {
			if p.IsNull() || strings.ContainsAny(p.Address(), "\r\n\x00") {
				t.Errorf("target %q", p)
			}
		}
	})
}
