package smtptest

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
)

// errRefused means that user and password do not fit; anything else a client does wrong is errSyntax.
var (
	errRefused = errors.New("refused")
	errSyntax  = errors.New("malformed response")
)

// A mechanism is the server's side of one. initial is nil if the client sent no initial response. It returns who the
// client proved to be.
type mechanism func(c *session, initial []byte) (user string, err error)

// The SCRAM mechanisms are written from RFC 5802 and RFC 9266 here, not taken from the library that our client uses:
// the two ends of a test should not share their mistakes.
var mechanisms = map[string]mechanism{
	"PLAIN":              plain,
	"LOGIN":              login,
	"CRAM-MD5":           cramMD5,
	"SCRAM-SHA-1":        scram(sha1.New, false),
	"SCRAM-SHA-1-PLUS":   scram(sha1.New, true),
	"SCRAM-SHA-256":      scram(sha256.New, false),
	"SCRAM-SHA-256-PLUS": scram(sha256.New, true),
}

func (c *session) auth(line string) error {
	fields := strings.Fields(line)
	switch {
	case len(fields) < 2 || len(fields) > 3:
		return c.say(line, "501 5.5.4 AUTH mechanism [response]")
	case c.user != "":
		return c.say(line, "503 5.5.1 once is enough")
	case c.tls == nil && !c.server.opts.AuthInClear:
		return c.say(line, "538 5.7.11 not in clear")
	}
	if reply := c.scripted(line, ""); reply != "" {
		return c.say(line, reply)
	}
	run, known := mechanisms[strings.ToUpper(fields[1])]
	if !known || !slices.Contains(c.server.opts.Mechanisms, strings.ToUpper(fields[1])) {
		return c.say(line, "504 5.5.4 no such mechanism")
	}
	var initial []byte
	if len(fields) == 3 {
		var err error
		if initial, err = decode(fields[2]); err != nil {
			return c.say(line, "501 5.5.2 malformed response")
		}
	}
	user, err := run(c, initial)
	switch {
	case errors.Is(err, errRefused):
		return c.say("AUTH END", "535 5.7.8 wrong user or password")
	case errors.Is(err, errSyntax):
		return c.say("AUTH END", "501 5.5.2 malformed response")
	case err != nil:
		return err
	}
	c.user = user
	return c.say("AUTH END", "235 2.7.0 welcome")
}

func decode(s string) ([]byte, error) {
	if s == "=" {
		return []byte{}, nil
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, errSyntax
	}
	return b, nil
}

// challenge sends a challenge and returns the response.
func (c *session) challenge(text []byte) ([]byte, error) {
	if err := c.write("334 " + base64.StdEncoding.EncodeToString(text)); err != nil {
		return nil, err
	}
	line, err := c.line()
	if err != nil {
		return nil, err
	}
	return decode(line)
}

func (c *session) check(user, password string) (string, error) {
	if want, known := c.server.opts.Users[user]; !known || want != password {
		return "", errRefused
	}
	return user, nil
}

func plain(c *session, initial []byte) (string, error) {
	if initial == nil {
		var err error
		if initial, err = c.challenge(nil); err != nil {
			return "", err
		}
	}
	parts := strings.Split(string(initial), "\x00")
	if len(parts) != 3 {
		return "", errSyntax
	}
	return c.check(parts[1], parts[2])
}

func login(c *session, initial []byte) (string, error) {
	if initial == nil {
		var err error
		if initial, err = c.challenge([]byte("Username:")); err != nil {
			return "", err
		}
	}
	password, err := c.challenge([]byte("Password:"))
	if err != nil {
		return "", err
	}
	return c.check(string(initial), string(password))
}

func cramMD5(c *session, initial []byte) (string, error) {
	if initial != nil {
		return "", errSyntax
	}
	challenge := []byte("<" + rand.Text() + "@" + c.server.opts.Hostname + ">")
	response, err := c.challenge(challenge)
	if err != nil {
		return "", err
	}
	user, digest, _ := strings.Cut(string(response), " ")
	password, known := c.server.opts.Users[user]
	sum := hmac.New(md5.New, []byte(password))
	sum.Write(challenge)
	if !known || digest != hex.EncodeToString(sum.Sum(nil)) {
		return "", errRefused
	}
	return user, nil
}

func scram(newHash func() hash.Hash, plus bool) mechanism {
	return func(c *session, initial []byte) (string, error) {
		parts := strings.SplitN(string(initial), ",", 3)
		if len(parts) != 3 {
			return "", errSyntax
		}
		binding, err := c.binding(parts[0], plus)
		if err != nil {
			return "", err
		}
		gs2, first := parts[0]+","+parts[1]+",", parts[2]
		user, nonce, ok := strings.Cut(first, ",r=")
		user, hasUser := strings.CutPrefix(user, "n=")
		if !ok || !hasUser {
			return "", errSyntax
		}
		user = strings.NewReplacer("=2C", ",", "=3D", "=").Replace(user)
		const salt, iterations = "smtptest salt", 4096
		nonce += rand.Text()
		serverFirst := fmt.Sprintf("r=%s,s=%s,i=%d", nonce, base64.StdEncoding.EncodeToString([]byte(salt)), iterations)
		final, err := c.challenge([]byte(serverFirst))
		if err != nil {
			return "", err
		}
		withoutProof, proof64, ok := strings.Cut(string(final), ",p=")
		proof, proofErr := base64.StdEncoding.DecodeString(proof64)
		if !ok || proofErr != nil {
			return "", errSyntax
		}
		cbind := base64.StdEncoding.EncodeToString(append([]byte(gs2), binding...))
		if withoutProof != "c="+cbind+",r="+nonce {
			return "", errRefused
		}
		authMessage := first + "," + serverFirst + "," + withoutProof
		password, known := c.server.opts.Users[user]
		salted, err := pbkdf2.Key(newHash, password, []byte(salt), iterations, newHash().Size())
		if err != nil {
			return "", err
		}
		clientKey := mac(newHash, salted, "Client Key")
		stored := newHash()
		stored.Write(clientKey)
		for i, b := range mac(newHash, stored.Sum(nil), authMessage) {
			clientKey[i] ^= b
		}
		if !known || !bytes.Equal(clientKey, proof) {
			return "", errRefused
		}
		verifier := mac(newHash, mac(newHash, salted, "Server Key"), authMessage)
		_, err = c.challenge([]byte("v=" + base64.StdEncoding.EncodeToString(verifier)))
		return user, err
	}
}

// binding returns the channel binding data that the flag of the client promises (RFC 5802 section 6).
func (c *session) binding(flag string, plus bool) ([]byte, error) {
	switch {
	case plus && flag == "p=tls-exporter" && c.tls != nil:
		return c.tls.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	case plus || strings.HasPrefix(flag, "p="):
		return nil, errSyntax
	case flag == "y" && slices.ContainsFunc(c.server.opts.Mechanisms, func(m string) bool { return strings.HasSuffix(m, "-PLUS") }):
		return nil, errRefused // somebody has hidden our -PLUS mechanisms from the client
	}
	return nil, nil
}

func mac(newHash func() hash.Hash, key []byte, text string) []byte {
	m := hmac.New(newHash, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}
