// Command mailq shows the queue, in the words of Postfix's mailq or as JSON lines.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/postrider/postrider/internal/config"
	"github.com/postrider/postrider/spool"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// Exit statuses (sysexits.h).
const (
	exitUsage       = 64
	exitUnavailable = 69
	exitNoPerm      = 77
	exitConfig      = 78
)

func main() {
	// mailq | head is no error, and no reason for a signal.
	signal.Ignore(unix.SIGPIPE)
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	err := app(stdout).Run(canonical(args))
	if err == nil {
		return 0
	}
	// Always one line, for it goes into logs and alarms.
	fmt.Fprintf(stderr, "mailq: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	return exitStatus(err)
}

// usageError is a mistake on the command line.
type usageError struct{ error }

func exitStatus(err error) int {
	var usage usageError
	var mistake *config.Error
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &mistake):
		return exitConfig
	case errors.Is(err, fs.ErrPermission):
		return exitNoPerm
	default:
		return exitUnavailable
	}
}

func app(stdout io.Writer) *cli.App {
	return &cli.App{
		Name:                   "mailq",
		Usage:                  "show the mail queue",
		HideHelpCommand:        true,
		HideVersion:            true,
		UseShortOptionHandling: true,
		Writer:                 stdout,
		ErrWriter:              io.Discard, // what is wrong is said once, by run
		ExitErrHandler:         func(*cli.Context, error) {},
		OnUsageError:           func(_ *cli.Context, err error, _ bool) error { return usageError{err} },
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "C", Usage: "read the configuration from `FILE`", EnvVars: []string{"POSTRIDER_CONFIG"}},
			&cli.BoolFlag{Name: "j", Usage: "one JSON object for each message, on a line of its own"},
			&cli.BoolFlag{Name: "v", Usage: "ignored, for other programs' sake"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usageError{fmt.Errorf("unexpected argument %q", c.Args().First())}
			}
			return show(c.String("C"), c.Bool("j"), stdout)
		},
	}
}

// canonical returns the arguments as the library wants them: Sendmail's -Ac and -Am, which choose between queues that
// are one here, left out, and -Cfile in two.
func canonical(args []string) []string {
	var out []string
	for i, arg := range args {
		switch {
		case i == 0 || args[i-1] == "-C":
			out = append(out, arg)
		case arg == "--":
			return append(out, args[i:]...)
		case arg == "-Ac" || arg == "-Am":
		case strings.HasPrefix(arg, "-C") && len(arg) > 2 && arg[2] != '=':
			out = append(out, "-C", arg[2:])
		default:
			out = append(out, arg)
		}
	}
	return out
}

// show prints the queue of the configuration in file. That may also be the directory of the file: who comes from Postfix
// names one.
func show(file string, json bool, stdout io.Writer) error {
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		file = filepath.Join(file, filepath.Base(config.Default()))
	}
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	var l listing = new(text)
	if json {
		l = jsonLines{}
	}
	return printQueue(stdout, spool.List(cfg.Spool), l)
}
