package main

import (
	"io"
	"os"
	"regexp"
	"slices"
	"testing"
)

// The manual has every option and command, and no others.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../man/queue-runner.8")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile(`(?m)^\.It Fl -?([\w-]+)`).FindAllStringSubmatch(string(page), -1) {
		listed = append(listed, m[1])
	}
	var known []string
	a := app(io.Discard, io.Discard)
	for _, f := range a.Flags {
		known = append(known, f.Names()[0])
	}
	slices.Sort(listed)
	slices.Sort(known)
	if !slices.Equal(listed, known) {
		t.Errorf("queue-runner.8 has %q, the program %q", listed, known)
	}
	for _, c := range a.Commands {
		if c.Hidden {
			continue // not for people
		}
		if !regexp.MustCompile(`(?m)^\.Nm\n\.Cm ` + c.Name + `$`).Match(page) {
			t.Errorf("queue-runner.8 does not show the command %s", c.Name)
		}
	}
}
