package mail

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// addresses returns the paths of a list, without brackets, the null path as "<>".
func addresses(list []Mailbox) string {
	var all []string
	for _, m := range list {
		if m.Path.IsNull() {
			all = append(all, "<>")
		} else {
			all = append(all, m.Path.Address())
		}
	}
	return strings.Join(all, " | ")
}

func TestParseAddressList(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"plain", "a@b.c", "a@b.c"},
		{"bare name", "root", "root"},
		{"bare name in brackets", "<root>", "root"},
		{"cron's sender", "root (Cron Daemon)", "root"},
		{"comment first", "(c) a@b.c", "a@b.c"},
		{"comments everywhere", "(a) x (b) @ (c) y.z (d)", "x@y.z"},
		{"nested comment", "a@b (one (two (three) two) one)", "a@b"},
		{"comment with parenthesis quoted", `a@b (\) still), c@d`, "a@b | c@d"},
		{"comment with a comma and an address", "a@b (x, <evil@e>), c@d", "a@b | c@d"},
		{"blanks around dots and @", "a . b @ c . d", "a.b@c.d"},
		{"source route", "<@r1,@r2:a@b.c>", "a@b.c"},
		{"source route with blanks", "<@r1 , @r2 : a@b.c>", "a@b.c"},
		{"phrase", "Foo Q. Bar <a@b.c>", "a@b.c"},
		{"quoted phrase with a comma", `"Doe, John" <a@x>, b@x`, "a@x | b@x"},
		{"phrase that looks like an address", "other@e.f <a@b.c>", "a@b.c"},
		{"phrase with brackets", "[List] News <a@b.c>", "a@b.c"},
		{"raw octets above 127 in a phrase", "J\xf6rg <a@b.c>", "a@b.c"},
		{"unknown charset in a phrase", "=?x-none?q?J=F6rg?= <a@b.c>", "a@b.c"},
		{"UTF-8 address", "jörg@bücher.example", "jörg@bücher.example"},
		{"text after the brackets", "<a@b.c> (c) x", "a@b.c"},
		{"group", "list: a@x, b@y;", "a@x | b@y"},
		{"group among others", "a@x, list: b@y;, c@z", "a@x | b@y | c@z"},
		{"group without end", "list: a@x, b@y", "a@x | b@y"},
		{"empty group", "undisclosed-recipients:;", ""},
		{"group name of several words", "Undisclosed Recipients: ;", ""},
		{"quoted local part", `"john doe"@x`, `"john doe"@x`},
		{"quoted local part with specials", `"a,b<c>\"@d"@x`, `"a,b<c>\"@d"@x`},
		{"partly quoted local part", `"john".doe@x`, `"john".doe@x`},
		{"literal", "a@[127.0.0.1]", "a@[127.0.0.1]"},
		{"IPv6 literal", "user@[IPv6:::1]", "user@[IPv6:::1]"},
		{"literal with blanks before", "a @ [127.0.0.1]", "a@[127.0.0.1]"},
		{"two dots", "a..b@c.d", "a..b@c.d"},
		{"dot at the end", "foo@bar.", "foo@bar."},
		{"host!user", "host!user", "host!user"},
		{"percent", "a%b@c", "a%b@c"},
		{"pipe", "|/bin/cat", "|/bin/cat"},
		{"backslash", `\root`, `\root`},
		{"option", "-oQ/tmp@x", "-oQ/tmp@x"},
		{"shell", "${run{x}}$(id)`id`@x", ""}, // parentheses are a comment: two words
		{"semicolon for comma", "a@b; c@d", "a@b | c@d"},
		{"comma without blank", "ops@example.com,root", "ops@example.com | root"},
		{"empty items", ",, a@b ,,\t, c@d,", "a@b | c@d"},
		{"folded", "a@b,\r\n\tc@d,\r\n  Foo\r\n Bar <e@f>", "a@b | c@d | e@f"},
		{"folded within an address", "a@\r\n b", "a@b"},
		{"folded within quotes", "\"john\r\n doe\"@x", `"john doe"@x`},
		{"null", "<>", "<>"},
		{"null with a phrase", "Mailer < >", "<>"},
		{"nothing", "", ""},
		{"blanks", " \t\r\n ", ""},
		{"a comment alone", "(nobody)", ""},
	} {
		list, err := ParseAddressList(tt.in)
		if got := addresses(list); got != tt.want || (err != nil) != (tt.name == "shell") {
			t.Errorf("%s: ParseAddressList(%q) = %s, %v; want %s", tt.name, tt.in, got, err, tt.want)
		}
	}
}

func TestParseAddressListRefuses(t *testing.T) {
	for _, tt := range []struct{ name, in, rest string }{
		{"words apart", "a b", ""},
		{"words apart before an @", "a b@c", ""},
		{"words apart in brackets", "<a b@c>", ""},
		{"a comment between words", "a(c)b@d", ""},
		{"a phrase without address", "John Doe, a@b", "a@b"},
		{"no local part", "@b, c@d", "c@d"},
		{"no domain", "a@, c@d", "c@d"},
		{"bracket not closed", "x <a@b, c@d", "c@d"},
		{"bracket not opened", "a@b>, c@d", "c@d"},
		{"brackets twice", "<a@b> <c@d>, e@f", "e@f"},
		{"brackets nested", "<<a@b>>, e@f", "e@f"},
		{"route to nowhere", "<@r:>, a@b", "a@b"},
		{"route without colon", "<@r>, a@b", "a@b"},
		{"comment not closed", "a@b, c@d (x, e@f", "a@b"},
		{"quote not closed", `a@b, "c@d, e@f`, "a@b"},
		{"literal not closed", "a@b, c@[1.2.3.4, e@f", "a@b"},
		{"colon after an address", "a@b:25, c@d", "c@d"},
		{"include", ":include:/etc/passwd, a@b", "a@b"},
		{"NUL", "a\x00@b, c@d", "c@d"},
		{"escape", "a\x1b[2J@b, c@d", "c@d"},
		{"tab in quotes", "\"a\tb\"@c, c@d", "c@d"},
		{"too long", strings.Repeat("x", 2000) + "@b, c@d", "c@d"},
	} {
		list, err := ParseAddressList(tt.in)
		if got := addresses(list); err == nil || got != tt.rest {
			t.Errorf("%s: ParseAddressList(%q) = %s, %v; want %s and an error", tt.name, tt.in, got, err, tt.rest)
		}
	}
}

