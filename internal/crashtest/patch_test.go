package crashtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A patch changes a source file of the module for one build, and leaves the file itself alone.
type patch struct {
	file     string // below the root of the module
	old, new string
	times    int // how often old stands in the file; 0 means once
}

// buildPatched builds packages of the module with patches. A patch whose text is not found fails the test: the code has
// changed, and the patch must be written anew.
func buildPatched(t *testing.T, patches []patch, packages ...string) programs {
	t.Helper()
	dir := t.TempDir()
	if err := buildPatchedInto(dir, patches, packages...); err != nil {
		t.Fatal(err)
	}
	return programsIn(dir)
}

func buildPatchedInto(dir string, patches []patch, packages ...string) error {
	overlay := filepath.Join(dir, "overlay.json")
	if err := writeOverlay(overlay, patches); err != nil {
		return err
	}
	return buildInto(dir, moduleRoot, append([]string{"-overlay", overlay}, packages...)...)
}

// writeOverlay writes what the option -overlay of go build wants, and the patched files beside it.
func writeOverlay(name string, patches []patch) error {
	replace := map[string]string{}
	for i, p := range patches {
		path, err := filepath.Abs(filepath.Join(moduleRoot, p.file))
		if err != nil {
			return err
		}
		from := path
		if earlier, ok := replace[path]; ok {
			from = earlier
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if n := strings.Count(string(text), p.old); n != max(p.times, 1) {
			return fmt.Errorf("patch of %s: its text stands there %d times, not %d; has the code changed?\n%s", p.file, n, max(p.times, 1), p.old)
		}
		patched := fmt.Sprintf("%s.%d.go", strings.TrimSuffix(name, ".json"), i)
		if err := os.WriteFile(patched, []byte(strings.ReplaceAll(string(text), p.old, p.new)), 0o600); err != nil {
			return err
		}
		replace[path] = patched
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o600)
}
