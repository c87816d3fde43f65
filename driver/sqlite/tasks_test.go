package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/sqlite"
	"github.com/prismgw/prism/errs"
)

func TestQueueConformance(t *testing.T) {
	drivertest.RunQueue(t, drivertest.QueueHarness{
		Name:       "sqlite",
		Driver:     sqlite.Driver(),
		Config:     driver.Config{Name: "main", URL: "sqlite:" + fileName, Dir: t.TempDir()},
		Persistent: true,
	})
}

// enqueue puts tasks into queue "q".
func enqueue(t testing.TB, q driver.Queue, tasks ...driver.Task) []driver.EnqueueResult {
	t.Helper()
	results := make([]driver.EnqueueResult, len(tasks))
	q.Enqueue(context.Background(), "q", tasks, results)
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	return results
}

func receive(t testing.TB, q driver.Queue, limit int) []driver.Leased {
	t.Helper()
	leased, err := q.Receive(context.Background(), driver.ReceiveRequest{Queue: "q", Limit: limit, Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return leased
}

func TestIDsAreForgottenAfterTheWindow(t *testing.T) {
	t.Parallel()
	dir, clock := t.TempDir(), newClock()
	q := space(t, openFile(t, dir, clock.configure), "n", "").Queue
	one := driver.Task{ID: "a", Priority: 5}
	for i, step := range []struct {
		after     time.Duration
		duplicate bool
	}{{0, false}, {driver.DedupWindow - time.Minute, true}, {2 * time.Minute, false}, {driver.DedupWindow - time.Minute, true}} {
		clock.advance(step.after)
		if r := enqueue(t, q, one)[0]; r.Duplicate != step.duplicate {
			t.Errorf("step %d: duplicate %v", i, r.Duplicate)
		}
	}
	for i := range 500 {
		enqueue(t, q, driver.Task{ID: fmt.Sprint(i), Priority: 5})
	}
	clock.advance(2 * driver.DedupWindow)
	db := other(t, dir)
	until(t, "removal of the IDs", func() bool {
		n := -1
		if err := db.QueryRow("SELECT count(*) FROM prism_queue_id").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
}

// TestFilesOfBefore opens a file that has no tables of queues, and one whose
// tables are newer.
func TestFilesOfBefore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := openFile(t, dir, nil)
	put(t, space(t, c, "n", "").KV, "a", "1")
	_ = c.Close()
	script(t, dir, "DROP TABLE prism_queue; DROP TABLE prism_queue_body; DROP TABLE prism_queue_id; DELETE FROM prism_schema WHERE name = 'queue'")
	c = openFile(t, dir, nil)
	b := space(t, c, "n", "")
	get(t, b.KV, "a")
	enqueue(t, b.Queue, driver.Task{Priority: 1})
	if n := len(receive(t, b.Queue, 2)); n != 1 {
		t.Errorf("%d tasks", n)
	}
	_ = c.Close()
	script(t, dir, "UPDATE prism_schema SET value = 99 WHERE name = 'queue'")
	err := openFile(t, dir, nil).Ping(t.Context())
	if !errors.Is(err, errs.BackendUnavailable) || !strings.Contains(err.Error(), "schema of queues 99") {
		t.Errorf("a newer file: %v", err)
	}
}

func TestReceiveReadsInTheOrderOfTheIndex(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	enqueue(t, space(t, openFile(t, dir, nil), "n", "").Queue, driver.Task{Priority: 1})
	rows, err := other(t, dir).Query("EXPLAIN QUERY PLAN "+sqlite.PickTasks, "n", "q", 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
	}
	text := strings.Join(plan, "; ")
	if rows.Err() != nil || !strings.Contains(text, "USING INDEX prism_queue_ready (namespace=? AND queue=?)") || strings.Contains(text, "TEMP B-TREE") {
		t.Errorf("%v: %s", rows.Err(), text)
	}
}

// TestLeasesDoNotWriteValues compares what the log takes for tasks and for their
// leases.
func TestLeasesDoNotWriteValues(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	q := space(t, openFile(t, dir, nil), "n", "").Queue
	log := func() int64 {
		info, err := os.Stat(filepath.Join(dir, fileName+"-wal"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	enqueue(t, q, driver.Task{Priority: 1})
	before := log()
	for range 50 {
		enqueue(t, q, driver.Task{Priority: 1, Value: make([]byte, 100<<10)})
	}
	tasks := log() - before
	for range 51 {
		if n := len(receive(t, q, 1)); n != 1 {
			t.Fatalf("%d tasks", n)
		}
	}
	leases := log() - before - tasks
	t.Logf("%d KiB for 50 tasks of 100 KiB, %d KiB for their leases", tasks>>10, leases>>10)
	if tasks < 50*100<<10 || leases < 1 || leases > tasks/10 {
		t.Errorf("the log takes %d bytes for 50 tasks of 100 KiB, and %d for their leases", tasks, leases)
	}
}

// TestReceiveGivenUpInQueue gives a receive up that no transaction has begun
// with: it leases nothing.
func TestReceiveGivenUpInQueue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := openFile(t, dir, patient)
	q := space(t, c, "n", "").Queue
	enqueue(t, q, driver.Task{Priority: 1})
	release := holdLock(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := q.Receive(ctx, driver.ReceiveRequest{Queue: "q", Limit: 1, Lease: time.Minute})
		done <- err
	}()
	until(t, "a request", func() bool { return sqlite.Queued(c) == 1 })
	cancel()
	if err := <-done; !errors.Is(err, errs.Cancelled) {
		t.Error(err)
	}
	release()
	if leased := receive(t, q, 1); len(leased) != 1 || leased[0].Attempt != 1 {
		t.Errorf("%+v", leased)
	}
}

// BenchmarkQueue is a task's way through a queue.
func BenchmarkQueue(b *testing.B) {
	through := func(b *testing.B, q driver.Queue) {
		enqueue(b, q, driver.Task{Priority: 5, Value: make([]byte, 128)})
		leased, err := q.Receive(context.Background(), driver.ReceiveRequest{Queue: "q", Limit: 1, Lease: time.Minute, Wait: time.Minute})
		if err != nil || len(leased) != 1 {
			b.Error(len(leased), err)
			return
		}
		var settled [1]error
		q.Settle(context.Background(), "q", []driver.Settlement{{Receipt: leased[0].Receipt, Kind: driver.Done}}, settled[:])
		if settled[0] != nil {
			b.Error(settled[0])
		}
	}
	b.Run("callers=1", func(b *testing.B) {
		c := openFile(b, b.TempDir(), nil)
		q := space(b, c, "n", "").Queue
		b.ReportAllocs()
		for b.Loop() {
			through(b, q)
		}
		b.ReportMetric(3*float64(b.N)/float64(sqlite.Commits(c)), "calls/commit")
	})
	b.Run("callers=64", func(b *testing.B) {
		c := openFile(b, b.TempDir(), nil)
		q := space(b, c, "n", "").Queue
		b.ReportAllocs()
		parallel(b, func() { through(b, q) })
		b.ReportMetric(3*float64(b.N)/float64(sqlite.Commits(c)), "calls/commit")
	})
}
