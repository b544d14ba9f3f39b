package main

import (
	"path"
	"strings"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
)

// options is what a command line asks for. Nothing has been opened or believed yet.
type options struct {
	mode     mode
	operands []string // what is not an option: recipients, or what the mode makes of it

	headerRecipients bool
	sender           string
	senderGiven      bool
	fullName         string
	ignoreDots       bool
	asIs             bool
	smtpUTF8         bool
	notify           mail.Notify
	ret              mail.Return
	envelopeID       string

	// What -O says as the parameters of MAIL do, with their names; "" for nothing.
	holdFor, holdUntil, by string
	priority               int
	requireTLS             bool

	delivery byte   // as -od names it: b, i, q; 0 if not given
	accepted bool   // the message is in the queue
	errors   byte   // as -oe names it: p, m, w, q, e
	verbose  bool   // show how the message is delivered
	config   string // the file that -C names; "" if none

	queueRun   bool          // -q was given
	every      time.Duration // how often it wants the queue to be run; 0 for once
	only       []string      // what it picks, as options of queue-runner and mailq
	background bool          // a daemon leaves the terminal

	version bool // is all that is asked for
}

// mode is what sendmail does.
type mode uint8

const (
	deliverMessage mode = iota
	speakSMTP
	listQueue
	explainAddresses
	runQueue
	runDaemon
	checkConfig
	showVersion
	checkAliases
	showHelp
	doNothing
)

// valueKind says whether an option has a value, and where.
type valueKind uint8

const (
	noValue       valueKind = iota
	needsValue              // in the same word, or the next one
	attachedValue           // in the same word, if at all
)

// An option is a row of the table.
type option struct {
	name string
	// long is how -O names the option; "" if it does not.
	long  string
	value valueKind
	// set notes what the option asks for. nil: the option is known, and has no effect.
	set  func(o *options, value string) error
	arg  string // the name of its value, for the help
	says string // what it does, for the help; "" if that is nothing
	no   string // why the option is refused; "" if it is not
}

