package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestReadPassword(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file("linked", "opensesame\n", 0o600), link); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, file, want, err string }{
		{"newline at its end", file("newline", "opensesame\n", 0o600), "opensesame", ""},
		{"newline of another system", file("crlf", "opensesame\r\n", 0o400), "opensesame", ""},
		{"no newline", file("plain", "opensesame", 0o600), "opensesame", ""},
		{"blanks are part of it", file("blanks", " open sesame \n", 0o600), " open sesame ", ""},
		{"readable by its group", file("group", "opensesame\n", 0o640), "opensesame", ""},
		{"a link, as for secrets of containers", link, "opensesame", ""},
		{"readable by all", file("open", "opensesame\n", 0o644), "", "has mode 0644, which lets others at it; use chmod 0600, or 0640 with a group of our own"},
		{"writable by its group", file("writable", "opensesame\n", 0o660), "", "has mode 0660, which lets others at it; use chmod 0600, or 0640 with a group of our own"},
		{"two lines", file("two", "open\nsesame\n", 0o600), "", "holds more than one line"},
		{"empty", file("empty", "\n", 0o600), "", "is empty"},
		{"too long", file("long", strings.Repeat("opensesame", 10000), 0o600), "", "is longer than 65536 octets"},
		{"missing", filepath.Join(dir, "missing"), "", "no such file or directory"},
		{"a FIFO", fifo, "", "is not a regular file"},
		{"a directory", dir, "", "is not a regular file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadPassword(tt.file)
			if tt.err == "" {
				if err != nil || got != tt.want {
					t.Errorf("ReadPassword = %q, %v, want %q", got, err, tt.want)
				}
				return
			}
			if want := "password file " + tt.file + ": " + tt.err; err == nil || err.Error() != want {
				t.Errorf("ReadPassword:\n got %v\nwant %s", err, want)
			}
			if err != nil && strings.Contains(err.Error(), "sesame") {
				t.Errorf("ReadPassword tells the password: %v", err)
			}
		})
	}
}

// TestOwner needs no second user: the file is ours, and we are somebody else.
func TestOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte("opensesame"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 4711, -1); err != nil && os.Geteuid() == 0 {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	uid := int(info.Sys().(*syscall.Stat_t).Uid)
	if err := checkSecret(info, uid); err != nil {
		t.Errorf("a file of our own: %v", err)
	}
	want := fmt.Sprintf("belongs to user %d; it must belong to root or to user %d", uid, uid+1)
	if err := checkSecret(info, uid+1); err == nil || err.Error() != want {
		t.Errorf("a file of somebody else:\n got %v\nwant %s", err, want)
	}
}

// TestNoPasswordInConfig prints a configuration with every verb that shows values.
func TestNoPasswordInConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.secret")
	if err := os.WriteFile(path, []byte("opensesame"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("relay = \"submission://ann@mail\"\npassword_file = %q\n", path)
	c, err := parse("test.toml", []byte(text), testMachine(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if got := fmt.Sprintf(verb, *c); strings.Contains(got, "opensesame") || !strings.Contains(got, "relay.secret") {
			t.Errorf("%s shows %s", verb, got)
		}
	}
}
