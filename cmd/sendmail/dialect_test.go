package main

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/mail"
	"github.com/postrider/postrider/internal/submit"
)

// dialect is every option that Sendmail 8 knows, or that one of the other sendmails does and callers pass: its letters, its
// value, and what it means here. What means nothing has the zero options; what is refused says why.
var dialect = []struct {
	letters, value string
	means          options
	refused        string
}{
	{"A", "c", options{}, ""},
	{"A", "m", options{}, ""},
	{"B", "7BIT", options{}, ""},
	{"B", "8BITMIME", options{}, ""},
	{"B", "8bitmime", options{}, ""},
	{"B", "whatever", options{}, ""},
	{"ba", "", options{}, "nobody speaks this protocol"},
	{"bC", "", options{mode: checkConfig}, ""},
	{"bd", "", options{mode: runDaemon, background: true}, ""},
	{"bD", "", options{mode: runDaemon}, ""},
	{"be", "", options{}, "there is nothing to expand"},
	{"bl", "", options{mode: runDaemon, background: true}, ""},
	{"bh", "", options{mode: doNothing}, ""},
	{"bH", "", options{mode: doNothing}, ""},
	{"bi", "", options{mode: checkAliases}, ""},
	{"bm", "", options{}, ""},
	{"bp", "", options{mode: listQueue}, ""},
	{"bP", "", options{}, "mailq counts the queue"},
	{"bS", "", options{}, "there is no batched SMTP"},
	{"bs", "", options{mode: speakSMTP}, ""},
	{"bt", "", options{}, "there is no address test mode"},
	{"bv", "", options{mode: explainAddresses}, ""},
	{"bz", "", options{}, "there is nothing to freeze"},
	{"C", "/etc/other.cf", options{config: "/etc/other.cf"}, ""},
	{"c", "", options{}, ""},
	{"D", "/tmp/debug", options{}, ""},
	{"d", "", options{}, ""},
	{"d", "0-99.100", options{}, ""},
	{"d", "0.1", options{mode: showVersion, version: true}, ""},
	{"E", "", options{}, ""},
	{"e", "m", options{errors: 'm'}, ""},
	{"e", "p", options{errors: 'p'}, ""},
	{"e", "q", options{errors: 'q'}, ""},
	{"e", "w", options{errors: 'w'}, ""},
	{"e", "e", options{errors: 'e'}, ""},
	{"F", "CronDaemon", options{fullName: "CronDaemon"}, ""},
	{"f", "me@x.example", options{sender: "me@x.example", senderGiven: true}, ""},
	{"f", "Me <me@x.example>", options{sender: "Me <me@x.example>", senderGiven: true}, ""},
	{"f", "<>", options{sender: "<>", senderGiven: true}, ""},
	{"G", "", options{asIs: true}, ""},
	{"h", "17", options{}, ""},
	{"h", "no number", options{}, ""},
	{"I", "", options{mode: checkAliases}, ""},
	{"i", "", options{ignoreDots: true}, ""},
	{"J", "", options{}, "unknown option"},
	{"L", "tag", options{}, ""},
	{"M", "xvalue", options{}, ""},
	{"m", "", options{}, ""},
	{"N", "never", options{notify: mail.NotifyNever}, ""},
	{"N", "failure,delay,success", options{notify: mail.NotifyFailure | mail.NotifyDelay | mail.NotifySuccess}, ""},
	{"N", "FAILURE", options{notify: mail.NotifyFailure}, ""},
	{"N", "always", options{}, "option -N: "},
	{"n", "", options{}, ""},
	{"O", "DeliveryMode=background", options{delivery: 'b'}, ""},
	{"O", "deliverymode=i", options{delivery: 'i'}, ""},
	{"O", "ErrorMode=m", options{errors: 'm'}, ""},
	{"O", "IgnoreDots=true", options{ignoreDots: true}, ""},
	{"O", "IgnoreDots", options{ignoreDots: true}, ""},
	{"O", "Verbose=true", options{verbose: true}, ""},
	{"O", "AliasFile=/tmp/aliases", options{}, ""},
	{"O", "HoldFor=8h", options{holdFor: "28800"}, ""},
	{"O", "holdfor=1d30m", options{holdFor: "88200"}, ""},
	{"O", "HoldFor=3600", options{}, `option -O HoldFor: "3600" is not a time like 30m`},
	{"O", "HoldFor=", options{}, `option -O HoldFor: "" is not a time like 30m`},
	{"O", "HoldUntil=2026-12-24T18:00:00+01:00", options{holdUntil: "2026-12-24T17:00:00Z"}, ""},
	{"O", "HoldUntil=tomorrow", options{}, "option -O HoldUntil: "},
	{"O", "DeliverBy=2h;R", options{by: "7200;R"}, ""},
	{"O", "DeliverBy=2;R", options{}, "option -O DeliverBy: "},
	{"O", "MTPriority=-4", options{priority: -4}, ""},
	{"O", "MTPriority=high", options{}, "option -O MTPriority: "},
	{"O", "RequireTLS", options{requireTLS: true}, ""},
	{"O", "RequireTLS=no", options{}, ""},
	{"O", "DeliverByMin=5", options{}, ""},
	{"O", "QueueDirectory=/tmp", options{}, ""},
	{"O", "LogLevel=9", options{}, ""},
	{"O", "Timeout.queuereturn=5d", options{}, ""},
	{"O", "NoRecipientAction=add-to", options{}, ""},
	{"O", "MaxHopCount=10", options{}, ""},
	{"O", "MinQueueAge=1m", options{}, ""},
	{"O", "PrivacyOptions=goaway", options{}, ""},
	{"O", "EightBitMode=pass", options{}, ""},
	{"O", "SevenBitInput=true", options{}, ""},
	{"O", "MeToo=true", options{}, ""},
	{"O", "OldStyleHeaders=true", options{}, ""},
	{"O", "NoSuchThing", options{}, ""},
	{"oi", "", options{ignoreDots: true}, ""},
	{"om", "", options{}, ""},
	{"odb", "", options{delivery: 'b'}, ""},
	{"odbackground", "", options{delivery: 'b'}, ""},
	{"odi", "", options{delivery: 'i'}, ""},
	{"odf", "", options{delivery: 'i'}, ""},
	{"odq", "", options{delivery: 'q'}, ""},
	{"odqs", "", options{delivery: 'q'}, ""},
	{"odd", "", options{delivery: 'q'}, ""},
	{"odz", "", options{}, ""},
	{"od", "", options{}, ""},
	{"oem", "", options{errors: 'm'}, ""},
	{"oep", "", options{errors: 'p'}, ""},
	{"oeq", "", options{errors: 'q'}, ""},
	{"oew", "", options{errors: 'w'}, ""},
	{"oee", "", options{errors: 'e'}, ""},
	{"oez", "", options{}, ""},
	{"oA/tmp/aliases", "", options{}, ""},
	{"oo", "", options{}, ""},
	{"ov", "", options{verbose: true}, ""},
	{"or0s", "", options{}, ""},
	{"or1h", "", options{}, ""},
	{"os", "", options{}, ""},
	{"oT3d", "", options{}, ""},
	{"oQ/tmp", "", options{}, ""},
	{"oS/tmp/stats", "", options{}, ""},
	{"oL9", "", options{}, ""},
	{"oMxvalue", "", options{}, ""},
	{"o7", "", options{}, ""},
	{"o8", "", options{}, ""},
	{"p", "smtp:host", options{}, ""},
	{"Q", "", options{}, "there is no quarantine"},
	{"Q", "reason", options{}, "there is no quarantine"},
	{"q", "", options{mode: runQueue, queueRun: true}, ""},
	{"q", "f", options{mode: runQueue, queueRun: true}, ""},
	{"q", "p", options{mode: runQueue, queueRun: true}, ""},
	{"q", "30m", options{mode: runDaemon, background: true, queueRun: true, every: 30 * time.Minute}, ""},
	{"q", "1h30m", options{mode: runDaemon, background: true, queueRun: true, every: 90 * time.Minute}, ""},
	{"q", "300", options{mode: runDaemon, background: true, queueRun: true, every: 300 * time.Minute}, ""},
	{"q", "p1d", options{mode: runDaemon, background: true, queueRun: true, every: 24 * time.Hour}, ""},
	{"q", "3x", options{}, "is not a time"},
	{"q", "I0F", options{mode: runQueue, queueRun: true, only: []string{"--only-id", "0F"}}, ""},
	{"q", "!I0F", options{mode: runQueue, queueRun: true, only: []string{"--only-id", "!0F"}}, ""},
	{"q", "Rx.example", options{mode: runQueue, queueRun: true, only: []string{"--only-recipient", "x.example"}}, ""},
	{"q", "!Rx.example", options{mode: runQueue, queueRun: true, only: []string{"--only-recipient", "!x.example"}}, ""},
	{"q", "Sann", options{mode: runQueue, queueRun: true, only: []string{"--only-sender", "ann"}}, ""},
	{"q", "!Sann", options{mode: runQueue, queueRun: true, only: []string{"--only-sender", "!ann"}}, ""},
	{"q", "Q", options{}, "there is one queue"},
	{"q", "L", options{}, "there is one queue"},
	{"q", "Gname", options{}, "there is one queue"},
	{"R", "full", options{ret: mail.ReturnFull}, ""},
	{"R", "hdrs", options{ret: mail.ReturnHeaders}, ""},
	{"R", "some", options{}, "option -R: "},
	{"r", "me@x.example", options{sender: "me@x.example", senderGiven: true}, ""},
	{"S", "", options{}, "unknown option"},
	{"s", "", options{}, ""},
	{"T", "", options{}, ""},
	{"t", "", options{headerRecipients: true}, ""},
	{"U", "", options{smtpUTF8: true}, ""},
	{"V", "id+20123", options{envelopeID: "id+20123"}, ""},
	{"V", "no xtext", options{}, ""},
	{"v", "", options{verbose: true}, ""},
	{"X", "/tmp/traffic", options{}, ""},
	{"x", "", options{}, ""},
}

