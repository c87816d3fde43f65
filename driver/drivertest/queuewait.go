package drivertest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func waitChecks() []check {
	return []check{
		{"wait/enqueue-wakes", nil, enqueueWakes},
		{"wait/each-wakes-one", nil, eachWakesOne},
		{"wait/return-wakes", nil, returnWakes},
		{"wait/times-wake", nil, timesWake},
		{"wait/ends", nil, waitEnds},
		{"wait/given-up", nil, waitGivenUp},
	}
}

// moment is how long after an Enqueue a receiver has the task, at most.
const moment = time.Second

// waits begins to wait for one task in the background.
func (j *jobs) waits() <-chan driver.Leased {
	came := make(chan driver.Leased, 1)
	go func() {
		defer close(came)
		leased, err := j.Receive(j.ctx, driver.ReceiveRequest{Queue: j.name, Limit: 1, Lease: time.Minute, Wait: patience})
		if err != nil {
			j.Errorf("receive that waits: %s", describe(err))
		}
		for _, l := range leased {
			came <- l
		}
	}()
	return came
}

// comes checks that a task comes soon.
func (j *jobs) comes(what string, came <-chan driver.Leased, limit time.Duration, want string) (l driver.Leased) {
	j.Helper()
	j.within(what, limit, func() { l = <-came })
	if string(l.Value) != want {
		j.Errorf("%s: got %s, want %s", what, brief(string(l.Value)), brief(want))
	}
	if j.Failed() {
		j.FailNow()
	}
	return l
}

// enqueueWakes enqueues while somebody waits, through the same connection and
// another one.
func enqueueWakes(e *env) {
	j := e.jobs()
	other := j.again(e.open())
	quickest := patience
	for i, from := range []*jobs{j, other, other, j, other, other} {
		came := j.waits()
		time.Sleep(50 * time.Millisecond) // for it to wait; nothing depends on it
		begin := time.Now()
		from.put(fmt.Sprint(i))
		j.done(j.comes("a receive that waits", came, moment+grace, fmt.Sprint(i)))
		if from == other {
			quickest = min(quickest, time.Since(begin))
		}
	}
	if quickest > moment {
		e.Errorf("a task that was enqueued through another connection came after %s at best", quickest)
	}
}

// eachWakesOne has as many tasks as receivers that wait.
func eachWakesOne(e *env) {
	j := e.jobs()
	other := j.again(e.open())
	const all = 8
	var came []<-chan driver.Leased
	for i := range all {
		came = append(came, []*jobs{j, other}[i%2].waits())
	}
	time.Sleep(50 * time.Millisecond) // for them to wait; nothing depends on it
	var tasks []driver.Task
	for range all / 2 {
		tasks = append(tasks, job("batch"))
	}
	j.puts(tasks...)
	for range all / 2 {
		j.put("single")
	}
	seen := map[driver.Position]bool{}
	e.within("as many tasks as receivers", moment+grace, func() {
		for _, c := range came {
			l := <-c
			seen[l.Position] = true
		}
	})
	if len(seen) != all {
		e.Errorf("%d receivers have %d tasks", all, len(seen))
	}
}

func returnWakes(e *env) {
	j := e.jobs()
	other := j.again(e.open())
	j.put("1")
	leased := j.take("1")[0]
	for i, from := range []*jobs{j, other, j} {
		came := j.waits()
		time.Sleep(20 * time.Millisecond) // for it to wait; nothing depends on it
		after := time.Duration(i%2) * 200 * time.Millisecond
		from.says(driver.Return, after, leased.Receipt)
		leased = j.comes("a task that is returned", came, after+moment+grace, "1")
	}
}

