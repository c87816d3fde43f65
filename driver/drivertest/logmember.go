package drivertest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A member is a driver's Member with the partitions that it has, and a check of
// the life of each of them. One goroutine uses it at a time.
type member struct {
	*journal
	driver.Member
	group, name string
	has         map[int]*claim
	lost        map[int]int // how often each partition was lost
	total       int         // how many records have come
	room        int         // for how many events; 0: some
	stays       bool        // it does not answer when it should leave
	keeps       bool        // when it leaves, its checkpoints stay where they are
	audit       *audit      // nil: nobody else keeps what comes
}

// A claim is one ownership of a partition.
type claim struct {
	id      int64
	from    driver.Checkpoint
	got     []driver.Stored
	skipped int64
	vague   bool // somewhere nobody knows how many were skipped
	leaving bool
}

// next is the lowest position that may come now.
func (c *claim) next() driver.Position {
	if len(c.got) == 0 {
		return c.from.Next
	}
	return c.got[len(c.got)-1].Position + 1
}

// join makes a member of a group that begins with the first record.
func (j *journal) join(group string) *member {
	j.Helper()
	return j.joins(driver.JoinRequest{Group: group})
}

// joins makes a member or a reader, closed at the end of the check.
func (j *journal) joins(r driver.JoinRequest) *member {
	j.Helper()
	r.Name = cmp.Or(r.Name, "m-"+unique())
	m, err := j.Join(j.ctx, r)
	if err != nil {
		j.Fatalf("join %s: %s", brief(r.Group), describe(err))
	}
	return j.memberOf(m, r)
}

// memberOf has a member closed at the end of the check.
func (j *journal) memberOf(m driver.Member, r driver.JoinRequest) *member {
	made := &member{journal: j, Member: m, group: r.Group, name: r.Name, has: map[int]*claim{}, lost: map[int]int{}}
	j.Cleanup(func() {
		if err := m.Close(j.ctx); err != nil && made.audit == nil {
			j.Errorf("close of a member: %v", err)
		}
	})
	return made
}

// next takes what there is, waiting for it.
func (m *member) next(ctx context.Context) error {
	events := slices.Repeat([]driver.LogEvent{{Kind: 99, Partition: 7777, Skipped: 7}}, cmp.Or(m.room, 50))
	n, err := m.Next(ctx, events)
	if err != nil {
		return err
	}
	if n < 1 || n > len(events) {
		m.Errorf("%s: next: %d events", m.name, n)
		return nil
	}
	released := map[int]bool{} // while this call's events are looked at
	for _, ev := range events[:n] {
		if !released[ev.Partition] {
			released[ev.Partition] = m.take(ctx, ev)
		}
	}
	return nil
}

// take notes an event, and tells whether it made the member give the partition
// up.
func (m *member) take(ctx context.Context, ev driver.LogEvent) (released bool) {
	c := m.has[ev.Partition]
	if (c == nil) != (ev.Kind == driver.Gained) {
		m.Errorf("%s: partition %d: event %d while it has it: %v", m.name, ev.Partition, ev.Kind, c != nil)
		return false
	}
	switch ev.Kind {
	case driver.Gained:
		m.gain(ev)
	case driver.Arrived:
		m.arrive(c, ev)
	case driver.Leaving:
		if c.leaving {
			m.Errorf("%s: partition %d: is told to leave it twice", m.name, ev.Partition)
		}
		c.leaving = true
		return !m.stays && m.release(ctx, ev.Partition)
	case driver.Lost:
		m.lost[ev.Partition]++
		delete(m.has, ev.Partition)
	default:
		m.Errorf("%s: there is no event %d", m.name, ev.Kind)
	}
	return false
}

func (m *member) gain(ev driver.LogEvent) {
	if m.audit != nil {
		m.audit.noteGain(ev)
	}
	if m.group != "" {
		key := fmt.Sprintf("%s %d %d", m.group, ev.Partition, ev.Claim)
		if _, again := m.claims.LoadOrStore(key, true); again {
			m.Errorf("%s: partition %d: claim %d was given before", m.name, ev.Partition, ev.Claim)
		}
	}
	c := &claim{id: ev.Claim, from: ev.Checkpoint}
	c.skip(ev)
	m.has[ev.Partition] = c
}

func (m *member) arrive(c *claim, ev driver.LogEvent) {
	s := ev.Stored
	if s.Partition != ev.Partition || s.Position < c.next() || s.Position < 1 || s.Time.IsZero() {
		m.Errorf("%s: partition %d: the record at %d of %d comes where %d is next", m.name, ev.Partition, s.Position, s.Partition, c.next())
	}
	c.skip(ev)
	c.got = append(c.got, s)
	m.total++
	if m.audit != nil {
		m.audit.noteRecord(s)
	}
}

