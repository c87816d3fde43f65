package memory_test

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/memory"
)

func TestLogConformance(t *testing.T) {
	drivertest.RunLog(t, drivertest.LogHarness{
		Name:   "memory",
		Driver: memory.Driver(),
		Config: driver.Config{Name: "test", URL: "memory://log-conformance"},
	})
}
