package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/listen"
)

// check writes to w what is configured, in words. Its error, a *config.Error, counts what would keep mail from going
// where the configuration says; what is merely odd is a note.
func check(cfg *config.Config, w io.Writer) error {
	table, err := listen.Of(cfg)
	if err != nil {
		return err
	}
	r := report{cfg: cfg, listen: table}
	r.names()
	r.routes()
	r.rewriting()
	r.retries()
	r.findings()
	if _, err := io.WriteString(w, r.text.String()); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if n := len(r.problems); n > 0 {
		return &config.Error{File: fileOf(cfg), Text: count(n, "problem")}
	}
	return nil
}

// seeAsOwner lets root see files as the user does who will deliver. It makes nothing: without a spool root stays root.
func seeAsOwner(spool string) error {
	if _, err := os.Stat(spool); err != nil {
		return nil
	}
	return becomeOwner(spool)
}

// fileOf returns the file that was read, or would be if it existed.
func fileOf(cfg *config.Config) string {
	if cfg.File == "" {
		return config.Default()
	}
	return cfg.File
}

// A report is what check writes, and what it found on the way.
type report struct {
	cfg      *config.Config
	listen   listen.Table
	text     strings.Builder
	problems []string // mail does not get through
	notes    []string // something that was perhaps not meant so
}

func (r *report) printf(format string, args ...any) { fmt.Fprintf(&r.text, format, args...) }

// localNames says which addresses are looked up on this host.
func (r *report) localNames() string {
	words := "at " + strings.Join(r.cfg.LocalDomains, ", ")
	if len(r.cfg.LocalDomains) == 0 {
		words = "none"
	}
	if r.cfg.Aliases == "" {
		return words + "; no aliases"
	}
	table, problems, err := newLookup(r.cfg, nil).read()
	if err != nil {
		r.problems = append(r.problems, err.Error())
		return words + "; aliases cannot be read"
	}
	for _, p := range append(problems, table.Check()...) {
		r.notes = append(r.notes, p.String())
	}
	words += "; aliases: " + table.Summary()
	if user := r.cfg.AliasUser; user != "" {
		words += "; files and commands in them as " + user
		if err := mayActAs(user); err != nil {
			r.problems = append(r.problems, err.Error())
		}
	}
	return words
}

func (r *report) names() {
	file := r.cfg.File
	if file == "" {
		file = "none; there is no " + config.Default()
	}
	spool := r.cfg.Spool
	if _, err := os.Stat(spool); err != nil {
		spool += " (not there yet)"
	}
	size := "of any size"
	if n := r.cfg.MaxMessageSize; n > 0 {
		size = "up to " + octets(n)
	}
	for _, line := range []struct{ name, value string }{
		{"configuration", file},
		{"spool", spool},
		{"host name", r.cfg.Hostname},
		{"domain", r.cfg.Domain + ", appended to addresses without one"},
		{"local names", r.localNames()},
		{"messages", size},
		{"delivery", deliveryWords[r.cfg.Delivery]},
		{"log", logWords[r.cfg.Log]},
	} {
		r.printf("%-15s%s\n", line.name, line.value)
	}
	if len(r.cfg.Resolvers) > 0 {
		r.printf("%-15s%s\n", "name servers", strings.Join(r.cfg.Resolvers, ", "))
	}
	if words := r.dnssec(); words != "" {
		r.printf("%-15s%s\n", "DNSSEC", words)
	}
	r.listening()
}

// dnssec says whether mail exchangers can be proven by DANE; "" if that is of no use.
func (r *report) dnssec() string {
	for _, t := range r.cfg.Transports {
		switch {
		case t.Scheme != "mx" || t.TLS == config.TLSNone:
		case newResolver(r.cfg).Trusted():
			return "as the name server on this host has it, or one that is trusted; DANE counts"
		default:
			return "no name server that is asked is on this host, or trusted (trust-ad): DANE does not count"
		}
	}
	return ""
}

// listening says where a daemon takes mail by SMTP, if anywhere.
func (r *report) listening() {
	l := r.listen
	if len(l.SMTP) == 0 {
		return
	}
	var at []string
	for _, e := range l.SMTP {
		at = append(at, e.String())
	}
	who := "this host"
	if len(l.Peers) > 0 {
		for i, p := range l.Peers {
			who += []string{" and ", ", "}[min(i, 1)] + p.String()
		}
	}
	r.printf("%-15sa daemon listens at %s, to %s\n", "SMTP", strings.Join(at, ", "), who)
	if l.Users != nil {
		r.printf("%-15sand at unix sockets only to %s\n", "", strings.Join(append([]string{"root"}, l.Users...), ", "))
	}
	if _, err := userIDs(l.Users); err != nil {
		r.problems = append(r.problems, err.Error())
	}
	s := secretsOf(l)
	if s.logins != "" {
		users, err := s.readLogins()
		if err != nil {
			r.problems = append(r.problems, err.Error())
		}
		r.printf("%-15sand to whoever logs in as one of %s in %s\n", "", count(len(users), "user"), s.logins)
	}
	if s.certificate != "" {
		if _, err := s.pair(); err != nil {
			r.problems = append(r.problems, err.Error())
		}
		r.printf("%-15swith TLS for who asks for it (STARTTLS), with %s\n", "", s.certificate)
	}
}

