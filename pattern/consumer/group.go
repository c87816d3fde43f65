package consumer

import (
	"container/list"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// Bounds of what a group remembers of one partition: how far deliveries may run
// ahead of the oldest unsettled record, and how many records may have failed.
// Past them nothing more is fetched until some are settled.
const (
	maxWindow  = 8192
	maxFailing = 512
	maxCount   = 1 << 20 // failures of one record that are still counted
)

// A policy is how a group deals with its messages.
type policy struct {
	keyed         bool          // records of a key wait for each other
	ackWait       time.Duration // how long a message is in somebody's hands
	maxDeliveries int
	backoff       time.Duration // after the first failure, doubled with each that follows
	maxBackoff    time.Duration
	memory        func() int      // bytes of records that wait in memory, all partitions together
	held          func(bytes int) // is told how many more there are, or fewer
}

// A group is the part of a topic's group that this process owns: it takes
// records from its driver.Member, hands them out, and keeps book of what
// becomes of them. All state is behind one lock; what talks to the backend are
// the goroutines that run starts.
type group struct {
	topic  driver.Topic
	member driver.Member
	policy policy
	note   int // bytes of a checkpoint's note
	bury   func(ctx context.Context, dead []burial, results []error)
	now    func() time.Time

	commits chan struct{} // of capacity 1: there may be something to commit
	burials chan struct{} // of capacity 1: something may be dying

	mu         sync.Mutex // guards what follows, and all ledgers and entries
	owned      map[int]*ledger
	ready      ring[*entry]
	timers     timers
	alarm      *time.Timer // rings at alarmAt
	alarmAt    time.Time
	takers     list.List // of *taker
	dying      []burial
	flows      []flow // holds that the driver has to be told of
	health     health
	waiting    int64 // messages of owned partitions that are not settled, as the backend said last
	hands      int   // of all ledgers
	dirty      bool  // something is to be committed
	closing    bool
	settleDown sync.Once
	idle       chan struct{} // closed when it is closing and nobody has anything in hand
	ended      error         // why nothing comes any more
	counts     *counts
}

// counts are what a group has done in this process.
type counts struct {
	delivered, redelivered, settled, dead, skipped atomic.Int64
}

// A flow is a hold or its end.
type flow struct {
	partition int
	hold      bool
}

// follow takes what the member is told until that ends.
func (g *group) follow(ctx context.Context) {
	events := make([]driver.LogEvent, 64)
	for {
		n, err := g.member.Next(ctx, events)
		g.mu.Lock()
		for i := range events[:n] {
			g.told(&events[i])
		}
		clear(events[:n])
		if err != nil && ctx.Err() == nil {
			g.end(err)
		}
		g.moved()
		g.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (g *group) told(e *driver.LogEvent) {
	l := g.owned[e.Partition]
	if e.Skipped != 0 {
		g.counts.skipped.Add(max(e.Skipped, 1))
	}
	switch {
	case e.Kind == driver.Gained:
		g.lose(l, errs.StaleReceipt)
		l = newLedger(*e, rand.Uint64())
		l.told = g.policy.held
		g.owned[e.Partition] = l
	case l == nil:
	case e.Kind == driver.Arrived:
		g.arrived(l, e.Stored)
	case e.Kind == driver.Leaving:
		l.leaving, l.leaveBy = true, g.now().Add(driver.LeaveTime-leaveMargin)
		time.AfterFunc(driver.LeaveTime-leaveMargin, g.wakeCommits)
		g.wakeCommits()
	case e.Kind == driver.Lost:
		g.lose(l, errs.StaleReceipt)
	}
}

// leaveMargin is how long before a partition is taken away it is released.
const leaveMargin = 500 * time.Millisecond

// arrived takes a record. What was on its way when the window became full waits
// behind it.
func (g *group) arrived(l *ledger, s driver.Stored) {
	if l.window.len() >= maxWindow || l.beyond.len() > 0 {
		l.hold(sizeOf(&s))
		l.beyond.pushBack(s)
		g.flow(l)
		return
	}
	g.admit(l, s)
}

// advance admits what waits behind the window, as far as there is room.
func (g *group) advance(l *ledger) {
	for l.beyond.len() > 0 && l.window.len() < maxWindow {
		s := l.beyond.popFront()
		l.hold(-sizeOf(&s))
		g.admit(l, s)
	}
}

func (g *group) admit(l *ledger, s driver.Stored) {
	e := l.arrive(s, g.policy.keyed)
	switch {
	case e == nil:
		g.dirty = true
	case e.failures > 0:
		g.rest(e, g.pause(e.failures))
	case e.free():
		g.queue(e)
	case l.bytes > g.room():
		e.forget() // its turn may be long in coming, and others have theirs
	}
	g.flow(l)
}

// room is how many bytes of one partition wait in memory.
func (g *group) room() int { return g.policy.memory() / max(1, len(g.owned)) }

// flow holds the partition while it is full, and lets it come again when it
// is well below that.
func (g *group) flow(l *ledger) {
	room := g.room()
	failing := max(maxFailing, maxFailing*(g.note/4096))
	full := l.window.len() >= maxWindow || l.failing >= failing || l.bytes >= room || l.cut
	eased := l.window.len() <= maxWindow*3/4 && l.failing <= failing*3/4 && l.bytes <= room*3/4 && !l.cut
	if full && !l.held || l.held && eased {
		l.held = !l.held
		g.flows = append(g.flows, flow{l.partition, l.held})
	}
}

// queue lets the entry be handed out.
func (g *group) queue(e *entry) {
	e.state = waiting
	if !e.queued {
		e.queued = true
		g.ready.pushBack(e)
	}
}

// requeue lets the entry be handed out before all others.
func (g *group) requeue(e *entry) {
	e.state = waiting
	if !e.queued {
		e.queued = true
		g.ready.pushFront(e)
	}
}

func (g *group) rest(e *entry, d time.Duration) {
	e.state, e.due = resting, g.now().Add(d)
	g.timers.set(e)
}

// pause is how long a record rests after so many failures.
func (g *group) pause(failures int) time.Duration {
	d := g.policy.maxBackoff
	if shift := failures - 1; shift < 30 {
		d = min(d, g.policy.backoff<<shift)
	}
	return d - time.Duration(rand.Int64N(int64(d)/5+1))
}

// lose ends an ownership: what is in hand is nobody's any more.
func (g *group) lose(l *ledger, why error) {
	if l == nil || l.lost {
		return
	}
	l.lost = true
	if g.owned[l.partition] == l {
		delete(g.owned, l.partition)
	}
	for i := range l.window.len() {
		e := l.window.at(i)
		g.free(e)
		e.forget()
	}
	l.beyond = ring[driver.Stored]{}
	l.hold(-l.bytes)
	for _, w := range l.waiters {
		w.done <- why
	}
	l.waiters = nil
}

// ownerships returns what ends those that there are now.
func (g *group) ownerships() (forsake func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := slices.Collect(maps.Values(g.owned))
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, l := range all {
			g.lose(l, errs.StaleReceipt)
		}
	}
}

// free takes the entry out of the hands of whoever has it.
func (g *group) free(e *entry) {
	g.timers.drop(e)
	if e.state == inHand || e.state == dying {
		e.ledger.hands--
		g.hands--
		g.dirty = g.dirty || e.ledger.leaving
	}
	if e.session != nil {
		delete(e.session.hands, e)
		e.session = nil
	}
}

// end says that nothing comes any more.
func (g *group) end(err error) {
	if g.ended != nil {
		return
	}
	g.ended = err
	for _, l := range g.owned {
		g.lose(l, err)
	}
}

// moved does what follows from a change: hands out, sets the alarm, and tells
// the driver of holds. The lock is held.
func (g *group) moved() {
	g.handOut()
	g.setAlarm()
	if g.dirty {
		g.dirty = false
		g.wakeCommits()
	}
	for _, f := range g.flows {
		g.member.Hold(f.partition, f.hold)
	}
	g.flows = g.flows[:0]
	if g.closing && g.hands == 0 {
		g.settleDown.Do(func() { close(g.idle) })
	}
}

func (g *group) wakeCommits() {
	select {
	case g.commits <- struct{}{}:
	default:
	}
}

// setAlarm sees to it that ringing is called when something is due.
func (g *group) setAlarm() {
	var next time.Time
	if g.takers.Len() > 0 && g.ready.len() > 0 {
		next = g.health.probe // zero unless the group has paused
	}
	if len(g.timers) > 0 && (next.IsZero() || g.timers[0].due.Before(next)) {
		next = g.timers[0].due
	}
	if next.IsZero() || g.ended != nil || next.Equal(g.alarmAt) {
		return
	}
	g.alarmAt = next
	g.alarm.Reset(max(0, next.Sub(g.now())))
}

// ringing is what the alarm does.
func (g *group) ringing() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	g.alarmAt = time.Time{}
	for len(g.timers) > 0 && !g.timers[0].due.After(now) {
		e := g.timers[0]
		g.timers.drop(e)
		if e.state == inHand {
			g.failed(e, whyUnanswered, 0)
			continue
		}
		e.state = waiting // it has rested
		if e.free() {
			g.queue(e)
		}
	}
	g.moved()
}
