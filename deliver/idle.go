package deliver

import "time"

// lingerTime is how long a pass that stays keeps a session that has nothing to do: mail comes in bursts, and a session
// costs a server more than a message does. Servers wait for minutes, but have others to serve.
const lingerTime = 5 * time.Second

// linger keeps the session for a while when there is nothing to do. It reports whether there is something again.
func (s *sitting) linger() bool {
	if s.Stay == 0 {
		return false
	}
	s.tell(event{idle: true})
	timer := time.NewTimer(lingerTime)
	defer timer.Stop()
	select {
	case more := <-s.nudge:
		return more
	case <-timer.C:
	case <-s.over:
	case <-s.soft.Done():
	}
	return false
}

// wake ends the rest of an idle worker. One who has just ended it by himself does not hear it: what is due is looked for
// again when he is gone.
func (w *worker) wake(more bool) {
	select {
	case w.nudge <- more:
	default:
	}
}

// full reports whether all sessions are taken.
func (p *pass) full() bool { return p.sessions >= sessionLimit || len(p.line.ready) > 0 }

// idle takes note of a worker who has nothing to do, unless somebody else may need the session's place.
func (p *pass) idle(from *worker) {
	w := from.work
	if w.leaving[from] || p.full() {
		from.wake(false)
		return
	}
	w.idle[from] = true
}

// rouse gives idle workers what is due at their next hop, and ends their sessions when others may need the place.
func (p *pass) rouse() {
	for _, w := range p.hops {
		for from := range w.idle {
			if !w.more && !p.full() {
				break
			}
			delete(w.idle, from)
			from.wake(w.more)
			w.more = false // until he has asked for it
		}
	}
}
