package main

import (
	"fmt"
	"io"
	"log/syslog"
	"os"

	"github.com/postrider/postrider/internal/config"
	"golang.org/x/sys/unix"
)

// openLog returns the mail log: a function that writes one line. By itself it chooses the terminal, or the journal that
// standard error is connected to; else syslog, if there is one; else standard error. onStderr reports that it is this.
func openLog(where string, stderr io.Writer) (log func(format string, args ...any), onStderr bool, err error) {
	plain := func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }
	if where == config.LogStderr || where == config.LogAuto && (isTerminal(os.Stderr) || isJournal(os.Stderr, os.Getenv("JOURNAL_STREAM"))) {
		return plain, true, nil
	}
	w, err := syslog.New(syslog.LOG_MAIL|syslog.LOG_INFO, "postrider")
	if err != nil && where == config.LogAuto {
		return plain, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("open syslog: %w", err)
	}
	return func(format string, args ...any) {
		// A log that is full or gone must not stop the mail.
		if err := w.Info(fmt.Sprintf(format, args...)); err != nil {
			plain(format, args...)
		}
	}, false, nil
}

// isTerminal reports whether f is one, and not just a device, as the one is that sendmail starts us with.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// isJournal reports whether f is the stream that JOURNAL_STREAM names by device and inode (systemd.exec(5)). The variable
// alone says nothing: who is started by a service inherits it, whatever his standard error is.
func isJournal(f *os.File, stream string) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
