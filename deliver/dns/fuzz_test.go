package dns

import (
	"errors"
	"testing"

	"github.com/miekg/dns"
)

// FuzzAnswer reads what may come over the network. Whatever it is, what we go on with are names that can be asked for
// and looked at, in a number that costs little, and an answer that is not to our question changes nothing.
func FuzzAnswer(f *testing.F) {
	types := []uint16{dns.TypeMX, dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypeTLSA}
	for _, records := range [][]string{
		{"example.com. 60 IN MX 10 mx.example.com.", "example.com. 60 IN MX 0 ."},
		{"example.com. 60 IN CNAME b.example.", "b.example. 60 IN A 192.0.2.1", "b.example. 60 IN AAAA 2001:db8::1"},
		{"example.com. 60 IN CNAME b.example.", "b.example. 60 IN CNAME example.com."},
		{"example.com. 60 IN SRV 0 0 587 a\\000b.example."},
		{`example.com. 60 IN TXT "v=STSv1; " "id=1;"`, "example.com. 60 IN TLSA 3 1 1 0102"},
	} {
		for i, kind := range types {
			m := new(dns.Msg)
			m.Id, m.Response, m.RecursionAvailable = 7, true, true
			m.Question = []dns.Question{{Name: "example.com.", Qtype: kind, Qclass: dns.ClassINET}}
			for _, line := range records {
				rr, err := dns.NewRR(line)
				if err != nil {
					f.Fatal(err)
				}
				m.Answer = append(m.Answer, rr)
			}
			packed, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(packed, uint8(i))
		}
	}
	f.Fuzz(func(t *testing.T, message []byte, kind uint8) {
		q := question{"example.com.", types[int(kind)%len(types)]}
		a, err := parse(message, 7, q)
		if err != nil && !a.empty() {
			t.Errorf("records with an error: %+v, %v", a, err)
		}
		if err == nil && a.empty() == (a.alias == "") {
			t.Errorf("neither records nor an alias, or both: %+v", a)
		}
		if _, other := parse(message, 8, q); len(message) >= 2 && message[0] == 0 && message[1] == 7 && !errors.Is(other, errStranger) {
			t.Errorf("an answer with another ID counts: %v", other)
		}
		if a.ttl < 0 || a.ttl > maxTTL || a.records() > maxRecords || len(a.links) > maxLinks {
			t.Errorf("out of bounds: %+v", a)
		}
		var names []string
		for _, mx := range a.mx {
			names = append(names, mx.Host)
		}
		for _, srv := range a.srv {
			names = append(names, srv.Host)
		}
		for _, name := range append(names, a.links...) {
			if name != "" && !askable(dns.Fqdn(name)) {
				t.Errorf("%q is not the name of a host", name)
			}
		}
	})
}
