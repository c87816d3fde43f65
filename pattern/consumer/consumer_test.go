package consumer

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/pattern"
	"github.com/prismgw/prism/pattern/topic"
)

// newConsumer is the pattern on a topic in memory with so many messages.
func newConsumer(t *testing.T, messages int) *consumer {
	t.Helper()
	conn, err := memory.Driver().Open(driver.Config{Name: "memory", URL: "memory:"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := conn.Space(driver.Space{Namespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := open(pattern.Config{
		Namespace: "shop", Name: "consumer", Settings: []byte(`{"topics": [{"name": "orders", "partitions": 1}]}`),
		Slots: map[string]pattern.Filled{slot: {Backend: b}},
	}, new(pool))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close(t.Context())
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	orders, err := c.topics.Open(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	for range messages {
		publish(t, orders)
	}
	return c
}

func publish(t *testing.T, orders *topic.Open) {
	t.Helper()
	wire, err := envelope.Marshal(envelope.New("shop", "orders", []byte("x")))
	if err != nil {
		t.Fatal(err)
	}
	results := make([]driver.AppendResult, 1)
	if orders.Append(t.Context(), []driver.Record{{Value: wire}}, results); results[0].Err != nil {
		t.Fatal(results[0].Err)
	}
}

// Who works long on a message, and asks nothing of the proxy meanwhile, can still
// settle it; a group in which nobody has anything in hand is left.
func TestIdleGroupKeepsWhatIsInHand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newConsumer(t, 1)
		got, err := c.Receive(t.Context(), &consumerv1.ReceiveRequest{Topic: "orders", Group: "billing", Wait: durationpb.New(5 * time.Second)})
		if err != nil || len(got.GetDeliveries()) != 1 {
			t.Fatalf("%v, %v", got, err)
		}
		receipts := []string{got.GetDeliveries()[0].GetReceipt()}
		if _, err := c.Extend(t.Context(), &consumerv1.ExtendRequest{Topic: "orders", Group: "billing", Receipts: receipts, By: durationpb.New(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		settled, err := c.Acknowledge(t.Context(), &consumerv1.AcknowledgeRequest{Topic: "orders", Group: "billing", Receipts: receipts})
		if err != nil || settled.GetResults()[0].GetError() != nil {
			t.Errorf("%v, %v", settled, err)
		}
		time.Sleep(2*idle + time.Second)
		if n := c.pool.groups.Load(); n != 0 {
			t.Errorf("%d groups are open although nobody uses them", n)
		}
	})
}
