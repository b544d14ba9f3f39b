package submit

import (
	"bufio"
	"os"
	"strconv"
	"strings"

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

// AuthorOf returns who a user of this machine is in a From field. A user whom passwd(5) does not have, as there are in
// containers, is named by the number.
func AuthorOf(uid int) Author { return authorIn(passwd, uid) }

func authorIn(file string, uid int) Author {
	u, ok := findUser(file, func(u User) bool { return u.UID == uid })
	if !ok {
		return Author{Login: strconv.Itoa(uid)}
	}
	return Author{Login: u.Login, Name: u.Name}
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
