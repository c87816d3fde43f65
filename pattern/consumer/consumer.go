// Package consumer is the Consumer pattern: messages out of the topics of a
// namespace, shared among the consumers of a group, on any backend that has the
// primitive driver.Log.
//
// What a backend gives is a partition with one owner and a checkpoint. All that
// is known of single messages is kept here: group.go takes records and hands
// them out, ledger.go knows what became of those of one partition, settle.go
// changes that, commit.go makes it last, note.go is its form. service.go
// translates the wire contract.
package consumer

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"sync"
	"sync/atomic"
	"time"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/topic"
	"github.com/prismgw/prism/pattern/trust"
)

// slot is the one slot of the pattern.
const slot = "messages-log"

// Defaults of a group, as documented.
const (
	defaultAckWait       = 30 * time.Second
	defaultMaxDeliveries = 20
	defaultBackoff       = time.Second
	defaultMaxBackoff    = 5 * time.Minute
)

// Memory for records that wait for a consumer, in bytes. All groups of a proxy
// share it, and none gets more or less than these.
const (
	allMemory = 128 << 20
	maxMemory = 8 << 20
	minMemory = 64 << 10

	// maxBuffer is what is on its way to a group beside that, which a group that
	// joins gets less of when there are many.
	maxBuffer = 256 << 10
)

// pool is the memory of all groups of a proxy.
type pool struct {
	groups atomic.Int64 // that are open, of all namespaces
	held   atomic.Int64 // bytes of their records
}

// share is how much a group may hold now. Those that got theirs when there were
// fewer may hold so much that the others get the least.
func (p *pool) share() int {
	if p.held.Load() >= allMemory {
		return minMemory
	}
	return int(min(maxMemory, max(minMemory, allMemory/max(1, p.groups.Load()))))
}

func (p *pool) take(bytes int) { p.held.Add(int64(bytes)) }

// idle is how long a group stays a member when nobody consumes any more: long
// enough for a consumer that asks again and again, short enough for others to
// have its partitions soon.
const idle = 30 * time.Second

// Kind returns the pattern's row for the table of patterns.
func Kind() pattern.Kind {
	desc := consumerv1.Consumer_ServiceDesc
	all := new(pool)
	return pattern.Kind{
		Name:    "consumer",
		Slots:   []pattern.Slot{{Name: slot, Primitive: "log"}},
		Service: &desc,
		Lasting: []string{"Subscribe", "Browse"},
		Waiting: []string{"Receive"},
		Metrics: metrics,
		Routes:  routes(),
		Check: func(raw json.RawMessage) error {
			_, err := topic.Decode(raw)
			return err
		},
		CheckSigning: topic.CheckSigning,
		Open:         func(c pattern.Config) (pattern.Instance, error) { return open(c, all) },
	}
}

// consumer is the pattern of one namespace.
type consumer struct {
	consumerv1.UnimplementedConsumerServer

	topics *topic.Topics
	now    func() time.Time
	name   string // of this process, for the backend's tools
	pool   *pool

	life context.Context //nolint:containedctx // ends with Close
	end  context.CancelFunc

	mu      sync.Mutex // guards what follows
	open    map[groupName]*member
	counts  map[groupName]*counts // of every group that was ever open
	closing bool
	closed  sync.WaitGroup // one for each group that is not stopped
}

var _ consumerv1.ConsumerServer = (*consumer)(nil)

type groupName struct{ topic, group string }

// A member is a group that this process has joined, or is joining.
type member struct {
	name   groupName
	joined chan struct{} // closed when what follows is there
	since  time.Time     // when that was
	topic  *topic.Open
	run    *running
	err    error

	users int         // guarded by consumer.mu, like the field below
	idle  *time.Timer // since there has been no user
}

func open(c pattern.Config, all *pool) (*consumer, error) {
	set, err := topic.Decode(c.Settings)
	if err != nil {
		return nil, err
	}
	filled := c.Slots[slot]
	if filled.Log == nil {
		return nil, errs.New(errs.InvalidConfiguration, "slot %s needs a backend with the primitive log", slot)
	}
	now := c.Now
	if now == nil {
		now = time.Now
	}
	topics, err := topic.New(trust.Gate{Keys: c.Keys, Namespace: c.Namespace}, set, filled.Log)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname() // empty where there is none
	one := &consumer{topics: topics, now: now, name: cmp.Or(host, "prism"), pool: all, open: make(map[groupName]*member), counts: make(map[groupName]*counts)}
	one.life, one.end = context.WithCancel(context.Background())
	return one, nil
}

