package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/postrider/postrider/internal/config"
	"golang.org/x/sys/unix"
)

// checkMailbox says why we could not deliver into the mailbox of a transport, as far as that can be seen without doing it.
// What depends on the recipient, or is done as somebody else, is not looked at, nor what is in a spool that is still to be
// made.
func checkMailbox(cfg *config.Config, t config.Transport) error {
	if t.RunAs != "" || t.ForUsers() {
		return nil
	}
	if _, err := os.Stat(cfg.Spool); errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(t.Path, cfg.Spool+"/") {
		return nil
	}
	switch t.Scheme {
	case "maildir":
		if err := mayWrite(t.Path, unix.X_OK); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return mayWrite(filepath.Dir(t.Path), unix.X_OK)
	case "mbox":
		// The directory, too: for the file that is its lock.
		if err := mayWrite(filepath.Dir(t.Path), unix.X_OK); err != nil {
			return err
		}
		if err := mayWrite(t.Path, 0); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// mayWrite returns an error if we have not the right to write to a file, or to what else is in more.
func mayWrite(path string, more uint32) error {
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK|more, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "write to", Path: path, Err: err}
	}
	return nil
}
