package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// newSharedWorld is a world whose spool belongs to the user, and where everybody may make files: whoever is kept from
// something there is kept from it by sendmail.
func newSharedWorld(t *testing.T, owner int) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can make a spool of somebody else's")
	}
	w := newWorld(t, "")
	for _, name := range []string{"spool", "spool/drop"} {
		dir := filepath.Join(w.dir, name)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777), os.Chown(dir, owner, owner)); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// A daemon that ends at once, because the spool is not its user's, would tell nobody.
func TestDaemonAtTheSpoolOfOthers(t *testing.T) {
	w := newSharedWorld(t, 0)
	for _, option := range []string{"-bd", "-q30m"} {
		cmd := w.sendmail(option)
		asUser(t, cmd, nobodyKnows, nobodyKnows)
		checkRefusal(t, cmd, 77, "sendmail: only root and the owner of "+w.dir+"/spool deliver mail\n")
	}
}

func TestWhoWakesAPass(t *testing.T) {
	for _, tt := range []struct {
		name  string
		owner int
		wakes bool
	}{
		{"the owner of the spool", nobodyKnows, true},
		{"another user", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newSharedWorld(t, tt.owner)
			// A pass in the background would tell of itself who knows when; one that is waited for has done so by then.
			for option, trace := range map[string]string{"-odb": "spool/wake", "-odi": "started"} {
				cmd := w.sendmail(option, "bob@example.net")
				asUser(t, cmd, nobodyKnows, nobodyKnows)
				if option == "-odi" {
					cmd.Env = append(cmd.Env, "STARTED="+filepath.Join(w.dir, trace))
				}
				if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
					t.Errorf("%s: %v, %q", option, err, out)
				}
				if _, err := os.Stat(filepath.Join(w.dir, trace)); (err == nil) != tt.wakes {
					t.Errorf("%s: %s: %v; want it made: %v", option, trace, err, tt.wakes)
				}
			}
			if n := len(w.messages("spool")); n != 2 {
				t.Errorf("%d messages are queued, want 2", n)
			}
		})
	}
}
