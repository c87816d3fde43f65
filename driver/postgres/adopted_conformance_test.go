package postgres_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/postgres"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// The suite on tables of other programs. What becomes of a server that is hurt
// does not depend on the tables, so there is none to hurt, and none to flush.
func TestConformanceAdopted(t *testing.T) {
	shared := servers.PostgresWith(t, "fsync=off")
	ctx := context.Background() // tables are dropped after the test's own has ended
	direct := onServer(t, shared).direct()
	var mu sync.Mutex // guards direct
	exec := func(tb testing.TB, statement string) {
		tb.Helper()
		mu.Lock()
		defer mu.Unlock()
		if _, err := direct.Exec(ctx, statement); err != nil {
			tb.Errorf("%s: %v", statement, err)
		}
	}
	drivertest.Run(t, drivertest.Harness{
		Driver:     postgres.Driver(),
		Config:     driver.Config{Name: "test", URL: shared.URL, Credentials: login(shared), Asserts: json.RawMessage(`{"fsync": false}`)},
		Persistent: true,
		Layout: func(tb testing.TB, _ driver.Config) json.RawMessage {
			tb.Helper()
			table := pgx.Identifier{"adopted " + rand.Text()}
			exec(tb, fmt.Sprintf(`CREATE TABLE %s (note text, "Id" text PRIMARY KEY, doc bytea NOT NULL)`, table.Sanitize()))
			tb.Cleanup(func() { exec(tb, "DROP TABLE "+table.Sanitize()) })
			return json.RawMessage(fmt.Sprintf(`{"table": %q, "key": "Id", "value": "doc"}`, table[0]))
		},
	})
}
