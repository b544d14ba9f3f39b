package login

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/xdg-go/scram"
)

// rfc7677 is what is kept of the password "pencil" in the example of RFC 7677 section 3.
const rfc7677 = "user:SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="

func users(t *testing.T, lines ...string) Users {
	t.Helper()
	u, err := Parse(strings.Join(lines, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func line(t *testing.T, name, password string) string {
	t.Helper()
	l, err := Line(name, password)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestPasswords(t *testing.T) {
	u := users(t, "# who may send mail", rfc7677, "", line(t, "jürgen", "drei Wörter :$"), line(t, "ann@example.org", "x")+"\r")
	for _, tt := range []struct {
		name, password string
		want           bool
	}{
		{"user", "pencil", true},
		{"user", "Pencil", false},
		{"user", "", false},
		{"User", "pencil", false},
		{"nobody", "pencil", false},
		{"", "", false},
		{"jürgen", "drei Wörter :$", true},
		{"ann@example.org", "x", true},
		{"# who may send mail", "", false},
	} {
		if got := u.verify(tt.name, tt.password); got != tt.want {
			t.Errorf("%q, %q: %v, want %v", tt.name, tt.password, got, tt.want)
		}
	}
}

func TestLinesThatAreWrong(t *testing.T) {
	const secret = "W22ZaJ0SNY7soEsUEjb6gQ=="
	for name, tt := range map[string]struct{ text, want string }{
		"a password":            {"ann:pencil", "line 1: expected SCRAM-SHA-256$"},
		"no name":               {"\n:" + strings.TrimPrefix(rfc7677, "user:"), "line 2: no name"},
		"a name with a blank":   {"a b:" + strings.TrimPrefix(rfc7677, "user:"), "line 1: no name"},
		"no colon":              {"ann", "line 1: expected"},
		"twice":                 {rfc7677 + "\n" + rfc7677, "line 2: the name stands here again"},
		"another mechanism":     {strings.Replace(rfc7677, "SHA-256", "SHA-1", 1), "line 1: expected"},
		"too few iterations":    {strings.Replace(rfc7677, "4096", "1", 1), "with 4096 to 1000000 iterations"},
		"too many iterations":   {strings.Replace(rfc7677, "4096", "1000000000", 1), "with 4096 to 1000000 iterations"},
		"no salt":               {strings.Replace(rfc7677, secret, "", 1), "line 1: expected"},
		"a key that is cut off": {strings.TrimSuffix(rfc7677, "l2dU="), "line 1: expected"},
	} {
		if _, err := Parse(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "pencil") || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: error %v, want %q", name, err, tt.want)
		}
	}
	for _, tt := range [][2]string{{"", "x"}, {"a:b", "x"}, {"a b", "x"}, {"#ann", "x"}, {"a\nb", "x"}, {"ann", ""}} {
		if l, err := Line(tt[0], tt[1]); err == nil {
			t.Errorf("Line(%q, %q) = %q", tt[0], tt[1], l)
		}
	}
}

// A step is what the client says, "-" for nothing, and the challenge to that, or who he is.
type step struct{ say, hear string }

func TestExchanges(t *testing.T) {
	u := users(t, rfc7677)
	for _, tt := range []struct {
		name, mechanism string
		steps           []step
		user            string
		err             error
	}{
		{"PLAIN at once", "PLAIN", []step{{"\x00user\x00pencil", ""}}, "user", nil},
		{"PLAIN after a challenge", "PLAIN", []step{{"-", ""}, {"user\x00user\x00pencil", ""}}, "user", nil},
		{"PLAIN with another password", "PLAIN", []step{{"\x00user\x00pen", ""}}, "", ErrRefused},
		{"PLAIN for somebody else", "PLAIN", []step{{"root\x00user\x00pencil", ""}}, "", ErrRefused},
		{"PLAIN without a password", "PLAIN", []step{{"\x00user", ""}}, "", ErrMalformed},
		{"PLAIN with too much", "PLAIN", []step{{"\x00user\x00pencil\x00", ""}}, "", ErrMalformed},
		{"LOGIN", "LOGIN", []step{{"-", "Username:"}, {"user", "Password:"}, {"pencil", ""}}, "user", nil},
		{"LOGIN with the name at once", "LOGIN", []step{{"user", "Password:"}, {"pencil", ""}}, "user", nil},
		{"LOGIN with another password", "LOGIN", []step{{"-", "Username:"}, {"user", "Password:"}, {"pen", ""}}, "", ErrRefused},
		{"LOGIN of nobody", "LOGIN", []step{{"-", "Username:"}, {"", "Password:"}, {"", ""}}, "", ErrRefused},
		{"SCRAM without sense", "SCRAM-SHA-256", []step{{"-", ""}, {"hello", ""}}, "", ErrMalformed},
		{"SCRAM without a name", "SCRAM-SHA-256", []step{{"n,,n=,r=abc", ""}}, "", ErrMalformed},
		{"SCRAM for somebody else", "SCRAM-SHA-256", []step{{"n,a=root,n=user,r=abc", ""}}, "", ErrRefused},
		{"SCRAM with channel binding", "SCRAM-SHA-256", []step{{"p=tls-exporter,,n=user,r=abc", ""}}, "", ErrMalformed},
	} {
		e := start(t, tt.mechanism, u)
		var user string
		var err error
		for n, s := range tt.steps {
			var response, challenge []byte
			if s.say != "-" {
				response = []byte(s.say)
			}
			if challenge, user, err = e.Next(response); string(challenge) != s.hear || (err != nil || user != "") && n < len(tt.steps)-1 {
				t.Errorf("%s: after %q: %q, %q, %v; want %q", tt.name, s.say, challenge, user, err, s.hear)
			}
		}
		if user != tt.user || !errors.Is(err, tt.err) {
			t.Errorf("%s: %q, %v; want %q, %v", tt.name, user, err, tt.user, tt.err)
		}
	}
}

func start(t *testing.T, mechanism string, u Users) Exchange {
	t.Helper()
	for _, m := range Mechanisms() {
		if m.Name == mechanism {
			return m.Start(u)
		}
	}
	t.Fatalf("no mechanism %s", mechanism)
	return nil
}

func TestSCRAM(t *testing.T) {
	u := users(t, rfc7677, line(t, "jürgen", "ein Wort"))
	for _, tt := range []struct {
		name, password string
		want           error
	}{{"user", "pencil", nil}, {"jürgen", "ein Wort", nil}, {"user", "pen", ErrRefused}, {"nobody", "pencil", ErrRefused}} {
		client, err := scram.SHA256.NewClient(tt.name, tt.password, "")
		if err != nil {
			t.Fatal(err)
		}
		c, e := client.NewConversation(), start(t, "SCRAM-SHA-256", u)
		var challenge []byte
		var user string
		for err == nil && user == "" {
			said, errClient := c.Step(string(challenge))
			if errClient != nil {
				t.Fatalf("%s: the client: %v", tt.name, errClient)
			}
			challenge, user, err = e.Next([]byte(said))
		}
		if !errors.Is(err, tt.want) || err == nil && (user != tt.name || !c.Valid()) {
			t.Errorf("%s, %s: %q, %v", tt.name, tt.password, user, err)
		}
	}
}

// Nobody learns by asking who exists: who does not has a salt, too, and always the same.
func TestUnknownUsers(t *testing.T) {
	u := users(t, rfc7677)
	salt := func(name string) string {
		challenge, _, err := start(t, "SCRAM-SHA-256", u).Next([]byte("n,,n=" + name + ",r=abc"))
		part := strings.Split(string(challenge), ",")
		if err != nil || len(part) != 3 {
			t.Fatalf("%s: %q, %v", name, challenge, err)
		}
		return part[1]
	}
	known, ann, bob := salt("user"), salt("ann"), salt("bob")
	if ann != salt("ann") || ann == bob || len(ann) != len(known) {
		t.Errorf("salts: %s, %s and %s of those who do not exist; %s of the user", ann, salt("ann"), bob, known)
	}
}

// FuzzExchange has somebody say anything who does not have the password: he is never let in.
func FuzzExchange(f *testing.F) {
	f.Add(0, "n,,n=user,r=abc", "c=biws,r=abc,p=")
	f.Add(1, "\x00user\x00", "")
	f.Add(2, "user", "")
	kept, err := Parse(rfc7677)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, n int, first, second string) {
		all := Mechanisms()
		e := all[uint(n)%uint(len(all))].Start(kept)
		for _, said := range []string{first, second, second} {
			if strings.Contains(said, "pencil") {
				return
			}
			if _, user, err := e.Next([]byte(said)); user != "" {
				t.Errorf("%q, %q: let in as %q, %v", first, second, user, err)
			} else if err != nil {
				return
			}
		}
	})
}

// FuzzParse has a file say anything. What is read of it are names that can stand in a log, and keys of the right length.
func FuzzParse(f *testing.F) {
	f.Add(rfc7677)
	f.Fuzz(func(t *testing.T, text string) {
		kept, err := Parse(text)
		for name, c := range kept {
			if err != nil || strings.ContainsAny(name, " \r\n\x00:") || len(c.StoredKey) != 32 || c.Iters > maxIterations {
				t.Errorf("%q: %s", name, base64.StdEncoding.EncodeToString(c.StoredKey))
			}
		}
	})
}
