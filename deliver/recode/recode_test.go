package recode

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime/quotedprintable"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/postrider/postrider/internal/mail"
)

// recoded returns what becomes of a message; lines end in LF on both sides.
func recoded(t testing.TB, message string, eightBit bool) string {
	t.Helper()
	return strings.ReplaceAll(onTheWire(t, strings.ReplaceAll(message, "\n", "\r\n"), eightBit), "\r\n", "\n")
}

func onTheWire(t testing.TB, content string, eightBit bool) string {
	t.Helper()
	var out strings.Builder
	if err := Write(&out, strings.NewReader(content), int64(len(content)), eightBit); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestNeeded(t *testing.T) {
	for _, tt := range []struct {
		facts    mail.Facts
		eightBit bool
		want     bool
	}{
		{mail.Facts{LongestLine: 998}, false, false},
		{mail.Facts{LongestLine: 999}, true, true},
		{mail.Facts{EightBit: true}, true, false},
		{mail.Facts{EightBit: true}, false, true},
	} {
		if got := Needed(tt.facts, tt.eightBit); got != tt.want {
			t.Errorf("Needed(%+v, %v) = %v", tt.facts, tt.eightBit, got)
		}
	}
}

var (
	long    = strings.Repeat("<td>20,000 octets of HTML in a line</td>", 500)
	longQP  = quoted(long)
	lines64 = "w6TDpMOkw6TDpMOkw6TDpMOkw6TDpMOkw6TDpMOkw6TDpMOkw6TDpMOkw6TDpMOkw6TDpMOkw6TD\npA0K\n"
)

// quoted returns s in quoted-printable, as the standard library writes it, which breaks lines at the same place.
func quoted(s string) string {
	var b strings.Builder
	w := quotedprintable.NewWriter(&b)
	_, _ = io.WriteString(w, s) // a Builder has no errors
	_ = w.Close()
	return strings.ReplaceAll(b.String(), "\r\n", "\n")
}

func TestMessages(t *testing.T) {
	const (
		seven = false
		eight = true
	)
	for _, tt := range []struct {
		name     string
		eightBit bool
		in, want string
	}{
		{"nothing to be done", seven, "Subject: x\n\nhi\n", "Subject: x\n\nhi\n"},
		{"octets above 127 that the server takes", eight, "Subject: x\n\nä\n", "Subject: x\n\nä\n"},
		{
			"UTF-8 without any MIME field", seven,
			"Subject: x\n\nGrüße aus Köln, und noch ein Satz\n",
			"Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n" +
				"Gr=C3=BC=C3=9Fe aus K=C3=B6ln, und noch ein Satz\n",
		},
		{
			"octets that are not UTF-8", seven,
			"Subject: x\n\nGr\xfc\xdfe aus K\xf6ln, und noch ein Satz\n",
			"Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\nContent-Transfer-Encoding: quoted-printable\n\n" +
				"Gr=FC=DFe aus K=F6ln, und noch ein Satz\n",
		},
		{
			"mostly octets above 127", seven,
			"MIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\n\n" + strings.Repeat("ä", 29) + "\n",
			"MIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\nContent-Transfer-Encoding: base64\n\n" + lines64,
		},
		{
			"what cron sends", seven,
			"Content-Type: text/plain; charset=UTF-8\nMIME-Version: 1.0\nContent-Transfer-Encoding: 8bit\nX-Cron-Env: <SHELL=/bin/sh>\n\ncaf\u00e9 is open\n",
			"Content-Type: text/plain; charset=UTF-8\nMIME-Version: 1.0\nX-Cron-Env: <SHELL=/bin/sh>\nContent-Transfer-Encoding: quoted-printable\n\ncaf=C3=A9 is open\n",
		},
		{
			"declared as 8bit, and is not", seven,
			"MIME-Version: 1.0\nContent-Transfer-Encoding: 8BIT (so be it)\n\nplain\n",
			"MIME-Version: 1.0\nContent-Transfer-Encoding: 7bit\n\nplain\n",
		},
		{
			"declared as 7bit, and is not", seven,
			"MIME-Version: 1.0\nContent-Transfer-Encoding: 7bit\nContent-Type: text/plain; charset=iso-8859-1\n\ncaf\xe9 is open\n",
			"MIME-Version: 1.0\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\ncaf=E9 is open\n",
		},
		{
			"a line of 20,000 octets, to any server", eight,
			"Subject: x\nContent-Type: text/html\n\n" + long + "\n",
			"Subject: x\nContent-Type: text/html\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n" + longQP + "\n",
		},
		{"a line of 998 octets", eight, "Subject: x\n\n" + strings.Repeat("x", 998) + "\n", "Subject: x\n\n" + strings.Repeat("x", 998) + "\n"},
		{
			"a line of 999 octets", eight,
			"Subject: x\n\n" + strings.Repeat("x", 999) + "\n",
			"Subject: x\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n" + quoted(strings.Repeat("x", 999)) + "\n",
		},
		{
			"HTML that is not UTF-8 may say itself what it is", seven,
			"Content-Type: text/html\nMIME-Version: 1.0\n\n<meta charset=latin1>caf\xe9 is open\n",
			"Content-Type: text/html\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n<meta charset=3Dlatin1>caf=E9 is open\n",
		},
		{
			"a charset is added to what is there", seven,
			"Content-Type: text/html;\n format=flowed;\nMIME-Version: 1.0\n\ncaf\u00e9 is open\n",
			"MIME-Version: 1.0\nContent-Type: text/html; format=flowed; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\ncaf=C3=A9 is open\n",
		},
		{
			"a charset that is named stays, comments and all", seven,
			"Content-Type: text/plain (x); charset=US-ASCII (y)\nMIME-Version: 1.0\n\ncaf\u00e9 is open\n",
			"Content-Type: text/plain (x); charset=US-ASCII (y)\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\ncaf=C3=A9 is open\n",
		},
		{
			"a type that is none", seven,
			"Content-Type: text\nMIME-Version: 1.0\n\ncaf\u00e9 is open\n",
			"Content-Type: text\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\ncaf=C3=A9 is open\n",
		},
		{
			"not text", seven,
			"Content-Type: application/json\nMIME-Version: 1.0\n\n{\"a\":\"\u00e9\"}\n",
			"Content-Type: application/json\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString([]byte("{\"a\":\"\u00e9\"}\r\n")) + "\n",
		},
		{
			"base64 in one line", eight,
			"MIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\n" + strings.Repeat("QUJD", 300) + "\nREVG\n",
			"MIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\n" + wrapped(strings.Repeat("QUJD", 300)+"REVG") + "\n",
		},
		{
			"quoted-printable with octets above 127", seven,
			"MIME-Version: 1.0\nContent-Transfer-Encoding: Quoted-Printable\n\nA \u00e4=c3=a4 = b \nsoft =\nend=20\n=\n",
			"MIME-Version: 1.0\nContent-Transfer-Encoding: Quoted-Printable\n\nA =C3=A4=c3=a4 =3D b\nsoft end=20\n",
		},
		{
			"an encoding that we do not know", seven,
			"MIME-Version: 1.0\nContent-Transfer-Encoding: x-uuencode\n\n\u00e4\n",
			"MIME-Version: 1.0\nContent-Transfer-Encoding: x-uuencode\n\n\u00e4\n",
		},
		{
			"signed by DKIM", seven,
			"DKIM-Signature: v=1\nSubject: " + strings.Repeat("x ", 600) + "\n\n\u00e4" + long + "\n",
			"DKIM-Signature: v=1\nSubject: " + strings.Repeat("x ", 600) + "\n\n\u00e4" + long + "\n",
		},
		{
			"a signed part, and one that is not", seven,
			"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=o\nContent-Transfer-Encoding: 8bit\n\n" +
				"--o\nContent-Type: multipart/signed; boundary=s\nContent-Transfer-Encoding: 8bit\n\n--s\n\n\u00e4\n--s\n\nsignature\n--s--\n" +
				"--o\n\n\u00e4 is an umlaut\n--o--\n",
			"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=o\nContent-Transfer-Encoding: 7bit\n\n" +
				"--o\nContent-Type: multipart/signed; boundary=s\nContent-Transfer-Encoding: 8bit\n\n--s\n\n\u00e4\n--s\n\nsignature\n--s--\n" +
				"--o\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A4 is an umlaut\n--o--\n",
		},
		{
			"parts within parts", seven,
			"Content-Type: multipart/mixed;\n boundary=\"o\"\nMIME-Version: 1.0\n\npre\u00e4mble\n" +
				"--o\nContent-Type: multipart/alternative; boundary=o1\n\n--o1  \n\nplain, no newline, blank \n--o1\nContent-Type: text/html; charset=utf-8\n\n<p>\u00e4 is an umlaut \n--o1--\n\nepilogue\n" +
				"--o\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\nQUJD\n" +
				"--o\nContent-Type: image/png\nContent-Transfer-Encoding: binary\n\n\xff\n--o--\nend\u00e4\n",
			"Content-Type: multipart/mixed;\n boundary=\"o\"\nMIME-Version: 1.0\n\npre\u00e4mble\n" +
				"--o\nContent-Type: multipart/alternative; boundary=o1\n\n--o1  \n\nplain, no newline, blank \n--o1\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n<p>=C3=A4 is an umlaut=20\n--o1--\n\nepilogue\n" +
				"--o\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\nQUJD\n" +
				"--o\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\n/w==\n--o--\nend\u00e4\n",
		},
		{
			"a report with the original", seven,
			"MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\n\n" +
				"--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\n" +
				"--b\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nSubject: x\n\n\u00e4 is an umlaut\n\n--b--\n",
			"MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\n\n" +
				"--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\n" +
				"--b\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 7bit\n\nSubject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A4 is an umlaut\n\n--b--\n",
		},
		{
			"a digest", seven,
			"MIME-Version: 1.0\nContent-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\n\n\u00e4 is an umlaut\n--b--\n",
			"MIME-Version: 1.0\nContent-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A4 is an umlaut\n--b--\n",
		},
		{
			"the last part has no end", seven,
			"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\n\u00e4 is an umlaut\n",
			"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n=C3=A4 is an umlaut\n",
		},
		{
			"a part without a header, and one without anything", seven,
			"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nneither field nor blank line: \u00e4\n--b\n--b\n\n--b--\n",
			"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nneither field nor blank line: \u00e4\n--b\n--b\n\n--b--\n",
		},
		{
			"a boundary that is missing", seven,
			"MIME-Version: 1.0\nContent-Type: multipart/mixed\n\n\u00e4\n",
			"MIME-Version: 1.0\nContent-Type: multipart/mixed\n\n\u00e4\n",
		},
		{
			"messages of RFC 6532 and others", seven,
			"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/global\n\nTo: \u00e4@b\n\n\n--b\nContent-Type: message/partial; id=1\n\n\u00e4\n--b--\n",
			"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/global\nContent-Transfer-Encoding: base64\n\n" +
				base64.StdEncoding.EncodeToString([]byte("To: \u00e4@b\r\n\r\n")) + "\n--b\nContent-Type: message/partial; id=1\n\n\u00e4\n--b--\n",
		},
		{
			"what a body looks like to careless programs", eight,
			"Subject: x\n\nFrom here\n.\n..dots\n--dashes\n-- \n- one\na blank \nFrance\n" + strings.Repeat("y", 1000) + "\n",
			"Subject: x\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n=46rom here\n=2E\n=2E.dots\n=2D-dashes\n=2D-=20\n- one\na blank=20\nFrance\n" + quoted(strings.Repeat("y", 1000)) + "\n",
		},
	} {
		got := recoded(t, tt.in, tt.eightBit)
		in := strings.ReplaceAll(tt.in, "\n", "\r\n")
		if n, err := Size(strings.NewReader(in), int64(len(in)), tt.eightBit); err != nil || n != int64(len(got)+strings.Count(got, "\n")) {
			t.Errorf("%s: Size is %d, %v", tt.name, n, err)
		}
		if got != tt.want {
			t.Errorf("%s: %q\n got %q\nwant %q", tt.name, tt.in, got, tt.want)
		}
		if again := recoded(t, got, tt.eightBit); again != got {
			t.Errorf("%s: %q is recoded once more, to %q", tt.name, got, again)
		}
	}
}