// forms returns the ways to write an option: by itself or in a cluster with -i and -t before it, and, unless it ends the
// word, behind it; its value attached or in the next word. flags says whether -i and -t are there.
func forms(letters, value string) (words [][]string, flags []bool) {
	add := func(flag bool, w ...string) { words, flags = append(words, w), append(flags, flag) }
	row := lookup(letters[:1])
	switch {
	case row == nil && len(letters) > 1: // -b and -o, whose value is the rest of the letters
		add(false, "-"+letters)
		add(false, "-"+letters[:1], letters[1:])
		add(true, "-it"+letters)
		add(true, "-it"+letters[:1], letters[1:])
	case value == "":
		add(false, "-"+letters)
		add(true, "-it"+letters)
		if row != nil && row.value == noValue {
			add(true, "-"+letters+"ti")
		}
	default:
		add(false, "-"+letters+value)
		add(true, "-it"+letters+value)
		if row == nil || row.value == needsValue {
			add(false, "-"+letters, value)
			add(true, "-it"+letters, value)
		}
	}
	return words, flags
}

// Each option is understood however it is written, and wherever it stands: alone, between recipients, after them.
func TestDialect(t *testing.T) {
	for _, d := range dialect {
		words, flags := forms(d.letters, d.value)
		for i, form := range words {
			want := d.means
			if want.errors == 0 {
				want.errors = 'p'
			}
			want.ignoreDots = want.ignoreDots || flags[i]
			want.headerRecipients = want.headerRecipients || flags[i]
			if want.mode != explainAddresses {
				checkDialect(t, form, want, d.refused)
			}
			if !want.queueRun && want.mode != runDaemon {
				want.operands = []string{"a@x.example", "b@x.example"}
				checkDialect(t, append([]string{"a@x.example"}, append(form, "b@x.example")...), want, d.refused)
				checkDialect(t, append([]string{"a@x.example", "b@x.example"}, form...), want, d.refused)
				checkDialect(t, append(form, "--", "a@x.example", "b@x.example"), want, d.refused)
			}
		}
	}
}

func checkDialect(t *testing.T, args []string, want options, refused string) {
	t.Helper()
	got, err := parse(append([]string{"sendmail"}, args...))
	if refused != "" {
		var e *submit.Error
		if !errors.As(err, &e) || e.Status != submit.ExitUsage || !strings.Contains(err.Error(), refused) {
			t.Errorf("sendmail %q: %v; want status 64 and %q", args, err, refused)
		}
		return
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("sendmail %q:\ngot  %+v, %v\nwant %+v", args, got, err, want)
	}
}

// Everything that is in the table of options is in the dialect, and the other way round.
func TestDialectIsComplete(t *testing.T) {
	tested := map[string]bool{}
	for _, d := range dialect {
		name := d.letters
		if name[0] == 'b' || name[0] == 'o' {
			name = name[:2]
		}
		tested[name] = true
	}
	for _, opt := range table {
		if !tested[opt.name] {
			t.Errorf("-%s is not in the dialect", opt.name)
		}
	}
}
