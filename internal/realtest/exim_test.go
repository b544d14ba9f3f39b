package realtest

import (
	"regexp"
	"strings"
)

// eximConf is a server that delivers every address to one Maildir. It keeps what it receives until it is told to deliver.
const eximConf = `
primary_hostname = localhost
spool_directory = /var/spool/exim4
log_file_path = /var/log/exim4/%slog
log_selector = +received_recipients +smtp_confirmation
keep_environment =
host_lookup =
rfc1413_query_timeout = 0s
local_interfaces = 127.0.0.1
daemon_smtp_ports = 10020 : 10021 : 10022 : 10023 : 10024
tls_on_connect_ports = 10024
tls_certificate = /etc/postrider/server.pem
tls_privatekey = /etc/postrider/server.key
tls_advertise_hosts = ${if inlist{$received_port}{10021:10022}{*}}
pipelining_advertise_hosts = ${if inlist{$received_port}{10020:10021:10022}{*}}
chunking_advertise_hosts = ${if inlist{$received_port}{10020:10021:10024}{*}}
smtputf8_advertise_hosts = ${if inlist{$received_port}{10020:10021:10022}{*}}
message_size_limit = 100M
queue_only
smtp_accept_max = 100
acl_smtp_rcpt = accept

begin routers
everybody:
  driver = accept
  transport = box

begin transports
box:
  driver = appendfile
  directory = /var/mail/all
  maildir_format
  user = vmail
  group = vmail
  return_path_add
  envelope_to_add
`

// startExim makes the world's Exim and starts it.
func (w *world) startExim() {
	w.t.Helper()
	w.makeCertificates()
	w.write("etc/exim4/exim4.conf", []byte(eximConf), 0o644, "root")
	w.own("etc/postrider/server.key", 0o600, "Debian-exim")
	w.mkdir("var/mail", 0o755, "vmail")
	for _, dir := range []string{"var/log/exim4", "run/exim4", "var/spool/exim4"} {
		w.mkdir(dir, 0o750, "Debian-exim")
	}
	w.t.Cleanup(func() {
		for _, log := range []string{"var/log/exim4/paniclog", "var/log/exim4/mainlog"} {
			if b, err := w.root.ReadFile(log); w.t.Failed() && err == nil {
				w.t.Logf("Exim's %s:\n%.20000s", log, b)
			}
		}
	})
	w.must("root", "exim4", "-bd")
}

// eximHeader is what Exim puts before the content that it received.
var eximHeader = regexp.MustCompile(
	`^Return-path: <(?P<sender>.*)>\nEnvelope-to: (?P<recipient>.*)\nReceived: (?P<received>.*\n(?:[ \t].*\n)*)`)

// eximArrivals has Exim deliver all that it has received, and takes it.
func (w *world) eximArrivals() []arrival {
	w.t.Helper()
	w.must("root", "exim4", "-q")
	if n := strings.TrimSpace(w.must("root", "exim4", "-bpc")); n != "0" {
		w.t.Errorf("Exim still has %s messages", n)
	}
	return w.take("var/mail/all/new/*", eximHeader)
}
