package drivertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func queueKit() *kit {
	return &kit{queueChecks(), newQueueSuite, memoryHarness, queueMistakes(), []string{
		"receives that are given up keep what they had", "leases never end", "waits outlive their connection",
		"receivers look every five seconds", "batches end at a thousand",
	}}
}

// TestBrokenQueuesAreFound runs checks against Queues with one mistake each.
func TestBrokenQueuesAreFound(t *testing.T) { queueKit().findMistakes(t) }

func TestEachQueueCheckCanFail(t *testing.T) {
	t.Parallel()
	queueKit().canAllFail(t)
}

// sloppy is a Queue with some of what it does replaced.
type sloppy struct {
	driver.Queue
	enqueue    func(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult)
	receive    func(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error)
	settle     func(ctx context.Context, queue string, all []driver.Settlement, results []error)
	browse     func(ctx context.Context, r driver.BrowseRequest) ([]driver.Waiting, error)
	stat       func(ctx context.Context, queue string) (driver.QueueStat, error)
	guarantees func(driver.QueueGuarantees) driver.QueueGuarantees
}

func (s *sloppy) Enqueue(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
	if s.enqueue == nil {
		s.Queue.Enqueue(ctx, queue, tasks, results)
		return
	}
	s.enqueue(ctx, queue, tasks, results)
}

func (s *sloppy) Receive(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
	if s.receive == nil {
		return s.Queue.Receive(ctx, r)
	}
	return s.receive(ctx, r)
}

func (s *sloppy) Settle(ctx context.Context, queue string, all []driver.Settlement, results []error) {
	if s.settle == nil {
		s.Queue.Settle(ctx, queue, all, results)
		return
	}
	s.settle(ctx, queue, all, results)
}

func (s *sloppy) Browse(ctx context.Context, r driver.BrowseRequest) ([]driver.Waiting, error) {
	if s.browse == nil {
		return s.Queue.Browse(ctx, r)
	}
	return s.browse(ctx, r)
}

func (s *sloppy) Stat(ctx context.Context, queue string) (driver.QueueStat, error) {
	if s.stat == nil {
		return s.Queue.Stat(ctx, queue)
	}
	return s.stat(ctx, queue)
}

func (s *sloppy) Guarantees() driver.QueueGuarantees {
	if s.guarantees == nil {
		return s.Queue.Guarantees()
	}
	return s.guarantees(s.Queue.Guarantees())
}

func spoilQueue(spoil func(*sloppy)) func(*driver.Driver) {
	return spoilBackend(func(_ driver.Space, b *driver.Backend) {
		s := &sloppy{Queue: b.Queue}
		spoil(s)
		b.Queue = s
	})
}

// spoilTasks changes each task that is enqueued.
func spoilTasks(change func(*driver.Task)) func(*driver.Driver) {
	return spoilQueue(func(s *sloppy) {
		s.enqueue = func(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
			tasks = slices.Clone(tasks)
			for i := range tasks {
				change(&tasks[i])
			}
			s.Queue.Enqueue(ctx, queue, tasks, results)
		}
	})
}

// spoilReceive changes each request for tasks.
func spoilReceive(change func(*driver.ReceiveRequest)) func(*driver.Driver) {
	return spoilQueue(func(s *sloppy) {
		s.receive = func(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
			change(&r)
			return s.Queue.Receive(ctx, r)
		}
	})
}

// spoilLeased changes each task that is received.
func spoilLeased(change func(*driver.Leased)) func(*driver.Driver) {
	return spoilQueue(func(s *sloppy) {
		s.receive = func(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
			leased, err := s.Queue.Receive(ctx, r)
			for i := range leased {
				change(&leased[i])
			}
			return leased, err
		}
	})
}

// spoilSettle changes each settlement.
func spoilSettle(change func(*driver.Settlement)) func(*driver.Driver) {
	return spoilQueue(func(s *sloppy) {
		s.settle = func(ctx context.Context, queue string, all []driver.Settlement, results []error) {
			all = slices.Clone(all)
			for i := range all {
				change(&all[i])
			}
			s.Queue.Settle(ctx, queue, all, results)
		}
	})
}

