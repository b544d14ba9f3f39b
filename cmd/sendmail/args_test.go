package main

import (
	"errors"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want options
	}{
		{"recipients", []string{"a@x", "b@x"}, options{operands: []string{"a@x", "b@x"}}},
		{"recipients between options", []string{"a@x", "-i", "b@x", "-t"}, options{operands: []string{"a@x", "b@x"}, ignoreDots: true, headerRecipients: true}},
		{"end of options", []string{"-i", "--", "-oQ/tmp@x", "--"}, options{operands: []string{"-oQ/tmp@x", "--"}, ignoreDots: true}},
		{"a dash alone", []string{"-"}, options{operands: []string{"-"}}},
		{"cluster", []string{"-it"}, options{ignoreDots: true, headerRecipients: true}},
		{"cluster the other way round", []string{"-ti"}, options{ignoreDots: true, headerRecipients: true}},
		{"cluster with a value", []string{"-itf", "me@x"}, options{ignoreDots: true, headerRecipients: true, sender: "me@x", senderGiven: true}},
		{"value attached", []string{"-fme@x"}, options{sender: "me@x", senderGiven: true}},
		{"value apart", []string{"-f", "me@x"}, options{sender: "me@x", senderGiven: true}},
		{"value that looks like an option", []string{"-F", "-t"}, options{fullName: "-t"}},
		{"null sender", []string{"-f", ""}, options{senderGiven: true}},
		{"null sender in brackets", []string{"-f<>"}, options{sender: "<>", senderGiven: true}},
		{"old name of -f", []string{"-rme@x"}, options{sender: "me@x", senderGiven: true}},
		{"the last sender counts", []string{"-f", "a@x", "-fb@x"}, options{sender: "b@x", senderGiven: true}},
		{"full name", []string{"-FCronDaemon"}, options{fullName: "CronDaemon"}},
		{"dots", []string{"-oi"}, options{ignoreDots: true}},
		{"dots apart", []string{"-o", "i"}, options{ignoreDots: true}},
		{"dots by name", []string{"-O", "IgnoreDots=True"}, options{ignoreDots: true}},
		{"dots by name, not", []string{"-O", "IgnoreDots=False"}, options{}},
		{"delivery", []string{"-odi"}, options{delivery: 'i'}},
		{"delivery in the foreground, as Exim says", []string{"-odf"}, options{delivery: 'i'}},
		{"delivery deferred", []string{"-odd"}, options{delivery: 'q'}},
		{"delivery by name", []string{"-ODeliveryMode=background"}, options{delivery: 'b'}},
		{"delivery unknown", []string{"-odz"}, options{}},
		{"delivery, the default", []string{"-odq", "-od"}, options{}},
		{"errors", []string{"-oem"}, options{errors: 'm'}},
		{"errors, old", []string{"-eq"}, options{errors: 'q'}},
		{"errors by name", []string{"-O", "ErrorMode=mail"}, options{errors: 'm'}},
		{"errors unknown", []string{"-oez"}, options{}},
		{"notify", []string{"-N", "success,delay"}, options{notify: mail.NotifySuccess | mail.NotifyDelay}},
		{"notify never", []string{"-Nnever"}, options{notify: mail.NotifyNever}},
		{"return", []string{"-R", "hdrs"}, options{ret: mail.ReturnHeaders}},
		{"envelope ID", []string{"-V", "id+20123"}, options{envelopeID: "id+20123"}},
		{"envelope ID that is none", []string{"-Vid 123"}, options{}},
		{"as it is", []string{"-G"}, options{asIs: true}},
		{"SMTPUTF8", []string{"-U"}, options{smtpUTF8: true}},
		{"configuration", []string{"-C", "file"}, options{config: "file"}},
		{"deliver", []string{"-bm", "a@x"}, options{operands: []string{"a@x"}}},
		{"queue", []string{"-bp"}, options{mode: listQueue}},
		{"run the queue", []string{"-q"}, options{mode: runQueue, queueRun: true}},
		{"run it in the foreground", []string{"-qf"}, options{mode: runQueue, queueRun: true}},
		{"run it every half hour", []string{"-q30m"}, options{mode: runDaemon, queueRun: true, every: 30 * time.Minute, background: true}},
		{"two units", []string{"-q1h30m"}, options{mode: runDaemon, queueRun: true, every: 90 * time.Minute, background: true}},
		{"no unit", []string{"-q300"}, options{mode: runDaemon, queueRun: true, every: 300 * time.Minute, background: true}},
		{"persistent", []string{"-qp15m"}, options{mode: runDaemon, queueRun: true, every: 15 * time.Minute, background: true}},
		{"time apart", []string{"-q", "30m"}, options{mode: runDaemon, queueRun: true, every: 30 * time.Minute, background: true}},
		{"run some of it", []string{"-qRExample.com", "-q!Sann@", "-qI0F"}, options{mode: runQueue, queueRun: true, only: []string{"--only-recipient", "Example.com", "--only-sender", "!ann@", "--only-id", "0F"}}},
		{"choice apart", []string{"-q", "!Rx"}, options{mode: runQueue, queueRun: true, only: []string{"--only-recipient", "!x"}}},
		{"list some of it", []string{"-bp", "-qRx"}, options{mode: listQueue, queueRun: true, only: []string{"--only-recipient", "x"}}},
		{"list some of it, the other way round", []string{"-qRx", "-bp"}, options{mode: listQueue, queueRun: true, only: []string{"--only-recipient", "x"}}},
		{"daemon", []string{"-bd", "-q30m"}, options{mode: runDaemon, queueRun: true, every: 30 * time.Minute, background: true}},
		{"daemon in the foreground", []string{"-q30m", "-bD"}, options{mode: runDaemon, queueRun: true, every: 30 * time.Minute}},
		{"explain", []string{"-bv", "-f", "me@x", "a@x"}, options{mode: explainAddresses, sender: "me@x", senderGiven: true, operands: []string{"a@x"}}},
		{"verbose", []string{"-v"}, options{verbose: true}},
		{"verbose by name", []string{"-O", "Verbose=true"}, options{verbose: true}},
		{"help", []string{"-i", "--help"}, options{mode: showHelp, ignoreDots: true}},
		{"aliases", []string{"-bi"}, options{mode: checkAliases}},
		{"aliases, old", []string{"-I"}, options{mode: checkAliases}},
		{"host status", []string{"-bh"}, options{mode: doNothing}},
		{"configuration to be checked", []string{"-bC"}, options{mode: checkConfig}},
		{"version", []string{"-d0.1"}, options{mode: showVersion, version: true}},
		{"version, as for Sendmail's address test", []string{"-d0.1", "-bt"}, options{mode: showVersion, version: true}},
		{"version, as for Sendmail's address test, the other way round", []string{"-bt", "-d0.4"}, options{mode: showVersion, version: true}},
		{"version, with an address", []string{"-d0.1", "-bv", "root"}, options{mode: showVersion, version: true, operands: []string{"root"}}},
		{"no effect", strings.Fields("-Ac -Am -A c -B8BITMIME -B 7BIT -c -D file -d -d4.2 -E -h 3 -L tag -Mxval -M x -m -n -om -oo -oA/file -or0s -oQ/tmp -os -oT1h -o7 -O LogLevel=9 -O x -OTimeout.x=1 -p smtp:x -s -T -X file -X/tmp/f -x"), options{}},
	} {
		if tt.want.errors == 0 {
			tt.want.errors = 'p'
		}
		got, err := parse(append([]string{"/usr/sbin/sendmail"}, tt.args...))
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: parse(%q) = %+v, %v; want %+v", tt.name, tt.args, got, err, tt.want)
		}
	}
}

