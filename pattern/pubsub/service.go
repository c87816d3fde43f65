package pubsub

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	pubsubv1 "github.com/prismgw/prism/api/prism/pubsub/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// Publish implements pubsubv1.PubSubServer.
func (s *service) Publish(ctx context.Context, r *pubsubv1.PublishRequest) (*pubsubv1.PublishResponse, error) {
	e := r.GetEnvelope()
	if e == nil {
		e = new(envelopev1.PrismEnvelope)
	}
	call := pattern.CallOf(ctx)
	if call.IdempotencyKey != "" {
		return nil, errs.Invalid(errs.Field{Path: "idempotency-key", Text: "cannot hold where nothing is kept; leave it out, and let subscribers know messages by their message_id"})
	}
	wire, err := s.intake(e, r.GetSubject(), call.Subject)
	if err != nil {
		return nil, err
	}
	if err := s.publish(ctx, r.GetSubject(), wire); err != nil {
		return nil, err
	}
	return &pubsubv1.PublishResponse{MessageId: e.GetMetadata().GetMessageId()}, nil
}

// Subscribe implements pubsubv1.PubSubServer.
func (s *service) Subscribe(r *pubsubv1.SubscribeRequest, stream grpc.ServerStreamingServer[pubsubv1.SubscribeResponse]) error {
	return s.listen(stream.Context(), r, overGRPC{stream}, 0)
}

// A listener is who a subscription tells.
type listener interface {
	stands() error // the first that it is told
	tell(b *batch) error
	beat() error  // nothing has come for a while
	going() error // the last
}

// listen tells a listener what comes until one of them ends it. If pause is not
// 0, nothing for that long is told as well.
func (s *service) listen(ctx context.Context, r *pubsubv1.SubscribeRequest, to listener, pause time.Duration) error {
	sub, err := s.subscribe(ctx, r)
	if err == nil {
		defer sub.Close() //nolint:errcheck // it ends, one way or the other
		if err = to.stands(); err == nil {
			err = s.pass(ctx, sub, to, pause)
		}
	}
	return s.end(ctx, sub != nil, err, to)
}

// end ends a subscription for which err is the reason, unless the proxy had one.
func (*service) end(ctx context.Context, begun bool, err error, to listener) error {
	why := pattern.Leaving(ctx)
	switch {
	case why == nil:
		return err
	case !begun:
		return draining(why)
	}
	if err := to.going(); err != nil {
		return err
	}
	if errors.Is(why, pattern.ErrGoing) {
		return nil
	}
	return why
}

// draining is why as a status: a subscription that never stood has not ended well.
func draining(why error) error {
	if errors.Is(why, pattern.ErrGoing) {
		return errs.New(errs.Draining, "this proxy is shutting down; subscribe again on a new connection, which leads to another proxy")
	}
	return why
}

func (s *service) pass(ctx context.Context, sub driver.Subscription, to listener, pause time.Duration) error {
	var events [atOnce]driver.Event
	for {
		n, err := next(ctx, sub, events[:], pause)
		switch {
		case err == nil:
		case pause > 0 && ctx.Err() == nil && errors.Is(err, errs.Deadline):
			if err := to.beat(); err != nil {
				return err
			}
			continue
		default:
			return err
		}
		all := s.batches(events[:n])
		clear(events[:n]) // what is being sent is held once
		for i := range all {
			if err := to.tell(&all[i]); err != nil {
				return err
			}
		}
	}
}

func next(ctx context.Context, sub driver.Subscription, events []driver.Event, pause time.Duration) (int, error) {
	if pause == 0 {
		return sub.Next(ctx, events)
	}
	ctx, cancel := context.WithTimeout(ctx, pause)
	defer cancel()
	return sub.Next(ctx, events)
}

// overGRPC is a listener behind a stream.
type overGRPC struct {
	stream grpc.ServerStreamingServer[pubsubv1.SubscribeResponse]
}

func (o overGRPC) stands() error {
	return o.stream.Send(&pubsubv1.SubscribeResponse{Subscribed: new(pubsubv1.Subscribed)})
}

func (o overGRPC) tell(b *batch) error { return o.stream.SendMsg(b) }
func (overGRPC) beat() error           { return nil } // the connection has its own

func (o overGRPC) going() error {
	return o.stream.Send(&pubsubv1.SubscribeResponse{GoingAway: new(pubsubv1.GoingAway)})
}
