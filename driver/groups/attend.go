package groups

import (
	"context"
	"time"

	"github.com/prismgw/prism/driver"
)

// How a member speaks with its table.
const (
	// callTime bounds a call. Three of them, a beat and what follows from it,
	// are less than TTL.
	callTime = 3 * time.Second

	// leastGap is between two beats, however much happens.
	leastGap = 10 * time.Millisecond

	// restTime is how long what is under way may take when the member parts. A
	// beat that is given up could make it live again after it has left.
	restTime = 500 * time.Millisecond
)

// A membership is what a member knows of its group.
type membership struct {
	Group
	self      Self
	changed   *Bell
	giveBack  func()        // of changed; nil: it is the technology's
	attending chan struct{} // closed when it beats no more
	known     bool          // others know that it lives, which one goroutine knows

	// Guarded by the member's lock.
	lease   time.Time   // until when it knows itself to live; zero: it does not
	lapsing *time.Timer // calls lapse at the end of the lease
}

// attend beats until the member ends.
func (m *member) attend() {
	defer close(m.group.attending)
	pause := pause{log: m.log, what: "beat", least: leastPause, most: mostPause}
	for {
		began, seen := time.Now(), m.group.changed.Count()
		err := m.beat(began)
		if gone(err) {
			m.end(err)
		}
		due := m.nextEviction(began.Add(BeatEvery))
		if wait := pause.after(err); wait > 0 {
			m.group.known = false
			due = time.Now().Add(wait)
		}
		if !m.pass(began, due, seen) {
			return
		}
	}
}

// pass waits until the next beat is due or something has changed in the group.
// It reports whether the member goes on.
func (m *member) pass(began, due time.Time, seen uint64) bool {
	t := time.NewTimer(time.Until(due))
	defer t.Stop()
	select {
	case <-m.ended:
		return false
	case <-t.C:
		return true
	case <-m.group.changed.After(seen):
	}
	t.Reset(time.Until(began.Add(leastGap)))
	select {
	case <-m.ended:
		return false
	case <-t.C:
		return true
	}
}

// beat says that the member lives, and does what follows from how the group
// stands.
func (m *member) beat(began time.Time) error {
	g := m.group
	view, err := answer(m.ctx, func(ctx context.Context) (View, error) { return g.Table.Beat(ctx, g.self) })
	if err != nil {
		return err
	}
	take, release := m.conclude(&view, began)
	if len(take) > 0 {
		taken, err := answer(m.ctx, func(ctx context.Context) ([]Taken, error) { return g.Table.Take(ctx, g.self, take) })
		if err != nil {
			return err
		}
		m.gainAll(taken)
	}
	if len(release) > 0 {
		_, err = answer(m.ctx, func(ctx context.Context) (any, error) { return nil, g.Table.Release(ctx, g.self, release) })
	}
	if err == nil && (len(release) > 0 || !g.known) {
		g.known = true
		g.changed.Ring()
	}
	return err
}

// answer makes a call that is bounded.
func answer[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return call(ctx)
}

// conclude learns from a view what is lost, what should go and what is to be
// taken and released.
func (m *member) conclude(v *View, began time.Time) (take []int, release []Claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.renew(began) {
		return nil, nil
	}
	for i, o := range v.Owners {
		if p := &m.parts[i]; p.owned && (o.ID != m.group.self.ID || o.Claim != p.claim) {
			m.lose(i)
		}
	}
	plan := balance(v, m.group.self.ID, func(i int) bool { return m.parts[i].owned })
	for _, i := range plan.release {
		release = append(release, Claim{i, v.Owners[i].Claim})
	}
	return plan.take, append(release, m.leave(plan.leave, time.Now())...)
}

// renew extends the lease by a beat that began then. It reports whether the
// member lives.
func (m *member) renew(began time.Time) bool {
	m.expire()
	g, lease := m.group, began.Add(TTL)
	if m.err != nil || !time.Now().Before(lease) {
		return false
	}
	g.lease = lease
	if g.lapsing == nil {
		g.lapsing = time.AfterFunc(time.Until(lease), m.lapse)
	} else {
		g.lapsing.Reset(time.Until(lease))
	}
	return true
}

// lapse is called when the lease may be over.
func (m *member) lapse() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
}

// expire ends all ownerships if the lease is over.
func (m *member) expire() {
	g := m.group
	if g == nil || g.lease.IsZero() || time.Now().Before(g.lease) {
		return
	}
	g.lease = time.Time{}
	for i := range m.parts {
		m.lose(i)
	}
}

// leave sees to it that so many partitions go, and returns those that are to be
// released now: their time is over, or nobody was told of them.
func (m *member) leave(surplus int, now time.Time) (over []Claim) {
	for i := range m.parts {
		if p := &m.parts[i]; p.owned && !p.leaveAt.IsZero() {
			surplus--
			if !now.Before(p.leaveAt) {
				over = append(over, Claim{i, p.claim})
				m.lose(i)
			}
		}
	}
	for i := len(m.parts) - 1; i >= 0 && surplus > 0; i-- {
		p := &m.parts[i]
		if !p.owned || !p.leaveAt.IsZero() {
			continue
		}
		surplus--
		if p.gained {
			over = append(over, Claim{i, p.claim})
			m.lose(i)
			continue
		}
		m.bytes -= p.bytes
		p.quiet()
		p.leaving, p.leaveAt = true, now.Add(driver.LeaveTime)
		m.list(i)
	}
	return over
}

// nextEviction returns when the first partition is to be taken away, if that is
// before due.
func (m *member) nextEviction(due time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.parts {
		if p := &m.parts[i]; p.owned && !p.leaveAt.IsZero() && p.leaveAt.Before(due) {
			due = p.leaveAt
		}
	}
	return due
}

// gainAll tells of what was taken, if the member still lives.
func (m *member) gainAll(taken []Taken) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	if m.err != nil || m.group.lease.IsZero() {
		return
	}
	for _, t := range taken {
		m.lose(t.Partition)
		m.gain(t.Partition, t.Number, t.Checkpoint)
	}
}

// rest waits until nothing is under way that could follow the leave, for as
// long as that is worth it.
func (g *membership) rest(ctx context.Context) {
	t := time.NewTimer(restTime)
	defer t.Stop()
	select {
	case <-g.attending:
	case <-t.C:
	case <-ctx.Done():
	}
}

// depart leaves the group, after the last beat.
func (m *member) depart(ctx context.Context) error {
	g := m.group
	m.mu.Lock()
	if g.lapsing != nil {
		g.lapsing.Stop()
	}
	m.mu.Unlock()
	err := g.Table.Leave(ctx, g.self)
	g.changed.Ring()
	g.forget()
	if gone(err) {
		return nil
	}
	return err
}

// forget gives back what a member had of its Members.
func (g *membership) forget() {
	if g.giveBack != nil {
		g.giveBack()
	}
}
