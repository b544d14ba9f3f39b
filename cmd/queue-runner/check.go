package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/listen"
	"github.com/postrider/postrider/spool"
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

var deliveryWords = map[string]string{
	config.DeliverBackground: "sendmail starts a pass as soon as it has queued a message, if it may",
	config.DeliverQueue:      "sendmail queues; a pass is started by something else",
}

var logWords = map[string]string{
	config.LogAuto:   "to the terminal or journal that standard error is, otherwise to syslog",
	config.LogStderr: "to standard error",
	config.LogSyslog: "to syslog",
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

// matchWords says which mail a route takes.
func matchWords(route config.Route, other bool) string {
	words := "all mail"
	switch {
	case len(route.To) > 0:
		words = "mail for " + patternWords(route.To)
	case other:
		words = "all other mail"
	}
	if len(route.From) > 0 {
		words += " from " + patternWords(route.From)
	}
	if n := route.MinAttempts; n > 0 {
		words += " after " + count(n, "attempt")
	}
	return words
}

func patternWords(patterns []string) string {
	const most = 8
	var words []string
	for _, p := range patterns {
		if domain, below := strings.CutPrefix(p, "."); below {
			words = append(words, domain+" and everything below")
		} else if !slices.Contains(patterns, "."+p) {
			words = append(words, p)
		}
	}
	if n := len(words) - most; n > 0 {
		words = append(words[:most], strconv.Itoa(n)+" more")
	}
	return strings.Join(words, ", ")
}

func rateWords(r config.Rate) string {
	if r.Count == 0 {
		return ""
	}
	return ", at most " + deliver.RateWords(spool.Rate(r))
}

func transportWords(t config.Transport) string {
	as := ""
	if t.RunAs == config.Recipient {
		as = ", as the recipient"
	} else if t.RunAs != "" {
		as = ", as " + t.RunAs
	}
	switch t.Scheme {
	case "maildir":
		return "Maildir " + t.Path + as
	case "lmtp+unix":
		return "lmtp to the socket " + t.Path + ", at most " + count(t.Concurrency, "session")
	case "mbox":
		return "mbox file " + t.Path + as
	case "pipe":
		return fmt.Sprintf("program %q, for at most %s", append([]string{t.Path}, t.Args...), short(t.Timeout)) + as
	case "discard":
		return "thrown away, as if it had been delivered"
	case "fail":
		return "bounced with the text " + strconv.Quote(t.Text)
	}
	words := hostWords(t) + ", " + tlsWords(t)
	if t.User != "" {
		words += ", login " + t.User
		if t.TLS == config.TLSMay {
			words += " (only by SCRAM if the certificate is not valid)"
		}
	}
	if p := t.Socks; p.Host != "" {
		words += ", through the SOCKS proxy " + addressOf(p)
		if p.User != "" {
			words += " with login " + p.User
		}
	}
	words += ", at most " + count(t.Concurrency, "session")
	if t.Scheme == "mx" {
		words += " for each domain"
	}
	return words
}

// hostWords says which hosts mail is handed to.
func hostWords(t config.Transport) string {
	if t.Scheme == "mx" {
		words := "smtp to the hosts that DNS names for the domain (MX)"
		if t.Port != smtpPort {
			words += " at port " + strconv.Itoa(t.Port)
		}
		return words
	}
	if t.SRV {
		return t.Scheme + " to the servers that DNS names for " + t.Host + " (SRV)"
	}
	words := t.Scheme + " to " + serverWords(config.Server{Host: t.Host, Port: t.Port})
	for _, other := range t.Others {
		words += ", else " + serverWords(other)
	}
	return words
}

func serverWords(s config.Server) string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

const smtpPort = 25

func tlsWords(t config.Transport) string {
	switch {
	case t.TLS == config.TLSVerify:
		return "TLS with a verified certificate"
	case t.TLS == config.TLSNone:
		return "in clear"
	case t.Scheme == "mx":
		return "TLS if offered, or as the domain wants it (MTA-STS, DANE)"
	case t.Scheme == "submissions", t.User != "": // a login needs TLS
		return "TLS with any certificate"
	default:
		return "TLS if offered"
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

func rewrittenWords(from string) string {
	if domain, ok := strings.CutPrefix(from, "@."); ok {
		return "anybody at " + domain + " and everything below"
	}
	if domain, ok := strings.CutPrefix(from, "@"); ok {
		return "anybody at " + domain
	}
	if !strings.Contains(from, "@") {
		return from + " at this host"
	}
	return from
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

func retryWords(retry deliver.Retry) string {
	words := fmt.Sprintf("%s, until it is %s old", waitWords(retry), age(retry.Expire))
	if retry.Attempts > 0 {
		words += fmt.Sprintf(" or %d attempts have been made", retry.Attempts)
	}
	return words
}

// waitWords lists the waits between attempts, until they no longer grow or there are no more: "after 5m, then every 10m".
func waitWords(retry deliver.Retry) string {
	const most = 8
	var waits []string
	end := ""
	var total time.Duration
	for n := 1; total < retry.Expire && n != retry.Attempts; n++ {
		wait := retry.Wait(n)
		if retry.Wait(n+1) == wait && n+1 != retry.Attempts {
			end = "every " + short(wait)
			break
		}
		if n > most {
			end = "longer and longer up to " + short(retry.MaxWait)
			break
		}
		waits = append(waits, short(wait))
		total += wait
	}
	switch {
	case len(waits) == 0:
		return end
	case end != "":
		end = ", then " + end
	}
	return "after " + strings.Join(waits, ", ") + end
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

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// octets writes a size in the largest unit that divides it.
func octets(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"GB", 1 << 30}, {"MB", 1 << 20}, {"KB", 1 << 10}} {
		if n%u.size == 0 {
			return fmt.Sprintf("%d %s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%d octets", n)
}

// short writes a duration without its zeros: 16h, not 16h0m0s.
func short(d time.Duration) string {
	s := d.Round(time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// age writes a duration in days if it is some.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return count(int(d/day), "day")
	}
	return short(d)
}
