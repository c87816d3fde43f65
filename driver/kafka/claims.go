package kafka

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// onAssigned is called at the beginning of every session of the group, with
// what is new in it.
//
// A member that was put out of the group while it was joining again gets a new
// id without being told that it has lost everything, and what it is assigned
// again is not new to kgo. Others may have had it in between: it is lost and
// claimed anew.
func (m *member) onAssigned(_ context.Context, client *kgo.Client, added map[string][]int32) {
	id, _ := client.GroupMetadata()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.parts {
		if p.id != id {
			m.drop(p, false)
			m.assigned[p.number] = m.conn.claims.Add(1)
		}
	}
	for _, partitions := range added {
		for _, p := range partitions {
			m.assigned[p] = m.conn.claims.Add(1)
		}
	}
	m.vacant.ring()
}

// onRevoked is called with partitions that others should have, and returns when
// they may. The group waits for that, and heartbeats go on.
func (m *member) onRevoked(_ context.Context, client *kgo.Client, lost map[string][]int32) {
	id, _ := client.GroupMetadata()
	leaving := m.leave(id, lost)
	timer := time.NewTimer(driver.LeaveTime)
	defer timer.Stop()
	for _, p := range leaving {
		select {
		case <-p.gone:
		case <-timer.C:
			m.dropAll(leaving)
			return
		}
	}
}

// leave tells of partitions that should be left. Those of which nobody knows yet
// are left at once, and so are those that were lost before.
func (m *member) leave(id string, lost map[string][]int32) (leaving []*part) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, partitions := range lost {
		for _, number := range partitions {
			delete(m.assigned, number)
			p := m.parts[number]
			if p == nil {
				continue
			}
			if !p.told || p.id != id {
				m.drop(p, false)
				continue
			}
			p.leaving = true
			m.forget(number) // it comes to the next owner
			m.tell(driver.LogEvent{Kind: driver.Leaving, Partition: int(number)}, overhead)
			leaving = append(leaving, p)
		}
	}
	return leaving
}

func (m *member) dropAll(all []*part) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range all {
		m.drop(p, false)
	}
}

// onLost is called when the member is out of the group.
func (m *member) onLost(context.Context, *kgo.Client, map[string][]int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.assigned)
	for _, p := range m.parts {
		m.drop(p, false)
	}
}

// gain claims what the group has given, one round after the other.
func (m *member) gain() {
	for failures := 0; ; {
		if id, free := m.unclaimed(); len(free) > 0 {
			from, err := m.checkpoints(free)
			if err != nil {
				failures++
				if pause(m.ctx, rest(failures)) != nil {
					return
				}
				continue
			}
			failures = 0
			m.claimAll(id, free, from)
			continue
		}
		select {
		case <-m.vacant:
		case <-m.ctx.Done():
			return
		}
	}
}

// unclaimed returns what can be claimed, and as whom.
func (m *member) unclaimed() (id string, free map[int32]int64) {
	id, _ = m.client.GroupMetadata()
	m.mu.Lock()
	defer m.mu.Unlock()
	free = map[int32]int64{}
	for number, assignment := range m.assigned {
		if m.parts[number] == nil && !m.withheld[number] && m.closed == nil {
			free[number] = assignment
		}
	}
	return id, free
}

// checkpoints returns where to begin in partitions.
func (m *member) checkpoints(free map[int32]int64) (map[int32]driver.Checkpoint, error) {
	numbers := slices.Collect(maps.Keys(free))
	ctx, cancel := context.WithTimeout(m.ctx, m.conn.set.answer)
	defer cancel()
	from, err := m.group.committed(ctx, numbers, true)
	if err != nil {
		return nil, err
	}
	without := slices.DeleteFunc(numbers, func(n int32) bool { _, has := from[n]; return has })
	if len(without) == 0 {
		return from, nil
	}
	at, err := m.route.begin(ctx, without, m.start)
	for number, begin := range at {
		from[number] = driver.Checkpoint{Next: position(begin)}
	}
	return from, err
}