func (c *claim) skip(ev driver.LogEvent) {
	if ev.Skipped == driver.SkippedUnknown {
		c.vague = true
		return
	}
	c.skipped += ev.Skipped
}

// release gives a partition up, with all that came.
func (m *member) release(ctx context.Context, p int) bool {
	c := m.has[p]
	commit := driver.Commit{Partition: p, Claim: c.id, Checkpoint: driver.Checkpoint{Next: c.next()}, Release: true}
	if m.keeps {
		commit.Checkpoint = c.from
	}
	results := []error{errs.Internal}
	m.Commit(ctx, []driver.Commit{commit}, results)
	if errs.ReasonOf(results[0]) == errs.StaleReceipt {
		return false // it will be told that it has lost it
	}
	if results[0] != nil {
		return false
	}
	delete(m.has, p)
	return true
}

// settled commits things; the results begin with what was never there.
func (m *member) settled(commits ...driver.Commit) []error {
	results := slices.Repeat([]error{errs.Internal}, len(commits))
	m.Commit(m.ctx, commits, results)
	return results
}

// upTo is the commit of everything below a position by the owner of a partition.
func (m *member) upTo(p int, next driver.Position, note string) driver.Commit {
	m.Helper()
	c := m.has[p]
	if c == nil {
		m.Fatalf("%s does not have partition %d", m.name, p)
	}
	return driver.Commit{Partition: p, Claim: c.id, Checkpoint: driver.Checkpoint{Next: next, Note: note}}
}

// settle commits everything below a position, which has to succeed.
func (m *member) settle(p int, next driver.Position, note string) {
	m.Helper()
	if err := m.settled(m.upTo(p, next, note))[0]; err != nil {
		m.Fatalf("%s: commit of %d: %s", m.name, p, describe(err))
	}
}

// close closes the member, which must not take long.
func (m *member) close() {
	m.Helper()
	m.within("close of a member", closing, func() {
		if err := m.Close(m.ctx); err != nil {
			m.Errorf("close of a member: %v", err)
		}
	})
	m.has = map[int]*claim{}
}

// texts are those that came of a partition since it was gained.
func (m *member) texts(p int) []string {
	if c := m.has[p]; c != nil {
		return textsOf(c.got)
	}
	return nil
}

func (m *member) owns(partitions ...int) bool {
	return !slices.ContainsFunc(partitions, func(p int) bool { return m.has[p] == nil })
}

// turn is how long a member is waited for when others have to be asked too.
const turn = 10 * time.Millisecond

// during takes the events of members by turns until something holds or the
// time is over, and returns whether it holds.
func (e *env) during(limit time.Duration, holds func() bool, all ...*member) bool {
	e.Helper()
	for end := time.Now().Add(limit); !holds(); {
		if time.Now().After(end) {
			return false
		}
		if len(all) == 0 {
			time.Sleep(turn)
		}
		for _, m := range all {
			ctx, cancel := context.WithTimeout(m.ctx, turn)
			err := m.next(ctx)
			cancel()
			if err != nil && errs.ReasonOf(err) != errs.Deadline {
				e.Fatalf("%s: next: %s", m.name, describe(err))
			}
		}
	}
	return true
}

// comes is during for what has to hold.
func (e *env) comes(what string, holds func() bool, all ...*member) {
	e.Helper()
	if !e.during(e.s.due, holds, all...) {
		for _, m := range all {
			for p, c := range m.has {
				e.Logf("%s has %d: from %d, %d records", m.name, p, c.from.Next, len(c.got))
			}
		}
		e.Fatalf("%s: not within %s", what, e.s.due)
	}
}

// still is how long a check waits for what must not come.
const still = 300 * time.Millisecond

// quiet takes what comes for a while.
func (e *env) quiet(all ...*member) {
	e.Helper()
	e.during(still, func() bool { return false }, all...)
}

// calm takes what comes until nothing has come for a while.
func (e *env) calm(m *member) {
	e.Helper()
	for before := -1; before < m.total; {
		before = m.total
		e.quiet(m)
	}
}

// gets waits until exactly these have come of a partition since it was gained.
func (m *member) gets(p int, want ...string) {
	m.Helper()
	m.during(m.s.due, func() bool { return m.has[p] != nil && len(m.has[p].got) >= len(want) }, m)
	m.is(p, want...)
}

// is checks that exactly these have come.
func (m *member) is(p int, want ...string) {
	m.Helper()
	if got := m.texts(p); !slices.Equal(got, want) {
		m.Fatalf("%s: partition %d: %s came, want %s", m.name, p, briefAll(got), briefAll(want))
	}
}
