package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

const (
	fetchWait  = 250 * time.Millisecond // of a broker for the first record; what is claimed meanwhile waits for it
	fetchMost  = driver.FetchBytes / 2  // of one fetch
	fetchLeast = driver.FetchBytes / 8  // smaller ones are not worth their while
	goneAfter  = 10 * time.Second       // of answers that there is no topic: then it is believed
)

// feed keeps one fetch under way with each broker that leads something wanted,
// while there is room for what it brings.
func (m *member) feed() {
	for {
		m.fetches()
		select {
		case <-m.hungry:
		case <-m.ctx.Done():
			return
		}
	}
}

// fetches begins what fetches there can be.
func (m *member) fetches() {
	if !m.wanting() {
		return
	}
	leaders, _, err := m.route.known(m.ctx)
	if err != nil {
		m.failed(err)
		m.later()
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	byLeader := map[int32][]*part{}
	lost := false
	for _, p := range m.parts { // in no order, so that none is always the first one
		switch {
		case !p.wanted():
		case int(p.number) >= len(leaders) || leaders[p.number] < 0:
			lost = true
		default:
			byLeader[leaders[p.number]] = append(byLeader[leaders[p.number]], p)
		}
	}
	for leader, parts := range byLeader {
		room := driver.FetchBytes - m.used - m.asked
		if m.busy[leader] || room < fetchLeast {
			continue
		}
		m.ask(leader, parts, min(room, fetchMost))
	}
	if lost {
		m.route.forget()
		m.later()
	}
}

func (p *part) wanted() bool { return !p.held && !p.leaving && !p.busy }

func (m *member) wanting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.parts {
		if p.wanted() {
			return true
		}
	}
	return false
}

// later has the feed look again after a while.
func (m *member) later() { time.AfterFunc(rest(3), m.hungry.ring) }

// ask begins a fetch. The lock is held.
func (m *member) ask(leader int32, parts []*part, most int) {
	m.busy[leader] = true
	m.asked += most
	wants := make([]want, len(parts))
	for i, p := range parts {
		p.busy = true
		wants[i] = want{p.number, p.next}
	}
	m.work.Go(func() {
		err := m.fetch(leader, parts, wants, most)
		if err != nil {
			m.route.forget()
			_ = pause(m.ctx, rest(m.failed(err)))
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if err == nil {
			m.failures, m.missing = 0, time.Time{}
		}
		m.busy[leader] = false
		m.asked -= most
		for _, p := range parts {
			p.busy = false
		}
		m.hungry.ring()
	})
}

// fetch asks a broker once and hands on what it has. It returns the first error
// of any partition.
func (m *member) fetch(leader int32, parts []*part, wants []want, most int) error {
	each := most / min(len(parts), partsOfKept)
	answers, err := m.route.fetch(m.ctx, leader, wants, most, each, fetchWait)
	if err != nil {
		return err
	}
	byNumber := make(map[int32]int, len(parts))
	for i, p := range parts {
		byNumber[p.number] = i
	}
	var failed error
	for i := range answers {
		if at, asked := byNumber[answers[i].Partition]; asked {
			failed = errors.Join(failed, m.deliver(parts[at], wants[at].offset, &answers[i]))
		}
	}
	return failed
}

// deliver hands on what was fetched of a partition from an offset on.
func (m *member) deliver(p *part, from int64, a *kmsg.FetchResponseTopicPartition) error {
	if a.ErrorCode == kerr.OffsetOutOfRange.Code {
		return m.reposition(p, from)
	}
	if err := kerr.ErrorForCode(a.ErrorCode); err != nil {
		return err
	}
	records, next, err := m.route.decode(a, from)
	if err != nil {
		return err
	}
	arrived, size := make([]event, len(records)), 0
	for i, r := range records {
		ev := &arrived[i]
		ev.Kind, ev.Partition, ev.Stored = driver.Arrived, int(p.number), decodeRecord(r)
		ev.size = sizeOf(&ev.Stored.Record) + overhead
		size += ev.size
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.parts[p.number] != p || p.leaving {
		return nil
	}
	if p.next = next; len(arrived) > 0 {
		arrived[0].Skipped, p.skipped = p.skipped, 0
		m.tellAll(arrived, size)
	}
	return nil
}

// reposition goes on at the first record that is there, where those before it
// have been deleted. An offset behind the end is of a log that has lost its end:
// whatever is appended now comes.
func (m *member) reposition(p *part, from int64) error {
	ctx, cancel := context.WithTimeout(m.ctx, m.conn.set.answer)
	defer cancel()
	first, end, err := m.route.bounds(ctx, p.number)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.parts[p.number] != p:
	case from > end:
		m.conn.log.Warn("kafka: records that were acknowledged are lost", "topic", m.route.topic, "partition", p.number, "offset", from, "end", end)
		p.next = end
	case from < first && m.compacted:
		p.next, p.skipped = first, driver.SkippedUnknown
	case from < first:
		p.next, p.skipped = first, p.skipped+first-from
	}
	return nil
}

// failed notes a failure and returns how many there were in a row. A topic that
// is answered to be gone for a while is gone.
func (m *member) failed(err error) int {
	m.mu.Lock()
	m.failures++
	n, gone := m.failures, false
	switch unknown := errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID); {
	case unknown && m.missing.IsZero():
		m.missing = time.Now()
	case unknown:
		gone = time.Since(m.missing) > goneAfter
	}
	m.mu.Unlock()
	if gone {
		m.stop(errs.TopicNotFound)
	}
	return n
}