// claimAll claims partitions, except those that were taken away meanwhile.
func (m *member) claimAll(id string, free map[int32]int64, from map[int32]driver.Checkpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now, _ := m.client.GroupMetadata(); now != id || m.closed != nil {
		return
	}
	for number, assignment := range free {
		if m.assigned[number] == assignment && !m.withheld[number] && m.parts[number] == nil {
			m.claim(number, id, from[number])
		}
	}
}

// Commit implements driver.Member.
func (m *member) Commit(ctx context.Context, commits []driver.Commit, results []error) {
	err := m.conn.ready(ctx)
	if err == nil && m.group == nil {
		err = errs.New(errs.Unsupported, "a reader without a group keeps nothing")
	}
	var open []int // commits that have no outcome yet
	for i, c := range commits {
		switch {
		case err != nil:
			results[i] = err
		case len(c.Note) > maxNote:
			results[i] = errs.TooLarge("note", len(c.Note), maxNote)
		default:
			open = append(open, i)
		}
	}
	for tries := 1; len(open) > 0; tries++ {
		if open = m.settle(ctx, commits, results, open, tries); len(open) == 0 {
			return
		}
		if err := pause(ctx, rest(tries)); err != nil {
			for _, i := range open {
				results[i] = m.conn.fail(ctx, err, true)
			}
			return
		}
	}
}

// settle sends commits once and returns those that are to be sent again,
// because the group was changing or moving.
func (m *member) settle(ctx context.Context, commits []driver.Commit, results []error, open []int, tries int) (again []int) {
	id, generation, mine := m.claimed(commits, results, open)
	if len(mine) == 0 {
		return nil
	}
	marks := make([]mark, len(mine))
	for i, c := range mine {
		marks[i] = mark{int32(commits[c].Partition), commits[c].Checkpoint}
	}
	outcomes, err := m.group.commit(ctx, id, generation, marks)
	for i, c := range mine {
		if err == nil {
			if transient(outcomes[i], tries) {
				again = append(again, c)
				continue
			}
			results[c] = m.settled(ctx, &commits[c], outcomes[i])
			continue
		}
		var unsent *unsentError
		results[c] = m.conn.fail(ctx, err, !errors.As(err, &unsent))
	}
	return again
}

// staleTries is how often a commit is sent again whose generation is over, for
// a member that does not know of the next one yet.
const staleTries = 8

// transient reports whether a refused commit can be sent again, by whoever
// still has its claim then.
func transient(err error, tries int) bool {
	return errors.Is(err, kerr.RebalanceInProgress) || elsewhere(err) || errors.Is(err, kerr.IllegalGeneration) && tries < staleTries
}

// claimed returns which commits are those of the partitions' claims, and the
// member's id and generation to send them with. Whoever owns a partition later
// does so in a later generation, so that what is sent too late is refused.
func (m *member) claimed(commits []driver.Commit, results []error, open []int) (id string, generation int32, mine []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, generation = m.client.GroupMetadata()
	for _, i := range open {
		p := m.parts[int32(commits[i].Partition)]
		switch {
		case m.closed == errClosed: //nolint:errorlint // one value
			results[i] = errClosed
		case p == nil || p.claim != commits[i].Claim || p.id != id:
			results[i] = errs.StaleReceipt
		default:
			mine = append(mine, i)
		}
	}
	return id, generation, mine
}

// settled carries out what follows from a commit's outcome.
func (m *member) settled(ctx context.Context, c *driver.Commit, err error) error {
	switch {
	case outsider(err):
		return errs.StaleReceipt
	case err != nil:
		return m.conn.fail(ctx, err, true)
	case c.Release:
		m.release(c)
	}
	return nil
}

// release gives a partition up. What the group has not taken back is claimed
// again, since nobody else can have it.
func (m *member) release(c *driver.Commit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.parts[int32(c.Partition)]; p != nil && p.claim == c.Claim {
		m.drop(p, true)
		m.vacant.ring()
	}
}