func TestParseByName(t *testing.T) {
	for name, want := range map[string]options{
		"hoststat": {mode: doNothing}, "purgestat": {mode: doNothing}, "mailq": {mode: listQueue, operands: []string{"-v"}}, "/usr/bin/mailq": {mode: listQueue, operands: []string{"-v"}}, "newaliases": {mode: checkAliases},
	} {
		if got, err := parse([]string{name, "-v"}); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("as %s parse = %+v, %v; want %+v", name, got, err, want)
		}
	}
	if got, err := parse(nil); err != nil || got.mode != deliverMessage {
		t.Errorf("parse(nil) = %+v, %v", got, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct {
		args []string
		mode mode
		text string
	}{
		{[]string{"-Z"}, deliverMessage, `unknown option "-Z"`},
		{[]string{"-iZ", "a@x"}, deliverMessage, `unknown option "-Z"`},
		{[]string{"-J", "x"}, deliverMessage, `unknown option "-J"`},
		{[]string{"-S"}, deliverMessage, `unknown option "-S"`},
		{[]string{"-Q"}, doNothing, "-Q is not supported"},
		{[]string{"-\xff"}, deliverMessage, `unknown option "-\xff"`},
		{[]string{"-f"}, deliverMessage, "option -f needs a value"},
		{[]string{"-itf"}, deliverMessage, "option -f needs a value"},
		{[]string{"-b"}, deliverMessage, "option -b needs a value"},
		{[]string{"-be"}, doNothing, "-be is not supported"},
		{[]string{"-b\x1b"}, deliverMessage, `unknown option "-b\x1b"`},
		{[]string{"-bS"}, doNothing, "-bS is not supported"},
		{[]string{"-bt", "-C/etc/shadow"}, doNothing, "-bt is not supported"},
		{[]string{"-bP"}, doNothing, "-bP is not supported"},
		{[]string{"-N", "always"}, deliverMessage, "option -N: "},
		{[]string{"-N", "never,delay"}, deliverMessage, "option -N: "},
		{[]string{"-R", "some"}, deliverMessage, "option -R: "},
		{[]string{"-f", "a@x\nBcc: b@x"}, deliverMessage, "not a sender address"},
		{[]string{"-f", "-X/tmp/f"}, deliverMessage, "not a sender address"},
		{[]string{"-F", "x\nBcc: b@x"}, deliverMessage, "control character in the name after -F"},
		{[]string{"-q", "a@x"}, doNothing, "what runs the queue takes no recipients"},
		{[]string{"-q", "ann"}, doNothing, `option -q takes no recipients, and "ann" is not a time`},
		{[]string{"-bd", "ann"}, doNothing, "what runs the queue takes no recipients"},
		{[]string{"-q30m", "-qRann"}, doNothing, "a daemon takes the whole queue"},
		{[]string{"-qQ"}, doNothing, `"-qQ" is not supported`},
		{[]string{"-qGname"}, doNothing, `"-qGname" is not supported`},
		{[]string{"-q!"}, doNothing, "option -q! needs I, R or S"},
		{[]string{"-bv"}, doNothing, "option -bv needs addresses"},
		{[]string{"-bv", "-q", "x"}, doNothing, "option -q goes with -bp, -bd and -bD only"},
		{[]string{"-q30x"}, doNothing, `"30x" is not a time`},
		{[]string{"-q0"}, doNothing, `"0" is not a time`},
		{[]string{"-q99999999999999999999m"}, doNothing, "is not a time"},
		{[]string{"-q!\x1b"}, doNothing, `"!\x1b" is not a time`},
	} {
		o, err := parse(append([]string{"sendmail"}, tt.args...))
		var e *submit.Error
		if !errors.As(err, &e) || e.Status != submit.ExitUsage || !strings.Contains(err.Error(), tt.text) || o.mode != tt.mode {
			t.Errorf("parse(%q) = mode %d, %v; want %d, %q", tt.args, o.mode, err, tt.mode, tt.text)
		}
	}
}

// Every row of the table is in the manual, and everything in the manual is in the table.
func TestManualListsOptions(t *testing.T) {
	page, err := os.ReadFile("../../man/sendmail.8")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\.It Fl (.+)$`).FindAllStringSubmatch(string(page), -1) {
		for i, form := range regexp.MustCompile(` ?, ?Fl `).Split(m[1], -1) {
			name, _, _ := strings.Cut(form, " ")
			if i == 0 || name != "" {
				listed[name] = true
			}
		}
	}
	for _, opt := range table {
		if !listed[opt.name] {
			t.Errorf("sendmail.8 has no .It Fl %s", opt.name)
		}
		delete(listed, opt.name)
	}
	for _, form := range []string{"qG", "qL", "qQ", "-help"} { // of -q, and no option of getopt
		delete(listed, form)
	}
	for name := range listed {
		t.Errorf("sendmail.8 has .It Fl %s, which the table has not", name)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-it\x00-f\x00a@x\x00--\x00b@x")
	f.Add("-q30m\x00-O\x00DeliveryMode=b\x00-bs")
	f.Fuzz(func(t *testing.T, words string) {
		o, err := parse(append([]string{"sendmail"}, strings.Split(words, "\x00")...))
		var e *submit.Error
		if err != nil && (!errors.As(err, &e) || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' })) {
			t.Errorf("parse(%q): %v", words, err)
		}
		if hasControl(o.fullName) || hasControl(o.sender) {
			t.Errorf("parse(%q) lets a control character pass: %+v", words, o)
		}
	})
}
