package redis

import (
	"context"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// How long a member relies on being told of appends. Other programs tell
// nobody, and those of adopted streams are all other programs.
const (
	pollEvery   = time.Second
	pollAdopted = 100 * time.Millisecond
)

// reader is a topic as one member reads it.
type reader struct {
	*topic

	mu    sync.Mutex // guards memos
	memos []memo     // by partition
}

var _ groups.Source = (*reader)(nil)

func newReader(t *topic) *reader { return &reader{topic: t, memos: make([]memo, len(t.streams))} }

// A memo is what is known of a partition from the last time.
type memo struct {
	pace  pace
	from  driver.Position // there was nothing from here on,
	heard heard           // when the tail had told so much,
	until time.Time       // which is relied on until then
}

// nothing reports whether there is nothing from a position on.
func (m *memo) nothing(from driver.Position, h heard) bool {
	return m.from == from && m.heard == h && time.Now().Before(m.until)
}

// A reading is one partition's part of a Fetch.
type reading struct {
	groups.Cursor
	found *groups.Found
	heard heard
	count int64
}

// Fetch implements groups.Source. Only those partitions are asked for of which
// it is not known that there is nothing.
func (x *reader) Fetch(ctx context.Context, cursors []groups.Cursor, found []groups.Found) (mark uint64, err error) {
	x.tail.use()
	mark = x.tail.bell.Count()
	c, err := x.client(ctx)
	if err != nil {
		return mark, x.link.fail(ctx, err, false)
	}
	all := x.readings(cursors, found)
	for len(all) > 0 && err == nil {
		all, err = x.read(ctx, c, all)
	}
	return mark, err
}

// readings returns what is to be read.
func (x *reader) readings(cursors []groups.Cursor, found []groups.Found) []*reading {
	heard := x.tail.look(cursors)
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []*reading
	for i, c := range cursors {
		c.From = max(c.From, 1)
		m := &x.memos[c.Partition]
		if !m.nothing(c.From, heard[i]) {
			all = append(all, &reading{c, &found[i], heard[i], m.pace.count(c.Bytes)})
		}
	}
	return all
}

// read reads partitions and returns those that have to be read again. Of each
// it also asks where records were removed, after what is there.
func (x *reader) read(ctx context.Context, c rueidis.Client, all []*reading) (again []*reading, err error) {
	cmds := make([]rueidis.Completed, 0, 2*len(all))
	for _, r := range all {
		cmds = append(cmds, x.xrange(c, r.Partition, r.From, r.count))
		if x.adopted {
			cmds = append(cmds, x.xrange(c, r.Partition, 1, 1))
		} else {
			cmds = append(cmds, c.B().Get().Key(x.trimmed[r.Partition]).Build())
		}
	}
	answers := x.link.many(ctx, c, cmds)
	var empty []inquiry
	for i, r := range all {
		entries, failed := x.entries(answers[2*i], r.Partition)
		sound := false
		if failed == nil {
			sound, failed = x.skips(ctx, c, r, entries, answers[2*i+1])
		}
		switch {
		case failed != nil:
			err = x.link.fail(ctx, failed, false)
		case !sound:
			again = append(again, r)
		default:
			if x.take(r, entries) {
				empty = append(empty, inquiry{partition: r.Partition})
			}
		}
	}
	if err == nil && len(empty) == len(all) { // there may be no stream at all
		_, err = x.look(ctx, c, empty[:1])
	}
	return again, err
}

// skips finds out whether records were removed that nobody has read. It is not
// sound if they were removed after the entries were read.
func (x *reader) skips(ctx context.Context, c rueidis.Client, r *reading, entries []driver.Stored, answer rueidis.RedisResult) (sound bool, err error) {
	if x.adopted {
		return true, x.skipsAdopted(ctx, c, r, entries, answer)
	}
	text, err := answer.ToString()
	if rueidis.IsRedisNil(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	last, err := positionOf(text)
	switch {
	case err != nil || last < r.From:
		return err == nil, err
	case len(entries) == 0:
		r.found.Skipped, r.found.Next = driver.SkippedUnknown, last+1
	case entries[0].Position > last:
		r.found.Skipped = driver.SkippedUnknown
	default:
		return false, nil
	}
	return true, nil
}

// skipsAdopted is skips for a stream of which others remove entries, and say
// nowhere which.
func (x *reader) skipsAdopted(ctx context.Context, c rueidis.Client, r *reading, entries []driver.Stored, answer rueidis.RedisResult) error {
	first, err := x.entries(answer, r.Partition)
	if err != nil || len(entries) == 0 || entries[0].Position == r.From {
		return err
	}
	if len(first) > 0 && first[0].Position < r.From {
		return nil
	}
	stands, err := x.look(ctx, c, []inquiry{{partition: r.Partition}})
	if err == nil && stands[0].deleted > 0 {
		r.found.Skipped = driver.SkippedUnknown
	}
	return err
}

// take hands over entries as far as they are wanted, and remembers what is to be
// known the next time. It reports whether there was nothing.
func (x *reader) take(r *reading, entries []driver.Stored) (nothing bool) {
	wanted := 0
	for bytes := 0; wanted < len(entries) && bytes < r.Bytes; wanted++ {
		bytes += groups.Size(&entries[wanted].Record)
	}
	r.found.Records = entries[:wanted:wanted]
	x.mu.Lock()
	defer x.mu.Unlock()
	m := &x.memos[r.Partition]
	m.pace.learn(entries)
	m.until = time.Time{}
	if wanted < len(entries) || int64(len(entries)) >= r.count {
		return false
	}
	m.from, m.heard, m.until = max(r.From, r.found.Next), r.heard, time.Now().Add(x.poll())
	if wanted > 0 {
		m.from = entries[wanted-1].Position + 1
	}
	return wanted == 0
}

func (x *reader) poll() time.Duration {
	if x.adopted {
		return pollAdopted
	}
	return pollEvery
}

// Wait implements groups.Source.
func (x *reader) Wait(ctx context.Context, cursors []groups.Cursor, mark uint64) error {
	poll := time.NewTimer(x.poll())
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return errs.ReasonOf(ctx.Err())
		case <-poll.C:
			return nil
		case <-x.tail.bell.After(mark):
		}
		mark = x.tail.bell.Count()
		if x.something(cursors) {
			return nil
		}
	}
}

// something reports whether there may be records for one of the cursors.
func (x *reader) something(cursors []groups.Cursor) bool {
	heard := x.tail.look(cursors)
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, c := range cursors {
		if !x.memos[c.Partition].nothing(max(c.From, 1), heard[i]) {
			return true
		}
	}
	return false
}
