// Package dnstest runs a name server on loopback that answers from a list of records, or as badly as it is told, for tests
// of what asks it.
package dnstest

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// What a server can do instead of answering from its records.
const (
	Silent    = "silent"         // say nothing
	Refuse    = "REFUSED"        // as any other RCODE by its name
	Fail      = "SERVFAIL"       //
	Truncate  = "truncate"       // over UDP, say that the answer did not fit, and leave it out
	UDPOnly   = "udp only"       // likewise, but over TCP hang up
	NoEDNS    = "no EDNS"        // FORMERR to a question with EDNS
	WrongID   = "wrong ID"       // another answer first, that has the wrong ID
	WrongName = "wrong question" // another answer first, to a question that was not asked
	OnlyWrong = "only wrong"     // that one and no other
	Garbage   = "garbage"        // the right ID, and then nothing that could be read
	Stepwise  = "stepwise"       // no records at the end of an alias: they must be asked for
	Lame      = "lame"           // a referral, as from a server that has nothing to do with the name
	CutShort  = "cut short"      // an answer that ends in the middle
	Unsigned  = "unsigned"       // nobody vouches for the answer, whatever Sign said
	Referral  = "referral"       // only the servers of the zone, from a server that would have to ask them itself
	Empty     = "empty"          // an answer with nothing in it at all
	Poisoned  = "poisoned"       // the answer, and records of other names that nobody asked for
	Swamped   = "swamped"        // the answer behind many that are forged
	Echo      = "echo"           // the question
	Runt      = "runt"           // three octets
	Circle    = "circle"         // a name that is compressed to itself
	NoEnd     = "no end"         // over UDP, that it did not fit; over TCP, half of it, and hang up
	TCPSilent = "TCP silent"     // over UDP, that it did not fit; over TCP, nothing
	TooLong   = "too long"       // over TCP, an answer that is announced longer than it is, and nothing more
)

// A TB is the part of testing.TB that NewServer needs.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// A Server answers over UDP and TCP at the same port.
type Server struct {
	addr string

	mu        sync.Mutex
	records   []dns.RR
	behaviour map[string]string
	signed    []string // names with the dot of the root
	queries   []string
	conns     map[string]net.Conn // TCP, by the address of the client
}

// NewServer starts a server that has these records, each a line of a zone file (RFC 1035 section 5.1) with a complete name,
// and is stopped when the test ends.
func NewServer(t TB, records ...string) *Server {
	t.Helper()
	s := &Server{behaviour: map[string]string{}, conns: map[string]net.Conn{}}
	if err := s.Add(records...); err != nil {
		t.Fatalf("%v", err)
	}
	udp, tcp, err := listen()
	if err != nil {
		t.Fatalf("start a name server: %v", err)
	}
	s.addr = udp.LocalAddr().String()
	for _, server := range []*dns.Server{{PacketConn: udp}, {Listener: listener{tcp, s}}} {
		server.Handler = dns.HandlerFunc(s.serve)
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		var serving sync.WaitGroup
		serving.Go(func() { _ = server.ActivateAndServe() }) // ends with an error when it is shut down
		<-started
		t.Cleanup(func() {
			_ = server.Shutdown() // nothing was written that could be lost
			serving.Wait()
		})
	}
	return s
}

// listen finds a port that is free for both.
func listen() (net.PacketConn, net.Listener, error) {
	var last error
	for range 20 {
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, err
		}
		tcp, err := net.Listen("tcp", udp.LocalAddr().String())
		if err == nil {
			return udp, tcp, nil
		}
		last = err
		udp.Close()
	}
	return nil, nil, last
}

// A listener lets the server have its connections, which package dns keeps to itself.
type listener struct {
	net.Listener
	of *Server
}

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.of.mu.Lock()
		defer l.of.mu.Unlock()
		l.of.conns[conn.RemoteAddr().String()] = conn
	}
	return conn, err
}

// connection returns the connection of a question that came over TCP.
func (s *Server) connection(w dns.ResponseWriter) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[w.RemoteAddr().String()]
}

// Addr returns where the server listens, "127.0.0.1:port".
func (s *Server) Addr() string { return s.addr }

