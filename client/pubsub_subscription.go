package client

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	pubsubv1 "github.com/prismgw/prism/api/prism/pubsub/v1"
	"github.com/prismgw/prism/errs"
)

// A Subscription listens until its context ends or it is closed. When its
// connection breaks, or its proxy asks it to go, it subscribes again, as often
// as it takes, and says where by a Message with Missed.
type Subscription struct {
	pubsub  *PubSub
	request pubsubv1.SubscribeRequest
	ctx     context.Context //nolint:containedctx // it is the subscription's life
	end     context.CancelFunc
	closed  atomic.Bool

	// Of the goroutine that is in Messages.
	stream *pubsubStream
	fails  int // streams in a row that did not stand for long
}

// pubsubStream is one stream of a subscription.
type pubsubStream struct {
	grpc.ServerStreamingClient[pubsubv1.SubscribeResponse]
	leave context.CancelFunc
	peer  peer.Peer // is known once the request may have been sent
	stood time.Time
}

// Subscribe listens to what is published under a filter, for as long as ctx
// lasts. As in nats.go, the subscription stands when Subscribe returns, so that
// what the program publishes from then on is heard; as with Scan, messages are
// taken by a loop, whose own pace takes the place of the flow control that
// cloud.google.com/go/pubsub has settings for, and which ends by a return.
//
//	sub, err := events.Subscribe(ctx, "orders.*")
//	...
//	defer sub.Close()
//	for m, err := range sub.Messages() {
//		if err != nil {
//			return err
//		}
//		...
//	}
func (p *PubSub) Subscribe(ctx context.Context, filter string, opts ...SubscribeOption) (*Subscription, error) {
	if p.invalid != nil {
		return nil, p.invalid
	}
	s := &Subscription{pubsub: p}
	s.request.Filter = filter
	for _, opt := range opts {
		opt.subscribe(&s.request)
	}
	s.ctx, s.end = context.WithCancel(ctx)
	for try := 1; ; try++ {
		err := s.open()
		if err == nil {
			return s, nil
		}
		if !p.client.retry.again(s.ctx, try, true, err) {
			s.end()
			return nil, errs.From(err)
		}
	}
}

// Close ends the subscription; what was not taken is gone.
func (s *Subscription) Close() error {
	s.closed.Store(true)
	s.end()
	return nil
}

// Messages returns what is heard, as long as the subscription lasts. The loop
// ends by itself after Close, and otherwise with an error, which is its last
// element: that of the context, or what keeps the client from subscribing
// again. There may be one loop at a time; a later one goes on where an earlier
// one stopped, but for the messages that came with its last.
func (s *Subscription) Messages() iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		for {
			r, err := s.next()
			switch {
			case s.closed.Load():
				return
			case err != nil:
				s.end()
				yield(Message{}, errs.From(err))
				return
			case !s.hand(r, yield):
				return
			}
		}
	}
}

// hand yields what a response holds and reports whether to go on.
func (s *Subscription) hand(r *pubsubv1.SubscribeResponse, yield func(Message, error) bool) bool {
	if m := r.GetMissed(); m != nil {
		n := int64(MissedUnknown)
		if m.Count != nil { //nolint:protogetter // whether it is there matters
			n = int64(m.GetCount())
		}
		if !yield(Message{Missed: n}, nil) {
			return false
		}
	}
	for _, e := range r.GetMessages() {
		m := Message{Subject: e.GetMetadata().GetTopic(), Envelope: e}
		if m.SealedWith, m.Unreadable = s.pubsub.client.opts.payload.open(s.ctx, e); m.Unreadable == nil {
			m.Payload = e.GetPayload()
		}
		if !yield(m, nil) {
			return false
		}
	}
	return true
}

// unheard is what comes in place of what nobody has heard.
var unheard = &pubsubv1.SubscribeResponse{Missed: new(pubsubv1.Missed)}

// next returns the next response with something in it.
func (s *Subscription) next() (*pubsubv1.SubscribeResponse, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	r, err := s.stream.Recv()
	if err == nil && r.GetGoingAway() == nil {
		return r, nil
	}
	if err != nil {
		if err = s.broken(s.stream, err); !worthwhile(err, true) {
			return nil, err
		}
	}
	if time.Since(s.stream.stood) > s.pubsub.client.opts.retry.MaxDelay {
		s.fails = 0
	}
	return unheard, s.again(err)
}

// again subscribes once more, trying until that is done or cannot help.
func (s *Subscription) again(err error) error {
	s.stream.leave()
	retry := &s.pubsub.client.retry
	for {
		s.fails++
		var advice time.Duration
		if err != nil {
			advice = errs.From(err).RetryAfter
		}
		if !sleep(s.ctx, max(retry.delay(s.fails, advice), time.Millisecond)) {
			return s.ctx.Err()
		}
		if err = s.open(); err == nil || !worthwhile(err, true) {
			return err
		}
	}
}

// open begins a stream and waits until the subscription stands.
func (s *Subscription) open() error {
	c := s.pubsub.client
	if c.closed.Load() {
		return errClosed
	}
	key, err := s.pubsub.key(s.ctx)
	if err != nil {
		return err
	}
	ctx, leave := context.WithCancel(s.ctx)
	st := &pubsubStream{leave: leave}
	late := time.AfterFunc(cmp.Or(c.opts.timeout, beginTimeout), leave)
	md := key.headers(&invocation{traceparent: c.traceparent(ctx)})
	st.ServerStreamingClient, err = pubsubv1.NewPubSubClient(c.conn).Subscribe(metadata.NewOutgoingContext(ctx, md), &s.request, grpc.Peer(&st.peer))
	var first *pubsubv1.SubscribeResponse
	if err == nil {
		first, err = st.Recv()
	}
	switch {
	case !late.Stop() && s.ctx.Err() == nil:
		err = errs.New(errs.BackendUnavailable, "no subscription stood in time")
	case err != nil:
		err = s.broken(st, err)
	case first.GetSubscribed() == nil:
		err = errs.New(errs.Draining, "the proxy is stopping")
	}
	if err != nil {
		leave()
		return err
	}
	st.stood, s.stream = time.Now(), st
	return nil
}

// beginTimeout bounds the beginning of a stream unless WithTimeout does.
const beginTimeout = 20 * time.Second

// broken is why a stream has ended, which ended with err.
func (s *Subscription) broken(st *pubsubStream, err error) error {
	if errors.Is(err, io.EOF) {
		return errs.New(errs.BackendUnavailable, "the server ended the stream")
	}
	return s.pubsub.client.unanswered(s.ctx, err, false, st.peer.Addr != nil)
}
