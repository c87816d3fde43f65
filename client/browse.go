package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/errs"
)

// A Kept message is one as it stands in a topic.
type Kept struct {
	Envelope   *envelopev1.PrismEnvelope // nil: what stands there cannot be read
	Unreadable string                    // why, or why its payload could not be decrypted, which is as it stands there then
	Partition  int
	Position   int64
	Appended   time.Time         // when the topic got it
	Headers    map[string]string // of a dead letter: prism-dead-reason and others
	SealedWith string            // the id of the key that the payload is encrypted with; empty: none
}

// Browsing says what of a topic is browsed.
type Browsing struct {
	From       Start
	Partitions []int // none: all
	Limit      int64 // 0: no bound
	Follow     bool  // go on with what is published, until the loop or the context ends

	// Begun, if it is not nil, is called once, before the first message, with
	// the position at which each partition begins: it stands.
	Begun func(at map[int]int64)
}

// Browse returns the messages of a topic as they stand there, each partition in
// its order. It takes them from nobody. One that breaks goes on where it was; an
// error that stays ends it and is its last element.
func (t *Topics) Browse(ctx context.Context, topic string, what Browsing) iter.Seq2[Kept, error] {
	return func(yield func(Kept, error) bool) {
		if t.invalid != nil {
			yield(Kept{}, t.invalid)
			return
		}
		b := &browse{topics: t, yield: yield, begun: what.Begun, next: map[int32]int64{}}
		b.request = consumerv1.BrowseRequest{Topic: topic, From: what.From.wire(), Limit: what.Limit, Follow: what.Follow}
		for _, p := range what.Partitions {
			b.request.Partitions = append(b.request.Partitions, int32(p))
		}
		b.run(ctx)
	}
}

type browse struct {
	topics  *Topics
	yield   func(Kept, error) bool
	begun   func(map[int]int64) // nil: it has been called
	request consumerv1.BrowseRequest
	next    map[int32]int64 // where to go on
	got     bool            // something since the last failure
}

func (b *browse) run(ctx context.Context) {
	c := b.topics.client
	for try := 1; ; try++ {
		err := b.pass(ctx)
		if err == nil || err == errStopped { //nolint:errorlint // it is not wrapped
			return
		}
		if b.got { // it got further: the tries count for what comes next
			try, b.got = 1, false
		}
		if !c.retry.again(ctx, try, true, err) {
			b.yield(Kept{}, errs.From(err))
			return
		}
	}
}

// pass browses from where the one before ended.
func (b *browse) pass(ctx context.Context) error {
	c := b.topics.client
	if c.closed.Load() {
		return errClosed
	}
	key, err := b.topics.key(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var p peer.Peer
	md := key.headers(&invocation{traceparent: c.traceparent(ctx)})
	stream, err := consumerv1.NewConsumerClient(c.conn).Browse(metadata.NewOutgoingContext(ctx, md), &b.request, grpc.Peer(&p))
	for err == nil {
		var page *consumerv1.BrowseResponse
		if page, err = stream.Recv(); err == nil {
			err = b.page(ctx, page)
		}
	}
	switch {
	case err == errStopped: //nolint:errorlint // it is not wrapped
		return err
	case errors.Is(err, io.EOF):
		return nil
	}
	return c.unanswered(ctx, err, false, p.Addr != nil)
}

func (b *browse) page(ctx context.Context, page *consumerv1.BrowseResponse) error {
	if begins := page.GetBegins(); len(begins) > 0 {
		b.next = begins
		b.request.From = &consumerv1.Start{From: &consumerv1.Start_Positions_{Positions: &consumerv1.Start_Positions{ByPartition: b.next}}}
		b.stands()
	}
	for _, m := range page.GetMessages() {
		place := m.GetPlace()
		b.next[place.GetPartition()] = place.GetPosition() + 1
		one := Kept{
			Envelope: m.GetEnvelope(), Unreadable: m.GetUnreadable(), Headers: m.GetHeaders(),
			Partition: int(place.GetPartition()), Position: place.GetPosition(), Appended: place.GetAppendedAt().AsTime(),
		}
		id, err := b.topics.client.opts.payload.open(ctx, one.Envelope)
		if one.SealedWith = id; err != nil {
			one.Unreadable = err.Error()
		}
		if !b.yield(one, nil) {
			return errStopped
		}
		if b.request.GetLimit() > 0 {
			if b.request.Limit--; b.request.GetLimit() == 0 {
				return errStopped
			}
		}
	}
	b.got = true
	b.topics.client.retry.succeeded()
	if page.GetGoingAway() {
		return errs.New(errs.Draining, "the proxy is stopping")
	}
	return nil
}

// stands tells where the browse begins, the first time.
func (b *browse) stands() {
	if b.begun == nil {
		return
	}
	at := make(map[int]int64, len(b.next))
	for partition, position := range b.next {
		at[int(partition)] = position
	}
	b.begun(at)
	b.begun = nil
}
