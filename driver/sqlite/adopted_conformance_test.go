package sqlite_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/sqlite"
)

// The suite on tables of other programs.
func TestConformanceAdopted(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{
		Driver:     sqlite.Driver(),
		Config:     driver.Config{Name: "main", URL: "sqlite:" + fileName, Dir: t.TempDir()},
		Persistent: true,
		Layout: func(tb testing.TB, c driver.Config) json.RawMessage {
			tb.Helper()
			table := "adopted " + rand.Text()
			script(tb, c.Dir, fmt.Sprintf(`CREATE TABLE "%s" (note TEXT, "Id" TEXT PRIMARY KEY, doc BLOB NOT NULL)`, table))
			return json.RawMessage(fmt.Sprintf(`{"table": %q, "key": "id", "value": "doc"}`, table))
		},
	})
}
