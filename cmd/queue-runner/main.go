// Command queue-runner makes delivery passes over the spool: one, or one after another as a daemon, which takes messages at
// sockets, too.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/spool"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// Exit statuses (sysexits.h).
const (
	exitUsage    = 64
	exitDataErr  = 65
	exitNoUser   = 67
	exitTempfail = 75
	exitNoPerm   = 77
	exitConfig   = 78
)

func main() {
	// A log that nobody reads must not end a pass.
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	err := app(stdout, stderr).Run(args)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "queue-runner: %v\n", err)
	return exitStatus(err)
}

// usageError is a mistake on the command line.
type usageError struct{ error }

func exitStatus(err error) int {
	var usage usageError
	var mistake *config.Error
	var syntax syntaxError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &mistake):
		return exitConfig
	case errors.As(err, &syntax):
		return exitDataErr
	case errors.Is(err, errNowhere):
		return exitNoUser
	case errors.Is(err, fs.ErrPermission):
		return exitNoPerm
	default:
		return exitTempfail
	}
}

func app(stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:            "queue-runner",
		Usage:           "deliver what is due in the mail queue",
		HideHelpCommand: true,
		HideVersion:     true,
		Writer:          stdout,
		ErrWriter:       stderr,
		ExitErrHandler:  func(*cli.Context, error) {},
		OnUsageError:    misused,
		// An address may have a comma.
		DisableSliceFlagSeparator: true,
		Flags: []cli.Flag{
			configFlag(),
			&cli.BoolFlag{Name: "daemon", Usage: "keep running, and deliver new mail at once"},
			&cli.DurationFlag{Name: "interval", Usage: "with --daemon: look at the queue at least once every `DURATION`", Value: defaultInterval},
			&cli.BoolFlag{Name: "now", Usage: "try everything at once, whatever the schedule says"},
			&cli.StringSliceFlag{Name: "only-id", Usage: "try at once, and nothing else, messages with `TEXT` in their queue ID"},
			&cli.StringSliceFlag{Name: "only-sender", Usage: "the same, with `TEXT` in the sender"},
			&cli.StringSliceFlag{Name: "only-recipient", Usage: "the same for recipients with `TEXT` in them"},
			&cli.BoolFlag{Name: "wait", Usage: "if another pass makes these attempts, wait for them"},
			&cli.BoolFlag{Name: "verbose", Usage: "show the dialogues with servers, and what came of them"},
			&cli.BoolFlag{Name: "version", Usage: "print the version instead of making a pass"},
		},
		Action: func(c *cli.Context) error {
			if c.Bool("version") {
				_, err := fmt.Fprintln(stdout, "postrider", version())
				return err
			}
			o, err := passOptions(c)
			if err != nil {
				return usageError{err}
			}
			return deliverMail(configFile(c), o, stdout, stderr)
		},
		Commands: commands(stdout, stderr),
	}
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// prepare reads the configuration for what touches the spool.
func prepare(file string) (*config.Config, error) {
	unix.Umask(0o027)
	return config.Load(file)
}

// configFile returns the file after -C, before or after the name of the command.
func configFile(c *cli.Context) string {
	for _, level := range c.Lineage() {
		if file := level.String("C"); file != "" {
			return file
		}
	}
	return ""
}

// defaultInterval is how often a daemon looks at the queue by itself. New mail and the time of the next attempt wake it
// anyway; this is for what no signal tells of.
const defaultInterval = 5 * time.Minute

// options are what the command line says of passes.
type options struct {
	daemon        bool
	interval      time.Duration
	only          *spool.Selection // nil: what is due
	wait, verbose bool
}

func passOptions(c *cli.Context) (o options, err error) {
	o = options{daemon: c.Bool("daemon"), interval: c.Duration("interval"), wait: c.Bool("wait"), verbose: c.Bool("verbose")}
	only := spool.Selection{IDs: c.StringSlice("only-id"), Senders: c.StringSlice("only-sender"), Recipients: c.StringSlice("only-recipient")}
	if c.Bool("now") || !only.All() {
		o.only = &only
	}
	switch {
	case c.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", c.Args().First())
	case o.interval <= 0:
		return o, errors.New("the interval must be positive")
	case o.daemon && (o.only != nil || o.wait):
		return o, errors.New("a daemon goes by the schedule: --daemon stands with neither --now, --only-... nor --wait")
	case o.wait && o.only == nil:
		return o, errors.New("--wait needs --now or --only-..., to say for what")
	}
	return o, nil
}

// deliverMail makes a pass, or passes until a signal ends the daemon. What ends it early is in the log as well as in the
// error: nobody has the standard error of a pass that sendmail started.
func deliverMail(file string, o options, stdout, stderr io.Writer) (err error) {
	cfg, err := prepare(file)
	if err != nil {
		return err
	}
	var doors []door
	if o.daemon {
		if doors, err = openDoors(cfg); err != nil {
			return err
		}
	}
	helper, err := startSteward(cfg)
	if err != nil {
		return err
	}
	if err := becomeOwner(cfg.Spool); err != nil {
		return err
	}
	var trace func(relay, line string)
	show := &narrator{to: stdout}
	if o.verbose {
		trace = show.dialogue
		stderr = io.Discard // else the log would be seen twice
	}
	log, onStderr, err := openLog(cfg.Log, stderr)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && !onStderr {
			log("the pass ended early: %v", err)
		}
	}()
	if o.verbose {
		log = show.alongside(log)
	}
	build := func(cfg *config.Config) (*runner, error) { return newRunner(cfg, helper, log, trace) }
	r, err := build(cfg)
	if err != nil {
		return err
	}
	if o.daemon {
		return r.attended(doors, o.interval, &reloader{file: file, cfg: cfg, rebuild: build, logf: log})
	}
	r.spool.Only = o.only
	made, err := r.once(o.wait)
	if err == nil && !made && o.verbose {
		return show.outcome(cfg.Spool, o)
	}
	return err
}
