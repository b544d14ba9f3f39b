package realtest

import (
	"crypto/tls"
	"crypto/x509"
	"math/rand/v2"
	"net"
	"net/smtp"
	"net/url"
	"regexp"
	"strconv"
	"testing"
)

// A peer is a real server of SMTP that takes mail for everybody and changes nothing in it.
type peer struct {
	name     string
	packages debian
	start    func(*world)
	doors    []door
	arrivals func(*world) []arrival // waits until all is delivered
}

var peers = []peer{
	{
		name: "Postfix", packages: sendersAndPostfix, start: (*world).startPostfix, arrivals: (*world).arrivals,
		doors: []door{
			{domain: "clear.example", url: "smtp://localhost:10020", offers: "PIPELINING CHUNKING 8BITMIME SMTPUTF8"},
			{domain: "tls.example", url: "smtp://localhost:10021", tls: true, offers: "PIPELINING CHUNKING 8BITMIME SMTPUTF8"},
			{domain: "data.example", url: "smtp://localhost:10022", tls: true, offers: "PIPELINING 8BITMIME SMTPUTF8"},
			{domain: "basic.example", url: "smtp://localhost:10023"},
		},
	},
	{
		name: "Exim", packages: eximAlone, start: (*world).startExim, arrivals: (*world).eximArrivals,
		doors: []door{
			{domain: "clear.example", url: "smtp://localhost:10020", offers: "PIPELINING CHUNKING 8BITMIME SMTPUTF8"},
			{domain: "tls.example", url: "smtp://localhost:10021", tls: true, offers: "PIPELINING CHUNKING 8BITMIME SMTPUTF8"},
			{domain: "data.example", url: "smtp://localhost:10022", tls: true, offers: "PIPELINING 8BITMIME SMTPUTF8"},
			{domain: "basic.example", url: "smtp://localhost:10023", offers: "8BITMIME"},
			{domain: "chunking.example", url: "submissions://localhost:10024", tls: true, offers: "CHUNKING 8BITMIME"},
		},
	},
	{
		name: "OpenSMTPD 7", packages: opensmtpdNewer, start: (*world).startOpenSMTPD, arrivals: (*world).opensmtpdArrivals,
		doors: []door{
			{domain: "clear.example", url: "smtp://localhost:10020", offers: "8BITMIME"}, // it knows no other extension
			{domain: "tls.example", url: "smtp://localhost:10021", tls: true, offers: "8BITMIME"},
			{domain: "smtps.example", url: "submissions://localhost:10024", tls: true, offers: "8BITMIME"},
		},
	},
	{
		// It offers STARTTLS, and cannot do it with the OpenSSL that it has in Debian 12: mail goes in clear then.
		name: "OpenSMTPD 6.8", packages: opensmtpdAlone, start: (*world).startOpenSMTPD, arrivals: (*world).opensmtpdArrivals,
		doors: []door{
			{domain: "clear.example", url: "smtp://localhost:10020", offers: "8BITMIME"},
			{domain: "broken.example", url: "smtp://localhost:10021", broken: true, offers: "8BITMIME"},
		},
	},
}

// TestPeers hands 500 messages to each server, through doors that differ in what they offer: every recipient has got what
// was sent to him, octet by octet but for documented changes, and once. Addresses that a server does not take come back.
func TestPeers(t *testing.T) {
	prove(t)
	bin := build(t)
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) {
			w := newWorld(t, p.packages.root(t))
			w.furnish()
			p.start(w)
			for _, d := range p.doors {
				w.checkOffers(d)
			}
			w.install(bin)
			w.prepareReports()
			w.configure(doorsConfig(p.doors), "unused")

			all := letters(rand.New(rand.NewPCG(2034, 0)), p.doors)
			w.post(all)
			log := w.passUntilEmpty()
			w.compareLetters(all, p.doors, p.arrivals(w))
			if t.Failed() {
				t.Logf("the log of the passes, but for what went well:\n%.20000s", wentWell.ReplaceAllString(log, ""))
			}
		})
	}
}

// wentWell matches lines of the log that tell what is expected.
var wentWell = regexp.MustCompile(`(?m)^.*(?:\(queued\)| status=sent \(.*\)| removed)\n`)

// checkOffers waits until a door is open, and has a client of the standard library's look whether it is what it is thought
// to be.
func (w *world) checkOffers(d door) {
	w.t.Helper()
	check := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatalf("%s: %v", d.url, err)
		}
	}
	u, err := url.Parse(d.url)
	check(err)
	port, err := strconv.Atoi(u.Port())
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.read("etc/postrider/ca.pem"))
	config := &tls.Config{ServerName: "localhost", RootCAs: roots}

	var conn net.Conn
	w.eventually(d.url+" is open", func() bool {
		conn, err = w.dial(port)
		return err == nil
	})
	if u.Scheme == "submissions" {
		conn = tls.Client(conn, config)
	}
	c, err := smtp.NewClient(conn, "localhost")
	check(err)
	defer c.Close()
	check(c.Hello("web1.example"))
	if ok, _ := c.Extension("STARTTLS"); ok != (d.tls && u.Scheme != "submissions" || d.broken) {
		w.t.Errorf("%s offers STARTTLS: %v", d.url, ok)
	} else if ok && !d.broken {
		check(c.StartTLS(config))
	}
	for _, extension := range extensions {
		if ok, _ := c.Extension(extension); ok != d.has(extension) {
			w.t.Errorf("%s offers %s: %v", d.url, extension, ok)
		}
	}
	check(c.Quit())
}
