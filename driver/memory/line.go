package memory

import (
	"cmp"
	"container/heap"
	"crypto/subtle"
	"slices"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// line is one queue. What it does for one task costs at most as much as a step
// in a heap, however many tasks there are.
type line struct {
	mu      sync.Mutex // guards what follows
	dropped bool       // from its namespace: another line has its place

	ready  [driver.MaxPriority]tasksByAge // by priority
	later  queue[*task]                   // the delayed and the leased ones, by when that is over
	leased int                            // of later

	all  []*task // in the order of their positions, with some that are gone
	gone int     // of all

	ids      map[string]struct{} // remembered
	remember []rememberedID      // of them, the oldest first
}

type rememberedID struct {
	id    string
	until int64 // unix nanoseconds
}

// A task is in ready, or in later while it is delayed or leased, or gone.
type task struct {
	driver.Waiting
	deadline[*task]
	token  token // of the lease, if leased
	leased bool
	gone   bool
}

// promote makes ready what is not delayed or leased any more.
func (l *line) promote(now int64) {
	for {
		t, ok := l.later.pop(now)
		if !ok {
			return
		}
		if t.leased {
			t.leased = false
			l.leased--
		}
		l.at(t.Priority).push(t)
	}
}

func (l *line) at(priority int) *tasksByAge { return &l.ready[priority-driver.MinPriority] }

// known reports whether an ID is remembered, and remembers it.
func (l *line) known(id string, now time.Time) bool {
	l.forget(now.UnixNano())
	if id == "" {
		return false
	}
	if _, known := l.ids[id]; known {
		return true
	}
	if l.ids == nil {
		l.ids = make(map[string]struct{})
	}
	l.ids[id] = struct{}{}
	l.remember = append(l.remember, rememberedID{id, now.Add(driver.DedupWindow).UnixNano()})
	return false
}

// forget forgets the IDs whose time is over.
func (l *line) forget(now int64) {
	n := 0
	for n < len(l.remember) && l.remember[n].until <= now {
		delete(l.ids, l.remember[n].id)
		n++
	}
	if n > 0 {
		clear(l.remember[:n])
		l.remember = l.remember[n:] // append moves what is left when it needs room
	}
}

func (l *line) add(t *task, now time.Time) {
	l.all = append(l.all, t)
	if t.Delay > 0 {
		l.later.set(&t.deadline, now.Add(t.Delay).UnixNano())
	} else {
		l.at(t.Priority).push(t)
	}
}

// lease leases the next ready tasks.
func (l *line) lease(r *driver.ReceiveRequest, now time.Time) []driver.Leased {
	l.promote(now.UnixNano())
	var taken []driver.Leased
	bytes := 0
	for p := len(l.ready) - 1; p >= 0; p-- {
		for len(l.ready[p]) > 0 {
			if len(taken) == r.Limit || r.MaxBytes > 0 && bytes >= r.MaxBytes {
				return taken
			}
			t := l.ready[p].pop()
			bytes += wrap.TaskSize(&t.Task)
			taken = append(taken, l.give(t, now, r.Lease))
		}
	}
	return taken
}

func (l *line) give(t *task, now time.Time, lease time.Duration) driver.Leased {
	t.leased = true
	l.leased++
	receipt := wrap.NewReceipt(t.Position)
	t.token = receipt.Token
	if t.Attempt++; t.First.IsZero() {
		t.First = now
	}
	until := now.Add(lease)
	l.later.set(&t.deadline, until.UnixNano())
	given := driver.Leased{Waiting: t.Waiting, Receipt: receipt.String(), Until: until}
	given.Delay = 0
	return given
}

// next is in how long something will be ready by itself, 0 for never.
func (l *line) next(now time.Time) time.Duration {
	if len(l.later.heap) == 0 {
		return 0
	}
	return max(1, time.Duration(l.later.heap[0].at-now.UnixNano()))
}

// from returns the index of the first task at a position or behind it.
func (l *line) from(p driver.Position) int {
	i, _ := slices.BinarySearchFunc(l.all, p, func(t *task, p driver.Position) int { return cmp.Compare(t.Position, p) })
	return i
}

// settle carries out a settlement that fits the contract. soon reports that the
// task can be leased now.
func (l *line) settle(r wrap.Receipt, s *driver.Settlement, now time.Time) (soon bool, err error) {
	l.promote(now.UnixNano())
	i := l.from(r.Position)
	if i == len(l.all) || l.all[i].Position != r.Position || l.all[i].gone {
		return false, nil
	}
	t := l.all[i]
	if !t.leased || subtle.ConstantTimeCompare(t.token[:], r.Token[:]) == 0 {
		return false, errs.StaleReceipt
	}
	if s.Kind == driver.Extend {
		l.later.set(&t.deadline, now.Add(s.After).UnixNano())
		return false, nil
	}
	t.leased = false
	l.leased--
	l.later.set(&t.deadline, 0)
	if s.Kind == driver.Done {
		l.remove(t)
		return false, nil
	}
	if s.Uncounted {
		t.Attempt--
	}
	if s.After > 0 {
		l.later.set(&t.deadline, now.Add(s.After).UnixNano())
		return false, nil
	}
	l.at(t.Priority).push(t)
	return true, nil
}

// remove forgets a task. Each of the others is moved once for it, on average.
func (l *line) remove(t *task) {
	t.gone, t.Task = true, driver.Task{}
	l.gone++
	if l.gone > len(l.all)/2 {
		l.all = slices.DeleteFunc(l.all, func(t *task) bool { return t.gone })
		l.gone = 0
		if len(l.all) < cap(l.all)/4 {
			l.all = slices.Clip(slices.Clone(l.all))
		}
	}
}

func (l *line) stat(now int64) driver.QueueStat {
	l.promote(now)
	s := driver.QueueStat{Leased: int64(l.leased), Delayed: int64(len(l.later.heap) - l.leased)}
	var oldest *task
	for _, h := range l.ready {
		s.Ready += int64(len(h))
		if len(h) > 0 && (oldest == nil || h[0].Position < oldest.Position) {
			oldest = h[0]
		}
	}
	if oldest != nil {
		s.Oldest = oldest.Enqueued
	}
	return s
}

func (l *line) browse(r *driver.BrowseRequest, now int64) []driver.Waiting {
	l.promote(now)
	var found []driver.Waiting
	for _, t := range l.all[l.from(r.From):] {
		if len(found) == r.Limit {
			break
		}
		if t.gone {
			continue
		}
		w := t.Waiting
		w.Delay = 0
		if !t.leased && t.at > 0 {
			w.Delay = time.Duration(t.at - now)
		}
		found = append(found, w)
	}
	return found
}

// idle reports that the line is as good as one that never was.
func (l *line) idle() bool { return len(l.all) == l.gone && len(l.ids) == 0 }

// tasksByAge is a heap of the tasks of one priority, those first that came first.
type tasksByAge []*task

func (h *tasksByAge) push(t *task) { heap.Push(h, t) }

func (h *tasksByAge) pop() *task {
	t, _ := heap.Pop(h).(*task)
	return t
}

func (h tasksByAge) Len() int           { return len(h) }
func (h tasksByAge) Less(i, j int) bool { return h[i].Position < h[j].Position }
func (h tasksByAge) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *tasksByAge) Push(x any) {
	t, _ := x.(*task)
	*h = append(*h, t)
}

// Pop implements heap.Interface.
func (h *tasksByAge) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return t
}
