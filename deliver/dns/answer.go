package dns

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Bounds for how long answers are believed. Trouble is forgotten soon.
const (
	maxTTL      = 24 * time.Hour
	maxNegative = time.Hour // RFC 2308 section 5 suggests no more than a few
	trouble     = 30 * time.Second
)

// maxRecords is how many records of an answer are used.
const maxRecords = 64

// An answer is what a name server says to a question. It has records of the type that was asked for, or an alias, or
// neither, and is believed for ttl.
type answer struct {
	mx     []MX
	srv    []SRV
	txt    []string
	tlsa   []TLSA
	addrs  []netip.Addr
	ttl    time.Duration
	links  []string // the names on the way that are aliases
	alias  string   // the end of that way, where the records are to be asked for; "" if they are here
	name   string   // of the records
	secure bool     // the server says that DNSSEC vouches for all of it; whether it is believed is not its to say
}

func (a *answer) records() int {
	return len(a.mx) + len(a.srv) + len(a.txt) + len(a.tlsa) + len(a.addrs)
}

func (a *answer) empty() bool { return a.records() == 0 }

func (a *answer) origin() Origin { return Origin{strings.TrimSuffix(a.name, "."), a.secure} }

// errTruncated is for an answer that did not fit.
var errTruncated = errors.New("the answer was truncated")

// errStranger is for a message that is no answer to the question.
var errStranger = errors.New("the answer belongs to another question")

// A serverError is what a name server says, or does, that is no answer; another server may have one.
type serverError struct {
	said  string
	plain bool // it may not understand EDNS
}

func (e *serverError) Error() string { return e.said }

// parse reads a message that came from a server. The error is errStranger, errTruncated, a *serverError, or an *Error of
// kind NoName or NoRecord, with which answer.ttl says how long that is so.
func parse(message []byte, id uint16, q question) (answer, error) {
	var m dns.Msg
	err := m.Unpack(message)
	if m.Id != id || !m.Response {
		return answer{}, errStranger
	}
	if err != nil {
		if m.Truncated {
			return answer{}, errTruncated
		}
		return answer{}, &serverError{said: "garbage"}
	}
	// Who guesses ID and port must know the question, too. Some servers repeat none when they only report an error.
	believed := m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError
	if len(m.Question) == 1 && !asked(m.Question[0], q) || len(m.Question) != 1 && believed {
		return answer{}, errStranger
	}
	if m.Truncated {
		return answer{}, errTruncated
	}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	case dns.RcodeFormatError, dns.RcodeNotImplemented, dns.RcodeBadVers:
		return answer{}, &serverError{dns.RcodeToString[m.Rcode], true}
	default:
		return answer{}, &serverError{said: rcode(m.Rcode)}
	}
	a := collect(m.Answer, q)
	a.secure = m.AuthenticatedData
	switch {
	case !a.empty():
		a.alias = ""
		return a, nil
	case m.Rcode == dns.RcodeNameError:
		return answer{ttl: negativeTTL(m.Ns)}, q.error(NoName, "it does not exist")
	case a.alias != "":
		return a, nil
	case !has(m.Ns, dns.TypeSOA) && (has(m.Ns, dns.TypeNS) || !m.Authoritative && !m.RecursionAvailable):
		// Even from a server that should have asked those itself (RFC 2308 section 2.2).
		return answer{}, &serverError{said: "a referral to other servers"}
	}
	return answer{ttl: negativeTTL(m.Ns)}, q.error(NoRecord, "it has no such record")
}

func rcode(n int) string {
	if s, ok := dns.RcodeToString[n]; ok {
		return s
	}
	return fmt.Sprintf("RCODE %d", n)
}

func asked(got dns.Question, q question) bool {
	return got.Qclass == dns.ClassINET && got.Qtype == q.kind && strings.EqualFold(got.Name, q.name)
}

// collect returns the records that the question asks for, at its name or where the aliases in the same answer lead.
func collect(records []dns.RR, q question) answer {
	a := answer{ttl: maxTTL}
	name := q.name
	for len(a.links) < maxLinks {
		target := ""
		for _, rr := range records {
			if c, ok := rr.(*dns.CNAME); ok && at(rr, name) {
				target = strings.ToLower(c.Target)
				a.ttl = min(a.ttl, seconds(c.Hdr.Ttl))
				break
			}
		}
		if target == "" || !askable(target) {
			break
		}
		a.links = append(a.links, name)
		name = target
	}
	for _, rr := range records {
		if at(rr, name) && a.records() < maxRecords && a.add(rr, q.kind) {
			a.ttl = min(a.ttl, seconds(rr.Header().Ttl))
		}
	}
	if len(a.links) > 0 {
		a.alias = name
	}
	a.name = name
	return a
}

func at(rr dns.RR, name string) bool {
	h := rr.Header()
	return h.Class == dns.ClassINET && strings.EqualFold(h.Name, name)
}

// add takes a record if it is of the type that was asked for.
func (a *answer) add(rr dns.RR, kind uint16) bool {
	if rr.Header().Rrtype != kind {
		return false
	}
	switch rr := rr.(type) {
	case *dns.MX:
		a.mx = append(a.mx, MX{hostName(rr.Mx), int(rr.Preference)})
	case *dns.SRV:
		a.srv = append(a.srv, SRV{hostName(rr.Target), int(rr.Port), int(rr.Priority), int(rr.Weight)})
	case *dns.TXT:
		return a.addText(rr.Txt)
	case *dns.TLSA:
		return a.addTLSA(rr)
	case *dns.A:
		return a.addAddr(rr.A)
	case *dns.AAAA:
		return a.addAddr(rr.AAAA)
	default:
		return false
	}
	return true
}

// maxText is how long a text may be that is used. Nobody has said anything of use to us with more.
const maxText = 2048

func (a *answer) addText(pieces []string) bool {
	text := strings.Join(pieces, "")
	if len(text) > maxText {
		return false
	}
	a.txt = append(a.txt, text)
	return true
}

func (a *answer) addTLSA(rr *dns.TLSA) bool {
	data, err := hex.DecodeString(rr.Certificate)
	if err == nil {
		a.tlsa = append(a.tlsa, TLSA{rr.Usage, rr.Selector, rr.MatchingType, data})
	}
	return err == nil
}

func (a *answer) addAddr(ip []byte) bool {
	addr, ok := netip.AddrFromSlice(ip)
	if ok {
		a.addrs = append(a.addrs, addr.Unmap())
	}
	return ok
}

// hostName returns the form of MX.Host.
func hostName(s string) string {
	if s == "." {
		return s
	}
	if !askable(s) {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

// negativeTTL returns how long a no is believed (RFC 2308 section 5).
func negativeTTL(authority []dns.RR) time.Duration {
	for _, rr := range authority {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(seconds(soa.Hdr.Ttl), seconds(soa.Minttl), maxNegative)
		}
	}
	return trouble
}

func has(records []dns.RR, kind uint16) bool {
	return slices.ContainsFunc(records, func(rr dns.RR) bool { return rr.Header().Rrtype == kind })
}

// seconds returns a time to live. One with the highest bit set means none at all (RFC 2181 section 8).
func seconds(n uint32) time.Duration {
	if n > 1<<31-1 {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxTTL)
}
