package drivertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
)

func queueFaultChecks() []check {
	return []check{
		{"faults/away-at-open", needsServer, queueAway},
		{"faults/killed-and-restarted", needsServer, queueKilled},
		{"faults/paused", needsServer, queuePaused},
		{"faults/connections-cut", needsServer, queueCut},
		{"faults/garbage", needsServer, queueGarbage},
		{"faults/answer-lost", needsServer, queueAnswerLost},
		{"faults/process-killed", needsEmbeddedQueue, queueProcessKilled},
	}
}

func needsEmbeddedQueue(e *env) string {
	switch {
	case e.s.h.Server != nil:
		return "the data lies in a server; faults/killed-and-restarted kills that"
	case !e.s.h.Persistent || !e.s.queue.Ack.Process:
		return "an acknowledged task does not survive the process"
	}
	return ""
}

// depot is a server behind a proxy, seen through it and directly.
type depot struct {
	*jobs
	server Server
	proxy  *faultproxy.Proxy
	conn   driver.Conn
	direct *jobs
	held   driver.Leased // of queue "held"
}

func (e *env) depot(mode faultproxy.Mode) *depot {
	e.Helper()
	server := e.s.h.Server(e.TB)
	proxy := faultproxy.Listen(e.TB, server.Addr)
	proxy.Set(mode)
	conn := e.openConfig(server.Config(proxy.Addr))
	j := e.jobsOn(conn, e.spaceIn(server.Config(server.Addr)))
	d := &depot{jobs: j, server: server, proxy: proxy, conn: conn, direct: j.again(e.openConfig(server.Config(server.Addr)))}
	held := d.direct.in("held")
	held.put("held")
	d.held = held.takeFor(driver.MaxLease, "held")[0]
	return d
}

// fault calls what there is on a server that is not well, and returns how many
// of the tasks that it tried to enqueue may be there.
func (d *depot) fault(writes []errs.Reason) (perhaps int) {
	d.Helper()
	d.timed("enqueue", writes, func(ctx context.Context) []error {
		results := slices.Repeat([]driver.EnqueueResult{{Err: errs.Internal}}, 2)
		d.Enqueue(ctx, d.name, []driver.Task{job("lost"), job("lost")}, results)
		for _, r := range results {
			if errs.ReasonOf(r.Err) != errs.BackendUnavailable {
				perhaps++
			}
		}
		return []error{results[0].Err, results[1].Err}
	})
	for _, wait := range []time.Duration{0, time.Minute} {
		d.timed(fmt.Sprint("receive that waits for ", wait), writes, func(ctx context.Context) []error {
			_, err := d.Receive(ctx, driver.ReceiveRequest{Queue: "nothing", Limit: 10, Lease: driver.MinLease, Wait: wait})
			return []error{err}
		})
	}
	d.timed("settle", writes, func(ctx context.Context) []error {
		results := []error{errs.Internal}
		d.Settle(ctx, "held", []driver.Settlement{{Receipt: d.held.Receipt, Kind: driver.Extend, After: driver.MaxLease}}, results)
		return results
	})
	d.timed("browse and stat", readFaults, func(ctx context.Context) []error {
		_, err := d.Browse(ctx, driver.BrowseRequest{Queue: d.name, Limit: 10})
		return []error{err}
	})
	d.timed("stat", readFaults, func(ctx context.Context) []error {
		_, err := d.Stat(ctx, d.name)
		return []error{err}
	})
	return perhaps
}

