package smtp

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-sasl"
	"github.com/xdg-go/scram"

	"github.com/postrider/postrider/internal/mail"
)

// A mechanism is a way to log in (RFC 4422).
type mechanism struct {
	name string

	// unverified says that it may be used with a server whose certificate nobody vouches for: it never shows the
	// password, and notices a server that does not know it. What such a server learns it can still guess against.
	unverified bool

	client func(name string, c *credentials) (sasl.Client, error)
}

// mechanisms lists what we can do, strongest first. None is ever used without TLS: over a connection that anybody can
// read, even the best gives away material for guessing at leisure, and to everybody.
var mechanisms = []mechanism{
	{"SCRAM-SHA-256-PLUS", true, scramClient(scram.SHA256)},
	{"SCRAM-SHA-256", true, scramClient(scram.SHA256)},
	{"SCRAM-SHA-1-PLUS", true, scramClient(scram.SHA1)},
	{"SCRAM-SHA-1", true, scramClient(scram.SHA1)},
	{"CRAM-MD5", false, func(_ string, c *credentials) (sasl.Client, error) { return &cramMD5{c}, nil }},
	{"PLAIN", false, plainClient},
	{"LOGIN", false, func(_ string, c *credentials) (sasl.Client, error) { return &loginClient{c: c}, nil }},
}

// credentials are what a mechanism proves, and what it may build on.
type credentials struct {
	user, password string
	binding        scram.ChannelBinding // of this connection (RFC 9266); none if it has none
	bindingOffered bool                 // the server offers a mechanism with -PLUS
}

const (
	maxRounds   = 10        // challenges in one exchange
	maxCommand  = 512       // octets of a command line (RFC 5321 section 4.5.3.1.4)
	maxResponse = 12288     // octets of a response (RFC 4954 section 4)
	plusSuffix  = "-PLUS"   // of mechanisms with channel binding
	maxHashing  = 1_000_000 // SCRAM iterations: a server must not keep us busy for hours
)

func (o *opening) login() *mail.Result {
	usable := o.usableMechanisms()
	if len(usable) == 0 {
		return o.noMechanism()
	}
	password, err := o.server.Password()
	if err != nil {
		return o.delayed(mail.OfUs, mail.EnhancedCode{4, 7, 0}, "cannot log in at %s: %v", o.server.Host, err)
	}
	c := o.credentials(password)
	o.hide(password)
	var refusal *mail.Result
	for _, m := range usable {
		reply, failed := o.authenticate(m, c)
		if failed != nil {
			return failed
		}
		if positive(reply) {
			o.authenticated = true
			return nil
		}
		scope := mail.OfUs
		if reply.Code/100 == 4 {
			scope = mail.OfHost // it cannot say now: RFC 4954 section 6
		}
		r := o.said(mail.Delayed, scope, reply)
		refusal = &r
		if !anotherWay(reply) {
			break
		}
	}
	return refusal
}

// hide keeps the password, in whatever form a server could repeat it, out of all that is shown.
func (o *opening) hide(password string) {
	for _, secret := range []string{password, "\x00" + o.server.User + "\x00" + password} {
		o.conn.hide(secret)
		o.conn.hide(base64.StdEncoding.EncodeToString([]byte(secret)))
	}
}

// anotherWay reports whether a refusal is of the mechanism. One of the password would be the same with the next, and
// servers lock out who keeps trying.
func anotherWay(r mail.Reply) bool {
	switch r.Code {
	case 432, // wants the password once in a way that shows it (RFC 4954 section 6)
		504, // does not know the mechanism after all
		534, // too weak
		538: // too weak for this encryption
		return true
	}
	return false
}

func (o *opening) usableMechanisms() []mechanism {
	var usable []mechanism
	for _, m := range mechanisms {
		if !slices.Contains(o.ext.auth, m.name) || o.tls == "" || !o.verified && !m.unverified {
			continue
		}
		if strings.HasSuffix(m.name, plusSuffix) && !o.binding().IsSupported() {
			continue
		}
		usable = append(usable, m)
	}
	return usable
}

