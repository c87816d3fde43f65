package brokers

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prismgw/prism/internal/testutil/servers"
)

// TestKafkaShareGroup: Kafka 4's share groups lease single records: they count
// deliveries, take back what is released at once, and drop without a word what
// is rejected or was delivered too often.
func TestKafkaShareGroup(t *testing.T) {
	t.Parallel()
	k := servers.KafkaWith(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 1)
	k.Fake.SetGroupConfigs(topic, map[string]string{"share.auto.offset.reset": "earliest"})
	kafkaFill(t, admin, topic, 1, 4)
	cl := kafkaClient(t, k, kgo.ShareGroup(topic), kgo.ConsumeTopics(topic))
	deliveries := map[string][]int32{}
	next := func() {
		for _, r := range cl.PollFetches(t.Context()).Records() {
			value := string(r.Value)
			deliveries[value] = append(deliveries[value], r.DeliveryCount())
			switch value {
			case "0/1":
				r.Ack(kgo.AckReject)
			case "0/2":
				r.Ack(kgo.AckRelease)
			default:
				r.Ack(kgo.AckAccept)
			}
		}
	}
	kafkaWait(t, "five deliveries of the released record", func() bool { next(); return len(deliveries["0/2"]) == 5 })
	kafkaFill(t, admin, topic, 1, 5) // the last of them is behind all that could come again
	kafkaWait(t, "the same of a later one", func() bool { next(); return len(deliveries["0/2"]) == 10 && len(deliveries["0/4"]) == 1 })
	if got := deliveries["0/2"]; !slices.Equal(got, []int32{1, 2, 3, 4, 5, 1, 2, 3, 4, 5}) {
		t.Errorf("the released records were delivered as %v; want 1 to 5, twice", got)
	}
	if got := deliveries["0/1"]; !slices.Equal(got, []int32{1, 1}) {
		t.Errorf("the two rejected records were delivered as %v; want once each", got)
	}
	topics, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, other := range topics.Topics {
		if other.Topic != nil && !strings.HasPrefix(*other.Topic, "__") {
			names[*other.Topic] = true
		}
	}
	if len(names) != 1 {
		t.Errorf("topics %v; want no dead letters", slices.Sorted(maps.Keys(names)))
	}
}
