package nats

import (
	"context"
	"errors"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// stat asks for each partition's first record, and for the first one that the
// group has not committed, with how many follow. Only what stands between the ends
// of the stream as its leader knows them counts.
func (t *topic) stat(ctx context.Context, s *session, name string) ([]driver.PartitionStat, error) {
	stats := make([]driver.PartitionStat, len(t.subjects))
	if name != "" {
		if err := t.group(name).stat(ctx, stats); err != nil {
			return nil, err
		}
	}
	least, end, err := t.ends(ctx, s)
	if err != nil {
		return nil, err
	}
	firsts, nexts := make([]*pull, len(stats)), make([]*pull, len(stats))
	for i := range stats {
		if firsts[i], err = t.count(ctx, s, i, least); err != nil {
			return nil, err
		}
		if stats[i].Known {
			if nexts[i], err = t.count(ctx, s, i, max(stats[i].Next, least)); err != nil {
				return nil, err
			}
		}
	}
	for i := range stats {
		x := &stats[i]
		x.First, x.End = end, end
		first, _, err := t.counted(ctx, s, firsts[i], i, least)
		if err != nil {
			return nil, err
		}
		if first.Position != 0 && first.Position < end {
			x.First = first.Position
		}
		if nexts[i] == nil {
			continue
		}
		next, waiting, err := t.counted(ctx, s, nexts[i], i, max(x.Next, least))
		if err != nil {
			return nil, err
		}
		x.Waiting, x.Oldest = waiting, next.Time
	}
	return stats, nil
}

// count asks for a record and how many follow it.
func (t *topic) count(ctx context.Context, s *session, partition int, from driver.Position) (*pull, error) {
	return s.pull(ctx, t.stream, messageGet{Seq: uint64(from), NextFor: t.filters[partition], Batch: 1})
}

// counted waits for what count has asked for; no record is the zero one.
func (t *topic) counted(ctx context.Context, s *session, p *pull, partition int, from driver.Position) (first driver.Stored, n int64, err error) {
	found, _, err := t.found(ctx, s, p, partition)
	if err != nil {
		return first, 0, err
	}
	if len(found) > 0 {
		return found[0], p.pending + 1, nil
	}
	if t.leading.Load() {
		var ok bool
		if first, ok, err = t.following(ctx, s, partition, messageGet{Seq: uint64(from)}); ok {
			n = 1
		}
	}
	return first, n, err
}

// stat fills in what is known of the group.
func (g *group) stat(ctx context.Context, stats []driver.PartitionStat) error {
	s, err := g.session(ctx, false)
	if err == nil {
		_, err = g.begun(ctx, s)
	}
	var present map[string]bool
	if err == nil {
		present, err = g.present(ctx, s)
	}
	err = g.failed(ctx, s, err, false)
	if errors.Is(err, errs.GroupNotFound) {
		return nil
	}
	for i := range stats {
		r := g.row(i)
		stats[i].Known, stats[i].Next = true, r.Next
		if present[r.Owner] {
			stats[i].Owner = r.Name
		}
	}
	return err
}

// present returns who has beaten within beatTTL, by the server's clock.
func (g *group) present(ctx context.Context, s *session) (map[string]bool, error) {
	if _, _, err := g.list(ctx, s); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make(map[string]bool, len(g.members))
	for id := range g.members {
		all[id] = true
	}
	return all, nil
}
