package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/prismgw/prism/driver"
)

// Stat implements driver.Topic.
func (t *topic) Stat(ctx context.Context, group string) ([]driver.PartitionStat, error) {
	if err := t.conn.ready(ctx); err != nil {
		return nil, err
	}
	stats, err := t.stat(ctx, group)
	return stats, t.conn.fail(ctx, err, false)
}

func (t *topic) stat(ctx context.Context, name string) ([]driver.PartitionStat, error) {
	starts, err := t.offsets(ctx, atStart, t.all())
	if err != nil {
		return nil, err
	}
	ends, err := t.offsets(ctx, atEnd, t.all())
	if err != nil {
		return nil, err
	}
	stats := make([]driver.PartitionStat, t.partitions)
	for _, p := range t.all() {
		stats[p] = driver.PartitionStat{First: position(starts[p]), End: position(max(ends[p], starts[p]))}
	}
	if name == "" {
		return stats, nil
	}
	g := &group{route: t.route, name: t.group(name)}
	found, err := g.committed(ctx, t.all(), false)
	if err != nil || len(found) == 0 {
		return stats, err
	}
	members, err := g.describe(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range t.all() {
		s := &stats[p]
		s.Known, s.Next, s.Owner = true, s.First, members.owners[p]
		if c, has := found[p]; has {
			s.Next = c.Next
		}
		s.Waiting = max(int64(s.End-max(s.Next, s.First)), 0)
	}
	return stats, t.oldest(ctx, stats)
}

const (
	oldestBytes = 4 << 20 // of one look at many partitions
	oldestEach  = 4 << 10 // of each of them; a larger first record comes alone
)

// oldest looks up when the first record was appended that waits in each
// partition.
func (t *topic) oldest(ctx context.Context, stats []driver.PartitionStat) error {
	left := map[int32]int64{}
	for _, p := range t.all() {
		if s := &stats[p]; s.Waiting > 0 {
			left[p] = offset(max(s.Next, s.First))
		}
	}
	for tries := 1; len(left) > 0; tries++ {
		before := len(left)
		failed := t.look(ctx, left, stats)
		switch {
		case failed == nil && len(left) < before:
			tries = 0
		case failed != nil && (!passing(failed, tries) || tries > readTries):
			return failed
		case tries > readTries: // what waits is held back by a transaction, or goes while it is looked at
			return nil
		default:
			t.forget()
			if err := pause(ctx, rest(tries)); err != nil {
				return err
			}
		}
	}
	return nil
}

// look fetches from each broker once, and takes out of left what it has found,
// or found not to be there.
func (t *topic) look(ctx context.Context, left map[int32]int64, stats []driver.PartitionStat) error {
	wants := map[int32][]want{}
	for p, from := range left {
		leader, err := t.leader(ctx, p)
		if err != nil {
			return err
		}
		wants[leader] = append(wants[leader], want{p, from})
	}
	for leader, all := range wants {
		answers, err := t.fetch(ctx, leader, all, oldestBytes, oldestEach, 0)
		if err != nil {
			return err
		}
		for i := range answers {
			a := &answers[i]
			from := left[a.Partition]
			if a.ErrorCode == kerr.OffsetOutOfRange.Code {
				delete(left, a.Partition)
				continue
			}
			if err := kerr.ErrorForCode(a.ErrorCode); err != nil {
				return err
			}
			records, next, err := t.decode(a, from)
			switch {
			case err != nil:
				return err
			case len(records) > 0:
				stats[a.Partition].Oldest = records[0].Timestamp
				delete(left, a.Partition)
			case next >= stable(a):
				delete(left, a.Partition)
			default:
				left[a.Partition] = next
			}
		}
	}
	return nil
}
