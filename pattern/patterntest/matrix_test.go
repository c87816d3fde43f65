package patterntest_test

import (
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/driver/sqlite"
	"github.com/prismgw/prism/pattern/patterntest"
)

// TestMatrix runs every pattern on every driver.
func TestMatrix(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) (driver.Driver, driver.Config){
		"memory": func(*testing.T) (driver.Driver, driver.Config) {
			return memory.Driver(), driver.Config{URL: "memory:"}
		},
		"sqlite": func(t *testing.T) (driver.Driver, driver.Config) {
			return sqlite.Driver(), driver.Config{URL: "sqlite:data.db", Dir: t.TempDir()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, config := open(t)
			config.Name = name
			conn, err := d.Open(config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
			})
			t.Run("keyvalue", func(t *testing.T) {
				t.Parallel()
				patterntest.KeyValue(t, conn)
			})
		})
	}
}
