package namespace

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/structpb"

	namespacev1 "github.com/prismgw/prism/api/prism/namespace/v1"
)

// topicSettings returns the settings of the two patterns that topics and
// consumers are short for. What is delivered unsigned is the consumer's affair.
func topicSettings(n *namespacev1.Namespace) (producer, consumer *structpb.Struct) {
	topics := make([]*structpb.Value, len(n.GetTopics()))
	consumed := make([]*structpb.Value, len(topics))
	for i, t := range n.GetTopics() {
		topics[i] = entry("name", t.GetName(), "layout", t.GetLayout(), "physical", t.GetPhysical())
		number(topics[i], "partitions", int64(t.GetPartitions()))
		if r := t.GetRetention(); r != nil {
			kept := entry("age", r.GetAge())
			number(kept, "bytes", r.GetBytes())
			if r.GetUntilConsumed() {
				kept.GetStructValue().Fields["until_consumed"] = structpb.NewBoolValue(true)
			}
			topics[i].GetStructValue().Fields["retention"] = kept
		}
		consumed[i] = topics[i]
		if u := t.GetUnsigned(); u != "" {
			fields := maps.Clone(topics[i].GetStructValue().GetFields())
			fields["unsigned"] = structpb.NewStringValue(u)
			consumed[i] = structpb.NewStructValue(&structpb.Struct{Fields: fields})
		}
	}
	groups := make([]*structpb.Value, len(n.GetConsumers()))
	for i, c := range n.GetConsumers() {
		groups[i] = entry("name", c.GetName(), "topic", c.GetTopic(), "start", c.GetStart(), "order", c.GetOrder(),
			"ack_wait", c.GetAckWait(), "backoff", c.GetBackoff(), "max_backoff", c.GetMaxBackoff())
		number(groups[i], "max_deliveries", int64(c.GetMaxDeliveries()))
	}
	list := func(all []*structpb.Value) *structpb.Value {
		return structpb.NewListValue(&structpb.ListValue{Values: all})
	}
	producer = &structpb.Struct{Fields: map[string]*structpb.Value{"topics": list(topics)}}
	consumer = &structpb.Struct{Fields: map[string]*structpb.Value{"topics": list(consumed)}}
	if len(groups) > 0 {
		consumer.Fields["consumers"] = list(groups)
	}
	return producer, consumer
}

// queueSettings returns the settings of the pattern that queues are short for.
func queueSettings(n *namespacev1.Namespace) *structpb.Struct {
	queues := make([]*structpb.Value, len(n.GetQueues()))
	for i, q := range n.GetQueues() {
		queues[i] = entry("name", q.GetName(), "ack_wait", q.GetAckWait(), "backoff", q.GetBackoff(), "max_backoff", q.GetMaxBackoff())
		number(queues[i], "max_deliveries", int64(q.GetMaxDeliveries()))
	}
	list := structpb.NewListValue(&structpb.ListValue{Values: queues})
	return &structpb.Struct{Fields: map[string]*structpb.Value{"queues": list}}
}

// entry returns a struct of those pairs of name and text that have a text.
func entry(pairs ...string) *structpb.Value {
	s := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(pairs)/2)}
	for pair := range slices.Chunk(pairs, 2) {
		if name, text := pair[0], pair[1]; text != "" {
			s.Fields[name] = structpb.NewStringValue(text)
		}
	}
	return structpb.NewStructValue(s)
}

// number adds a number that is not zero.
func number(to *structpb.Value, name string, n int64) {
	if n != 0 {
		to.GetStructValue().Fields[name] = structpb.NewNumberValue(float64(n))
	}
}
