package submit

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"github.com/postrider/postrider/internal/mail"
)

// AuthorOf returns who a user of this machine is in a From field: login and full name as passwd(5) has them. A user it
// does not have, as there are in containers, is named by the number.
func AuthorOf(uid int) Author { return authorIn("/etc/passwd", uid) }

func authorIn(passwd string, uid int) Author {
	number := strconv.Itoa(uid)
	unknown := Author{Login: number}
	f, err := os.Open(passwd)
	if err != nil {
		return unknown
	}
	defer f.Close() // only read: closing cannot lose anything
	for s := bufio.NewScanner(f); s.Scan(); {
		// name:password:uid:gid:gecos:directory:shell
		fields := strings.SplitN(s.Text(), ":", 6)
		if len(fields) < 6 || fields[2] != number {
			continue
		}
		if p, err := mail.ParsePath(fields[0]); err != nil || p.IsNull() {
			return unknown
		}
		return Author{Login: fields[0], Name: fullName(fields[4], fields[0])}
	}
	return unknown
}

// fullName returns the name in a GECOS field: what stands before the first comma, where "&" is the login with a capital.
func fullName(gecos, login string) string {
	name, _, _ := strings.Cut(gecos, ",")
	capital := strings.ToUpper(login[:1]) + login[1:]
	return strings.TrimSpace(strings.ReplaceAll(name, "&", capital))
}
