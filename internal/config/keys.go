package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postrider/postrider/internal/mail"
)

// A key is one line of the configuration language: its name, and how its value gets into a T. What set returns needs to
// say neither where the value stands nor what the key is called.
type key[T any] struct {
	name string
	set  func(t *T, v *node) error
}

// A settings is a Config in the making: the file, and what is understood only when all of it was read.
type settings struct {
	Config
	doc          *document
	relay        *node
	passwordFile *node
}

// settingsKeys returns the keys above the first [table], and the tables. It is a function, not a variable, because what
// reads the tables gives advice about these keys.
func settingsKeys() []key[settings] {
	return []key[settings]{
		{"spool", func(s *settings, v *node) error { return v.path(&s.Spool) }},
		{"hostname", func(s *settings, v *node) error { return v.hostName(&s.Hostname) }},
		{"domain", func(s *settings, v *node) error { return v.domain(&s.Domain) }},
		{"local_domains", func(s *settings, v *node) error { return v.domains(&s.LocalDomains) }},
		{"aliases", func(s *settings, v *node) error { return v.pathOrNone(&s.Aliases) }},
		{"alias_user", func(s *settings, v *node) error { return v.line(&s.AliasUser) }},
		{"resolvers", func(s *settings, v *node) error { return v.resolvers(&s.Resolvers) }},
		{"relay", func(s *settings, v *node) error { s.relay = v; return nil }},
		{"password_file", func(s *settings, v *node) error { s.passwordFile = v; return nil }},
		{"max_message_size", func(s *settings, v *node) error { return v.size(&s.MaxMessageSize) }},
		{"delivery", func(s *settings, v *node) error { return v.word(&s.Delivery, DeliverBackground, DeliverQueue) }},
		{"log", func(s *settings, v *node) error { return v.word(&s.Log, LogAuto, LogStderr, LogSyslog) }},
		{"force_from", func(s *settings, v *node) error { return v.address(&s.ForceFrom) }},
		{"rewrite", (*settings).readRewrite},
		{"listen", (*settings).readListen},
		{"retry", (*settings).readRetry},
		{"transport", (*settings).readTransports},
		{"route", (*settings).readRoutes},
	}
}

var listenKeys = []key[Listen]{
	{"smtp", func(l *Listen, v *node) error { return v.endpoints(&l.SMTP) }},
	{"peers", func(l *Listen, v *node) error { return v.networks(&l.Peers) }},
	{"users", func(l *Listen, v *node) error { return v.users(&l.Users) }},
	{"certificate", func(l *Listen, v *node) error { return v.path(&l.Certificate) }},
	{"key", func(l *Listen, v *node) error { return v.path(&l.Key) }},
	{"logins", func(l *Listen, v *node) error { return v.path(&l.Logins) }},
}

var retryKeys = []key[Retry]{
	{"first", func(r *Retry, v *node) error { return v.duration(&r.First) }},
	{"factor", func(r *Retry, v *node) error { return v.factor(&r.Factor) }},
	{"max_wait", func(r *Retry, v *node) error { return v.duration(&r.MaxWait) }},
	{"attempts", func(r *Retry, v *node) error { return v.count(&r.Attempts, 0) }},
	{"expire", func(r *Retry, v *node) error { return v.duration(&r.Expire) }},
}

