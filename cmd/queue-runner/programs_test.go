package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postrider/postrider/internal/mail"
)

func TestProgramPath(t *testing.T) {
	for _, program := range []string{"|/bin/cat", "/var/mail/x y/", `|/bin/cat "a b" 'c\d' <x@y>`, "/a@b"} {
		p, err := programPath(program, "here.example")
		if err != nil || p.Domain() != "here.example" {
			t.Errorf("programPath(%q) = %v, %v", program, p, err)
		}
		if got, ok := programOf(p); !ok || got != program {
			t.Errorf("programOf(%v) = %q, %v", p, got, ok)
		}
	}
	for _, address := range []string{"bob@x", "|cat@x", "/x@x", `"x"@x`, `""@x`, `"|"`, ""} {
		p, err := mail.ParsePath(address)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := programOf(p); ok && got != "|" {
			t.Errorf("programOf(%v) = %q", p, got)
		}
	}
}

func TestProgramDelivery(t *testing.T) {
	dir := t.TempDir()
	const content = "Subject: x\r\n\r\nText.\r\n"
	staff, err := mail.ParsePath(`"|/bin/x"@here.example`)
	if err != nil {
		t.Fatal(err)
	}
	m := &mail.Message{QueueID: "0N41Z7C2K9A", Content: strings.NewReader(content), Size: int64(len(content))}
	m.Recipients = []mail.Recipient{{}, {Path: staff, Original: "rfc822;staff@here.example"}}
	for _, program := range []string{dir + "/box", dir + "/dir/", `|/bin/sh -c 'cat >"$0"; echo "$RECIPIENT" >>"$0"' ` + dir + "/out"} {
		j, err := programJob(program)
		if err != nil {
			t.Fatal(err)
		}
		j.Owner = os.Geteuid()
		if r := j.deliver(t.Context(), forAlias(m, 1), 0); r.Action != mail.Delivered {
			t.Errorf("%s: %+v", program, r)
		}
	}
	const text = "Return-Path: <>\nDelivered-To: staff@here.example\nSubject: x\n\nText.\n"
	for file, want := range map[string]string{
		"box":       "From MAILER-DAEMON Mon Jan  1 00:00:00 0001\n" + text + "\n",
		"dir/new/*": text,
		"out":       "From MAILER-DAEMON Mon Jan  1 00:00:00 0001\n" + text + "staff@here.example\n",
	} {
		found, err := filepath.Glob(filepath.Join(dir, file))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %q, %v", file, found, err)
		}
		if got, err := os.ReadFile(found[0]); string(got) != want {
			t.Errorf("%s = %q, %v; want %q", file, got, err, want)
		}
	}
}

// Files and commands are for those who have them in the alias file, as a user who is not root, and nobody writes to them.
func TestProgramsAreNotForEverybody(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, "alias_user = \"root\"\nrelay = \"maildir:"+dir+"/Maildir\"\n")
	w.aliases("staff: \"|/bin/touch " + dir + "/touched\", " + dir + "/file\n")
	w.submit("staff@here.example", `"|/bin/touch `+dir+`/touched"@here.example`, `"`+dir+`/file"@here.example`)
	w.pass()
	w.wantLog("status=expanded (to <\"|/bin/touch "+dir+"/touched\"@here.example> <\""+dir+"/file\"@here.example> as ",
		"dsn=5.1.3, status=bounced (nobody can write to a file or a command)", "status=deferred (alias_user: nothing is done as root)")
	for _, name := range []string{"touched", "file"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
}
