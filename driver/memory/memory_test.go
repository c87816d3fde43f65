package memory_test

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/memory"
)

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{
		Name:   "memory",
		Driver: memory.Driver(),
		Config: driver.Config{Name: "test", URL: "memory://conformance"},
	})
}
