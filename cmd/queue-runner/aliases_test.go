package main

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postrider/postrider/internal/smtptest"
)

func (w *world) aliases(text string) {
	w.t.Helper()
	file := filepath.Join(filepath.Dir(w.config), "aliases")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	settings, err := os.ReadFile(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	changed := strings.Replace(string(settings), "aliases = \"\"\n", fmt.Sprintf("aliases = %q\n", file), 1)
	if err := os.WriteFile(w.config, []byte(changed), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// arrived returns who got what from whom, in the order of arrival.
func arrived(s *smtptest.Server) (list []string) {
	for _, m := range s.Messages() {
		for _, r := range m.Recipients {
			list = append(list, m.Sender+" > "+r.Address)
		}
	}
	return list
}

func TestAliases(t *testing.T) {
	tests := []struct {
		name, aliases, rcpt string
		want                []string
		log                 string
	}{
		{"no alias: the relay knows", "", "bob@here.example", []string{"ann@example.org > bob@here.example"}, "to=<bob@here.example>, relay=127.0.0.1"},
		{"root is a person elsewhere", "root: me@example.net", "root@here.example", []string{"ann@example.org > me@example.net"}, "status=expanded (to <me@example.net> as "},
		{"at localhost", "root: me@example.net", "ROOT@localhost", []string{"ann@example.org > me@example.net"}, ""},
		{"at the domain of bare names", "root: me@example.net", "root@site.example", []string{"ann@example.org > me@example.net"}, ""},
		{"not elsewhere", "root: me@example.net", "root@example.com", []string{"ann@example.org > root@example.com"}, ""},
		{"several, one local", "root: me@example.net, bob", "root@here.example", []string{"ann@example.org > me@example.net", "ann@example.org > bob@here.example"}, ""},
		{"reports go to the owner", "staff: x@example.net, y@example.net\nowner-staff: boss", "staff@here.example",
			[]string{"owner-staff@here.example > x@example.net", "owner-staff@here.example > y@example.net"}, ""},
		{"reports go to the owner where others can reach him", "staff: x@example.net, bob\nowner-staff: boss\nboss: chief@example.net", "staff@here.example",
			[]string{"chief@example.net > x@example.net", "chief@example.net > bob@here.example"}, ""},
		{"commands are left out", "root: me@example.net, \"|/bin/cat\"", "root@here.example", []string{"ann@example.org > me@example.net"}, "commands are not run"},
		{"to itself at a domain of this host", "root: root@here.example", "root@localhost", []string{"ann@example.org > root@here.example"}, "status=expanded"},
		{"nobody, on purpose", "root: /dev/null", "root@here.example", nil, "relay=aliases, delay="},
		{"catch-all", "*: me@example.net", "anybody@here.example", []string{"ann@example.org > anybody@here.example"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := smtptest.NewServer(t, smtptest.Options{Strict: true})
			w := newWorld(t, "domain = \"site.example\"\n"+relayTo(s))
			w.aliases(tt.aliases)
			w.submit(tt.rcpt)
			w.pass()
			if got := arrived(s); fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("arrived %q, want %q\n%s", got, tt.want, w.log)
			}
			if got := w.waiting(); len(got) != 0 {
				t.Errorf("waiting: %q", got)
			}
			w.wantLog(tt.log)
		})
	}
}

func TestTwoNamesForOnePersonAreOneMessage(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{})
	w := newWorld(t, relayTo(s))
	w.aliases("root: me@example.net\npostmaster: root")
	w.submit("root@here.example", "postmaster@here.example", "other@example.com")
	w.pass()
	want := "[ann@example.org > other@example.com ann@example.org > me@example.net]"
	other := "[ann@example.org > me@example.net ann@example.org > other@example.com]"
	if got := fmt.Sprint(arrived(s)); got != want && got != other {
		t.Errorf("arrived %s", got)
	}
	for _, m := range s.Messages() {
		if m.Recipients[0].Address != "me@example.net" {
			continue
		}
		if got := strings.Join(m.Recipients[0].Params, " "); !strings.Contains(got, "ORCPT=rfc822;root@here.example") {
			t.Errorf("parameters %q, want the address that was written to", got)
		}
		if !strings.HasPrefix(string(m.Content), "Received: by here.example (postrider, alias") {
			t.Errorf("content %q", m.Content)
		}
	}
}

func TestAliasLoopWaitsForAMend(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{})
	w := newWorld(t, relayTo(s))
	w.aliases("a: b\nb: a\nc: d@localhost\nd: c@here.example\nlist: me@example.net, :include:/nonexistent/list")
	w.submit("a@here.example")
	w.submit("c@here.example")
	w.submit("list@here.example")
	w.pass()
	got := strings.Join(w.waiting(), "\n")
	if strings.Count(got, "alias loop") != 2 || strings.Count(got, ":include: open /nonexistent/list") != 1 {
		t.Errorf("waiting: %s", got)
	}
	if got := arrived(s); got != nil {
		t.Errorf("arrived: %q", got)
	}
}

// Where mail for this host ends in mailboxes of it, who is nobody here is told so.
func TestUsersOfThisHost(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Skipf("SKIPPED: needs a user that passwd(5) has: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "Maildir")
	w := newWorld(t, fmt.Sprintf("relay = \"maildir:%s\"\n", dir))
	w.aliases("nobody-there: " + me.Username)
	w.submit(me.Username+"@here.example", me.Username+"+x@localhost", "nobody-there@here.example", "no-such-user@here.example", "postmaster@here.example", "bob@example.net")
	w.pass()
	w.wantLog("to=<no-such-user@here.example>, relay=none, delay=", "dsn=5.1.1, status=bounced (no alias and no user of this host has this name)")
	files, err := filepath.Glob(filepath.Join(dir, "new", "*"))
	if err != nil || len(files) != 5 {
		t.Errorf("%d messages in the Maildir, %v; want 4, since two names are one person, and a report\n%s", len(files), err, w.log)
	}
}

func TestAliasesAreReadFresh(t *testing.T) {
	s := smtptest.NewServer(t, smtptest.Options{})
	w := newWorld(t, relayTo(s))
	w.aliases("root: old@example.net")
	b := w.start("--daemon", "--interval", "1h")
	w.submit("root@here.example")
	b.until("to=<old@example.net>")
	w.aliases("root: newer@example.net")
	if err := os.Chtimes(filepath.Join(filepath.Dir(w.config), "aliases"), time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.submit("root@here.example")
	b.until("to=<newer@example.net>")
}

func TestNewaliases(t *testing.T) {
	tests := []struct {
		name, aliases string
		status        int
		says          string
	}{
		{"good", "root: ann\n# x\nbob: cyd@example.net, dan\n", 0, "aliases: 2 aliases, longest 20 bytes, 23 bytes total\n"},
		{"mistake", "root: ann\nno colon\n", 65, "aliases:2: no colon after the name"},
		{"loop", "a: b\nb: a\n", 0, "aliases:1: a: alias loop"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, "")
			w.aliases(tt.aliases)
			if status := w.run("newaliases"); status != tt.status || !strings.Contains(w.log, tt.says) {
				t.Errorf("exit %d, want %d with %q:\n%s", status, tt.status, tt.says, w.log)
			}
		})
	}
	w := newWorld(t, "")
	if status := w.run("newaliases"); status != 0 || w.log != "" {
		t.Errorf("without a file: exit %d, %q", status, w.log)
	}
}
