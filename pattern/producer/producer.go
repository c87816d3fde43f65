// Package producer is the Producer pattern: messages into the topics of a
// namespace, on any backend that has the primitive driver.Log.
package producer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	producerv1 "github.com/prismgw/prism/api/prism/producer/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/publish"
	"github.com/prismgw/prism/pattern/topic"
	"github.com/prismgw/prism/pattern/trust"
)

// Limits of the pattern, as documented.
const (
	maxBatchItems = 1000
	maxBatchBytes = 4 << 20
)

// slot is the one slot of the pattern.
const slot = "messages-log"

// Kind returns the pattern's row for the table of patterns.
func Kind() pattern.Kind {
	desc := producerv1.Producer_ServiceDesc
	return pattern.Kind{
		Name:    "producer",
		Slots:   []pattern.Slot{{Name: slot, Primitive: "log"}},
		Service: &desc,
		Streams: map[string]pattern.StreamFunc{"PublishStream": servePublishStream},
		Routes:  routes(),
		Check: func(raw json.RawMessage) error {
			s, err := topic.Decode(raw)
			if err != nil {
				return err
			}
			return consumersOwn(s)
		},
		CheckSigning: topic.CheckSigning,
		Open:         func(c pattern.Config) (pattern.Instance, error) { return open(c) },
	}
}

// consumersOwn refuses settings that a producer would ignore.
func consumersOwn(s *topic.Settings) error {
	var bad []errs.Field
	if len(s.Consumers) > 0 {
		bad = append(bad, errs.Field{Path: "settings.consumers", Text: "belong to the pattern of kind consumer"})
	}
	for i := range s.Topics {
		if s.Topics[i].Unsigned != "" {
			bad = append(bad, errs.Field{Path: fmt.Sprintf("settings.topics[%d].unsigned", i), Text: "belongs to the pattern of kind consumer"})
		}
	}
	if bad != nil {
		return errs.Invalid(bad...)
	}
	return nil
}

// producer is the pattern of one namespace.
type producer struct {
	producerv1.UnimplementedProducerServer

	topics *topic.Topics
}

var _ producerv1.ProducerServer = (*producer)(nil)

func open(c pattern.Config) (*producer, error) {
	set, err := topic.Decode(c.Settings)
	if err != nil {
		return nil, err
	}
	filled := c.Slots[slot]
	if filled.Log == nil {
		return nil, errs.New(errs.InvalidConfiguration, "slot %s needs a backend with the primitive log", slot)
	}
	topics, err := topic.New(trust.Gate{Keys: c.Keys, Namespace: c.Namespace}, set, filled.Log)
	if err != nil {
		return nil, err
	}
	return &producer{topics: topics}, nil
}

// Publish implements producerv1.ProducerServer.
func (p *producer) Publish(ctx context.Context, r *producerv1.PublishRequest) (*producerv1.PublishResponse, error) {
	results, err := p.publish(ctx, r.GetTopic(), []*envelopev1.PrismEnvelope{r.GetEnvelope()})
	if err != nil {
		return nil, err
	}
	return results[0].answer, results[0].err
}

// PublishBatch implements producerv1.ProducerServer.
func (p *producer) PublishBatch(ctx context.Context, r *producerv1.PublishBatchRequest) (*producerv1.PublishBatchResponse, error) {
	n := len(r.GetEnvelopes())
	if n == 0 || n > maxBatchItems {
		return nil, errs.Invalid(errs.Field{Path: "envelopes", Text: fmt.Sprintf("must be 1 to %d", maxBatchItems)})
	}
	if size := r.SizeVT(); size > maxBatchBytes {
		return nil, errs.TooLarge("batch", size, maxBatchBytes)
	}
	if err := pattern.CallOf(ctx).Charge(n); err != nil {
		return nil, err
	}
	results, err := p.publish(ctx, r.GetTopic(), r.GetEnvelopes())
	if err != nil {
		return nil, err
	}
	answer := &producerv1.PublishBatchResponse{Results: make([]*producerv1.PublishResult, n)}
	for i, res := range results {
		if res.err != nil {
			answer.Results[i] = &producerv1.PublishResult{Outcome: &producerv1.PublishResult_Error{Error: pattern.StatusOf(ctx, res.err)}}
			continue
		}
		answer.Results[i] = &producerv1.PublishResult{Outcome: &producerv1.PublishResult_Published{Published: res.answer}}
	}
	return answer, nil
}

// A result is the outcome of one message.
type result struct {
	answer *producerv1.PublishResponse
	err    error
}

// publish adds the messages to the topic, each by itself.
func (p *producer) publish(ctx context.Context, name string, all []*envelopev1.PrismEnvelope) ([]result, error) {
	if err := topic.CheckName(name); err != nil {
		return nil, err
	}
	if strings.HasSuffix(name, topic.DeadSuffix) {
		return nil, errs.Invalid(errs.Field{Path: "topic", Text: "is where the dead letters of a topic go; publish to the topic itself"})
	}
	t, err := p.topics.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	results := make([]result, len(all))
	records := make([]driver.Record, 0, len(all))
	of := make([]int, 0, len(all)) // whose record it is
	subject := pattern.CallOf(ctx).Subject
	for i, e := range all {
		r, err := p.record(t, e, subject)
		if err != nil {
			results[i].err = err
			continue
		}
		records, of = append(records, r), append(of, i)
	}
	if len(records) == 0 {
		return results, nil
	}
	outcomes := make([]driver.AppendResult, len(records))
	t.Append(ctx, records, outcomes)
	for k, o := range outcomes {
		if o.Err != nil {
			if errors.Is(o.Err, errs.TopicNotFound) {
				p.topics.Forget(name) // it was deleted: the next message makes it again
			}
			results[of[k]].err = o.Err
			continue
		}
		results[of[k]].answer = &producerv1.PublishResponse{
			MessageId: all[of[k]].Metadata.MessageId,
			Partition: int32(records[k].Partition),
			Position:  int64(o.Position), Duplicate: o.Duplicate,
		}
	}
	return results, nil
}

// record makes the record of one message.
func (p *producer) record(t *topic.Open, e *envelopev1.PrismEnvelope, subject string) (driver.Record, error) {
	if e == nil {
		e = new(envelopev1.PrismEnvelope) // what it lacks is told
	}
	if err := publish.Complete(e, p.topics.Gate.Namespace, t.Name, subject); err != nil {
		return driver.Record{}, err
	}
	wire, err := p.topics.Gate.Marshal(e)
	if err != nil {
		return driver.Record{}, err
	}
	h, err := envelope.Scan(wire)
	if err != nil {
		return driver.Record{}, err
	}
	return t.Record(wire, &h)
}
