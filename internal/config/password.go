package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// maxPassword is in octets; tokens that take the place of a password have a few thousand.
const maxPassword = 64 << 10

// ReadPassword returns what stands in a password file, without the newline at its end. Errors name the file and never say
// what is in it.
func ReadPassword(file string) (string, error) {
	text, err := readSecret(file, maxPassword)
	if err == nil {
		text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
		switch {
		case text == "":
			err = errors.New("is empty")
		case strings.ContainsAny(text, "\n\x00"):
			err = errors.New("holds more than one line")
		}
	}
	if err != nil {
		return "", fmt.Errorf("password file %s: %w", file, err)
	}
	return text, nil
}

// maxSecret is far above any list of users, or chain of certificates with its key.
const maxSecret = 16 << 20

// ReadSecret returns what stands in a file with secrets. Its errors are those of ReadPassword.
func ReadSecret(file string) (string, error) {
	text, err := readSecret(file, maxSecret)
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return text, nil
}

// readSecret reads a file that belongs to root or to the user we run as, and is neither open to everybody nor writable by
// its group.
func readSecret(file string, most int64) (string, error) {
	// O_NONBLOCK: a FIFO in its place must not hold us up.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", cause(err)
	}
	defer f.Close() // only read: closing cannot lose anything
	info, err := f.Stat()
	if err != nil {
		return "", cause(err)
	}
	if err := checkSecret(info, os.Geteuid()); err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", cause(err)
	}
	if int64(len(data)) > most {
		return "", fmt.Errorf("is longer than %d octets", most)
	}
	return string(data), nil
}

// checkSecret refuses a file that others may read or may have written.
func checkSecret(info os.FileInfo, euid int) error {
	if !info.Mode().IsRegular() {
		return errors.New("is not a regular file")
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if owner != 0 && owner != euid {
		return fmt.Errorf("belongs to user %d; it must belong to root or to user %d", owner, euid)
	}
	if perm := info.Mode().Perm(); perm&0o027 != 0 {
		return fmt.Errorf("has mode %04o, which lets others at it; use chmod 0600, or 0640 with a group of our own", perm)
	}
	return nil
}