// Add adds records.
func (s *Server) Add(records ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range records {
		rr, err := dns.NewRR(line)
		if err != nil || rr == nil {
			return fmt.Errorf("record %q: %v", line, err)
		}
		s.records = append(s.records, rr)
	}
	return nil
}

// Replace makes these the only records.
func (s *Server) Replace(records ...string) error {
	s.mu.Lock()
	s.records = nil
	s.mu.Unlock()
	return s.Add(records...)
}

// Sign makes the server say of what is at these names, and below them, that DNSSEC vouches for it, to whoever asks for that.
func (s *Server) Sign(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		s.signed = append(s.signed, dns.Fqdn(name))
	}
}

// Behave makes the server do one of the constants above when it is asked about a name: "mx1.example", for any type, or
// "MX example" for one; "" is for all names that are not mentioned. With "" for what to do it answers again.
func (s *Server) Behave(question, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behaviour[strings.ToLower(question)] = what
}

// Queries returns the questions so far: "MX example.com udp".
func (s *Server) Queries() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.queries...)
}

func (s *Server) serve(w dns.ResponseWriter, m *dns.Msg) {
	if len(m.Question) != 1 {
		return
	}
	q := m.Question[0]
	name, network := strings.ToLower(strings.TrimSuffix(q.Name, ".")), w.LocalAddr().Network()
	kind := dns.TypeToString[q.Qtype]
	s.mu.Lock()
	s.queries = append(s.queries, kind+" "+name+" "+network)
	what := s.behaviour[""]
	for _, key := range []string{name, strings.ToLower(kind) + " " + name} {
		if as, ok := s.behaviour[key]; ok {
			what = as
		}
	}
	reply := s.answer(m, what == Stepwise)
	s.mu.Unlock()
	s.misbehave(w, m, reply, what)
}

// malformed is what follows the ID in replies that are no messages: a count of records without the records, half a header,
// and a name that leads to itself.
var malformed = map[string][]byte{
	Garbage: {0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0, 0xff, 0xff, 0xff},
	Runt:    {0x81},
	Circle:  {0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c, 0, 15, 0, 1},
}

// refer makes a reply point to other servers.
func refer(reply *dns.Msg) {
	reply.Answer, reply.Ns, reply.Rcode = nil, nil, dns.RcodeSuccess
	if rr, err := dns.NewRR("example. 3600 IN NS ns.example."); err == nil {
		reply.Ns = []dns.RR{rr}
	}
}

// misbehave sends the reply, or what the server was told to send.
func (s *Server) misbehave(w dns.ResponseWriter, m, reply *dns.Msg, what string) {
	udp := w.LocalAddr().Network() == "udp"
	if udp {
		size := dns.MinMsgSize
		if opt := m.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		reply.Truncate(size)
	}
	switch what {
	case Silent:
		return
	case Truncate, UDPOnly, NoEnd, TCPSilent, TooLong:
		if udp {
			reply.Truncated, reply.Answer = true, nil
		} else if what != Truncate {
			breakTCP(w, s.connection(w), reply, what)
			return
		}
	case Unsigned:
		reply.AuthenticatedData = false
	case NoEDNS:
		if m.IsEdns0() != nil {
			reply = new(dns.Msg).SetRcode(m, dns.RcodeFormatError)
		}
	case WrongID, WrongName, OnlyWrong:
		forged := forge(m)
		if what == WrongID {
			forged.Id, forged.Question = m.Id+1, m.Question
		}
		send(w, forged)
		if what == OnlyWrong {
			return
		}
	case Garbage, Runt, Circle:
		_, _ = w.Write(slices.Concat([]byte{byte(m.Id >> 8), byte(m.Id)}, malformed[what]))
		return
	case CutShort:
		if packed, err := reply.Pack(); err == nil {
			_, _ = w.Write(packed[:len(packed)-3])
		}
		return
	case Echo:
		reply = m
	case Swamped:
		for n := range 200 {
			forged := forge(m)
			forged.Id += uint16(n)
			send(w, forged)
		}
	case Poisoned:
		poison(reply)
	case Empty:
		reply.Answer, reply.Ns, reply.Rcode = nil, nil, dns.RcodeSuccess
	case Referral:
		refer(reply)
	case Lame:
		reply.Answer, reply.Ns, reply.RecursionAvailable, reply.Authoritative = nil, nil, false, false
	default:
		if code, ok := dns.StringToRcode[what]; ok {
			reply = new(dns.Msg).SetRcode(m, code)
		}
	}
	send(w, reply)
}

