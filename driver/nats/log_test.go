package nats_test

import (
	"encoding/json"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/nats"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func TestLogConformance(t *testing.T) {
	drivertest.RunLog(t, drivertest.LogHarness{
		Name:       "nats",
		Driver:     nats.Driver(),
		Config:     driver.Config{Name: "test", URL: servers.NATSWith(t, "max_payload: 8M").URL, Options: json.RawMessage(`{"max_value": 1048576}`)},
		Topic:      foreignTopic,
		Persistent: true,
		Exceptions: []drivertest.Exception{{Check: "topics/adopted", Reason: "headers of NATS have no such names and values; the driver's own tests adopt what other programs can write"}},
		Server: func(tb testing.TB) drivertest.Server {
			s := servers.NATSWith(tb)
			return drivertest.Server{
				Process: s, Addr: s.Addr,
				Config: func(addr string) driver.Config { return driver.Config{URL: "nats://" + addr} },
			}
		},
	})
}

func TestLogConformanceCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers and a majority for each record; the default tests run it")
	}
	drivertest.RunLog(t, drivertest.LogHarness{
		Name: "nats (3 replicas)", Driver: nats.Driver(), Config: replicated(startCluster(t)...), Persistent: true,
	})
}

// topicOf returns a topic of the namespace orders.
func topicOf(tb testing.TB, c driver.Conn, spec driver.TopicSpec) driver.Topic {
	tb.Helper()
	b, err := c.Space(orders)
	must(tb, err)
	topic, err := b.Log.Topic(tb.Context(), spec)
	must(tb, err)
	return topic
}
