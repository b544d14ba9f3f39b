package drop

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// magic is the first line of a message file. The number is the version of the format: a change that an older program
// would misread raises it.
const (
	magicWord = "postrider-message "
	version   = 1
)

// Errors that say what is wrong with a file that claims to be a message.
var (
	ErrIncomplete = errors.New("incomplete message file")
	ErrNewer      = errors.New("message file of a newer version of postrider")
	ErrEnvelope   = errors.New("envelope too long")
)

// appendEnvelope writes the text that stands before the content, up to and with the blank line.
func appendEnvelope(b []byte, env *mail.Envelope) []byte {
	b = fmt.Appendf(b, "%s%d\n", magicWord, version)
	b = fmt.Appendf(b, "arrival: %s\n", env.Arrival.UTC().Format(time.RFC3339Nano))
	b = fmt.Appendf(b, "submitter: %d\n", env.Submitter)
	b = fmt.Appendf(b, "sender: %s\n", env.Sender)
	if !env.OriginalSender.IsNull() {
		b = fmt.Appendf(b, "original-sender: %s\n", env.OriginalSender)
	}
	if env.Return != mail.ReturnDefault {
		b = fmt.Appendf(b, "return: %s\n", env.Return)
	}
	if env.ID != "" {
		b = fmt.Appendf(b, "envid: %s\n", env.ID)
	}
	if env.SMTPUTF8 {
		b = append(b, "smtputf8: yes\n"...)
	}
	if env.Priority != 0 {
		b = fmt.Appendf(b, "priority: %d\n", env.Priority)
	}
	for _, f := range []struct{ key, value string }{
		{"requiretls", env.TLS.String()}, {"hold", env.Hold.String()}, {"deliver-by", env.DeliverBy.String()},
	} {
		if f.value != "" {
			b = fmt.Appendf(b, "%s: %s\n", f.key, f.value)
		}
	}
	if s := env.Settles; s != nil {
		b = fmt.Appendf(b, "settles: %s", s.Of)
		for _, n := range s.Recipients {
			b = fmt.Appendf(b, " %d", n)
		}
		b = append(b, '\n')
	}
	for _, r := range env.Recipients {
		b = append(r.AppendText(append(b, "recipient: "...)), '\n')
	}
	return append(b, '\n')
}

// parseEnvelope reads what appendEnvelope wrote. It trusts nothing: the file may come from anybody. n is the length of
// the text, where the content begins. b that ends before the blank line is ErrIncomplete.
func parseEnvelope(b []byte) (env *mail.Envelope, n int, err error) {
	line, rest, ok := bytes.Cut(b, []byte{'\n'})
	if !ok {
		return nil, 0, ErrIncomplete
	}
	number, ok := strings.CutPrefix(string(line), magicWord)
	v, err := strconv.Atoi(number)
	if !ok || err != nil || v < 1 {
		return nil, 0, errors.New("not a message file")
	}
	if v > version {
		return nil, 0, ErrNewer
	}
	env = &mail.Envelope{Submitter: -1}
	sender := false
	for {
		line, rest, ok = bytes.Cut(rest, []byte{'\n'})
		if !ok {
			return nil, 0, ErrIncomplete
		}
		if len(line) == 0 {
			break
		}
		key, value, ok := strings.Cut(string(line), ": ")
		if !ok {
			return nil, 0, fmt.Errorf("envelope line %.100q", line)
		}
		if err := parseField(env, key, value); err != nil {
			return nil, 0, fmt.Errorf("envelope line %.100q: %.200v", line, err) // a stranger's line is as long as he likes
		}
		sender = sender || key == "sender"
	}
	if !sender || len(env.Recipients) == 0 || env.Arrival.IsZero() {
		return nil, 0, errors.New("envelope without arrival, sender or recipients")
	}
	return env, len(b) - len(rest), nil
}

func parseField(env *mail.Envelope, key, value string) (err error) {
	switch key {
	case "arrival":
		env.Arrival, err = time.Parse(time.RFC3339Nano, value)
	case "submitter":
		env.Submitter, err = strconv.Atoi(value)
	case "sender":
		env.Sender, err = mail.ParseBracketed(value)
	case "original-sender":
		env.OriginalSender, err = mail.ParseBracketed(value)
	case "return":
		env.Return, err = mail.ParseReturn(value)
	case "envid":
		env.ID = value
		_, err = mail.DecodeXtext(value)
	case "smtputf8":
		env.SMTPUTF8 = true
	case "priority":
		env.Priority, err = mail.ParsePriority(value)
	case "requiretls":
		env.TLS, err = mail.ParseTLSWish(value)
	case "hold":
		env.Hold, err = mail.ParseHold(value)
	case "deliver-by":
		env.DeliverBy, err = mail.ParseDeliverBy(value)
	case "settles":
		env.Settles, err = parseSettles(value)
	case "recipient":
		var r mail.Recipient
		r, err = mail.ParseRecipient(value)
		env.Recipients = append(env.Recipients, r)
	default:
		// A whitelist: what this version does not know, it must not act on.
		err = errors.New("unknown field")
	}
	return err
}

func parseSettles(value string) (*mail.Settles, error) {
	words := strings.Fields(value)
	if len(words) < 2 {
		return nil, errors.New("no recipients settled")
	}
	id, err := mail.ParseID(words[0])
	if err != nil {
		return nil, err
	}
	s := &mail.Settles{Of: id}
	for _, w := range words[1:] {
		n, err := strconv.ParseUint(w, 10, 31)
		if err != nil {
			return nil, err
		}
		s.Recipients = append(s.Recipients, int(n))
	}
	return s, nil
}

// trailerLength is the length of the last line of a message file. It is fixed, so that it can be read from the end.
// The CRC is of everything before its own digits.
const (
	trailerLength = len("end 000000000000 line 000000000000 flags -- crc32 00000000\n")
	crcLength     = len("00000000\n")
)

// appendTrailer writes the last line but for the CRC: how long the content is, and what a client must know of it.
func appendTrailer(b []byte, size int64, f mail.Facts) []byte {
	flags := []byte("--")
	if f.EightBit {
		flags[0] = '8'
	}
	if f.HeaderUTF8 {
		flags[1] = 'u'
	}
	return fmt.Appendf(b, "end %012d line %012d flags %s crc32 ", size, f.LongestLine, flags)
}

// parseTrailer reads the last line. What was not written by appendTrailer is ErrIncomplete.
func parseTrailer(b []byte) (size int64, f mail.Facts, crc uint32, err error) {
	field := strings.Fields(string(b))
	if len(b) != trailerLength || len(field) != 8 || len(field[5]) != 2 {
		return 0, f, 0, ErrIncomplete
	}
	size, errSize := strconv.ParseInt(field[1], 10, 64)
	line, errLine := strconv.ParseUint(field[3], 10, 63)
	sum, errSum := strconv.ParseUint(field[7], 16, 32)
	f = mail.Facts{EightBit: field[5][0] == '8', HeaderUTF8: field[5][1] == 'u', LongestLine: int(line)}
	if errSize != nil || errLine != nil || errSum != nil || string(appendCRC(appendTrailer(nil, size, f), uint32(sum))) != string(b) {
		return 0, f, 0, ErrIncomplete
	}
	return size, f, uint32(sum), nil
}

func appendCRC(b []byte, crc uint32) []byte { return fmt.Appendf(b, "%08x\n", crc) }