// timesWake has somebody wait for the end of a delay, of a lease, of one that
// was shortened, and of one of somebody who has gone.
func timesWake(e *env) {
	j := e.jobs()
	other := j.again(e.open())
	for _, q := range []*jobs{j, other} {
		later := job("delayed")
		later.Delay = 300 * time.Millisecond
		early := j.waits()
		time.Sleep(20 * time.Millisecond) // for it to wait; nothing depends on it
		q.puts(later)
		j.done(j.comes("the end of a delay", early, later.Delay+moment+grace, "delayed"))
		q.puts(later)
		j.done(j.comes("the end of a delay that had begun", j.waits(), later.Delay+moment+grace, "delayed"))

		q.put("leased")
		q.takeFor(driver.MinLease, "leased")
		late := j.comes("the end of a lease", j.waits(), driver.MinLease+moment+grace, "leased")
		came := j.waits()
		q.says(driver.Extend, driver.MinLease, late.Receipt)
		j.done(j.comes("the end of a lease that was shortened", came, driver.MinLease+moment+grace, "leased"))
	}

	// What ends at once comes to all that wait, one after the other.
	j.put("1", "2", "3", "4")
	j.takeFor(driver.MinLease, "1", "2", "3", "4")
	var came []<-chan driver.Leased
	for i := range 4 {
		came = append(came, []*jobs{j, other}[i%2].waits())
	}
	e.within("the end of four leases", driver.MinLease+moment+grace, func() {
		for _, c := range came {
			if l := <-c; l.Attempt != 2 {
				e.Errorf("a task with attempt %d has come", l.Attempt)
			}
		}
	})
}

func waitEnds(e *env) {
	j := e.jobs()
	j.in("other").put("1")
	for _, wait := range []time.Duration{0, time.Millisecond, 300 * time.Millisecond} {
		begin := time.Now()
		e.within("receive of nothing", wait+grace, func() {
			if leased := j.receive(driver.ReceiveRequest{Limit: 1, Wait: wait}); len(leased) > 0 {
				e.Errorf("%d tasks have come", len(leased))
			}
		})
		if took := time.Since(begin); took < wait-slack {
			e.Errorf("a wait of %s ended after %s", wait, took)
		}
	}
	short, cancel := context.WithTimeout(e.ctx, 100*time.Millisecond)
	defer cancel()
	e.within("receive with a deadline", 100*time.Millisecond+grace, func() {
		_, err := j.Receive(short, driver.ReceiveRequest{Queue: j.name, Limit: 1, Lease: time.Minute, Wait: patience})
		e.wants("receive with a deadline", err, errs.Deadline)
	})
}

// waitGivenUp gives most receives up, at all moments, while tasks come: none is lost,
// and those that a call had leased come again when its lease is over.
func waitGivenUp(e *env) {
	j := e.jobs()
	const all = 200
	var got atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := 0; got.Load() < all && e.ctx.Err() == nil; k++ {
				limit := time.Duration((i*37+k*11)%50) * 100 * time.Microsecond
				if k%4 == 3 {
					limit = moment // what takes long has a chance too
				}
				ctx, cancel := context.WithTimeout(e.ctx, limit)
				leased, err := j.Receive(ctx, driver.ReceiveRequest{Queue: j.name, Limit: 3, Lease: driver.MinLease, Wait: time.Second})
				cancel()
				if err != nil {
					e.wants("receive that is given up", err, errs.Deadline)
					if len(leased) > 0 {
						e.Error("a receive that fails returns tasks")
					}
				}
				for n, err := range j.settle(doneWith(leased)...) {
					switch {
					case err == nil:
						got.Add(1)
					case errs.ReasonOf(err) != errs.StaleReceipt:
						e.Errorf("done with %s: %s", leased[n].Value, describe(err))
					}
				}
			}
		})
	}
	for i := range all {
		j.put(fmt.Sprint(i))
	}
	e.within("receives that are given up", 20*time.Second, wg.Wait)
	if n := got.Load(); n != all {
		e.Errorf("%d of %d tasks are done", n, all)
	}
	j.counts(0, 0, 0)
}

