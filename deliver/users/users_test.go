package users

import (
	"context"
	"errors"
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
	getent := write(t, "getent", "#!/bin/sh\ncase $2 in 2000) echo ann:x:2000:1::/:; exit 0;; ldap) echo ldap:x:70000:70000::/home/ldap:/bin/sh; exit 0;; broken) exit 1;; esac\nexit 2\n", 0o755)
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
		{"../x", User{}, false}, {"..", User{}, false}, {".", User{}, false}, {"1000", User{Name: "1000", UID: 5, GID: 5, Home: "/"}, false}, {"2000", User{}, false}, {"odd", User{}, false},
		{"broken", User{}, true},
	}
	nsswitch := write(t, "nsswitch.conf", "passwd: files systemd\n", 0o644)
	s := sources{passwd, nsswitch, getent}
	for _, tt := range tests {
		got, ok, err := s.find(t.Context(), tt.name)
		if got != tt.want || ok != (tt.want.Name != "") || (err != nil) != tt.fail {
			t.Errorf("find(%q) = %+v, %v, %v; want %+v", tt.name, got, ok, err, tt.want)
		}
	}
	s.getent = filepath.Join(t.TempDir(), "none")
	if got, ok, err := s.find(t.Context(), "bob"); ok || err != nil {
		t.Errorf("without getent: %v, %v, %v", got, ok, err)
	}
}

// A getent that could not be started has not said that there is no such user.
func TestFindIsNotSure(t *testing.T) {
	none := write(t, "getent", "#!/bin/sh\nexit 2\n", 0o755)
	s := sources{passwd: write(t, "passwd", "ann:x:1000:100::/:\n", 0o644), nsswitch: "/nonexistent/nsswitch.conf", getent: none}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok, err := s.find(over, "bob"); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("with no time left: %v, %v", ok, err)
	}
	if _, ok, err := s.find(over, "ann"); !ok || err != nil {
		t.Errorf("in passwd, with no time left: %v, %v", ok, err)
	}
	s.getent = write(t, "getent", "no program", 0o755)
	if _, ok, err := s.find(t.Context(), "bob"); ok || err == nil {
		t.Errorf("a getent that cannot be started: %v, %v", ok, err)
	}
	for line, sure := range map[string]bool{
		"": true, "group: files ldap": true, "passwd:\t files  systemd # sss": true, "passwd: compat": true, "passwd: files [NOTFOUND=return]": true,
		"passwd: files sss": false, " passwd:sss files": false, "passwd: files [!UNAVAIL=return] ldap": false, "passwd: winbind": false,
		"passwd: files\npasswd: nis": false,
	} {
		s := sources{passwd: s.passwd, nsswitch: write(t, "nsswitch.conf", line+"\n", 0o644), getent: none}
		if _, ok, err := s.find(t.Context(), "bob"); ok || errors.Is(err, ErrUnsure) == sure || sure != (err == nil) {
			t.Errorf("%q: %v, %v", line, ok, err)
		}
		if _, ok, err := s.find(t.Context(), "ann"); !ok || err != nil {
			t.Errorf("%q, in passwd: %v, %v", line, ok, err)
		}
		s.getent = "/nonexistent/getent"
		if _, ok, err := s.find(t.Context(), "bob"); ok || errors.Is(err, ErrUnsure) == sure {
			t.Errorf("%q, without getent: %v, %v", line, ok, err)
		}
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
