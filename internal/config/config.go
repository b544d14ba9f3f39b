// Package config turns the configuration file, or its absence, into one struct with every default filled in. Only the
// commands and package listen import it; the packages below take plain values. It is linked into sendmail, whose start-up time counts: it
// imports no network, and of the TOML reader only the parser, which also keeps the position of everything.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Config is what postrider.toml(5) describes, with defaults filled in and every value checked. It holds no secret,
// only the names of files that do, so it may be printed.
type Config struct {
	File           string   // the file that was read; "" if there was none
	Spool          string   // directory of the queue
	Hostname       string   // our name in EHLO, Received and Message-ID, in lower case
	Domain         string   // appended to bare addresses, in lower case
	LocalDomains   []string // this host's own names, in lower case
	Resolvers      []string // DNS servers, as "192.0.2.53:53" or "[2001:db8::53]:53"; nil: those of resolv.conf(5)
	Aliases        string   // alias file; "" for none
	AliasUser      string   // login name of who gets the files and commands in it done; "" to leave them out
	MaxMessageSize int64    // in octets; 0 means no limit
	Delivery       string   // what sendmail does after it has queued: DeliverBackground or DeliverQueue
	Log            string   // LogAuto, LogStderr or LogSyslog

	// ForceFrom is the address of every sender, in envelope and header; "" for none. Rewrite has what else takes the place
	// of senders: keys, in lower case, are an address, a name of this host, "@domain", or "@.domain" for it and all below;
	// values are an address or "@domain".
	ForceFrom string
	Rewrite   map[string]string

	Listen     Listen
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

// Values of Transport.TLS.
const (
	TLSNone   = "none"
	TLSMay    = "may"    // if it is offered; certificates are not verified
	TLSVerify = "verify" // or nothing is sent
)

// Listen is what the table [listen] has, of which package listen makes addresses.
type Listen struct {
	SMTP  []Written
	Peers []Written
	Users []string // login names or user IDs; nil if there is no such list

	Certificate, Key string // files in PEM, for STARTTLS; "" for none
	Logins           string // file of those who may log in; "" for none
}

// A Written is a string of the file, and where it stands.
type Written struct {
	Text         string
	Line, Column int // as in Error
}

// Mistake returns an error about a string of the file.
func (c *Config) Mistake(w Written, format string, args ...any) *Error {
	return &Error{File: c.File, Line: w.Line, Column: w.Column, Text: fmt.Sprintf(format, args...)}
}

// Retry is the schedule of attempts for a recipient that is deferred.
type Retry struct {
	First    time.Duration // wait after the first attempt
	Factor   float64       // each further wait is so much longer
	MaxWait  time.Duration
	Attempts int           // give up after so many; 0 means that only the age counts
	Expire   time.Duration // give up when the message is so old
}

// A Rate limits the recipients that are handed over: no more than Count in any span of Per.
type Rate struct {
	Count int
	Per   time.Duration // a second, a minute, an hour or a day
}

// A Transport is a way to hand mail over.
type Transport struct {
	Name         string
	Scheme       string        // smtp, submission, submissions, mx, lmtp, lmtp+unix, maildir, mbox, pipe, discard, fail
	Host         string        // for the SMTP schemes but mx: name or address, IPv6 without brackets
	Port         int           // for the SMTP schemes, with the scheme's default filled in
	Others       []Server      // likewise: they stand in for Host and Port, in this order
	SRV          bool          // Host is a domain, whose SRV records name the servers (RFC 6186)
	User         string        // login; "" for none
	PasswordFile string        // of the login
	Path         string        // for lmtp+unix, maildir, mbox and pipe
	TLS          string        // for the SMTP schemes: TLSNone, TLSMay or TLSVerify
	Concurrency  int           // sessions at once
	Rate         Rate          // zero for none
	Retry        Retry         // zero for Config.Retry
	CAFile       string        // trusted certificates besides the system's; "" for none
	Socks        Socks         // for the SMTP schemes: the way to Host
	Text         string        // for fail: what the bounce says
	Args         []string      // for pipe: what follows the program's name
	Timeout      time.Duration // for pipe
	RunAs        string        // for maildir, mbox and pipe: a login name, or Recipient; "" for who makes the pass
}

// A Server is where mail is handed to.
type Server struct {
	Host string
	Port int
}

// A Socks is a SOCKS5 proxy that connects for us.
type Socks struct {
	Host         string // "" for none
	Port         int
	User         string // login; "" for none
	PasswordFile string // of the login
}

// Recipient is the value of Transport.RunAs that stands for the recipient.
const Recipient = "{user}"

// ForUsers reports whether only users of this host can get mail by a transport, because it needs to know who they are.
func (t Transport) ForUsers() bool {
	return t.RunAs == Recipient || t.scheme().form == toMailbox && strings.ContainsRune(t.Path, '{') || slices.Contains(t.Args, Recipient)
}

// A Route sends the mail it matches to a transport. An empty list matches everything.
type Route struct {
	To          []string // recipient domains or addresses, in lower case; ".example.com" is example.com and all below
	From        []string // sender domains or addresses, likewise
	MinAttempts int      // only when so many attempts have been made
	Transport   string   // key of Transports
}

// An Error is a mistake in the configuration, for which commands exit 78 (EX_CONFIG).
type Error struct {
	File   string
	Line   int // from 1; 0 if the error is not about a place in the file
	Column int // likewise, in characters
	Text   string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
}

// Default returns the file that is read when no other is named.
func Default() string { return "/etc/postrider/postrider.toml" }

// Load reads a configuration file. If file is "" it reads the one that Default names, and does without if there is none.
// Mistakes in the file, a file that is named and missing, and one that may not be read, are an *Error.
func Load(file string) (*Config, error) { return load(file, thisMachine()) }

func load(file string, m machine) (*Config, error) {
	name := file
	if name == "" {
		name = m.file(Default())
	}
	data, err := readFile(name)
	if err == nil {
		return parse(name, data, m)
	}
	if file == "" && errors.Is(err, fs.ErrNotExist) {
		return withoutFile(m)
	}
	for _, mistake := range []error{fs.ErrNotExist, fs.ErrPermission, syscall.EISDIR, syscall.ENOTDIR, errTooLong} {
		if errors.Is(err, mistake) {
			return nil, &Error{File: name, Text: cause(err).Error()}
		}
	}
	return nil, fmt.Errorf("read configuration: %w", err)
}

// cause returns what went wrong without the path, which the Error that it becomes part of names.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// maxFile is far above any real configuration; it keeps a wrong name, of a device or a log, from filling the memory.
const maxFile = 1 << 20

var errTooLong = errors.New("longer than 1 MiB, as no configuration is")

// open opens a file for reading. os.Open would try to have it polled, which costs more than reading it.
func open(name string) (*os.File, error) {
	for {
		fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if err != syscall.EINTR {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

func readFile(name string) ([]byte, error) {
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read: closing cannot lose anything
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = errTooLong
	}
	return data, err
}
