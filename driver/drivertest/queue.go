package drivertest

import (
	"slices"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A QueueHarness says how the suite of Queue reaches one technology. It is a
// Harness in everything but what it is handed to.
type QueueHarness Harness

// RunQueue is Run for the primitive Queue.
func RunQueue(t *testing.T, queue QueueHarness) {
	t.Helper()
	h := Harness(queue)
	runChild(t, &h, queueWorker)
	s := newQueueSuite(t, &h)
	t.Run("checks", func(t *testing.T) {
		for _, c := range queueChecks() {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				s.run(t, c)
			})
		}
	})
	t.Run(queueLeakCheck.name, func(t *testing.T) { s.run(t, queueLeakCheck) })
	s.close(t)
	s.write(t, matrix{Suite: "queue", Driver: h.Name, Queue: &s.queue})
}

func newQueueSuite(tb testing.TB, h *Harness) *suite {
	tb.Helper()
	s, b := openSuite(tb, h, append(queueChecks(), queueLeakCheck))
	s.queue = b.Queue.Guarantees()
	return s
}

func queueChecks() []check {
	return slices.Concat(taskChecks(), leaseChecks(), settleChecks(), waitChecks(), sameIDChecks(), queueFaultChecks())
}

// jobs is one queue of a space with the short forms that checks are written in.
// Its methods fail the check when something is not as they say.
type jobs struct {
	*env
	driver.Queue
	space driver.Space
	name  string
}

// jobs returns a queue of a space of its own on the shared connection.
func (e *env) jobs() *jobs {
	e.Helper()
	return e.jobsOn(e.s.anchor, e.space())
}

func (e *env) jobsOn(conn driver.Conn, space driver.Space) *jobs {
	e.Helper()
	b, err := conn.Space(space)
	if err != nil {
		e.Fatalf("space %q %q: %v", space.Namespace, space.Pattern, err)
	}
	if b.Queue == nil {
		e.Fatalf("space %q %q has no Queue", space.Namespace, space.Pattern)
	}
	return &jobs{e, b.Queue, space, "work"}
}

// again returns the same queue through another connection.
func (j *jobs) again(conn driver.Conn) *jobs {
	j.Helper()
	return j.jobsOn(conn, j.space).in(j.name)
}

// in returns another queue of the space.
func (j *jobs) in(name string) *jobs {
	other := *j
	other.name = name
	return &other
}

// job is a task that is nothing but its text.
func job(text string) driver.Task {
	return driver.Task{Priority: driver.DefaultPriority, Value: []byte(text)}
}

// enqueue puts tasks into the queue. The results begin with what was never
// there, so that one that is left out shows.
func (j *jobs) enqueue(tasks ...driver.Task) []driver.EnqueueResult {
	results := slices.Repeat([]driver.EnqueueResult{{Duplicate: true, Err: errs.Internal}}, len(tasks))
	j.Enqueue(j.ctx, j.name, tasks, results)
	return results
}

// puts enqueues tasks that are all new.
func (j *jobs) puts(tasks ...driver.Task) {
	j.Helper()
	results := j.enqueue(tasks...)
	for i, t := range tasks {
		if r := results[i]; r.Err != nil || r.Duplicate {
			j.Fatalf("enqueue of %s: %s, duplicate %v", brief(string(t.Value)), describe(r.Err), r.Duplicate)
		}
	}
}

// put enqueues texts.
func (j *jobs) put(texts ...string) {
	j.Helper()
	tasks := make([]driver.Task, len(texts))
	for i, text := range texts {
		tasks[i] = job(text)
	}
	j.puts(tasks...)
}

// receive leases tasks.
func (j *jobs) receive(r driver.ReceiveRequest) []driver.Leased {
	j.Helper()
	r.Queue = j.name
	if r.Lease == 0 {
		r.Lease = time.Minute
	}
	leased, err := j.Receive(j.ctx, r)
	if err != nil {
		j.Fatalf("receive: %s", describe(err))
	}
	if len(leased) > r.Limit {
		j.Fatalf("receive of at most %d: %d have come", r.Limit, len(leased))
	}
	return leased
}

