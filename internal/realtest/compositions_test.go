package realtest

import (
	"bytes"
	"fmt"
	"strings"
)

// aScript is a program written for this test: its input is composed by hand, not by the program.
const aScript = "a script"

// A composition is a program at work: what it is told to do, and what sendmail has to make of it.
type composition struct {
	program string
	does    string
	user    string
	script  string // for sh, in the home of the user
	stdin   string // of the script
	calls   []expected
}

// An expected message is what one call of sendmail should send.
type expected struct {
	sender     string
	recipients []string
	repairs

	subject, text string // what the reader sees: the subject, and words of the text
}

const (
	addsDate      = `Date: [A-Z][a-z]{2}, \d\d? [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [-+]\d{4}`
	addsMessageID = `Message-I[Dd]: <[^<>@\s]+@web1\.example>`
	addsAnn       = `From: Ann Example <ann@web1\.example>`
	addsJose      = `From: =\?utf-8\?b\?Sm9zw6kgRWplbXBsbw==\?= <jose@web1\.example>`
)

var (
	bob    = []string{"bob@site.example"}
	hidden = []string{"bob@site.example", "hidden@site.example"}
)

// list returns n addresses.
func list(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("subscriber-%03d@list.example", i))
	}
	return all
}

// awkward is text with what mail programs stumble over.
const awkward = "Grüße,\n.\n..\n..dots\nFrom here on\n>From there\n\n \n\ttab\n--\nthe end"

