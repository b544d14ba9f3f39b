// Command mailq shows the queue, in the words of Postfix's mailq or as JSON lines.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
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
		HideVersion:            true, // the library's option would take -v
		UseShortOptionHandling: true,
		Writer:                 stdout,
		ErrWriter:              io.Discard, // what is wrong is said once, by run
		ExitErrHandler:         func(*cli.Context, error) {},
		OnUsageError:           func(_ *cli.Context, err error, _ bool) error { return usageError{err} },
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "C", Usage: "read the configuration from `FILE`", EnvVars: []string{"POSTRIDER_CONFIG"}},
			&cli.BoolFlag{Name: "j", Usage: "one JSON object for each message, on a line of its own"},
			&cli.BoolFlag{Name: "v", Usage: "say of each recipient how often he was tried, and when he is next"},
			&cli.StringSliceFlag{Name: "only-id", Usage: "list messages with `TEXT` in their queue ID; also -qI"},
			&cli.StringSliceFlag{Name: "only-sender", Usage: "list messages with `TEXT` in their sender; also -qS"},
			&cli.StringSliceFlag{Name: "only-recipient", Usage: "list messages to recipients with `TEXT` in them; also -qR"},
			&cli.BoolFlag{Name: "version", Usage: "print the version instead of showing the queue"},
		},
		// An address may have a comma.
		DisableSliceFlagSeparator: true,
		Action: func(c *cli.Context) error {
			if c.Bool("version") {
				_, err := fmt.Fprintln(stdout, "postrider", version())
				return err
			}
			if c.NArg() > 0 {
				return usageError{fmt.Errorf("unexpected argument %q", c.Args().First())}
			}
			only := spool.Selection{IDs: c.StringSlice("only-id"), Senders: c.StringSlice("only-sender"), Recipients: c.StringSlice("only-recipient")}
			var l listing = &text{verbose: c.Bool("v"), some: !only.All()}
			if c.Bool("j") {
				l = jsonLines{}
			}
			return show(c.String("C"), only, l, stdout)
		},
	}
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// canonical returns the arguments as the library wants them: Sendmail's -Ac and -Am, which choose between queues that
// are one here, left out, -Cfile in two, and Sendmail's ways to choose messages by the names they have here.
func canonical(args []string) []string {
	var out []string
	for i, arg := range args {
		switch {
		case i == 0 || takesNext(args[i-1]):
			out = append(out, arg)
		case choice(arg) != nil:
			out = append(out, choice(arg)...)
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

// takesNext reports whether the value of an option is the next argument.
func takesNext(arg string) bool {
	return arg == "-C" || arg == "--only-id" || arg == "--only-sender" || arg == "--only-recipient"
}

// choices are Sendmail's, after -q or -q!.
var choices = map[byte]string{'I': "--only-id", 'R': "--only-recipient", 'S': "--only-sender"}

// choice returns what -qItext and its like are here; nil if arg is none.
func choice(arg string) []string {
	text, ok := strings.CutPrefix(arg, "-q")
	not := strings.HasPrefix(text, "!")
	text = strings.TrimPrefix(text, "!")
	if !ok || text == "" || choices[text[0]] == "" {
		return nil
	}
	name, text := choices[text[0]], text[1:]
	if not {
		text = "!" + text
	}
	return []string{name, text}
}

// show prints the queue of the configuration in file, or some of it. That may also be the directory of the file: who
// comes from Postfix names one.
func show(file string, only spool.Selection, l listing, stdout io.Writer) error {
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		file = filepath.Join(file, filepath.Base(config.Default()))
	}
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	return printQueue(stdout, pick(spool.List(cfg.Spool), only), l)
}

// pick leaves out the messages that a selection does not pick: those that have no recipient it picks, or another sender
// or ID.
func pick(entries iter.Seq2[spool.Entry, error], only spool.Selection) iter.Seq2[spool.Entry, error] {
	return func(yield func(spool.Entry, error) bool) {
		for e, err := range entries {
			wanted := err != nil || only.Message(e.ID, e.Sender) &&
				slices.ContainsFunc(e.Recipients, func(r spool.EntryRecipient) bool { return only.Recipient(r.Path) })
			if wanted && !yield(e, err) {
				return
			}
		}
	}
}
