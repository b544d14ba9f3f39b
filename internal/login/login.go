// Package login knows who may log in at a server, and conducts the exchanges of SASL (RFC 4422) in which they prove it.
//
// What is kept of a password is what SCRAM needs (RFC 5802 section 3), on one line for each user, as PostgreSQL and
// Dovecot have it, too:
//
//	ann:SCRAM-SHA-256$15000:salt$StoredKey:ServerKey
//
// That serves every mechanism, and lets nobody log in who has read it.
package login

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"
)

// Users are who may log in.
type Users map[string]scram.StoredCredentials

const (
	iterations    = 15_000    // RFC 7677 section 4
	minIterations = 4096      // RFC 5802 section 5.1
	maxIterations = 1_000_000 // each login costs as many
	saltLength    = 16
	prefix        = "SCRAM-SHA-256$"
)

// Parse reads the lines of a file. Empty ones, and those that begin with #, are for people. Errors name the line, and not
// what is in it.
func Parse(text string) (Users, error) {
	users := Users{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		name, secret, _ := strings.Cut(line, ":")
		if !isName(name) {
			return nil, fmt.Errorf("line %d: no name before the colon", n)
		}
		if _, twice := users[name]; twice {
			return nil, fmt.Errorf("line %d: the name stands here again", n)
		}
		credentials, err := parseCredentials(secret)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		users[name] = credentials
	}
	return users, nil
}

// isName reports whether a name can stand in a line of the file, and in a log.
func isName(s string) bool {
	const longest = 255
	return s != "" && len(s) <= longest && s[0] != '#' && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == ':' || 0x7f <= r && r < 0xa0 })
}

var errCredentials = errors.New("expected " + prefix + "iterations:salt$key:key, as queue-runner login writes it")

func parseCredentials(s string) (c scram.StoredCredentials, err error) {
	rest, ok := strings.CutPrefix(s, prefix)
	factors, keys, ok2 := strings.Cut(rest, "$")
	number, salt, ok3 := strings.Cut(factors, ":")
	stored, server, ok4 := strings.Cut(keys, ":")
	if !ok || !ok2 || !ok3 || !ok4 {
		return c, errCredentials
	}
	if c.Iters, err = strconv.Atoi(number); err != nil || c.Iters < minIterations || c.Iters > maxIterations {
		return c, fmt.Errorf("%w, with %d to %d iterations", errCredentials, minIterations, maxIterations)
	}
	rawSalt, err := base64.StdEncoding.DecodeString(salt)
	if err != nil || len(rawSalt) == 0 {
		return c, errCredentials
	}
	c.Salt = string(rawSalt)
	for _, key := range []struct {
		to   *[]byte
		text string
	}{{&c.StoredKey, stored}, {&c.ServerKey, server}} {
		if *key.to, err = base64.StdEncoding.DecodeString(key.text); err != nil || len(*key.to) != sha256.Size {
			return c, errCredentials
		}
	}
	return c, nil
}

// Line returns the line for a user.
func Line(name, password string) (string, error) {
	if !isName(name) {
		return "", errors.New("a name has no blanks, colons and control characters, and does not begin with #")
	}
	if password == "" {
		return "", errors.New("the password is empty")
	}
	salt := make([]byte, saltLength)
	rand.Read(salt) // never fails
	c, err := derive(name, password, scram.KeyFactors{Salt: string(salt), Iters: iterations})
	if err != nil {
		return "", err
	}
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s:%s%d:%s$%s:%s", name, prefix, c.Iters, encode(salt), encode(c.StoredKey), encode(c.ServerKey)), nil
}

// derive returns what is kept of a password.
func derive(name, password string, f scram.KeyFactors) (scram.StoredCredentials, error) {
	client, err := scram.SHA256.NewClient(name, password, "")
	if err != nil {
		return scram.StoredCredentials{}, err
	}
	return client.WithMinIterations(minIterations).GetStoredCredentialsWithError(f)
}

