package sts

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParsePolicy(t *testing.T) {
	const enforce = "version: STSv1\nmode: enforce\nmx: mx1.example.com\nmax_age: 86400\n"
	const day = "enforce [mx1.example.com] 24h0m0s"
	for _, tt := range []struct{ name, text, want string }{
		{"enforced", enforce, day},
		{"lines that end in CRLF", strings.ReplaceAll(enforce, "\n", "\r\n"), day},
		{"no end to the last line", strings.TrimSuffix(enforce, "\n"), day},
		{"in any order, with blanks and empty lines", "max_age:86400 \n\nmx :\tMX1.example.com.\nmode:  enforce\nversion: STSv1", day},
		{"several hosts", enforce + "mx: *.example.net\nmx: mx1.example.com", "enforce [mx1.example.com *.example.net] 24h0m0s"},
		{"fields that are not known", enforce + "policy-url: https://example.com/a:b\n", day},
		{"fields that come twice", enforce + "mode: none\nmax_age: 1\nversion: STSv2", day},
		{"for testing", strings.Replace(enforce, "enforce", "testing", 1), "testing [mx1.example.com] 24h0m0s"},
		{"none needs no host", "version: STSv1\nmode: none\nmax_age: 60", "none [] 1m0s"},
		{"a time beyond all bounds", strings.Replace(enforce, "86400", "9999999999", 1), "enforce [mx1.example.com] 8766h0m0s"},
		{"a time of eleven digits", strings.Replace(enforce, "86400", "10000000000", 1), "max_age"},
		{"a time that is none", strings.Replace(enforce, "86400", "-1", 1), "max_age"},
		{"no time", strings.Replace(enforce, "max_age: 86400", "", 1), "max_age"},
		{"another version", strings.Replace(enforce, "STSv1", "STSv2", 1), "version"},
		{"no version", strings.Replace(enforce, "version: STSv1", "", 1), "version"},
		{"no mode", strings.Replace(enforce, "mode: enforce", "", 1), "mode"},
		{"another mode", strings.Replace(enforce, "enforce", "Enforce", 1), "mode"},
		{"no host", strings.Replace(enforce, "mx: mx1.example.com", "", 1), "no host"},
		{"an empty host", enforce + "mx:", "host"},
		{"a star in the middle", enforce + "mx: a.*.example.com", "host"},
		{"a star for everything", enforce + "mx: *", "host"},
		{"a name beyond ASCII", enforce + "mx: b\u00fccher.example", "host"},
		{"a name that is too long", enforce + "mx: " + strings.Repeat("a.", 128) + "example", "host"},
		{"very many hosts", enforce + strings.Repeat("mx: a.example\n", 1000), "enforce [mx1.example.com a.example] 24h0m0s"},
		{"too many hosts", enforce + manyHosts(), "longer than"},
		{"a page of the web", "<html>\n<body>not found</body>", "no field"},
		{"nothing", "", "version"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ParsePolicy(tt.text)
			got := fmt.Sprintf("%s %s %v", p.Mode, p.Hosts, p.MaxAge)
			if err != nil {
				if got = err.Error(); strings.Contains(got, tt.want) {
					return
				}
			}
			if got != tt.want {
				t.Errorf("ParsePolicy = %s, want %s", got, tt.want)
			}
		})
	}
}

func manyHosts() string {
	var b strings.Builder
	for i := range 400 {
		fmt.Fprintf(&b, "mx: mx%d.example\n", i)
	}
	return b.String()
}

func TestNames(t *testing.T) {
	p := Policy{Hosts: []string{"mx1.example.com", "*.example.net"}}
	for host, want := range map[string]bool{
		"mx1.example.com": true, "mx2.example.com": false, "a.mx1.example.com": false,
		"a.example.net": true, "example.net": false, "a.b.example.net": false, ".example.net": false, "aexample.net": false, "*.example.net": true,
		"": false, "com": false,
	} {
		if got := p.Names(host); got != want {
			t.Errorf("Names(%q) = %v", host, got)
		}
	}
}

