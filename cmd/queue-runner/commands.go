package main

import (
	"errors"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/postrider/postrider/internal/config"
)

// commands are what queue-runner does besides making passes. The hidden ones are for itself to start.
func commands(stdout, stderr io.Writer) []*cli.Command {
	all := []*cli.Command{{
		Name:  "check",
		Usage: "say what is configured, in words, and what is wrong with it",
		Flags: []cli.Flag{configFlag()},
		Action: configured(config.Load, func(_ *cli.Context, cfg *config.Config) error {
			if err := seeAsOwner(cfg.Spool); err != nil {
				return err
			}
			return check(cfg, stdout)
		}),
	}, {
		Name:      "route",
		Usage:     "say where mail for addresses would go, and send none",
		ArgsUsage: "address ...",
		Flags: []cli.Flag{configFlag(), &cli.StringFlag{
			Name: "sender", Usage: "the mail would come from `ADDRESS`, instead of whoever asks",
		}},
		Action: configured(config.Load, func(c *cli.Context, cfg *config.Config) error {
			if c.NArg() == 0 {
				return usageError{errors.New("route: name the addresses")}
			}
			return explain(cfg, c.String("sender"), c.Args().Slice(), stdout)
		}),
	}, {
		Name:   "newaliases",
		Usage:  "check the alias file; there is no database to be made",
		Flags:  []cli.Flag{configFlag()},
		Action: configured(config.Load, func(_ *cli.Context, cfg *config.Config) error { return newAliases(cfg, stdout, stderr) }),
	}, {
		Name:      "login",
		Usage:     "read a password, and print the line that lets its user log in",
		ArgsUsage: "name",
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usageError{errors.New("login: name one user")}
			}
			return printLogin(c.Args().First(), os.Stdin, stdout, stderr)
		},
	}, {
		Name:   "accept",
		Usage:  "take messages from the client of the submission socket who is at standard input",
		Flags:  []cli.Flag{configFlag()},
		Action: configured(prepare, func(_ *cli.Context, cfg *config.Config) error { return accept(cfg, stderr) }),
	}, {
		Name:  "smtp",
		Usage: "take messages by SMTP at standard input",
		Flags: []cli.Flag{
			configFlag(),
			&cli.IntFlag{Name: "through", Usage: "hand them to the program at the other end of descriptor `N`", Value: -1},
			&cli.StringFlag{Name: "delivery", Usage: "`background|queue`, whatever the configuration says"},
		},
		Action: configured(prepare, func(c *cli.Context, cfg *config.Config) error {
			return smtpOnStdin(cfg, speaking{c.Int("through"), c.String("delivery")}, stderr)
		}),
	}, {
		Name:   "steward", // started by deliverMail
		Hidden: true,
		Flags:  []cli.Flag{configFlag()},
		Action: configured(config.Load, func(_ *cli.Context, cfg *config.Config) error { return beSteward(cfg) }),
	}, {
		Name:   "agent", // started by the steward
		Hidden: true,
		Action: func(c *cli.Context) error { return beAgent(c.Args().Slice()) },
	}}
	for _, c := range all {
		c.OnUsageError = misused
	}
	return all
}

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "C", Usage: "read the configuration from `FILE`", EnvVars: []string{"POSTRIDER_CONFIG"}}
}

func misused(_ *cli.Context, err error, _ bool) error { return usageError{err} }

// configured returns the action that reads the configuration first.
func configured(load func(file string) (*config.Config, error), do func(*cli.Context, *config.Config) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		cfg, err := load(configFile(c))
		if err != nil {
			return err
		}
		return do(c, cfg)
	}
}
