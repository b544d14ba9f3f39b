// Package users looks up the users of this machine: in passwd(5), or, where the name service has other sources, as
// getent(1) says.
package users

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
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

// ErrUnsure is for a name that no source which answers knows, where others may not have answered.
var ErrUnsure = errors.New("the name service does not tell a user whom nobody has from a source that is down")

// Find returns the user whom a local part is for: its case does not count, nor does what follows a "+". ok is false if
// there is no such user; an error says that this cannot be known now. The sources that passwd(5) is not all of are asked
// by getent(1), which says of a user whom a directory cannot be asked about that there is none. So where
// nsswitch.conf(5) names a source that is not a file of this machine, nobody is said not to exist: that is ErrUnsure.
func Find(ctx context.Context, local string) (u User, ok bool, err error) {
	return sources{passwd: "/etc/passwd", nsswitch: "/etc/nsswitch.conf", getent: "getent"}.find(ctx, local)
}

// sources are where users are looked up: two files and a program.
type sources struct{ passwd, nsswitch, getent string }

func (s sources) find(ctx context.Context, local string) (User, bool, error) {
	name, _, _ := strings.Cut(strings.ToLower(local), "+")
	if !plausible(name) {
		return User{}, false, nil
	}
	u, found, err := inPasswd(name, s.passwd)
	if found || err != nil || isNumber(name) {
		return u, found, err
	}
	u, found, err = s.ask(ctx, name)
	if found || err != nil {
		return u, found, err
	}
	certain, err := onlyLocal(s.nsswitch)
	if err == nil && !certain {
		err = ErrUnsure
	}
	return User{}, false, err
}

// ask has getent look up a name, if there is one.
func (s sources) ask(ctx context.Context, name string) (User, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.getent, "passwd", name)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	out, err := cmd.Output()
	const notFound = 2 // getent(1)
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return search(bytes.NewReader(out), func(User) bool { return true })
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist), ended && exit.ExitCode() == notFound:
		return User{}, false, nil
	}
	// It may not have run at all: no process, no memory, no time.
	return User{}, false, fmt.Errorf("getent: %w", err)
}

// onlyLocal reports whether all sources of users in a file as in nsswitch.conf(5) are on this machine, and so have always
// answered. What the C library does without a line of this kind is look into passwd(5).
func onlyLocal(file string) (bool, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		database, list, _ := strings.Cut(line, ":")
		if strings.TrimSpace(database) != "passwd" {
			continue
		}
		for _, source := range strings.Fields(actions.ReplaceAllString(list, " ")) {
			if !slices.Contains([]string{"files", "compat", "systemd"}, source) {
				return false, nil
			}
		}
	}
	return true, nil
}

// actions are what nsswitch.conf(5) has between sources, such as [NOTFOUND=return].
var actions = regexp.MustCompile(`\[[^]]*\]`)

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

// plausible refuses what cannot be a login name, what would be an option to getent(1), and what means something in a path.
func plausible(name string) bool {
	if strings.Trim(name, ".") == "" || name[0] == '-' || len(name) > 256 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == ':' || c == '/' || c == 0x7f {
			return false
		}
	}
	return true
}

// isNumber reports whether getent(1) would take a name for a user ID.
func isNumber(name string) bool { return strings.Trim(name, "0123456789") == "" }

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
