// Package config turns the configuration file, or its absence, into one struct with every default filled in. Only the
// commands import it; the packages below take plain values. It is linked into sendmail, so it imports no network.
package config

import "time"

// A Config is what postrider.toml(5) describes, with defaults filled in and every value checked.
type Config struct {
	File           string   // the file that was read; "" if there was none
	Spool          string   // directory of the queue
	Hostname       string   // our name in EHLO, Received and Message-ID
	Domain         string   // appended to bare addresses
	LocalDomains   []string // whose mail is ours to deliver, in lower case
	MaxMessageSize int64    // in octets; 0 means no limit
	Delivery       string   // what sendmail does after it has queued: DeliverBackground or DeliverQueue
	Log            string   // LogAuto, LogStderr or LogSyslog

	Rewrite    map[string]string // sender address to sender address, in envelope and header; keys in lower case
	Retry      Retry
	Transports map[string]Transport // by name
	Routes     []Route              // the first that matches counts
}

// Values of Config.Delivery.
const (
	DeliverBackground = "background"
	DeliverQueue      = "queue"
)

// Values of Config.Log.
const (
	LogAuto   = "auto"
	LogStderr = "stderr"
	LogSyslog = "syslog"
)

// Retry is the schedule of attempts for a recipient that is deferred.
type Retry struct {
	First    time.Duration // wait after the first attempt
	Factor   float64       // each further wait is so much longer
	MaxWait  time.Duration
	Attempts int           // give up after so many; 0 means that only the age counts
	Expire   time.Duration // give up when the message is so old
}

// A Transport is a way to hand mail over.
type Transport struct {
	Name         string
	Scheme       string // smtp, submission, submissions, maildir, discard, fail
	Host         string // for the SMTP schemes
	Port         int    // likewise, with the scheme's default filled in
	User         string // login; "" for none
	PasswordFile string // of the login
	Path         string // for maildir
	TLS          string // none, may or verify
	Concurrency  int    // sessions at once
	CAFile       string // trusted certificates besides the system's; "" for none
	Text         string // for fail: what the bounce says
}

// A Route sends the mail it matches to a transport. An empty list matches everything.
type Route struct {
	To          []string // recipient domains or addresses; ".example.com" is every domain below example.com
	From        []string // sender domains or addresses, likewise
	MinAttempts int      // only when so many attempts have been made
	Transport   string   // key of Transports
}
