package kafka

import (
	"context"
	"errors"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// Seek implements driver.Topic.
func (t *topic) Seek(ctx context.Context, name string, to []driver.Target) error {
	if err := t.conn.ready(ctx); err != nil {
		return err
	}
	err := t.seek(ctx, &group{route: t.route, name: t.group(name)}, to)
	var unsent *unsentError
	return t.conn.fail(ctx, err, !errors.As(err, &unsent))
}

// seekTries is how often a group that changes is looked at again.
const seekTries = 20

func (t *topic) seek(ctx context.Context, g *group, to []driver.Target) error {
	found, err := g.committed(ctx, t.all(), false)
	if err != nil {
		return notSent(err)
	}
	if len(found) == 0 {
		return errs.GroupNotFound
	}
	ends, err := t.offsets(ctx, atEnd, t.all())
	if err != nil {
		return notSent(err)
	}
	var marks []mark
	for _, target := range to {
		p := int32(target.Partition)
		end, there := ends[p]
		if !there {
			return errs.New(errs.InvalidField, "the topic has no partition %d", target.Partition)
		}
		marks = append(marks, mark{p, driver.Checkpoint{Next: min(max(target.Next, 1), position(end))}})
	}
	for tries := 1; len(marks) > 0; tries++ {
		if marks, err = t.seekOnce(ctx, g, marks); err != nil || len(marks) == 0 {
			return err
		}
		if tries == seekTries {
			return errs.New(errs.BackendUnavailable, "the members of the group change all the time; try again later")
		}
		if err := pause(ctx, rest(tries)); err != nil {
			return err
		}
	}
	return nil
}

// seekOnce carries out what can be at this moment, and returns what cannot: the
// group's members are changing.
func (t *topic) seekOnce(ctx context.Context, g *group, marks []mark) (left []mark, err error) {
	now, err := g.describe(ctx)
	if err != nil {
		return nil, notSent(err)
	}
	if !now.settled {
		return marks, nil
	}
	if len(now.members) == 0 {
		outcomes, err := g.commit(ctx, "", nobody, marks)
		return remaining(marks, outcomes, err)
	}
	ours := t.conn.membersOf(g.name)
	for _, id := range now.members {
		if ours[id] == nil {
			return nil, errs.New(errs.Unsupported, "the group has members in other processes; Kafka moves one only while it has none")
		}
	}
	for _, m := range ours {
		if marks, err = m.seek(ctx, marks); err != nil {
			return nil, err
		}
	}
	return marks, nil
}

// remaining sorts out the marks that were refused because the group was changing.
func remaining(marks []mark, outcomes []error, err error) (left []mark, _ error) {
	if err != nil {
		return nil, err
	}
	for i, err := range outcomes {
		switch {
		case outsider(err) || elsewhere(err):
			left = append(left, marks[i])
		case err != nil:
			return nil, err
		}
	}
	return left, nil
}

// membersOf returns the members of a group that are on this connection, by id.
func (c *conn) membersOf(name string) map[string]*member {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := map[string]*member{}
	for m := range c.members {
		if m.group != nil && m.group.name == name {
			id, _ := m.client.GroupMetadata()
			found[id] = m
		}
	}
	return found
}

// seek moves those of the partitions that this member has, which it loses and
// claims again, and returns the others and those that have moved meanwhile.
func (m *member) seek(ctx context.Context, marks []mark) (left []mark, err error) {
	id, generation, mine, left := m.withhold(marks)
	if len(mine) == 0 {
		return left, nil
	}
	defer m.restore(mine)
	outcomes, err := m.group.commit(ctx, id, generation, mine)
	refused, err := remaining(mine, outcomes, err)
	return append(left, refused...), err
}

// withhold takes partitions out of the claims, so that no commit of before comes
// after what is sent with the id and the generation.
func (m *member) withhold(marks []mark) (id string, generation int32, mine, left []mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, generation = m.client.GroupMetadata()
	for _, k := range marks {
		p := m.parts[k.partition]
		if _, assigned := m.assigned[k.partition]; !assigned || m.withheld[k.partition] || p != nil && p.id != id {
			left = append(left, k)
			continue
		}
		m.withheld[k.partition] = true
		if p != nil {
			m.drop(p, false)
		}
		mine = append(mine, k)
	}
	return id, generation, mine, left
}

func (m *member) restore(marks []mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range marks {
		delete(m.withheld, k.partition)
	}
	m.vacant.ring()
}
