package config

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// systemSpool is the queue of an installed postrider.
const systemSpool = "/var/spool/postrider"

// defaults returns what holds where the file says nothing, apart from what is taken from the machine.
func defaults() Config {
	return Config{
		MaxMessageSize: 256 << 20,
		Delivery:       DeliverBackground,
		Log:            LogAuto,
		Aliases:        "/etc/aliases",
		Retry: Retry{
			First:   7*time.Minute + 30*time.Second,
			Factor:  2,
			MaxWait: 16 * time.Hour,
			Expire:  5 * 24 * time.Hour,
		},
		Rewrite:    map[string]string{},
		Transports: map[string]Transport{},
	}
}

// withoutFile returns the configuration of a machine that has none. Mail in the system's spool waits until somebody
// says where it goes; in a spool of one's own, where things are tried out, it goes to a Maildir inside the spool.
func withoutFile(m machine) (*Config, error) {
	c := defaults()
	var err error
	if c.Spool, err = m.spool(); err != nil {
		return nil, &Error{File: m.file(Default()), Text: "does not exist, and " + err.Error()}
	}
	c.complete(m)
	if c.Spool != m.file(systemSpool) {
		t := newTransport("maildir", schemeNamed("maildir"))
		t.Path = filepath.Join(c.Spool, "Maildir")
		c.Transports[t.Name] = t
		c.Routes = []Route{{Transport: t.Name}}
	}
	return &c, nil
}

// complete fills in what the file did not say and the machine knows.
func (c *Config) complete(m machine) {
	if c.Hostname == "" {
		c.Hostname = m.fullName()
	}
	if c.Domain == "" {
		c.Domain = m.mailName()
	}
	if c.Domain == "" {
		c.Domain = c.Hostname
	}
	if c.LocalDomains == nil {
		c.LocalDomains = []string{"localhost", c.Hostname}
		slices.Sort(c.LocalDomains)
		c.LocalDomains = slices.Compact(c.LocalDomains)
	}
	if c.Spool == "" {
		c.Spool = m.file(systemSpool)
	}
}

// A machine is where defaults come from.
type machine struct {
	root     string // in front of /etc and /var; "" but in tests
	euid     int
	setID    bool // the program has rights that its caller has not
	getenv   func(string) string
	hostname func() (string, error)
}

func thisMachine() machine {
	return machine{
		euid:   os.Geteuid(),
		setID:  os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid(),
		getenv: os.Getenv, hostname: os.Hostname,
	}
}

func (m machine) file(path string) string { return m.root + path }

// spool returns the spool of a machine without a configuration: the system's, or, where nothing is installed, a place of
// the user's own (XDG Base Directory Specification). A program that is set-group-ID has been installed, and a spool that
// cannot be seen may be there: mail in a place where no pass looks would be lost.
func (m machine) spool() (string, error) {
	system := m.file(systemSpool)
	if m.euid == 0 || m.setID {
		return system, nil
	}
	if _, err := os.Stat(system); !errors.Is(err, fs.ErrNotExist) {
		return system, nil
	}
	// The specification tells to ignore relative paths.
	if state := m.getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "postrider"), nil
	}
	if home := m.getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local/state/postrider"), nil
	}
	return "", fmt.Errorf("there is no place for the spool: %s does not exist, and HOME is not set; set spool", system)
}

// fullName returns the host's name with its domain, if it can be had without asking the network, else as it is.
func (m machine) fullName() string {
	name, err := m.hostname()
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if err != nil || !isDomain(name) || !isASCII(name) {
		return "localhost"
	}
	if strings.Contains(name, ".") {
		return name
	}
	if full := m.inHosts(name); full != "" {
		return full
	}
	return name
}

// inHosts returns the first name with a dot on the line of hosts(5) that has name; "" if there is none.
func (m machine) inHosts(name string) (full string) {
	m.eachLine("/etc/hosts", func(line string) bool {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(strings.ToLower(line))
		if len(fields) < 2 || !slices.Contains(fields[1:], name) {
			return true
		}
		for _, f := range fields[1:] {
			if strings.Contains(f, ".") && isDomain(f) && isASCII(f) {
				full = f
				return false
			}
		}
		return true
	})
	return full
}

// mailName returns the domain that Debian keeps in /etc/mailname; "" if there is none.
func (m machine) mailName() (name string) {
	m.eachLine("/etc/mailname", func(line string) bool {
		line = strings.ToLower(strings.TrimSpace(line))
		if line == "" || line[0] == '#' {
			return true
		}
		if isDomain(line) {
			name = line
		}
		return false
	})
	return name
}

// eachLine calls f with the lines of a file until f returns false. A file that cannot be read has no lines: it only
// improves a default.
func (m machine) eachLine(path string, f func(string) bool) {
	file, err := open(m.file(path))
	if err != nil {
		return
	}
	defer file.Close() // only read: closing cannot lose anything
	for s := bufio.NewScanner(file); s.Scan() && f(s.Text()); {
	}
}

// isDomain reports whether s has the form of a domain name: labels of letters, digits, "-", "_" and anything that is
// not ASCII (RFC 6531), no longer than RFC 1035 section 2.3.4 allows.
func isDomain(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			if c := label[i]; c < 0x80 && !isAlphanumeric(c) && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}
