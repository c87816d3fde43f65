package client

import (
	"context"
	"iter"
	"time"

	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	queuev1 "github.com/prismgw/prism/api/prism/queue/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// Queues reaches the queues of one namespace, whose tasks are delivered until
// somebody has done them. It is safe for concurrent use.
type Queues struct{ place }

// Queues returns the queues at path; see KeyValue.
func (c *Client) Queues(path string) *Queues { return &Queues{c.place(path)} }

var (
	enqueueMethod      = &method{path: queuev1.Queue_Enqueue_FullMethodName, write: true}
	enqueueBatchMethod = &method{path: queuev1.Queue_EnqueueBatch_FullMethodName, write: true}
	receiveMethod      = &method{path: queuev1.Queue_Receive_FullMethodName}
	acknowledgeMethod  = &method{path: queuev1.Queue_Acknowledge_FullMethodName, write: true}
	rejectMethod       = &method{path: queuev1.Queue_Reject_FullMethodName, write: true}
	returnMethod       = &method{path: queuev1.Queue_Return_FullMethodName, write: true}
	extendMethod       = &method{path: queuev1.Queue_Extend_FullMethodName, write: true}
	statMethod         = &method{path: queuev1.Queue_Stat_FullMethodName}
	browseMethod       = &method{path: queuev1.Queue_Browse_FullMethodName}
)

// Enqueued says which task is in a queue.
type Enqueued struct {
	ID        string
	Duplicate bool // a task of this id was enqueued within the last ten minutes
}

// A NewTask is a message that is to be a task.
type NewTask struct {
	Message *envelopev1.PrismEnvelope // see Queues.Message
	Delay   time.Duration             // it can be received after that long; at most 30 days
}

// Enqueue puts a task into a queue. nil says that the backend has accepted it as
// durably as the namespace asks for. The client gives the task its id, and repeats
// an Enqueue of which it is unknown whether it happened: the queue has it once.
// envelope.WithPriority says what comes first.
func (q *Queues) Enqueue(ctx context.Context, queue string, payload []byte, opts ...envelope.Option) (Enqueued, error) {
	return q.EnqueueTask(ctx, queue, NewTask{Message: q.Message(queue, payload, opts...)})
}

// Message returns a message for EnqueueTask and EnqueueBatch.
func (q *Queues) Message(queue string, payload []byte, opts ...envelope.Option) *envelopev1.PrismEnvelope {
	return envelope.New(q.namespace, queue, payload, opts...)
}

// EnqueueTask is Enqueue for a task that is not to be received at once.
func (q *Queues) EnqueueTask(ctx context.Context, queue string, t NewTask) (Enqueued, error) {
	answer := new(queuev1.EnqueueResponse)
	err := q.call(ctx, enqueueMethod, &queuev1.EnqueueRequest{Queue: queue, Task: t.wire()}, answer)
	return Enqueued{answer.GetMessageId(), answer.GetDuplicate()}, err
}

func (t *NewTask) wire() *queuev1.NewTask {
	n := &queuev1.NewTask{Envelope: t.Message}
	if t.Delay != 0 {
		n.Delay = durationpb.New(t.Delay)
	}
	return n
}

// An EnqueueResult is the outcome of one task of a batch.
type EnqueueResult struct {
	Enqueued
	Err error
}

// EnqueueBatch puts up to 1,000 tasks into a queue, each by itself, and returns
// their outcomes in the same order. It fails as a whole only if no task was looked
// at. It is repeated as Enqueue is.
func (q *Queues) EnqueueBatch(ctx context.Context, queue string, tasks []NewTask) ([]EnqueueResult, error) {
	r := &queuev1.EnqueueBatchRequest{Queue: queue, Tasks: make([]*queuev1.NewTask, len(tasks))}
	for i := range tasks {
		r.Tasks[i] = tasks[i].wire()
	}
	answer := new(queuev1.EnqueueBatchResponse)
	if err := q.call(ctx, enqueueBatchMethod, r, answer); err != nil {
		return nil, err
	}
	if len(answer.GetResults()) != len(tasks) {
		return nil, malformed(nil)
	}
	results := make([]EnqueueResult, len(tasks))
	for i, one := range answer.GetResults() {
		results[i].Enqueued = Enqueued{one.GetEnqueued().GetMessageId(), one.GetEnqueued().GetDuplicate()}
		if st := one.GetError(); st != nil {
			results[i].Err = errs.FromStatus(grpcstatus.ErrorProto(st))
		}
	}
	return results, nil
}

// A Task is in a worker's hands until Until.
type Task struct {
	Queue      string
	Envelope   *envelopev1.PrismEnvelope
	Attempt    int // 1 for the first
	Position   int64
	Enqueued   time.Time
	Until      time.Time         // by the backend's clock
	Headers    map[string]string // of a dead letter: prism-dead-reason and others
	Unreadable string            // of a dead letter: why there is no Envelope

	receipt string
}

// Payload returns the task's payload.
func (t *Task) Payload() []byte { return t.Envelope.GetPayload() }

// Receive takes up to n tasks in hand, 1,000 at most, and waits for the first of
// them for as long as wait says, 20 seconds at most. No task is no error. Each
// has to be settled by Acknowledge, Reject or Return, or it comes again when the
// queue's ack_wait is over. Work does all that.
func (q *Queues) Receive(ctx context.Context, queue string, n int, wait time.Duration) ([]*Task, error) {
	const spare = 5 * time.Second // for what is not waiting
	ctx, cancel := context.WithTimeout(ctx, wait+spare)
	defer cancel()
	answer := new(queuev1.ReceiveResponse)
	r := &queuev1.ReceiveRequest{Queue: queue, MaxMessages: int32(min(max(n, -1), 1<<30)), Wait: durationpb.New(wait)}
	if err := q.call(ctx, receiveMethod, r, answer); err != nil {
		return nil, err
	}
	tasks := make([]*Task, len(answer.GetDeliveries()))
	for i, d := range answer.GetDeliveries() {
		tasks[i] = &Task{
			Queue: queue, Envelope: d.GetEnvelope(), Attempt: int(d.GetAttempt()), Position: d.GetPlace().GetPosition(),
			Enqueued: d.GetPlace().GetEnqueuedAt().AsTime(), Until: d.GetUntil().AsTime(),
			Headers: d.GetHeaders(), Unreadable: d.GetUnreadable(), receipt: d.GetReceipt(),
		}
	}
	return tasks, nil
}

// Acknowledge says that a task is done: it is gone. A task that was given to
// somebody else meanwhile is errs.StaleReceipt.
func (q *Queues) Acknowledge(ctx context.Context, t *Task) error {
	answer := new(queuev1.AcknowledgeResponse)
	err := q.call(ctx, acknowledgeMethod, &queuev1.AcknowledgeRequest{Queue: t.Queue, Receipts: []string{t.receipt}}, answer)
	return settled(answer.GetResults(), err)
}

// Reject says why a task could not be done: it comes again after the queue's
// backoff, and after the last attempt goes to the dead letters. Refuse and
// RejectAfter make reasons that say otherwise.
func (q *Queues) Reject(ctx context.Context, t *Task, reason error) error {
	answer := new(queuev1.RejectResponse)
	err := q.call(ctx, rejectMethod, &queuev1.RejectRequest{Queue: t.Queue, Receipts: []string{t.receipt}, How: rejectionOf(reason)}, answer)
	return settled(answer.GetResults(), err)
}

// Return says that a task was not worked on: it comes to others at once, and that
// it was in hand is not counted.
func (q *Queues) Return(ctx context.Context, t *Task) error {
	answer := new(queuev1.ReturnResponse)
	err := q.call(ctx, returnMethod, &queuev1.ReturnRequest{Queue: t.Queue, Receipts: []string{t.receipt}}, answer)
	return settled(answer.GetResults(), err)
}

// Extend keeps a task in hand for so long from now on, 1 second to 12 hours.
func (q *Queues) Extend(ctx context.Context, t *Task, by time.Duration) error {
	answer := new(queuev1.ExtendResponse)
	err := q.call(ctx, extendMethod, &queuev1.ExtendRequest{Queue: t.Queue, Receipts: []string{t.receipt}, By: durationpb.New(by)}, answer)
	return settled(answer.GetResults(), err)
}

// settled is the outcome of one settlement.
func settled(results []*consumerv1.Settled, err error) error {
	switch {
	case err != nil:
		return err
	case len(results) != 1:
		return malformed(nil)
	case results[0].GetError() != nil:
		return errs.FromStatus(grpcstatus.ErrorProto(results[0].GetError()))
	}
	return nil
}

// A QueueStat counts the tasks of a queue.
type QueueStat struct {
	Ready       int64     // can be received now
	Delayed     int64     // can be later
	Leased      int64     // are in somebody's hands
	Oldest      time.Time // when the oldest of the ready ones came; zero: there is none
	DeadLetters int64
}

// Stat counts what is in a queue.
func (q *Queues) Stat(ctx context.Context, queue string) (QueueStat, error) {
	answer := new(queuev1.StatResponse)
	if err := q.call(ctx, statMethod, &queuev1.StatRequest{Queue: queue}, answer); err != nil {
		return QueueStat{}, err
	}
	s := QueueStat{Ready: answer.GetReady(), Delayed: answer.GetDelayed(), Leased: answer.GetLeased(), DeadLetters: answer.GetDeadLetters()}
	if answer.GetOldest() != nil {
		s.Oldest = answer.GetOldest().AsTime()
	}
	return s, nil
}

// A QueuedTask is a task as it stands in a queue.
type QueuedTask struct {
	Envelope   *envelopev1.PrismEnvelope
	Unreadable string // why there is no Envelope
	Attempts   int
	Delay      time.Duration // how long it rests still
	Position   int64
	Enqueued   time.Time
	Headers    map[string]string // of a dead letter: prism-dead-reason and others
}

// Browse returns the tasks of a queue in the order in which they came, those in
// somebody's hands and those that rest too. It takes them from nobody.
func (q *Queues) Browse(ctx context.Context, queue string) iter.Seq2[QueuedTask, error] {
	return func(yield func(QueuedTask, error) bool) {
		r := &queuev1.BrowseRequest{Queue: queue}
		for {
			page := new(queuev1.BrowseResponse)
			if err := q.call(ctx, browseMethod, r, page); err != nil {
				yield(QueuedTask{}, err)
				return
			}
			for _, b := range page.GetMessages() {
				if !yield(queuedTask(b), nil) {
					return
				}
			}
			if r.From = page.GetNext(); r.GetFrom() == 0 {
				return
			}
		}
	}
}

func queuedTask(b *queuev1.Browsed) QueuedTask {
	return QueuedTask{
		Envelope: b.GetEnvelope(), Unreadable: b.GetUnreadable(), Attempts: int(b.GetAttempts()), Delay: b.GetDelay().AsDuration(),
		Position: b.GetPlace().GetPosition(), Enqueued: b.GetPlace().GetEnqueuedAt().AsTime(), Headers: b.GetHeaders(),
	}
}

// call makes a call that may happen twice.
func (q *Queues) call(ctx context.Context, m *method, in request, out response) error {
	if q.invalid != nil {
		return q.invalid
	}
	return q.client.run(ctx, &invocation{method: m, request: in, response: out, again: true}, q)
}

func (q *Queues) try(ctx context.Context, i *invocation) error {
	key, err := q.key(ctx)
	if err != nil {
		return err
	}
	return q.client.unary(ctx, key, i)
}