// table lists every option there is, by the letters that name it: one, or two that start with b or o, whose second letter
// and the rest are what -b and -o have for a value. It drives the parser, and a test that looks for each in sendmail(8).
// Whatever Sendmail 8 takes is taken here, so that no caller fails; a new option is a new row.
var table = []option{
	{name: "A", value: needsValue},
	{name: "B", value: needsValue}, // we look at the body ourselves
	{name: "ba", no: "nobody speaks this protocol"},
	{name: "bC", set: setMode(checkConfig), says: "check the configuration"},
	{name: "bD", set: setMode(runDaemon), says: "deliver as a daemon"},
	{name: "bd", set: setDaemon, says: "the same as -bD, in the background"},
	{name: "be", no: "there is nothing to expand"},
	{name: "bH", set: setMode(doNothing)}, // what is known of hosts is about next hops, and mailq shows it
	{name: "bh", set: setMode(doNothing)},
	{name: "bi", set: setMode(checkAliases), says: "check the file of aliases"}, // there is no database of aliases to be built
	{name: "bl", set: setDaemon, says: "the same as -bd"},
	{name: "bm", set: setMode(deliverMessage), says: "accept a message from standard input; this is the default"},
	{name: "bP", no: "mailq counts the queue"},
	{name: "bp", set: setMode(listQueue), says: "list the queue"},
	{name: "bS", no: "there is no batched SMTP"},
	{name: "bs", set: setMode(speakSMTP), says: "speak SMTP on standard input and output"},
	{name: "bt", no: "there is no address test mode"},
	{name: "bv", set: setMode(explainAddresses), says: "say where mail for the recipients goes; send nothing"},
	{name: "bz", no: "there is nothing to freeze"},
	{name: "C", value: needsValue, set: func(o *options, v string) error { o.config = v; return nil }, arg: "file", says: "the configuration"},
	{name: "c"},
	{name: "D", value: needsValue},
	{name: "d", value: attachedValue, set: setDebug, arg: "level", says: "0.1: print the version"},
	{name: "E"},
	{name: "e", value: needsValue, set: setErrors, arg: "mode", says: "the same as -oe"},
	{name: "F", value: needsValue, set: setFullName, arg: "name", says: "full name of the sender, if there is no From"},
	{name: "f", value: needsValue, set: setSender, arg: "sender", says: "address for reports, and for From if there is none"},
	{name: "G", set: func(o *options, _ string) error { o.asIs = true; return nil }, says: "leave the header as it is"},
	{name: "h", value: needsValue}, // hops are counted from the Received fields
	{name: "I", set: setMode(checkAliases), says: "the same as -bi"},
	{name: "i", set: setIgnoreDots, says: "a line of a dot does not end the message"},
	{name: "L", value: needsValue},
	{name: "M", value: needsValue},
	{name: "m"},
	{name: "N", value: needsValue, set: setNotify, arg: "events", says: "when to report: never, or success,failure,delay"},
	{name: "n"},
	{name: "O", value: needsValue, arg: "name=value", says: "the same as -od, -oe, -oi or -ov, by name"},
	{name: "oA"},
	{name: "od", long: "DeliveryMode", set: setDelivery, arg: "mode", says: "when to deliver: b at once, i and wait, q later"},
	{name: "oe", long: "ErrorMode", set: setErrors, arg: "mode", says: "how to report errors: p print, m mail, w mail, e mail only, q not"},
	{name: "oi", long: "IgnoreDots", set: setIgnoreDots, says: "the same as -i"},
	{name: "om", long: "MeToo"},
	{name: "oo", long: "OldStyleHeaders"},
	{name: "oQ", long: "QueueDirectory"},
	{name: "or", long: "Timeout"},
	{name: "ov", long: "Verbose", set: setVerbose, says: "the same as -v"},
	{name: "p", value: needsValue},
	{name: "Q", value: attachedValue, no: "there is no quarantine"},
	{name: "q", value: attachedValue, set: setQueueRun, arg: "time", says: "run the queue once, or every so often; I, R, S and text: only these IDs, recipients, senders"},
	{name: "R", value: needsValue, set: setReturn, arg: "what", says: "what a report returns: full or hdrs"},
	{name: "r", value: needsValue, set: setSender, arg: "sender", says: "the same as -f"},
	{name: "s"},
	{name: "T"},
	{name: "t", set: func(o *options, _ string) error { o.headerRecipients = true; return nil }, says: "take recipients from the header"},
	{name: "U", set: func(o *options, _ string) error { o.smtpUTF8 = true; return nil }, says: "the message needs SMTPUTF8"},
	{name: "V", value: needsValue, set: setEnvelopeID, arg: "id", says: "envelope ID, returned in reports"},
	{name: "v", set: setVerbose, says: "deliver at once, and show how"},
	{name: "X", value: needsValue},
	{name: "x"},
}

// named lists what -O knows besides the rows of the table that have a long name: the service extensions of SMTP that a
// message can ask for. Sendmail has no such options, and takes its own silently.
var named = []option{
	{long: "DeliverBy", set: setDeliverBy, arg: "time;mode", says: "when that time is over, return it (R), or tell the sender (N)"},
	{long: "HoldFor", set: setHoldFor, arg: "time", says: "send it so much later"},
	{long: "HoldUntil", set: setHoldUntil, arg: "time", says: "send it then: 2026-12-24T18:00:00+01:00"},
	{long: "MTPriority", set: setPriority, arg: "number", says: "send it before (9) or after (-9) others"},
	{long: "RequireTLS", set: setRequireTLS, says: "send it over TLS only, all the way"},
}

// lookup returns the row with a name; nil if there is none.
func lookup(name string) *option {
	for i := range table {
		if table[i].name == name {
			return &table[i]
		}
	}
	return nil
}

func usage(format string, args ...any) error {
	return submit.Refuse(submit.ExitUsage, mail.EnhancedCode{5, 5, 2}, format, args...)
}

