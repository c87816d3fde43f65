package sqlite

import (
	"context"
	sqldriver "database/sql/driver"
	"math"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// Partitions implements driver.Topic.
func (t *topic) Partitions() int { return t.spec.Partitions }

// Read implements driver.Topic.
func (t *topic) Read(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
	if err := t.check(r.Partition); err != nil {
		return driver.Records{}, err
	}
	most := r.MaxBytes
	if most == 0 {
		most = math.MaxInt
	}
	return read(ctx, t.conn, func(l *link) (found driver.Records, err error) {
		base, err := t.base(l)
		if err != nil {
			return found, err
		}
		err = l.snapshot(func() error {
			h, err := l.head(base + int64(r.Partition))
			if err != nil {
				return err
			}
			from := max(r.From, h.first)
			if !r.Time.IsZero() {
				if from, err = l.since(&h, r.Time); err != nil {
					return err
				}
			}
			found.Next = min(from, h.next)
			if found.Records, err = l.records(ctx, &h, r.Partition, from, r.Limit, most, payload); len(found.Records) > 0 {
				found.Next = found.Records[len(found.Records)-1].Position + 1
			}
			return err
		})
		return found, err
	})
}

var (
	loadRecords = query{"SELECT place, at, id, key, headers, value FROM prism_log_record WHERE place >= ? AND place < ? ORDER BY place"}
	loadTime    = query{"SELECT at FROM prism_log_record WHERE place = ?"}
)

// snapshot calls f, whose statements see the file as it is at one moment.
func (l *link) snapshot(f func() error) error {
	if _, err := l.run(&beginRead); err != nil {
		return err
	}
	err := f()
	if _, ended := l.run(&rollback); err == nil {
		err = ended
	}
	return err
}

// records returns those from a position on, until there are limit of them or
// they have most bytes.
func (l *link) records(ctx context.Context, h *head, partition int, from driver.Position, limit, most int, size func(*driver.Record) int) (found []driver.Stored, over error) {
	bytes := 0
	err := l.each(&loadRecords, func(cells []sqldriver.Value) bool { //nolint:contextcheck // see link
		if len(found)%checkEvery == checkEvery-1 {
			over = ended(ctx)
		}
		if over != nil {
			return false
		}
		var r driver.Stored
		if r, over = readRecord(cells); over != nil {
			return false
		}
		r.Partition = partition
		found = append(found, r)
		bytes += size(&r.Record)
		return len(found) < limit && bytes < most
	}, placeOf(h.number, from), placeOf(h.number, h.next))
	if err == nil {
		err = over
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// readRecord reads place, at, id, key, headers and value.
func readRecord(cells []sqldriver.Value) (r driver.Stored, err error) {
	place, _ := cells[0].(int64)
	at, _ := cells[1].(int64)
	r.Position, r.Time = positionOf(place), time.UnixMilli(at)
	r.ID, _ = cells[2].(string)
	if cells[3] != nil {
		r.Key = bytesOf(cells[3])
	}
	if headers, _ := cells[4].([]byte); len(headers) > 0 {
		if r.Headers, err = wrap.ReadHeaders(headers); err != nil {
			return r, errs.Wrap(err, errs.Internal, "a record in the SQLite file is damaged")
		}
	}
	r.Value = bytesOf(cells[5])
	return r, nil
}

// bytesOf returns what a cell that is not NULL has, which is not nil.
func bytesOf(cell sqldriver.Value) []byte {
	if b, _ := cell.([]byte); b != nil {
		return b
	}
	return []byte{}
}

// since returns the position of the first record that is not older than a time.
func (l *link) since(h *head, at time.Time) (driver.Position, error) {
	low, high := h.first, h.next // times do not go back along a partition
	for low < high {
		middle := low + (high-low)/2
		ms, err := l.number(&loadTime, placeOf(h.number, middle))
		if err != nil {
			return 0, err
		}
		if time.UnixMilli(ms).Before(at) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, nil
}

// begin returns where a start is in a partition.
func (l *link) begin(h *head, s driver.Start) (driver.Position, error) {
	switch s.From {
	case driver.StartLatest:
		return h.next, nil
	case driver.StartTime:
		return l.since(h, s.Time)
	case driver.StartEarliest:
	}
	return h.first, nil
}

var loadHeads = query{"SELECT number, first, next, bytes, last_at FROM prism_log_partition WHERE number >= ? AND number <= ? ORDER BY number"}

// heads returns those of the partitions from least to most, by number.
func (t *topic) heads(l *link, least, most int) ([]head, error) {
	base, err := t.base(l)
	if err != nil {
		return nil, err
	}
	heads := make([]head, 0, most-least+1)
	err = l.each(&loadHeads, func(cells []sqldriver.Value) bool {
		heads = append(heads, readHead(cells))
		return true
	}, base+int64(least), base+int64(most))
	if err == nil && len(heads) != most-least+1 {
		err = errs.TopicNotFound
	}
	return heads, err
}

// Fetch implements groups.Source.
func (t *topic) Fetch(ctx context.Context, cursors []groups.Cursor, found []groups.Found) (uint64, error) {
	mark := t.appended.Count()
	least, most := t.spec.Partitions, 0
	for _, c := range cursors {
		least, most = min(least, c.Partition), max(most, c.Partition)
	}
	_, err := read(ctx, t.conn, func(l *link) (none struct{}, err error) {
		heads, err := t.heads(l, least, most)
		if err != nil {
			return none, err
		}
		for i, c := range cursors {
			if found[i], err = l.fetch(ctx, &heads[c.Partition-least], c); err != nil {
				return none, err
			}
		}
		return none, nil
	})
	return mark, err
}

// fetch reads what stands at a cursor. The head may be of a moment ago, and
// records of then be gone.
func (l *link) fetch(ctx context.Context, h *head, c groups.Cursor) (f groups.Found, err error) {
	from := max(c.From, 1)
	if from >= h.next {
		return f, nil
	}
	f.Records, err = l.records(ctx, h, c.Partition, from, math.MaxInt, c.Bytes, groups.Size)
	if err != nil {
		return groups.Found{}, err
	}
	if len(f.Records) == 0 {
		f.Skipped, f.Next = int64(h.next-from), h.next
		return f, nil
	}
	f.Skipped = int64(f.Records[0].Position - from)
	return f, nil
}

// Wait implements groups.Source.
func (t *topic) Wait(ctx context.Context, _ []groups.Cursor, mark uint64) error {
	return t.appended.Wait(ctx, mark)
}

// Join implements driver.Topic.
func (t *topic) Join(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
	if err := t.conn.usable(ctx); err != nil {
		return nil, err
	}
	reads := groups.Topic{
		Source: t, Name: t.name.namespace + "/" + t.name.topic, Partitions: t.spec.Partitions, Buffer: r.Buffer, Log: t.conn.settings.log,
	}
	if r.Group == "" {
		from, err := t.starts(ctx, &r)
		if err != nil {
			return nil, err
		}
		return t.conn.members.Read(reads, from)
	}
	if err := t.conn.file.submit(ctx, &knowing{topic: t, name: r.Group, start: r.Start}); err != nil {
		return nil, err
	}
	g := t.group(r.Group)
	return t.conn.members.Join(reads, groups.Group{Table: g, Name: r.Group, Member: r.Name, MaxNote: maxNote, Changed: &g.living.changed})
}

// starts returns where a member without a group begins.
func (t *topic) starts(ctx context.Context, r *driver.JoinRequest) (from []driver.Position, err error) {
	for _, at := range r.At {
		if err := t.check(at.Partition); err != nil {
			return nil, err
		}
	}
	from, err = read(ctx, t.conn, func(l *link) (from []driver.Position, err error) {
		from = make([]driver.Position, t.spec.Partitions)
		return from, l.snapshot(func() error {
			heads, err := t.heads(l, 0, t.spec.Partitions-1)
			for i := 0; i < len(heads) && err == nil; i++ {
				from[i], err = l.begin(&heads[i], r.Start)
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	for _, at := range r.At {
		from[at.Partition] = at.Next
	}
	return from, nil
}
