package memory_test

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/memory"
)

func TestQueueConformance(t *testing.T) {
	drivertest.RunQueue(t, drivertest.QueueHarness{
		Name:   "memory",
		Driver: memory.Driver(),
		Config: driver.Config{Name: "test", URL: "memory://queue-conformance"},
	})
}
