package drivertest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func taskChecks() []check {
	return []check{
		{"tasks/any-bytes", nil, tasksAnyBytes},
		{"tasks/too-large", nil, tasksTooLarge},
		{"tasks/memory-is-not-shared", nil, tasksMemory},
		{"tasks/thousands", nil, tasksThousands},
		{"tasks/survive-close", needsPersistentQueue, tasksSurvive},
		{"order/priority-then-age", nil, priorityThenAge},
		{"order/returned-keeps-its-place", nil, returnedKeepsPlace},
		{"order/delayed-many-at-once", nil, delayedAtOnce},
		{"delay/not-before", nil, delayNotBefore},
		{"names/that-hurt", nil, queueNames},
		{"names/namespaces", nil, queueNamespaces},
		{"look/stat", nil, statCounts},
		{"look/browse", nil, browseShows},
		{"context/ended", nil, queueContext},
		{"conn/closed", nil, queueConnCloses},
	}
}

func needsPersistentQueue(e *env) string {
	if !e.s.h.Persistent {
		return "the data ends with the connections"
	}
	return ""
}

// sameTask reports how a task differs from what was put into the queue.
func (j *jobs) sameTask(got, want driver.Task) {
	j.Helper()
	if got.ID != want.ID || got.Priority != want.Priority || !bytes.Equal(got.Value, want.Value) {
		j.Errorf("put %s, ID %q, priority %d; got %s, ID %q, priority %d",
			brief(string(want.Value)), want.ID, want.Priority, brief(string(got.Value)), got.ID, got.Priority)
	}
	values := func(t driver.Task) map[string][]string {
		all := map[string][]string{}
		for _, h := range t.Headers {
			all[h.Name] = append(all[h.Name], h.Value)
		}
		return all
	}
	if w, g := fmt.Sprint(values(want)), fmt.Sprint(values(got)); w != g {
		j.Errorf("headers: put %s, got %s", brief(w), brief(g))
	}
}

func tasksAnyBytes(e *env) {
	j := e.jobs()
	tasks := []driver.Task{
		{Value: nil},
		{Value: []byte{0}},
		{Value: []byte("é\xff\xfe\r\n\x00'\"\\")},
		{Value: noise(1 << 10)},
		{ID: "id-1", Value: []byte("with an ID")},
		{ID: strings.Repeat("~", driver.MaxRecordID), Headers: []driver.Header{{Name: "a", Value: "1"}, {Name: "b-0", Value: ""}, {Name: "a", Value: "2"}, {Name: "a", Value: `';"=\, :`}}},
		{Headers: []driver.Header{{Name: "large", Value: strings.Repeat("x", 4000)}}},
		{Value: noise(e.s.queue.MaxTask)},
	}
	for i := range tasks {
		tasks[i].Priority = driver.MinPriority + i%driver.MaxPriority
		q := j.in(fmt.Sprint("work", i))
		q.puts(tasks[i])
		if found := q.browse(0, 2); len(found) != 1 {
			e.Errorf("browse finds %d tasks", len(found))
		} else {
			q.sameTask(found[0].Task, tasks[i])
		}
		leased := q.receive(driver.ReceiveRequest{Limit: 2})
		if len(leased) != 1 {
			e.Fatalf("received %d tasks", len(leased))
		}
		q.sameTask(leased[0].Task, tasks[i])
		q.done(leased...)
		q.counts(0, 0, 0)
	}
}

func tasksTooLarge(e *env) {
	j := e.jobs()
	most := e.s.queue.MaxTask
	large, sum := job(""), job("")
	large.Value = noise(most + 1)
	sum.Value, sum.Headers = noise(most-1), []driver.Header{{Name: "n", Value: "v"}}
	large.ID = "again"
	results := j.enqueue(job("1"), large, job("2"), sum)
	e.wants("one byte too many", results[1].Err, errs.PayloadTooLarge)
	e.wants("one byte too many with its headers", results[3].Err, errs.PayloadTooLarge)
	for _, i := range []int{0, 2} {
		if results[i].Err != nil || results[i].Duplicate {
			e.Errorf("beside one that is too large: %s", describe(results[i].Err))
		}
	}
	j.take("1", "2")
	fits := job("3")
	fits.ID = large.ID
	j.puts(fits)
	j.take("3")
}

