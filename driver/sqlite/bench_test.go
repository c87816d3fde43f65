package sqlite_test

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/sqlite"
)

// The two benchmarks of each pair do the same work: durable puts of 128 bytes
// on 20,000 keys by 64 callers, and gets of them. "direct" is the library as
// a program would use it by hand, through database/sql, with a group commit of
// its own.
const (
	benchKeys    = 20_000
	benchCallers = 64
)

func benchKey(i int) string { return fmt.Sprintf("key-%08d", i) }

// newValue differs from call to call: SQLite does not write a row that is what
// it was, and would have nothing to fsync.
func newValue(size int) []byte {
	value := make([]byte, size)
	binary.NativeEndian.PutUint64(value, rand.Uint64())
	return value
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{128, 4096} {
		b.Run(fmt.Sprintf("driver/%d", size), func(b *testing.B) {
			c := openFile(b, b.TempDir(), nil)
			kv := space(b, c, "demo", "").KV
			parallel(b, func() {
				var res [1]driver.Result
				kv.Apply(context.Background(), []driver.Op{{Kind: driver.Put, Key: benchKey(rand.IntN(benchKeys)), Value: newValue(size)}}, res[:])
				if res[0].Err != nil {
					b.Error(res[0].Err)
				}
			})
			b.ReportMetric(float64(b.N)/float64(sqlite.Commits(c)), "ops/commit")
		})
		b.Run(fmt.Sprintf("direct/%d", size), func(b *testing.B) {
			d := openDirect(b)
			parallel(b, func() {
				if err := d.put(benchKey(rand.IntN(benchKeys)), newValue(size)); err != nil {
					b.Error(err)
				}
			})
			b.ReportMetric(float64(b.N)/float64(d.commits.Load()), "ops/commit")
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, size := range []int{128, 4096} {
		value := make([]byte, size)
		b.Run(fmt.Sprintf("driver/%d", size), func(b *testing.B) {
			c := openFile(b, b.TempDir(), nil)
			kv := space(b, c, "demo", "").KV
			ops := make([]driver.Op, benchKeys)
			for i := range ops {
				ops[i] = driver.Op{Kind: driver.Put, Key: benchKey(i), Value: value}
			}
			kv.Apply(context.Background(), ops, make([]driver.Result, len(ops)))
			parallel(b, func() {
				if _, err := kv.Get(context.Background(), benchKey(rand.IntN(benchKeys)), driver.WithExpiry); err != nil {
					b.Error(err)
				}
			})
		})
		b.Run(fmt.Sprintf("direct/%d", size), func(b *testing.B) {
			d := openDirect(b)
			for i := range benchKeys {
				d.queue <- directPut{key: benchKey(i), value: value, done: make(chan error, 1)}
			}
			if err := d.put(benchKey(0), value); err != nil {
				b.Fatal(err)
			}
			get, err := d.db.Prepare("SELECT value FROM kv WHERE key = ?")
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = get.Close() })
			parallel(b, func() {
				var v []byte
				if err := get.QueryRow(benchKey(rand.IntN(benchKeys))).Scan(&v); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

func parallel(b *testing.B, f func()) {
	b.Helper()
	b.ReportAllocs()
	b.SetParallelism((benchCallers + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	var n atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			f()
			n.Add(1)
		}
	})
	b.ReportMetric(float64(n.Load())/b.Elapsed().Seconds(), "ops/s")
}

type directPut struct {
	key   string
	value []byte
	done  chan error
}

type direct struct {
	db    *sql.DB
	queue chan directPut

	commits atomic.Int64
}

func openDirect(b *testing.B) *direct {
	b.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(b.TempDir(), "direct.db")+
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := db.Exec("CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL)"); err != nil {
		b.Fatal(err)
	}
	d := &direct{db: db, queue: make(chan directPut, benchCallers)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.run(b)
	}()
	b.Cleanup(func() {
		close(d.queue)
		<-ended
		_ = db.Close()
	})
	return d
}

func (d *direct) put(key string, value []byte) error {
	done := make(chan error, 1)
	d.queue <- directPut{key, value, done}
	return <-done
}

func (d *direct) run(b *testing.B) {
	put, err := d.db.Prepare("INSERT INTO kv (key, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value")
	if err != nil {
		b.Error(err)
		return
	}
	defer put.Close()
	for first := range d.queue {
		group := []directPut{first}
		for more := true; more && len(group) < benchCallers; {
			select {
			case p, ok := <-d.queue:
				if more = ok; ok {
					group = append(group, p)
				}
			default:
				more = false
			}
		}
		err := d.commit(put, group)
		d.commits.Add(1)
		for _, p := range group {
			p.done <- err
		}
	}
}

func (d *direct) commit(put *sql.Stmt, group []directPut) error {
	tx, err := d.db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	st := tx.Stmt(put)
	defer st.Close()
	for _, p := range group {
		if _, err := st.Exec(p.key, p.value); err != nil {
			return err
		}
	}
	return tx.Commit()
}
