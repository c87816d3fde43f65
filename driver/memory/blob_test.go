package memory_test

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/memory"
)

func TestBlobConformance(t *testing.T) {
	drivertest.RunBlob(t, drivertest.BlobHarness{
		Name:       "memory",
		Driver:     memory.Driver(),
		Config:     driver.Config{Name: "test", URL: "memory://blob-conformance"},
		Exceptions: []drivertest.Exception{{Check: "memory/large-object", Reason: "memory is where the objects are"}},
	})
}
