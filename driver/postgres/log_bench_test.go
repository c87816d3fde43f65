package postgres_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/postgres"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// A bare log is a table of records used with pgx, each call by itself. In order
// it takes the lock that keeps a late commit from being skipped; else it is what
// one writes first, and loses records to readers.
type bareLog struct {
	pool    *pgxpool.Pool
	inOrder bool
}

const bareInsert = `INSERT INTO bare_log (partition, at, value) SELECT $1, clock_timestamp(), v FROM unnest($2::bytea[]) v`

func newBareLog(b *testing.B, s *servers.Server, conns int) *pgxpool.Pool {
	b.Helper()
	user, password := servers.PostgresLogin(s)
	pool, err := pgxpool.New(b.Context(), strings.Replace(s.URL, "://", "://"+user+":"+password+"@", 1)+fmt.Sprint("&pool_max_conns=", conns))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	_, err = pool.Exec(b.Context(), `CREATE TABLE IF NOT EXISTS bare_log (partition integer NOT NULL, position bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL, value bytea NOT NULL, PRIMARY KEY (partition, position))`)
	if err != nil {
		b.Fatal(err)
	}
	return pool
}

func (l bareLog) append(ctx context.Context, partition int, values [][]byte) error {
	if !l.inOrder {
		_, err := l.pool.Exec(ctx, bareInsert, partition, values)
		return err
	}
	batch := &pgx.Batch{}
	batch.Queue("SELECT pg_advisory_xact_lock($1)", int64(partition))
	batch.Queue(bareInsert, partition, values)
	return l.pool.SendBatch(ctx, batch).Close()
}

// each shares b.N calls of n records each among callers, and reports records per
// second.
func each(b *testing.B, name string, callers, n int, call func(caller int) error) {
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		var left atomic.Int64
		left.Store(int64(b.N))
		var wg sync.WaitGroup
		start := time.Now()
		for c := range callers {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if err := call(c); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(b.N*n)/time.Since(start).Seconds(), "records/s")
	})
}

// BenchmarkLog appends to 16 partitions, and reads one, through the driver and
// with pgx used directly.
func BenchmarkLog(b *testing.B) {
	const partitions = 16
	s := servers.Postgres(b)
	conn, err := postgres.Driver().Open(driver.Config{Name: "bench", URL: s.URL, Credentials: login(s)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	space, err := conn.Space(driver.Space{Namespace: "bench" + thisRun, Pattern: "log"})
	if err != nil {
		b.Fatal(err)
	}
	topic, err := space.Log.Topic(b.Context(), driver.TopicSpec{Name: "t", Partitions: partitions})
	if err != nil {
		b.Fatal(err)
	}
	pool := newBareLog(b, s, 16)
	for _, x := range []struct{ callers, n int }{{1, 1}, {64, 1}, {1, 64}, {16, 64}} {
		values := make([][]byte, x.n)
		for i := range values {
			values[i] = make([]byte, 128)
		}
		as := func(what string) string { return fmt.Sprintf("append/%s/%dx%d", what, x.callers, x.n) }
		for _, l := range []bareLog{{pool, false}, {pool, true}} {
			name := map[bool]string{true: "pgx-locked", false: "pgx-unordered"}[l.inOrder]
			each(b, as(name), x.callers, x.n, func(c int) error { return l.append(b.Context(), c%partitions, values) })
		}
		each(b, as("prism"), x.callers, x.n, func(c int) error { return appendValues(topic, c%partitions, values) })
	}
	benchRead(b, pool, topic)
}

func appendValues(t driver.Topic, partition int, values [][]byte) error {
	records, results := make([]driver.Record, len(values)), make([]driver.AppendResult, len(values))
	for i := range records {
		records[i] = driver.Record{Partition: partition, Value: values[i]}
	}
	t.Append(context.Background(), records, results)
	for _, r := range results {
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}

// benchRead reads a partition of 50,000 records again and again.
func benchRead(b *testing.B, pool *pgxpool.Pool, topic driver.Topic) {
	const records, partition = 50_000, 15
	values := make([][]byte, 1000)
	for i := range values {
		values[i] = make([]byte, 128)
	}
	l := bareLog{pool, true}
	for range records / len(values) {
		if err := l.append(b.Context(), partition, values); err != nil {
			b.Fatal(err)
		}
		if err := appendValues(topic, partition, values); err != nil {
			b.Fatal(err)
		}
	}
	each(b, "read/pgx", 1, records, func(int) error {
		got, err := readBare(b.Context(), pool, partition, records)
		if got < records {
			return fmt.Errorf("%d records, %w", got, err)
		}
		return err
	})
	each(b, "read/member", 1, records, func(int) error {
		m, err := topic.Join(b.Context(), driver.JoinRequest{Name: "m", At: []driver.Target{{Partition: partition, Next: 1}}, Start: driver.Start{From: driver.StartLatest}})
		if err != nil {
			return err
		}
		defer func() { _ = m.Close(context.Background()) }()
		events := make([]driver.LogEvent, 256)
		for got := 0; got < records; {
			n, err := m.Next(b.Context(), events)
			if err != nil {
				return err
			}
			for _, e := range events[:n] {
				if e.Kind == driver.Arrived {
					got++
				}
			}
		}
		return nil
	})
}

func readBare(ctx context.Context, pool *pgxpool.Pool, partition, most int) (got int, err error) {
	position := int64(0)
	for got < most {
		rows, err := pool.Query(ctx, "SELECT position, at, value FROM bare_log WHERE partition = $1 AND position > $2 ORDER BY position LIMIT 1000", partition, position)
		if err != nil {
			return got, err
		}
		before := got
		var at time.Time
		var value []byte
		_, err = pgx.ForEachRow(rows, []any{&position, &at, &value}, func() error { got++; return nil })
		if err != nil || got == before {
			return got, err
		}
	}
	return got, nil
}