func sameIDChecks() []check {
	return []check{
		{"same-id/across-calls", nil, sameIDAcross},
		{"same-id/in-one-call", nil, sameIDWithin},
		{"same-id/at-once", nil, sameIDAtOnce},
		{"same-id/other-queues", nil, sameIDElsewhere},
	}
}

func identified(id, text string) driver.Task {
	t := job(text)
	t.ID = id
	return t
}

// duplicates enqueues tasks and checks which of them are duplicates.
func (j *jobs) duplicates(want []bool, tasks ...driver.Task) {
	j.Helper()
	results := j.enqueue(tasks...)
	for i, t := range tasks {
		if r := results[i]; r.Err != nil || r.Duplicate != want[i] {
			j.Errorf("task %s with ID %q: %s, duplicate %v, want %v", t.Value, t.ID, describe(r.Err), r.Duplicate, want[i])
		}
	}
}

func sameIDAcross(e *env) {
	j := e.jobs()
	other := j.again(e.open())
	j.duplicates([]bool{false, false}, identified("a", "1"), identified("b", "2"))
	for _, q := range []*jobs{j, other} {
		q.duplicates([]bool{true, false, true}, identified("a", "1"), job("3"), identified("b", "other"))
	}
	j.duplicates([]bool{false, false}, identified("A", "4"), identified("a~", "5"))
	leased := j.take("1", "2", "3", "3", "4", "5")
	j.duplicates([]bool{true}, identified("a", "1"))
	j.done(leased...)
	other.duplicates([]bool{true}, identified("a", "1"))
	j.says(driver.Done, 0, leased[0].Receipt)
	j.duplicates([]bool{true, true}, identified("a", "1"), identified("b", "2"))
	j.nothing()
	j.counts(0, 0, 0)
}

func sameIDWithin(e *env) {
	j := e.jobs()
	large := identified("c", "")
	large.Value = noise(e.s.queue.MaxTask + 1)
	results := j.enqueue(identified("a", "1"), identified("b", "2"), identified("a", "3"), large, job("4"), job("4"), identified("c", "5"), identified("b", "6"))
	for i, want := range []bool{false, false, true, false, false, false, false, true} {
		if r := results[i]; r.Duplicate != want || (r.Err != nil) != (i == 3) {
			e.Errorf("task %d: %s, duplicate %v, want %v", i, describe(r.Err), r.Duplicate, want)
		}
	}
	j.take("1", "2", "4", "4", "5")
}

// sameIDAtOnce enqueues each ID many times at once: one is new.
func sameIDAtOnce(e *env) {
	j := e.jobs()
	other := j.again(e.open())
	const all = 40
	var fresh atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		on := []*jobs{j, other}[i%2]
		wg.Go(func() {
			tasks := make([]driver.Task, all)
			for k := range tasks {
				n := (k*(i%3*2+1) + i*7) % all // each has an order of its own
				tasks[k] = identified(fmt.Sprint("id", n), fmt.Sprint(n))
			}
			for at := 0; at < all; at += 10 {
				for _, r := range on.enqueue(tasks[at : at+10]...) {
					if r.Err != nil {
						e.Errorf("enqueue: %s", describe(r.Err))
					} else if !r.Duplicate {
						fresh.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]int{}
	for _, l := range j.receive(driver.ReceiveRequest{Limit: 10 * all}) {
		seen[string(l.Value)]++
	}
	if len(seen) != all || fresh.Load() != all {
		e.Errorf("of %d IDs %d were new, and %d tasks have come", all, fresh.Load(), len(seen))
	}
	for text, n := range seen {
		if n != 1 {
			e.Errorf("task %s is there %d times", text, n)
		}
	}
}

func sameIDElsewhere(e *env) {
	j := e.jobs()
	for _, q := range []*jobs{j, j.in("other"), j.in("WORK"), e.jobs()} {
		q.duplicates([]bool{false}, identified("a", "1"))
		q.take("1")
	}
	j.duplicates([]bool{true}, identified("a", "1"))
}
