package realtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A user is an account of the world. The groups have the names of their users.
type user struct {
	uid, gid int
	name     string // full name
	home     string
}

var users = map[string]user{
	"root":        {0, 0, "root", "/root"},
	"crontab":     {101, 101, "", "/nonexistent"},
	"postdrop":    {102, 102, "", "/nonexistent"},
	"postfix":     {103, 103, "", "/var/spool/postfix"},
	"postrider":   {104, 104, "", "/var/spool/postrider"},
	"vmail":       {105, 105, "", "/var/mail"},
	"dovecot":     {106, 106, "", "/nonexistent"},
	"dovenull":    {107, 107, "", "/nonexistent"},
	"Debian-exim": {108, 108, "", "/var/spool/exim4"},
	"opensmtpd":   {109, 109, "", "/var/lib/opensmtpd/empty"},
	"opensmtpq":   {110, 110, "", "/var/lib/opensmtpd/empty"},
	"www-data":    {33, 33, "www-data", "/var/www"},
	"nobody":      {65534, 65534, "nobody", "/nonexistent"},
	"ann":         {1000, 1000, "Ann Example", "/home/ann"},
	"jose":        {1001, 1001, "José Ejemplo", "/home/jose"},
}

// furnish does what the packages' own scripts would have done, and makes the accounts with the homes of those who log in.
func (w *world) furnish() {
	w.write("etc/nsswitch.conf", []byte("passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\n"), 0o644, "root")
	w.write("etc/hosts", []byte("127.0.0.1 localhost\n127.0.1.1 "+hostname+"\n"), 0o644, "root")
	w.write("etc/mailname", []byte(hostname+"\n"), 0o644, "root")
	w.must("root", "ln", "-sf", "gawk", "/usr/bin/awk")

	var passwd, group strings.Builder
	for _, name := range slices.Sorted(maps.Keys(users)) {
		u := users[name]
		fmt.Fprintf(&passwd, "%s:x:%d:%d:%s,,,:%s:/bin/sh\n", name, u.uid, u.gid, u.name, u.home)
		fmt.Fprintf(&group, "%s:x:%d:\n", name, u.gid)
	}
	w.write("etc/passwd", []byte(passwd.String()), 0o644, "root")
	w.write("etc/group", []byte(group.String()), 0o644, "root")
	w.write("etc/shadow", nil, 0o600, "root")
	for _, name := range []string{"root", "ann", "jose", "www-data"} {
		w.mkdir(strings.TrimPrefix(users[name].home, "/"), 0o755, name)
	}
}