func (o *opening) noMechanism() *mail.Result {
	code := mail.EnhancedCode{4, 7, 0}
	host, offered := o.server.Host, strings.Join(o.ext.auth, " ")
	switch {
	case offered == "":
		return o.delayed(mail.OfUs, code, "cannot log in at %s: it offers no login", host)
	case !o.verified:
		return o.delayed(mail.OfUs, code, "cannot log in at %s: it offers %s, which need a certificate that can be trusted", host, offered)
	}
	return o.delayed(mail.OfUs, code, "cannot log in at %s: it offers %s, none of which we know", host, offered)
}

// binding ties a login to this TLS connection, so that nobody in between can pass it on. Before TLS 1.3 there is no
// kind that is both safe and common.
func (o *opening) binding() scram.ChannelBinding {
	client, ok := o.conn.rw.(*tls.Conn)
	if !ok {
		return scram.ChannelBinding{}
	}
	state := client.ConnectionState()
	if state.Version < tls.VersionTLS13 {
		return scram.ChannelBinding{}
	}
	b, err := scram.NewTLSExporterBinding(&state)
	if err != nil {
		return scram.ChannelBinding{}
	}
	return b
}

func (o *opening) credentials(password string) *credentials {
	return &credentials{
		user: o.server.User, password: password, binding: o.binding(),
		bindingOffered: slices.ContainsFunc(o.ext.auth, func(m string) bool { return strings.HasSuffix(m, plusSuffix) }),
	}
}

// authenticate goes through one exchange (RFC 4954 section 4). The reply is the one that ends it.
func (o *opening) authenticate(m mechanism, c *credentials) (mail.Reply, *mail.Result) {
	client, err := m.client(m.name, c)
	if err != nil {
		return mail.Reply{}, o.gaveUp(m, err)
	}
	_, initial, err := client.Start()
	if err != nil {
		return mail.Reply{}, o.gaveUp(m, err)
	}
	line := "AUTH " + m.name
	shown := line
	if initial != nil {
		text := encodeInitial(initial)
		o.conn.hide(text)
		if len(line)+len(" ")+len(text)+len("\r\n") <= maxCommand {
			line, shown, initial = line+" "+text, shown+" ***", nil
		}
	}
	for range maxRounds {
		o.conn.log.note(shown)
		o.conn.sendQuietly([]byte(line+"\r\n"), o.server.Timeouts.Hello)
		reply, err := o.conn.challenge(o.server.Timeouts.Hello)
		if err != nil {
			return reply, o.hindered("logging in", err)
		}
		if positive(reply) {
			if p, ok := client.(prover); ok && !p.proven() {
				return reply, o.gaveUp(m, errors.New("the server did not prove that it knows the password"))
			}
			return reply, nil
		}
		if !intermediate(reply) {
			return reply, nil
		}
		var response []byte
		if initial != nil {
			response, initial = initial, nil // too long for the command; the challenge is empty
		} else if response, err = next(client, reply.Text); err != nil {
			return reply, o.gaveUp(m, err)
		}
		if line = base64.StdEncoding.EncodeToString(response); len(line)+len("\r\n") > maxResponse {
			return reply, o.gaveUp(m, errors.New("the password is too long for SMTP"))
		}
		o.conn.hide(line)
		shown = "***"
	}
	return mail.Reply{}, o.gaveUp(m, errors.New("endless dialogue"))
}

// gaveUp is for a login that failed on our side. What the server has seen of it was meant for it alone, so a weaker
// mechanism is not tried: that would be what an impostor is after.
func (o *opening) gaveUp(m mechanism, err error) *mail.Result {
	return o.delayed(mail.OfUs, mail.EnhancedCode{4, 7, 0}, "cannot log in at %s with %s: %v", o.server.Host, m.name, err)
}

// A prover is a sasl.Client that also makes sure of the server.
type prover interface{ proven() bool }

// encodeInitial writes an initial response; an empty one must differ from none.
func encodeInitial(b []byte) string {
	if len(b) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(b)
}

