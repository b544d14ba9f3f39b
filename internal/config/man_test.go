package config

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const manPage = "../../man/postrider.toml.5"

// documented returns what stands in the lists of the man page: for each heading of a table its keys, and under "url" the
// schemes.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	page, err := os.ReadFile(manPage)
	if err != nil {
		t.Fatal(err)
	}
	heading := regexp.MustCompile(`^\.Ss (.*?)(\\&)?$`)
	key := regexp.MustCompile(`^\.It Ic (\w+)$`)
	scheme := regexp.MustCompile(`^\.It Cm ([\w+]+):`)
	found := map[string][]string{}
	section := ""
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSuffix(line, "\n")
		if m := heading.FindStringSubmatch(line); m != nil {
			section = m[1]
			found[section] = nil
		}
		if m := key.FindStringSubmatch(line); m != nil {
			found[section] = append(found[section], m[1])
		}
		if m := scheme.FindStringSubmatch(line); m != nil {
			found["url"] = append(found["url"], m[1])
		}
	}
	for _, names := range found {
		slices.Sort(names)
	}
	return found
}

func keyNames[T any](keys []key[T]) []string {
	var names []string
	for _, k := range keys {
		names = append(names, k.name)
	}
	slices.Sort(names)
	return names
}

func TestManPageHasEveryKey(t *testing.T) {
	// A key of the top level that is a table has a heading of its own instead.
	headings := map[string]string{"rewrite": "[rewrite]", "listen": "[listen]", "retry": "[retry]", "transport": "[transport.NAME]", "route": "[[route]]"}
	var top, schemeList []string
	for _, name := range keyNames(settingsKeys()) {
		if headings[name] == "" {
			top = append(top, name)
		}
	}
	for _, s := range schemes {
		schemeList = append(schemeList, s.name)
	}
	slices.Sort(schemeList)
	want := map[string][]string{
		"Top level":        top,
		"[rewrite]":        nil, // its keys are addresses
		"[listen]":         keyNames(listenKeys),
		"[retry]":          keyNames(retryKeys),
		"[transport.NAME]": keyNames(transportKeys),
		"[[route]]":        keyNames(routeKeys),
		"url":              schemeList,
	}
	got := documented(t)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-read by config +in the page):\n%s", manPage, diff)
	}
	for name, heading := range headings {
		if !slices.Contains(keyNames(settingsKeys()), name) || !slices.Contains(slices.Collect(maps.Keys(got)), heading) {
			t.Errorf("%s and %s do not belong together", name, heading)
		}
	}
}

// TestManPageExamples loads every literal block of the page that is not a command.
func TestManPageExamples(t *testing.T) {
	page, err := os.ReadFile(manPage)
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile(`(?s)\n\.Bd -literal[^\n]*\n(.*?)\n\.Ed\n`).FindAllStringSubmatch(string(page), -1)
	loaded := 0
	for _, b := range blocks {
		if strings.HasPrefix(b[1], "# ") {
			continue
		}
		loaded++
		if _, err := parse("example", []byte(b[1]), testMachine(t)); err != nil {
			t.Errorf("%v in:\n%s", err, b[1])
		}
	}
	if loaded < 5 {
		t.Errorf("only %d examples found in %s", loaded, manPage)
	}
}

// TestExampleFile loads the commented file as it is, and with everything switched on, for each relay that it offers in
// turn: what is there to be copied must be right.
func TestExampleFile(t *testing.T) {
	const file = "../../examples/postrider.toml"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	m := testMachine(t)
	if c, err := parse(file, data, m); err != nil || len(c.Routes) > 0 {
		t.Errorf("as it is: %+v, %v, want no route", c, err)
	}
	relays := regexp.MustCompile(`(?m)^#(relay = .*\n(?:#password_file.*\n)?)`)
	choices := relays.FindAllStringSubmatch(text, -1)
	if len(choices) != 4 {
		t.Fatalf("%d relays to choose from in %s, want 4", len(choices), file)
	}
	rest := relays.ReplaceAllString(text, "")
	for _, choice := range choices {
		on := regexp.MustCompile(`(?m)^#(\S)`).ReplaceAllString(choice[1]+rest, "$1")
		if _, err := parse(file, []byte(on), m); err != nil {
			t.Errorf("everything switched on: %v in:\n%s", err, on)
		}
	}
	for _, keys := range [][]string{keyNames(settingsKeys()), keyNames(listenKeys), keyNames(retryKeys), keyNames(transportKeys), keyNames(routeKeys)} {
		for _, name := range keys {
			if !regexp.MustCompile(`(?m)^#(` + name + ` = |\[+` + name + `[].])`).MatchString(text) {
				t.Errorf("%s does not show %s", file, name)
			}
		}
	}
}
