package smtp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/postrider/postrider/internal/mail"
)

// Bounds of what is on its way to a server and not answered. If the connection is lost, the fate of all of it is unknown:
// it is deferred, and may arrive twice.
const (
	// maxFlight is how many transactions: enough for 640 messages a second on one connection over 50 ms.
	maxFlight = 32
	// maxFlightSize is how many octets of content there may be before another message follows.
	maxFlightSize = 1 << 20
	// pauseBefore is how long a session may have had nothing to do and still be trusted to be there.
	pauseBefore = time.Second
)

// A pipeline is how a server with PIPELINING and CHUNKING gets its messages: RSET, MAIL, RCPT and BDAT of one after
// another, without waiting for an answer. One goroutine sends, another one reads the answers, so that neither side waits
// for the other to read. The number of messages on their way grows with each that the server has taken, from one on, so
// that little is at stake until it has shown how it behaves. RSET goes before each MAIL unless the last message is known
// to have been taken: whatever was refused before, nothing of it is left to be taken for a part of this transaction.
//
// Answers are told apart by counting alone. The first message of a session shows whether the server counts right; if it
// loses count later, while several messages are on their way, it cannot be seen which of their answers are whose.
type pipeline struct {
	*Session
	attempts <-chan mail.Attempt
	change   chan struct{} // tells the sender that something below has changed
	heard    chan struct{} // closed when the reader has ended
	telling  sync.Mutex    // held while Done is called

	mu      sync.Mutex
	live    []*delivery    // taken and not answered
	flight  []*transaction // begun and not answered, in order
	size    int64          // of their contents
	room    int            // how many there may be
	ended   bool           // there will be no more
	stopped bool           // the reader has
	err     error          // why the reader stopped
	local   *readError     // why a content was not sent to its end
	quiet   time.Time      // since when nothing has been on its way
	crash   any            // what the reader's goroutine panicked with
}

// pipelined makes the attempts that come.
func (s *Session) pipelined(ctx context.Context, attempts <-chan mail.Attempt) {
	if s.conn.r.Buffered() > 0 {
		if reply, err := s.unasked(); err == nil {
			s.refusal(reply)
		} else {
			s.lost("waiting for messages", err)
		}
		return
	}
	p := &pipeline{Session: s, attempts: attempts, change: make(chan struct{}, 1), heard: make(chan struct{}), room: 1}
	go p.listen()
	defer p.windUp()
	for {
		t := p.next(ctx)
		if t == nil || !p.send(t) {
			break
		}
	}
}

// windUp waits for the last answers, and settles. What either goroutine has panicked with goes on after that.
func (p *pipeline) windUp() {
	crash := recover()
	if crash != nil {
		_ = p.conn.raw.Close() // the reader sees it
	}
	p.end()
	<-p.heard
	if crash == nil {
		crash = p.crash
	}
	p.settle(crash)
	if crash != nil {
		panic(crash)
	}
}

// next returns the next transaction that there is room for; nil if there is none, and nothing is on its way any more.
func (p *pipeline) next(ctx context.Context) *transaction {
	for {
		t, full, over := p.begun()
		if t != nil || over {
			return t
		}
		attempts := p.attempts
		if full {
			attempts = nil
		}
		if len(p.out) > 0 {
			select {
			case a, ok := <-attempts:
				p.take(a, ok)
				continue
			case <-p.change:
				continue
			default:
			}
			if p.flush() != nil {
				return nil
			}
		}
		select {
		case a, ok := <-attempts:
			p.take(a, ok)
		case <-p.change:
		case <-ctx.Done():
			return nil
		}
	}
}

// begun returns the next transaction of what was taken already. full says that no other attempt can be taken now, over
// that none will be and all is answered.
func (p *pipeline) begun() (t *transaction, full, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || len(p.flight) == 0 && (p.attempts == nil && len(p.live) == 0 || !p.Usable()) {
		return nil, true, true
	}
	if len(p.flight) >= p.room || p.size >= maxFlightSize || !p.Usable() {
		return nil, true, false
	}
	for _, d := range p.live {
		if t := d.next(); t != nil {
			return t, false, false
		}
	}
	return nil, p.attempts == nil, false
}

func (p *pipeline) take(a mail.Attempt, ok bool) {
	if !ok {
		p.attempts = nil
		return
	}
	d := p.Session.take(a)
	if len(d.todo) == 0 {
		p.finish(d)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live = append(p.live, d)
}

func (p *pipeline) finish(d *delivery) {
	p.telling.Lock()
	defer p.telling.Unlock()
	d.finish()
}

// send puts a transaction on its way. It reports whether another one may follow.
func (p *pipeline) send(t *transaction) bool {
	start, startsAt := len(p.out), p.place()
	p.out = t.appendEnvelope(p.out)
	p.conn.log.said(p.out[start:])
	t.beginsAt = p.place()
	bdat := t.appendBdat(p.command[:0])
	p.command = bdat
	t.endsAt = t.beginsAt + int64(len(bdat)) + t.size
	careful := p.launch(t)
	if careful {
		if p.flush() != nil {
			return false
		}
		select {
		case wanted := <-t.wanted:
			if !wanted {
				return true
			}
		case <-p.heard:
			return false
		}
	}
	p.conn.log.said(bdat)
	p.out = append(p.out, bdat...)
	w := contentWriter{transaction: t, chunk: true, flush: p.flush}
	return p.keepOrStop(startsAt, w.write())
}

// place returns where what is sent next begins among the octets sent.
func (p *pipeline) place() int64 { return p.conn.offered + int64(len(p.out)) }

// launch lets the reader wait for the answers to a transaction. It reports whether its content is to wait for those to
// the envelope: as long as the server has taken nothing, and after a pause. If it hangs up then, it has not taken this.
func (p *pipeline) launch(t *transaction) (careful bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.flight) == 0 {
		if p.room == 1 || time.Since(p.quiet) > pauseBefore {
			t.wanted = make(chan bool, 1)
		}
		p.conn.expect(t.beginsAt, p.server.Timeouts.Mail)
	}
	p.flight = append(p.flight, t)
	p.size += t.size
	p.clean = false // again: the one before it may have been answered since this one was begun
	return t.wanted != nil
}

