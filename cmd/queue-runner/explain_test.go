package main

import (
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const explained = `domain = "site.example"
relay = "submission://alerts@smtp.example.com:587"
password_file = "/nowhere/at/all"

[rewrite]
"ann@site.example" = "alerts@example.com"

[transport.lan]
url = "smtp://lan.invalid:2525"
[transport.never]
url = "fail:"
text = "no mail to there"

[[route]]
to = [".lan.example"]
transport = "lan"
[[route]]
to = ["old.example"]
transport = "never"
`

// Where mail goes is said without sending any, connecting to anybody, or making a spool.
func TestExplain(t *testing.T) {
	const relay = "submission to smtp.example.com:587, TLS with a verified certificate, login alerts, at most 3 sessions (relay)\n"
	const lan = "smtp to lan.invalid:2525, TLS if offered, at most 10 sessions (lan)\n"
	for _, tt := range []struct {
		name, sender string
		words        []string
		status       int
		want         string
	}{
		{"a relay", "<>", []string{"bob@example.net"}, 0, "bob@example.net: " + relay},
		{"another route", "<>", []string{"bob@mail.LAN.example"}, 0, "bob@mail.LAN.example: " + lan},
		{"a bare name", "<>", []string{"bob"}, 0, "bob, that is bob@site.example: " + relay},
		{"a list, as on the command line", "<>", []string{"Bob <bob@lan.example>, cyd@example.net"}, 0, "bob@lan.example: " + lan + "cyd@example.net: " + relay},
		{"a sender that is replaced", "Ann <ann>", []string{"bob@lan.example"}, 0, "from ann: sent as alerts@example.com\nbob@lan.example: " + lan},
		{"an alias", "<>", []string{"staff@localhost"}, 0, "staff@localhost: an alias\n  left out: commands are not run: \"|/bin/false\"\n  ann@localhost: " + relay + "  x@lan.example: " + lan},
		{"an alias of an alias", "<>", []string{"far@localhost"}, 0, "far@localhost: an alias\n  left out: commands are not run: \"|/bin/false\"\n  ann@localhost: " + relay + "  x@lan.example: " + lan},
		{"an alias twice", "<>", []string{"gus@localhost", "gus"}, 0, "gus@localhost: an alias\n  gus@lan.example: " + lan + "gus, that is gus@site.example: an alias\n  gus@lan.example: " + lan},
		{"an alias for nobody", "<>", []string{"never@localhost"}, 0, "never@localhost: an alias\n  discarded\n"},
		{"an alias that leads nowhere", "<>", []string{"cmd@localhost", "ring@localhost"}, 67, "cmd@localhost: alias cmd: nobody is left behind the alias: commands are not run: |/bin/false\nring@localhost: alias ring: alias loop\n"},
		{"what is bounced", "<>", []string{"bob@old.example", "bob@example.net"}, 67, "bob@old.example: bounced with the text \"no mail to there\" (never)\nbob@example.net: " + relay},
		{"what is no address", "<>", []string{"a b", "<>"}, 67, "\"a b\": blank in address\n\"<>\": nobody's address\n"},
		{"what is no sender", "a b", []string{"bob@example.net"}, 64, ""},
		{"nothing", "<>", nil, 64, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, explained)
			w.aliases("staff: ann, x@lan.example, \"|/bin/false\"\nfar: staff@site.example\ngus: gus@lan.example\nnever: /dev/null\ncmd: |/bin/false\nring: gnir@localhost\ngnir: ring\n")
			cmd := w.command(append([]string{"route", "--sender", tt.sender, "--"}, tt.words...)...)
			out, err := cmd.Output()
			if _, ok := err.(*exec.ExitError); err != nil && !ok {
				t.Fatal(err)
			}
			if status := cmd.ProcessState.ExitCode(); status != tt.status {
				t.Errorf("exit %d, want %d", status, tt.status)
			}
			if diff := cmp.Diff(tt.want, string(out)); diff != "" {
				t.Errorf("said (-want +got):\n%s", diff)
			}
		})
	}
}
