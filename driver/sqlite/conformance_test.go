package sqlite_test

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/sqlite"
)

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{
		Name:       "sqlite",
		Driver:     sqlite.Driver(),
		Config:     driver.Config{Name: "main", URL: "sqlite:" + fileName, Dir: t.TempDir()},
		Persistent: true,
		Exceptions: []drivertest.Exception{{
			Check:  "faults/process-killed",
			Reason: "one process at a time opens the file, and the check wants two; TestKill of the driver does the same with one",
		}},
	})
}
