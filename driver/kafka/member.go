package kafka

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// member reads the partitions that it has claimed. Those that the group has
// assigned to it are claimed when their checkpoints are known.
type member struct {
	conn      *conn
	group     *group // nil: a reader by itself
	route     *route
	client    *kgo.Client
	start     driver.Start // of partitions that the group has committed nothing for
	compacted bool
	ctx       context.Context // ends with the member
	cancel    context.CancelFunc
	work      sync.WaitGroup
	once      sync.Once // of end

	news   bell // there are events, or none will come
	hungry bell // something can be fetched
	vacant bell // something can be claimed

	mu       sync.Mutex // guards what follows
	closed   error
	assigned map[int32]int64 // what the group has given, each with a number that names this assignment
	withheld map[int32]bool  // what is not to be claimed at the moment
	parts    map[int32]*part
	events   []event
	used     int            // bytes of events
	asked    int            // bytes that are being fetched, at most
	busy     map[int32]bool // brokers that are being asked
	missing  time.Time      // since when the topic is answered to be gone; zero: it is not
	failures int            // of fetches, in a row
}

var _ driver.Member = (*member)(nil)

// A part is a partition that is claimed.
type part struct {
	number  int32
	claim   int64
	id      string // the member's in the group when it was claimed
	next    int64  // offset
	skipped int64  // what the next record says
	told    bool   // Gained was handed out
	held    bool
	leaving bool
	busy    bool          // it is being fetched
	gone    chan struct{} // closed when it is not claimed any more
}

// An event waits to be handed out.
type event struct {
	driver.LogEvent
	size int
}

// A bell wakes whoever waits for it, once however often it is rung.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// Join implements driver.Topic.
func (t *topic) Join(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
	if err := t.conn.ready(ctx); err != nil {
		return nil, err
	}
	m := &member{
		conn: t.conn, start: r.Start, compacted: t.compacted, news: newBell(), hungry: newBell(), vacant: newBell(),
		assigned: map[int32]int64{}, withheld: map[int32]bool{}, parts: map[int32]*part{}, busy: map[int32]bool{},
	}
	join := m.joinGroup
	if r.Group == "" {
		join = m.joinNobody
	}
	if err := join(ctx, t, r); err != nil {
		return nil, t.conn.fail(ctx, err, false)
	}
	m.work.Go(m.feed)
	if !t.conn.add(m) {
		_ = m.Close(ctx)
		return nil, errClosed
	}
	return m, nil
}

