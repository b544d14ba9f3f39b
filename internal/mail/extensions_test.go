package mail

import (
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestParsePriority(t *testing.T) {
	for s, want := range map[string]int{"0": 0, "9": 9, "-9": -9, "4": 4} {
		if got, err := ParsePriority(s); got != want || err != nil {
			t.Errorf("ParsePriority(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "10", "-10", "+1", "-0", "01", "1.0", " 1", "one"} {
		if got, err := ParsePriority(s); err == nil {
			t.Errorf("ParsePriority(%q) = %d, want an error", s, got)
		}
	}
}

func TestHold(t *testing.T) {
	for _, tt := range []struct {
		name  string
		parse func(string, time.Time) (Hold, error)
		value string
		want  string // "" for an error
	}{
		{"an hour", HoldFor, "3600", "2026-11-22T13:00:00Z for;3600"},
		{"sixty days", HoldFor, "5184000", "2027-01-21T12:00:00Z for;5184000"},
		{"no time", HoldFor, "0", ""},
		{"nothing", HoldFor, "", ""},
		{"less than no time", HoldFor, "-1", ""},
		{"ten digits", HoldFor, "0000000001", ""},
		{"a time", HoldUntil, "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z until;2026-11-23T00:00:00Z"},
		{"a fraction", HoldUntil, "2026-11-23T00:00:00.5Z", "2026-11-23T00:00:00Z until;2026-11-23T00:00:00.5Z"},
		{"now", HoldUntil, "2026-11-22T12:00:00Z", ""},
		{"local time", HoldUntil, "2026-11-23T00:00:00+01:00", ""},
		{"a day", HoldUntil, "2026-11-23", ""},
	} {
		h, err := tt.parse(tt.value, noon)
		if h.String() != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q = %q, %v, want %q", tt.name, tt.value, h, err, tt.want)
		}
		if again, err := ParseHold(h.String()); tt.want != "" && (err != nil || again != h) {
			t.Errorf("%s: read again: %+v, %v, want %+v", tt.name, again, err, h)
		}
	}
	for _, s := range []string{"", "2026-11-22T13:00:00Z", "2026-11-22T13:00:00Z ever;1", "2026-11-22T13:00:00Z for;1 2", "2026-11-22T13:00:00Z for;-1", "tomorrow for;1"} {
		if h, err := ParseHold(s); err == nil {
			t.Errorf("ParseHold(%q) = %+v, want an error", s, h)
		}
	}
}

func TestCheckTimes(t *testing.T) {
	ann, err := ParsePath("ann@example.org")
	if err != nil {
		t.Fatal(err)
	}
	by := func(d time.Duration) DeliverBy { return DeliverBy{Deadline: noon.Add(d)} }
	for _, tt := range []struct {
		name string
		env  Envelope
		hold time.Duration // 0: none
		want string
	}{
		{"no hold", Envelope{DeliverBy: by(-time.Hour)}, 0, ""},
		{"sixty days", Envelope{Sender: ann}, MaxHold, ""},
		{"a second more", Envelope{Sender: ann}, MaxHold + time.Second, "a message is held for 60 days at most"},
		{"over already, since it was asked for", Envelope{Sender: ann}, -time.Hour, ""},
		{"a report", Envelope{}, time.Hour, "a report is not held"},
		{"time to deliver it", Envelope{Sender: ann, DeliverBy: by(2 * time.Hour)}, time.Hour, ""},
		{"no time to deliver it", Envelope{Sender: ann, DeliverBy: by(time.Hour)}, time.Hour, "the message is to be delivered before it may be sent"},
	} {
		if tt.hold != 0 {
			tt.env.Hold = Hold{Until: noon.Add(tt.hold), Asked: "for;1"}
		}
		if err := tt.env.CheckTimes(noon); (err == nil) != (tt.want == "") || err != nil && err.Error() != tt.want {
			t.Errorf("%s: CheckTimes = %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestDeliverBy(t *testing.T) {
	for value, want := range map[string]string{
		"120;R":       "2026-11-22T12:02:00Z R",
		"120;rt":      "2026-11-22T12:02:00Z RT",
		"+120;N":      "2026-11-22T12:02:00Z N",
		"-60;NT":      "2026-11-22T11:59:00Z NT",
		"0;N":         "2026-11-22T12:00:00Z N",
		"999999999;N": "2058-07-31T13:46:39Z N",
		"0;R":         "", "-1;R": "", "120": "", "120;": "", "120;RN": "", "120;TR": "", ";R": "", "--1;N": "", "+-1;N": "", "1000000000;N": "", "1 ;N": "",
	} {
		by, err := ParseBy(value, noon)
		if by.String() != want || (err == nil) != (want != "") {
			t.Errorf("ParseBy(%q) = %q, %v, want %q", value, by, err, want)
		}
		if want == "" {
			continue
		}
		if again, err := ParseDeliverBy(by.String()); err != nil || again != by {
			t.Errorf("%q read again: %+v, %v, want %+v", by, again, err, by)
		}
		if back := by.By(noon); back != strings.ToUpper(strings.TrimPrefix(value, "+")) {
			t.Errorf("%q is passed on at once as %q", value, back)
		}
	}
	by := DeliverBy{Deadline: noon, Return: true}
	if got := by.By(noon.Add(90*time.Second + time.Millisecond)); got != "-90;R" {
		t.Errorf("passed on after the deadline as %q", got)
	}
	for _, s := range []string{"", "2026-11-22T12:02:00Z", "2026-11-22T12:02:00Z Q", "2026-11-22T12:02:00Z R R", "soon R"} {
		if by, err := ParseDeliverBy(s); err == nil {
			t.Errorf("ParseDeliverBy(%q) = %+v, want an error", s, by)
		}
	}
}

// FuzzExtensions reads what strangers say in parameters: what is accepted can be written down on one line, and read again.
func FuzzExtensions(f *testing.F) {
	for _, s := range []string{"3600", "2026-11-23T00:00:00.123Z", "120;RT", "-1;N", "-9", "+1", "0x1", "999999999;NT", "2026-11-22T13:00:00Z for;1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		check := func(text string, again func(string) (string, error)) {
			if strings.ContainsAny(text, "\r\n\x00") || len(text) > 80 {
				t.Errorf("%q becomes %q", s, text)
			}
			if back, err := again(text); err != nil || back != text {
				t.Errorf("%q, from %q, is read again as %q, %v", text, s, back, err)
			}
		}
		hold := func(s string) (string, error) { h, err := ParseHold(s); return h.String(), err }
		by := func(s string) (string, error) { d, err := ParseDeliverBy(s); return d.String(), err }
		for _, parse := range []func(string, time.Time) (Hold, error){HoldFor, HoldUntil} {
			if h, err := parse(s, noon); err == nil {
				check(h.String(), hold)
			}
		}
		if d, err := ParseBy(s, noon); err == nil {
			check(d.String(), by)
		}
		if text, err := hold(s); err == nil {
			check(text, hold)
		}
		if text, err := by(s); err == nil {
			check(text, by)
		}
		if n, err := ParsePriority(s); err == nil && (n < MinPriority || n > MaxPriority) {
			t.Errorf("ParsePriority(%q) = %d", s, n)
		}
	})
}
