package queue

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	queuev1 "github.com/prismgw/prism/api/prism/queue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// Limits of the wire contract, as documented.
const (
	maxReceive     = 1000
	defaultReceive = 10
	maxWait        = 20 * time.Second
	maxAnswer      = 4 << 20 // bytes of tasks in one answer, but for the last of them

	// answerTime is what an answer takes on its way.
	answerTime = 200 * time.Millisecond
)

const (
	// turn is how long the backend is asked to wait in one call. No call is
	// given up while it may be leasing, because what it has leased would be
	// nobody's until the lease ends; so whoever has gone away is noticed then.
	turn = time.Second

	// overtime is how much longer than its caller a call to the backend may
	// last.
	overtime = time.Second

	// lastWord bounds what is said to the backend for a caller without a
	// deadline, or one that has gone.
	lastWord = 5 * time.Second
)

// Receive implements queuev1.QueueServer.
func (q *queues) Receive(ctx context.Context, r *queuev1.ReceiveRequest) (*queuev1.ReceiveResponse, error) {
	limit := cmp.Or(int(r.GetMaxMessages()), defaultReceive)
	if limit < 0 || limit > maxReceive {
		return nil, errs.Invalid(errs.Field{Path: "max_messages", Text: fmt.Sprintf("must be 1 to %d", maxReceive)})
	}
	wait := r.GetWait().AsDuration()
	if wait < 0 || wait > maxWait {
		return nil, errs.Invalid(errs.Field{Path: "wait", Text: "must be at most 20s"})
	}
	p, err := q.settings.policy(r.GetQueue())
	if err != nil {
		return nil, err
	}
	if err := q.enter(); err != nil {
		return nil, err
	}
	defer q.receiving.Done()
	if at, ok := ctx.Deadline(); ok { // an answer without tasks is better than none
		wait = min(wait, max(0, time.Until(at)-answerTime))
	}
	deliveries, err := q.receive(ctx, p, limit, time.Now().Add(wait))
	if err != nil {
		return nil, err
	}
	return &queuev1.ReceiveResponse{Deliveries: deliveries}, nil
}

// receive hands out tasks, and waits for the first one until a time. It first
// asks for what is there, so that a backend that cannot answer is noticed at
// once: calls that wait are not held to the limits of a backend.
func (q *queues) receive(ctx context.Context, p *policy, limit int, until time.Time) ([]*queuev1.Delivery, error) {
	for wait := time.Duration(0); ; wait = min(turn, max(0, time.Until(until))) {
		leased, err := q.lease(ctx, driver.ReceiveRequest{Queue: p.name, Limit: limit, MaxBytes: maxAnswer, Lease: p.ackWait, Wait: wait})
		if err != nil {
			return nil, err
		}
		deliveries, err := q.deliver(ctx, p, leased)
		if len(deliveries) > 0 || err != nil {
			return deliveries, err
		}
		switch {
		case q.life.Err() != nil:
			return nil, errs.Draining
		case !time.Now().Before(until):
			return nil, nil
		}
	}
}

// lease leases tasks in the backend. It does not end with the caller.
func (q *queues) lease(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
	if ctx.Err() != nil {
		return nil, errs.ReasonOf(ctx.Err())
	}
	last := time.Now().Add(r.Wait + lastWord)
	if at, ok := ctx.Deadline(); ok {
		last = at.Add(overtime)
	}
	own, cancel := context.WithDeadline(context.WithoutCancel(ctx), last)
	defer cancel()
	return q.driver.Receive(own, r)
}

