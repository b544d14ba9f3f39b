package realtest

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dovecotConf is a server of LMTP, at a socket and at a port, that has a Maildir for whoever is named.
const dovecotConf = `
protocols = lmtp
log_path = /var/log/dovecot.log
ssl = no
hostname = web1.example
postmaster_address = postmaster@web1.example
mail_location = maildir:/var/mail/%Lu
mail_uid = vmail
mail_gid = vmail
first_valid_uid = 105
recipient_delimiter =
service lmtp {
  unix_listener lmtp {
    mode = 0666
  }
  inet_listener lmtp {
    address = 127.0.0.1
    port = 2424
  }
}
passdb {
  driver = static
  args = nopassword=y
}
userdb {
  driver = static
  args = uid=vmail gid=vmail home=/var/mail/%Lu allow_all_users=yes
}
`

// lmtpConfig sends mail for one domain to the socket, and for the other to the port.
const lmtpConfig = `
domain   = "web1.example"
hostname = "web1.example"
delivery = "queue"
log      = "stderr"
[transport.socket]
url = "lmtp+unix:/run/dovecot/lmtp"
[transport.port]
url = "lmtp://127.0.0.1:2424"
[[route]]
to = ["socket.example"]
transport = "socket"
[[route]]
to = ["port.example"]
transport = "port"
`

// startDovecot makes the world's Dovecot and starts it.
func (w *world) startDovecot() {
	w.t.Helper()
	w.write("etc/dovecot/dovecot.conf", []byte(dovecotConf), 0o644, "root")
	w.mkdir("var/mail", 0o755, "vmail")
	w.mkdir("run", 0o755, "root")
	w.must("root", "sh", "-c", "exec dovecot >/dev/null 2>&1") // it would keep our outputs open
	w.eventually("Dovecot listens", func() bool {
		_, err := w.root.Stat("run/dovecot/lmtp")
		return err == nil
	})
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("Dovecot's log:\n%.20000s", w.read("var/log/dovecot.log"))
		}
	})
}

// A letter is a message for Dovecot, complete, so that nothing but our trace is added to it.
type letter struct {
	number     int
	recipients []string
	text       string
	repairs
}

// letters returns messages of all kinds.
func letters(random *rand.Rand) []letter {
	var all []letter
	add := func(recipients []string, body string, coded bool) {
		n := len(all)
		text := fmt.Sprintf("Date: Sun, 22 Nov 2026 12:00:00 +0000\nFrom: Ann <ann@web1.example>\nTo: all:;\nMessage-ID: <%d@web1.example>\nSubject: letter %d\n", n, n)
		l := letter{number: n, recipients: recipients, repairs: repairs{coded: coded}}
		if coded {
			l.add = []string{"MIME-Version: 1.0", "Content-Transfer-Encoding: quoted-printable"}
		}
		l.text = text + "\n" + body
		all = append(all, l)
	}
	words := []string{"figures", "\xe4\xf6\xfc", "\u00fcber", ".", "..", "From here", "=3D", "\t", " ", "\u65e5\u672c\u8a9e", strings.Repeat("x", 990)}
	for range 495 {
		var body strings.Builder
		for range random.IntN(40) {
			for range random.IntN(4) {
				if word := words[random.IntN(len(words))]; body.Len() == 0 || len(word) < 900 || strings.HasSuffix(body.String(), "\n") {
					body.WriteString(word)
					if len(word) > 900 {
						break
					}
				}
			}
			body.WriteByte('\n')
		}
		domain := []string{"socket.example", "port.example"}[random.IntN(2)]
		var recipients []string
		for _, n := range random.Perm(20)[:1+random.IntN(3)] {
			recipients = append(recipients, fmt.Sprintf("user%d@%s", n, domain))
		}
		add(recipients, body.String(), false)
	}
	add([]string{"user0@socket.example", "user0@port.example"}, strings.Repeat("long ", 5000)+"\n", true)
	add([]string{"user1@socket.example", "user1@port.example"}, strings.Repeat(strings.Repeat("0123456789", 7)+"\n", 20<<20/71), false)
	add([]string{"user2@socket.example", "user2@port.example"}, "", false)
	add([]string{"user3@socket.example", "user3@port.example"}, ".\n..\n.\n\n.\n", false)
	var many []string
	for n := range 1000 {
		many = append(many, fmt.Sprintf("many%d@socket.example", n))
	}
	add(many, "to all of you\n", false)
	return all
}

