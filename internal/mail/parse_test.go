package mail

import (
	"errors"
	"strings"
	"testing"
)

func TestParseNotify(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"never", "NEVER"},
		{"SUCCESS", "SUCCESS"},
		{"delay, Failure,delay", "FAILURE,DELAY"},
		{"success,failure,delay", "SUCCESS,FAILURE,DELAY"},
		{"", ""}, {"never,delay", ""}, {"always", ""}, {"success;failure", ""}, {"success,", ""},
	} {
		got, err := ParseNotify(tt.text)
		if got.String() != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("ParseNotify(%q) = %q, %v; want %q", tt.text, got, err, tt.want)
		}
	}
}

func TestNotifyDefaults(t *testing.T) {
	for text, want := range map[string][2]bool{ // failure, delay
		"never": {false, false}, "success": {false, false}, "failure": {true, false}, "success,delay": {false, true},
	} {
		n, err := ParseNotify(text)
		if got := [2]bool{n.WantsFailure(), n.WantsDelay()}; err != nil || got != want {
			t.Errorf("%s wants %v, %v; want %v", text, got, err, want)
		}
	}
	if n := Notify(0); !n.WantsFailure() || !n.WantsDelay() || n.String() != "" {
		t.Error("who asks for nothing is told of failures and delays")
	}
}

func TestParseReturn(t *testing.T) {
	for text, want := range map[string]string{"full": "FULL", "Hdrs": "HDRS", "": "", "body": ""} {
		if got, err := ParseReturn(text); got.String() != want || (err != nil) != (want == "") {
			t.Errorf("ParseReturn(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestDecodeXtext(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "id123": "id123", "a+2Bb+3Dc": "a+b=c", "+00+FF": "\x00\xff", "+20": " ",
		"a b": "-", "a=b": "-", "+": "-", "+2": "-", "+2b": "-", "+GG": "-", "a\r\n": "-", "\xe9": "-", "\x7f": "-",
	} {
		got, err := DecodeXtext(text)
		if err != nil {
			got = "-"
		}
		if got != want {
			t.Errorf("DecodeXtext(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestParseRecipientRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "recipient without address",
		"bob@x":                         "recipient without address",
		"notify=NEVER":                  "recipient without address",
		"<>":                            "null recipient",
		"<bob@x":                        "not in angle brackets",
		"notify=ALWAYS <bob@x>":         "is none of never",
		"colour=red <bob@x>":            "unknown parameter",
		"orcpt=rfc822;a\x7fb <bob@x>":   "control character",
		"expanded=yes  <bob@x>":         "unknown parameter",
		"<a@x\r\nRSET>":                 "control character",
		"notify=NEVER <bob@x> <eve@x>":  "in address",
		"notify=NEVER <bob@x> tail=yes": "not in angle brackets",
	} {
		if r, err := ParseRecipient(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseRecipient(%q) = %+v, %v; want %q", text, r, err, want)
		}
	}
}

// What is read is written in one way, which is read as the same again, on one line.
func FuzzParseRecipient(f *testing.F) {
	f.Add("<bob@x.example>")
	f.Add("notify=SUCCESS,DELAY orcpt=rfc822;b+2Bob@x expanded=yes <\"b ob\"@x.example>")
	f.Add("orcpt= notify=never <b\xf8b>")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRecipient(text)
		if err != nil {
			return
		}
		written := string(r.AppendText(nil))
		if again, err := ParseRecipient(written); err != nil || again != r || strings.ContainsAny(written, "\r\n\x00") {
			t.Errorf("%q is %+v, written as %q, and then %+v, %v", text, r, written, again, err)
		}
	})
}

// Xtext is printable ASCII without blanks, and says what went in.
func FuzzXtext(f *testing.F) {
	f.Add("a+b=c \r\n\xff")
	f.Fuzz(func(t *testing.T, s string) {
		x := EncodeXtext(s)
		if got, err := DecodeXtext(x); err != nil || got != s || strings.ContainsFunc(x, func(r rune) bool { return r <= ' ' || r > '~' || r == '=' }) {
			t.Errorf("xtext of %q is %q, which says %q, %v", s, x, got, err)
		}
	})
}

func TestParsePath(t *testing.T) {
	for _, tt := range []struct{ text, local, domain string }{
		{"", "", ""}, {"<>", "", ""}, {" <> ", "", ""},
		{"root", "root", ""},
		{"Bob@X.Example", "Bob", "x.example"},
		{"<bob@x>", "bob", "x"},
		{`"a@b"@x`, `"a@b"`, "x"},
		{`"a\"@b"@x`, `"a\"@b"`, "x"},
		{"a@b@x", "a@b", "x"},
		{"j\u00f6rg@m\u00fcller.example", "j\u00f6rg", "m\u00fcller.example"},
		{"b@[192.0.2.1]", "b", "[192.0.2.1]"},
		{"-oQ/tmp@x", "-oQ/tmp", "x"},
	} {
		p, err := ParsePath(tt.text)
		if err != nil || p.Local() != tt.local || p.Domain() != tt.domain {
			t.Errorf("ParsePath(%q) = %q at %q, %v; want %q at %q", tt.text, p.Local(), p.Domain(), err, tt.local, tt.domain)
		}
		if again, err := ParsePath(p.String()); err != nil || again != p {
			t.Errorf("ParsePath(%q) = %v, %v; want %v", p, again, err, p)
		}
	}
	for _, text := range []string{"a b@x", "@x", "@a:b@x", "a@", `"a@x`, "a<b@x", "<a@x", "a@x>", "a@x y", strings.Repeat("a", maxPath+1)} {
		if p, err := ParsePath(text); err == nil {
			t.Errorf("ParsePath(%.40q) = %v", text, p)
		}
	}
	if _, err := ParseBracketed("a@x"); err == nil {
		t.Error("ParseBracketed takes an address without brackets")
	}
}

func TestPathIsASCII(t *testing.T) {
	for addr, want := range map[string]bool{"a@x": true, "": true, "\u00f6@x": false, "a@\u00f6": false, "\xff@x": false} {
		if p, err := ParsePath(addr); err != nil || p.IsASCII() != want {
			t.Errorf("%q: IsASCII %v, %v; want %v", addr, p.IsASCII(), err, want)
		}
	}
}

func TestAddressErrorsAreOneLine(t *testing.T) {
	_, err := ParseAddressList("a b, c@")
	if err == nil || strings.Contains(err.Error(), "\n") || !strings.HasSuffix(err.Error(), "(and 1 more)") || !errors.Is(err, errBlank) {
		t.Errorf("%v", err)
	}
}
