package postgres_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/postgres"
	"github.com/prismgw/prism/internal/testutil/servers"
)

const benchKeys = 1000

// BenchmarkCallers compares the driver with pgx used directly, each call by
// itself, with as many connections as serve it best here.
func BenchmarkCallers(b *testing.B) {
	s := servers.Postgres(b)
	conn, err := postgres.Driver().Open(driver.Config{Name: "bench", URL: s.URL, Credentials: login(s)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	space, err := conn.Space(driver.Space{Namespace: "bench", Pattern: "kv"})
	if err != nil {
		b.Fatal(err)
	}
	value := []byte(strings.Repeat("x", 128))
	ctx := context.Background()
	put := func(key string) error {
		var results [1]driver.Result
		space.KV.Apply(ctx, []driver.Op{{Kind: driver.Put, Key: key, Value: value}}, results[:])
		return results[0].Err
	}
	cas := func(key string) error {
		var results [1]driver.Result
		space.KV.Apply(ctx, []driver.Op{{Kind: driver.Add, Key: "n" + key, Delta: 1}}, results[:])
		return results[0].Err
	}
	for i := range benchKeys {
		if err := put(fmt.Sprint("key", i)); err != nil {
			b.Fatal(err)
		}
	}
	user, password := servers.PostgresLogin(s)
	for _, callers := range []int{1, 16, 64, 256} {
		for _, conns := range []int{4, 16} {
			pool, err := pgxpool.New(ctx, strings.Replace(s.URL, "://", "://"+user+":"+password+"@", 1)+fmt.Sprint("&pool_max_conns=", conns))
			if err != nil {
				b.Fatal(err)
			}
			if callers == 1 && conns > 4 {
				continue
			}
			run(b, fmt.Sprintf("get/pgx-%d/%d", conns, callers), callers, func(key string) error {
				var v []byte
				return pool.QueryRow(ctx, "SELECT value FROM prism_kv WHERE namespace = $1 AND pattern = $2 AND key = $3", "bench", "kv", key).Scan(&v)
			})
			run(b, fmt.Sprintf("put/pgx-%d/%d", conns, callers), callers, func(key string) error {
				_, err := pool.Exec(ctx, "INSERT INTO prism_kv (namespace, pattern, key, value, version) VALUES ($1, $2, $3, $4, nextval('prism_version')) ON CONFLICT (namespace, pattern, key) DO UPDATE SET value = EXCLUDED.value, version = EXCLUDED.version", "bench", "kv", key, value)
				return err
			})
			pool.Close()
		}
		run(b, fmt.Sprintf("get/prism/%d", callers), callers, func(key string) error {
			_, err := space.KV.Get(ctx, key, driver.WithExpiry)
			return err
		})
		run(b, fmt.Sprintf("put/prism/%d", callers), callers, put)
		run(b, fmt.Sprintf("add/prism/%d", callers), callers, cas)
	}
}

// run shares b.N calls among the callers and reports calls per second.
func run(b *testing.B, name string, callers int, call func(key string) error) {
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		var left atomic.Int64
		left.Store(int64(b.N))
		var wg sync.WaitGroup
		start := time.Now()
		for c := range callers {
			wg.Go(func() {
				for i := c; left.Add(-1) >= 0; i += 7 {
					if err := call(fmt.Sprint("key", i%benchKeys)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "ops/s")
	})
}