var transportKeys = []key[Transport]{
	{"url", func(*Transport, *node) error { return nil }}, // read before the others: they depend on it
	{"concurrency", func(t *Transport, v *node) error { return v.count(&t.Concurrency, 1) }},
	{"rate", func(t *Transport, v *node) error { return v.rate(&t.Rate) }},
	{"retry", func(*Transport, *node) error { return nil }}, // read after [retry], which gives it its defaults
	{"tls", func(t *Transport, v *node) error { return v.word(&t.TLS, t.scheme().tls...) }},
	{"password_file", func(t *Transport, v *node) error { return v.secretPath(&t.PasswordFile) }},
	{"ca_file", func(t *Transport, v *node) error { return v.path(&t.CAFile) }},
	{"socks", func(t *Transport, v *node) error { return v.socks(&t.Socks) }},
	{"socks_password_file", func(t *Transport, v *node) error { return v.secretPath(&t.Socks.PasswordFile) }},
	{"port", func(t *Transport, v *node) error { return v.port(&t.Port) }},
	{"text", func(t *Transport, v *node) error { return v.line(&t.Text) }},
	{"args", func(t *Transport, v *node) error { return v.arguments(&t.Args) }},
	{"run_as", func(t *Transport, v *node) error { return v.line(&t.RunAs) }},
	{"timeout", func(t *Transport, v *node) error { return v.duration(&t.Timeout) }},
}

var routeKeys = []key[Route]{
	{"to", func(r *Route, v *node) error { return v.patterns(&r.To) }},
	{"from", func(r *Route, v *node) error { return v.patterns(&r.From) }},
	{"min_attempts", func(r *Route, v *node) error { return v.count(&r.MinAttempts, 0) }},
	{"transport", func(r *Route, v *node) error { return v.string(&r.Transport) }},
}

// parse turns the text of a configuration file into a Config.
func parse(file string, data []byte, m machine) (*Config, error) {
	doc, err := readDocument(file, data)
	if err != nil {
		return nil, err
	}
	s := settings{Config: defaults(), doc: doc}
	s.File = file
	if err := read(doc, doc.root, "", &s, settingsKeys()); err != nil {
		return nil, err
	}
	if err := s.readOwnRetries(); err != nil {
		return nil, err
	}
	if err := s.readRelay(); err != nil {
		return nil, err
	}
	if err := s.checkRoutes(); err != nil {
		return nil, err
	}
	s.complete(m)
	return &s.Config, nil
}

// read sets what a table says, in the order of the file. prefix stands before the table's keys in errors.
func read[T any](d *document, table *node, prefix string, t *T, keys []key[T]) error {
	for _, name := range table.keys {
		i := slices.IndexFunc(keys, func(k key[T]) bool { return k.name == name })
		if i < 0 {
			return d.errorAt(table.keyAt[name], "unknown key %s; %s", quote(prefix+name), advice(name, prefix, keys))
		}
		if err := keys[i].set(t, table.values[name]); err != nil {
			return d.mistake(prefix+name, table.values[name], err)
		}
	}
	return nil
}

// advice says what could have been meant by an unknown key.
func advice[T any](name, prefix string, keys []key[T]) string {
	if name == "password" {
		return "a password has its own file: use password_file"
	}
	top := slices.ContainsFunc(settingsKeys(), func(k key[settings]) bool { return k.name == name })
	if prefix != "" && top {
		return name + " belongs above the first [table]"
	}
	var names []string
	for _, k := range keys {
		names = append(names, k.name)
	}
	return "expected one of " + strings.Join(names, ", ")
}

// mistake adds to an error about a value which key has it and where it stands.
func (d *document) mistake(key string, v *node, err error) error {
	var placed *Error
	if errors.As(err, &placed) {
		return err
	}
	var u *unexpected
	if errors.As(err, &u) {
		v = u.found
	}
	return d.errorAt(v.offset, "%s: %s", key, err)
}

func (s *settings) readRetry(v *node) error {
	return s.readSchedule("retry", &s.Retry, v)
}

// readSchedule reads a table of retries, whose name stands in front of its keys in errors.
func (s *settings) readSchedule(name string, r *Retry, v *node) error {
	if err := v.isTable("[" + name + "]"); err != nil {
		return err
	}
	if err := read(s.doc, v, name+".", r, retryKeys); err != nil {
		return err
	}
	if r.MaxWait < r.First {
		at := v.at("max_wait", "first")
		return s.doc.errorAt(at, "%s: max_wait, %v, is shorter than first, %v", name, r.MaxWait, r.First)
	}
	return nil
}

