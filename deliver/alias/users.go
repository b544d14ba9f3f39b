package alias

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"time"
)

// lookupTime is how long getent(1) may take: it may ask servers.
const lookupTime = 10 * time.Second

// IsUser reports whether name is a user of this machine: in passwd(5), or, where the name service has other sources, as
// getent(1) says. An error says that this cannot be known now.
func IsUser(ctx context.Context, name string) (bool, error) {
	return isUser(ctx, name, "/etc/passwd", "getent")
}

func isUser(ctx context.Context, name, passwd, getent string) (bool, error) {
	base, _, _ := strings.Cut(strings.ToLower(name), "+")
	if !plausible(base) {
		return false, nil
	}
	found, err := inPasswd(base, passwd)
	if found || err != nil {
		return found, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, getent, "passwd", base)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	err = cmd.Run()
	if cmd.ProcessState == nil {
		return false, nil // there is no getent: passwd is all there is
	}
	const notFound = 2 // getent(1)
	switch cmd.ProcessState.ExitCode() {
	case 0:
		return true, nil
	case notFound:
		return false, nil
	}
	return false, err
}

// plausible refuses what cannot be a login name, and what would be an option to getent(1).
func plausible(name string) bool {
	if name == "" || name[0] == '-' || len(name) > 256 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == ':' || c == '/' || c == 0x7f {
			return false
		}
	}
	return true
}

func inPasswd(name, file string) (bool, error) {
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() // only read: closing cannot lose anything
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if user, _, ok := strings.Cut(lines.Text(), ":"); ok && strings.ToLower(user) == name {
			return true, nil
		}
	}
	return false, lines.Err()
}
