package consumer

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

const (
	// maxCredit is how many messages one stream may have in hand.
	maxCredit = 100_000

	// maxTakes is how many messages are taken for one stream at once.
	maxTakes = 256

	// maxDelivered is how many bytes of messages go together. A client that does
	// not read holds so much memory, and as much again in what gRPC has of it.
	maxDelivered = 24 << 10

	// maxSettling is how many messages with settlements of one stream are
	// worked on at once.
	maxSettling = 16

	// settleTime is how long a client that was asked to go can settle what it
	// has in hand: less than streams get in all.
	settleTime = 4 * time.Second
)

// A subscription is one stream of Subscribe.
type subscription struct {
	stream  consumerv1.Consumer_SubscribeServer
	member  *member
	session *session

	sending sync.Mutex // one message at a time

	mu     sync.Mutex // guards what follows
	credit int
	more   chan struct{} // of capacity 1: there may be credit
}

// Subscribe implements consumerv1.ConsumerServer.
func (c *consumer) Subscribe(stream consumerv1.Consumer_SubscribeServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	open := first.GetOpen()
	if open == nil {
		return errs.Invalid(errs.Field{Path: "open", Text: "is missing: the first message of the stream names topic and group"})
	}
	m, err := c.member(stream.Context(), groupName{open.GetTopic(), open.GetGroup()})
	if err != nil {
		return err
	}
	defer c.leave(m)
	s := &subscription{stream: stream, member: m, session: newSession(), more: make(chan struct{}, 1)}
	defer m.run.leave(s.session)
	if err := s.send(&consumerv1.SubscribeResponse{Opened: true}); err != nil {
		return err
	}
	return s.run(c, first)
}

// run serves the stream until the client ends it, the group does, or the proxy
// asks it to go.
func (s *subscription) run(c *consumer, first *consumerv1.SubscribeRequest) error {
	// What settles goes on when nothing more is delivered.
	settling, over := context.WithCancelCause(context.WithoutCancel(s.stream.Context()))
	defer over(nil)
	heard := make(chan error, 1)
	go func() { heard <- s.listen(settling, first) }()
	delivering, stop := context.WithCancel(s.stream.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.deliver(delivering) }()
	select {
	case err := <-heard:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	case err := <-ended:
		why := c.leaving(s.stream.Context())
		if why == nil && errors.Is(err, errs.Draining) {
			why = err
		}
		if why == nil {
			return err
		}
		return s.goAway(why, heard)
	}
}

// goAway asks the client to go, and lets it settle what it has in hand.
func (s *subscription) goAway(why error, heard <-chan error) error {
	if err := s.send(&consumerv1.SubscribeResponse{GoingAway: true}); err != nil {
		return err
	}
	t := time.NewTimer(settleTime)
	defer t.Stop()
	select {
	case <-heard: //nolint:errcheck // it ends in any case
	case <-s.member.run.stopped:
	case <-t.C:
	}
	return ended(why)
}

// ended is why as a status: a stream that was told to go has ended well if the
// proxy stops.
func ended(why error) error {
	if errors.Is(why, pattern.ErrGoing) {
		return nil
	}
	return why
}

// listen takes credit and settlements until the client has said all. It returns
// io.EOF then, after the last settlement has been answered.
func (s *subscription) listen(ctx context.Context, r *consumerv1.SubscribeRequest) error {
	var settling sync.WaitGroup
	defer settling.Wait()
	places := make(chan struct{}, maxSettling)
	for {
		if err := s.grant(int(r.GetCredit())); err != nil {
			return err
		}
		if all := r.GetSettlements(); len(all) > 0 {
			places <- struct{}{}
			settling.Go(func() {
				defer func() { <-places }()
				s.settle(ctx, all)
			})
		}
		var err error
		if r, err = s.stream.Recv(); err != nil {
			settling.Wait()
			return err
		}
		if r.GetOpen() != nil {
			return errs.Invalid(errs.Field{Path: "open", Text: "belongs to the first message of a stream alone"})
		}
	}
}

func (s *subscription) grant(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n < 0 || s.credit+n > maxCredit {
		return errs.Invalid(errs.Field{Path: "credit", Text: "must not be negative, and what is left of it not over 100,000"})
	}
	s.credit += n
	if n > 0 {
		select {
		case s.more <- struct{}{}:
		default:
		}
	}
	return nil
}

// await waits for credit and takes a part of it.
func (s *subscription) await(ctx context.Context) (int, error) {
	for {
		s.mu.Lock()
		n := min(s.credit, maxTakes)
		s.credit -= n
		s.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-s.more:
		case <-s.member.run.going:
			return 0, errs.Draining
		case <-ctx.Done():
			return 0, errs.ReasonOf(ctx.Err())
		}
	}
}

func (s *subscription) deliver(ctx context.Context) error {
	for {
		credit, err := s.await(ctx)
		if err != nil {
			return err
		}
		deliveries, err := s.member.receive(ctx, credit, maxDelivered, s.session)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.credit += credit - len(deliveries)
		s.mu.Unlock()
		if err := s.send(&consumerv1.SubscribeResponse{Deliveries: deliveries}); err != nil {
			return err
		}
	}
}

// settle carries out settlements and answers them.
func (s *subscription) settle(ctx context.Context, all []*consumerv1.Settlement) {
	judged := make([]settlement, len(all))
	outcomes := make([]error, len(all))
	for i, one := range all {
		judged[i], outcomes[i] = verdictOf(one)
		if outcomes[i] != nil {
			judged[i].valid = false
		}
	}
	wrong := outcomes
	outcomes = make([]error, len(all))
	s.member.run.settle(ctx, judged, outcomes)
	answer := new(consumerv1.SubscribeResponse)
	for i, one := range all {
		err := outcomes[i]
		if wrong[i] != nil {
			err = wrong[i]
		}
		if err == nil && one.GetId() == 0 {
			continue
		}
		settled := &consumerv1.Settled{Id: one.GetId(), Receipt: one.GetReceipt()}
		if err != nil {
			settled.Error = pattern.StatusOf(ctx, err)
		}
		answer.Settled = append(answer.Settled, settled)
	}
	if len(answer.Settled) > 0 {
		_ = s.send(answer) // a stream that has failed ends by itself
	}
}

func verdictOf(s *consumerv1.Settlement) (v settlement, err error) {
	switch how := s.GetVerdict().(type) {
	case *consumerv1.Settlement_Acknowledge_:
		v.verdict = acknowledge
	case *consumerv1.Settlement_Reject:
		v, err = rejection(how.Reject, "reject")
	case *consumerv1.Settlement_Extend:
		v, err = extension(how.Extend, "extend")
	case *consumerv1.Settlement_Return_:
		v.verdict = giveBack
	default:
		return v, errs.Invalid(errs.Field{Path: "verdict", Text: "is missing"})
	}
	v.receipt, v.valid = parseReceipt(s.GetReceipt())
	return v, err
}

func (s *subscription) send(r *consumerv1.SubscribeResponse) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.stream.Send(r)
}
