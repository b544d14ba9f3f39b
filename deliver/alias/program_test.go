package alias

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPrograms(t *testing.T) {
	include := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(include, []byte("ann\n|/bin/cat\n/var/mail/x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, text string
		want       string
		skipped    string
	}{
		{"a command", "a: |/bin/cat", "|/bin/cat", ""},
		{"in quotes", `a: "|/bin/cat -n x"`, "|/bin/cat -n x", ""},
		{"in quotes behind the bar", `a: |"/bin/cat -n"`, "|/bin/cat -n", ""},
		{"with quotes in quotes", `a: "|/bin/cat \"a b\""`, `|/bin/cat "a b"`, ""},
		{"with a comma", `a: "|/bin/cat a,b", ann`, "|/bin/cat a,b", ""},
		{"blanks", "a: \"|  /bin/cat\tx \"", "|/bin/cat x", ""},
		{"a file", "a: /var/mail/archive", "/var/mail/archive", ""},
		{"a Maildir", `a: "/var/mail/my archive/"`, "/var/mail/my archive/", ""},
		{"twice", "a: |/bin/cat, b\nb: |/bin/cat", "|/bin/cat", ""},
		{"for a shell", "a: ann, \"|/bin/cat | /bin/cat\"", "", `"|/bin/cat | /bin/cat": no shell runs the command, and '|' needs one; put it into a script`},
		{"a variable", "a: ann, |/bin/echo \"$USER\"", "", "'$' needs one"},
		{"from the path", "a: ann, |vacation ann", "", "does not begin with an absolute path"},
		{"no command", "a: ann, |", "", "does not begin with an absolute path"},
		{"of a list", "a: :include:" + include, "", "a list cannot name files and commands: |/bin/cat; a list cannot name files and commands: /var/mail/x"},
		{"very long", "a: ann, /" + strings.Repeat("x", maxProgram), "", "longer than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tab := table(t, tt.text)
			tab.Programs = true
			x, err := tab.Expand("a", false)
			if err != nil || strings.Join(x.Programs, ", ") != tt.want || !strings.Contains(strings.Join(x.Skipped, "; "), tt.skipped) || (tt.skipped == "") != (len(x.Skipped) == 0) {
				t.Errorf("Expand = %q, %q, %v; want %q, %q", x.Programs, x.Skipped, err, tt.want, tt.skipped)
			}
			if tt.want != "" && !tab.Has(tt.want) {
				t.Errorf("Has(%q) = false", tt.want)
			}
		})
	}
	if table(t, "a: |/bin/cat").Has("|/bin/cat -x") {
		t.Error("has what it has not")
	}
}

func TestWords(t *testing.T) {
	tests := []struct {
		in   string
		want []string // nil: an error
	}{
		{"/bin/x", []string{"/bin/x"}},
		{`/bin/x  'a b'"c d"e "" ''`, []string{"/bin/x", "a bc de", "", ""}},
		{`/bin/x '$HOME' '\'`, []string{"/bin/x", "$HOME", `\`}},
		{`/bin/x "a;b" a=b -f {sender} --x='y z'`, []string{"/bin/x", "a;b", "a=b", "-f", "{sender}", "--x=y z"}},
		{`/bin/x "a`, nil}, {`/bin/x a\ b`, nil}, {"/bin/x `id`", nil}, {"/bin/x $(id)", nil}, {"/bin/x a;b", nil}, {"/bin/x >f", nil},
		{"/bin/x *", nil}, {"/bin/x ~", nil}, {"/bin/x && y", nil}, {"/bin/x # y", nil}, {"x", nil}, {"", nil}, {"''", nil},
	}
	for _, tt := range tests {
		got, err := Words(tt.in)
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.want != nil) {
			t.Errorf("Words(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
}
