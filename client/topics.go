package client

import (
	"context"
	"time"

	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	producerv1 "github.com/prismgw/prism/api/prism/producer/v1"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// Topics reaches the topics of one namespace, in which messages are kept. It is
// safe for concurrent use.
type Topics struct{ streamed }

// Topics returns the topics at path; see KeyValue.
func (c *Client) Topics(path string) *Topics {
	return &Topics{streamed{place: c.place(path), path: producerv1.Producer_PublishStream_FullMethodName}}
}

var (
	publishBatchMethod = &method{path: producerv1.Producer_PublishBatch_FullMethodName, write: true}
	seekMethod         = &method{path: consumerv1.Consumer_Seek_FullMethodName, write: true}
)

// Published says where a message stands.
type Published struct {
	ID        string
	Partition int
	Position  int64 // grows along a partition; 0 of a duplicate whose place the backend does not tell
	Duplicate bool  // a message of this id stood there already
}

// Publish adds a message to a topic. nil says that the backend has accepted it as
// durably as the namespace asks for. The client gives the message its id, and
// repeats a Publish of which it is unknown whether it happened: topics that
// suppress duplicates have it once, others perhaps twice.
//
// Messages with the same key, which is envelope.WithPartitionKey, keep the order
// in which one was published after the other.
func (t *Topics) Publish(ctx context.Context, topic string, payload []byte, opts ...envelope.Option) (Published, error) {
	if t.invalid != nil {
		return Published{}, t.invalid
	}
	message := t.Message(topic, payload, opts...)
	if err := t.client.opts.payload.seal(ctx, message); err != nil {
		return Published{}, err
	}
	answer := new(producerv1.PublishResponse)
	err := t.run(ctx, &invocation{
		method:   publishTopicMethod,
		request:  &producerv1.PublishRequest{Topic: topic, Envelope: message},
		response: answer, again: true,
	})
	return published(answer), err
}

// Message returns a message for PublishBatch.
func (t *Topics) Message(topic string, payload []byte, opts ...envelope.Option) *envelopev1.PrismEnvelope {
	return envelope.New(t.namespace, topic, payload, opts...)
}

// A PublishResult is the outcome of one message of a batch.
type PublishResult struct {
	Published
	Err error
}

// PublishBatch adds up to 1,000 messages to a topic, each by itself, and returns
// their outcomes in the same order. It fails as a whole only if no message was
// looked at. It is repeated as Publish is.
func (t *Topics) PublishBatch(ctx context.Context, topic string, messages []*envelopev1.PrismEnvelope) ([]PublishResult, error) {
	if t.invalid != nil {
		return nil, t.invalid
	}
	messages, err := t.client.opts.payload.sealed(ctx, t.namespace, topic, messages)
	if err != nil {
		return nil, err
	}
	answer := new(producerv1.PublishBatchResponse)
	err = t.run(ctx, &invocation{
		method:   publishBatchMethod,
		request:  &producerv1.PublishBatchRequest{Topic: topic, Envelopes: messages},
		response: answer, again: true,
	})
	if err != nil {
		return nil, err
	}
	if len(answer.GetResults()) != len(messages) {
		return nil, malformed(nil)
	}
	results := make([]PublishResult, len(messages))
	for i, r := range answer.GetResults() {
		results[i].Published = published(r.GetPublished())
		if st := r.GetError(); st != nil {
			results[i].Err = errs.FromStatus(grpcstatus.ErrorProto(st))
		}
	}
	return results, nil
}

func published(r *producerv1.PublishResponse) Published {
	return Published{ID: r.GetMessageId(), Partition: int(r.GetPartition()), Position: r.GetPosition(), Duplicate: r.GetDuplicate()}
}

// Seek moves a group to another place in a topic. What its consumers have in hand
// is nobody's any more and may come again.
func (t *Topics) Seek(ctx context.Context, topic, group string, to Start) error {
	if t.invalid != nil {
		return t.invalid
	}
	return t.run(ctx, &invocation{
		method:   seekMethod,
		request:  &consumerv1.SeekRequest{Topic: topic, Group: group, To: to.wire()},
		response: new(consumerv1.SeekResponse), again: true,
	})
}

// A Start is a place in a topic. The zero Start is the oldest message.
type Start struct{ start *consumerv1.Start }

// Latest is where the messages begin that are published from now on.
func Latest() Start {
	return Start{&consumerv1.Start{From: &consumerv1.Start_Latest_{Latest: new(consumerv1.Start_Latest)}}}
}

// Since is the first message that is not older than at.
func Since(at time.Time) Start {
	return Start{&consumerv1.Start{From: &consumerv1.Start_Time{Time: timestamppb.New(at)}}}
}

// At is a position in each of these partitions, and the oldest message in all
// others.
func At(positions map[int]int64) Start {
	places := make(map[int32]int64, len(positions))
	for partition, position := range positions {
		places[int32(partition)] = position
	}
	return Start{&consumerv1.Start{From: &consumerv1.Start_Positions_{Positions: &consumerv1.Start_Positions{ByPartition: places}}}}
}

// AtGroup is where a group stands in a topic: at its oldest message that is not
// settled, or at the oldest one if nobody ever joined it. What the group has
// settled behind that is not left out.
func AtGroup(group string) Start {
	return Start{&consumerv1.Start{From: &consumerv1.Start_Group{Group: group}}}
}

func (s Start) wire() *consumerv1.Start {
	if s.start == nil {
		return &consumerv1.Start{From: &consumerv1.Start_Earliest_{Earliest: new(consumerv1.Start_Earliest)}}
	}
	return s.start
}