// lookup returns what is kept of a user. For one that does not exist, that is what nobody has the password for, and always
// the same: else anybody could ask who exists.
func (u Users) lookup(name string) scram.StoredCredentials {
	if c, ok := u[name]; ok {
		return c
	}
	mac := hmac.New(sha256.New, unknown[:])
	mac.Write([]byte(name))
	salt := mac.Sum(nil)[:saltLength]
	never := make([]byte, sha256.Size)
	rand.Read(never) // never fails
	return scram.StoredCredentials{KeyFactors: scram.KeyFactors{Salt: string(salt), Iters: iterations}, StoredKey: never, ServerKey: never}
}

// unknown is the key for salts of users that do not exist, for as long as the process lasts.
var unknown = func() (key [sha256.Size]byte) {
	rand.Read(key[:]) // never fails
	return key
}()

// verify reports whether a password is that of the user.
func (u Users) verify(name, password string) bool {
	kept := u.lookup(name)
	c, err := derive(name, password, kept.KeyFactors)
	return err == nil && hmac.Equal(c.StoredKey, kept.StoredKey)
}

// ErrRefused is the error for somebody who does not have the password.
var ErrRefused = errors.New("wrong name or password")

// ErrMalformed is the error for a response that is none.
var ErrMalformed = errors.New("malformed response")

// An Exchange is one attempt to log in.
type Exchange interface {
	// Next takes what the client says; nil if it begins, and has said nothing yet. It returns what is to be said to the
	// client, or, when that is over, who the client is.
	Next(response []byte) (challenge []byte, name string, err error)
}

// A Mechanism is a way to log in.
type Mechanism struct {
	Name  string
	Shows bool // the password, to whoever can read the connection
	Start func(Users) Exchange
}

// Mechanisms are all that there are, strongest first.
func Mechanisms() []Mechanism {
	return []Mechanism{
		{"SCRAM-SHA-256", false, func(u Users) Exchange { return &scramSHA256{users: u} }},
		{"PLAIN", true, func(u Users) Exchange { return &plain{users: u} }},
		{"LOGIN", true, func(u Users) Exchange { return &login{users: u} }},
	}
}

// plain is RFC 4616.
type plain struct{ users Users }

func (p *plain) Next(response []byte) (challenge []byte, name string, err error) {
	if response == nil {
		return []byte{}, "", nil
	}
	part := bytes.Split(response, []byte{0})
	if len(part) != 3 {
		return nil, "", ErrMalformed
	}
	as, name, password := string(part[0]), string(part[1]), string(part[2])
	if !p.users.verify(name, password) || as != "" && as != name {
		return nil, "", ErrRefused
	}
	return nil, name, nil
}

// login is what no RFC describes and many clients speak: the name, and then the password.
type login struct {
	users Users
	name  *string
}

func (l *login) Next(response []byte) (challenge []byte, name string, err error) {
	switch {
	case response == nil:
		return []byte("Username:"), "", nil
	case l.name == nil:
		said := string(response)
		l.name = &said
		return []byte("Password:"), "", nil
	case !l.users.verify(*l.name, string(response)):
		return nil, "", ErrRefused
	}
	return nil, *l.name, nil
}

// scramSHA256 is RFC 5802 and RFC 7677, without channel binding.
type scramSHA256 struct {
	users        Users
	conversation *scram.ServerConversation // nil if the client has said nothing yet
}

func (s *scramSHA256) Next(response []byte) (challenge []byte, name string, err error) {
	if response == nil {
		return []byte{}, "", nil
	}
	first := s.conversation == nil
	if first {
		server, err := scram.SHA256.NewServer(func(name string) (scram.StoredCredentials, error) { return s.users.lookup(name), nil })
		if err != nil {
			return nil, "", err
		}
		s.conversation = server.NewConversation()
	}
	c := s.conversation
	if c.Valid() { // and the client has seen that we know him, too
		return nil, c.Username(), nil
	}
	said, err := c.Step(string(response))
	switch {
	case err != nil && first || c.Username() == "":
		return nil, "", ErrMalformed
	case err != nil || c.AuthzID() != "" && c.AuthzID() != c.Username():
		return nil, "", ErrRefused
	}
	return []byte(said), "", nil
}