// wrapped returns s in lines of 76.
func wrapped(s string) string {
	var b strings.Builder
	for len(s) > 76 {
		b.WriteString(s[:76] + "\n")
		s = s[76:]
	}
	return b.String() + s
}

func TestHeaderLinesAreFolded(t *testing.T) {
	word := strings.Repeat("w", 300)
	for _, tt := range []struct{ name, in, want string }{
		{"at 998 octets it is left alone", "Subject: " + strings.Repeat("x", 989), "Subject: " + strings.Repeat("x", 989)},
		{"before blanks", "Subject: " + word + " " + word + "\t\t" + word + "  " + word, "Subject: " + word + " " + word + "\t\t" + word + "\n  " + word},
		{"as late as possible", "Subject: " + word + " " + word + " " + strings.Repeat("y", 387) + " z", "Subject: " + word + " " + word + " " + strings.Repeat("y", 387) + "\n z"},
		{"a word that is longer than a line", "Subject: a " + strings.Repeat("x", 1200) + " b", "Subject: a\n " + strings.Repeat("x", 1200) + "\n b"},
		{"no blank line in the midst, and none at the end", "Subject: " + strings.Repeat("x", 989) + "  ", "Subject: " + strings.Repeat("x", 989) + "  "},
		{"addresses after commas", "To: " + word + "@a," + word + "@b," + word + "@c," + word + "@d", "To: " + word + "@a," + word + "@b," + word + "@c,\n " + word + "@d"},
		{"not after commas in quotes", "To: \"" + word + "," + word + "," + word + "," + word + "\" <a@b>", "To:\n \"" + word + "," + word + "," + word + "," + word + "\"\n <a@b>"},
		{"other fields only at blanks", "X-List: " + word + "," + word + "," + word + "," + word, "X-List:\n " + word + "," + word + "," + word + "," + word},
		{"lines that continue a field", "X: a\n " + word + " " + word + " " + word + " " + word, "X: a\n " + word + " " + word + " " + word + "\n " + word},
		{"longer than what is read at once", "X: " + strings.Repeat("a ", windowSize), strings.ReplaceAll("X: "+strings.Repeat("a ", windowSize), strings.Repeat("a ", 10), "?")},
	} {
		got := recoded(t, tt.in+"\n\nhi\n", true)
		header, body, _ := strings.Cut(got, "\n\n")
		if body != "hi\n" {
			t.Errorf("%s: body %q", tt.name, body)
		}
		if tt.name == "longer than what is read at once" {
			if strings.ReplaceAll(header, "\n", "") != tt.in || longestLine(header) > MaxLine || strings.Count(header, "\n") > 70 {
				t.Errorf("%s: header of %d lines, the longest of %d octets", tt.name, strings.Count(header, "\n"), longestLine(header))
			}
		} else if header != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", tt.name, header, tt.want)
		}
	}
}

