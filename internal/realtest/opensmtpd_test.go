package realtest

import "regexp"

// smtpdConf is a server that delivers every address to one Maildir.
const smtpdConf = `
smtp max-message-size 100M
pki localhost cert "/etc/postrider/server.pem"
pki localhost key "/etc/postrider/server.key"
listen on 127.0.0.1 port 10020
listen on 127.0.0.1 port 10024 smtps pki localhost
listen on 127.0.0.1 port 10021 tls pki localhost
table everybody { "@" = "vmail" }
action "box" maildir "/var/mail/all" virtual <everybody>
match from any for any action "box"
`

// startOpenSMTPD makes the world's OpenSMTPD and starts it.
func (w *world) startOpenSMTPD() {
	w.t.Helper()
	w.makeCertificates()
	w.write("etc/smtpd.conf", []byte(smtpdConf), 0o644, "root")
	w.mkdir("var/mail", 0o755, "vmail")
	w.write("etc/ssl/certs/ca-certificates.crt", w.read("etc/postrider/ca.pem"), 0o644, "root") // it wants to have one
	w.mkdir("var/lib/opensmtpd/empty", 0o755, "root")
	w.must("root", "chgrp", "opensmtpq", "/usr/sbin/smtpctl")
	w.must("root", "chmod", "2755", "/usr/sbin/smtpctl") // it refuses to run otherwise
	w.must("root", "sh", "-c", "exec smtpd -d >/var/log/smtpd.log 2>&1 &")
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("OpenSMTPD's log:\n%.20000s", w.read("var/log/smtpd.log"))
		}
	})
}

// opensmtpdHeader is what OpenSMTPD puts before the content that it received.
var opensmtpdHeader = regexp.MustCompile(
	`^(?:Return-Path: <?(?P<sender>.*?)>?\n)?Delivered-To: (?P<recipient>.*)\nReceived: (?P<received>.*\n(?:[ \t].*\n)*)`)

// opensmtpdArrivals waits until OpenSMTPD has nothing more to deliver, and takes everything from its Maildir.
func (w *world) opensmtpdArrivals() []arrival {
	w.t.Helper()
	w.eventually("OpenSMTPD has delivered everything", func() bool { return w.must("root", "smtpctl", "show", "queue") == "" })
	return w.take("var/mail/all/new/*", opensmtpdHeader)
}
