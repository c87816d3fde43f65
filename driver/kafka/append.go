package kafka

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// An appending is one call of Append. The client may finish its records after
// the call has ended.
type appending struct {
	gate     *gate
	size     int // what is given back to the gate with the last outcome
	outcomes []appended
	left     atomic.Int64
	done     chan struct{} // closed with the last outcome
}

// An appended record. The client's goroutine writes it, and known at last.
type appended struct {
	offset int64
	err    error
	known  atomic.Bool
}

// Append implements driver.Topic.
func (t *topic) Append(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
	sent, a := t.sendable(ctx, records, results)
	if a.size == 0 {
		return
	}
	if err := a.gate.enter(ctx, t.conn.base.Done(), a.bounded()); err != nil {
		t.results(ctx, sent, results, func(int) (int64, error) { return 0, err })
		return
	}
	t.produce(sent, a)
	t.results(ctx, sent, results, a.wait(ctx, t.conn))
}

// sendable returns the records that can be sent, the others as nil, with the
// results of those.
func (t *topic) sendable(ctx context.Context, records []driver.Record, results []driver.AppendResult) ([]*kgo.Record, *appending) {
	a := &appending{gate: &t.conn.gate}
	err := t.conn.ready(ctx)
	for i := range records {
		results[i] = driver.AppendResult{Err: err}
		if err == nil {
			results[i].Err = t.refusal(&records[i])
		}
	}
	sent := make([]*kgo.Record, len(records))
	e := newEncoder(t.topic, records, func(i int) bool { return results[i].Err != nil })
	for i := range records {
		if results[i].Err == nil {
			sent[i] = e.encode(&records[i])
			a.left.Add(1)
			a.size += sizeOf(&records[i]) + overhead
		}
	}
	if a.size > 0 {
		a.outcomes, a.done = make([]appended, len(records)), make(chan struct{})
	}
	return sent, a
}

// refusal returns why a record is not sent.
func (t *topic) refusal(r *driver.Record) error {
	switch size := sizeOf(r); {
	case size > t.conn.set.MaxRecord:
		return errs.TooLarge("record", size, t.conn.set.MaxRecord)
	case r.Partition < 0 || r.Partition >= t.partitions:
		return errs.New(errs.InvalidField, "the topic has no partition %d", r.Partition)
	}
	return nil
}

// bounded is how much room a call takes: one that is larger than the gate goes
// alone.
func (a *appending) bounded() int { return min(a.size, gateBytes) }

// produce hands records to the client, in order. Nothing of it waits.
func (t *topic) produce(sent []*kgo.Record, a *appending) {
	for i, r := range sent {
		if r == nil {
			continue
		}
		way := t.lanes[r.Partition]
		if err := way.enter(t.conn.set.answer); err != nil {
			a.finish(i, 0, err)
			continue
		}
		t.client.Produce(t.conn.base, r, func(r *kgo.Record, err error) {
			way.leave()
			a.finish(i, r.Offset, err)
		})
	}
}

func (a *appending) finish(i int, offset int64, err error) {
	o := &a.outcomes[i]
	o.offset, o.err = offset, err
	o.known.Store(true)
	if a.left.Add(-1) == 0 {
		a.gate.leave(a.bounded())
		close(a.done)
	}
}

// wait returns what became of each record when all have an outcome, or when
// those that have none are not waited for any more, and why. It waits longer
// than a record may be kept that was never sent.
func (a *appending) wait(ctx context.Context, c *conn) func(i int) (offset int64, err error) {
	long := 2 * c.set.answer
	var late <-chan time.Time
	if end, limited := ctx.Deadline(); !limited || time.Until(end) > long {
		timer := time.NewTimer(long)
		defer timer.Stop()
		late = timer.C
	}
	var err error
	select {
	case <-a.done:
	case <-ctx.Done():
		err = ctx.Err()
	case <-late:
		err = context.DeadlineExceeded
	case <-c.base.Done():
		err = kgo.ErrClientClosed
	}
	return func(i int) (int64, error) {
		if o := &a.outcomes[i]; o.known.Load() {
			return o.offset, o.err
		}
		return 0, err
	}
}

// results puts what became of the records that were sent into the results.
func (t *topic) results(ctx context.Context, sent []*kgo.Record, results []driver.AppendResult, of func(i int) (offset int64, err error)) {
	for i, r := range sent {
		if r == nil {
			continue
		}
		if at, err := of(i); err != nil {
			results[i].Err = t.conn.fail(ctx, err, true)
		} else {
			results[i].Position = position(at)
		}
	}
}