// dovecotHeader is what Dovecot puts before the content that it received.
var dovecotHeader = regexp.MustCompile(`^Return-Path: <ann@web1\.example>\n(?:Delivered-To: .*\n)?Received: from web1\.example\b.*\n(?:[ \t].*\n)*`)

// TestDovecot hands 500 messages to Dovecot by LMTP: every mailbox has what was sent to it, octet by octet but for
// documented changes, and once.
func TestDovecot(t *testing.T) {
	prove(t)
	bin := build(t)
	w := newWorld(t, mailboxes.root(t))
	w.furnish()
	w.startDovecot()
	w.install(bin)
	w.configure(lmtpConfig, "unused")
	// A mailbox that cannot be one.
	w.write("var/mail/odd@socket.example", nil, 0o600, "vmail")

	all := letters(rand.New(rand.NewPCG(2033, 0)))
	all[0].recipients = []string{"user0@socket.example", "odd@socket.example", "user1@socket.example"}
	for _, l := range all {
		if _, err := w.run("ann", []byte(l.text), append([]string{"/usr/local/sbin/sendmail", "-i", "-f", "ann@web1.example", "--"}, l.recipients...)...); err != nil {
			t.Fatal(err)
		}
	}
	_, log := w.pass()
	want := 0
	for _, l := range all {
		want += len(l.recipients)
	}
	got, equal := w.mailboxes(t), 0
	for _, l := range all {
		for _, r := range l.recipients {
			key := fmt.Sprint(l.number, " ", r)
			copies := got[key]
			delete(got, key)
			if r == "odd@socket.example" {
				if len(copies) > 0 {
					t.Errorf("%s arrived", key)
				}
				continue
			}
			if len(copies) != 1 {
				t.Errorf("letter %s arrived %d times", key, len(copies))
			} else if problem := l.check(composed(call{argv: []string{"sendmail", "-i"}, stdin: []byte(l.text)}), divide(copies[0]), "[0-9A-Z]{11}"); problem != "" {
				t.Errorf("letter %s: %.2000s", key, problem)
			} else {
				equal++
			}
		}
	}
	for key := range got {
		t.Errorf("arrived, but nobody sent it: %s", key)
	}
	if queue := w.mailq(); !strings.Contains(queue, "Total requests: 1\n") || !strings.Contains(queue, "odd@socket.example") || strings.Contains(queue, "user0") {
		t.Errorf("after the pass mailq says:\n%.2000s", queue)
	}
	t.Logf("%d of %d copies of %d messages are equal", equal, want-1, len(all))
	if t.Failed() {
		t.Logf("the log of the pass:\n%.5000s", log)
	}
}

// mailboxes returns what is in all Maildirs, without what Dovecot added, by the number of the letter and the recipient.
func (w *world) mailboxes(t *testing.T) map[string][][]byte {
	t.Helper()
	files, err := fs.Glob(w.root.FS(), "var/mail/*/new/*")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][][]byte{}
	for _, file := range files {
		content := w.read(file)
		m := dovecotHeader.FindSubmatch(content)
		box := path.Base(path.Dir(path.Dir(file)))
		if m == nil {
			t.Fatalf("Dovecot's own header looks otherwise:\n%.500s", content)
		}
		number := regexp.MustCompile(`\nSubject: letter (\d+)\n`).FindSubmatch(content)
		if number == nil {
			t.Fatalf("no letter of ours:\n%.500s", content)
		}
		key := fmt.Sprintf("%s %s", number[1], box)
		got[key] = append(got[key], slices.Clone(bytes.TrimPrefix(content, m[0])))
	}
	return got
}
