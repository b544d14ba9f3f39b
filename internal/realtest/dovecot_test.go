package realtest

import (
	"math/rand/v2"
	"regexp"
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
mail_location = maildir:/var/mail/%u
auth_username_format = %u
auth_username_chars =
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
  args = uid=vmail gid=vmail home=/var/mail/%u allow_all_users=yes
}
`

// dovecotDoors are the socket and the port. The recipients at both are users of Dovecot's.
var dovecotDoors = []door{
	{domain: "socket.example", url: "lmtp+unix:/run/dovecot/lmtp", offers: "PIPELINING CHUNKING 8BITMIME"},
	{domain: "port.example", url: "lmtp://127.0.0.1:2424", offers: "PIPELINING CHUNKING 8BITMIME"},
}

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

// dovecotHeader is what Dovecot puts before the content that it received.
var dovecotHeader = regexp.MustCompile(`^Return-Path: <(?P<sender>.*)>\n(?:Delivered-To: .*\n)?Received: (?P<received>from web1\.example\b.*\n(?:[ \t].*\n)*)`)

// TestDovecot hands 500 messages to Dovecot by LMTP: every mailbox has what was sent to it, octet by octet but for
// documented changes, and once. Dovecot takes no address beyond ASCII: what has one comes back.
func TestDovecot(t *testing.T) {
	prove(t)
	bin := build(t)
	w := newWorld(t, dovecotAlone.root(t))
	w.furnish()
	w.startDovecot()
	w.install(bin)
	w.prepareReports()
	w.configure(doorsConfig(dovecotDoors), "unused")
	// A mailbox that cannot be one.
	w.write("var/mail/odd@socket.example", nil, 0o600, "vmail")

	all := letters(rand.New(rand.NewPCG(2033, 0)), dovecotDoors)
	w.post(all)
	odd := letter{number: len(all), sender: "ann@web1.example", content: []byte(strings.Replace(string(all[499].content), "<499@", "<500@", 1))}
	w.post([]letter{odd.to("user0@socket.example", "odd@socket.example", "user1@socket.example")})
	_, log := w.pass()
	// Its other recipients have it, and the queue has nothing but the one.
	if queue := w.mailq(); !strings.Contains(queue, "Total requests: 1\n") || !strings.Contains(queue, "odd@socket.example") || strings.Contains(queue, "user") {
		t.Errorf("after the pass mailq says:\n%.2000s", queue)
	}
	w.compareLetters(append(all, odd.to("user0@socket.example", "user1@socket.example")), dovecotDoors, w.take("var/mail/*/new/*", dovecotHeader))
	if t.Failed() {
		t.Logf("the log of the pass:\n%.5000s", log)
	}
}