// flush sends what is in the output. After an error, the reader hears what the server has left to say.
func (p *pipeline) flush() error {
	if len(p.out) == 0 {
		return p.conn.muted()
	}
	err := p.conn.write(p.out, p.server.Timeouts.Block)
	p.out = p.out[:0]
	return err
}

// keepOrStop takes the error of sending a transaction that starts at a place among the octets sent, and reports whether
// another one may follow. Only hanging up tells a server that this was not all; but those before it are still to be sent
// and answered.
func (p *pipeline) keepOrStop(startsAt int64, err error) bool {
	local, ok := errors.AsType[*readError](err)
	if !ok {
		return err == nil
	}
	p.mu.Lock()
	p.local = local
	p.mu.Unlock()
	p.out = p.out[:max(0, startsAt-p.conn.offered)]
	_ = p.flush() // the reader sees it
	for {
		p.mu.Lock()
		last := len(p.flight) <= 1 || p.stopped
		p.mu.Unlock()
		if last {
			_ = p.conn.raw.Close() // the reader sees it
			return false
		}
		<-p.change
	}
}

// end tells the reader that nothing more is sent, once everything is answered.
func (p *pipeline) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if len(p.flight) == 0 {
		p.conn.expect(0, 0)
	}
}

// listen reads the answers.
func (p *pipeline) listen() {
	defer close(p.heard)
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.crash = recover(); p.crash != nil {
			p.err = fmt.Errorf("internal error: %v", p.crash)
		}
		p.stopped = true
		if p.err != nil {
			_ = p.conn.raw.Close() // the sender need not go on
		}
		p.changed()
	}()
	for {
		t, err := p.head()
		if t != nil && err == nil {
			err = t.hear(p)
		}
		if t == nil || err != nil {
			p.err = err
			return
		}
		if p.answered(t) {
			p.finish(t.delivery)
		}
	}
}

func (p *pipeline) changed() {
	select {
	case p.change <- struct{}{}:
	default:
	}
}

// head waits until there is something to read, and returns the transaction that is to be answered; nil at the end.
func (p *pipeline) head() (*transaction, error) {
	t, ended := p.first()
	if t != nil || ended {
		return t, nil
	}
	_, err := p.conn.r.Peek(1)
	switch t, ended = p.first(); {
	case t != nil:
		if err != nil {
			p.lost("sending MAIL", err)
		}
		return t, err
	case ended:
		return nil, nil
	}
	if err == nil {
		err = p.goodbye()
	}
	if !p.over.Load() {
		p.lost("waiting for messages", err)
	}
	return nil, err
}

// first returns the first transaction on its way. If there is none, nothing is expected of the server.
func (p *pipeline) first() (t *transaction, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.flight) > 0 {
		return p.flight[0], false
	}
	if !p.ended {
		p.conn.expectNothing()
	}
	return nil, p.ended
}

// goodbye reads what the server says while nothing is on its way. It returns why the session ends.
func (p *pipeline) goodbye() error {
	reply, err := p.unasked()
	if err != nil {
		return err
	}
	p.refusal(reply)
	return outOfPlace(reply)
}

// answered takes note of a transaction whose answers have all been read. It reports whether its delivery is over.
func (p *pipeline) answered(t *transaction) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flight = slices.Delete(p.flight, 0, 1)
	p.size -= t.size
	taken := t.refused == nil && len(t.accepted) > 0
	if taken {
		p.room = min(p.room+1, maxFlight)
	}
	if len(p.flight) == 0 {
		p.quiet, p.clean = time.Now(), taken
	}
	p.changed()
	over := t.answered(t)
	if over {
		p.forget(t.delivery)
	}
	return over
}

func (p *pipeline) forget(d *delivery) {
	p.live = slices.DeleteFunc(p.live, func(other *delivery) bool { return other == d })
}

// settle decides what is left when both goroutines have ended. After a crash, nobody is given back: a message that makes our
// own code panic must not come again at once.
func (p *pipeline) settle(crash any) {
	crashed := p.internalError(crash)
	if crash != nil {
		p.breakOff(crashed)
	}
	farewell, interrupted := p.farewell(), p.conn.interrupted.Load()
	for i, t := range p.flight {
		t.doubt(p.err)
		switch {
		case t.refused != nil:
			t.refuse(*t.refused)
		case p.local != nil && i == len(p.flight)-1:
			t.refuse(*t.unreadable(p.local.err))
		case farewell && t.parted:
			t.refuse(*p.why)
		case farewell:
			// Its turn had not come.
		case p.conn.took(t.endsAt):
			t.unknown(p.err)
		case i == 0 && !interrupted && crash == nil:
			t.refuse(*p.why)
		}
	}
	for _, d := range p.live {
		if crash != nil {
			d.decideAll(crashed)
		}
		p.finish(d)
	}
}

// farewell reports whether the server said goodbye before it hung up: then it did not go on reading (RFC 5321 section
// 3.8), whatever had been sent to it. One that has answered more after its goodbye may have read anything.
func (p *pipeline) farewell() bool {
	return !p.wentOn && p.why != nil && p.why.Reply.Code == 421 && (p.err == io.EOF || errors.Is(p.err, syscall.ECONNRESET) || errors.Is(p.err, syscall.EPIPE))
}