func TestParseAddressListNamesAllThatAreNone(t *testing.T) {
	_, err := ParseAddressList("a b, c@d, e@, (f)")
	var each AddressErrors
	if !errors.As(err, &each) || len(each) != 2 || !strings.HasPrefix(each[1].Error(), `"e@": `) || !errors.Is(err, errBlank) {
		t.Errorf("ParseAddressList = %v, %v", each, err)
	}
	if want := `"a b": blank in address (and 1 more)`; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	_, err = ParseAddressList(strings.Repeat("a b,", 10*maxAddressErrors))
	if errors.As(err, &each); len(each) != maxAddressErrors {
		t.Errorf("%d errors are kept, want %d", len(each), maxAddressErrors)
	}
}

func TestParseAddressListSaysWhereAddressesAre(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"root", "[root]"},
		{"  root (Cron Daemon)", "  [root] (Cron Daemon)"},
		{"Anacron <root>, \"x, y\" < b . c >,", "Anacron <[root]>, \"x, y\" < [b . c] >,"},
		{"list: a@x,\r\n\tb@y;", "list: [a@x],\r\n\t[b@y];"},
		{"<@r1,@r2:a@b.c>", "<[@r1,@r2:a@b.c]>"},
		{"x <>", "x <[]>"},
	} {
		list, err := ParseAddressList(tt.in)
		if err != nil {
			t.Errorf("ParseAddressList(%q): %v", tt.in, err)
		}
		got, done := "", 0
		for _, m := range list {
			got += tt.in[done:m.Start] + "[" + tt.in[m.Start:m.End] + "]"
			done = m.End
		}
		if got += tt.in[done:]; got != tt.want {
			t.Errorf("ParseAddressList(%q) finds %s, want %s", tt.in, got, tt.want)
		}
	}
}

func TestParseAddressListKeepsPhrases(t *testing.T) {
	list, err := ParseAddressList("\"Doe, John\" <a@x>, b@x, g: J\xf6rg\r\n K <c@x>;")
	if err != nil || len(list) != 3 {
		t.Fatalf("ParseAddressList = %v, %v; want three", list, err)
	}
	for i, want := range []string{`"Doe, John"`, "", "J\xf6rg\r\n K"} {
		if list[i].Phrase != want {
			t.Errorf("phrase of %s is %q, want %q", list[i].Path, list[i].Phrase, want)
		}
	}
}

// Each of these is a megabyte that a parser which goes back would need hours for.
func TestParseAddressListGoesForwardOnly(t *testing.T) {
	const n = 1 << 20
	for _, unit := range []string{"(", "((a)", `"`, `"\"`, "<", "<@", "<@a,", "a@[", "[", "a ", "a.", ". ", "@", "a:", ",", ";", "\\", `(\`, "\r\n ", "a(b)", "\xff"} {
		list, err := ParseAddressList(strings.Repeat(unit, n/len(unit)))
		if len(list) > 0 && err == nil {
			t.Errorf("%q over and over is %d addresses, and no error", unit, len(list))
		}
	}
}

func BenchmarkParseAddressList(b *testing.B) {
	var s strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&s, "\"Doe, John\" <user%d@example.org>,\r\n ", i)
	}
	for b.Loop() {
		if list, err := ParseAddressList(s.String()); err != nil || len(list) != 100_000 {
			b.Fatal(len(list), err)
		}
	}
}

func FuzzParseAddressList(f *testing.F) {
	for _, s := range []string{
		"root", "<@r1,@r2:a@b.c>", `"Doe, John" <a@x>, b@x`, "list: a@x, b@y;", "a . b @ [1:2] (c (d))", "\"a\r\n b\"@c", "<>", "<@a: >",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, _ := ParseAddressList(s)
		done := 0
		for _, m := range list {
			if m.Start < done || m.End < m.Start || m.End > len(s) {
				t.Fatalf("ParseAddressList(%q): %s stands at %d to %d, after %d", s, m.Path, m.Start, m.End, done)
			}
			done = m.End
			addr := m.Path.Address()
			if strings.ContainsAny(addr, "\r\n\x00") {
				t.Fatalf("ParseAddressList(%q) lets %q pass", s, addr)
			}
			if again, err := ParsePath(m.Path.String()); err != nil || again != m.Path {
				t.Fatalf("ParseAddressList(%q) has the path %s, which is read as %s, %v", s, m.Path, again, err)
			}
			// Replacing the address by itself changes nothing that is read.
			whole := s[:m.Start] + addr + s[m.End:]
			if list2, _ := ParseAddressList(whole); len(list2) != len(list) {
				t.Fatalf("ParseAddressList(%q) has %d addresses; with %s in its place %d", s, len(list), addr, len(list2))
			}
		}
	})
}