// readOwnRetries reads the schedules of transports that have their own.
func (s *settings) readOwnRetries() error {
	all := s.doc.root.values["transport"]
	if all == nil {
		return nil
	}
	for _, name := range all.keys {
		v := all.values[name].values["retry"]
		if v == nil {
			continue
		}
		key := "transport." + name + ".retry"
		t := s.Transports[name]
		t.Retry = s.Retry
		if err := s.readSchedule(key, &t.Retry, v); err != nil {
			return s.doc.mistake(key, v, err)
		}
		s.Transports[name] = t
	}
	return nil
}

func (s *settings) readRewrite(v *node) error {
	if err := v.isTable("[rewrite]"); err != nil {
		return err
	}
	for _, from := range v.keys {
		old, ok := rewritable(from)
		if !ok {
			return s.doc.errorAt(v.keyAt[from], `rewrite: found %s, expected an address, a name such as "root", or "@example.com" for a domain`, quote(from))
		}
		if _, twice := s.Rewrite[old]; twice {
			return s.doc.errorAt(v.keyAt[from], "rewrite: %s stands here again; upper and lower case are the same, and so are @ and *@", quote(from))
		}
		var to string
		if err := v.values[from].addressOrDomain(&to); err != nil {
			return s.doc.mistake("rewrite", v.values[from], err)
		}
		s.Rewrite[old] = to
	}
	return nil
}

// rewritable returns what a key of [rewrite] stands for, as Config.Rewrite has it.
func rewritable(s string) (key string, ok bool) {
	s = strings.ToLower(s)
	domain, isPattern := strings.CutPrefix(strings.TrimPrefix(s, "*"), "@")
	if isPattern {
		return "@" + domain, isDomain(strings.TrimPrefix(domain, "."))
	}
	if strings.Contains(s, "*") {
		return "", false // it has no meaning, and would be thought to have one
	}
	if _, err := address(s); err == nil {
		return s, true
	}
	// A name with a dot is likely to be meant as a domain.
	p, err := mail.ParsePath(s)
	return s, err == nil && p.Address() == s && s != "" && p.Domain() == "" && !strings.Contains(s, ".")
}

func (s *settings) readTransports(v *node) error {
	if err := v.isTable("[transport.NAME]"); err != nil {
		return err
	}
	for _, name := range v.keys {
		table := v.values[name]
		if !isName(name) {
			return s.doc.errorAt(v.keyAt[name], "transport: found the name %s, expected letters, digits, - and _", quote(name))
		}
		if err := table.isTable("[transport.NAME]"); err != nil {
			return s.doc.mistake("transport."+name, table, err)
		}
		t, err := s.readTransport(name, table)
		if err != nil {
			return err
		}
		s.Transports[name] = t
	}
	return nil
}

func (s *settings) readTransport(name string, table *node) (Transport, error) {
	t := Transport{Name: name}
	prefix := "transport." + name + "."
	url, ok := table.values["url"]
	if !ok {
		return t, s.doc.errorAt(table.offset, "transport.%s: url is missing", name)
	}
	// Before the others, which it gives their defaults and their meaning.
	if err := t.setURL(url); err != nil {
		return t, s.doc.mistake(prefix+"url", url, err)
	}
	for _, key := range table.keys {
		if !t.scheme().takes(key) {
			return t, s.doc.errorAt(table.keyAt[key], "%s%s has no meaning for %s", prefix, key, t.Scheme)
		}
	}
	if err := read(s.doc, table, prefix, &t, transportKeys); err != nil {
		return t, err
	}
	if strings.HasPrefix(t.Path, "{home}") && t.RunAs != Recipient {
		return t, s.doc.errorAt(table.values["run_as"].offset, `%srun_as: found %s, expected "{user}": homes are for their users`, prefix, quote(t.RunAs))
	}
	if t.RunAs == "" && t.ForUsers() {
		t.RunAs = Recipient // of a program
	}
	if err := s.checkLogin(prefix, t, url, table.values["password_file"], table.values["tls"]); err != nil {
		return t, err
	}
	return t, s.checkSocks(prefix, t.Socks, table.values["socks"], table.values["socks_password_file"])
}

