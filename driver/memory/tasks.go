package memory

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// lines are the queues of one namespace.
type lines struct {
	bell wrap.Bell[string] // by queue

	position atomic.Int64 // the last one given

	mu     sync.Mutex // guards queues
	queues map[string]*line
}

// with calls f with the line of a name, which is locked meanwhile; f gets nil
// if there is none and none is to be made.
func (ls *lines) with(name string, anew bool, f func(*line)) {
	for {
		ls.mu.Lock()
		l := ls.queues[name]
		if l == nil && anew {
			l = &line{}
			ls.queues[name] = l
		}
		ls.mu.Unlock()
		if l == nil {
			f(nil)
			return
		}
		l.mu.Lock()
		if !l.dropped {
			defer l.mu.Unlock()
			f(l)
			return
		}
		l.mu.Unlock()
	}
}

// sweep forgets the IDs whose time is over, and the queues that hold nothing.
func (ls *lines) sweep(now int64) {
	ls.mu.Lock()
	names := make([]string, 0, len(ls.queues))
	for name := range ls.queues {
		names = append(names, name)
	}
	ls.mu.Unlock()
	for _, name := range names {
		ls.sweepOne(name, now)
	}
}

func (ls *lines) sweepOne(name string, now int64) {
	ls.with(name, false, func(l *line) {
		if l == nil {
			return
		}
		if l.forget(now); !l.idle() {
			return
		}
		l.dropped = true
		ls.mu.Lock()
		delete(ls.queues, name)
		ls.mu.Unlock()
	})
}

// tasks is the queues of one namespace seen through one connection.
type tasks struct {
	conn  *conn
	lines *lines
}

var _ driver.Queue = (*tasks)(nil)

// Guarantees implements driver.Queue.
func (q *tasks) Guarantees() driver.QueueGuarantees {
	return driver.QueueGuarantees{MaxTask: q.conn.settings.maxValue, Ack: ack}
}

// Enqueue implements driver.Queue.
func (q *tasks) Enqueue(ctx context.Context, queue string, given []driver.Task, results []driver.EnqueueResult) {
	if err := q.conn.usable(ctx); err != nil {
		for i := range given {
			results[i] = driver.EnqueueResult{Err: err}
		}
		return
	}
	ready := 0
	soonest := time.Duration(0)
	q.lines.with(queue, true, func(l *line) {
		now := q.conn.data.now()
		for i := range given {
			results[i] = q.enqueue(l, &given[i], now)
			switch d := given[i].Delay; {
			case results[i] != driver.EnqueueResult{}:
			case d == 0:
				ready++
			case soonest == 0 || d < soonest:
				soonest = d
			}
		}
	})
	q.lines.bell.Ring(queue, ready)
	q.lines.bell.After(queue, soonest)
}

func (q *tasks) enqueue(l *line, given *driver.Task, now time.Time) driver.EnqueueResult {
	if err := wrap.CheckTask(given, q.conn.settings.maxValue); err != nil {
		return driver.EnqueueResult{Err: err}
	}
	own := wrap.OwnTask(given)
	if l.known(own.ID, now) {
		return driver.EnqueueResult{Duplicate: true}
	}
	t := &task{Waiting: driver.Waiting{Task: own, Position: driver.Position(q.lines.position.Add(1)), Enqueued: now}}
	t.key = t
	l.add(t, now)
	return driver.EnqueueResult{}
}

// Receive implements driver.Queue.
func (q *tasks) Receive(ctx context.Context, r driver.ReceiveRequest) (leased []driver.Leased, err error) {
	if err := q.conn.usable(ctx); err != nil {
		return nil, err
	}
	if err := wrap.CheckReceive(&r); err != nil {
		return nil, err
	}
	err = q.lines.bell.Wait(ctx, q.conn.ended, r.Queue, r.Wait, func() (found bool, next time.Duration, err error) {
		if err := q.conn.usable(ctx); err != nil {
			return false, 0, err
		}
		q.lines.with(r.Queue, false, func(l *line) {
			if l == nil {
				return
			}
			now := q.conn.data.now()
			leased = l.lease(&r, now)
			next = l.next(now)
		})
		return len(leased) > 0, next, nil
	})
	if len(leased) > 0 {
		q.lines.bell.After(r.Queue, r.Lease)
	}
	for i := range leased { // what the queue holds is never written to
		leased[i].Task = wrap.OwnTask(&leased[i].Task)
	}
	return leased, err
}

// Settle implements driver.Queue.
func (q *tasks) Settle(ctx context.Context, queue string, settlements []driver.Settlement, results []error) {
	if err := q.conn.usable(ctx); err != nil {
		for i := range settlements {
			results[i] = err
		}
		return
	}
	ready := 0
	q.lines.with(queue, false, func(l *line) {
		now := q.conn.data.now()
		for i := range settlements {
			var soon bool
			if soon, results[i] = settleOne(l, &settlements[i], now); soon {
				ready++
			}
		}
	})
	q.lines.bell.Ring(queue, ready)
	q.lines.bell.After(queue, wrap.Soonest(settlements))
}

func settleOne(l *line, s *driver.Settlement, now time.Time) (soon bool, err error) {
	r, err := wrap.CheckSettlement(s)
	if err != nil || l == nil {
		return false, err
	}
	return l.settle(r, s, now)
}

// Browse implements driver.Queue.
func (q *tasks) Browse(ctx context.Context, r driver.BrowseRequest) (found []driver.Waiting, err error) {
	if err := q.conn.usable(ctx); err != nil {
		return nil, err
	}
	if r.Limit < 1 {
		return nil, errs.Invalid(errs.Field{Path: "limit", Text: "is less than 1"})
	}
	q.lines.with(r.Queue, false, func(l *line) {
		if l != nil {
			found = l.browse(&r, q.conn.data.now().UnixNano())
		}
	})
	for i := range found {
		found[i].Task = wrap.OwnTask(&found[i].Task)
	}
	return found, nil
}

// Stat implements driver.Queue.
func (q *tasks) Stat(ctx context.Context, queue string) (s driver.QueueStat, err error) {
	if err := q.conn.usable(ctx); err != nil {
		return s, err
	}
	q.lines.with(queue, false, func(l *line) {
		if l != nil {
			s = l.stat(q.conn.data.now().UnixNano())
		}
	})
	return s, nil
}
