package client

import (
	"cmp"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/errs"
)

// A Delivery is a message in a consumer's hands.
type Delivery struct {
	Envelope  *envelopev1.PrismEnvelope
	Attempt   int // 1 for the first
	Partition int
	Position  int64
	Headers   map[string]string // of a dead letter: prism-dead-reason and others

	// Unreadable says why there is no Envelope. It is for the group prism-dlq,
	// of dead letters.
	Unreadable string
	SealedWith string // the id of the key that the payload was encrypted with; empty: none

	receipt string
}

// Payload returns the message's payload.
func (d *Delivery) Payload() []byte { return d.Envelope.GetPayload() }

// Consume handles the messages of a topic as one of a group's consumers, until
// ctx ends; it then lets the handlers that run finish, settles what they did, and
// returns nil. Before that it returns only what keeps it from consuming, such as
// errs.TopicNotFound: connections that break, and proxies that go, are replaced.
//
// A handler that returns nil acknowledges its message, and when the proxy has
// said so, the group never gets it again. One that returns an error rejects it:
// it comes again later, and after the last attempt goes to the dead letters.
// A message comes at least once: what was handled and could not be acknowledged
// comes again.
func (t *Topics) Consume(ctx context.Context, topic, group string, handle func(ctx context.Context, d *Delivery) error, opts ...ConsumeOption) error {
	if t.invalid != nil {
		return t.invalid
	}
	o := consumeOptions{concurrency: 16, maxHandling: 10 * time.Minute, settleError: func(*Delivery, error) {}, told: func(error) {}, unreadable: func(*Delivery, error) {}}
	for _, opt := range opts {
		opt.consume(&o)
	}
	c := &consuming{topics: t, open: &consumerv1.SubscribeRequest_Open{Topic: topic, Group: group}, handle: handle, consumeOptions: o}
	for try := 1; ; try++ {
		began := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil || err == nil && c.topics.client.closed.Load() {
			return nil
		}
		if time.Since(began) > t.client.opts.retry.MaxDelay {
			try = 1 // it went well for a while
		}
		if err != nil && !worthwhile(err, true) {
			return errs.From(err)
		}
		o.told(cmp.Or(err, error(errs.Draining)))
		if !sleep(ctx, max(t.client.retry.delay(min(try, 20), 0), time.Millisecond)) {
			return nil
		}
	}
}

// consuming is one call of Consume.
type consuming struct {
	consumeOptions
	topics *Topics
	open   *consumerv1.SubscribeRequest_Open
	handle func(ctx context.Context, d *Delivery) error
}

// A session is one stream of a Consume.
type session struct {
	*consuming
	stream consumerv1.Consumer_SubscribeClient

	mu      sync.Mutex // guards what follows
	queue   []*consumerv1.Settlement
	credit  int32
	pending map[uint64]pending // settlements that wait for their answer
	lastID  uint64
	wake    chan struct{} // of capacity 1: there is something to send
	settled chan struct{} // of capacity 1: something was answered
}

// pending is a settlement that waits for its answer.
type pending struct {
	*Delivery
	outcome bool // of its handling
}

// session consumes over one stream until it breaks, the proxy asks it to go, or
// ctx ends.
func (c *consuming) session(ctx context.Context) error {
	client := c.topics.client
	if client.closed.Load() {
		return nil
	}
	key, err := c.topics.key(ctx)
	if err != nil {
		return err
	}
	// What settles goes on for a while after ctx has ended.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var p peer.Peer
	md := key.headers(&invocation{traceparent: client.traceparent(ctx)})
	s := &session{consuming: c, pending: make(map[uint64]pending), wake: make(chan struct{}, 1), settled: make(chan struct{}, 1)}
	late := time.AfterFunc(cmp.Or(client.opts.timeout, beginTimeout), end)
	s.stream, err = consumerv1.NewConsumerClient(client.conn).Subscribe(metadata.NewOutgoingContext(life, md), grpc.Peer(&p))
	if err == nil {
		err = s.stream.Send(&consumerv1.SubscribeRequest{Open: c.open, Credit: int32(min(c.concurrency, 50_000))})
	}
	if err == nil || errors.Is(err, io.EOF) {
		_, err = s.stream.Recv()
	}
	if !late.Stop() && err != nil {
		return errs.New(errs.BackendUnavailable, "no subscription stood in time")
	}
	if err == nil {
		c.told(nil)
		err = s.run(ctx)
		s.tellUnanswered()
	}
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return nil
	case life.Err() != nil:
		return errs.From(life.Err())
	}
	return client.unanswered(ctx, err, false, p.Addr != nil)
}

// finishTime is how long the last settlements may take.
const finishTime = 10 * time.Second

// run handles what comes. When ctx ends, or the proxy asks the client to go, the
// handlers that run finish and their outcomes are settled.
func (s *session) run(ctx context.Context) error {
	leaving, leave := context.WithCancel(ctx)
	defer leave()
	deliveries := make(chan *Delivery)
	ended := make(chan error, 1)
	go func() { ended <- s.receive(leaving, deliveries, leave) }()
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	var sender sync.WaitGroup
	sender.Go(func() { s.send(sending) })
	defer sender.Wait()
	defer stop()

	handling, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	var handlers sync.WaitGroup
	places := make(chan struct{}, s.concurrency)
	for {
		select {
		case d := <-deliveries:
			places <- struct{}{}
			handlers.Go(func() {
				defer func() { <-places }()
				s.work(handling, d)
			})
		case err := <-ended: // what handlers say reaches nobody any more
			abandon()
			handlers.Wait()
			return err
		case <-leaving.Done():
			handlers.Wait()
			s.finish(ended)
			return nil
		}
	}
}