func tasksMemory(e *env) {
	j := e.jobs()
	given := driver.Task{Priority: 1, Headers: []driver.Header{{Name: "h", Value: "given"}}, Value: []byte("given")}
	j.puts(given)
	copy(given.Value, "taken")
	given.Headers[0].Value = "taken"
	for range 2 {
		seen := j.holds("given")[0]
		copy(seen.Value, "taken")
		seen.Headers[0].Value = "taken"
	}
	first := j.take("given")[0]
	copy(first.Value, "taken")
	if first.Headers[0].Value != "given" {
		e.Errorf("the header is %s", first.Headers[0].Value)
	}
	first.Headers[0].Value = "taken"
	j.says(driver.Return, 0, first.Receipt)
	if got := j.take("given")[0]; got.Headers[0].Value != "given" {
		e.Errorf("the header is %s", got.Headers[0].Value)
	}
}

// tasksThousands has batches of thousands, as one who imports sends them.
func tasksThousands(e *env) {
	j := e.jobs()
	const all = 5000
	want := make([]string, all)
	for i := range want {
		want[i] = fmt.Sprintf("%05d", i)
	}
	j.put(want...)
	j.counts(all, 0, 0)
	var got []driver.Leased
	for len(got) < all {
		more := j.receive(driver.ReceiveRequest{Limit: 3000, Wait: hang})
		if len(more) == 0 {
			e.Fatalf("%d of %d have come", len(got), all)
		}
		got = append(got, more...)
	}
	if !slices.Equal(texts(got), want) {
		e.Error("they have not come in their order")
	}
	j.done(got...)
	j.counts(0, 0, 0)
}

func tasksSurvive(e *env) {
	c := e.s.h.Config
	if e.s.h.Server == nil && c.Dir != "" {
		c.Dir = e.TempDir() // so that nobody else has it open
	}
	conn := e.openConfig(c)
	j := e.jobsOn(conn, e.spaceIn(c))
	later := job("later")
	later.Delay, later.ID = time.Hour, "later"
	j.put("1", "2", "3")
	j.puts(later)
	leased := j.receive(driver.ReceiveRequest{Limit: 2, Lease: time.Hour})
	j.done(leased[0])
	if err := conn.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	j = j.again(e.openConfig(c))
	j.holds("2", "3", "later")
	j.counts(1, 1, 1)
	if r := j.enqueue(later)[0]; r.Err != nil || !r.Duplicate {
		e.Errorf("the same ID after opening again: %s, duplicate %v", describe(r.Err), r.Duplicate)
	}
	j.take("3")
	j.done(leased...)
	j.holds("3", "later")
}

func priorityThenAge(e *env) {
	j := e.jobs()
	for _, p := range []int{5, 1, 10, 5, 9, 2, 10, 1} {
		t := job(fmt.Sprint(p))
		t.Priority = p
		j.puts(t)
	}
	batch := []driver.Task{job("a"), job("b"), job("c")}
	batch[1].Priority = 6
	j.puts(batch...)
	want := []string{"10", "10", "9", "b", "5", "5", "a", "c", "2", "1", "1"}
	var got []driver.Leased
	for _, n := range []int{1, 4, 7} {
		got = append(got, j.receive(driver.ReceiveRequest{Limit: n})...)
	}
	if !slices.Equal(texts(got), want) {
		e.Fatalf("received %s, want %s", texts(got), want)
	}
	at := map[string][]driver.Position{}
	for _, l := range got {
		if l.Position < 1 {
			e.Errorf("position %d", l.Position)
		}
		at[string(l.Value)] = append(at[string(l.Value)], l.Position)
	}
	for _, pair := range [][2]driver.Position{{at["5"][0], at["5"][1]}, {at["10"][0], at["10"][1]}, {at["5"][1], at["a"][0]}, {at["a"][0], at["b"][0]}, {at["b"][0], at["c"][0]}} {
		if pair[0] >= pair[1] {
			e.Errorf("positions %d and %d are not in the order in which the tasks came", pair[0], pair[1])
		}
	}
}

func returnedKeepsPlace(e *env) {
	j := e.jobs()
	j.put("1", "2", "3")
	leased := j.take("1", "2", "3")
	j.put("4")
	for _, i := range []int{2, 0} {
		j.says(driver.Return, 0, leased[i].Receipt)
	}
	j.take("1", "3", "4")
}

