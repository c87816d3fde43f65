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
	})
}
