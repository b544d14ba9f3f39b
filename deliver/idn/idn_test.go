package idn

import (
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/mail"
)

func TestPath(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"ASCII is left alone", "Ann@Example.COM.", "Ann@Example.COM."},
		{"a label", "Ann@bücher.example", "Ann@xn--bcher-kva.example"},
		{"capital letters", "ann@BÜCHER.Example", "ann@xn--bcher-kva.example"},
		{"composed or not", "ann@bu\u0308cher.example", "ann@xn--bcher-kva.example"},
		{"beside A-labels", "ann@xn--bcher-kva.straße.example", "ann@xn--bcher-kva.xn--strae-oqa.example"},
		{"the dots of others", "ann@例え。テスト", "ann@xn--r8jz45g.xn--zckzah"},
		{"from right to left", "ann@דוגמה.example", "ann@xn--6dbbec0c.example"},
		{"quotes and @ in the local part", `"a@ü"@bücher.example`, `"a@ü"@bücher.example`},
		{"in an ASCII local part", `"a@b"@bücher.example`, `"a@b"@xn--bcher-kva.example`},
		{"local part beyond ASCII", "änn@bücher.example", "änn@bücher.example"},
		{"no domain", "änn", "änn"},
		{"the null sender", "", ""},
		{"not UTF-8", "ann@b\xfccher.example", "ann@b\xfccher.example"},
		{"not a letter", "ann@☃\u2028.example", "ann@☃\u2028.example"},
		{"a bracket in disguise", "ann@bücher＞.example", "ann@bücher＞.example"},
		{"a blank in disguise", "ann@bü\u3000cher.example", "ann@bü\u3000cher.example"},
		{"too long a label", "ann@" + strings.Repeat("ü", 80) + ".example", "ann@" + strings.Repeat("ü", 80) + ".example"},
	} {
		p, err := mail.ParsePath(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		if got := Path(p).Address(); got != tt.want {
			t.Errorf("%s: Path(%s) = %s, want %s", tt.name, tt.in, got, tt.want)
		}
	}
}

func TestDomain(t *testing.T) {
	if got, err := Domain("b\xfccher.example"); err == nil {
		t.Errorf("a domain that is not UTF-8 is %q", got)
	}
	if got, err := Domain("Mail_1.example"); err != nil || got != "Mail_1.example" {
		t.Errorf("%q, %v", got, err)
	}
}

// FuzzPath holds that nothing gets into an address on the way that could end a command.
func FuzzPath(f *testing.F) {
	f.Add("ann@bücher＞.example")
	f.Add("a@例え。テスト")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := mail.ParsePath(s)
		if err != nil {
			return
		}
		a := Path(p)
		if a == p {
			return
		}
		if !a.IsASCII() || a.Local() != p.Local() || strings.ContainsAny(a.Domain(), "<> \"@\r\n\x00") {
			t.Errorf("Path(%s) = %s", p, a)
		}
		if again := Path(a); again != a {
			t.Errorf("Path(%s) = %s, and of that %s", p, a, again)
		}
	})
}