// member returns the group, which is joined if it was not. leave must follow.
func (c *consumer) member(ctx context.Context, name groupName) (*member, error) {
	if err := topic.CheckName(name.topic); err != nil {
		return nil, err
	}
	if err := topic.CheckGroup(name.group); err != nil {
		return nil, err
	}
	settings := c.topics.Settings.Group(name.topic, name.group)
	if settings == nil {
		return nil, errs.New(errs.GroupNotFound, "the namespace has no consumer %.128q for this topic; its document lists them", name.group)
	}
	m, err := c.enter(name, settings)
	if err != nil {
		return nil, err
	}
	select {
	case <-m.joined:
	case <-ctx.Done():
		c.leave(m)
		return nil, errs.ReasonOf(ctx.Err())
	}
	if m.err != nil {
		c.leave(m)
		return nil, m.err
	}
	return m, nil
}

// joinTimeout bounds the way into a group.
const joinTimeout = 10 * time.Second

// enter counts a user of the group. The first one makes it join.
func (c *consumer) enter(name groupName, settings *topic.Group) (*member, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, errs.Draining
	}
	m := c.open[name]
	if m != nil {
		m.users++
		return m, nil
	}
	m = &member{name: name, joined: make(chan struct{}), users: 1}
	c.open[name] = m
	c.closed.Add(1)
	c.pool.groups.Add(1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), joinTimeout)
		defer cancel()
		m.topic, m.run, m.err = c.join(ctx, name, settings)
		if m.err != nil { // the next one tries again
			c.forget(m)
		}
		m.since = time.Now()
		close(m.joined)
	}()
	return m, nil
}

func (c *consumer) join(ctx context.Context, name groupName, settings *topic.Group) (*topic.Open, *running, error) {
	t, err := c.topics.Open(ctx, name.topic)
	if err != nil {
		return nil, nil, err
	}
	joined, err := t.Join(ctx, driver.JoinRequest{Group: name.group, Name: c.name, Start: settings.StartOf(), Buffer: min(maxBuffer, c.pool.share())})
	if err != nil {
		return nil, nil, err
	}
	p := policy{
		keyed:         settings.Order != topic.NoOrder,
		ackWait:       cmp.Or(time.Duration(settings.AckWait), defaultAckWait),
		maxDeliveries: cmp.Or(settings.MaxDeliveries, defaultMaxDeliveries),
		backoff:       cmp.Or(time.Duration(settings.Backoff), defaultBackoff),
		maxBackoff:    cmp.Or(time.Duration(settings.MaxBackoff), defaultMaxBackoff),
		memory:        c.pool.share,
		held:          c.pool.take,
	}
	u := &undertaker{topics: c.topics, topic: t, group: name.group, now: c.now}
	return t, start(name.group, t, joined, c.topics.Guarantees().MaxNote, p, u.bury, c.now, c.countsOf(name)), nil
}

func (c *consumer) countsOf(name groupName) *counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts[name] == nil {
		c.counts[name] = new(counts)
	}
	return c.counts[name]
}

// forget takes the group out of those that are open.
func (c *consumer) forget(m *member) {
	c.mu.Lock()
	delete(c.open, m.name)
	c.mu.Unlock()
	c.pool.groups.Add(-1)
	c.closed.Done()
}

// leave ends a use of the group.
func (c *consumer) leave(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.users--
	if m.users == 0 && c.open[m.name] == m && !c.closing {
		m.idle = time.AfterFunc(idle, func() { c.retire(m) })
	}
}

// retire stops a group that nobody has used for a while. What is in hand counts
// as use: who works on it will come back to settle it.
func (c *consumer) retire(m *member) {
	c.mu.Lock()
	if m.users > 0 || c.open[m.name] != m || c.closing {
		c.mu.Unlock()
		return
	}
	if m.run.busy() {
		m.idle.Reset(idle)
		c.mu.Unlock()
		return
	}
	delete(c.open, m.name)
	c.mu.Unlock()
	c.stop(context.Background(), m)
}

func (c *consumer) stop(ctx context.Context, m *member) {
	<-m.joined
	if m.run != nil {
		_ = m.run.stop(ctx) // the backend takes back by itself what a member did not give up
	}
	c.pool.groups.Add(-1)
	c.closed.Done()
}

// owned returns what ends the ownerships that the group has in this process
// now.
func (c *consumer) owned(name groupName) (forsake func()) {
	c.mu.Lock()
	m := c.open[name]
	c.mu.Unlock()
	if m == nil {
		return func() {}
	}
	<-m.joined
	if m.run == nil {
		return func() {}
	}
	return m.run.ownerships()
}

// Close implements pattern.Closer: nothing more is handed out, what is in hand
// can be settled until the context ends, and what is not goes back, uncounted.
func (c *consumer) Close(ctx context.Context) {
	c.mu.Lock()
	c.closing = true
	c.end()
	all := make([]*member, 0, len(c.open))
	for name, m := range c.open {
		all = append(all, m)
		delete(c.open, name)
	}
	c.mu.Unlock()
	for _, m := range all {
		go c.stop(ctx, m)
	}
	c.closed.Wait()
}