func (r *report) routes() {
	if len(r.cfg.Routes) == 0 {
		r.printf("\nMail goes nowhere: it waits in the spool.\n")
		r.problems = append(r.problems, "no route: set relay in "+fileOf(r.cfg))
		return
	}
	r.printf("\nMail goes where the first line that fits says:\n")
	for i, route := range r.cfg.Routes {
		t := r.cfg.Transports[route.Transport]
		r.printf("  %s: %s (%s)\n", matchWords(route, i > 0), transportWords(t)+rateWords(t.Rate), t.Name)
	}
}

func (r *report) rewriting() {
	if r.cfg.ForceFrom != "" {
		r.printf("\nEvery sender becomes %s.\n", r.cfg.ForceFrom)
		return
	}
	if len(r.cfg.Rewrite) == 0 {
		return
	}
	r.printf("\nSenders are rewritten as the first line that fits says:\n")
	rules := slices.SortedFunc(maps.Keys(r.cfg.Rewrite), func(a, b string) int {
		return cmp.Or(cmp.Compare(ruleRank(a), ruleRank(b)), cmp.Compare(a, b))
	})
	for _, from := range rules {
		to := r.cfg.Rewrite[from]
		if domain, ok := strings.CutPrefix(to, "@"); ok {
			to = "the same at " + domain
		}
		r.printf("  %s becomes %s\n", rewrittenWords(from), to)
	}
}

// ruleRank puts the rules of [rewrite] in the order in which they count.
func ruleRank(from string) int {
	switch {
	case strings.HasPrefix(from, "@."):
		return math.MaxInt - len(from)
	case strings.HasPrefix(from, "@"):
		return 2
	case !strings.Contains(from, "@"):
		return 1
	}
	return 0
}

func (r *report) retries() {
	retry := deliver.Retry(r.cfg.Retry)
	if retry.Attempts == 1 {
		r.printf("\nMail is tried once; if it is deferred, it is given up.\n")
		return
	}
	r.printf("\nDeferred mail is tried again %s.\n", retryWords(retry))
	for _, name := range slices.Sorted(maps.Keys(r.cfg.Transports)) {
		if own := r.cfg.Transports[name].Retry; own != (config.Retry{}) {
			r.printf("That of %s: %s.\n", name, retryWords(deliver.Retry(own)))
		}
	}
}

// findings looks at what the configuration names, and writes what is wrong.
func (r *report) findings() {
	var names []string
	for name := range r.cfg.Transports {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		r.lookAt(r.cfg.Transports[name])
	}
	for i, route := range r.cfg.Routes {
		if len(route.To)+len(route.From)+route.MinAttempts == 0 && i < len(r.cfg.Routes)-1 {
			r.notes = append(r.notes, fmt.Sprintf("route %d takes all mail; those behind it have no effect", i+1))
			break
		}
	}
	if len(r.problems)+len(r.notes) > 0 {
		r.printf("\n")
	}
	for _, p := range r.problems {
		r.printf("problem: %s\n", p)
	}
	for _, n := range r.notes {
		r.printf("note: %s\n", n)
	}
}

func (r *report) lookAt(t config.Transport) {
	for _, file := range []string{t.PasswordFile, t.Socks.PasswordFile} {
		if file == "" {
			continue
		}
		if _, err := config.ReadPassword(file); err != nil {
			r.problems = append(r.problems, fmt.Sprintf("transport %s: %v", t.Name, err))
		}
	}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err == nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
			err = fmt.Errorf("no certificate in %s", t.CAFile)
		}
		if err != nil {
			r.problems = append(r.problems, fmt.Sprintf("transport %s: %v", t.Name, err))
		}
	}
	if t.RunAs != "" && os.Getuid() != 0 {
		r.notes = append(r.notes, fmt.Sprintf("transport %s: only root can deliver as others than himself", t.Name))
	}
	if t.RunAs != "" && t.RunAs != config.Recipient {
		if _, err := mustFind(context.Background(), t.RunAs); err != nil {
			r.problems = append(r.problems, fmt.Sprintf("transport %s: %v", t.Name, err))
		}
	}
	if t.Scheme == "pipe" {
		if _, err := exec.LookPath(t.Path); err != nil {
			r.problems = append(r.problems, fmt.Sprintf("transport %s: %v", t.Name, err))
		}
	}
	if err := checkMailbox(r.cfg, t); err != nil {
		r.problems = append(r.problems, fmt.Sprintf("transport %s: %v", t.Name, err))
	}
	if t.TLS != config.TLSVerify && t.CAFile != "" {
		r.notes = append(r.notes, fmt.Sprintf("transport %s: ca_file has an effect only with tls = \"verify\"", t.Name))
	}
	if !slices.ContainsFunc(r.cfg.Routes, func(route config.Route) bool { return route.Transport == t.Name }) {
		r.notes = append(r.notes, fmt.Sprintf("transport %s: no route leads to it", t.Name))
	}
}
