package nats

import (
	"context"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
)

// source is a topic as one member reads it.
type source struct {
	*topic

	mu    sync.Mutex // guards memos
	memos []memo     // by partition
}

var _ groups.Source = (*source)(nil)

// A memo says that a partition was read to its end, before which the tail had
// told so much of it.
type memo struct {
	life  uint64 // of the tail; 0: nothing is known
	from  driver.Position
	count int
}

// knows reports whether the tail tells of everything from a position on.
func (m *memo) knows(life uint64, from driver.Position) bool {
	return m.life != 0 && m.life == life && m.from == from
}

// nothing reports whether there is nothing from a position on.
func (m *memo) nothing(life uint64, from driver.Position, h heard) bool {
	return m.knows(life, from) && (m.count == h.count || h.last < from)
}

// A reading is one partition's part of a Fetch.
type reading struct {
	*pull
	cursor groups.Cursor
	heard  heard
	whole  bool // everything that the tail has told of is among what was found
	end    bool
	gap    bool // something before the first record may have been deleted
}

// Fetch implements groups.Source. Only those partitions are asked for of which
// the tail has told something.
func (x *source) Fetch(ctx context.Context, cursors []groups.Cursor, found []groups.Found) (mark uint64, err error) {
	mark = x.tail.bell.Count()
	var view tailView
	x.tail.look(&view, cursors)
	s, err := x.link.online(ctx)
	if err != nil {
		return mark, x.link.fail(ctx, err, false)
	}
	readings := make([]reading, len(cursors))
	for i := range cursors {
		r := &readings[i]
		r.cursor, r.heard = cursors[i], view.heard[i]
		if !x.nothing(r, view.life) {
			get := messageGet{Seq: uint64(r.from()), NextFor: x.filters[r.cursor.Partition], Batch: pullCount, MaxBytes: min(r.cursor.Bytes, pullBytes)}
			p, failed := s.pull(ctx, x.stream, get)
			if failed != nil {
				err = failed
				break
			}
			r.pull = p
		}
	}
	for i := range readings {
		if r := &readings[i]; r.pull != nil {
			err = firstError(err, x.finish(ctx, s, r, &found[i], view.life))
		}
	}
	err = firstError(err, x.skips(ctx, s, readings, found))
	x.remember(readings, found, view.life)
	return mark, x.fail(ctx, s, err, false)
}

func (r *reading) from() driver.Position { return max(r.cursor.From, 1) }

// nothing reports whether a partition need not be asked for.
func (x *source) nothing(r *reading, life uint64) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.memos[r.cursor.Partition].nothing(life, r.from(), r.heard)
}

// finish waits for the answer of a partition. Where that is perhaps not all
// there is, the leader is asked.
func (x *source) finish(ctx context.Context, s *session, r *reading, found *groups.Found, life uint64) error {
	records, end, err := x.found(ctx, s, r.pull, r.cursor.Partition)
	if err != nil {
		r.pull = nil
		return err
	}
	x.mu.Lock()
	m := &x.memos[r.cursor.Partition]
	r.whole = m.knows(life, r.from()) && upTo(records, r.heard.last) >= r.heard.count-m.count
	x.mu.Unlock()
	found.Records, r.end = records, end
	if !end || r.whole || !x.leading.Load() {
		return nil
	}
	next, more, err := x.following(ctx, s, r.cursor.Partition, messageGet{Seq: uint64(x.next(r, found))})
	if more {
		found.Records = append(found.Records, next)
	}
	r.end = !more && err == nil
	return err
}

// upTo is how many records stand up to a position.
func upTo(records []driver.Stored, last driver.Position) (n int) {
	for n < len(records) && records[n].Position <= last {
		n++
	}
	return n
}

// next is the position that follows what was found.
func (x *source) next(r *reading, found *groups.Found) driver.Position {
	if n := len(found.Records); n > 0 {
		return found.Records[n-1].Position + 1
	}
	return max(r.from(), found.Next)
}

// skips finds out where records were deleted that nobody has read. Positions
// have gaps, so that it is the stream's first one that tells, asked for after
// the records were; and what a tail has told of is known to be there.
func (x *source) skips(ctx context.Context, s *session, readings []reading, found []groups.Found) error {
	any := false
	for i := range readings {
		r := &readings[i]
		if r.pull != nil && !r.whole {
			r.gap = len(found[i].Records) == 0 && r.end || len(found[i].Records) > 0 && found[i].Records[0].Position > r.from()
			any = any || r.gap
		}
	}
	if !any {
		return nil
	}
	info, err := x.state(ctx, s)
	if err != nil {
		for i := range readings { // who cannot tell what was skipped fetches again
			if readings[i].gap {
				found[i], readings[i].pull = groups.Found{}, nil
			}
		}
		return err
	}
	first := driver.Position(info.State.FirstSeq)
	for i := range readings {
		if r := &readings[i]; r.gap && first > r.from() {
			found[i].Skipped = driver.SkippedUnknown
			if len(found[i].Records) == 0 {
				found[i].Next = first
			}
		}
	}
	return nil
}

// remember keeps what is known of the partitions that were read to their ends.
func (x *source) remember(readings []reading, found []groups.Found, life uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range readings {
		if r := &readings[i]; r.pull != nil && r.end {
			x.memos[r.cursor.Partition] = memo{life, x.next(r, &found[i]), r.heard.count}
		}
	}
}

// Wait implements groups.Source.
func (x *source) Wait(ctx context.Context, cursors []groups.Cursor, mark uint64) error {
	leave, err := x.tail.wait()
	if err != nil {
		return err
	}
	defer leave()
	poll := time.NewTimer(pollEvery)
	defer poll.Stop()
	var view tailView
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
		case <-x.tail.bell.After(mark):
		}
		mark = x.tail.bell.Count()
		x.tail.look(&view, cursors)
		if x.something(cursors, &view) {
			return nil
		}
		poll.Reset(pollEvery)
	}
}

// something reports whether there may be records for one of the cursors.
func (x *source) something(cursors []groups.Cursor, v *tailView) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, c := range cursors {
		if !x.memos[c.Partition].nothing(v.life, max(c.From, 1), v.heard[i]) {
			return true
		}
	}
	return false
}
