package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// udpSize is how long an answer over UDP may be; longer ones risk to be lost in fragments (DNS flag day 2020).
const udpSize = 1232

// silence is for how long name servers are not asked again that have just been found not to answer at all. Otherwise
// everything that is due would wait for them in turn.
const silence = 10 * time.Second

// ask asks one server after another until one has an answer. With an error of kind NoName and NoRecord, too, the answer
// says how long it is believed.
func (r *Resolver) ask(ctx context.Context, q question) (answer, error) {
	if r.allSilent() {
		return answer{}, q.error(Unanswered, "no name server answers")
	}
	conf := r.settings()
	var spoke *serverError
	var last error
	for round := 0; round < conf.attempts && spoke == nil; round++ {
		for _, server := range conf.servers {
			a, err := conf.exchange(ctx, server, q)
			if err == nil || KindOf(err) != 0 {
				return a, err
			}
			if ctx.Err() != nil {
				return answer{}, ctx.Err()
			}
			if e, ok := errors.AsType[*serverError](err); ok {
				spoke = e // and would say so again
			}
			last = err
		}
	}
	if spoke != nil {
		return answer{ttl: trouble}, q.error(Failed, "%s", spoke.said)
	}
	if conf.anybody(ctx) {
		return answer{ttl: trouble}, q.error(Failed, "no answer in time")
	}
	if ctx.Err() != nil {
		return answer{}, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent = r.opts.Now()
	return answer{}, q.error(Unanswered, "%v", last)
}

func (r *Resolver) allSilent() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.silent.IsZero() && r.opts.Now().Sub(r.silent) < silence
}

// settings returns whom to ask, and how.
func (r *Resolver) settings() resolvConf {
	conf := r.conf.get(r.opts.Now())
	if len(r.opts.Servers) > 0 {
		conf.servers, conf.trustAD = r.opts.Servers, false // of those resolv.conf says nothing
	}
	if r.opts.Timeout > 0 {
		conf.timeout = r.opts.Timeout
	}
	if r.opts.Attempts > 0 {
		conf.attempts = r.opts.Attempts
	}
	return conf
}

// anybody reports whether any server answers anything: then it is the question that had no answer.
func (c resolvConf) anybody(ctx context.Context) bool {
	for _, server := range c.servers {
		_, err := c.exchange(ctx, server, question{".", dns.TypeNS})
		if _, spoke := errors.AsType[*serverError](err); err == nil || KindOf(err) != 0 || spoke {
			return true
		}
	}
	return false
}

// exchange asks one server. An error other than *Error means that another server may do better.
func (c resolvConf) exchange(ctx context.Context, server string, q question) (answer, error) {
	network := "udp"
	if c.tcp {
		network = "tcp"
	}
	edns := true
	a, err := c.over(ctx, network, server, q, edns)
	if e, ok := errors.AsType[*serverError](err); ok && e.plain {
		edns = false
		a, err = c.over(ctx, network, server, q, edns)
	}
	if errors.Is(err, errTruncated) && network == "udp" {
		a, err = c.over(ctx, "tcp", server, q, edns)
	}
	switch e, ok := errors.AsType[*serverError](err); {
	case ok:
		return a, &serverError{said: e.said + " from " + server}
	case err != nil && KindOf(err) == 0:
		return a, &silentError{server, err}
	}
	return a, err
}

// A silentError is for a server that does not answer.
type silentError struct {
	server string
	err    error
}

func (e *silentError) Error() string {
	reason := "no answer from " + e.server
	var errno syscall.Errno
	if errors.As(e.err, &errno) {
		reason += " (" + errno.Error() + ")"
	}
	return reason
}

func (e *silentError) Unwrap() error { return e.err }

// over asks one server over one network. Each question has a port and an ID of its own, which nobody can guess.
func (c resolvConf) over(ctx context.Context, network, server string, q question, edns bool) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, server)
	if err != nil {
		return answer{}, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // whatever it is waiting for
	defer func() {
		if stop() {
			conn.Close()
		}
	}()
	id, trusted := dns.Id(), c.trusts(server)
	query, err := packQuery(id, q, edns, trusted)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if network == "tcp" {
		a, err = overTCP(conn, query, id, q)
	} else {
		a, err = overUDP(conn, query, id, q)
	}
	a.secure = a.secure && trusted
	return a, err
}

// packQuery writes a question; with authentic, one to say, too, whether DNSSEC vouches for the answer (RFC 6840 section 5.7).
func packQuery(id uint16, q question, edns, authentic bool) ([]byte, error) {
	m := dns.Msg{MsgHdr: dns.MsgHdr{Id: id, RecursionDesired: true, AuthenticatedData: authentic}}
	m.Question = []dns.Question{{Name: q.name, Qtype: q.kind, Qclass: dns.ClassINET}}
	if edns {
		m.SetEdns0(udpSize, false)
	}
	return m.Pack()
}

// overUDP waits for the answer. What else comes meanwhile does not count: it may be late, or forged.
func overUDP(conn net.Conn, query []byte, id uint16, q question) (answer, error) {
	if _, err := conn.Write(query); err != nil {
		return answer{}, err
	}
	buffer := make([]byte, 4096)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return answer{}, err
		}
		a, err := parse(buffer[:n], id, q)
		if !errors.Is(err, errStranger) {
			return a, err
		}
	}
}

// overTCP asks with the length in front of each message (RFC 1035 section 4.2.2).
func overTCP(conn net.Conn, query []byte, id uint16, q question) (answer, error) {
	framed := binary.BigEndian.AppendUint16(nil, uint16(len(query)))
	if _, err := conn.Write(append(framed, query...)); err != nil {
		return answer{}, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return answer{}, err
	}
	message := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, message); err != nil {
		return answer{}, err
	}
	a, err := parse(message, id, q)
	if errors.Is(err, errStranger) || errors.Is(err, errTruncated) {
		return a, &serverError{said: "garbage"}
	}
	return a, err
}
