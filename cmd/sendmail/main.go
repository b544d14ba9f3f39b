// Command sendmail accepts a message from the programs of this machine: it exits with status 0 only when the message is
// in the spool for good.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
)

func main() {
	harden()
	// The first local time reads a file by way of the stack, which would have to grow for that, by a tenth of what a
	// submission costs, were it any deeper than here.
	_, _ = time.Now().Zone()
	os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run does what the command line asks for, and returns the exit status. Nothing is written but one line about what went
// wrong: callers take any output for a failure, or mix it into their own.
func run(args []string, stdin, stdout *os.File, stderr io.Writer) (status int) {
	var o options
	defer func() {
		if v := recover(); v != nil && !o.accepted { // else he would send it again
			fmt.Fprintf(stderr, "sendmail: internal error: %v\n", v)
			status = submit.ExitSoftware
		}
	}()
	o, err := parse(args)
	if err == nil {
		err = o.do(stdin, stdout)
	}
	if err == nil {
		return 0
	}
	status = o.report(err, stderr)
	if o.mode == deliverMessage {
		// Else the caller would be told of a broken pipe, and not of what is wrong. If this fails, it is no news. Who
		// watches need not wait for it.
		_ = drain(stdin)
	}
	return status
}

// report says what went wrong, unless that is not wanted, or has been said, and returns the exit status.
func (o *options) report(err error, stderr io.Writer) (status int) {
	var ended endedWith
	if errors.As(err, &ended) {
		return int(ended)
	}
	var refusal *submit.Error
	if o.errors == 'e' && errors.As(err, &refusal) && refusal.Returned {
		return 0
	}
	if o.errors != 'q' {
		fmt.Fprintf(stderr, "sendmail: %s\n", onOneLine(err))
	}
	return exitStatus(err)
}

// onOneLine returns the text of an error, which may be several that were joined.
func onOneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func exitStatus(err error) int {
	var refusal *submit.Error
	var mistake *config.Error
	switch {
	case errors.As(err, &refusal):
		return refusal.Status
	case errors.As(err, &mistake):
		return submit.ExitConfig
	}
	return submit.ExitTemporary
}

func (o *options) do(stdin, stdout *os.File) error {
	switch o.mode {
	case speakSMTP:
		return o.speakSMTP(stdin, stdout)
	case listQueue:
		return become("mailq", o.listing()...)
	case explainAddresses:
		return become("queue-runner", o.explanation()...)
	case runQueue:
		return become("queue-runner", o.queueRunArgs()...)
	case runDaemon:
		return o.runDaemon()
	case checkAliases:
		return become("queue-runner", append(o.configArgs(), "newaliases")...)
	case checkConfig:
		_, err := config.Load(o.configFile())
		return err
	case showHelp:
		return help(stdout)
	case showVersion:
		_, err := fmt.Fprintln(stdout, "postrider", version())
		return err
	case doNothing:
		return nil
	}
	return o.deliver(stdin, stdout)
}

// listing returns the arguments for mailq.
func (o *options) listing() []string {
	args := append(o.configArgs(), o.only...)
	if o.verbose {
		args = append(args, "-v")
	}
	return append(args, o.operands...)
}

// explanation returns the arguments that have queue-runner say where mail goes.
func (o *options) explanation() []string {
	args := append(o.configArgs(), "route")
	if o.senderGiven {
		sender := strings.TrimSpace(o.sender)
		if sender == "" {
			sender = "<>"
		}
		args = append(args, "--sender="+sender)
	}
	return append(append(args, "--"), o.operands...)
}

// queueRunArgs returns the arguments for one pass. A bare -q flushes the queue: that is what it is typed for.
func (o *options) queueRunArgs() []string {
	args := append(o.configArgs(), o.only...)
	if len(o.only) == 0 {
		args = append(args, "--now")
	}
	if o.verbose {
		args = append(args, "--verbose")
	}
	return args
}

// runDaemon goes on as a daemon, or leaves one behind.
func (o *options) runDaemon() error {
	args := append(o.configArgs(), "--daemon")
	if o.every > 0 {
		args = append(args, "--interval", o.every.String())
	}
	if !o.background {
		return become("queue-runner", args...)
	}
	// What can be wrong is seen now: a daemon in the background has nobody to tell.
	cfg, err := config.Load(o.configFile())
	if err != nil {
		return err
	}
	if !mayDeliver(cfg) {
		return submit.Refuse(submit.ExitNoPerm, mail.EnhancedCode{4, 7, 0}, "only root and the owner of %s deliver mail", cfg.Spool)
	}
	if _, err = start("queue-runner", nil, args...); err != nil {
		return cannotRun("queue-runner", err)
	}
	return nil
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// configFile returns the file that the configuration is read from, "" for the usual one. Only who could do as much
// without us chooses it.
func (o *options) configFile() string {
	if !trusted() {
		return ""
	}
	if o.config != "" {
		return o.config
	}
	return os.Getenv("POSTRIDER_CONFIG")
}

// configArgs returns the arguments that let another program of ours read the same configuration. What the environment
// says, that program sees itself.
func (o *options) configArgs() []string {
	if o.config != "" && trusted() {
		return []string{"-C", o.config}
	}
	return nil
}
