package files_test

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/files"
)

func TestConformance(t *testing.T) {
	drivertest.RunBlob(t, drivertest.BlobHarness{
		Name:       "files",
		Driver:     files.Driver(),
		Config:     driver.Config{Name: "main", URL: "file:objects", Dir: t.TempDir()},
		Persistent: true,
	})
}

// TestConformanceUnsynced also reaches the largest object.
func TestConformanceUnsynced(t *testing.T) {
	drivertest.RunBlob(t, drivertest.BlobHarness{
		Driver:     files.Driver(),
		Config:     driver.Config{Name: "main", URL: "file:objects", Dir: t.TempDir(), Options: []byte(`{"sync": "never", "max_object": 8000000}`)},
		Persistent: true,
	})
}
