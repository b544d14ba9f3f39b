package postrider

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/postrider/postrider"

// layers lists our packages bottom up. Each imports only packages of the layers before its own: never upwards, never a
// neighbour.
var layers = [][]string{
	{"internal/mail", "internal/entry"},
	{"deliver/recode", "deliver/idn", "deliver/users", "deliver/dns", "internal/login"},
	{"deliver/dane", "deliver/sts"},
	{"spool/drop", "deliver/smtp", "deliver/mx", "deliver/route", "deliver/local", "deliver/dsn", "deliver/alias"},
	{"spool", "internal/submit", "deliver/tlspolicy"},
	{"deliver", "internal/smtpd", "internal/submitd"},
	{"deliver/failover"},
	{"internal/config"},
	{"internal/listen"},
	{"cmd/sendmail", "cmd/mailq", "cmd/queue-runner"},
}

// workshop lists the packages that are never part of a program we install: servers and crashes for tests, benchmarks.
// They import what they like and nobody but tests imports them.
var workshop = []string{"internal/smtptest", "internal/dnstest", "internal/crashtest", "internal/realtest", "internal/faulttest", "bench"}

// doors names, for each library, the packages that may import it. A library behind one door can be replaced by reading
// one package, and sendmail cannot come to link it by accident.
var doors = map[string][]string{
	"go.etcd.io/bbolt":                {"spool"},
	"github.com/emersion/go-sasl":     {"deliver/smtp"},
	"github.com/xdg-go/scram":         {"deliver/smtp", "internal/login"},
	"github.com/emersion/go-message":  {"deliver/dsn"},
	"github.com/pelletier/go-toml/v2": {"internal/config"},
	"github.com/urfave/cli/v2":        {"cmd/mailq", "cmd/queue-runner"},
	"golang.org/x/sys":                {"spool/drop", "spool", "internal/submit", "internal/submitd", "deliver/alias", "deliver/local", "cmd/sendmail", "cmd/mailq", "cmd/queue-runner"},
	"golang.org/x/net":                {"deliver/idn", "deliver/smtp"}, // idna; proxy
	"github.com/emersion/go-smtp":     nil,                             // tests
	"github.com/miekg/dns":            {"deliver/dns"},
	"github.com/google/go-cmp":        nil,
	"github.com/rogpeppe/go-internal": nil,
	"go.uber.org/goleak":              nil,
}

// sendmailLinks is all that cmd/sendmail links besides itself and the internals of the standard library. It runs once
// for each message, and most of its time is its start: net, crypto/tls, text/template or a database would double that.
// Measure before you add something here.
var sendmailLinks = strings.Fields(`
	github.com/postrider/postrider/internal/config
	github.com/postrider/postrider/internal/entry
	github.com/postrider/postrider/internal/mail
	github.com/postrider/postrider/internal/submit
	github.com/postrider/postrider/internal/submitd
	github.com/postrider/postrider/spool/drop

	github.com/pelletier/go-toml/v2/unstable
	golang.org/x/sys/unix

	bufio bytes cmp context encoding/base64 encoding/binary errors fmt hash hash/crc32 io io/fs iter maps math math/bits
	math/rand/v2 mime os os/signal path path/filepath reflect runtime runtime/debug slices sort strconv strings sync
	sync/atomic syscall time unicode unicode/utf8 unsafe
`)

// A listing is what go list says of one package of ours. Its paths are relative to the module.
type listing struct {
	path, name, doc      string
	imports, testImports []string
	empty                bool // it consists of tests only
}

func list(t *testing.T) []listing {
	t.Helper()
	const format = `{{.ImportPath}};{{.Name}};{{join .Imports " "}};{{join .TestImports " "}} {{join .XTestImports " "}};{{len .GoFiles}};{{.Doc}}`
	var all []listing
	for _, line := range goList(t, "-f", format, "./...") {
		f := strings.SplitN(line, ";", 6)
		all = append(all, listing{
			path: relative(f[0]), name: f[1], doc: f[5], empty: f[4] == "0",
			imports: strings.Fields(f[2]), testImports: strings.Fields(f[3]),
		})
	}
	return all
}

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.String())
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// relative returns the path of a package of ours within the module, "." for its root, and any other path as it is.
func relative(path string) string {
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}