func next(client sasl.Client, text string) ([]byte, error) {
	challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || strings.Contains(text, "\n") { // which the decoder skips
		return nil, errors.New("the challenge is not base64")
	}
	return client.Next(challenge)
}

func plainClient(_ string, c *credentials) (sasl.Client, error) {
	if strings.Contains(c.user+c.password, "\x00") {
		return nil, errors.New("NUL in user or password")
	}
	return sasl.NewPlainClient("", c.user, c.password), nil
}

// A loginClient answers what it is asked first with the user, then with the password. The library's goes by the words
// of the question, which servers choose as they like.
type loginClient struct {
	c     *credentials
	asked int
}

func (l *loginClient) Start() (string, []byte, error) { return "LOGIN", nil, nil }

func (l *loginClient) Next([]byte) ([]byte, error) {
	l.asked++
	switch l.asked {
	case 1:
		return []byte(l.c.user), nil
	case 2:
		return []byte(l.c.password), nil
	}
	return nil, sasl.ErrUnexpectedServerChallenge
}

// A cramMD5 is the client of RFC 2195.
type cramMD5 struct{ c *credentials }

func (m *cramMD5) Start() (string, []byte, error) { return "CRAM-MD5", nil, nil }

func (m *cramMD5) Next(challenge []byte) ([]byte, error) {
	mac := hmac.New(md5.New, []byte(m.c.password))
	mac.Write(challenge)
	return []byte(m.c.user + " " + hex.EncodeToString(mac.Sum(nil))), nil
}

// A scramExchange is the client of RFC 5802.
type scramExchange struct {
	name string
	conv *scram.ClientConversation
}

func scramClient(hash scram.HashGeneratorFcn) func(string, *credentials) (sasl.Client, error) {
	return func(name string, c *credentials) (sasl.Client, error) {
		client, err := hash.NewClient(c.user, c.password, "")
		if err != nil {
			// Not a string that SASLprep has; the server may have been given it as it is all the same.
			if client, err = hash.NewClientUnprepped(c.user, c.password, ""); err != nil {
				return nil, err
			}
		}
		switch {
		case strings.HasSuffix(name, plusSuffix):
			return &scramExchange{name, client.NewConversationWithChannelBinding(c.binding)}, nil
		case c.binding.IsSupported() && !c.bindingOffered:
			// So the server learns if somebody has taken its -PLUS out of the list.
			return &scramExchange{name, client.NewConversationAdvertisingChannelBinding()}, nil
		}
		return &scramExchange{name, client.NewConversation()}, nil
	}
}

func (s *scramExchange) Start() (string, []byte, error) {
	first, err := s.conv.Step("")
	return s.name, []byte(first), err
}

func (s *scramExchange) Next(challenge []byte) ([]byte, error) {
	if reason, ok := strings.CutPrefix(string(challenge), "e="); ok {
		return nil, fmt.Errorf("refused: %s", serverError(reason))
	}
	for field := range strings.SplitSeq(string(challenge), ",") {
		count, ok := strings.CutPrefix(field, "i=")
		if n, err := strconv.Atoi(count); ok && (err != nil || n > maxHashing) {
			return nil, fmt.Errorf("the server wants the password hashed too often, at most %d times is allowed", maxHashing)
		}
	}
	response, err := s.conv.Step(string(challenge))
	if err != nil {
		return nil, errors.New("the server's answer to SCRAM is wrong")
	}
	return []byte(response), nil
}

// serverError returns the reason if it is one of RFC 5802 section 7. Any other text is the server's own, and could be what
// nobody may see.
func serverError(reason string) string {
	switch reason {
	case "invalid-encoding", "extensions-not-supported", "invalid-proof", "channel-bindings-dont-match",
		"server-does-support-channel-binding", "channel-binding-not-supported", "unsupported-channel-binding-type",
		"unknown-user", "invalid-username-encoding", "no-resources":
		return reason
	}
	return "other-error"
}

func (s *scramExchange) proven() bool { return s.conv.Valid() }
