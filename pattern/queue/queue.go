// Package queue is the Queue pattern: tasks that are delivered until somebody
// has done them, on any backend that has the primitive driver.Queue.
//
// What a backend gives is a task with one lease at a time and a count of them.
// What is made of that is here: receive.go hands tasks out, settle.go says what
// became of them, undertaker.go moves to the dead letters what fails too often.
// Nothing of a task is kept in this process, so that any proxy settles what
// another one has handed out.
package queue

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	queuev1 "github.com/prismgw/prism/api/prism/queue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/trust"
)

// slot is the one slot of the pattern.
const slot = "messages-queue"

// Kind returns the pattern's row for the table of patterns.
func Kind() pattern.Kind {
	desc := queuev1.Queue_ServiceDesc
	return pattern.Kind{
		Name:    "queue",
		Slots:   []pattern.Slot{{Name: slot, Primitive: "queue"}},
		Service: &desc,
		Waiting: []string{"Receive"},
		Metrics: metrics,
		Routes:  routes(),
		Check: func(raw json.RawMessage) error {
			_, err := decode(raw)
			return err
		},
		// Tasks are signed and verified wherever the namespace does so.
		CheckSigning: func(json.RawMessage, bool) error { return nil },
		Open:         func(c pattern.Config) (pattern.Instance, error) { return open(c) },
	}
}

// queues is the pattern of one namespace.
type queues struct {
	queuev1.UnimplementedQueueServer

	gate     trust.Gate
	settings *settings
	driver   driver.Queue
	maxTask  int // bytes of an envelope, so that its dead letter fits too
	now      func() time.Time
	meters   *meters

	life context.Context //nolint:containedctx // ends with Close
	end  context.CancelFunc

	mu        sync.Mutex // guards what follows
	closing   bool
	receiving sync.WaitGroup // one for each Receive
}

var (
	_ queuev1.QueueServer = (*queues)(nil)
	_ pattern.Closer      = (*queues)(nil)
	_ pattern.Measurer    = (*queues)(nil)
)

func open(c pattern.Config) (*queues, error) {
	set, err := decode(c.Settings)
	if err != nil {
		return nil, err
	}
	filled := c.Slots[slot]
	if filled.Queue == nil {
		return nil, errs.New(errs.InvalidConfiguration, "slot %s needs a backend with the primitive queue", slot)
	}
	now := c.Now
	if now == nil {
		now = time.Now
	}
	q := &queues{
		gate: trust.Gate{Keys: c.Keys, Namespace: c.Namespace}, settings: set, driver: filled.Queue, now: now,
		maxTask: min(envelope.MaxSize, filled.Queue.Guarantees().MaxTask-storySize),
	}
	q.life, q.end = context.WithCancel(context.Background())
	q.meters = newMeters(q.life, filled.Queue)
	return q, nil
}

// enter begins a Receive; q.receiving.Done must follow.
func (q *queues) enter() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closing {
		return errs.Draining
	}
	q.receiving.Add(1)
	return nil
}

// Close implements pattern.Closer: those who wait for tasks are told to go
// elsewhere, and nothing is handed out any more. What is in hand stays where it
// is, and is settled here while this proxy is asked, or through another one.
func (q *queues) Close(ctx context.Context) {
	q.mu.Lock()
	q.closing = true
	q.mu.Unlock()
	q.end()
	gone := make(chan struct{})
	go func() {
		q.receiving.Wait()
		q.meters.wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-ctx.Done():
	}
}
