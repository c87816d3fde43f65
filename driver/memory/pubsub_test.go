package memory_test

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/memory"
)

func TestPubSubConformance(t *testing.T) {
	drivertest.RunPubSub(t, drivertest.PubSubHarness{
		Name:   "memory",
		Driver: memory.Driver(),
		Config: driver.Config{Name: "test", URL: "memory://pubsub-conformance"},
	})
}