func longestLine(s string) int {
	n := 0
	for line := range strings.SplitSeq(s, "\n") {
		n = max(n, len(strings.TrimSuffix(line, "\r")))
	}
	return n
}

// decoded returns the body of a message that has one part.
func decoded(t *testing.T, message string) string {
	t.Helper()
	header, body, _ := strings.Cut(message, "\r\n\r\n")
	var r io.Reader = strings.NewReader(body)
	switch {
	case strings.Contains(header, "quoted-printable"):
		r = quotedprintable.NewReader(r)
	case strings.Contains(header, "base64"):
		r = base64.NewDecoder(base64.StdEncoding, r)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%q: %v", message, err)
	}
	return string(b)
}

// checkBody has a body encoded in either way, and holds that it arrives as it was, in lines as they should be.
func checkBody(t *testing.T, body string) {
	t.Helper()
	// What makes it necessary comes first, on a line of its own, so that the body is what it is.
	for _, contentType := range []string{"text/plain; charset=x", "application/x"} {
		wire := onTheWire(t, "Content-Type: "+contentType+"\r\n\r\n\xff\r\n"+body, false)
		got := decoded(t, wire)
		if contentType[0] == 'a' || strings.Contains(wire, "base64") {
			// The line end at the end is that of the last line of base64.
		} else if !strings.HasSuffix(body, "\n") && body != "" {
			got = strings.TrimSuffix(got, "\r\n")
		}
		if got != "\xff\r\n"+body {
			t.Fatalf("%q is sent as %q, and decoded as %q", body, wire, got)
		}
		_, encoded, _ := strings.Cut(wire, "\r\n\r\n")
		for line := range strings.SplitSeq(encoded, "\r\n") {
			if len(line) > maxEncoded || strings.ContainsAny(line, "\r\n\x00") || strings.TrimRight(line, " \t") != line ||
				strings.HasPrefix(line, ".") || strings.HasPrefix(line, "From ") || strings.HasPrefix(line, "--") {
				t.Fatalf("%q is sent as %q, with the line %q", body, wire, line)
			}
		}
		for i := range len(encoded) {
			if encoded[i] >= 0x80 {
				t.Fatalf("%q is sent as %q", body, wire)
			}
		}
	}
}

