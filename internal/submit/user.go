package submit

import (
	"bufio"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// A User is what passwd(5) says of one.
type User struct {
	Login    string
	UID, GID int
	Name     string // the full name; "" if there is none
}

// passwd is read by hand: os/user would link the C library, or cost more than it is worth.
const passwd = "/etc/passwd"

// getent(1) knows the users of directories, and those that systemd makes up.
const getent = "/usr/bin/getent"

// AuthorOf returns who a user of this machine is in a From field. A user whom nobody knows, as there are in containers, is
// named by the number.
func AuthorOf(uid int) Author { return authorIn(passwd, getent, uid) }

func authorIn(file, getent string, uid int) Author {
	u, ok := findUser(file, func(u User) bool { return u.UID == uid })
	if !ok {
		u, ok = parseUser(ask(getent, "passwd", strconv.Itoa(uid)))
	}
	if !ok || u.UID != uid {
		return Author{Login: strconv.Itoa(uid)}
	}
	return Author{Login: u.Login, Name: u.Name}
}

// askTime is how long a program may take that we ask: a server may be gone.
const askTime = 5 * time.Second

// ask runs a program, with no more rights than the caller has and nothing of his environment, and returns its first line;
// "" if there is none in time. os/exec would make sendmail start later.
func ask(program string, args ...string) string {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return ""
	}
	defer null.Close() // as of the pipe: closing cannot lose anything
	r, w, err := os.Pipe()
	if err != nil {
		return ""
	}
	defer r.Close()
	if err := r.SetReadDeadline(time.Now().Add(askTime)); err != nil {
		return ""
	}
	attr := &os.ProcAttr{Env: []string{"PATH=/usr/bin:/bin"}, Files: []*os.File{null, w, null}}
	if os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid() {
		attr.Sys = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid()), NoSetGroups: true}}
	}
	p, err := os.StartProcess(program, append([]string{program}, args...), attr)
	_ = w.Close() // nothing was written to it
	if err != nil {
		return ""
	}
	line, _, err := bufio.NewReader(r).ReadLine()
	_ = p.Kill() // it has said what we want to know, or will not
	if _, errWait := p.Wait(); errors.Join(err, errWait) != nil {
		return ""
	}
	return string(line)
}

// UserNamed returns the user with a login.
func UserNamed(login string) (User, bool) {
	return findUser(passwd, func(u User) bool { return u.Login == login })
}

func findUser(file string, wanted func(User) bool) (User, bool) {
	f, err := os.Open(file)
	if err != nil {
		return User{}, false
	}
	defer f.Close() // only read: closing cannot lose anything
	for s := bufio.NewScanner(f); s.Scan(); {
		if u, ok := parseUser(s.Text()); ok && wanted(u) {
			return u, true
		}
	}
	return User{}, false
}

// parseUser reads login:password:uid:gid:gecos:directory:shell.
func parseUser(line string) (u User, ok bool) {
	fields := strings.SplitN(line, ":", 6)
	if len(fields) < 6 {
		return u, false
	}
	login, err := mail.ParsePath(fields[0])
	uid, err1 := strconv.Atoi(fields[2])
	gid, err2 := strconv.Atoi(fields[3])
	if err != nil || err1 != nil || err2 != nil || login.IsNull() {
		return u, false
	}
	return User{Login: fields[0], UID: uid, GID: gid, Name: fullName(fields[4], fields[0])}, true
}

// fullName returns the name in a GECOS field: what stands before the first comma, where "&" is the login with a capital.
func fullName(gecos, login string) string {
	name, _, _ := strings.Cut(gecos, ",")
	capital := strings.ToUpper(login[:1]) + login[1:]
	return strings.TrimSpace(strings.ReplaceAll(name, "&", capital))
}
