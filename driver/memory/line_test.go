package memory

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
)

// queueAt returns the queues of a namespace and a clock that can be moved.
func queueAt(t testing.TB) (driver.Queue, *lines, *atomic.Int64) {
	t.Helper()
	var moved atomic.Int64
	c, err := Driver().Open(driver.Config{URL: "memory:", Now: func() time.Time { return time.Now().Add(time.Duration(moved.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	b, err := c.Space(driver.Space{Namespace: "n", Pattern: "p"})
	if err != nil {
		t.Fatal(err)
	}
	q, _ := b.Queue.(*tasks)
	return q, q.lines, &moved
}

func enqueue(t testing.TB, q driver.Queue, queue string, tasks ...driver.Task) []driver.EnqueueResult {
	t.Helper()
	results := make([]driver.EnqueueResult, len(tasks))
	q.Enqueue(context.Background(), queue, tasks, results)
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	return results
}

func TestIDsAreForgottenAfterTheWindow(t *testing.T) {
	t.Parallel()
	q, _, moved := queueAt(t)
	one := driver.Task{ID: "a", Priority: 5}
	for i, step := range []struct {
		after     time.Duration
		duplicate bool
	}{{0, false}, {driver.DedupWindow - time.Minute, true}, {driver.DedupWindow + time.Minute, false}, {2*driver.DedupWindow - time.Minute, true}, {3 * driver.DedupWindow, false}} {
		moved.Store(int64(step.after))
		if r := enqueue(t, q, "q", one)[0]; r.Duplicate != step.duplicate {
			t.Errorf("step %d, after %s: duplicate %v", i, step.after, r.Duplicate)
		}
	}
}

// TestIdleQueuesAreForgotten has queues that held tasks, or only IDs.
func TestIdleQueuesAreForgotten(t *testing.T) {
	t.Parallel()
	q, ls, moved := queueAt(t)
	held := func() int {
		ls.mu.Lock()
		defer ls.mu.Unlock()
		return len(ls.queues)
	}
	for i := range 100 {
		name := fmt.Sprint("q", i)
		enqueue(t, q, name, driver.Task{ID: fmt.Sprint(i), Priority: 1})
		leased, err := q.Receive(t.Context(), driver.ReceiveRequest{Queue: name, Limit: 1, Lease: time.Minute})
		if err != nil || len(leased) != 1 {
			t.Fatal(leased, err)
		}
		q.Settle(t.Context(), name, []driver.Settlement{{Receipt: leased[0].Receipt, Kind: driver.Done}}, make([]error, 1))
	}
	enqueue(t, q, "kept", driver.Task{Priority: 1})
	if n := held(); n != 101 {
		t.Errorf("%d queues are held while their IDs are remembered", n)
	}
	moved.Store(int64(driver.DedupWindow + time.Second))
	for end := time.Now().Add(time.Minute); held() != 1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d queues are held", held())
		}
	}
	if s, err := q.Stat(t.Context(), "kept"); err != nil || s.Ready != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestDoneTasksAreForgotten keeps one task that came first while many come and go.
func TestDoneTasksAreForgotten(t *testing.T) {
	t.Parallel()
	q, ls, _ := queueAt(t)
	enqueue(t, q, "q", driver.Task{Priority: 1, Delay: time.Hour})
	for range 1000 {
		enqueue(t, q, "q", driver.Task{Priority: 1}, driver.Task{Priority: 2})
		leased, err := q.Receive(t.Context(), driver.ReceiveRequest{Queue: "q", Limit: 2, Lease: time.Minute})
		if err != nil || len(leased) != 2 {
			t.Fatal(leased, err)
		}
		q.Settle(t.Context(), "q", []driver.Settlement{{Receipt: leased[0].Receipt, Kind: driver.Done}, {Receipt: leased[1].Receipt, Kind: driver.Done}}, make([]error, 2))
	}
	ls.with("q", false, func(l *line) {
		if len(l.all) > 4 || cap(l.all) > 64 || len(l.later.heap) != 1 {
			t.Errorf("after 2,000 tasks that are done one is left, with room for %d of %d and %d that are timed", len(l.all), cap(l.all), len(l.later.heap))
		}
	})
}

// BenchmarkQueue is a task's way through a queue that holds others already:
// ready ones behind it, delayed ones, leased ones.
func BenchmarkQueue(b *testing.B) {
	for _, others := range []int{0, 100_000} {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("others=%d/callers=%d", others, callers), func(b *testing.B) {
				q, _, _ := queueAt(b)
				for range others / 1000 {
					crowd := make([]driver.Task, 1000)
					for i := range crowd {
						crowd[i] = driver.Task{Priority: 1 + i%3, Delay: time.Duration(i%3/2) * time.Hour}
					}
					enqueue(b, q, "q", crowd...)
				}
				if others > 0 {
					if _, err := q.Receive(b.Context(), driver.ReceiveRequest{Queue: "q", Limit: others / 3, Lease: time.Hour}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportAllocs()
				b.SetParallelism(max(1, callers/2))
				if callers == 1 {
					for range b.N {
						throughQueue(b, q)
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						throughQueue(b, q)
					}
				})
			})
		}
	}
}

func throughQueue(b *testing.B, q driver.Queue) {
	ctx := context.Background()
	var results [1]driver.EnqueueResult
	q.Enqueue(ctx, "q", []driver.Task{{Priority: 9, Value: make([]byte, 128)}}, results[:])
	leased, err := q.Receive(ctx, driver.ReceiveRequest{Queue: "q", Limit: 1, Lease: time.Minute, Wait: time.Second})
	if err != nil || len(leased) != 1 {
		b.Error(len(leased), err)
		return
	}
	var settled [1]error
	q.Settle(ctx, "q", []driver.Settlement{{Receipt: leased[0].Receipt, Kind: driver.Done}}, settled[:])
	if settled[0] != nil {
		b.Error(settled[0])
	}
}
