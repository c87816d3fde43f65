package drivertest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
)

// queueProcessKilled kills a process that enqueues and settles, and looks for
// what it was acknowledged.
func queueProcessKilled(e *env) {
	c := e.s.h.Config
	if c.Dir != "" {
		c.Dir = e.TempDir()
	}
	for range 3 {
		space := e.spaceIn(c)
		o := orders{Test: testName(e.Name()), URL: c.URL, Dir: c.Dir, Options: c.Options, Asserts: c.Asserts, Namespace: space.Namespace, Layout: space.Layout}
		for i := range o.First {
			o.First[i] = 1
		}
		acked := e.killChild(o)
		conn := e.openConfig(c)
		for w := range writers {
			e.jobsOn(conn, space).in(writerKey(w)).afterKill(acked[w])
		}
		if err := conn.Close(); err != nil {
			e.Fatalf("close: %v", err)
		}
	}
}

// queueWorker enqueues task i, which is acknowledgement 2i - 1, and is done with
// it, which is acknowledgement 2i, save that each third task is kept.
func queueWorker(t *testing.T, b driver.Backend, o *orders, w int) {
	queue := writerKey(w)
	for n := o.First[w]; ; n++ {
		i := (n + 1) / 2
		var err error
		if n%2 == 1 {
			results := make([]driver.EnqueueResult, 1)
			b.Queue.Enqueue(context.Background(), queue, []driver.Task{job(fmt.Sprint(i))}, results)
			err = results[0].Err
		} else {
			err = workOnce(b.Queue, queue, i%3 != 0)
		}
		if err != nil {
			t.Errorf("worker %d: step %d: %s", w, n, describe(err))
			return
		}
		if _, err := fmt.Fprintf(os.Stdout, "acked %d %d\n", w, n); err != nil {
			return
		}
	}
}

// workOnce leases a task, and may be done with it.
func workOnce(q driver.Queue, queue string, done bool) error {
	leased, err := q.Receive(context.Background(), driver.ReceiveRequest{Queue: queue, Limit: 1, Lease: driver.MaxLease})
	if err != nil || len(leased) != 1 {
		return fmt.Errorf("%d tasks have come: %w", len(leased), err)
	}
	if !done {
		return nil
	}
	results := make([]error, 1)
	q.Settle(context.Background(), queue, doneWith(leased), results)
	return results[0]
}

// afterKill checks what a worker left behind.
func (j *jobs) afterKill(acked int) {
	j.Helper()
	there := map[string]bool{}
	for _, w := range j.browse(0, 10000) {
		there[string(w.Value)] = true
	}
	last := (acked + 1) / 2
	for i := 1; i <= last+1; i++ {
		text := fmt.Sprint(i)
		switch enqueued, settled := acked >= 2*i-1, acked >= 2*i; {
		case enqueued && i%3 == 0 && !there[text]:
			j.Errorf("task %d of %s was acknowledged and is lost", i, j.name)
		case settled && i%3 != 0 && there[text]:
			j.Errorf("task %d of %s is there although its Done was acknowledged", i, j.name)
		}
		delete(there, text)
	}
	if len(there) > 0 {
		j.Errorf("%d tasks are in %s that nobody has enqueued", len(there), j.name)
	}
}

// queueLeakCheck opens, uses and closes connections and looks for goroutines
// that are left. It runs when nothing else does.
var queueLeakCheck = check{"leaks/goroutines", nil, func(e *env) {
	space := e.space()
	before := goleak.IgnoreCurrent()
	for range 3 {
		conn, err := e.s.h.Driver.Open(e.s.h.Config)
		if err != nil {
			e.Fatalf("open: %v", err)
		}
		e.useQueue(conn, space)
	}
	if err := goleak.Find(before); err != nil {
		e.Errorf("after close: %v", err)
	}
	if e.s.h.Server == nil {
		return
	}
	d := e.depot(faultproxy.Pass)
	config := d.server.Config(d.proxy.Addr)
	before = goleak.IgnoreCurrent()
	for _, mode := range []faultproxy.Mode{faultproxy.Cut, faultproxy.Garbage, faultproxy.Pause} {
		d.proxy.Set(faultproxy.Pass)
		conn, err := e.s.h.Driver.Open(config)
		if err != nil {
			e.Fatalf("open: %v", err)
		}
		e.useQueue(conn, d.space, func() { d.proxy.Set(mode) })
	}
	d.proxy.Set(faultproxy.Refuse) // what the proxy held back goes
	if err := goleak.Find(before); err != nil {
		e.Errorf("after close on a server that is not well: %v", err)
	}
}}

// useQueue uses each method of a queue and closes the connection while somebody
// waits, after a fault if there is one.
func (e *env) useQueue(conn driver.Conn, space driver.Space, faults ...func()) {
	e.Helper()
	j := e.jobsOn(conn, space).in("leaks")
	if err := conn.Ping(e.ctx); err != nil {
		e.Errorf("ping: %s", describe(err))
	}
	j.put("1")
	j.browse(0, 1)
	j.done(j.next("1"))
	j.counts(0, 0, 0)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			_, err := j.Receive(e.ctx, driver.ReceiveRequest{Queue: j.name, Limit: 1, Lease: time.Minute, Wait: patience})
			e.wants("receive under way when the connection is closed", err, errs.BackendUnavailable, errs.OutcomeUnknown)
		})
	}
	time.Sleep(20 * time.Millisecond) // for them to wait; nothing depends on it
	for _, fault := range faults {
		fault()
	}
	if err := conn.Close(); err != nil {
		e.Errorf("close: %v", err)
	}
	e.within("receives under way when the connection is closed", hang, wg.Wait)
}
