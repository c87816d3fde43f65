package groups

import (
	"context"
	"time"
)

// How a member fetches.
const (
	fetchTime  = 30 * time.Second // after which a fetch is begun again
	leastPause = 50 * time.Millisecond
	mostPause  = time.Second

	// A partition of which something came the last time may bring so many
	// times as much as another one.
	busyWeight = 16
)

// A want is what the fetching goroutine is to know of changes, guarded by the
// member's lock.
type want struct {
	changes   uint64             // counts what could make it fetch other partitions
	interrupt context.CancelFunc // of the wait under way; nil: none is
	stir      chan struct{}      // of capacity 1: changes has changed
	short     bool               // there was no room for all that could be fetched
}

// stir makes the fetching goroutine look again at what is to be fetched.
func (m *member) stir() {
	w := &m.wanted
	w.changes++
	w.short = false
	if w.interrupt != nil {
		w.interrupt()
	}
	select {
	case w.stir <- struct{}{}:
	default:
	}
}

// A fetching is one request for records.
type fetching struct {
	changes uint64
	cursors []Cursor
	found   []Found
	lives   []int
}

func (m *member) fetch() {
	var f fetching
	pause := pause{log: m.log, what: "fetch", least: leastPause, most: mostPause}
	for m.ctx.Err() == nil {
		if !m.ask(&f) {
			select {
			case <-m.wanted.stir:
			case <-m.ctx.Done():
			}
			continue
		}
		err := m.fetchOnce(&f)
		if gone(err) {
			m.end(err)
			return
		}
		if m.ctx.Err() == nil {
			if d := pause.after(err); d > 0 {
				sleep(m.ctx, d)
			}
		}
	}
}

// fetchOnce fetches and, if there is nothing, waits until there may be.
func (m *member) fetchOnce(f *fetching) error {
	ctx, cancel := context.WithTimeout(m.ctx, fetchTime)
	mark, err := m.source.Fetch(ctx, f.cursors, f.found)
	cancel()
	if m.arrive(f) || err != nil {
		return err
	}
	return m.idle(f, mark)
}

// ask puts together what is to be fetched now and reports whether that is
// anything.
func (m *member) ask(f *fetching) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	room := m.buffer - m.bytes
	full := room < m.buffer/2
	f.changes, f.cursors, f.lives = m.wanted.changes, f.cursors[:0], f.lives[:0]
	weights := 0
	for i := range m.parts {
		p := &m.parts[i]
		p.asked = false
		if !p.fetches() {
			continue
		}
		m.wanted.short = m.wanted.short || full
		if full && len(p.queue) > 0 {
			continue
		}
		p.asked = true
		f.cursors = append(f.cursors, Cursor{Partition: i, From: p.next})
		f.lives = append(f.lives, p.life)
		weights += p.weight()
	}
	for i := range f.cursors {
		c := &f.cursors[i]
		c.Bytes = 1 // one record
		if !full {
			c.Bytes = max(1, room/weights*m.parts[c.Partition].weight())
		}
	}
	f.found = append(f.found[:0], make([]Found, len(f.cursors))...)
	return len(f.cursors) > 0
}

func (p *partition) weight() int {
	if p.busy {
		return busyWeight
	}
	return 1
}

// arrive hands over what was found and reports whether that was anything.
func (m *member) arrive(f *fetching) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	any := false
	for i := range f.found {
		c := &f.cursors[i]
		p := &m.parts[c.Partition]
		if !p.owned || p.life != f.lives[i] || !p.leaveAt.IsZero() {
			continue
		}
		before := p.bytes
		any = p.arrive(c.From, &f.found[i]) || any
		m.bytes += p.bytes - before
		m.list(c.Partition)
	}
	return any
}

// idle waits until there may be something for a fetch that found nothing, or
// something else is to be fetched.
func (m *member) idle(f *fetching, mark uint64) error {
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	if !m.wait(f.changes, cancel) {
		return nil
	}
	err := m.source.Wait(ctx, f.cursors, mark)
	m.mu.Lock()
	m.wanted.interrupt = nil
	m.mu.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// wait notes how to interrupt a wait, unless there was a change since.
func (m *member) wait(changes uint64, interrupt context.CancelFunc) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wanted.changes != changes {
		return false
	}
	m.wanted.interrupt = interrupt
	return true
}