// deliver makes deliveries of what is leased, and moves to the dead letters what
// is to be handed out no more. For a caller that has gone away, all of it goes
// back.
func (q *queues) deliver(ctx context.Context, p *policy, leased []driver.Leased) ([]*queuev1.Delivery, error) {
	if len(leased) == 0 {
		return nil, nil
	}
	if ctx.Err() != nil {
		q.giveBack(ctx, p.name, leased, 0)
		return nil, errs.ReasonOf(ctx.Err())
	}
	deliveries := make([]*queuev1.Delivery, 0, len(leased))
	kept := make([]driver.Leased, 0, len(leased))
	var dead []corpse
	for i := range leased {
		d, why := q.delivery(p, &leased[i])
		if why != "" {
			dead = append(dead, corpse{leased[i].Waiting, leased[i].Receipt, why, leased[i].Attempt - 1})
			continue
		}
		deliveries, kept = append(deliveries, d), append(kept, leased[i])
	}
	q.buryOrRest(ctx, p, dead)
	if ctx.Err() != nil {
		q.giveBack(ctx, p.name, kept, 0)
		return nil, errs.ReasonOf(ctx.Err())
	}
	q.meters.of(p.name).handedOut(kept)
	return deliveries, nil
}

// delivery is one task as the worker gets it, or why it is to be handed out no
// more.
func (q *queues) delivery(p *policy, l *driver.Leased) (d *queuev1.Delivery, why string) {
	e, err := q.read(p.name, l.Value)
	switch {
	case p.dead:
	case err != nil:
		return nil, whyUnreadable + errs.From(err).Message
	case l.Attempt > p.maxDeliveries:
		return nil, whyUnanswered
	case q.expired(e.GetMetadata()):
		return nil, fmt.Sprintf("it expired: its ttl of %ds had passed", e.GetMetadata().GetTtlSeconds())
	}
	d = &queuev1.Delivery{
		Envelope: e, Receipt: receipt{l.Attempt, l.Position, l.Receipt}.String(), Attempt: int32(l.Attempt),
		FirstDeliveredAt: timestamppb.New(l.First), Place: place(&l.Waiting), Until: timestamppb.New(l.Until), Headers: stories(l.Headers),
	}
	if err != nil {
		d.Unreadable = errs.From(err).Message
	}
	return d, ""
}

// expired says whether nobody wants the message any more.
func (q *queues) expired(m *envelopev1.Metadata) bool {
	if m.GetTtlSeconds() == 0 {
		return false
	}
	return !q.now().Before(time.UnixMilli(m.GetPublishedAtMs()).Add(time.Duration(m.GetTtlSeconds()) * time.Second))
}

// giveBack returns what nobody has worked on, as if it had never been leased.
func (q *queues) giveBack(ctx context.Context, name string, leased []driver.Leased, after time.Duration) {
	if len(leased) == 0 {
		return
	}
	all := make([]driver.Settlement, len(leased))
	for i := range leased {
		all[i] = driver.Settlement{Receipt: leased[i].Receipt, Kind: driver.Return, After: after, Uncounted: true}
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
	defer cancel()
	q.driver.Settle(own, name, all, make([]error, len(all))) // what fails comes back when its lease ends
}

// read reads the envelope of a task of a queue, if it is believed. One without an
// id is none: no publisher writes it. A dead letter is of the queue that it came
// from.
func (q *queues) read(name string, wire []byte) (*envelopev1.PrismEnvelope, error) {
	h, err := envelope.Scan(wire)
	if err != nil {
		return nil, err
	}
	if len(h.MessageID) == 0 {
		return nil, errs.Invalid(errs.Field{Path: "task", Text: "it is no envelope"})
	}
	if wire, err = q.gate.Pass(wire, &h, strings.TrimSuffix(name, deadSuffix), false); err != nil {
		return nil, err
	}
	e := new(envelopev1.PrismEnvelope)
	if err := e.UnmarshalVT(wire); err != nil {
		return nil, errs.Wrap(err, errs.InvalidField, "envelope: is not a valid message")
	}
	return e, nil
}

func place(w *driver.Waiting) *queuev1.Place {
	return &queuev1.Place{Position: int64(w.Position), EnqueuedAt: timestamppb.New(w.Enqueued)}
}

// stories are the headers of a dead letter that tell its story, nil for any
// other task.
func stories(headers []driver.Header) map[string]string {
	var out map[string]string
	for _, h := range headers {
		if strings.HasPrefix(h.Name, storyPrefix) {
			if out == nil {
				out = make(map[string]string)
			}
			out[h.Name] = h.Value
		}
	}
	return out
}
