package submit

import (
	"errors"
	"fmt"

	"github.com/postrider/postrider/internal/mail"
	"golang.org/x/sys/unix"
)

// Exit statuses of sysexits.h, as far as a submission ends in them.
const (
	ExitUsage       = 64 // the command line is wrong
	ExitData        = 65 // the message or an address is
	ExitNoInput     = 66 // there is no message to be read
	ExitUnavailable = 69 // the message is one that we do not take
	ExitSoftware    = 70 // we are wrong
	ExitOS          = 71 // a process could not be started
	ExitIO          = 74 // the message could not be read to its end
	ExitTemporary   = 75 // the spool does not take the message now
	ExitNoPerm      = 77 // it is not the caller's to do
	ExitConfig      = 78 // the configuration is wrong
)

// An Error is why a message was not accepted: as a program that runs us is told, and as one that talks SMTP would be.
type Error struct {
	Status int               // of sysexits.h
	Code   mail.EnhancedCode // of RFC 3463
	Err    error

	Returned bool // the sender has been told by mail
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Refuse returns an Error in our own words.
func Refuse(status int, code mail.EnhancedCode, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Err: fmt.Errorf(format, args...)}
}

// NotQueued returns the Error for a spool that does not take the message: whatever the reason, the submitter may try
// again.
func NotQueued(err error) *Error {
	code := mail.EnhancedCode{4, 3, 0}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		code = mail.EnhancedCode{4, 3, 1}
	}
	return Refuse(ExitTemporary, code, "cannot queue message: %w", err)
}

// Unreadable returns the Error for content that cannot be read to its end.
func Unreadable(err error) *Error {
	status := ExitIO
	if errors.Is(err, unix.EBADF) || errors.Is(err, unix.EISDIR) {
		status = ExitNoInput
	}
	return Refuse(status, mail.EnhancedCode{4, 3, 0}, "cannot read message: %w", err)
}
