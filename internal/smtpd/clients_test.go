package smtpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	netsmtp "net/smtp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// listen serves connections on the loopback interface until the test ends.
func listen(t *testing.T, o Options) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if err := Serve(context.Background(), conn, o); err != nil {
				t.Errorf("Serve: %v", err)
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return l.Addr().String()
}

func TestNetSMTP(t *testing.T) {
	q := &queue{}
	o := q.options()
	o.Now = time.Now
	content := "From: ann@example.org\r\nSubject: dots\r\n\r\n.\r\n..\r\nend\r\n"
	if err := netsmtp.SendMail(listen(t, o), nil, "ann@example.org", []string{"bob@example.net", "cyd@example.net"}, []byte(content)); err != nil {
		t.Fatal(err)
	}
	if len(q.messages) != 1 || q.messages[0].content != content || q.messages[0].recipients != "<bob@example.net> <cyd@example.net>" {
		t.Errorf("taken: %v", q.messages)
	}
}

func TestGoSMTP(t *testing.T) {
	q := &queue{}
	o := q.options()
	o.Now = time.Now
	c, err := smtp.Dial(listen(t, o))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for n := range 3 {
		err := errors.Join(
			c.Mail("ann@example.org", &smtp.MailOptions{Size: 100, Body: smtp.Body8BitMIME, UTF8: true, Return: smtp.DSNReturnFull, EnvelopeID: "id+1"}),
			c.Rcpt("bob@example.net", &smtp.RcptOptions{
				Notify: []smtp.DSNNotify{smtp.DSNNotifyFailure, smtp.DSNNotifyDelayed}, OriginalRecipientType: smtp.DSNAddressTypeRFC822, OriginalRecipient: "b=b@example.net",
			}))
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.Data()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(w, "Subject: %d\r\n\r\n.ü\r\n", n); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var refusal *smtp.SMTPError
	if err := c.Mail("ann@example.org", &smtp.MailOptions{Size: 1 << 20}); !errors.As(err, &refusal) || refusal.Code != 552 || refusal.EnhancedCode != (smtp.EnhancedCode{5, 3, 4}) {
		t.Errorf("a message that is too large: %v", err)
	}
	if err := c.Quit(); err != nil {
		t.Error(err)
	}
	if len(q.messages) != 3 {
		t.Fatalf("%d messages were taken", len(q.messages))
	}
	want := "<ann@example.org> FULL id+2B1 UTF8 -> notify=FAILURE,DELAY orcpt=RFC822;b+3Db@example.net <bob@example.net>: Subject: 2||.ü|"
	if got := q.messages[2].String(); got != want {
		t.Errorf("taken: %s, want %s", got, want)
	}
}

// Two clients of the same octets must not see different messages. One is as strict as RFC 5321 section 4.1.1.4: the
// first CR LF "." CR LF ends the data, and nothing else does.
func TestNothingElseEndsTheData(t *testing.T) {
	const alphabet = "\r\n.x\x00"
	const longest = 5
	before := "MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n"
	var walk func(data string)
	walk = func(data string) {
		whole := "\r\n" + data + "\r\n.\r\n"
		end := strings.Index(whole, "\r\n.\r\n")
		want := strings.ReplaceAll(whole[:end+2], "\r\n.", "\r\n")[2:]
		q := &queue{}
		client := &script{Reader: io.MultiReader(strings.NewReader(before), strings.NewReader(data+"\r\n.\r\n"), strings.NewReader("QUIT\r\n"))}
		_ = Serve(t.Context(), client, q.options()) // what follows the end may be anything
		if len(q.messages) != 1 || q.messages[0].content != want {
			t.Fatalf("of %q %d messages were taken: %v, want one of %q", data, len(q.messages), q.messages, want)
		}
		if len(data) < longest {
			for i := range alphabet {
				walk(data + alphabet[i:i+1])
			}
		}
	}
	walk("")
}
