package patterntest_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/driver/nats"
	"github.com/prismgw/prism/driver/postgres"
	"github.com/prismgw/prism/driver/redis"
	"github.com/prismgw/prism/driver/sqlite"
	"github.com/prismgw/prism/internal/testutil/servers"
	"github.com/prismgw/prism/pattern/patterntest"
)

// Every pattern on every technology, on data of its own and on data that it
// adopts.

func TestMemory(t *testing.T) {
	t.Parallel()
	patterntest.Run(t, patterntest.Harness{
		Name:   "memory",
		Driver: memory.Driver(),
		Config: driver.Config{Name: "test", URL: "memory://patterns"},
	})
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	patterntest.Run(t, patterntest.Harness{
		Name:   "sqlite",
		Driver: sqlite.Driver(),
		Config: driver.Config{Name: "test", URL: "sqlite:data.db", Dir: t.TempDir()},
	})
}

func TestSQLiteAdopted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "data.db")+"?_pragma=busy_timeout(30000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	patterntest.Run(t, patterntest.Harness{
		Name:   "sqlite (adopted)",
		Driver: sqlite.Driver(),
		Config: driver.Config{Name: "test", URL: "sqlite:data.db", Dir: dir},
		Layout: func(tb testing.TB, namespace string) json.RawMessage {
			tb.Helper()
			if _, err := db.ExecContext(context.Background(), fmt.Sprintf("CREATE TABLE %q (id TEXT PRIMARY KEY, doc BLOB)", namespace)); err != nil {
				tb.Fatal(err)
			}
			return tableLayout(namespace)
		},
	})
}

func TestRedis(t *testing.T) {
	t.Parallel()
	patterntest.Run(t, patterntest.Harness{
		Name:   "redis",
		Driver: redis.Driver(),
		Config: driver.Config{Name: "test", URL: servers.Redis(t).URL},
	})
}

func TestRedisAdopted(t *testing.T) {
	t.Parallel()
	patterntest.Run(t, patterntest.Harness{
		Name:   "redis (adopted)",
		Driver: redis.Driver(),
		Config: driver.Config{Name: "test", URL: servers.Redis(t).URL},
		Layout: func(_ testing.TB, namespace string) json.RawMessage {
			return json.RawMessage(fmt.Sprintf(`{"keys": "%s[{key}]"}`, namespace))
		},
	})
}

func TestNATS(t *testing.T) {
	t.Parallel()
	patterntest.Run(t, patterntest.Harness{
		Name:   "nats",
		Driver: nats.Driver(),
		Config: driver.Config{Name: "test", URL: servers.NATSWith(t, "max_payload: 8M").URL, Options: json.RawMessage(`{"max_value": 4194304}`)},
	})
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	s := servers.Postgres(t)
	patterntest.Run(t, patterntest.Harness{
		Name:   "postgres",
		Driver: postgres.Driver(),
		Config: driver.Config{Name: "test", URL: s.URL, Credentials: login(s)},
	})
}

func TestPostgresAdopted(t *testing.T) {
	t.Parallel()
	s := servers.Postgres(t)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(servers.PostgresLogin(s))
	patterntest.Run(t, patterntest.Harness{
		Name:   "postgres (adopted)",
		Driver: postgres.Driver(),
		Config: driver.Config{Name: "test", URL: s.URL, Credentials: login(s)},
		Layout: func(tb testing.TB, namespace string) json.RawMessage {
			tb.Helper()
			ctx := context.Background()
			db, err := pgx.Connect(ctx, u.String())
			if err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(func() {
				if _, err := db.Exec(ctx, fmt.Sprintf("DROP TABLE IF EXISTS %q", namespace)); err != nil {
					tb.Errorf("the table stays behind: %v", err)
				}
				_ = db.Close(ctx)
			})
			if _, err := db.Exec(ctx, fmt.Sprintf("CREATE TABLE %q (id text PRIMARY KEY, doc bytea)", namespace)); err != nil {
				tb.Fatal(err)
			}
			return tableLayout(namespace)
		},
	})
}

func tableLayout(table string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"table": %q, "key": "id", "value": "doc"}`, table))
}

func login(s *servers.Server) driver.Credentials {
	return func(context.Context) (string, driver.Secret, error) {
		user, password := servers.PostgresLogin(s)
		return user, driver.Secret(password), nil
	}
}
