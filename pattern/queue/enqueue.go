package queue

import (
	"cmp"
	"context"
	"fmt"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	queuev1 "github.com/prismgw/prism/api/prism/queue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/publish"
)

// Limits of a batch, as documented.
const (
	maxBatchItems = 1000
	maxBatchBytes = 4 << 20
)

// Enqueue implements queuev1.QueueServer.
func (q *queues) Enqueue(ctx context.Context, r *queuev1.EnqueueRequest) (*queuev1.EnqueueResponse, error) {
	results, err := q.enqueue(ctx, r.GetQueue(), []*queuev1.NewTask{r.GetTask()})
	if err != nil {
		return nil, err
	}
	return results[0].answer, results[0].err
}

// EnqueueBatch implements queuev1.QueueServer.
func (q *queues) EnqueueBatch(ctx context.Context, r *queuev1.EnqueueBatchRequest) (*queuev1.EnqueueBatchResponse, error) {
	n := len(r.GetTasks())
	if n == 0 || n > maxBatchItems {
		return nil, errs.Invalid(errs.Field{Path: "tasks", Text: fmt.Sprintf("must be 1 to %d", maxBatchItems)})
	}
	if size := r.SizeVT(); size > maxBatchBytes {
		return nil, errs.TooLarge("batch", size, maxBatchBytes)
	}
	if err := pattern.CallOf(ctx).Charge(n); err != nil {
		return nil, err
	}
	results, err := q.enqueue(ctx, r.GetQueue(), r.GetTasks())
	if err != nil {
		return nil, err
	}
	answer := &queuev1.EnqueueBatchResponse{Results: make([]*queuev1.EnqueueResult, n)}
	for i, res := range results {
		if res.err != nil {
			answer.Results[i] = &queuev1.EnqueueResult{Outcome: &queuev1.EnqueueResult_Error{Error: pattern.StatusOf(ctx, res.err)}}
			continue
		}
		answer.Results[i] = &queuev1.EnqueueResult{Outcome: &queuev1.EnqueueResult_Enqueued{Enqueued: res.answer}}
	}
	return answer, nil
}

// A result is the outcome of one task.
type result struct {
	answer *queuev1.EnqueueResponse
	err    error
}

// enqueue puts tasks into the queue, each by itself.
func (q *queues) enqueue(ctx context.Context, name string, all []*queuev1.NewTask) ([]result, error) {
	p, err := q.settings.policy(name)
	if err != nil {
		return nil, err
	}
	if p.dead {
		return nil, errs.Invalid(errs.Field{Path: "queue", Text: "is where the dead letters of a queue go; enqueue into the queue itself"})
	}
	call := pattern.CallOf(ctx)
	if call.IdempotencyKey != "" {
		return nil, errs.Invalid(errs.Field{Path: "idempotency-key", Text: "is not kept here; leave it out, a task with the message_id of another is not enqueued again"})
	}
	q.meters.of(name)
	results := make([]result, len(all))
	tasks := make([]driver.Task, 0, len(all))
	of := make([]int, 0, len(all)) // whose task it is
	for i, one := range all {
		t, err := q.task(name, one, call.Subject)
		if err != nil {
			results[i].err = err
			continue
		}
		tasks, of = append(tasks, t), append(of, i)
	}
	if len(tasks) == 0 {
		return results, nil
	}
	outcomes := make([]driver.EnqueueResult, len(tasks))
	q.driver.Enqueue(ctx, name, tasks, outcomes)
	for k, o := range outcomes {
		if o.Err != nil {
			results[of[k]].err = o.Err
			continue
		}
		results[of[k]].answer = &queuev1.EnqueueResponse{MessageId: tasks[k].ID, Duplicate: o.Duplicate}
	}
	return results, nil
}

// task makes the driver's task of one message.
func (q *queues) task(name string, n *queuev1.NewTask, subject string) (driver.Task, error) {
	e := n.GetEnvelope()
	if e == nil {
		e = new(envelopev1.PrismEnvelope) // what it lacks is told
	}
	delay := n.GetDelay().AsDuration()
	var bad checker
	bad.ok(delay >= 0 && delay <= driver.MaxDelay, "delay", "must be at most 720h")
	bad.priority(e, n.GetPriority())
	if err := publish.Complete(e, q.gate.Namespace, name, subject, bad...); err != nil {
		return driver.Task{}, err
	}
	wire, err := q.gate.Marshal(e)
	if err != nil {
		return driver.Task{}, err
	}
	if len(wire) > q.maxTask {
		return driver.Task{}, errs.TooLarge("task", len(wire), q.maxTask)
	}
	return driver.Task{
		ID: e.Metadata.MessageId, Priority: int(cmp.Or(e.Metadata.Priority, driver.DefaultPriority)), Delay: delay, Value: wire,
	}, nil
}

// priority writes a priority that was given apart into the envelope.
func (c *checker) priority(e *envelopev1.PrismEnvelope, p int32) {
	if p == 0 {
		return
	}
	in := e.GetMetadata().GetPriority()
	c.ok(p >= driver.MinPriority && p <= driver.MaxPriority, "priority", "must be 1 to 10, or 0 for that of the envelope")
	c.ok(in == 0 || in == p, "priority", "is not metadata.priority; leave one of them out")
	if e.Metadata == nil {
		e.Metadata = new(envelopev1.Metadata)
	}
	if in == 0 && len(*c) == 0 {
		e.Metadata.Priority = p
	}
}
