package doortest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// endings has a row for each status that sendmail(8) documents, but 70: no caller can make the program wrong, and
// TestPanic in cmd/sendmail does.
var endings = []struct {
	name   string
	status string
	call   func(w *world) *exec.Cmd
	says   string // a regular expression for all that is said
}{
	{"queued", "0", calling("bob"), ``},
	{"an unknown option", "64", calling("-Z", "bob"), `sendmail: unknown option "-Z"\n`},
	{"no recipients", "64", calling(), `sendmail: no recipients; .*\n`},
	{"a recipient that is no address", "65", calling("a b"), `sendmail: not a recipient address: .*\n`},
	{"input that is a directory", "66", func(w *world) *exec.Cmd {
		return under(calling("bob")(w), "/bin/sh", "-c", `exec "$0" "$@" </`)
	}, `sendmail: cannot read message: .*\n`},
	{"an address that cannot be delivered to", "67", calling("-bv", "-f", "ann@example.org", "bob@old.example"),
		`bob@old\.example: bounced .*\nqueue-runner: mail for some of these cannot be delivered\n`},
	{"a message that is too large", "69", replacing("[transport", "max_message_size = 1000\n[transport", calling("bob")), `sendmail: message is larger than 1000 octets, .*\n`},
	{"a listing, without mailq", "71", alone("-bp"), `sendmail: cannot run mailq: .*\n`},
	{"a queue run, without queue-runner", "71", alone("-q"), `sendmail: cannot run queue-runner: .*\n`},
	{"input that fails", "74", func(w *world) *exec.Cmd {
		return under(calling("bob")(w), "/bin/sh", "-c", `"$0" "$@" </proc/$$/mem; exit $?`)
	}, `sendmail: cannot read message: .*input/output error\n`},
	{"a spool that cannot be made", "75", replacing(`spool = "`, `spool = "/proc/none`, calling("bob")), `sendmail: cannot queue message: .*\n`},
	{"a spool of others, and nobody at its socket", "75", asOther(calling("bob")), `sendmail: cannot queue message: .*permission denied; .*\n`},
	{"a queue run by others", "77", asOther(calling("-q")), `queue-runner: spool .* belongs to user 0, not to 12345: .*\n`},
	{"a daemon of others", "77", asOther(calling("-bD")), `queue-runner: spool .* belongs to user 0, not to 12345: .*\n`},
	{"a daemon of others, in the background", "77", asOther(calling("-bd")), `sendmail: only root and the owner of .* deliver mail\n`},
	{"no configuration", "78", calling("-C", "/nonexistent.toml", "bob"), `sendmail: /nonexistent\.toml: no such file or directory\n`},
	{"a mistake in the configuration", "78", replacing(`"discard:"`, "7", calling("bob")), `sendmail: .*/in\.toml:4:9: relay: .*\n`},
}

// calling is sendmail with arguments.
func calling(args ...string) func(w *world) *exec.Cmd {
	return func(w *world) *exec.Cmd { return w.program("in.toml", "sendmail", args...) }
}

// replacing is a call with old replaced by new in the configuration. The spool has to stay one of ours: what does not name
// any means that of this machine.
func replacing(old, new string, call func(w *world) *exec.Cmd) func(w *world) *exec.Cmd {
	return func(w *world) *exec.Cmd {
		file := filepath.Join(w.dir, "in.toml")
		text, err := os.ReadFile(file)
		if err != nil {
			w.t.Fatal(err)
		}
		if !strings.Contains(string(text), old) {
			w.t.Fatalf("%q is not in the configuration:\n%s", old, text)
		}
		if err := os.WriteFile(file, []byte(strings.Replace(string(text), old, new, 1)), 0o644); err != nil {
			w.t.Fatal(err)
		}
		return call(w)
	}
}

// alone is sendmail without the other programs.
func alone(args ...string) func(w *world) *exec.Cmd {
	return func(w *world) *exec.Cmd {
		cmd := calling(args...)(w)
		program, err := os.ReadFile(cmd.Path)
		if err != nil {
			w.t.Fatal(err)
		}
		cmd.Path = filepath.Join(w.outside, "sendmail") // whose ../bin is ours
		if err := os.WriteFile(cmd.Path, program, 0o755); err != nil {
			w.t.Fatal(err)
		}
		return cmd
	}
}

// asOther is a call by somebody who does not own the spool.
func asOther(call func(w *world) *exec.Cmd) func(w *world) *exec.Cmd {
	return func(w *world) *exec.Cmd {
		asRoot(w.t)
		return asStranger(call(w))
	}
}

func TestExitStatus(t *testing.T) {
	for _, tt := range endings {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, queueing+"[transport.nowhere]\nurl = \"fail:\"\n[[route]]\nto = [\"old.example\"]\ntransport = \"nowhere\"\n")
			cmd := tt.call(w)
			out, _ := run(t, cmd, hello+strings.Repeat("It really does.\n", 100))
			if state := cmd.ProcessState.String(); state != "exit status "+tt.status || !regexp.MustCompile(`^`+tt.says+`$`).MatchString(out) {
				t.Errorf("%s, %q; want %s, %s", state, out, tt.status, tt.says)
			}
			if queued := len(w.letters()) == 1; queued != (tt.status == "0") {
				t.Errorf("in the spool are %v", w.letters())
			}
		})
	}
}

// Whoever documents a status shows how it comes about, and the other way round.
func TestExitStatusesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../man/sendmail.8")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n.Sh EXIT STATUS\n")
	section, _, _ = strings.Cut(section, "\n.Sh ")
	var documented []string
	for _, item := range regexp.MustCompile(`(?m)^\.It (\d+)$`).FindAllStringSubmatch(section, -1) {
		documented = append(documented, item[1])
	}
	shown := []string{"70"}
	for _, e := range endings {
		shown = append(shown, e.status)
	}
	slices.Sort(shown)
	if shown = slices.Compact(shown); !slices.Equal(documented, shown) {
		t.Errorf("sendmail(8) documents the statuses %s, and endings has %s", documented, shown)
	}
}