// heals waits until the connection serves again, without being opened anew, and
// a receiver that waits on it is woken by others.
func (d *depot) heals() {
	d.Helper()
	start := time.Now()
	probe := d.in("probe")
	for {
		ctx, cancel := d.soon()
		results := make([]driver.EnqueueResult, 1)
		probe.Enqueue(ctx, probe.name, []driver.Task{job("healed")}, results)
		leased, err := probe.Receive(ctx, driver.ReceiveRequest{Queue: probe.name, Limit: 100, Lease: time.Hour})
		settled := make([]error, len(leased))
		probe.Settle(ctx, probe.name, doneWith(leased), settled)
		cancel()
		if results[0].Err == nil && err == nil && len(leased) > 0 && worst(settled) == nil {
			break
		}
		if time.Since(start) > healing {
			d.Fatalf("not healed after %s: enqueue %s, receive %s", healing, describe(results[0].Err), describe(err))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := d.conn.Ping(d.ctx); err != nil {
		d.Errorf("ping after healing: %s", describe(err))
	}
	woken := d.in("woken")
	came := woken.waits()
	d.direct.in("woken").put("1")
	woken.done(d.comes("a task that others enqueued after healing", came, moment+grace, "1"))
}

// left checks how many tasks there are: those that were put for sure, and some
// of those that perhaps were.
func (d *depot) left(sure, perhaps int) {
	d.Helper()
	if n := len(d.direct.browse(0, 1000)); n < sure || n > sure+perhaps {
		d.Errorf("%d tasks were enqueued and %d perhaps, %d are there", sure, perhaps, n)
	}
	d.direct.in("held").counts(0, 0, 1)
}

func queueAway(e *env) {
	d := e.depot(faultproxy.Refuse)
	d.fault(unsentFaults)
	d.direct.counts(0, 0, 0)
	d.proxy.Set(faultproxy.Pass)
	d.heals()
	d.put("1")
	d.direct.done(d.direct.take("1")...)
}

func queuePaused(e *env) {
	d := e.depot(faultproxy.Pass)
	d.put("1")
	d.server.Process.Pause()
	perhaps := d.fault(writeFaults)
	d.server.Process.Resume()
	d.heals()
	d.left(1, perhaps)
}

func queueCut(e *env) {
	d := e.depot(faultproxy.Pass)
	perhaps := 0
	for i := range 3 {
		d.put("1")
		d.proxy.Set(faultproxy.Cut)
		perhaps += d.fault(writeFaults)
		d.proxy.Set(faultproxy.Refuse)
		perhaps += d.fault(writeFaults)
		d.proxy.Set(faultproxy.Pass)
		d.heals()
		d.left(i+1, perhaps)
	}
}

func queueGarbage(e *env) {
	d := e.depot(faultproxy.Pass)
	perhaps := 0
	for i := range 3 {
		d.put("1")
		d.proxy.Set(faultproxy.Garbage)
		perhaps += d.fault(writeFaults)
		d.proxy.Set(faultproxy.Pass)
		d.heals()
		d.left(i+1, perhaps)
	}
}

// queueAnswerLost lets calls reach the server and loses the answers: nobody may
// say that the tasks were not enqueued, and what was leased comes again.
func queueAnswerLost(e *env) {
	d := e.depot(faultproxy.Pass)
	d.heals()
	lose := func(what string, call func(context.Context) error, happened func() bool, fits func(error) bool) {
		d.proxy.Set(faultproxy.Mute)
		outcome := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(e.ctx, healing)
			defer cancel()
			outcome <- call(ctx)
		}()
		e.await("effect of "+what, func() bool { return len(outcome) > 0 || happened() })
		d.proxy.Set(faultproxy.Cut)
		time.Sleep(10 * time.Millisecond) // a driver that would repeat it may begin to
		d.proxy.Set(faultproxy.Pass)
		e.within(what+" whose answer is lost", healing, func() {
			if err := <-outcome; !fits(err) {
				e.Errorf("%s whose answer is lost: %s", what, describe(err))
			}
		})
		d.heals()
	}
	unknown := func(err error) bool { return errs.ReasonOf(err) == errs.OutcomeUnknown }
	lose("enqueue", func(ctx context.Context) error {
		results := make([]driver.EnqueueResult, 1)
		d.Enqueue(ctx, d.name, []driver.Task{identified("id", "1")}, results)
		return results[0].Err
	}, func() bool { return len(d.direct.browse(0, 1)) > 0 }, unknown)
	d.duplicates([]bool{true}, identified("id", "1"))
	lose("receive", func(ctx context.Context) error {
		_, err := d.Receive(ctx, driver.ReceiveRequest{Queue: d.name, Limit: 1, Lease: driver.MinLease})
		return err
	}, func() bool { return d.direct.browse(0, 1)[0].Attempt > 0 }, func(err error) bool {
		return unknown(err) || errs.ReasonOf(err) == errs.BackendUnavailable // both say as much
	})
	again := d.next("1")
	if again.Attempt != 2 {
		e.Errorf("attempt %d after a receive whose answer was lost", again.Attempt)
	}
	lose("done", func(ctx context.Context) error {
		results := make([]error, 1)
		d.Settle(ctx, d.name, doneWith([]driver.Leased{again}), results)
		return results[0]
	}, func() bool { return len(d.direct.browse(0, 1)) == 0 }, func(err error) bool {
		return unknown(err) || err == nil // it may have been repeated
	})
	d.done(again)
	d.direct.counts(0, 0, 0)
}

// works keeps books on producers and receivers.
type works struct {
	mu    sync.Mutex
	acked map[string]bool // enqueued, by an OK
	seen  map[string]bool // received
	done  map[string]int  // settled, by an OK: which one it was
	acks  atomic.Int64
}

// queueKilled kills the server while producers and receivers work: no task that
// was acknowledged is lost, and none comes again whose Done was.
func queueKilled(e *env) {
	d := e.depot(faultproxy.Pass)
	w := &works{acked: map[string]bool{}, seen: map[string]bool{}, done: map[string]int{}}
	var producers, receivers sync.WaitGroup
	var stop, drained atomic.Bool
	for p := range 3 {
		producers.Go(func() { d.produce(w, fmt.Sprint(p), &stop) })
	}
	for range 4 {
		receivers.Go(func() { d.consume(w, &drained) })
	}
	for range 2 {
		before := w.acks.Load()
		e.await("work before the kill", func() bool { return w.acks.Load() > before+100 })
		d.server.Process.Kill()
		d.server.Process.Start()
		before = w.acks.Load()
		e.await("work after the restart", func() bool { return w.acks.Load() > before+100 })
	}
	stop.Store(true)
	producers.Wait()
	d.heals()
	e.await("the end of the work", func() bool {
		s, err := d.direct.Stat(e.ctx, d.name)
		return err == nil && s == driver.QueueStat{}
	})
	drained.Store(true)
	receivers.Wait()
	lost := 0
	for text := range w.acked {
		if !w.seen[text] {
			lost++
		}
	}
	if lost > 0 && e.s.queue.Ack.Process {
		e.Errorf("%d of %d tasks that were acknowledged are lost", lost, len(w.acked))
	}
}

// produce enqueues one task after the other, each until it is acknowledged.
func (d *depot) produce(w *works, name string, stop *atomic.Bool) {
	for i := 0; !stop.Load() && d.ctx.Err() == nil; i++ {
		t := identified(fmt.Sprint(name, "-", i), fmt.Sprint(name, "-", i))
		for !stop.Load() && d.ctx.Err() == nil {
			ctx, cancel := d.soon()
			results := []driver.EnqueueResult{{Err: errs.Internal}}
			d.Enqueue(ctx, d.name, []driver.Task{t}, results)
			cancel()
			if err := results[0].Err; err != nil {
				d.wants("enqueue during kill and restart", err, writeFaults...)
				time.Sleep(time.Millisecond)
				continue
			}
			w.mu.Lock()
			w.acked[t.ID] = true
			w.mu.Unlock()
			break
		}
	}
}

func (d *depot) consume(w *works, drained *atomic.Bool) {
	for !drained.Load() && d.ctx.Err() == nil {
		w.mu.Lock()
		before := len(w.done)
		w.mu.Unlock()
		ctx, cancel := d.soon()
		leased, err := d.Receive(ctx, driver.ReceiveRequest{Queue: d.name, Limit: 3, Lease: 2 * time.Second, Wait: 200 * time.Millisecond})
		cancel()
		if err != nil {
			d.wants("receive during kill and restart", err, writeFaults...)
			time.Sleep(time.Millisecond)
			continue
		}
		w.mu.Lock()
		for _, l := range leased {
			text := string(l.Value)
			w.seen[text] = true
			if n, done := w.done[text]; done && n < before && d.s.queue.Ack.Process {
				d.Errorf("task %s has come with attempt %d after its Done was acknowledged", text, l.Attempt)
			}
		}
		w.mu.Unlock()
		d.finish(w, leased)
	}
}

// finish settles tasks as done, once.
func (d *depot) finish(w *works, leased []driver.Leased) {
	ctx, cancel := d.soon()
	defer cancel()
	results := slices.Repeat([]error{errs.Internal}, len(leased))
	d.Settle(ctx, d.name, doneWith(leased), results)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, err := range results {
		if err != nil {
			d.wants("done during kill and restart", err, append(writeFaults, errs.StaleReceipt)...)
			continue
		}
		w.acks.Add(1)
		if text := string(leased[i].Value); w.done[text] == 0 {
			w.done[text] = len(w.done) + 1
		}
	}
}
