package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// behaviours are what sendmails most often get wrong, and where a test has each: a file below the root of the project,
// and words in it.
var behaviours = []struct{ what, file, words string }{
	{"a cluster of options: -it", "cmd/sendmail/testdata/header-recipients.txtar", "in whatever way options are clustered"},
	{"values attached to options", "cmd/sendmail/testdata/argv.txtar", "values attached, options after recipients"},
	{"the null sender: -f '' and -f '<>'", "cmd/sendmail/testdata/argv.txtar", "the null sender, in both ways of writing it"},
	{"-q reads no input", "cmd/sendmail/behaviours_test.go", "TestQueueRunReadsNoInput"},
	{"Debian's cron", "cmd/sendmail/testdata/cron.txtar", "what Debian's cron says and writes"},
	{"without -i a dot ends the message, and nobody gets a broken pipe", "cmd/sendmail/testdata/dots.txtar", "whoever writes on is not told of a broken pipe"},
	{"of two dots at the start of a line one goes without -i", "cmd/sendmail/testdata/dots.txtar", "of two dots one goes"},
	{"PHP's mixture of line ends", "cmd/sendmail/testdata/php.txtar", "PHP ends header lines with CR LF"},
	{"-t adds to the recipients on the command line", "cmd/sendmail/testdata/header-recipients.txtar", "argv adds to them"},
	{"no Bcc goes out, with -t or without", "cmd/sendmail/testdata/no-header.txtar", "without Bcc, even if nobody asked for recipients from the header"},
	{"a message sent once more goes to its Resent recipients", "cmd/sendmail/testdata/header-recipients.txtar", "goes to those whom Resent fields name"},
	{"undisclosed-recipients:; is nobody", "cmd/sendmail/testdata/header-recipients.txtar", "a group without members is no recipient"},
	{"text without a header is not lost", "cmd/sendmail/testdata/no-header.txtar", "a message without a header is all body"},
	{"From and >From lines before the header go, later ones stay", "cmd/sendmail/testdata/no-header.txtar", "lines that separate messages in an mbox go"},
	{"one word may be a list, with commas in quotes", "cmd/sendmail/testdata/argv.txtar", "one word may be a list"},
	{"after -- nothing is an option; before it -X makes no file", "cmd/sendmail/testdata/attacks.txtar", "nothing is written, read or run that the caller names"},
	{"SMTP on standard input", "internal/doortest/smtp_test.go", "TestDialogues"},
	{"-N, -R and -V are stored, and none is a recipient", "cmd/sendmail/testdata/argv.txtar", "what is wanted in reports"},
	{"-bv, -bt, -bd and -bi queue nothing", "cmd/sendmail/testdata/modes.txtar", "none of these takes a message"},
	{"a user without a name, no environment, closed descriptors", "cmd/sendmail/sendmail_test.go", "TestUnknownUser"},
	{"a full spool is status 75, and leaves nothing; success is silent", "cmd/sendmail/testdata/full.txtar", "once there is room the message is accepted, once"},
	{"exit status 0 means that the message survives a power failure", "internal/crashtest/sendmail_test.go", "TestSendmail"},
	{"a line of 20,000 octets, and none at the end", "cmd/sendmail/testdata/bad-input.txtar", "one line of 20,000 octets, and no line end"},
	{"check_mailq counts as mailq does", "internal/realtest/monitoring_test.go", "TestCheckMailq"},
	{"aliases: continuations, commands that are not run, loops", "deliver/alias/alias_test.go", "TestExpand"},
}

func TestBehaviours(t *testing.T) {
	for i, b := range behaviours {
		text, err := os.ReadFile(filepath.Join("../..", b.file))
		if err != nil || !strings.Contains(string(text), b.words) {
			t.Errorf("%d, %s: no %q in %s (%v)", i+1, b.what, b.words, b.file, err)
		}
	}
}

// Init scripts and people at terminals call -q with a standard input that never ends.
func TestQueueRunReadsNoInput(t *testing.T) {
	w := newWorld(t, "")
	for _, args := range [][]string{{"-q"}, {"-qf"}, {"-q30m"}, {"-q", "30m"}, {"-qRann"}, {"-q3x"}, {"-bd"}, {"-bp"}, {"-bv", "a@x.example"}, {"-bi"}, {"-bt"}} {
		cmd := w.sendmail(args...)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		// It would wait for ever: the pipe is closed when it has ended.
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() < 0 {
			t.Errorf("sendmail %q: %v", args, err)
		}
		stdin.Close()
	}
	if all := w.messages("spool"); len(all) > 0 {
		t.Errorf("%d messages are queued, want none", len(all))
	}
}
