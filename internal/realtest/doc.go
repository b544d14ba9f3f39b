// Package realtest proves the main job on real input. It holds tests only; they need root, apt, and the network the first
// time.
//
// Every test run has Debian's cron, mailx, mutt, git, PHP and a monitoring plugin find our programs in the usual places,
// and looks at what a server gets (TestClients, TestCheckMailq); where the packages cannot be had, it says so.
//
// In the proof, what more programs compose goes through our sendmail, the spool and a pass to a real Postfix, and what
// arrives is compared with it byte by byte (TestRealInput); and 500 messages of all kinds go to a real Postfix, Exim and
// OpenSMTPD, through doors that differ in what they offer (TestPeers), and to the mailboxes of a real Dovecot by LMTP
// (TestDovecot). That runs when POSTRIDER_PROOF is set:
//
//	POSTRIDER_PROOF=1 go test -count=1 -v ./internal/realtest
//
// The servers and the programs are unpacked from Debian's packages into a directory of their own, by default below the
// user's cache directory (POSTRIDER_PROOF_CACHE names another), and run in a world of their own: private mount, process,
// network, host name and IPC namespaces over an overlay of that directory. Nothing is installed on this machine, no
// packet leaves it, and when the test ends, however it ends, the kernel ends all that runs there.
//
// POSTRIDER_PROOF_SAMPLES names a directory to write argv and input of each call of sendmail to; so came about
// cmd/sendmail/testdata/callers.
package realtest
