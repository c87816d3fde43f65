package drivertest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func leaseChecks() []check {
	return []check{
		{"lease/each-to-one", nil, eachToOne},
		{"lease/ends", nil, leaseEnds},
		{"lease/extend", nil, leaseExtends},
		{"lease/limits", nil, leaseLimits},
		{"lease/receipts", nil, receiptsHaveForm},
	}
}

// eachToOne has many receivers on two connections while tasks still come: each
// task is leased by one of them.
func eachToOne(e *env) {
	j := e.jobs()
	other := j.again(e.open())
	const all, receivers = 1200, 16
	var mu sync.Mutex
	times := map[string]int{}
	var wg sync.WaitGroup
	for i := range receivers {
		on := []*jobs{j, other}[i%2]
		wg.Go(func() {
			for {
				leased, err := on.Receive(e.ctx, driver.ReceiveRequest{Queue: on.name, Limit: 1 + i, Lease: time.Minute, Wait: 2 * time.Second})
				if err != nil {
					e.Errorf("receive: %s", describe(err))
				}
				if len(leased) == 0 || err != nil {
					return
				}
				mu.Lock()
				for _, l := range leased {
					times[string(l.Value)]++
				}
				mu.Unlock()
				for k, err := range on.settle(doneWith(leased)...) {
					if err != nil {
						e.Errorf("done with %s: %s", leased[k].Value, describe(err))
					}
				}
			}
		})
	}
	for i := range 4 {
		wg.Go(func() {
			for k := 0; k < all/4; k += 20 {
				tasks := make([]driver.Task, 20)
				for n := range tasks {
					tasks[n] = job(fmt.Sprint(i, "-", k+n))
				}
				for _, r := range j.enqueue(tasks...) {
					if r.Err != nil {
						e.Errorf("enqueue: %s", describe(r.Err))
					}
				}
			}
		})
	}
	e.within("many receivers", patience, wg.Wait)
	for text, n := range times {
		if n != 1 {
			e.Errorf("task %s was leased %d times", text, n)
		}
	}
	if len(times) != all {
		e.Errorf("%d of %d tasks have come", len(times), all)
	}
	j.counts(0, 0, 0)
}

func doneWith(leased []driver.Leased) []driver.Settlement {
	all := make([]driver.Settlement, len(leased))
	for i := range leased {
		all[i] = driver.Settlement{Receipt: leased[i].Receipt, Kind: driver.Done}
	}
	return all
}

// leaseEnds lets a lease end: the task comes to somebody else, and the receipt
// of before settles nothing.
func leaseEnds(e *env) {
	j := e.jobs()
	other := j.again(e.open())
	j.put("1", "other")
	begin := time.Now()
	first := j.receive(driver.ReceiveRequest{Limit: 1, Lease: driver.MinLease})[0]
	if d := first.Until.Sub(begin); d < driver.MinLease-slack || d > driver.MinLease+time.Since(begin)+slack {
		e.Errorf("a lease of %s ends after %s", driver.MinLease, d)
	}
	if d := first.First.Sub(begin); first.Attempt != 1 || d < -slack || d > time.Since(begin)+slack {
		e.Errorf("attempt %d, leased first %s after the beginning", first.Attempt, d)
	}
	rest := other.take("other")
	j.nothing()
	second := other.next("1")
	if took := time.Since(begin); took < driver.MinLease-slack {
		e.Errorf("the lease ended after %s", took)
	}
	if second.Attempt != 2 || second.Position != first.Position || !sameMoment(second.First, first.First) || !sameMoment(second.Enqueued, first.Enqueued) {
		e.Errorf("the second lease: attempt %d, position %d and %d, first leased %s and %s, came %s and %s", second.Attempt,
			first.Position, second.Position, first.First, second.First, first.Enqueued, second.Enqueued)
	}
	if second.Receipt == first.Receipt {
		e.Error("both leases have the same receipt")
	}
	j.stale(first.Receipt)
	j.counts(0, 0, 2)
	j.nothing()
	if left := j.holds("1", "other")[0]; left.Attempt != 2 {
		e.Errorf("after settlements that were refused, the task has been leased %d times", left.Attempt)
	}
	j.done(second)
	j.holds("other")
	if err := j.say(driver.Return, 0, first.Receipt); err != nil {
		e.Errorf("what is said with an old receipt of a task that is done: %s", describe(err))
	}
	j.done(rest...)

	// A lease that is over is over, also if nobody else has the task.
	j.put("2")
	first = j.takeFor(driver.MinLease, "2")[0]
	e.await("the end of a lease", func() bool {
		s, err := j.Stat(e.ctx, j.name)
		return err == nil && s.Ready == 1
	})
	j.stale(first.Receipt)
	j.counts(1, 0, 0)
	j.done(j.take("2")...)
}

func sameMoment(a, b time.Time) bool { return a.Sub(b).Abs() <= time.Millisecond }

