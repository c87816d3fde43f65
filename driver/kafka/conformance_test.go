package kafka_test

import (
	"os"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/kafka"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// retention has kfake look for what may be deleted more often than each hour.
const retention = "log.cleaner.backoff.ms=200"

// TestConformance runs on the brokers that PRISM_TEST_KAFKA_BROKERS names, else
// on franz-go's, as a process of its own: its goroutines are none that the
// driver leaves behind.
func TestConformance(t *testing.T) {
	var brokers []string
	if os.Getenv("PRISM_TEST_KAFKA_BROKERS") != "" {
		brokers = servers.Kafka(t).Brokers
	} else {
		brokers = []string{servers.KafkaProcess(t, retention).Addr}
	}
	drivertest.RunLog(t, drivertest.LogHarness{
		Name:       "kafka",
		Driver:     kafka.Driver(),
		Config:     driver.Config{Name: "test", URL: url(brokers...)},
		Topic:      foreignTopic,
		Persistent: true,
		Server:     brokerProcess,
		Exceptions: []drivertest.Exception{
			{Check: "topics/dots-and-underscores", Reason: "Kafka refuses a topic whose name differs from another one's in . and _ only"},
		},
	})
}