// compositions is the specification of the proof.
var compositions = []composition{
	{
		program: "bsd-mailx", does: "UTF-8 text with a copy and a blind copy, by a user whose name is not ASCII", user: "jose",
		script: `bsd-mailx -s 'Grüße aus Köln' -c carol@other.example -b hidden@site.example bob@site.example`, stdin: awkward,
		calls: []expected{{
			sender: "jose@web1.example", recipients: []string{"bob@site.example", "carol@other.example", "hidden@site.example"},
			repairs: repairs{add: []string{addsDate, addsMessageID, addsJose}, remove: []string{"Bcc"}},
			subject: "Grüße aus Köln", text: awkward,
		}},
	},
	{
		program: "mailutils", does: "UTF-8 text to two", user: "ann",
		script: `mail.mailutils -E 'unset dot' -s 'Grüße' bob@site.example carol@other.example`, stdin: awkward,
		calls: []expected{{
			sender: "ann@web1.example", recipients: []string{"bob@site.example", "carol@other.example"},
			repairs: repairs{add: []string{addsMessageID, addsAnn}},
			subject: "Grüße", text: awkward,
		}},
	},
	{
		program: "s-nail", does: "UTF-8 text with a blind copy", user: "ann",
		script: `s-nail -s 'Grüße' -b hidden@site.example bob@site.example`, stdin: awkward,
		calls: []expected{{
			sender: "ann@web1.example", recipients: hidden,
			repairs: repairs{add: []string{addsMessageID, addsAnn}},
		}},
	},
	{
		program: "mutt", does: "an attachment and a blind copy", user: "ann",
		script: `printf 'attached' >note.txt; mutt -s 'Übung' -b hidden@site.example -a note.txt -- bob@site.example`, stdin: awkward,
		calls: []expected{{sender: "ann@web1.example", recipients: hidden, subject: "Übung", text: awkward}},
	},
	{
		program: "mutt", does: "ISO-8859-1 in 8 bits, reports asked for failures only", user: "ann",
		script: `mutt -e 'set send_charset=iso-8859-1' -e 'set use_8bitmime' -e 'set dsn_notify="failure,delay"' -e 'set dsn_return=hdrs' -s 'café' bob@site.example`,
		stdin:  awkward,
		calls:  []expected{{sender: "ann@web1.example", recipients: bob}},
	},
	{
		program: "mutt", does: "an attachment of 25 MB", user: "ann",
		script: `head -c 25000000 /dev/urandom >backup.tar.gz; mutt -s backup -a backup.tar.gz -- bob@site.example`, stdin: "see there\n",
		calls: []expected{{sender: "ann@web1.example", recipients: bob}},
	},
	{
		program: "git send-email", does: "a series of three: quoted-printable, carriage returns, 8 bits", user: "ann",
		script: `git init -q series; cd series; git config user.name 'José Ejemplo'; git config user.email jose@site.example
			git commit -q --allow-empty -m start
			printf 'a\n.\nFrom here\n%01200d\n' 7 >f; git add f; git commit -qm 'eins: äöü'
			printf 'From ann\r\nends\r\n' >g; git add g; git commit -qm zwei
			printf 'a\n.\n..\nFrom here\n%0900d\nno newline at the end é' 7 >h; git add h; git commit -qm 'drei: äöü'
			git send-email --quiet --confirm=never --envelope-sender=auto --suppress-cc=self --to bob@site.example --cc 'Carol <carol@other.example>' -3 >/dev/null`,
		calls: []expected{
			patch("[PATCH 1/3] eins: äöü", "\n+.\n+From here\n"), patch("[PATCH 2/3] zwei", "\n+From ann"), patch("[PATCH 3/3] drei: äöü", "end é"),
		},
	},
	{
		program: "PHP mail()", does: "CRLF header, LF body, a blind copy, a sender for bounces", user: "www-data",
		script: `php8.2`,
		stdin: `<?php mail("bob@site.example, carol@other.example", "=?UTF-8?B?R3LDvMOfZQ==?=", "l1\n.\n..\nFrom l2 \xc3\xa9\n",
			"From: App <app@web1.example>\r\nX-App: 1,\r\n 2\r\nBcc: hidden@site.example\r\nContent-Type: text/plain; charset=UTF-8",
			"-fbounce@site.example") or exit(1);`,
		calls: []expected{{
			sender: "bounce@site.example", recipients: []string{"bob@site.example", "carol@other.example", "hidden@site.example"},
			repairs: repairs{add: []string{addsDate, addsMessageID}, remove: []string{"Bcc"}},
			subject: "Grüße", text: "l1\n.\n..\nFrom l2 é\n",
		}},
	},
	{
		program: "PHP mail()", does: "the least, with a name of its own", user: "www-data",
		script: `php8.2`, stdin: `<?php mail("bob@site.example", "plain", "l1\r\nl2\nno newline") or exit(1);`,
		calls: []expected{{
			sender: "www-data@web1.example", recipients: bob,
			repairs: repairs{add: []string{addsDate, addsMessageID, `From: www-data <www-data@web1\.example>`}},
		}},
	},
	{
		program: "anacron", does: "a job of a user, with a bare sender", user: "ann",
		script: `mkdir .anacron; printf '1\t0\tjob\tcat ~/words\n' >.anacron/tab; cat >words
			MAILTO=ops@site.example anacron -d -f -n -t .anacron/tab -S .anacron 2>/dev/null`,
		stdin: strings.ReplaceAll(awkward, "\n.\n", "\n"), // it neither doubles dots nor has them ignored
		calls: []expected{{
			sender: "ann@web1.example", recipients: []string{"ops@site.example"},
			repairs: repairs{
				add:    []string{addsDate, addsMessageID},
				change: map[string]string{"From: Anacron <ann>": "From: Anacron <ann@web1.example>"},
			},
		}},
	},
	{
		program: aScript, does: "words without a header to root, without a last newline", user: "root",
		script: `printf 'disk full on /var' | sendmail root`,
		calls: []expected{{
			sender: "root@web1.example", recipients: []string{"root@web1.example"},
			repairs: repairs{add: []string{addsDate, addsMessageID, `From: root <root@web1\.example>`}},
		}},
	},
	{
		program: aScript, does: "nothing at all", user: "ann",
		script: `sendmail bob@site.example </dev/null`,
		calls: []expected{{
			sender: "ann@web1.example", recipients: bob,
			repairs: repairs{add: []string{addsDate, addsMessageID, addsAnn}},
		}},
	},
	{
		program: aScript, does: "a dot that ends the message, and a doubled one", user: "ann",
		script: `sendmail -t`, stdin: "To: bob@site.example\nSubject: dots\n\na\n..b\n.c\n.\nnot sent\n",
		calls: []expected{{
			sender: "ann@web1.example", recipients: bob,
			repairs: repairs{add: []string{addsDate, addsMessageID, addsAnn}},
		}},
	},
	{
		program: aScript, does: "raw ISO-8859-1 in header and body", user: "ann",
		script: `sendmail -i -t`, stdin: "To: bob@site.example\nSubject: caf\xe9\n\ncaf\xe9 \xa4\xff\n",
		calls: []expected{{
			sender: "ann@web1.example", recipients: bob,
			repairs: repairs{add: []string{addsDate, addsMessageID, addsAnn}},
		}},
	},
	{
		program: aScript, does: "raw UTF-8 in header and body", user: "ann",
		script: `sendmail -i -t`, stdin: "To: Jürgen <bob@site.example>\nSubject: Grüße ✓\n\nGrüße ✓\n",
		calls: []expected{{
			sender: "ann@web1.example", recipients: bob,
			repairs: repairs{add: []string{addsDate, addsMessageID, addsAnn}},
		}},
	},
	{
		program: aScript, does: "an address that is not ASCII", user: "ann",
		script: `sendmail -i jürgen@bücher.example`, stdin: "To: jürgen@bücher.example\nSubject: Grüße\n\nGrüße\n",
		calls: []expected{{
			sender: "ann@web1.example", recipients: []string{"jürgen@bücher.example"},
			repairs: repairs{add: []string{addsDate, addsMessageID, addsAnn}},
		}},
	},
	{
		program: aScript, does: "an mbox line first, and what only a store may write", user: "ann",
		script: `sendmail -oi bob@site.example`,
		stdin:  "From ann Sat Nov 21 22:00:00 2026\nReturn-Path: <x@y.example>\nContent-Length: 5\nTo: bob@site.example\n\nFrom me\n",
		calls: []expected{{
			sender: "ann@web1.example", recipients: bob,
			repairs: repairs{add: []string{addsDate, addsMessageID, addsAnn}, remove: []string{"Return-Path", "Content-Length"}},
		}},
	},
	{
		program: aScript, does: "a report, with the null sender and a recipient in quotes", user: "root",
		script: `sendmail -i -f '' -- '"john doe"@site.example'`,
		stdin:  "From: MAILER-DAEMON\nTo: \"john doe\"@site.example\nAuto-Submitted: auto-replied\n\nsorry\n",
		calls: []expected{{
			sender: "", recipients: []string{`"john doe"@site.example`},
			repairs: repairs{
				add:    []string{addsDate, addsMessageID},
				change: map[string]string{"From: MAILER-DAEMON": "From: MAILER-DAEMON@web1.example"},
			},
		}},
	},
	{
		program: aScript, does: "a header of 60 KB in folded lines", user: "ann",
		script: `sendmail -i bob@site.example`,
		stdin:  "To: bob@site.example\nReferences: <0@x>" + strings.Repeat("\n <0123456789abcdefghijklmnopqrstuvwxyz@news.example>", 1200) + "\n\nhi\n",
		calls: []expected{{
			sender: "ann@web1.example", recipients: bob,
			repairs: repairs{add: []string{addsDate, addsMessageID, addsAnn}},
		}},
	},
	{
		program: aScript, does: "a line of 20 KB", user: "ann",
		script: `sendmail -i bob@site.example`,
		stdin:  "To: bob@site.example\n\n" + strings.Repeat("long ", 4000) + "\nshort\n",
		calls: []expected{{
			sender: "ann@web1.example", recipients: bob,
			repairs: repairs{
				add:   []string{addsDate, addsMessageID, addsAnn, "MIME-Version: 1.0", "Content-Transfer-Encoding: quoted-printable"},
				coded: true,
			},
		}},
	},
	{
		program: aScript, does: "NUL and carriage returns where none belong", user: "ann",
		script: `sendmail -i bob@site.example`,
		stdin:  "To: bob@site.example\n\na\x00b\rc\r\r\nd\n",
		calls: []expected{{
			sender: "ann@web1.example", recipients: bob,
			repairs: repairs{add: []string{addsDate, addsMessageID, addsAnn}, body: mend},
		}},
	},
	{
		program: aScript, does: "a mailing to 500 recipients by argument", user: "ann",
		script: `sendmail -i ` + strings.Join(list(500), " "),
		stdin:  "From: news@web1.example\nTo: undisclosed-recipients:;\nSubject: news\n\nto all of you\n",
		calls: []expected{{
			sender: "ann@web1.example", recipients: list(500),
			repairs: repairs{add: []string{addsDate, addsMessageID}},
		}},
	},
	{
		program: aScript, does: "a mailing to 500 recipients by blind copy", user: "ann",
		script: `sendmail -i -t`,
		stdin:  "From: news@web1.example\nTo: undisclosed-recipients:;\nBcc: " + strings.Join(list(500), ",\n ") + "\nSubject: news\n\nto all of you\n",
		calls: []expected{{
			sender: "ann@web1.example", recipients: list(500),
			repairs: repairs{add: []string{addsDate, addsMessageID}, remove: []string{"Bcc"}},
		}},
	},
}

