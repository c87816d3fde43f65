package memory

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// topic is the data of one topic.
type topic struct {
	spec     driver.TopicSpec
	now      func() time.Time
	appended groups.Bell

	mu         sync.RWMutex // guards what follows, and what it leads to
	partitions []partition
	bytes      int64 // of all records
	groups     map[string]*group
}

// A partition holds its records at positions without gaps. Their times never
// go back, whatever the clock does, so that one can be searched for.
type partition struct {
	records ring[*driver.Stored]
	first   driver.Position // of the first record, or of the next one that comes
	ids     ids
}

func (p *partition) end() driver.Position { return p.first + driver.Position(p.records.len()) }

func newTopic(spec driver.TopicSpec, now func() time.Time) *topic {
	t := &topic{spec: spec, now: now, partitions: make([]partition, max(spec.Partitions, 1)), groups: make(map[string]*group)}
	t.spec.Partitions = len(t.partitions)
	t.spec.Name = strings.Clone(spec.Name)
	for i := range t.partitions {
		t.partitions[i].first = 1
	}
	return t
}

// append adds what fits. Records are copied before the lock is taken and never
// written to afterwards, so that readers need it only to find them. Each has
// memory of its own, so that it goes when it is deleted.
func (t *topic) append(records []driver.Record, results []driver.AppendResult, largest int) {
	own := make([]*driver.Stored, len(records))
	for i := range records {
		r := &records[i]
		if size := payload(r); size > largest {
			results[i] = driver.AppendResult{Err: errs.TooLarge("record", size, largest)}
		} else {
			results[i] = driver.AppendResult{Err: t.check(r.Partition)}
			own[i] = &driver.Stored{Record: copyOf(r)}
		}
	}
	t.mu.Lock()
	now := t.now()
	for i := range own {
		if results[i].Err == nil {
			results[i] = t.add(own[i], now)
		}
	}
	t.limit()
	t.mu.Unlock()
	t.appended.Ring()
}

func (t *topic) add(r *driver.Stored, now time.Time) driver.AppendResult {
	p := &t.partitions[r.Partition]
	t.expire(p, now)
	if at, known := p.ids.find(r.ID, now); known {
		return driver.AppendResult{Position: at, Duplicate: true}
	}
	r.Position, r.Time = p.end(), now
	if n := p.records.len(); n > 0 {
		if last := p.records.at(n - 1).Time; last.After(now) {
			r.Time = last
		}
	}
	p.records.push(r)
	if t.spec.Dedup > 0 && r.ID != "" {
		p.ids.add(r.ID, r.Position, now.Add(t.spec.Dedup))
	}
	t.bytes += sizeOf(r)
	return driver.AppendResult{Position: r.Position}
}

// payload is what counts for driver.LogGuarantees.MaxRecord.
func payload(r *driver.Record) int {
	size := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += len(h.Name) + len(h.Value)
	}
	return size
}

// sizeOf is what counts for driver.TopicSpec.MaxBytes.
func sizeOf(r *driver.Stored) int64 { return int64(groups.Size(&r.Record)) }

// copyOf returns a record that shares no memory with another one.
func copyOf(r *driver.Record) driver.Record {
	own := shared(r)
	own.ID = strings.Clone(r.ID)
	for i, h := range own.Headers {
		own.Headers[i] = driver.Header{Name: strings.Clone(h.Name), Value: strings.Clone(h.Value)}
	}
	return own
}

// shared returns a record that shares with another one only what nobody can
// change.
func shared(r *driver.Record) driver.Record {
	own := *r
	own.Headers = slices.Clone(r.Headers)
	if r.Key == nil {
		own.Value = append([]byte{}, r.Value...)
		return own
	}
	both := append(append(make([]byte, 0, len(r.Key)+len(r.Value)), r.Key...), r.Value...)
	own.Key, own.Value = both[:len(r.Key):len(r.Key)], both[len(r.Key):]
	return own
}

// A piece is what stands from a place on.
type piece struct {
	records []driver.Stored
	skipped int64           // what was deleted from there on
	next    driver.Position // behind the records
	end     driver.Position // of the partition
}

// read returns records from a position on until it has so many, or so many
// bytes as size counts them. 0 bytes are no bound.
func (t *topic) read(partition int, from driver.Position, limit, most int, size func(*driver.Record) int) piece {
	found, piece := t.find(partition, from, limit, most, size)
	piece.records = make([]driver.Stored, len(found))
	for i, r := range found {
		piece.records[i] = *r
		piece.records[i].Record = shared(&r.Record)
	}
	return piece
}

func (t *topic) find(partition int, from driver.Position, limit, most int, size func(*driver.Record) int) (found []*driver.Stored, x piece) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p := &t.partitions[partition]
	x.end, x.next = p.end(), max(from, 1)
	if x.next < p.first {
		x.skipped = int64(p.first - x.next)
		x.next = p.first
	}
	for total := 0; x.next < x.end && len(found) < limit && (most == 0 || total < most); x.next++ {
		r := p.records.at(int(x.next - p.first))
		found = append(found, r)
		total += size(&r.Record)
	}
	return found, x
}

// since returns the position of the first record that is not older than a time.
func (t *topic) since(partition int, at time.Time) driver.Position {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.partitions[partition].since(at)
}

func (p *partition) since(at time.Time) driver.Position {
	older, n := 0, p.records.len() // those below older are older, those from n on are not
	for older < n {
		if middle := (older + n) / 2; p.records.at(middle).Time.Before(at) {
			older = middle + 1
		} else {
			n = middle
		}
	}
	return p.first + driver.Position(older)
}

// begin returns where a start is in each partition, at one moment.
func (t *topic) begin(s driver.Start) []driver.Position {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.beginLocked(s)
}

func (t *topic) beginLocked(s driver.Start) []driver.Position {
	from := make([]driver.Position, len(t.partitions))
	for i := range t.partitions {
		switch p := &t.partitions[i]; s.From {
		case driver.StartLatest:
			from[i] = p.end()
		case driver.StartTime:
			from[i] = p.since(s.Time)
		default:
			from[i] = p.first
		}
	}
	return from
}

// source is a topic as package groups reads it.
type source struct{ *topic }

var _ groups.Source = source{}

// Fetch implements groups.Source.
func (s source) Fetch(_ context.Context, cursors []groups.Cursor, found []groups.Found) (uint64, error) {
	mark := s.appended.Count()
	for i, c := range cursors {
		x := s.read(c.Partition, c.From, math.MaxInt, c.Bytes, groups.Size)
		found[i] = groups.Found{Records: x.records, Next: x.next, Skipped: x.skipped}
	}
	return mark, nil
}

// Wait implements groups.Source.
func (s source) Wait(ctx context.Context, _ []groups.Cursor, mark uint64) error {
	return s.appended.Wait(ctx, mark)
}
