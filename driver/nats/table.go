package nats

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// Beat implements groups.Table. There is no clock that all have: a member is
// dead when nobody has seen a new beat of it for groups.TTL.
func (g *group) Beat(ctx context.Context, self groups.Self) (groups.View, error) {
	s, err := g.session(ctx, false)
	if err != nil {
		return groups.View{}, g.failed(ctx, s, err, true)
	}
	beat := g.write(memberMark+self.ID, []byte(self.Name), nil)
	if err := s.begin(ctx, beat); err != nil {
		return groups.View{}, g.failed(ctx, s, err, true)
	}
	alive, begun, err := g.list(ctx, s)
	if err == nil && !begun { // a replica that is behind may not know it yet
		_, err = g.begun(ctx, s)
	}
	if _, unheard := g.written(ctx, s, beat); err == nil {
		err = unheard
	}
	if err != nil {
		return groups.View{}, g.failed(ctx, s, err, true)
	}
	if !slices.Contains(alive, self.ID) {
		alive = append(alive, self.ID)
	}
	return groups.View{Alive: alive, Owners: g.owners()}, nil
}

func (g *group) owners() []groups.Owner {
	g.mu.Lock()
	defer g.mu.Unlock()
	owners := make([]groups.Owner, len(g.rows))
	for i, r := range g.rows {
		owners[i] = groups.Owner{ID: r.Owner, Claim: r.Claim}
	}
	return owners
}

// A change is that of one row on its way.
type change struct {
	i    int // of the partition
	row  row // as it is to be
	call *call
	err  error
}

// change puts the change of a row on its way: of one that stands on a revision.
func (g *group) change(ctx context.Context, s *session, i int, to row) change {
	value, err := to.encode()
	c := change{i: i, row: to, err: err}
	if err == nil {
		c.call = g.write(strconv.Itoa(i), value, &to.rev)
		c.err = s.begin(ctx, c.call)
	}
	return c
}

// finish waits for a change; errConflict if the row was another one.
func (g *group) finish(ctx context.Context, s *session, c *change) error {
	if c.err != nil {
		return c.err
	}
	rev, err := g.written(ctx, s, c.call)
	if err != nil {
		return err
	}
	c.row.rev = rev
	g.keep(c.i, c.row)
	return nil
}

// Take implements groups.Table.
func (g *group) Take(ctx context.Context, self groups.Self, partitions []int) ([]groups.Taken, error) {
	s, err := g.session(ctx, false)
	if err != nil {
		return nil, g.failed(ctx, s, err, true)
	}
	dead := make(map[string]bool) // owners that were asked for
	var changes []change
	for _, i := range partitions {
		r := g.row(i)
		free, err := g.free(ctx, s, r.Owner, self.ID, dead)
		if err != nil {
			return nil, g.failed(ctx, s, err, true)
		}
		if free {
			r.Owner, r.Name, r.Claim = self.ID, self.Name, r.Claim+1
			changes = append(changes, g.change(ctx, s, i, r))
		}
	}
	var taken []groups.Taken
	for i := range changes {
		c := &changes[i]
		switch failed := g.finish(ctx, s, c); {
		case failed == nil:
			taken = append(taken, groups.Taken{
				Claim:      groups.Claim{Partition: c.i, Number: c.row.Claim},
				Checkpoint: driver.Checkpoint{Next: c.row.Next, Note: c.row.note},
			})
		case !errors.Is(failed, errConflict):
			err = failed
		}
	}
	if len(taken) == 0 && err != nil {
		return nil, g.failed(ctx, s, err, true)
	}
	return taken, nil // what was lost on its way is taken again with the next beat
}

// free reports whether a member may take what somebody owns. That an owner is
// dead the leader has to say, since a replica that is behind shows old beats.
func (g *group) free(ctx context.Context, s *session, owner, self string, dead map[string]bool) (bool, error) {
	if owner == "" || owner == self {
		return true, nil
	}
	known, asked := dead[owner]
	if asked {
		return known, nil
	}
	g.mu.Lock()
	seen, sighted := g.members[owner]
	g.mu.Unlock()
	if sighted && time.Since(seen.since) < groups.TTL {
		return false, nil
	}
	beat, err := g.key(ctx, s, memberMark+owner)
	if err != nil {
		return false, err
	}
	dead[owner] = beat.seq == 0 || beat.gone || sighted && beat.seq == seen.rev
	if !dead[owner] {
		g.mu.Lock()
		g.members[owner] = sight{beat.seq, time.Now()}
		g.mu.Unlock()
	}
	return dead[owner], nil
}