// stale checks that a receipt settles nothing in any way.
func (j *jobs) stale(receipt string) {
	j.Helper()
	for _, s := range []driver.Settlement{
		{Kind: driver.Done},
		{Kind: driver.Return},
		{Kind: driver.Return, After: time.Hour, Uncounted: true},
		{Kind: driver.Extend, After: time.Hour},
	} {
		s.Receipt = receipt
		j.wants(fmt.Sprintf("settlement %d with %s", s.Kind, brief(receipt)), j.settle(s)[0], errs.StaleReceipt)
	}
}

// leaseExtends keeps a task longer than its lease, and another one shorter.
func leaseExtends(e *env) {
	j := e.jobs()
	j.put("long", "short")
	long := j.receive(driver.ReceiveRequest{Limit: 1, Lease: driver.MinLease})[0]
	short := j.take("short")[0]
	begin := time.Now()
	j.says(driver.Extend, 4*time.Second, long.Receipt)
	j.says(driver.Extend, driver.MinLease, short.Receipt)
	again := j.next("short")
	if took := time.Since(begin); took < driver.MinLease-slack || again.Attempt != 2 {
		e.Errorf("the short one came again after %s with attempt %d", took, again.Attempt)
	}
	j.wants("extend of a lease that is over", j.say(driver.Extend, time.Minute, short.Receipt), errs.StaleReceipt)
	j.says(driver.Extend, 3*time.Second, long.Receipt)
	j.says(driver.Extend, 3*time.Second, long.Receipt)
	j.counts(0, 0, 2)
	long = j.next("long")
	if took := time.Since(begin); took < 3*time.Second || long.Attempt != 2 {
		e.Errorf("the long one came again after %s with attempt %d", took, long.Attempt)
	}
}

func leaseLimits(e *env) {
	j := e.jobs()
	size := min(1000, e.s.queue.MaxTask-1)
	var want []string
	for i := range 10 {
		want = append(want, fmt.Sprint(i)+strings.Repeat("x", size))
	}
	j.put(want...)
	for _, step := range []struct{ limit, bytes, want int }{{2, 0, 2}, {5, 1, 1}, {5, size + 1, 1}, {5, size + 2, 2}, {3, 100 * size, 3}, {5, 0, 1}} {
		got := texts(j.receive(driver.ReceiveRequest{Limit: step.limit, MaxBytes: step.bytes}))
		if !slices.Equal(got, want[:step.want]) {
			e.Fatalf("receive of at most %d tasks and %d bytes: got %s, want %d", step.limit, step.bytes, briefAll(got), step.want)
		}
		want = want[step.want:]
	}
}

// receiptsHaveForm checks what receipts look like, and that a text which is near
// to one settles nothing.
func receiptsHaveForm(e *env) {
	j := e.jobs()
	const all = 50
	var tasks []string
	for i := range all {
		tasks = append(tasks, fmt.Sprint(i))
	}
	j.put(tasks...)
	leased := j.take(tasks...)
	seen := map[string]bool{}
	for _, l := range leased {
		if l.Receipt == "" || len(l.Receipt) > 64 || strings.ContainsFunc(l.Receipt, func(r rune) bool { return r <= ' ' || r > '~' }) {
			e.Errorf("the receipt %s is not 1 to 64 bytes of printable ASCII without spaces", brief(l.Receipt))
		}
		seen[l.Receipt] = true
	}
	if len(seen) != all {
		e.Errorf("%d tasks have %d receipts", all, len(seen))
	}
	for _, text := range []string{"", " ", "nonesuch", "é", "\x00", "'; drop table prism_queue; --", strings.Repeat("x", 64), strings.Repeat("x", 1000)} {
		e.wants("done with "+brief(text), j.say(driver.Done, 0, text), errs.StaleReceipt)
	}
	for _, text := range []string{"0", "1", "1.", ".", "-1.-1", strings.Repeat("9", 64)} {
		_ = j.say(driver.Done, 0, text) // may look like the receipt of a task that is not there any more
	}
	one := leased[0].Receipt
	for i := range len(one) {
		for _, c := range []byte{'0', 'A', '.'} {
			if text := one[:i] + string(c) + one[i+1:]; text != one {
				_ = j.say(driver.Done, 0, text)
			}
		}
	}
	_ = j.say(driver.Done, 0, one+"0")
	_ = j.say(driver.Done, 0, one[:len(one)-1])
	_ = j.say(driver.Done, 0, one[:len(one)/2]+leased[1].Receipt[len(leased[1].Receipt)/2:])
	j.counts(0, 0, all)
}

func settleChecks() []check {
	return []check{
		{"settle/done-twice", nil, settleTwice},
		{"settle/return", nil, settleReturn},
		{"settle/batch", nil, settleBatch},
		{"settle/other-queue", nil, settleElsewhere},
	}
}

