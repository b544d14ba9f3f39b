#!/usr/bin/env bash
# demo BIN shows the main job with the programs in BIN: a message is submitted, listed, delivered; one is deferred, one
# bounces. It works in a private spool in a temporary directory, needs no privilege and no network, and stops with an
# error as soon as a step does not show what it should: it is a test too.
set -euo pipefail

bin=${1:-bin}
demo=$(mktemp -d "${TMPDIR:-/tmp}/postrider-demo.XXXXXX")
trap 'rm -rf "$demo"' EXIT
export demo POSTRIDER_CONFIG=$demo/postrider.toml
shown=

# say explains what comes next.
say() {
	if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi
}

# run shows a command and what it prints.
run() {
	local status=0
	printf '\n$ %s\n' "${1//'$bin'/$bin}"
	shown=$(eval "$1" 2>&1) || status=$?
	[ -z "$shown" ] || printf '%s\n' "$shown"
	[ $status = 0 ] || fail "exit status $status"
}

# expect checks that the last command printed something that matches the extended regular expression.
expect() { grep -Eq -- "$1" <<<"$shown" || fail "the output above should have matched: $1"; }

fail() {
	printf '\ndemo: %s\n' "$1" >&2
	exit 1
}

# config writes what it is given to the configuration file, and shows it.
config() {
	sed "s|DEMO|$demo|" >"$POSTRIDER_CONFIG"
	run 'cat $POSTRIDER_CONFIG'
}

say '1. A configuration of our own: the spool in a temporary directory, and all mail into a Maildir beside it.'
printf '\n$ export demo=%s POSTRIDER_CONFIG=$demo/postrider.toml\n' "$demo"
config <<'END'
spool    = "DEMO/spool"
hostname = "web1.example"
relay    = "maildir:DEMO/Maildir"
delivery = "queue"               # only queue; we want to look before it is delivered
log      = "stderr"              # instead of syslog
END
run '$bin/queue-runner check'

say '2. A program hands in a message, as cron would. No news is good news: it is on the disk.'
run 'printf "From: backup\nTo: ann@example.com\nSubject: backup done\n\n42 files, no errors.\n" | $bin/sendmail -t'
[ -z "$shown" ] || fail 'sendmail should say nothing when all is well'
run '$bin/mailq'
expect 'ann@example\.com'

say '3. A pass of queue-runner delivers it. cron, a timer, or its own daemon mode would start that for you.'
run '$bin/queue-runner'
expect 'to=<ann@example\.com>.* status=sent'
run '$bin/mailq'
expect '^Mail queue is empty$'
run 'cat $demo/Maildir/new/*'
expect '^Date: '
expect '^Message-ID: '
expect '^From: .*backup@web1\.example'
expect '^42 files, no errors\.'

say '4. Now two things go wrong: a server that does not answer, and an address that no mail goes to.'
run 'rm $demo/Maildir/new/*'
config <<'END'
spool    = "DEMO/spool"
hostname = "web1.example"
delivery = "queue"
log      = "stderr"

[transport.inbox]
url = "maildir:DEMO/Maildir"

[transport.smarthost]
url = "smtp://127.0.0.1:1"       # nobody listens there

[transport.nowhere]
url  = "fail:"
text = "no mail goes to typo.example"

[[route]]
to        = ["partner.example"]
transport = "smarthost"

[[route]]
to        = ["typo.example"]
transport = "nowhere"

[[route]]
transport = "inbox"
END
run 'printf "Subject: invoice\n\nDue on Friday.\n" | $bin/sendmail -f ann@example.com bob@partner.example'
run 'printf "Subject: lunch\n\nAt noon?\n" | $bin/sendmail -f ann@example.com carl@typo.example'
run '$bin/queue-runner'
expect 'to=<bob@partner\.example>.* status=deferred'
expect 'to=<carl@typo\.example>.* status=bounced'

say 'The first waits for its next attempt, and the queue says why:'
run '$bin/mailq'
expect 'onnection refused'
expect 'bob@partner\.example'

say 'The second came back to its sender as a bounce, through the same queue:'
run 'cat $demo/Maildir/new/*'
expect '^To: .*ann@example\.com'
expect '^Auto-Submitted: auto-replied'
expect 'Content-Type: message/delivery-status'
expect '^Final-Recipient: rfc822; *carl@typo\.example'
expect '^Action: failed'

say 'That was all. What to try next:'
cat <<END

  man ./man/queue-runner.8           how passes are started: cron, systemd, a daemon
  man ./man/postrider.toml.5         routes, transports, how often to try again
  POSTRIDER_CONFIG=my.toml $bin/queue-runner check
                                     a configuration of your own, checked and explained
  make install                       as root: sendmail for the whole machine
END