// spoilNames changes the name of the queue everywhere.
func spoilNames(change func(string) string) func(*driver.Driver) {
	return spoilQueue(func(s *sloppy) {
		s.enqueue = func(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
			s.Queue.Enqueue(ctx, change(queue), tasks, results)
		}
		s.receive = func(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
			r.Queue = change(r.Queue)
			return s.Queue.Receive(ctx, r)
		}
		s.settle = func(ctx context.Context, queue string, all []driver.Settlement, results []error) {
			s.Queue.Settle(ctx, change(queue), all, results)
		}
		s.browse = func(ctx context.Context, r driver.BrowseRequest) ([]driver.Waiting, error) {
			r.Queue = change(r.Queue)
			return s.Queue.Browse(ctx, r)
		}
		s.stat = func(ctx context.Context, queue string) (driver.QueueStat, error) {
			return s.Queue.Stat(ctx, change(queue))
		}
	})
}

// spoilWait replaces what a receive with a wait does.
func spoilWait(wait func(ctx context.Context, q driver.Queue, r driver.ReceiveRequest) ([]driver.Leased, error)) func(*driver.Driver) {
	return spoilQueue(func(s *sloppy) {
		s.receive = func(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
			if r.Wait == 0 {
				return s.Queue.Receive(ctx, r)
			}
			return wait(ctx, s.Queue, r)
		}
	})
}

// lend gives out the producer's own memory.
func lend(s *sloppy) {
	var mu sync.Mutex
	var given []byte
	s.enqueue = func(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
		mu.Lock()
		given = tasks[0].Value
		mu.Unlock()
		s.Queue.Enqueue(ctx, queue, tasks, results)
	}
	s.browse = func(ctx context.Context, r driver.BrowseRequest) ([]driver.Waiting, error) {
		found, err := s.Queue.Browse(ctx, r)
		mu.Lock()
		defer mu.Unlock()
		for i := range found {
			found[i].Value = given
		}
		return found, err
	}
}

// toTheEnd makes a new task of one that is returned.
func toTheEnd(s *sloppy) {
	var mu sync.Mutex
	had := map[string]driver.Task{}
	s.receive = func(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
		leased, err := s.Queue.Receive(ctx, r)
		mu.Lock()
		defer mu.Unlock()
		for _, l := range leased {
			had[l.Receipt] = l.Task
		}
		return leased, err
	}
	s.settle = func(ctx context.Context, queue string, all []driver.Settlement, results []error) {
		all = slices.Clone(all)
		for i, one := range all {
			mu.Lock()
			t, known := had[one.Receipt]
			mu.Unlock()
			if known && one.Kind == driver.Return {
				all[i].Kind, t.Delay = driver.Done, one.After
				s.Queue.Enqueue(ctx, queue, []driver.Task{t}, make([]driver.EnqueueResult, 1))
			}
		}
		s.Queue.Settle(ctx, queue, all, results)
	}
}

// generous leases some tasks to two.
func generous(s *sloppy) {
	s.receive = func(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
		leased, err := s.Queue.Receive(ctx, r)
		if len(leased) > 4 {
			last := driver.Settlement{Receipt: leased[4].Receipt, Kind: driver.Return, Uncounted: true}
			s.Queue.Settle(ctx, r.Queue, []driver.Settlement{last}, make([]error, 1))
		}
		return leased, err
	}
}