// Commit implements groups.Table.
func (g *group) Commit(ctx context.Context, self groups.Self, commits []driver.Commit, results []error) {
	s, err := g.session(ctx, false)
	if err != nil {
		err = g.failed(ctx, s, err, true)
		for i := range results {
			results[i] = err
		}
		return
	}
	changes := make([]change, len(commits))
	for i := range commits {
		c := &commits[i]
		if r, owned := g.row(c.Partition).owned(self.ID, c.Claim); owned {
			changes[i] = g.change(ctx, s, c.Partition, r.with(c))
		} else {
			changes[i].err = errConflict // as far as is known
		}
	}
	for i := range commits {
		err := g.finish(ctx, s, &changes[i])
		for errors.Is(err, errConflict) {
			err = g.recommit(ctx, s, self, &commits[i])
		}
		results[i] = g.failed(ctx, s, err, true)
	}
}

// recommit asks for the row that is there and commits to it, which may have
// changed by a commit of this member that was never answered.
func (g *group) recommit(ctx context.Context, s *session, self groups.Self, c *driver.Commit) error {
	r, err := g.ask(ctx, s, c.Partition)
	if err != nil {
		return err
	}
	r, owned := r.owned(self.ID, c.Claim)
	switch {
	case owned:
		again := g.change(ctx, s, c.Partition, r.with(c))
		return g.finish(ctx, s, &again)
	case r.Claim == c.Claim && r.Owner == "" && c.Release:
		return nil
	default:
		return errs.StaleReceipt
	}
}

// owned returns the row and whether a member owns it with this claim.
func (r row) owned(member string, claim int64) (row, bool) {
	return r, r.Owner == member && r.Claim == claim
}

// with returns the row with a commit in it.
func (r row) with(c *driver.Commit) row {
	r.Next, r.note = c.Next, c.Note
	if c.Release {
		r.Owner, r.Name = "", ""
	}
	return r
}

// Release implements groups.Table.
func (g *group) Release(ctx context.Context, self groups.Self, claims []groups.Claim) error {
	s, err := g.session(ctx, false)
	if err != nil {
		return g.failed(ctx, s, err, true)
	}
	return g.failed(ctx, s, g.clear(ctx, s, self, claims), true)
}

// clear clears the owner of claims that a member has.
func (g *group) clear(ctx context.Context, s *session, self groups.Self, claims []groups.Claim) (err error) {
	changes := make([]change, 0, len(claims))
	for _, c := range claims {
		if r, owned := g.row(c.Partition).owned(self.ID, c.Number); owned {
			r.Owner, r.Name = "", ""
			changes = append(changes, g.change(ctx, s, c.Partition, r))
		}
	}
	for i := range changes {
		c := &changes[i]
		failed := g.finish(ctx, s, c)
		for errors.Is(failed, errConflict) {
			r, asked := g.ask(ctx, s, c.i)
			r, owned := r.owned(self.ID, c.row.Claim)
			if failed = asked; failed == nil && owned {
				r.Owner, r.Name = "", ""
				again := g.change(ctx, s, c.i, r)
				failed = g.finish(ctx, s, &again)
			}
		}
		err = firstError(err, failed)
	}
	return err
}

// Leave implements groups.Table.
func (g *group) Leave(ctx context.Context, self groups.Self) error {
	s, err := g.session(ctx, false)
	if err == nil {
		err = g.put(ctx, s, memberMark+self.ID, nil, nil)
	}
	if err == nil {
		_, _, err = g.list(ctx, s)
	}
	if err != nil {
		return g.failed(ctx, s, err, true)
	}
	var claims []groups.Claim
	for i, o := range g.owners() {
		if o.ID == self.ID {
			claims = append(claims, groups.Claim{Partition: i, Number: o.Claim})
		}
	}
	return g.failed(ctx, s, g.clear(ctx, s, self, claims), true)
}

// seek puts the group to other positions.
func (g *group) seek(ctx context.Context, to []driver.Target) error {
	s, err := g.session(ctx, false)
	if err == nil {
		_, err = g.begun(ctx, s)
	}
	if err != nil {
		return g.failed(ctx, s, err, false)
	}
	for _, target := range to {
		for err = errConflict; errors.Is(err, errConflict); {
			var r row
			if r, err = g.ask(ctx, s, target.Partition); err == nil {
				c := g.change(ctx, s, target.Partition, row{rev: r.rev, Claim: r.Claim + 1, Next: target.Next})
				err = g.finish(ctx, s, &c)
			}
		}
		if err != nil {
			return g.failed(ctx, s, err, true)
		}
	}
	return nil
}