// patch is a message of a series.
func patch(subject, text string) expected {
	return expected{sender: "jose@site.example", recipients: []string{"bob@site.example", "carol@other.example"}, subject: subject, text: text}
}

// mend does to a body what must be done before it can be sent (RFC 5321 section 2.3.8).
func mend(body []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(body, []byte("\x00"), nil), []byte("\r"), []byte("\n"))
}

// cronJobs are run by cron itself, so nobody waits for them as for the others: the job of root prints only when sendmail
// has been called for that of ann.
var cronJobs = composition{
	program: "cron", does: "what jobs print, of a user who named others and of root",
	calls: []expected{
		{
			sender: "ann@web1.example", recipients: []string{"ops@site.example", "root@web1.example"},
			repairs: repairs{
				add: []string{addsDate, addsMessageID},
				change: map[string]string{
					"From: root (Cron Daemon)":  "From: root@web1.example (Cron Daemon)",
					"To: ops@site.example,root": "To: ops@site.example,root@web1.example",
				},
			},
			subject: `Cron <ann@web1> printf 'Grüße\n.\nFrom here\nno newline'`, text: "Grüße\n.\nFrom here\nno newline",
		},
		{
			sender: "root@web1.example", recipients: []string{"root@web1.example"},
			repairs: repairs{
				add: []string{addsDate, addsMessageID},
				change: map[string]string{
					"From: root (Cron Daemon)": "From: root@web1.example (Cron Daemon)",
					"To: root":                 "To: root@web1.example",
				},
			},
		},
	},
}

const (
	crontabOfAnn  = "MAILTO=ops@site.example,root\n@reboot printf 'Gr\u00fc\u00dfe\\n.\\nFrom here\\nno newline'\n"
	crontabOfRoot = "@reboot root until ls /calls/*/status; do sleep 0.05; done >/dev/null 2>&1; echo done\n"
)
