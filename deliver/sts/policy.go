package sts

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Policy is what a domain says of the hosts that take its mail (RFC 8461 section 3.2). Its zero value says nothing.
type Policy struct {
	Mode   Mode
	Hosts  []string      // names in lower case; "*.example.com" is any that has one label in place of the star
	MaxAge time.Duration // for how long the policy is in force
}

// Mode is what becomes of mail for which no host is as the policy wants it.
type Mode string

const (
	None    Mode = "none"    // it is delivered as if there were no policy
	Testing Mode = "testing" // likewise; who sends reports tells the domain
	Enforce Mode = "enforce" // it waits
)

// Bounds for what a stranger's server says.
const (
	maxAge   = 31557600 * time.Second // RFC 8461 section 3.2
	maxName  = 255
	maxNames = 4 << 10 // octets of all names together
)

// ParsePolicy reads the text of a policy. Fields that it does not know do not matter; of those that come twice, but for mx,
// the first counts.
func ParsePolicy(text string) (Policy, error) {
	fields := map[string]string{}
	var p Policy
	for line := range strings.Lines(text) {
		line = strings.Trim(line, " \t\r\n")
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return Policy{}, fmt.Errorf("%.60q is no field", line)
		}
		key, value = strings.ToLower(strings.TrimRight(key, " \t")), strings.TrimLeft(value, " \t")
		if key != "mx" {
			if _, again := fields[key]; !again && known(key) {
				fields[key] = value
			}
			continue
		}
		if err := p.addHost(strings.ToLower(strings.TrimSuffix(value, "."))); err != nil {
			return Policy{}, err
		}
	}
	if fields["version"] != "STSv1" {
		return Policy{}, fmt.Errorf("the version is %.60q, not STSv1", fields["version"])
	}
	p.Mode = Mode(fields["mode"])
	switch {
	case p.Mode != None && p.Mode != Testing && p.Mode != Enforce:
		return Policy{}, fmt.Errorf("the mode %.60q is not known", fields["mode"])
	case p.Mode != None && len(p.Hosts) == 0:
		return Policy{}, errors.New("no host (mx) is named")
	}
	seconds, err := strconv.ParseUint(fields["max_age"], 10, 64)
	if err != nil || len(fields["max_age"]) > 10 {
		return Policy{}, fmt.Errorf("max_age is %.60q, not a number of seconds", fields["max_age"])
	}
	p.MaxAge = time.Duration(min(seconds, uint64(maxAge/time.Second))) * time.Second
	return p, nil
}

func known(key string) bool { return key == "version" || key == "mode" || key == "max_age" }

func (p *Policy) addHost(pattern string) error {
	if !isName(strings.TrimPrefix(pattern, "*.")) {
		return fmt.Errorf("%.60q is not the name of a host", pattern)
	}
	if slices.Contains(p.Hosts, pattern) {
		return nil
	}
	if p.Hosts = append(p.Hosts, pattern); len(strings.Join(p.Hosts, "")) > maxNames {
		return fmt.Errorf("the names of its hosts (mx) are longer than %d octets", maxNames)
	}
	return nil
}

func isName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" {
			return false
		}
	}
	return len(s) <= maxName && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

// Names reports whether a host, in lower case, is one of those that the policy names.
func (p Policy) Names(host string) bool {
	_, parent, _ := strings.Cut(host, ".")
	return slices.ContainsFunc(p.Hosts, func(pattern string) bool {
		rest, wild := strings.CutPrefix(pattern, "*.")
		return pattern == host || wild && rest == parent && !strings.HasPrefix(host, ".")
	})
}

// parseRecord returns the id in the texts at _mta-sts of a domain; "" if they do not say that there is a policy, which is
// so as well if two do (RFC 8461 section 3.1).
func parseRecord(texts []string) (id string) {
	found := false
	for _, text := range texts {
		rest, ok := strings.CutPrefix(text, "v=STSv1")
		if rest = strings.TrimLeft(rest, " \t"); !ok || !strings.HasPrefix(rest, ";") {
			continue
		}
		if found {
			return ""
		}
		found, id = true, idOf(rest)
	}
	return id
}

// idOf returns the first id among the fields of a record, if it is one.
func idOf(fields string) string {
	const longest = 32
	for field := range strings.SplitSeq(fields, ";") {
		name, id, _ := strings.Cut(strings.Trim(field, " \t"), "=")
		if name != "id" {
			continue
		}
		if len(id) > longest || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
			return ""
		}
		return id
	}
	return ""
}
