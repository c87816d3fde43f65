package sqlite_test

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/sqlite"
)

func TestLogConformance(t *testing.T) {
	drivertest.RunLog(t, drivertest.LogHarness{
		Name:       "sqlite",
		Driver:     sqlite.Driver(),
		Config:     driver.Config{Name: "main", URL: "sqlite:" + fileName, Dir: t.TempDir()},
		Persistent: true,
	})
}
