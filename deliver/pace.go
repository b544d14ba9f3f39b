package deliver

import "time"

// A pace is how many sessions a next hop may have at once.
//
// It begins with one, the probe. Each success, that this was opened or that an attempt was answered, allows one more, so
// that their number doubles with each round of answers. Trouble halves it, but one session is always allowed:
// a session that was opened and of no use, the reply 421 in its place, or a refusal for reasons of policy (4.7.x) that
// is not about one recipient. What comes within troubleTime of that is the same trouble. For calmTime there are no more
// sessions then, and after that only one more for each round. A session that is refused beside others says how many
// there may be: as many as there are.
type pace struct {
	most    int // sessions, whatever happens
	now     int // sessions allowed, at least one
	careful bool
	round   int       // successes since there was one session more, when careful
	since   time.Time // of the last trouble
}

const (
	troubleTime = time.Second
	calmTime    = 10 * time.Second
)

func newPace(most int) pace { return pace{most: most, now: 1} }

// within reports whether there was trouble less than d ago. A clock that was set back makes it long ago.
func (p *pace) within(d time.Duration, now time.Time) bool {
	return p.careful && now.Sub(p.since).Abs() < d
}

func (p *pace) success(now time.Time) {
	if p.now >= p.most || p.within(calmTime, now) {
		return
	}
	if p.round++; !p.careful || p.round >= p.now {
		p.now, p.round = p.now+1, 0
	}
}

func (p *pace) trouble(now time.Time) {
	if !p.within(troubleTime, now) {
		p.shrink(p.now/2, now)
	}
}

// refused is for a session that the next hop did not want beside those it has.
func (p *pace) refused(has int, now time.Time) { p.shrink(min(has, p.now), now) }

func (p *pace) shrink(to int, now time.Time) {
	p.now, p.round, p.careful, p.since = max(to, 1), 0, true, now
}