// TestBodiesArrive encodes every sequence of what is treated in a special way, and each of them at every column.
func TestBodiesArrive(t *testing.T) {
	units := []string{"\r\n", " ", "\t", ".", "-", "=", "From ", "\xe9", "x"}
	bodies := []string{""}
	longest := 3
	if os.Getenv("POSTRIDER_PROOF") != "" {
		longest = 5
	}
	for n := range longest {
		var longer []string
		for _, b := range bodies {
			for _, u := range units {
				longer = append(longer, b+u)
			}
		}
		for _, b := range longer {
			checkBody(t, b)
		}
		if n < 2 {
			for column := range 100 {
				for _, b := range longer {
					checkBody(t, strings.Repeat("y", column)+b+"z\r\n")
				}
			}
		}
		bodies = longer
	}
	for _, unit := range append(units, "\r", "\x00", "\x7f", "\xff\xfe") {
		for _, around := range []int{maxEncoded, MaxLine, windowSize} {
			for n := around - 3; n < around+4; n++ {
				checkBody(t, strings.Repeat("x", n)+unit+"\r\nx")
			}
		}
		for n := range 100 {
			checkBody(t, strings.Repeat(unit, n))
		}
	}
}

func FuzzBody(f *testing.F) {
	f.Add("a \r\n\r\n.\r\nFrom x=\xe9\r")
	f.Fuzz(func(t *testing.T, body string) {
		if !bareLF(body) { // which leaves as a line end, encoded or not
			checkBody(t, body)
		}
	})
}

