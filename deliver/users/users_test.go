package users

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func write(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestFind(t *testing.T) {
	passwd := write(t, "passwd", "root:x:0:0::/:/bin/sh\n+nis\nAnn:x:1000:100:Ann:/home/ann:/bin/bash\nodd:x:-1:0::/:/bin/sh\n1000:x:5:5::/:\n", 0o644)
	getent := write(t, "getent", "#!/bin/sh\ncase $2 in ldap) echo ldap:x:70000:70000::/home/ldap:/bin/sh; exit 0;; broken) exit 1;; esac\nexit 2\n", 0o755)
	ann := User{Name: "Ann", UID: 1000, GID: 100, Home: "/home/ann", Shell: "/bin/bash"}
	tests := []struct {
		name string
		want User // nobody if it has no name
		fail bool
	}{
		{"ann", ann, false}, {"ANN", ann, false}, {"ann+lists", ann, false},
		{"root", User{Name: "root", Home: "/", Shell: "/bin/sh"}, false},
		{"ldap", User{Name: "ldap", UID: 70000, GID: 70000, Home: "/home/ldap", Shell: "/bin/sh"}, false},
		{"bob", User{}, false}, {"", User{}, false}, {"+ann", User{}, false}, {"-x", User{}, false}, {"a:b", User{}, false},
		{"../x", User{}, false}, {"..", User{}, false}, {".", User{}, false}, {"1000", User{}, false}, {"odd", User{}, false},
		{"broken", User{}, true},
	}
	for _, tt := range tests {
		got, ok, err := find(t.Context(), tt.name, passwd, getent)
		if got != tt.want || ok != (tt.want.Name != "") || (err != nil) != tt.fail {
			t.Errorf("find(%q) = %+v, %v, %v; want %+v", tt.name, got, ok, err, tt.want)
		}
	}
	if got, ok, err := find(t.Context(), "bob", passwd, filepath.Join(t.TempDir(), "none")); ok || err != nil {
		t.Errorf("without getent: %v, %v, %v", got, ok, err)
	}
}

func TestGroups(t *testing.T) {
	file := write(t, "group", "root:x:0:\nusers:x:100:ann\nmail:x:8:bob,ann\nanna:x:9:anna\nbad:x:y:ann\n", 0o644)
	got, err := groups(User{Name: "ann", GID: 100}, file)
	if want := []int{100, 8}; err != nil || !slices.Equal(got, want) {
		t.Errorf("groups = %v, %v; want %v", got, err, want)
	}
}

func TestSelf(t *testing.T) {
	if u, err := Self(); err != nil || u.UID != os.Geteuid() || u.Home == "" {
		t.Errorf("Self = %+v, %v", u, err)
	}
}
