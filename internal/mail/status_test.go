package mail

import (
	"slices"
	"testing"
	"time"
)

func TestParseEnhancedCode(t *testing.T) {
	for text, want := range map[string]EnhancedCode{
		"2.0.0": {2, 0, 0}, "4.7.25": {4, 7, 25}, "5.123.999": {5, 123, 999},
		"": {}, "5": {}, "5.1": {}, "5.1.1.": {}, "3.1.1": {}, "55.1.1": {}, "5.1.1000": {}, "5.-1.1": {}, "5.+1.1": {}, "5..1": {}, "5.1.x": {},
	} {
		if got, ok := ParseEnhancedCode(text); got != want || ok != (want != EnhancedCode{}) {
			t.Errorf("ParseEnhancedCode(%q) = %v, %v; want %v", text, got, ok, want)
		}
	}
}

// The code that is shown fits what became of the recipient, whatever a server says.
func TestStatus(t *testing.T) {
	for _, tt := range []struct {
		name   string
		action Action
		reply  Reply
		want   string
	}{
		{"as the server says", Failed, Reply{550, EnhancedCode{5, 1, 1}, ""}, "5.1.1"},
		{"none was given", Failed, Reply{Code: 550}, "5.0.0"},
		{"none was given, and it stays", Delayed, Reply{Code: 451}, "4.0.0"},
		{"none was needed", Delayed, Reply{Code: 421}, "4.3.2"},
		{"none was needed, and it stays all the same", Delayed, Reply{Code: 535}, "4.7.8"},
		{"none was needed for the end", Failed, Reply{Code: 521}, "5.3.2"},
		{"the server knows better", Delayed, Reply{421, EnhancedCode{4, 7, 0}, ""}, "4.7.0"},
		{"another class", Delayed, Reply{550, EnhancedCode{5, 7, 1}, ""}, "4.7.1"},
		{"given up after its time", Failed, Reply{0, EnhancedCode{4, 4, 1}, ""}, "4.4.1"},
		{"refused with a code of success", Failed, Reply{550, EnhancedCode{2, 1, 5}, ""}, "5.1.5"},
		{"taken", Relayed, Reply{Code: 250}, "2.0.0"},
		{"in a mailbox", Delivered, Reply{250, EnhancedCode{2, 1, 5}, ""}, "2.1.5"},
		{"an alias", Expanded, Reply{}, "2.0.0"},
	} {
		if got := (Result{Action: tt.action, Reply: tt.reply}).Status(); got.String() != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestReplyIsOneLine(t *testing.T) {
	for want, reply := range map[string]Reply{
		"":                             {},
		"550":                          {Code: 550},
		"550 5.1.1 no such user sorry": {550, EnhancedCode{5, 1, 1}, "no such user\nsorry"},
		"connection refused":           {0, EnhancedCode{4, 4, 1}, "connection refused"},
	} {
		if got := reply.String(); got != want {
			t.Errorf("%+v is %q, want %q", reply, got, want)
		}
	}
}

func TestID(t *testing.T) {
	first := time.Date(2026, 11, 21, 22, 0, 0, 123_000, time.UTC)
	var ids []ID
	for n := range 3 {
		at := first.Add(time.Duration(n) * time.Microsecond)
		id := MakeID(at, uint8(200-n))
		if again, err := ParseID(string(id)); err != nil || again != id || !id.Time().Equal(at) {
			t.Errorf("ParseID(%s) = %s, %v, at %s; want %s", id, again, err, id.Time(), at)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) || MakeID(first, 1) == MakeID(first, 2) {
		t.Errorf("%s are not in the order of time, or salt makes no difference", ids)
	}
	if late := MakeID(time.Date(2085, 1, 1, 0, 0, 0, 0, time.UTC), 15); len(late) != idLength || late[0] > 'F' {
		t.Errorf("an ID of 2085 is %s", late)
	}
	if early := MakeID(time.Time{}, 0); early != "00000000000" {
		t.Errorf("an ID of before the Epoch is %s", early)
	}
	for _, text := range []string{"", "7UU6CXMKD0", "7UU6CXMKD055", "GUU6CXMKD05", "7uu6cxmkd05", "../../../ab", "7UU6CXMKD0/", "7UU6CXMKD0\n"} {
		if id, err := ParseID(text); err == nil {
			t.Errorf("ParseID(%q) = %s", text, id)
		}
	}
}