// take leases exactly these, in this order.
func (j *jobs) take(want ...string) []driver.Leased {
	j.Helper()
	return j.takeFor(time.Minute, want...)
}

func (j *jobs) takeFor(lease time.Duration, want ...string) []driver.Leased {
	j.Helper()
	leased := j.receive(driver.ReceiveRequest{Limit: len(want) + 1, Lease: lease})
	if got := texts(leased); !slices.Equal(got, want) {
		j.Fatalf("received %s, want %s", briefAll(got), briefAll(want))
	}
	return leased
}

// next waits for one task, which has to be this one.
func (j *jobs) next(want string) driver.Leased {
	j.Helper()
	leased := j.receive(driver.ReceiveRequest{Limit: 1, Wait: hang})
	if len(leased) != 1 || string(leased[0].Value) != want {
		j.Fatalf("waiting for %s: got %s", brief(want), briefAll(texts(leased)))
	}
	return leased[0]
}

func (j *jobs) nothing() {
	j.Helper()
	j.take()
}

func texts(leased []driver.Leased) []string {
	all := make([]string, len(leased))
	for i := range leased {
		all[i] = string(leased[i].Value)
	}
	return all
}

// settle says what became of tasks. The results begin as those of enqueue.
func (j *jobs) settle(all ...driver.Settlement) []error {
	results := slices.Repeat([]error{errs.Internal}, len(all))
	j.Settle(j.ctx, j.name, all, results)
	return results
}

// say settles one lease.
func (j *jobs) say(kind driver.SettlementKind, after time.Duration, receipt string) error {
	return j.settle(driver.Settlement{Receipt: receipt, Kind: kind, After: after})[0]
}

// says settles a lease, which has to succeed.
func (j *jobs) says(kind driver.SettlementKind, after time.Duration, receipt string) {
	j.Helper()
	if err := j.say(kind, after, receipt); err != nil {
		j.Fatalf("settlement %d: %s", kind, describe(err))
	}
}

// done settles tasks as done.
func (j *jobs) done(leased ...driver.Leased) {
	j.Helper()
	all := make([]driver.Settlement, len(leased))
	for i := range leased {
		all[i] = driver.Settlement{Receipt: leased[i].Receipt, Kind: driver.Done}
	}
	results := j.settle(all...)
	for i, l := range leased {
		if err := results[i]; err != nil {
			j.Fatalf("done with %s: %s", brief(string(l.Value)), describe(err))
		}
	}
}

// counts checks how many tasks there are.
func (j *jobs) counts(ready, delayed, leased int64) driver.QueueStat {
	j.Helper()
	s, err := j.Stat(j.ctx, j.name)
	if err != nil {
		j.Fatalf("stat: %s", describe(err))
	}
	if s.Ready != ready || s.Delayed != delayed || s.Leased != leased {
		j.Errorf("stat: %d ready, %d delayed, %d leased; want %d, %d, %d", s.Ready, s.Delayed, s.Leased, ready, delayed, leased)
	}
	if s.Oldest.IsZero() != (ready == 0) {
		j.Errorf("stat: the oldest of %d ready ones came %s", ready, s.Oldest)
	}
	return s
}

// browse returns what is in the queue.
func (j *jobs) browse(from driver.Position, limit int) []driver.Waiting {
	j.Helper()
	found, err := j.Browse(j.ctx, driver.BrowseRequest{Queue: j.name, From: from, Limit: limit})
	if err != nil {
		j.Fatalf("browse: %s", describe(err))
	}
	if len(found) > limit {
		j.Fatalf("browse of at most %d: %d have come", limit, len(found))
	}
	return found
}

// holds checks which tasks are in the queue, in the order in which they came.
func (j *jobs) holds(want ...string) []driver.Waiting {
	j.Helper()
	found := j.browse(0, len(want)+1)
	var got []string
	for i := range found {
		got = append(got, string(found[i].Value))
	}
	if !slices.Equal(got, want) {
		j.Fatalf("in the queue are %s, want %s", briefAll(got), briefAll(want))
	}
	return found
}
