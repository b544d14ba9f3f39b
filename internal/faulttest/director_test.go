package faulttest

import (
	"strings"
	"sync"

	"github.com/postrider/postrider/internal/smtptest"
)

// A fault is what a server does wrong, and where.
type fault struct {
	stage string // of stages
	action
	when when
}

// stages are where a session can go wrong, in the order in which it comes there.
var stages = []string{
	"connect", "EHLO", "STARTTLS", "handshake", "EHLO after TLS", "AUTH", "AUTH END",
	"RSET", "MAIL", "RCPT", "DATA", "content", "dot", "QUIT",
}

// opening reports whether a stage comes before all messages.
func opening(stage string) bool {
	switch stage {
	case "connect", "EHLO", "STARTTLS", "handshake", "EHLO after TLS", "AUTH", "AUTH END":
		return true
	}
	return false
}

// when says which of all times a server does it.
type when string

const (
	always when = "always"
	third  when = "the third time in a session"
	once   when = "once"
)

// Recipients and senders that servers refuse for good, whatever else happens.
const (
	nobody = "nobody"
	spam   = "spam"
)

// large is who sends the only letter that is larger than some octets.
const large = "s1@home.example"

// A director tells a server what to say, and knows what it has said.
type director struct {
	fault
	of map[string][]string // recipients by sender

	mu      sync.Mutex
	healed  bool
	fired   int
	scenes  map[int]*scene
	refused map[string]bool // recipients who have heard a 5xx, or whose message has
	claimed map[string]bool // recipients whose message has heard a 2xx before the server had read it
	early   []string        // what came before the server was known by its certificate
}

// A scene is where a session is.
type scene struct {
	tls    bool
	sender string
	times  map[string]int
}

func newDirector(f fault, letters []letter) *director {
	d := &director{fault: f, of: map[string][]string{}, scenes: map[int]*scene{}, refused: map[string]bool{}, claimed: map[string]bool{}}
	for _, l := range letters {
		d.of[l.sender] = l.rcpts
	}
	return d
}

// script is an smtptest.Options.Script.
func (d *director) script(connection int, line string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.scenes[connection]
	if s == nil {
		s = &scene{times: map[string]int{}}
		d.scenes[connection] = s
	}
	stage, rcpt := s.enter(line)
	if !s.tls && (stage == "AUTH" || stage == "MAIL") {
		d.early = append(d.early, line)
	}
	reply := d.reply(s, stage, rcpt)
	switch code := strings.TrimPrefix(reply, smtptest.Raw); {
	case strings.HasPrefix(code, "5") && rcpt != "":
		d.refused[rcpt] = true
	case strings.HasPrefix(code, "5") && (stage == "MAIL" || stage == "DATA" || stage == "content" || stage == "dot"):
		d.note(d.refused, s)
	case stage == "EHLO" && strings.Contains(code, "SIZE 1000"):
		d.note(d.refused, &scene{sender: large})
	case strings.Contains(code, "250 ") && (stage == "DATA" || stage == "content"):
		d.note(d.claimed, s)
	}
	return reply
}

// note adds all recipients of the letter that a session has come to.
func (d *director) note(who map[string]bool, s *scene) {
	for _, r := range d.of[s.sender] {
		who[r] = true
	}
}

// enter returns the stage that a session comes to, and who is concerned if that is RCPT.
func (s *scene) enter(line string) (stage, rcpt string) {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "CONNECT":
		return "connect", ""
	case "EHLO", "LHLO":
		if s.tls {
			return "EHLO after TLS", ""
		}
		return "EHLO", ""
	case "TLS":
		s.tls = true
		return "handshake", ""
	case "AUTH":
		if rest == "END" {
			return line, ""
		}
	case "MAIL":
		s.sender = path(rest)
	case "RCPT":
		return verb, path(rest)
	case "BDAT":
		return "DATA", ""
	case "BODY":
		return "content", ""
	case ".":
		return "dot", rest // of LMTP
	}
	return verb, ""
}

// path returns what stands between angle brackets.
func path(s string) string {
	_, s, _ = strings.Cut(s, "<")
	s, _, _ = strings.Cut(s, ">")
	return s
}

// reply returns what to say; "" for what is usual.
func (d *director) reply(s *scene, stage, rcpt string) string {
	s.times[stage]++
	if stage == d.stage && !d.healed && (d.when == always || d.when == third && s.times[stage] == 3 || d.when == once && d.fired == 0) {
		d.fired++
		if stage == "dot" && rcpt == "" && strings.HasPrefix(d.does, smtptest.Raw+"2") {
			return smtptest.Took + d.does // for who can make sense of it
		}
		return d.does
	}
	switch {
	case stage == "RCPT" && strings.HasPrefix(rcpt, nobody):
		return "550 5.1.1 no such user"
	case stage == "dot" && strings.HasPrefix(s.sender, spam):
		return "554 5.6.0 no, thanks"
	}
	return ""
}

// heal makes everything well.
func (d *director) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.healed = true
}

// hasClaimed reports whether a server said that it has taken what it had not read.
func (d *director) hasClaimed(rcpt string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.claimed[rcpt]
}

// hasRefused reports whether a server has refused somebody for good.
func (d *director) hasRefused(rcpt string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refused[rcpt]
}
