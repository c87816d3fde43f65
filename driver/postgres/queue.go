package postgres

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

const (
	taskWeight    = 1 << 10 // what a task counts beside its bytes
	receiveWeight = 64      // receives of one flight
	settleWeight  = 4096    // settlements of one flight

	// pollEvery is how often somebody who waits looks although nobody has
	// told of a task: for what becomes due or free by itself, and for what
	// those tell who are cut off, or die before they do.
	pollEvery = time.Second
)

// queues are the queues of one namespace. Calls of one kind share flights, as
// those of KV do.
type queues struct {
	c         *conn
	namespace string
	scope     []byte // namespace
	st        *queueStatements

	enqueues lane[*enqueueJob]
	receives lane[*receiveJob]
	settles  lane[*settleJob]
}

var _ driver.Queue = (*queues)(nil)

func newQueues(c *conn, namespace string) *queues {
	q := &queues{c: c, namespace: namespace, scope: []byte(namespace), st: c.tasks}
	q.enqueues.max, q.enqueues.weight, q.enqueues.fly = c.opts.Flights, writeWeight, (&carrier[*enqueueJob]{c, &c.queueTables, q.enqueueAll, failEnqueue}).fly
	q.receives.max, q.receives.weight, q.receives.fly = c.opts.Flights, receiveWeight, (&carrier[*receiveJob]{c, &c.queueTables, q.receiveAll, failReceive}).fly
	q.settles.max, q.settles.weight, q.settles.fly = c.opts.Flights, settleWeight, (&carrier[*settleJob]{c, &c.queueTables, q.settleAll, failSettle}).fly
	return q
}

// Guarantees implements driver.Queue.
func (q *queues) Guarantees() driver.QueueGuarantees {
	return driver.QueueGuarantees{MaxTask: maxValue, Shared: true, Ack: q.c.assert.ack()}
}

// An enqueueJob is a part of a call of Enqueue.
type enqueueJob struct {
	queue   string
	tasks   []driver.Task
	headers [][]byte
	results []driver.EnqueueResult
}

// Enqueue implements driver.Queue.
func (q *queues) Enqueue(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
	for from := 0; from < len(tasks); {
		job, weight := newEnqueueJob(queue, tasks[from:])
		n := len(job.tasks)
		err := q.usable(ctx, queue)
		if err == nil && !q.enqueues.do(ctx, job, weight) {
			err = contextError(ctx)
		}
		for i := range n {
			if results[from+i] = (driver.EnqueueResult{Err: err}); err == nil {
				results[from+i] = job.results[i]
			}
		}
		from += n
	}
}

// newEnqueueJob copies as many tasks as one flight takes.
func newEnqueueJob(queue string, tasks []driver.Task) (*enqueueJob, int) {
	job, weight := &enqueueJob{queue: strings.Clone(queue)}, 0
	for i := range tasks {
		if weight >= writeWeight {
			break
		}
		var r driver.EnqueueResult
		t := tasks[i]
		if r.Err = wrap.CheckTask(&t, maxValue); r.Err == nil {
			r.Err = checkID(t.ID)
		}
		var headers []byte
		if t.Value = append([]byte{}, t.Value...); r.Err == nil {
			headers = wrap.AppendHeaders([]byte{}, t.Headers)
		} else {
			t.Value = nil
		}
		t.Headers = nil
		weight += taskWeight + len(t.Value) + len(headers)
		job.tasks, job.headers, job.results = append(job.tasks, t), append(job.headers, headers), append(job.results, r)
	}
	return job, weight
}

// checkID refuses what PostgreSQL cannot hold, so that one caller's ID never
// fails a statement that others share.
func checkID(id string) error {
	if len(id) > driver.MaxRecordID || !isText(id) {
		return errs.Invalid(errs.Field{Path: "id", Text: "is more than 64 bytes, or no text"})
	}
	return nil
}

// isText reports whether PostgreSQL can hold a text.
func isText(s string) bool { return strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) }

// usable returns why a call cannot begin, nil if it can.
func (q *queues) usable(ctx context.Context, queue string) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	if !driver.ValidTopic(queue) {
		return errs.Invalid(errs.Field{Path: "queue", Text: "is no name of a queue"})
	}
	return nil
}

// A receiveJob is one look of a call of Receive.
type receiveJob struct {
	r      driver.ReceiveRequest
	leased []driver.Leased
	more   bool // delayed tasks are due that were not looked at
	err    error
}

// Receive implements driver.Queue.
func (q *queues) Receive(ctx context.Context, r driver.ReceiveRequest) (leased []driver.Leased, err error) {
	if err := q.usable(ctx, r.Queue); err != nil {
		return nil, err
	}
	if err := wrap.CheckReceive(&r); err != nil {
		return nil, err
	}
	if r.Wait > 0 {
		q.c.wakes.hear()
	}
	key := keyOf(q.namespace, r.Queue)
	err = q.c.wakes.bell.Wait(ctx, q.c.stop, key, r.Wait, func() (found bool, next time.Duration, err error) {
		leased, err = q.lease(ctx, r)
		return len(leased) > 0, pollEvery, err
	})
	if len(leased) > 0 {
		q.c.wakes.bell.After(key, r.Lease)
	}
	return leased, err
}

// lease leases what there is now.
func (q *queues) lease(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
	for {
		if ctx.Err() != nil {
			return nil, contextError(ctx)
		}
		job := &receiveJob{r: r}
		if !q.receives.do(ctx, job, 1) {
			return nil, contextError(ctx)
		}
		if job.err != nil || !job.more {
			return job.leased, job.err
		}
	}
}

// A settleJob is a part of a call of Settle.
type settleJob struct {
	queue       string
	settlements []driver.Settlement
	receipts    []wrap.Receipt
	results     []error
}

// Settle implements driver.Queue.
func (q *queues) Settle(ctx context.Context, queue string, settlements []driver.Settlement, results []error) {
	for from := 0; from < len(settlements); {
		part := settlements[from:min(len(settlements), from+settleWeight)]
		job := &settleJob{
			queue: strings.Clone(queue), settlements: append([]driver.Settlement(nil), part...),
			receipts: make([]wrap.Receipt, len(part)), results: make([]error, len(part)),
		}
		for i := range part {
			job.receipts[i], job.results[i] = wrap.CheckSettlement(&part[i])
		}
		err := q.usable(ctx, queue)
		if err == nil && !q.settles.do(ctx, job, len(part)) {
			err = contextError(ctx)
		}
		for i := range part {
			if results[from+i] = err; err == nil {
				results[from+i] = job.results[i]
			}
		}
		from += len(part)
	}
}