// delayedAtOnce has many tasks whose delays end at about the same time, the most
// important ones last: they come in their order all the same.
func delayedAtOnce(e *env) {
	j := e.jobs()
	const all = 2500
	tasks := make([]driver.Task, all)
	for i := range tasks {
		tasks[i] = job(fmt.Sprint(i))
		tasks[i].Priority = driver.MinPriority
		tasks[i].Delay = 1500*time.Millisecond - time.Duration(i)*10*time.Microsecond
	}
	for i, p := range []int{9, 10} { // they are the last to come and the last to be due
		tasks[all-1-i].Priority, tasks[all-1-i].Delay = p, 1600*time.Millisecond
	}
	j.puts(tasks...)
	e.await("the end of all delays", func() bool {
		s, err := j.Stat(e.ctx, j.name)
		return err == nil && s.Ready == all
	})
	got := j.receive(driver.ReceiveRequest{Limit: 4, Wait: hang})
	if want := []string{fmt.Sprint(all - 2), fmt.Sprint(all - 1), "0", "1"}; !slices.Equal(texts(got), want) {
		e.Errorf("received %s, want %s", texts(got), want)
	}
}

func delayNotBefore(e *env) {
	j := e.jobs()
	const delay = 700 * time.Millisecond
	t := job("later")
	t.Delay, t.Priority = delay, 10
	begin := time.Now()
	j.puts(t)
	j.put("now")
	if left := j.holds("later", "now")[0].Delay; left <= 0 || left > delay+slack {
		e.Errorf("%s are left of a delay of %s", left, delay)
	}
	j.counts(1, 1, 0)
	j.take("now")
	late := j.next("later")
	if took := time.Since(begin); took < delay-slack {
		e.Errorf("it came after %s", took)
	}
	if late.Attempt != 1 || late.Delay != 0 {
		e.Errorf("it comes with attempt %d and a delay of %s", late.Attempt, late.Delay)
	}
}

func queueNames(e *env) {
	j := e.jobs()
	names := []string{
		"a", "A", "0", "a.b", "a.b.c", "a-b", "a_b", "ab", "a..b", "a.", "a-", "a__", "work.dlq", "1e3", "null", "prism_queue",
		strings.Repeat("n", driver.MaxTopic), strings.Repeat("n", driver.MaxTopic-1), strings.Repeat("n", driver.MaxTopic-1) + "m",
	}
	for _, name := range names {
		j.in(name).put("of " + name)
	}
	for _, name := range names {
		q := j.in(name)
		q.counts(1, 0, 0)
		q.done(q.take("of " + name)...)
		q.counts(0, 0, 0)
	}
}

// queueNamespaces has the same name in namespaces that must never meet, and in
// two spaces of one namespace, which are the same.
func queueNamespaces(e *env) {
	for _, pair := range e.pairs() {
		one, other := e.jobsOn(e.s.anchor, pair[0]), e.jobsOn(e.s.anchor, pair[1])
		one.put("of one")
		if pair[0].Namespace == pair[1].Namespace {
			other.done(other.take("of one")...)
			continue
		}
		other.counts(0, 0, 0)
		if len(other.browse(0, 1)) > 0 {
			e.Errorf("a task of %q is seen in %q", pair[0].Namespace, pair[1].Namespace)
		}
		other.put("of the other")
		leased := one.take("of one")
		_ = other.say(driver.Done, 0, leased[0].Receipt)
		one.holds("of one")
		one.done(leased...)
		other.done(other.take("of the other")...)
	}
}

func statCounts(e *env) {
	j := e.jobs()
	begin := time.Now()
	if s := j.counts(0, 0, 0); s != (driver.QueueStat{}) {
		e.Errorf("stat of a queue that never was: %+v", s)
	}
	delayed := job("delayed")
	delayed.Delay = time.Hour
	j.put("1", "2")
	j.puts(delayed)
	s := j.counts(2, 1, 0)
	if d := s.Oldest.Sub(begin); d < -slack || d > time.Since(begin)+slack {
		e.Errorf("the oldest came %s after the beginning", d)
	}
	waiting := j.holds("1", "2", "delayed")
	one := j.receive(driver.ReceiveRequest{Limit: 1})[0]
	if s = j.counts(1, 1, 1); !s.Oldest.Equal(waiting[1].Enqueued) {
		e.Errorf("the oldest came %s, and the second task %s", s.Oldest, waiting[1].Enqueued)
	}
	j.says(driver.Return, time.Hour, one.Receipt)
	j.counts(1, 2, 0)
	two := j.take("2")
	j.counts(0, 2, 1)
	j.done(two...)
	j.counts(0, 2, 0)
	j.in("other").counts(0, 0, 0)
}