// parse reads a command line, the program's name included, as getopt(3) does: options may be clustered, have their
// values attached or in the next word, and stand after operands; "--" ends them. What was read is returned even with an
// error, which is about the first mistake.
func parse(args []string) (options, error) {
	o := options{errors: 'p'}
	name := "sendmail"
	if len(args) > 0 {
		name, args = path.Base(args[0]), args[1:]
	}
	switch name {
	case "mailq":
		return options{mode: listQueue, operands: args}, nil
	case "newaliases":
		return options{mode: checkAliases}, nil
	case "hoststat", "purgestat":
		return options{mode: doNothing}, nil
	case "smtpd":
		o.mode, o.background = runDaemon, true
	}
	var first error
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		if word == "--help" {
			o.mode = showHelp
			return o, nil
		}
		if word == "--" {
			o.operands = append(o.operands, args...)
			break
		}
		if len(word) < 2 || word[0] != '-' {
			o.operands = append(o.operands, word)
			continue
		}
		var err error
		if args, err = o.cluster(word[1:], args); err != nil && first == nil {
			first = err
		}
	}
	switch {
	case o.version: // with -bt or -bv, and no input, as people ask for it
		o.mode, first = showVersion, nil
	case first == nil:
		first = o.conclude()
	}
	return o, first
}

// cluster reads the options in a word, and returns what is left of the words after it.
func (o *options) cluster(letters string, words []string) ([]string, error) {
	for letters != "" {
		name := letters[:1]
		letters = letters[1:]
		opt := lookup(name)
		family := name == "b" || name == "o"
		if name == "-" {
			return words, usage("unknown option %q", "--"+letters)
		}
		if opt == nil && !family {
			return words, usage("unknown option %q", "-"+name)
		}
		value := ""
		if family || opt.value != noValue {
			value, letters = letters, ""
		}
		if value == "" && (family || opt.value == needsValue) {
			if len(words) == 0 {
				return words, usage("option -%s needs a value", name)
			}
			value, words = words[0], words[1:]
		}
		switch name {
		case "b":
			if opt, value = member(name, value); opt == nil {
				return words, usage("unknown option %q", "-b"+value)
			}
		case "o":
			opt, value = member(name, value)
		case "O":
			opt, value = byName(value)
		}
		if opt == nil {
			continue // of -o and -O Sendmail has more than anybody uses, and those that we do not know have no effect
		}
		if err := o.take(opt, value); err != nil {
			return words, err
		}
	}
	return words, nil
}

// member returns the row of a family that a value belongs to, and the rest of the value.
func member(family, value string) (*option, string) {
	if value == "" {
		return nil, value
	}
	if opt := lookup(family + value[:1]); opt != nil {
		return opt, value[1:]
	}
	return nil, value
}

// byName returns the row that a value of -O, name=value, belongs to, and its value.
func byName(value string) (*option, string) {
	name, value, _ := strings.Cut(value, "=")
	for _, list := range [][]option{table, named} {
		for i := range list {
			if opt := &list[i]; opt.long != "" && strings.EqualFold(opt.long, strings.TrimSpace(name)) {
				return opt, strings.TrimSpace(value)
			}
		}
	}
	return nil, value
}

func (o *options) take(opt *option, value string) error {
	if opt.no != "" {
		o.mode = doNothing // whatever it was to be, it was not a message
		return usage("option -%s is not supported: %s", opt.name, opt.no)
	}
	if opt.set == nil {
		return nil
	}
	return opt.set(o, value)
}

// conclude makes of -q and -b together what is to be done.
func (o *options) conclude() error {
	if o.queueRun && o.mode == deliverMessage {
		o.mode = runQueue
		if len(o.operands) == 1 && !strings.Contains(o.operands[0], "@") {
			// The value may be the next word.
			if err := setQueueRun(o, o.operands[0]); err != nil {
				return o.refuse("option -q takes no recipients, and %q is not a time like 30m", o.operands[0])
			}
			o.operands = nil
		}
		if o.every > 0 {
			o.mode, o.background = runDaemon, true
		}
	}
	switch o.mode {
	case deliverMessage, listQueue:
		return nil
	case runQueue, runDaemon:
		if len(o.operands) > 0 {
			return o.refuse("what runs the queue takes no recipients")
		}
		if o.mode == runDaemon && len(o.only) > 0 {
			return o.refuse("a daemon takes the whole queue; -qI, -qR and -qS are for one run")
		}
		return nil
	case explainAddresses:
		if len(o.operands) == 0 {
			return o.refuse("option -bv needs addresses")
		}
	}
	if o.queueRun {
		return o.refuse("option -q goes with -bp, -bd and -bD only")
	}
	return nil
}

// refuse is for a command line that was not about a message, whatever it was about.
func (o *options) refuse(format string, args ...any) error {
	o.mode = doNothing
	return usage(format, args...)
}