// checkSocks sees that user and password for the proxy are both there.
func (s *settings) checkSocks(prefix string, p Socks, url, passwordFile *node) error {
	switch {
	case p.User != "" && p.PasswordFile == "":
		return s.doc.errorAt(url.offset, "%ssocks_password_file is missing; the user in the URL needs one", prefix)
	case p.User == "" && p.PasswordFile != "":
		return s.doc.errorAt(passwordFile.offset, "%ssocks_password_file is of no use without a user; write socks = \"socks5://USER@HOST\"", prefix)
	}
	return nil
}

// checkLogin sees that user and password are both there and have a chance to stay secret.
func (s *settings) checkLogin(prefix string, t Transport, url, passwordFile, tls *node) error {
	switch {
	case t.User != "" && t.PasswordFile == "":
		return s.doc.errorAt(url.offset, "%spassword_file is missing; the user in the URL needs one", prefix)
	case t.User == "" && t.PasswordFile != "":
		return s.doc.errorAt(passwordFile.offset, "%spassword_file is of no use without a user; write %s://USER@%s", prefix, t.Scheme, t.Host)
	case t.User != "" && t.TLS == TLSNone:
		return s.doc.errorAt(tls.offset, `%stls: found "none", expected verify or may; a password is never sent in clear`, prefix)
	}
	return nil
}

// relayName is the name of the transport that relay stands for.
const relayName = "relay"

// readRelay makes relay and password_file a transport and a route that takes what no other route took.
func (s *settings) readRelay() error {
	if s.relay == nil {
		if s.passwordFile != nil {
			return s.doc.errorAt(s.passwordFile.offset, "password_file is that of relay, and relay is not set")
		}
		return nil
	}
	if _, taken := s.Transports[relayName]; taken {
		return s.doc.errorAt(s.relay.offset, "relay is short for a transport of that name, and there is a [transport.relay]")
	}
	t := Transport{Name: relayName}
	if err := t.setURL(s.relay); err != nil {
		return s.doc.mistake("relay", s.relay, err)
	}
	if s.passwordFile != nil {
		if !t.scheme().takes("password_file") {
			return s.doc.errorAt(s.passwordFile.offset, "password_file has no meaning for %s", t.Scheme)
		}
		if err := s.passwordFile.secretPath(&t.PasswordFile); err != nil {
			return s.doc.mistake("password_file", s.passwordFile, err)
		}
	}
	if err := s.checkLogin("", t, s.relay, s.passwordFile, nil); err != nil {
		return err
	}
	s.Transports[relayName] = t
	s.Routes = append(s.Routes, Route{Transport: relayName})
	return nil
}

func (s *settings) readRoutes(v *node) error {
	if err := v.isTables("[[route]]"); err != nil {
		return err
	}
	for _, table := range v.items {
		var r Route
		if err := read(s.doc, table, "route.", &r, routeKeys); err != nil {
			return err
		}
		if r.Transport == "" {
			return s.doc.errorAt(table.offset, "route: transport is missing")
		}
		s.Routes = append(s.Routes, r)
	}
	return nil
}

// checkRoutes sees that every route leads to a transport. It comes last because transports may stand below.
func (s *settings) checkRoutes() error {
	routes := s.doc.root.values["route"]
	if routes == nil {
		return nil
	}
	for _, table := range routes.items {
		name := table.values["transport"]
		if _, ok := s.Transports[name.text]; !ok {
			return s.doc.errorAt(name.offset, "route.transport: found %s, expected %s", name.describe(), s.transportNames())
		}
	}
	return nil
}

func (s *settings) transportNames() string {
	var names []string
	for name := range s.Transports {
		names = append(names, name)
	}
	if len(names) == 0 {
		return "the NAME of a [transport.NAME], of which there is none"
	}
	slices.Sort(names)
	return fmt.Sprintf("one of the transports %s", strings.Join(names, ", "))
}