func settleTwice(e *env) {
	j := e.jobs()
	other := j.again(e.open())
	j.put("1", "2", "3")
	leased := j.take("1", "2", "3")
	for _, q := range []*jobs{j, j, other} {
		q.says(driver.Done, 0, leased[0].Receipt)
	}
	for _, kind := range []driver.SettlementKind{driver.Return, driver.Extend} {
		j.says(kind, time.Second, leased[0].Receipt)
	}
	twice := driver.Settlement{Receipt: leased[1].Receipt, Kind: driver.Done}
	if err := worst(j.settle(twice, twice)); err != nil {
		e.Errorf("done twice in one call: %s", describe(err))
	}
	j.holds("3")
	var wg sync.WaitGroup
	for i := range 8 {
		on := []*jobs{j, other}[i%2]
		wg.Go(func() {
			if err := on.say(driver.Done, 0, leased[2].Receipt); err != nil {
				e.Errorf("one of many that say done at once: %s", describe(err))
			}
		})
	}
	wg.Wait()
	j.counts(0, 0, 0)
}

func settleReturn(e *env) {
	j := e.jobs()
	j.put("1")
	one := j.take("1")[0]
	j.says(driver.Return, 0, one.Receipt)
	j.stale(one.Receipt)
	two := j.take("1")[0]
	if two.Attempt != 2 || two.Receipt == one.Receipt || !sameMoment(two.First, one.First) {
		e.Errorf("after a return: attempt %d, first leased %s and %s", two.Attempt, one.First, two.First)
	}
	j.stale(one.Receipt)
	if err := j.settle(driver.Settlement{Receipt: two.Receipt, Kind: driver.Return, Uncounted: true})[0]; err != nil {
		e.Errorf("return that is not counted: %s", describe(err))
	}
	if n := j.holds("1")[0].Attempt; n != 1 {
		e.Errorf("after a return that is not counted it has been leased %d times", n)
	}
	three := j.take("1")[0]
	if three.Attempt != 2 {
		e.Errorf("after a return that is not counted: attempt %d", three.Attempt)
	}
	const after = 700 * time.Millisecond
	begin := time.Now()
	j.says(driver.Return, after, three.Receipt)
	j.counts(0, 1, 0)
	if w := j.holds("1")[0]; w.Delay <= 0 || w.Delay > after+slack {
		e.Errorf("%s are left of %s", w.Delay, after)
	}
	j.nothing()
	four := j.next("1")
	if took := time.Since(begin); took < after-slack || four.Attempt != 3 {
		e.Errorf("it came again after %s with attempt %d", took, four.Attempt)
	}
	j.done(four)
}

// settleBatch says different things at once: each has its own outcome.
func settleBatch(e *env) {
	j := e.jobs()
	j.put("1", "2", "3", "4", "5")
	leased := j.take("1", "2", "3", "4", "5")
	j.says(driver.Return, 0, leased[4].Receipt)
	again := j.take("5")[0]
	results := j.settle(
		driver.Settlement{Receipt: leased[4].Receipt, Kind: driver.Done},
		driver.Settlement{Receipt: leased[0].Receipt, Kind: driver.Done},
		driver.Settlement{Receipt: "nonesuch", Kind: driver.Done},
		driver.Settlement{Receipt: leased[1].Receipt, Kind: driver.Return},
		driver.Settlement{Receipt: leased[2].Receipt, Kind: driver.Return, After: time.Hour, Uncounted: true},
		driver.Settlement{Receipt: leased[3].Receipt, Kind: driver.Extend, After: time.Hour},
	)
	for i, err := range results {
		if i == 0 || i == 2 {
			e.wants(fmt.Sprint("settlement ", i), err, errs.StaleReceipt)
		} else if err != nil {
			e.Errorf("settlement %d: %s", i, describe(err))
		}
	}
	found := j.holds("2", "3", "4", "5")
	for i, want := range []int{1, 0, 1, 2} {
		if found[i].Attempt != want {
			e.Errorf("task %s has been leased %d times, want %d", found[i].Value, found[i].Attempt, want)
		}
	}
	if d := found[1].Delay; d < 59*time.Minute {
		e.Errorf("%s are left of an hour", d)
	}
	j.counts(1, 1, 2)
	j.done(again, leased[3])
	j.take("2")
}

// settleElsewhere uses receipts in other queues and namespaces, where they have
// no effect whatever the outcome is.
func settleElsewhere(e *env) {
	j := e.jobs()
	j.put("1")
	leased := j.take("1")
	for _, q := range []*jobs{j.in("other"), e.jobs()} {
		q.put("own")
		own := q.take("own")
		for _, kind := range []driver.SettlementKind{driver.Done, driver.Return, driver.Extend} {
			_ = q.say(kind, time.Second, leased[0].Receipt)
		}
		j.counts(0, 0, 1)
		q.counts(0, 0, 1)
		q.done(own...)
	}
	j.nothing()
	j.done(leased...)
	j.counts(0, 0, 0)
}
