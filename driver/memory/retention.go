package memory

import (
	"container/heap"
	"maps"
	"time"

	"github.com/prismgw/prism/driver"
)

// ids are the IDs of records that are remembered, each until a time of its own.
// The times are nearly in order; one that is behind a later one waits for it.
type ids struct {
	at    map[string]driver.Position
	room  int // how many at once had
	order ring[remembered]
}

// leastIDs are so few that their room is not worth giving back.
const leastIDs = 1024

type remembered struct {
	id    string
	until time.Time
}

// find returns where the record with an ID stands, if that is remembered.
func (s *ids) find(id string, now time.Time) (driver.Position, bool) {
	s.forget(now)
	at, known := s.at[id]
	return at, known
}

func (s *ids) add(id string, at driver.Position, until time.Time) {
	if s.at == nil {
		s.at = make(map[string]driver.Position)
	}
	s.at[id] = at
	s.room = max(s.room, len(s.at))
	s.order.push(remembered{id, until})
}

// forget takes each ID out once, when its time is over.
func (s *ids) forget(now time.Time) {
	for s.order.len() > 0 && !now.Before(s.order.at(0).until) {
		delete(s.at, s.order.pop().id)
	}
	switch {
	case len(s.at) == 0:
		s.at, s.room = nil, 0
	case s.room > leastIDs && len(s.at) < s.room/8: // a map keeps the room that it once had
		fewer := make(map[string]driver.Position, len(s.at))
		maps.Copy(fewer, s.at)
		s.at, s.room = fewer, len(fewer)
	}
}

// sweep deletes what may be deleted.
func (t *topic) sweep() {
	if s := &t.spec; s.MaxAge == 0 && s.MaxBytes == 0 && !s.UntilConsumed && s.Dedup == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for i := range t.partitions {
		p := &t.partitions[i]
		t.expire(p, now)
		p.ids.forget(now)
		if t.spec.UntilConsumed {
			t.consumed(i)
		}
	}
	t.shrink(t.spec.MaxBytes)
}

// expire deletes what is too old in a partition.
func (t *topic) expire(p *partition, now time.Time) {
	for t.spec.MaxAge > 0 && p.records.len() > 0 && now.Sub(p.records.at(0).Time) > t.spec.MaxAge {
		t.deleteFirst(p)
	}
}

// consumed deletes what every group has committed in a partition.
func (t *topic) consumed(i int) {
	if len(t.groups) == 0 {
		return
	}
	p := &t.partitions[i]
	next := p.end()
	for _, g := range t.groups {
		next = min(next, g.rows[i].checkpoint.Next)
	}
	for p.first < next {
		t.deleteFirst(p)
	}
}

func (t *topic) deleteFirst(p *partition) {
	t.bytes -= sizeOf(p.records.pop())
	p.first++
}

// limit deletes the oldest records when there are far too many bytes. To look
// at all partitions each time there is one too many would be dear.
func (t *topic) limit() {
	if most := t.spec.MaxBytes; most > 0 && t.bytes > most+most/8 {
		t.shrink(most)
	}
}

// shrink deletes the oldest records of all partitions until the topic has no
// more than so many bytes.
func (t *topic) shrink(most int64) {
	if most == 0 || t.bytes <= most {
		return
	}
	var oldest byFirst
	for i := range t.partitions {
		if p := &t.partitions[i]; p.records.len() > 0 {
			oldest = append(oldest, p)
		}
	}
	heap.Init(&oldest)
	for t.bytes > most {
		t.deleteFirst(oldest[0])
		if oldest[0].records.len() == 0 {
			heap.Pop(&oldest)
		} else {
			heap.Fix(&oldest, 0)
		}
	}
}

// byFirst implements heap.Interface: the partition with the oldest record is
// first.
type byFirst []*partition

func (h byFirst) Len() int      { return len(h) }
func (h byFirst) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

func (h byFirst) Less(i, j int) bool {
	return h[i].records.at(0).Time.Before(h[j].records.at(0).Time)
}

func (h *byFirst) Push(any) {} // nothing is added

func (h *byFirst) Pop() any {
	*h = (*h)[:len(*h)-1]
	return nil
}