func browseShows(e *env) {
	j := e.jobs()
	if found := j.browse(0, 10); len(found) > 0 {
		e.Errorf("%d tasks are in a queue that never was", len(found))
	}
	urgent := job("4")
	urgent.Priority = driver.MaxPriority
	j.put("1", "2", "3")
	j.puts(urgent)
	j.done(j.take("4", "1", "2", "3")[2])
	delayed := job("5")
	delayed.Delay = time.Hour
	j.puts(delayed)
	found := j.holds("1", "3", "4", "5")
	for _, w := range found[:3] {
		if w.Attempt != 1 || w.First.IsZero() || w.Delay != 0 || w.Enqueued.IsZero() {
			e.Errorf("a leased task: attempt %d, first leased %s, delay %s, came %s", w.Attempt, w.First, w.Delay, w.Enqueued)
		}
	}
	if w := found[3]; w.Attempt != 0 || !w.First.IsZero() || w.Delay < 59*time.Minute || w.Delay > time.Hour+slack {
		e.Errorf("a delayed task: attempt %d, first leased %s, delay %s", w.Attempt, w.First, w.Delay)
	}
	for i, w := range found {
		rest := j.browse(w.Position, 2)
		if len(rest) != min(2, len(found)-i) || rest[0].Position != w.Position {
			e.Errorf("browse of two from task %d: %d have come", i, len(rest))
		}
		if i > 0 && w.Position <= found[i-1].Position {
			e.Errorf("positions %d and %d", found[i-1].Position, w.Position)
		}
	}
	if n := len(j.browse(found[3].Position+1, 10)); n > 0 {
		e.Errorf("%d tasks are behind the last one", n)
	}
	j.holds("1", "3", "4", "5")
}

// calls calls each method once and returns the errors.
func (j *jobs) calls(ctx context.Context, receipt string) map[string]error {
	results := []driver.EnqueueResult{{Err: errs.Internal}, {Err: errs.Internal}}
	j.Enqueue(ctx, j.name, []driver.Task{job("x"), job("y")}, results)
	settled := []error{errs.Internal}
	j.Settle(ctx, j.name, []driver.Settlement{{Receipt: receipt, Kind: driver.Done}}, settled)
	_, received := j.Receive(ctx, driver.ReceiveRequest{Queue: j.name, Limit: 1, Lease: time.Minute, Wait: time.Minute})
	_, browsed := j.Browse(ctx, driver.BrowseRequest{Queue: j.name, Limit: 1})
	_, counted := j.Stat(ctx, j.name)
	return map[string]error{
		"enqueue": results[0].Err, "enqueue of the second": results[1].Err, "settle": settled[0],
		"receive": received, "browse": browsed, "stat": counted,
	}
}

func queueContext(e *env) {
	j := e.jobs()
	j.put("1")
	leased := j.take("1")
	j.put("2")
	ended, cancel := context.WithCancel(e.ctx)
	cancel()
	for what, err := range j.calls(ended, leased[0].Receipt) {
		e.wants(what, err, errs.Cancelled)
	}
	late, cancel := context.WithDeadline(e.ctx, time.Now().Add(-time.Second))
	defer cancel()
	for what, err := range j.calls(late, leased[0].Receipt) {
		e.wants(what, err, errs.Deadline)
	}
	j.holds("1", "2")
	j.done(append(leased, j.take("2")...)...)
}

func queueConnCloses(e *env) {
	conn := e.open()
	j := e.jobsOn(conn, e.space())
	j.put("1")
	leased := j.take("1")
	waiting := make(chan error, 1)
	go func() {
		_, err := j.Receive(e.ctx, driver.ReceiveRequest{Queue: j.name, Limit: 1, Lease: time.Minute, Wait: patience})
		waiting <- err
	}()
	time.Sleep(20 * time.Millisecond) // for it to wait; nothing depends on it
	if err := conn.Close(); err != nil {
		e.Fatalf("close: %v", err)
	}
	e.within("receive under way on a closed connection", 5*time.Second, func() {
		e.wants("receive under way on a closed connection", <-waiting, errs.BackendUnavailable)
	})
	for what, err := range j.calls(e.ctx, leased[0].Receipt) {
		e.wants(what+" on a closed connection", err, errs.BackendUnavailable)
	}
}
