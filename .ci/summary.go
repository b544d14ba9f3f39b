//go:build ignore

// Command summary reads what go test -json prints and shows what a person wants to know: each package as it is done,
// what failed tests said, why tests were skipped, and last one line with the counts. It exits 1 if something failed or
// nothing ran. With POSTRIDER_PROOF=1 it also shows what passed tests logged: the slow tests count what they tried.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// An event is one line of test2json (go doc test2json).
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64 // in seconds
}

// A key names a test.
type key struct{ pkg, test string }

type summary struct {
	output                  map[key][]string
	passed, failed, skipped int
	broken                  bool // a package failed without a failed test: it did not build, or its process died
	skips                   []string
	all                     bool // show what passed tests logged
}

func main() {
	s := summary{output: map[key][]string{}, all: os.Getenv("POSTRIDER_PROOF") == "1"}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 64<<20)
	for in.Scan() {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			fmt.Println(in.Text()) // not an event: a message of go itself
			continue
		}
		s.add(e)
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
	for _, skip := range s.skips {
		fmt.Println("SKIPPED", skip)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	if s.failed > 0 || s.broken || s.passed == 0 {
		os.Exit(1)
	}
}

func (s *summary) add(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "output":
		s.output[k] = append(s.output[k], e.Output)
	case "build-output":
		fmt.Print(e.Output)
	case "build-fail":
		s.broken = true
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(e)
		} else {
			s.endTest(e, k)
		}
	}
}

func (s *summary) endTest(e event, k key) {
	said := strings.Join(s.output[k], "")
	delete(s.output, k)
	switch e.Action {
	case "pass":
		s.passed++
		if s.all {
			fmt.Print(logged(said))
		}
	case "fail":
		s.failed++
		fmt.Printf("%s\n%s", e.Package, said)
	case "skip":
		s.skipped++
		s.skips = append(s.skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, strings.Join(strings.Fields(logged(said)), " ")))
	}
}

func (s *summary) endPackage(e event) {
	k := key{e.Package, ""}
	if e.Action == "fail" {
		s.broken = true
		fmt.Print(strings.Join(s.output[k], ""))
		// A process that died leaves tests that never ended: one of them says why.
		for other, said := range s.output {
			if other.pkg == e.Package && other.test != "" {
				fmt.Print(strings.Join(said, ""))
			}
		}
	} else if e.Action == "pass" {
		fmt.Printf("ok    %s  %.1fs\n", e.Package, e.Elapsed)
	}
	delete(s.output, k)
}

// logged returns the lines that a test itself wrote.
func logged(said string) string {
	var b strings.Builder
	for line := range strings.Lines(said) {
		if word := strings.TrimSpace(line); !strings.HasPrefix(word, "=== ") && !strings.HasPrefix(word, "--- ") {
			b.WriteString(line)
		}
	}
	return b.String()
}
