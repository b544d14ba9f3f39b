package main

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider/deliver"
	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/spool"
)

var deliveryWords = map[string]string{
	config.DeliverBackground: "sendmail starts a pass as soon as it has queued a message, if it may",
	config.DeliverQueue:      "sendmail queues; a pass is started by something else",
}

var logWords = map[string]string{
	config.LogAuto:   "to the terminal or journal that standard error is, otherwise to syslog",
	config.LogStderr: "to standard error",
	config.LogSyslog: "to syslog",
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
