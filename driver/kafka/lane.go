package kafka

import (
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/errs"
)

var errStuck = errs.New(errs.BackendUnavailable, "the backend does not answer what it was sent before; nothing more is sent until it does")

// A lane is a partition on its way to the brokers. The client sends what was not
// answered again, for as long as it takes, and keeps whatever comes behind it:
// for records that would wait there nobody waits.
type lane struct {
	under atomic.Int64 // records under way
	since atomic.Int64 // when one of them was answered last, or the first one was sent; in ns
}

// enter lets a record onto its lane, unless what is under way there has not been
// answered for a while.
func (l *lane) enter(patience time.Duration) error {
	now := time.Now().UnixNano()
	switch {
	case l.under.Load() == 0:
		l.since.Store(now)
	case now-l.since.Load() > int64(patience):
		return errStuck
	}
	l.under.Add(1)
	return nil
}

func (l *lane) leave() {
	l.since.Store(time.Now().UnixNano())
	l.under.Add(-1)
}

// lanesOf returns those of a topic, which all who have opened it share.
func (c *conn) lanesOf(topic string, partitions int) []*lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.lanes[topic]) < partitions {
		c.lanes[topic] = append(c.lanes[topic], &lane{})
	}
	return c.lanes[topic][:partitions:partitions]
}
