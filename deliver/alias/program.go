package alias

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A program is what is left of "|command", "/file" or "/maildir/" without the quotes of the alias file.
func program(target string) (s string, ok bool) {
	s = target
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = unescape(s[1 : len(s)-1])
	}
	command, isCommand := strings.CutPrefix(s, "|")
	if !isCommand {
		return s, strings.HasPrefix(s, "/")
	}
	command = strings.TrimSpace(command)
	if len(command) >= 2 && command[0] == '"' && strings.IndexByte(command[1:], '"') == len(command)-2 {
		command = command[1 : len(command)-1]
	}
	return "|" + strings.ReplaceAll(command, "\t", " "), true
}

// unescape removes the backslash before quotes and backslashes.
func unescape(s string) string { return strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(s) }

// maxProgram keeps a program short enough to stand in an envelope, as the address of a recipient.
const maxProgram = 700

// checkProgram says what is wrong with a file or a command.
func checkProgram(s string) error {
	if len(s) > maxProgram {
		return fmt.Errorf("longer than %d octets", maxProgram)
	}
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || 0x7f <= c && c < 0xa0 }) {
		return errors.New("a control character in it")
	}
	if !strings.HasPrefix(s, "|") {
		return nil
	}
	_, err := Words(s[1:])
	return err
}

// Words returns the words of a command: what blanks part, but for those in single or double quotes. No shell will read
// them, so what one would make something else of is an error.
func Words(command string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	within := false // a word, perhaps an empty one
	for _, c := range command {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case strings.ContainsRune("$`\\", c) && quote != '\'' || quote == 0 && strings.ContainsRune(";&|<>()*?[~#\n", c):
			return nil, fmt.Errorf("no shell runs the command, and %q needs one; put it into a script", c)
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, within = c, true
		case c == ' ' || c == '\t':
			if within {
				words = append(words, word.String())
			}
			word.Reset()
			within = false
		default:
			word.WriteRune(c)
			within = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if within {
		words = append(words, word.String())
	}
	if len(words) == 0 || !strings.HasPrefix(words[0], "/") {
		return nil, errors.New("the command does not begin with an absolute path")
	}
	return words, nil
}

// Has reports whether some alias stands for the file or command. What was queued for one is not delivered to it when the
// file does not say so any more.
func (t *Table) Has(s string) bool {
	for _, e := range t.entries {
		if slices.ContainsFunc(e.targets, func(target string) bool {
			p, ok := program(target)
			return ok && p == s
		}) {
			return true
		}
	}
	return false
}
