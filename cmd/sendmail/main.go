// Command sendmail accepts a message from the programs of this machine: it exits with status 0 only when the message is
// in the spool for good.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/internal/submit"
)

func main() {
	harden()
	os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run does what the command line asks for, and returns the exit status. Nothing is written but one line about what went
// wrong: callers take any output for a failure, or mix it into their own.
func run(args []string, stdin *os.File, stdout, stderr io.Writer) (status int) {
	defer func() {
		if v := recover(); v != nil {
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
	if o.mode == deliverMessage {
		// Else the caller would be told of a broken pipe, and not of what is wrong. If this fails, it is no news.
		_ = drain(stdin)
	}
	var refusal *submit.Error
	if o.errors == 'e' && errors.As(err, &refusal) && refusal.Returned {
		return 0
	}
	if o.errors != 'q' {
		fmt.Fprintf(stderr, "sendmail: %v\n", err)
	}
	return exitStatus(err)
}

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

func (o *options) do(stdin *os.File, stdout io.Writer) error {
	switch o.mode {
	case listQueue:
		return become("mailq", append(o.configArgs(), o.operands...)...)
	case runQueue:
		return become("queue-runner", o.configArgs()...)
	case runDaemon:
		return become("queue-runner", append(o.configArgs(), "--daemon", "--interval", o.every.String())...)
	case checkAliases:
		return become("queue-runner", append(o.configArgs(), "newaliases")...)
	case checkConfig:
		_, err := config.Load(o.configFile())
		return err
	case showVersion:
		_, err := fmt.Fprintln(stdout, "postrider", version())
		return err
	case doNothing:
		return nil
	}
	return o.deliver(stdin)
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