// forgiving takes the receipt of a task's last lease for any other one.
func forgiving(rewrite func(driver.Leased) string) func(*sloppy) {
	return func(s *sloppy) {
		var mu sync.Mutex
		last, of := map[driver.Position]string{}, map[string]driver.Position{}
		s.receive = func(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
			leased, err := s.Queue.Receive(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			for i, l := range leased {
				leased[i].Receipt = rewrite(l)
				last[l.Position], of[leased[i].Receipt] = l.Receipt, l.Position
			}
			return leased, err
		}
		s.settle = func(ctx context.Context, queue string, all []driver.Settlement, results []error) {
			all = slices.Clone(all)
			mu.Lock()
			for i := range all {
				if p, known := of[all[i].Receipt]; known {
					all[i].Receipt = last[p]
				}
			}
			mu.Unlock()
			s.Queue.Settle(ctx, queue, all, results)
		}
	}
}

// spoilTaskOutcomes changes the outcomes of settlements.
func spoilTaskOutcomes(change func([]error)) func(*driver.Driver) {
	return spoilQueue(func(s *sloppy) {
		s.settle = func(ctx context.Context, queue string, all []driver.Settlement, results []error) {
			s.Queue.Settle(ctx, queue, all, results)
			change(results)
		}
	})
}

// forgetsDone tells a receipt that was used from one that was never given.
func forgetsDone(s *sloppy) {
	var mu sync.Mutex
	done := map[string]bool{}
	s.settle = func(ctx context.Context, queue string, all []driver.Settlement, results []error) {
		s.Queue.Settle(ctx, queue, all, results)
		mu.Lock()
		defer mu.Unlock()
		for i := range all {
			if done[all[i].Receipt] {
				results[i] = errs.StaleReceipt
			}
			done[all[i].Receipt] = done[all[i].Receipt] || results[i] == nil && all[i].Kind == driver.Done
		}
	}
}

// everywhere settles in the queue that a receipt is of, whatever it is told. All
// spaces of a connection share its books.
type everywhere struct {
	driver.Conn
	mu sync.Mutex
	at map[string]func(ctx context.Context, one driver.Settlement) error
}

func (c *everywhere) Space(space driver.Space) (driver.Backend, error) {
	b, err := c.Conn.Space(space)
	if err != nil {
		return b, err
	}
	s := &sloppy{Queue: b.Queue}
	s.receive = func(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
		leased, err := s.Queue.Receive(ctx, r)
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, l := range leased {
			c.at[l.Receipt] = func(ctx context.Context, one driver.Settlement) error {
				results := make([]error, 1)
				s.Queue.Settle(ctx, r.Queue, []driver.Settlement{one}, results)
				return results[0]
			}
		}
		return leased, err
	}
	s.settle = func(ctx context.Context, _ string, all []driver.Settlement, results []error) {
		for i, one := range all {
			c.mu.Lock()
			settle := c.at[one.Receipt]
			c.mu.Unlock()
			if results[i] = errs.StaleReceipt; settle != nil {
				results[i] = settle(ctx, one)
			}
		}
	}
	b.Queue = s
	return b, nil
}

// ownIDs keeps books of its own on IDs: known says whether one is known, which
// it is from then on.
func ownIDs(known func(queue, id string) bool) func(*sloppy) {
	return func(s *sloppy) {
		s.enqueue = func(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
			for i, t := range tasks {
				if t.ID != "" && known(queue, t.ID) {
					results[i] = driver.EnqueueResult{Duplicate: true}
					continue
				}
				t.ID = ""
				s.Queue.Enqueue(ctx, queue, []driver.Task{t}, results[i:i+1])
			}
		}
	}
}

func set() (has func(string) bool, add func(string)) {
	var mu sync.Mutex
	all := map[string]bool{}
	return func(s string) bool {
			mu.Lock()
			defer mu.Unlock()
			return all[s]
		}, func(s string) {
			mu.Lock()
			defer mu.Unlock()
			all[s] = true
		}
}

// racy looks for an ID and remembers it a moment later.
func racy() func(*driver.Driver) {
	has, add := set()
	return spoilBackend(func(space driver.Space, b *driver.Backend) {
		s := &sloppy{Queue: b.Queue}
		ownIDs(func(queue, id string) bool {
			name := space.Namespace + " " + queue + " " + id
			if has(name) {
				return true
			}
			time.Sleep(time.Millisecond)
			add(name)
			return false
		})(s)
		b.Queue = s
	})
}

func sharedIDs(s *sloppy) {
	has, add := set()
	ownIDs(func(_, id string) bool {
		defer add(id)
		return has(id)
	})(s)
}

// forgetsIDs forgets the IDs of tasks that are done.
func forgetsIDs(s *sloppy) {
	done := false
	var mu sync.Mutex
	s.settle = func(ctx context.Context, queue string, all []driver.Settlement, results []error) {
		s.Queue.Settle(ctx, queue, all, results)
		mu.Lock()
		done = true
		mu.Unlock()
	}
	s.enqueue = func(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
		tasks = slices.Clone(tasks)
		mu.Lock()
		for i := range tasks {
			if done {
				tasks[i].ID = ""
			}
		}
		mu.Unlock()
		s.Queue.Enqueue(ctx, queue, tasks, results)
	}
}

func queueMistakes() []mistake {
	return slices.Concat(taskMistakes(), leaseMistakes(), waitMistakes(), []mistake{
		{"IDs are ignored", spoilTasks(func(t *driver.Task) { t.ID = "" }), []string{"same-id/across-calls", "same-id/in-one-call", "same-id/at-once", "same-id/other-queues", "tasks/any-bytes"}},
		{"IDs are looked for and then remembered", racy(), []string{"same-id/at-once"}},
		{"IDs are those of all queues", spoilQueue(sharedIDs), []string{"same-id/other-queues"}},
		{"IDs are forgotten when tasks are done", spoilQueue(forgetsIDs), []string{"same-id/across-calls"}},
		{"IDs of one call are not compared", spoilQueue(func(s *sloppy) {
			s.enqueue = func(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
				tasks = slices.Clone(tasks)
				for i := range tasks {
					if slices.ContainsFunc(tasks[:i], func(t driver.Task) bool { return t.ID == tasks[i].ID }) {
						tasks[i].ID = ""
					}
				}
				s.Queue.Enqueue(ctx, queue, tasks, results)
			}
		}), []string{"same-id/in-one-call"}},
	})
}

func taskMistakes() []mistake {
	return []mistake{
		{"values are text", spoilTasks(func(t *driver.Task) { t.Value = []byte(strings.ToValidUTF8(string(t.Value), "?")) }), []string{"tasks/any-bytes"}},
		{"headers of one name are one", spoilTasks(func(t *driver.Task) {
			t.Headers = slices.CompactFunc(slices.Clone(t.Headers), func(a, b driver.Header) bool { return a.Name == b.Name })
		}), []string{"tasks/any-bytes"}},
		{"one that is too large fails all", spoilQueue(func(s *sloppy) {
			s.enqueue = func(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
				s.Queue.Enqueue(ctx, queue, tasks, results)
				if i := slices.IndexFunc(results, func(r driver.EnqueueResult) bool { return r.Err != nil }); i >= 0 {
					for k := range results {
						results[k] = results[i]
					}
				}
			}
		}), []string{"tasks/too-large", "same-id/in-one-call"}},
		{"the limit is not the one that is told", spoilQueue(func(s *sloppy) {
			s.guarantees = func(g driver.QueueGuarantees) driver.QueueGuarantees { g.MaxTask /= 2; return g }
		}), []string{"tasks/too-large"}},
		{"values are the producer's", spoilQueue(lend), []string{"tasks/memory-is-not-shared"}},
		{"batches end at a thousand", spoilQueue(func(s *sloppy) {
			s.enqueue = func(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
				clear(results)
				n := min(1000, len(tasks))
				s.Queue.Enqueue(ctx, queue, tasks[:n], results[:n])
			}
		}), []string{"tasks/thousands"}},
		{"batches are turned around", spoilQueue(func(s *sloppy) {
			s.enqueue = func(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
				tasks = slices.Clone(tasks)
				slices.Reverse(tasks)
				s.Queue.Enqueue(ctx, queue, tasks, results)
				slices.Reverse(results)
			}
		}), []string{"tasks/thousands", "order/priority-then-age"}},
		{"priorities are ignored", spoilTasks(func(t *driver.Task) { t.Priority = driver.DefaultPriority }), []string{"order/priority-then-age", "order/delayed-many-at-once"}},
		{"low priorities come first", spoilTasks(func(t *driver.Task) { t.Priority = driver.MaxPriority + driver.MinPriority - t.Priority }), []string{"order/priority-then-age"}},
		{"what is returned goes to the end", spoilQueue(toTheEnd), []string{"order/returned-keeps-its-place", "settle/return"}},
		{"delayed tasks lose their priority", spoilTasks(func(t *driver.Task) {
			if t.Delay > 0 {
				t.Priority = driver.MinPriority
			}
		}), []string{"order/delayed-many-at-once"}},
		{"delays are whole seconds", spoilTasks(func(t *driver.Task) { t.Delay = t.Delay.Truncate(time.Second) }), []string{"delay/not-before"}},
		{"names fold case", spoilNames(strings.ToLower), []string{"names/that-hurt", "same-id/other-queues"}},
		{"names are cut", spoilNames(func(s string) string { return s[:min(len(s), 100)] }), []string{"names/that-hurt"}},
		{"all namespaces are one", spoilConn(func(c driver.Conn) driver.Conn { return oneHall{c} }), []string{"names/namespaces"}},
		{"leased tasks are counted as ready", spoilQueue(func(s *sloppy) {
			s.stat = func(ctx context.Context, queue string) (driver.QueueStat, error) {
				st, err := s.Queue.Stat(ctx, queue)
				st.Ready, st.Leased = st.Ready+st.Leased, 0
				return st, err
			}
		}), []string{"look/stat"}},
		{"leased tasks are not seen", spoilQueue(func(s *sloppy) {
			s.browse = func(ctx context.Context, r driver.BrowseRequest) ([]driver.Waiting, error) {
				found, err := s.Queue.Browse(ctx, r)
				return slices.DeleteFunc(found, func(w driver.Waiting) bool { return w.Attempt > 0 }), err
			}
		}), []string{"look/browse"}},
		{"looking is leasing", spoilQueue(func(s *sloppy) {
			s.browse = func(ctx context.Context, r driver.BrowseRequest) ([]driver.Waiting, error) {
				found, err := s.Queue.Browse(ctx, r)
				_, _ = s.Queue.Receive(ctx, driver.ReceiveRequest{Queue: r.Queue, Limit: r.Limit, Lease: time.Minute})
				return found, err
			}
		}), []string{"settle/return", "settle/batch"}},
		{"looking begins behind From", spoilQueue(func(s *sloppy) {
			s.browse = func(ctx context.Context, r driver.BrowseRequest) ([]driver.Waiting, error) {
				if r.From > 0 {
					r.From++
				}
				return s.Queue.Browse(ctx, r)
			}
		}), []string{"look/browse"}},
		{"contexts are ignored", spoilQueue(func(s *sloppy) {
			s.stat = func(_ context.Context, queue string) (driver.QueueStat, error) {
				return s.Queue.Stat(context.Background(), queue)
			}
		}), []string{"context/ended"}},
	}
}

// oneHall has the queues of one namespace for all.
type oneHall struct{ driver.Conn }

func (c oneHall) Space(s driver.Space) (driver.Backend, error) {
	b, err := c.Conn.Space(s)
	if err != nil {
		return b, err
	}
	all, err := c.Conn.Space(driver.Space{Namespace: "all"})
	b.Queue = all.Queue
	return b, err
}

func leaseMistakes() []mistake {
	return []mistake{
		{"some tasks are leased to two", spoilQueue(generous), []string{"lease/each-to-one"}},
		{"leases never end", spoilReceive(func(r *driver.ReceiveRequest) { r.Lease = driver.MaxLease }), []string{"lease/ends"}},
		{"attempts begin at nothing", spoilLeased(func(l *driver.Leased) { l.Attempt-- }), []string{"lease/ends", "settle/return", "delay/not-before"}},
		{"the first lease is the last", spoilLeased(func(l *driver.Leased) { l.First = time.Now() }), []string{"lease/ends"}},
		{"old receipts settle", spoilQueue(forgiving(func(l driver.Leased) string { return l.Receipt })), []string{"settle/return", "settle/batch"}},
		{"stale receipts are taken", spoilTaskOutcomes(func(results []error) { clear(results) }), []string{"lease/ends", "lease/receipts", "settle/batch"}},
		{"extend gives an hour", spoilSettle(func(s *driver.Settlement) {
			if s.Kind == driver.Extend {
				s.After = time.Hour
			}
		}), []string{"lease/extend"}},
		{"extend does nothing", spoilSettle(func(s *driver.Settlement) {
			if s.Kind == driver.Extend {
				s.After = driver.MinLease
			}
		}), []string{"lease/extend"}},
		{"limits are doubled", spoilReceive(func(r *driver.ReceiveRequest) { r.Limit *= 2 }), []string{"lease/limits"}},
		{"bytes have no limit", spoilReceive(func(r *driver.ReceiveRequest) { r.MaxBytes = 0 }), []string{"lease/limits"}},
		{"receipts are positions", spoilQueue(forgiving(func(l driver.Leased) string { return fmt.Sprint(l.Position) })), []string{"lease/receipts", "lease/ends"}},
		{"receipts have spaces", spoilQueue(forgiving(func(l driver.Leased) string { return "receipt " + l.Receipt })), []string{"lease/receipts"}},
		{"done twice is stale", spoilQueue(forgetsDone), []string{"settle/done-twice"}},
		{"every return is counted", spoilSettle(func(s *driver.Settlement) { s.Uncounted = false }), []string{"settle/return", "settle/batch"}},
		{"what is returned comes at once", spoilSettle(func(s *driver.Settlement) {
			if s.Kind == driver.Return {
				s.After = 0
			}
		}), []string{"settle/return", "settle/batch", "look/stat"}},
		{"one settlement fails all", spoilTaskOutcomes(func(results []error) {
			if err := worst(results); err != nil {
				for i := range results {
					results[i] = err
				}
			}
		}), []string{"settle/batch"}},
		{"receipts settle in every queue", spoilConn(func(c driver.Conn) driver.Conn {
			return &everywhere{Conn: c, at: map[string]func(context.Context, driver.Settlement) error{}}
		}), []string{"settle/other-queue", "names/namespaces"}},
	}
}

func waitMistakes() []mistake {
	return []mistake{
		{"receivers look every five seconds", spoilWait(func(ctx context.Context, q driver.Queue, r driver.ReceiveRequest) ([]driver.Leased, error) {
			end := time.Now().Add(r.Wait)
			for r.Wait = 0; ; {
				leased, err := q.Receive(ctx, r)
				if len(leased) > 0 || err != nil || time.Now().After(end) {
					return leased, err
				}
				select {
				case <-ctx.Done():
				case <-time.After(5 * time.Second):
				}
			}
		}), []string{"wait/enqueue-wakes", "wait/each-wakes-one", "wait/return-wakes", "wait/times-wake"}},
		{"nobody waits", spoilReceive(func(r *driver.ReceiveRequest) { r.Wait = 0 }), []string{"wait/ends", "wait/enqueue-wakes"}},
		{"a wait that ends is an error", spoilWait(func(ctx context.Context, q driver.Queue, r driver.ReceiveRequest) ([]driver.Leased, error) {
			leased, err := q.Receive(ctx, r)
			if len(leased) == 0 && err == nil {
				err = errs.Deadline
			}
			return leased, err
		}), []string{"wait/ends"}},
		{"receives that are given up keep what they had", spoilWait(func(ctx context.Context, q driver.Queue, r driver.ReceiveRequest) ([]driver.Leased, error) {
			r.Lease = driver.MaxLease
			leased, err := q.Receive(context.WithoutCancel(ctx), r)
			if ctx.Err() != nil {
				return nil, errs.ReasonOf(ctx.Err())
			}
			return leased, err
		}), []string{"wait/given-up"}},
		{"waits outlive their connection", spoilWait(func(ctx context.Context, q driver.Queue, r driver.ReceiveRequest) ([]driver.Leased, error) {
			leased, err := q.Receive(ctx, r)
			if errs.ReasonOf(err) == errs.BackendUnavailable {
				<-ctx.Done()
			}
			return leased, err
		}), []string{"conn/closed"}},
	}
}