func TestParseRecord(t *testing.T) {
	for _, tt := range []struct {
		name  string
		texts []string
		want  string
	}{
		{"a record", []string{"v=STSv1; id=20260102T030405;"}, "20260102T030405"},
		{"no blanks, no end", []string{"v=STSv1;id=1"}, "1"},
		{"many blanks", []string{"v=STSv1 ; \t id=1 ; "}, "1"},
		{"other texts beside it", []string{"v=spf1 -all", "v=STSv1; id=1;", "v=STSv12; id=2"}, "1"},
		{"other fields", []string{"v=STSv1; a=b; id=1; id=2; c"}, "1"},
		{"two", []string{"v=STSv1; id=1;", "v=STSv1; id=1;"}, ""},
		{"two, and one without an id", []string{"v=STSv1; id=1;", "v=STSv1;"}, ""},
		{"none", nil, ""},
		{"no id", []string{"v=STSv1;"}, ""},
		{"no semicolon", []string{"v=STSv1 id=1"}, ""},
		{"in small letters", []string{"v=stsv1; id=1;"}, ""},
		{"an empty id", []string{"v=STSv1; id=; id=1"}, ""},
		{"an id with other characters", []string{"v=STSv1; id=a-b;"}, ""},
		{"an id of 32 characters", []string{"v=STSv1; id=" + strings.Repeat("a", 32)}, strings.Repeat("a", 32)},
		{"and of 33", []string{"v=STSv1; id=" + strings.Repeat("a", 33)}, ""},
	} {
		if got := parseRecord(tt.texts); got != tt.want {
			t.Errorf("%s: parseRecord(%q) = %q, want %q", tt.name, tt.texts, got, tt.want)
		}
	}
}

// FuzzParsePolicy reads what any web server may say. Whatever it is, a policy that is enforced names hosts, in bounded
// space, for a bounded time, and it means the same when it is written down and read again.
func FuzzParsePolicy(f *testing.F) {
	f.Add("version: STSv1\r\nmode: enforce\r\nmx: mx1.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n")
	f.Add("version:STSv1\nmode:none\nmax_age:0\nx")
	f.Add(":\n: :\nmx:.\nmx:*.\n\x00")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePolicy(text)
		if err != nil {
			return
		}
		if p.MaxAge < 0 || p.MaxAge > maxAge || len(strings.Join(p.Hosts, "")) > maxNames || p.Mode != None && len(p.Hosts) == 0 {
			t.Errorf("out of bounds: %+v", p)
		}
		var b strings.Builder
		fmt.Fprintf(&b, "version: STSv1\nmode: %s\nmax_age: %d\n", p.Mode, p.MaxAge/time.Second)
		for _, h := range p.Hosts {
			fmt.Fprintf(&b, "mx: %s\n", h)
			if example := strings.Replace(h, "*", "a", 1); !p.Names(example) || p.Names("a."+example) && !slices.Contains(p.Hosts, "a."+example) && !slices.Contains(p.Hosts, "*."+example) {
				t.Errorf("%q does not mean itself in %q", h, p.Hosts)
			}
		}
		again, err := ParsePolicy(b.String())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(p) {
			t.Errorf("%q is read again as %+v, %v", b.String(), again, err)
		}
	})
}

// FuzzParseRecord reads what any name server may say. An id is short, and nothing but letters and digits.
func FuzzParseRecord(f *testing.F) {
	f.Add("v=STSv1; id=1;", "v=spf1")
	f.Add("v=STSv1;;id==", "v=STSv1 ;\tid=\xff")
	f.Fuzz(func(t *testing.T, one, other string) {
		id := parseRecord([]string{one, other})
		for _, c := range []byte(id) {
			if !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') {
				t.Errorf("id %q", id)
			}
		}
		if len(id) > 32 || id != "" && !strings.Contains(one+" "+other, "="+id) {
			t.Errorf("id %q of %q, %q", id, one, other)
		}
		if id != "" && parseRecord([]string{one, other, one, other}) != "" {
			t.Errorf("%q, %q counts although there are two", one, other)
		}
	})
}
