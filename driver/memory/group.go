package memory

import (
	"context"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

var _ groups.Table = (*group)(nil)

// A group is the table of its members and partitions, guarded by the topic's
// lock. Its calls never wait, so they look at no context.
type group struct {
	topic   *topic
	changed groups.Bell
	alive   map[string]lease // by ID; those that are dead go when somebody looks
	rows    []row            // by partition
}

type lease struct {
	name  string
	until time.Time // by the monotonic clock
}

// A row is a partition as a group has it.
type row struct {
	owner      string // an ID; empty: nobody
	claim      int64
	checkpoint driver.Checkpoint
}

// know returns a group and makes it if there is none.
func (t *topic) know(name string, s driver.Start) *group {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g := t.groups[name]; g != nil {
		return g
	}
	g := &group{topic: t, alive: make(map[string]lease), rows: make([]row, len(t.partitions))}
	for i, next := range t.beginLocked(s) {
		g.rows[i].checkpoint.Next = next
	}
	t.groups[strings.Clone(name)] = g
	return g
}

func (g *group) lock() (unlock func()) {
	g.topic.mu.Lock()
	return g.topic.mu.Unlock
}

// Beat implements groups.Table.
func (g *group) Beat(_ context.Context, self groups.Self) (groups.View, error) {
	defer g.lock()()
	now := time.Now()
	g.alive[self.ID] = lease{self.Name, now.Add(groups.TTL)}
	g.bury(now)
	v := groups.View{Owners: make([]groups.Owner, len(g.rows))}
	for id := range g.alive {
		v.Alive = append(v.Alive, id)
	}
	for i := range g.rows {
		v.Owners[i] = groups.Owner{ID: g.rows[i].owner, Claim: g.rows[i].claim}
	}
	return v, nil
}

// bury forgets the dead.
func (g *group) bury(now time.Time) {
	for id, l := range g.alive {
		if !now.Before(l.until) {
			delete(g.alive, id)
		}
	}
}

// Take implements groups.Table.
func (g *group) Take(_ context.Context, self groups.Self, partitions []int) ([]groups.Taken, error) {
	defer g.lock()()
	g.bury(time.Now())
	var taken []groups.Taken
	for _, i := range partitions {
		r := &g.rows[i]
		if _, alive := g.alive[r.owner]; alive && r.owner != self.ID {
			continue
		}
		r.owner = self.ID
		r.claim++
		taken = append(taken, groups.Taken{Claim: groups.Claim{Partition: i, Number: r.claim}, Checkpoint: r.checkpoint})
	}
	return taken, nil
}

// Commit implements groups.Table.
func (g *group) Commit(_ context.Context, self groups.Self, commits []driver.Commit, results []error) {
	defer g.lock()()
	for i, c := range commits {
		r := &g.rows[c.Partition]
		switch {
		case r.claim == c.Claim && r.owner == self.ID:
			results[i] = nil
			r.keep(c)
			if g.topic.spec.UntilConsumed {
				g.topic.consumed(c.Partition)
			}
		case r.claim == c.Claim && r.owner == "" && c.Release:
			results[i] = nil
		default:
			results[i] = errs.StaleReceipt
		}
	}
}

func (r *row) keep(c driver.Commit) {
	r.checkpoint.Next = c.Next
	if r.checkpoint.Note != c.Note {
		r.checkpoint.Note = strings.Clone(c.Note)
	}
	if c.Release {
		r.owner = ""
	}
}

// Release implements groups.Table.
func (g *group) Release(_ context.Context, self groups.Self, claims []groups.Claim) error {
	defer g.lock()()
	for _, c := range claims {
		if r := &g.rows[c.Partition]; r.owner == self.ID && r.claim == c.Number {
			r.owner = ""
		}
	}
	return nil
}

// Leave implements groups.Table.
func (g *group) Leave(_ context.Context, self groups.Self) error {
	defer g.lock()()
	delete(g.alive, self.ID)
	for i := range g.rows {
		if r := &g.rows[i]; r.owner == self.ID {
			r.owner = ""
		}
	}
	return nil
}

// seek puts a group to other positions.
func (t *topic) seek(name string, to []driver.Target) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.groups[name]
	if g == nil {
		return errs.GroupNotFound
	}
	for _, target := range to {
		r := &g.rows[target.Partition]
		*r = row{claim: r.claim + 1, checkpoint: driver.Checkpoint{Next: target.Next}}
	}
	g.changed.Ring()
	return nil
}

// stat returns what is known of each partition.
func (t *topic) stat(name string) []driver.PartitionStat {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.groups[name]
	if g != nil {
		g.bury(time.Now())
	}
	stats := make([]driver.PartitionStat, len(t.partitions))
	for i := range stats {
		p := &t.partitions[i]
		stats[i] = driver.PartitionStat{First: p.first, End: p.end()}
		if g != nil {
			g.rows[i].stat(p, g.alive, &stats[i])
		}
	}
	return stats
}

func (r *row) stat(p *partition, alive map[string]lease, s *driver.PartitionStat) {
	s.Known, s.Next, s.Owner = true, r.checkpoint.Next, alive[r.owner].name
	if next := max(s.Next, p.first); next < p.end() {
		s.Waiting = int64(p.end() - next)
		s.Oldest = p.records.at(int(next - p.first)).Time
	}
}
