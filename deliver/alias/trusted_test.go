package alias

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLists says which lists are believed, by what is done to a place that is in order: a directory, and a list in it.
func TestLists(t *testing.T) {
	const stranger = 64002
	for _, tt := range []struct {
		name string
		do   func(top, dir, list string) error
		want string // part of the error
	}{
		{"in order", func(top, dir, list string) error { return nil }, ""},
		{"missing", func(top, dir, list string) error { return os.Remove(list) }, "open LIST: no such file or directory"},
		{"in a directory that is missing", func(top, dir, list string) error { return os.RemoveAll(dir) }, "no such file or directory"},
		{"a directory", func(top, dir, list string) error { os.Remove(list); return os.Mkdir(list, 0o755) }, "not a regular file"},
		{"below a file", func(top, dir, list string) error { os.RemoveAll(dir); return os.WriteFile(dir, nil, 0o644) }, "not a directory"},
		{"that a group can write to", func(top, dir, list string) error { return os.Chmod(list, 0o664) }, "can be written to by others"},
		{"that everybody can write to", func(top, dir, list string) error { return os.Chmod(list, 0o646) }, "can be written to by others"},
		{"a stranger's", func(top, dir, list string) error { return os.Chown(list, stranger, 0) }, "belongs to user 64002"},
		{"in a stranger's directory", func(top, dir, list string) error { return os.Chown(dir, stranger, 0) }, "belongs to user 64002"},
		{"below a stranger's directory", func(top, dir, list string) error { return os.Chown(top, stranger, 0) }, "belongs to user 64002"},
		{"in a directory that a group can write to", func(top, dir, list string) error { return os.Chmod(dir, 0o775) }, "others than its owner can write to it"},
		{"in a directory that everybody can write to", func(top, dir, list string) error { return os.Chmod(dir, 0o757) }, "others than its owner can write to it"},
		{"below such a directory", func(top, dir, list string) error { return os.Chmod(top, 0o777) }, "others than its owner can write to it"},
		{"below one where what is ours stays", func(top, dir, list string) error { return os.Chmod(top, 0o777|os.ModeSticky) }, ""},
		{"with another name", func(top, dir, list string) error { return os.Link(list, dir+"/other") }, "it has 2 names"},
		{"a symbolic link", func(top, dir, list string) error { os.Rename(list, dir+"/x"); return os.Symlink("x", list) }, "it is a symbolic link"},
		{"in a directory by another name", func(top, dir, list string) error { os.Rename(dir, top+"/x"); return os.Symlink("x", dir) }, ""},
		{"in a directory by a name elsewhere", func(top, dir, list string) error { os.Rename(dir, top+"/x"); return os.Symlink(top+"/./x/../x", dir) }, ""},
		{"by a stranger's symbolic link", func(top, dir, list string) error {
			os.Rename(dir, top+"/x")
			os.Symlink("x", dir)
			return os.Lchown(dir, stranger, 0)
		}, "belongs to user 64002"},
		{"by a link to a directory of others", func(top, dir, list string) error {
			os.Rename(dir, top+"/x")
			os.Chmod(top+"/x", 0o777)
			return os.Symlink("x", dir)
		}, "others than its owner can write to it"},
		{"by a link to itself", func(top, dir, list string) error { os.RemoveAll(dir); return os.Symlink("dir", dir) }, "too many levels of symbolic links"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Contains(tt.want, "user 64002") && os.Geteuid() != 0 {
				t.Skip("SKIPPED: only root can give files away")
			}
			top := filepath.Join(t.TempDir(), "top")
			dir := filepath.Join(top, "dir")
			list := filepath.Join(dir, "list")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(list, []byte("ann\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := tt.do(top, dir, list); err != nil {
				t.Fatal(err)
			}
			b, err := readList(list)
			if tt.want == "" {
				if err != nil || string(b) != "ann\n" {
					t.Errorf("%q, %v", b, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), strings.Replace(tt.want, "LIST", list, 1)) {
				t.Errorf("%q, %v; want %s", b, err, tt.want)
			}
		})
	}
}