// breakTCP sends as much of a reply over TCP as a server does that breaks.
func breakTCP(w dns.ResponseWriter, conn net.Conn, reply *dns.Msg, what string) {
	packed, err := reply.Pack()
	switch {
	case err != nil, what == UDPOnly:
		w.Close()
	case what == NoEnd:
		_, _ = conn.Write(binary.BigEndian.AppendUint16(nil, uint16(len(packed))))
		_, _ = conn.Write(packed[:len(packed)/2])
		w.Close()
	case what == TooLong:
		_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, 60000), packed...))
	}
}

// poison adds what a server would say who wants mail for others to go elsewhere.
func poison(reply *dns.Msg) {
	for _, line := range []string{
		". 3600 IN MX 1 forged.invalid.", "example. 3600 IN MX 1 forged.invalid.", "other.example. 3600 IN MX 1 forged.invalid.",
		"mx.d.example. 3600 IN A 192.0.2.66", "mx.d.example. 3600 IN AAAA 2001:db8::66",
	} {
		rr, err := dns.NewRR(line)
		if err != nil {
			continue
		}
		if rr.Header().Rrtype == dns.TypeMX {
			reply.Answer = append([]dns.RR{rr}, reply.Answer...)
		}
		reply.Extra = append(reply.Extra, rr)
	}
}

// send sends a message; a client that has gone does not matter.
func send(w dns.ResponseWriter, m *dns.Msg) { _ = w.WriteMsg(m) }

// forge returns what somebody would send who wants mail to go elsewhere.
func forge(m *dns.Msg) *dns.Msg {
	forged := m.Copy()
	forged.Question[0].Name = "forged." + forged.Question[0].Name
	forged.Response, forged.RecursionAvailable = true, true
	for _, line := range []string{"MX 1 forged.invalid.", "A 192.0.2.66", "AAAA 2001:db8::66"} {
		if rr, err := dns.NewRR(m.Question[0].Name + " 3600 IN " + line); err == nil {
			forged.Answer = append(forged.Answer, rr)
		}
	}
	return forged
}

// answer answers from the records as a server does that asks others on behalf of its clients.
func (s *Server) answer(m *dns.Msg, stepwise bool) *dns.Msg {
	reply := new(dns.Msg).SetReply(m)
	reply.RecursionAvailable, reply.Compress = true, true
	if opt := m.IsEdns0(); opt != nil {
		reply.SetEdns0(opt.UDPSize(), false)
	}
	name, kind := m.Question[0].Name, m.Question[0].Qtype
	reply.AuthenticatedData = m.AuthenticatedData
	for range 20 {
		reply.AuthenticatedData = reply.AuthenticatedData && s.isSigned(name)
		found, alias := s.at(name, kind)
		reply.Answer = append(reply.Answer, found...)
		if alias == "" {
			break
		}
		if name = alias; stepwise {
			return reply
		}
	}
	if !s.exists(name) && name != "." {
		reply.Rcode = dns.RcodeNameError
	}
	if len(reply.Answer) == 0 {
		if soa, err := dns.NewRR("invalid. 60 IN SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 60"); err == nil {
			reply.Ns = []dns.RR{soa}
		}
	}
	return reply
}

// at returns the records at a name, or its alias.
func (s *Server) at(name string, kind uint16) (found []dns.RR, alias string) {
	for _, rr := range s.records {
		if !strings.EqualFold(rr.Header().Name, name) {
			continue
		}
		if c, ok := rr.(*dns.CNAME); ok && kind != dns.TypeCNAME {
			return []dns.RR{rr}, c.Target
		}
		if rr.Header().Rrtype == kind {
			found = append(found, rr)
		}
	}
	return found, ""
}

func (s *Server) isSigned(name string) bool {
	return slices.ContainsFunc(s.signed, func(zone string) bool { return dns.IsSubDomain(zone, name) })
}

// exists reports whether there is anything at a name or below it.
func (s *Server) exists(name string) bool {
	for _, rr := range s.records {
		if dns.IsSubDomain(name, rr.Header().Name) {
			return true
		}
	}
	return false
}