// tellUnanswered tells of the outcomes of which nobody knows whether they are
// settled.
func (s *session) tellUnanswered() {
	s.mu.Lock()
	left := s.pending
	s.pending = make(map[uint64]pending)
	s.mu.Unlock()
	for _, p := range left {
		if p.outcome {
			s.settleError(p.Delivery, errs.New(errs.OutcomeUnknown, "the connection broke before the outcome was settled; the message may come again"))
		}
	}
}

// finish waits for the answers to all settlements.
func (s *session) finish(ended <-chan error) {
	late := time.NewTimer(finishTime)
	defer late.Stop()
	for {
		s.mu.Lock()
		left := len(s.pending)
		s.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-s.settled:
		case <-ended: //nolint:errcheck // the stream is over, and why does not matter any more
			return
		case <-late.C:
			return
		}
	}
}

// receive hands on what comes until the stream ends.
func (s *session) receive(leaving context.Context, deliveries chan<- *Delivery, leave func()) error {
	for {
		r, err := s.stream.Recv()
		if err != nil {
			return err
		}
		s.answered(r.GetSettled())
		for _, m := range r.GetDeliveries() {
			d := &Delivery{
				Envelope: m.GetEnvelope(), Attempt: int(m.GetAttempt()), receipt: m.GetReceipt(), Headers: m.GetHeaders(),
				Unreadable: m.GetUnreadable(),
				Partition:  int(m.GetPlace().GetPartition()), Position: m.GetPlace().GetPosition(),
			}
			select {
			case deliveries <- d:
			case <-leaving.Done(): // it goes back when the stream ends
			}
		}
		if r.GetGoingAway() {
			leave()
		}
	}
}

func (s *session) answered(all []*consumerv1.Settled) {
	for _, one := range all {
		s.mu.Lock()
		p, found := s.pending[one.GetId()]
		delete(s.pending, one.GetId())
		s.mu.Unlock()
		if st := one.GetError(); st != nil && found {
			s.settleError(p.Delivery, errs.FromStatus(grpcstatus.ErrorProto(st)))
		}
	}
	if len(all) > 0 {
		poke(s.settled)
	}
}

// extendEvery is how often a message that is being handled is kept in hand, for
// three times as long. No ack_wait is shorter than a second.
const (
	extendEvery = 10 * time.Second
	extendFirst = 300 * time.Millisecond
)

// work handles one message and settles it.
func (s *session) work(ctx context.Context, d *Delivery) {
	ctx, cancel := context.WithTimeout(ctx, s.maxHandling)
	defer cancel()
	var err error
	if !s.keepSealed {
		d.SealedWith, err = s.topics.client.opts.payload.open(ctx, d.Envelope)
	}
	if err != nil {
		s.unreadable(d, err)
		s.settle(d, errors.New(errs.From(err).Text())) // where the keys are is nobody else's business
		return
	}
	t := time.NewTimer(extendFirst)
	defer t.Stop()
	done := make(chan error, 1)
	go func() { done <- s.handle(ctx, d) }()
	for {
		select {
		case err := <-done:
			s.settle(d, err)
			return
		case <-t.C:
			if ctx.Err() == nil {
				s.queueUp(d, &consumerv1.Settlement{Verdict: &consumerv1.Settlement_Extend{Extend: durationpb.New(3 * extendEvery)}}, 0)
			}
			t.Reset(extendEvery)
		}
	}
}

func (s *session) settle(d *Delivery, err error) {
	if err == nil {
		s.queueUp(d, &consumerv1.Settlement{Verdict: &consumerv1.Settlement_Acknowledge_{Acknowledge: &consumerv1.Settlement_Acknowledge{}}}, 1)
		return
	}
	if v := new(verdict); errors.As(err, &v) && v.giveBack {
		s.queueUp(d, &consumerv1.Settlement{Verdict: &consumerv1.Settlement_Return_{Return: &consumerv1.Settlement_Return{}}}, 1)
		return
	}
	s.queueUp(d, &consumerv1.Settlement{Verdict: &consumerv1.Settlement_Reject{Reject: rejectionOf(err)}}, 1)
}

// rejectionOf is what an error says of the message that it is about.
func rejectionOf(err error) *consumerv1.Reject {
	reject := &consumerv1.Reject{Reason: clipped(err.Error())}
	var v *verdict
	if errors.As(err, &v) {
		reject.DeadLetter = v.refuse
		if v.delay != nil {
			reject.Delay = durationpb.New(*v.delay)
		}
	}
	return reject
}

// clipped is as much of a reason as is taken.
func clipped(reason string) string {
	const most = 512
	return strings.ToValidUTF8(reason[:min(len(reason), most)], "")
}

// queueUp sends a settlement soon. With credit for more messages it is the
// outcome of the handling.
func (s *session) queueUp(d *Delivery, one *consumerv1.Settlement, credit int32) {
	s.mu.Lock()
	s.lastID++
	one.Id, one.Receipt = s.lastID, d.receipt
	s.pending[one.GetId()] = pending{d, credit > 0}
	s.queue = append(s.queue, one)
	s.credit += credit
	s.mu.Unlock()
	poke(s.wake)
}

// send sends what is queued, all at once.
func (s *session) send(ctx context.Context) {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		r := &consumerv1.SubscribeRequest{Settlements: s.queue, Credit: s.credit}
		s.queue, s.credit = nil, 0
		s.mu.Unlock()
		if s.stream.Send(r) != nil {
			return // receiving says why
		}
	}
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
