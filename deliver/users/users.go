// Package users looks up the users of this machine: in passwd(5), or, where the name service has other sources, as
// getent(1) says.
package users

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A User is an account of this machine.
type User struct {
	Name        string // as passwd(5) has it
	UID, GID    int
	Home, Shell string
}

// lookupTime is how long getent(1) may take: it may ask servers.
const lookupTime = 10 * time.Second

// Find returns the user whom a local part is for: its case does not count, nor does what follows a "+". ok is false if
// there is no such user; an error says that this cannot be known now.
func Find(ctx context.Context, local string) (u User, ok bool, err error) {
	return find(ctx, local, "/etc/passwd", "getent")
}

func find(ctx context.Context, local, passwd, getent string) (User, bool, error) {
	name, _, _ := strings.Cut(strings.ToLower(local), "+")
	if !plausible(name) {
		return User{}, false, nil
	}
	u, found, err := inPasswd(name, passwd)
	if found || err != nil {
		return u, found, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, getent, "passwd", name)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		return User{}, false, nil // there is no getent: passwd is all there is
	}
	const notFound = 2 // getent(1)
	switch cmd.ProcessState.ExitCode() {
	case 0:
		return search(strings.NewReader(string(out)), func(User) bool { return true })
	case notFound:
		return User{}, false, nil
	}
	return User{}, false, err
}

// Self returns the user whom we run as; one who is in no list has no name.
func Self() (User, error) {
	self := User{UID: os.Geteuid(), GID: os.Getegid(), Home: "/", Shell: "/bin/sh"}
	f, err := os.Open("/etc/passwd")
	if os.IsNotExist(err) {
		return self, nil
	}
	if err != nil {
		return self, err
	}
	defer f.Close() // only read: closing cannot lose anything
	if u, ok, err := search(f, func(u User) bool { return u.UID == self.UID }); ok || err != nil {
		return u, err
	}
	return self, nil
}

// plausible refuses what cannot be a login name, and what would be an option to getent(1). A number would be a user ID to
// it, and a name of dots means something in a path.
func plausible(name string) bool {
	if strings.Trim(name, "0123456789.") == "" || name[0] == '-' || len(name) > 256 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == ':' || c == '/' || c == 0x7f {
			return false
		}
	}
	return true
}

func inPasswd(name, file string) (User, bool, error) {
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return User{}, false, nil
	}
	if err != nil {
		return User{}, false, err
	}
	defer f.Close() // only read: closing cannot lose anything
	return search(f, func(u User) bool { return strings.ToLower(u.Name) == name })
}

// search returns the first user in lines as in passwd(5) that is the right one.
func search(r io.Reader, right func(User) bool) (User, bool, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Split(lines.Text(), ":")
		if len(f) != 7 {
			continue
		}
		uid, uidErr := strconv.ParseUint(f[2], 10, 32)
		gid, gidErr := strconv.ParseUint(f[3], 10, 32)
		if uidErr != nil || gidErr != nil {
			continue // nobody's line
		}
		if u := (User{Name: f[0], UID: int(uid), GID: int(gid), Home: f[5], Shell: f[6]}); right(u) {
			return u, true, nil
		}
	}
	return User{}, false, lines.Err()
}

// Groups returns the IDs of the groups that a user is in, his own first.
func Groups(u User) ([]int, error) { return groups(u, "/etc/group") }

func groups(u User, file string) ([]int, error) {
	list := []int{u.GID}
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return list, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read: closing cannot lose anything
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		f := strings.Split(lines.Text(), ":")
		if len(f) != 4 || !slices.Contains(strings.Split(f[3], ","), u.Name) {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil && !slices.Contains(list, int(gid)) {
			list = append(list, int(gid))
		}
	}
	return list, lines.Err()
}