// joinNobody makes a reader that has all partitions at once.
func (m *member) joinNobody(ctx context.Context, t *topic, r driver.JoinRequest) error {
	from, err := t.begin(ctx, t.all(), r.Start)
	if err != nil {
		return err
	}
	if len(r.At) > 0 {
		ends, err := t.offsets(ctx, atEnd, t.all())
		if err != nil {
			return err
		}
		for _, at := range r.At {
			if end, there := ends[int32(at.Partition)]; there {
				from[int32(at.Partition)] = min(offset(at.Next), end)
			}
		}
	}
	if err := m.connect(t, r.Name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range t.all() {
		m.claim(p, "", driver.Checkpoint{Next: position(from[p])})
	}
	return nil
}

// joinGroup makes a member, after the group was started if nobody knew it.
func (m *member) joinGroup(ctx context.Context, t *topic, r driver.JoinRequest) error {
	g := &group{route: t.route, name: t.group(r.Group)}
	if _, err := t.load(ctx); err != nil { // the topic may be gone
		return err
	}
	found, err := g.committed(ctx, t.all(), false)
	if err != nil {
		return err
	}
	known := len(found) > 0
	if !known {
		if known, err = g.start(ctx, t.all(), r.Start); err != nil {
			return err
		}
	}
	if known { // what it has not committed came later, or was never read
		m.start = driver.Start{}
	}
	if err := m.connect(t, r.Name, t.conn.memberOpts(g.name, t.topic, m)...); err != nil {
		return err
	}
	m.group = &group{route: m.route, name: g.name}
	m.work.Go(m.gain)
	m.work.Go(m.listen)
	return nil
}

// connect makes the member's own client.
func (m *member) connect(t *topic, name string, opts ...kgo.Opt) (err error) {
	if name == "" {
		name = t.conn.set.ClientID
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.client, err = kgo.NewClient(append(t.conn.clientOpts(m.ctx, name), opts...)...)
	if err != nil {
		m.cancel()
		return errs.Wrap(err, errs.Internal, "the member's client cannot be made")
	}
	m.route = &route{conn: t.conn, client: m.client, topic: t.topic}
	return nil
}

// listen takes what kgo says of the group's protocol, and tells of what a
// person has to put right.
func (m *member) listen() {
	last := ""
	for m.ctx.Err() == nil {
		fetches := m.client.PollFetches(m.ctx)
		if m.ctx.Err() != nil {
			return
		}
		fetches.EachError(func(_ string, _ int32, err error) {
			if err.Error() != last {
				last = err.Error()
				m.conn.log.Warn("kafka: a member is out of its group", "group", m.group.name, "error", m.conn.fail(m.ctx, err, false))
			}
		})
	}
}

// Next implements driver.Member.
func (m *member) Next(ctx context.Context, events []driver.LogEvent) (int, error) {
	for {
		if reason, ended := endOf(ctx); ended {
			return 0, reason
		}
		if n, err := m.take(events); n > 0 || err != nil {
			return n, err
		}
		select {
		case <-m.news:
		case <-ctx.Done():
		}
	}
}

// take hands out what there is.
func (m *member) take(events []driver.LogEvent) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed != nil {
		m.news.ring() // for the next call
		return 0, m.closed
	}
	n := min(len(events), len(m.events))
	for i, ev := range m.events[:n] {
		events[i] = ev.LogEvent
		m.used -= ev.size
		if p := m.parts[int32(ev.Partition)]; ev.Kind == driver.Gained && p != nil {
			p.told = true
		}
	}
	clear(m.events[:n])
	if m.events = m.events[n:]; len(m.events) == 0 {
		m.events = nil
	}
	if n > 0 {
		m.hungry.ring()
	}
	return n, nil
}

// tell has an event handed out. The lock is held.
func (m *member) tell(ev driver.LogEvent, size int) {
	m.events = append(m.events, event{ev, size})
	m.used += size
	m.news.ring()
}

// tellAll has events handed out. The lock is held.
func (m *member) tellAll(all []event, size int) {
	if len(m.events) == 0 {
		m.events = all
	} else {
		m.events = append(m.events, all...)
	}
	m.used += size
	m.news.ring()
}

// forget takes back what was not handed out of a partition. The lock is held.
func (m *member) forget(partition int32) {
	m.events = slices.DeleteFunc(m.events, func(ev event) bool {
		if ev.Partition != int(partition) {
			return false
		}
		m.used -= ev.size
		return true
	})
	m.hungry.ring()
}

// claim begins the life of a partition. The lock is held.
func (m *member) claim(partition int32, id string, from driver.Checkpoint) {
	p := &part{number: partition, claim: m.conn.claims.Add(1), id: id, next: offset(from.Next), gone: make(chan struct{})}
	m.parts[partition] = p
	m.tell(driver.LogEvent{Kind: driver.Gained, Partition: int(partition), Claim: p.claim, Checkpoint: from}, overhead)
	m.hungry.ring()
}

// drop ends the life of a partition, in silence if it was released or if nobody
// has heard of it yet. The lock is held.
func (m *member) drop(p *part, released bool) {
	if m.parts[p.number] != p {
		return
	}
	delete(m.parts, p.number)
	close(p.gone)
	m.forget(p.number)
	if p.told && !released {
		m.tell(driver.LogEvent{Kind: driver.Lost, Partition: int(p.number)}, overhead)
	}
}

// Hold implements driver.Member.
func (m *member) Hold(partition int, hold bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.parts[int32(partition)]; p != nil {
		p.held = hold
		m.hungry.ring()
	}
}

// Close implements driver.Member.
func (m *member) Close(ctx context.Context) error {
	m.end(ctx, errs.Cancelled)
	return nil
}

// end closes the member for a reason and waits until nothing of it is left. It
// leaves the group, unless the brokers do not answer: then its partitions are
// free when its session has ended.
func (m *member) end(ctx context.Context, why error) {
	m.stop(why)
	m.once.Do(func() {
		if m.group != nil {
			ctx, cancel := context.WithTimeout(ctx, m.conn.set.answer)
			_ = m.client.LeaveGroupContext(ctx)
			cancel()
		}
		m.cancel()
		m.client.Close()
		m.work.Wait()
		m.conn.remove(m)
	})
}

// stop has nothing come any more.
func (m *member) stop(why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed != nil {
		return
	}
	m.closed = why
	for _, p := range m.parts {
		m.drop(p, true)
	}
	m.events = nil
	m.news.ring()
}