func bareLF(s string) bool { return strings.Contains(strings.ReplaceAll(s, "\r\n", ""), "\n") }

// FuzzMessage holds of any message that it is recoded at once: there is nothing left to be done.
func FuzzMessage(f *testing.F) {
	f.Add("Content-Type: multipart/mixed; boundary=b\n\n--b\n\n\xe4\n--b--\n", 5000)
	f.Add("Content-Type: message/rfc822\n\nTo: a,b\n\n\n", 999)
	f.Add("Content-Transfer-Encoding: quoted-printable\n\na=\n=e4=4\n\xe4 ", 1)
	f.Fuzz(func(t *testing.T, message string, n int) {
		// The fuzzer does not like to write long lines itself.
		message = strings.ReplaceAll(message, "~", strings.Repeat("x, ", max(0, min(n, 2*windowSize))/3))
		for _, eightBit := range []bool{false, true} {
			once := onTheWire(t, message, eightBit)
			if again := onTheWire(t, once, eightBit); again != once {
				t.Fatalf("%q is recoded to %q, and that to %q", message, once, again)
			}
		}
	})
}

func TestErrors(t *testing.T) {
	content := "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n" + strings.Repeat("\xe4\r\n", 100) + "--b--\r\n"
	torn := errors.New("torn")
	for n := range len(content) {
		r := io.NewSectionReader(failingAt{strings.NewReader(content), int64(n), torn}, 0, int64(len(content)))
		if err := Write(io.Discard, r, int64(len(content)), false); !errors.Is(err, torn) {
			t.Fatalf("content that cannot be read at %d: %v", n, err)
		}
	}
	if err := Write(io.Discard, strings.NewReader(content[:20]), 30, false); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("content that is shorter than it should be: %v", err)
	}
	big := "\r\n" + strings.Repeat("\xe4\r\n", 3*windowSize)
	if err := Write(iotest.TruncateWriter(failing{torn}, 5), strings.NewReader(big), int64(len(big)), false); !errors.Is(err, torn) {
		t.Errorf("nowhere to write to: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// failingAt cannot be read at one place.
type failingAt struct {
	io.ReaderAt
	off int64
	err error
}

func (f failingAt) ReadAt(p []byte, off int64) (int, error) {
	if off <= f.off && f.off < off+int64(len(p)) {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(p, off)
}

// Each of these is some megabytes that would take forever if anything were gone through again and again.
func TestHostileStructures(t *testing.T) {
	const head = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
	for name, content := range map[string]string{
		"multipart within multipart": strings.Repeat("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n", 10_000) + "\r\n\xe4",
		"message within message":     strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 10_000) + "\xe4",
		"small parts":                head + strings.Repeat("--b\r\n\r\n\xe4\r\n", 50_000),
		"delimiters":                 head + strings.Repeat("--b\r\n", 20_000),
		"fields":                     strings.Repeat("Content-Type: text/plain\r\n", 20_000) + "\r\n\xe4",
		"a field":                    "Content-Type: text/plain" + strings.Repeat(";\r\n x=y", 50_000) + "\r\n\r\n\xe4",
		"comments":                   "Content-Type: text/plain " + strings.Repeat("(", 1<<19) + "\r\n\r\n\xe4",
		"blanks":                     "Content-Transfer-Encoding: quoted-printable\r\n\r\n\xe4" + strings.Repeat(" ", 1<<19),
		"equal signs":                "Content-Transfer-Encoding: quoted-printable\r\n\r\n\xe4" + strings.Repeat("=", 1<<19),
		"high octets":                "Subject: x\r\n\r\n" + strings.Repeat("\x80", 1<<19),
	} {
		if wire := onTheWire(t, content, false); len(wire) == 0 {
			t.Errorf("%s: nothing is sent", name)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	var content bytes.Buffer
	content.WriteString("Subject: x\r\n\r\n")
	for content.Len() < 1<<20 {
		fmt.Fprintf(&content, "Zeile mit Umlauten, äöü, und sonst nichts Besonderem %d\r\n", content.Len())
	}
	b.SetBytes(int64(content.Len()))
	for b.Loop() {
		if err := Write(io.Discard, bytes.NewReader(content.Bytes()), int64(content.Len()), false); err != nil {
			b.Fatal(err)
		}
	}
}