// layer returns where path stands in layers, or -1.
func layer(path string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, path) })
}

func TestEveryPackageHasItsPlace(t *testing.T) {
	for _, p := range list(t) {
		if !p.empty && layer(p.path) < 0 && !slices.Contains(workshop, p.path) {
			t.Errorf("%s is in no layer: give it a place in the list above", p.path)
		}
	}
}

func TestImportsPointDownwards(t *testing.T) {
	for _, p := range list(t) {
		if slices.Contains(workshop, p.path) {
			continue
		}
		for _, path := range p.imports {
			path, ours := strings.CutPrefix(path, module+"/")
			if !ours {
				continue
			}
			if slices.Contains(workshop, path) {
				t.Errorf("%s imports %s, which only tests may", p.path, path)
			} else if layer(path) >= layer(p.path) {
				t.Errorf("%s imports %s, which is not below it", p.path, path)
			}
		}
	}
}

func TestOneLibraryOneDoor(t *testing.T) {
	for _, p := range list(t) {
		for _, path := range p.imports {
			library, known := door(path)
			if !known {
				t.Errorf("%s imports %s, which has no door: name the one package that may", p.path, path)
			} else if library != "" && !slices.Contains(doors[library], p.path) && !slices.Contains(workshop, p.path) {
				t.Errorf("%s imports %s; only %q may", p.path, path, doors[library])
			}
		}
		for _, path := range p.testImports {
			if _, known := door(path); !known {
				t.Errorf("a test of %s imports %s, which is not in the list of libraries", p.path, path)
			}
		}
	}
}

// door returns the library that path belongs to, "" for the standard library and ourselves, and whether we know it.
func door(path string) (library string, known bool) {
	host, _, _ := strings.Cut(path, "/")
	if !strings.Contains(host, ".") || path == module || strings.HasPrefix(path, module+"/") {
		return "", true
	}
	for library := range doors {
		if path == library || strings.HasPrefix(path, library+"/") {
			return library, true
		}
	}
	return "", false
}

func TestVocabularyDoesNoIO(t *testing.T) {
	for _, path := range goList(t, "-deps", "./internal/mail") {
		if slices.Contains([]string{"net", "os/exec", "log"}, path) {
			t.Errorf("internal/mail links %s", path)
		}
	}
}

func TestSendmailLinksLittle(t *testing.T) {
	for _, path := range goList(t, "-deps", "./cmd/sendmail") {
		if strings.Contains("/"+path+"/", "/internal/") && !strings.HasPrefix(path, module) || strings.HasPrefix(path, "vendor/") {
			continue
		}
		if path != module+"/cmd/sendmail" && !slices.Contains(sendmailLinks, path) {
			t.Errorf("cmd/sendmail now links %s", path)
		}
	}
}

// TestOneClientOfTheWeb keeps the web out of what has no use for it.
func TestOneClientOfTheWeb(t *testing.T) {
	for _, p := range list(t) {
		if slices.Contains(p.imports, "net/http") && p.path != "deliver/sts" {
			t.Errorf("%s imports net/http", p.path)
		}
	}
	for _, program := range []string{"./cmd/sendmail", "./cmd/mailq"} {
		if slices.Contains(goList(t, "-deps", program), "net/http") {
			t.Errorf("%s links net/http", program)
		}
	}
}

func TestEveryPackageHasItsSentence(t *testing.T) {
	for _, p := range list(t) {
		if p.empty {
			continue
		}
		want := "Package " + p.name + " "
		if p.name == "main" {
			want = "Command " + p.path[strings.LastIndex(p.path, "/")+1:] + " "
		}
		if !strings.HasPrefix(p.doc, want) || !strings.HasSuffix(p.doc, ".") {
			t.Errorf("the comment of %s is %q; want a sentence that begins with %q", p.path, p.doc, want)
		}
	}
}
