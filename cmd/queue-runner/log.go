package main

import (
	"fmt"
	"io"
	"log/syslog"
	"os"

	"github.com/postrider/postrider/internal/config"
)

// openLog returns the mail log: a function that writes one line. By itself it chooses the terminal, or the journal that
// standard error is connected to; else syslog, if there is one; else standard error.
func openLog(where string, stderr io.Writer) (func(format string, args ...any), error) {
	plain := func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }
	if where == config.LogStderr || where == config.LogAuto && (isTerminal(os.Stderr) || os.Getenv("JOURNAL_STREAM") != "") {
		return plain, nil
	}
	w, err := syslog.New(syslog.LOG_MAIL|syslog.LOG_INFO, "postrider")
	if err != nil && where == config.LogAuto {
		return plain, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open syslog: %w", err)
	}
	return func(format string, args ...any) {
		// A log that is full or gone must not stop the mail.
		if err := w.Info(fmt.Sprintf(format, args...)); err != nil {
			plain(format, args...)
		}
	}, nil
}
