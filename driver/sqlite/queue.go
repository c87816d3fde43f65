package sqlite

import (
	"context"
	"sync"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// request is one Apply on its way through the writer. It holds copies of all
// it needs, so that its caller may leave at any moment.
type request struct {
	space   *space // nil: nothing but the probe
	ops     []driver.Op
	onces   []driver.Once
	values  []byte // of the ops
	results []driver.Result
	job     job   // in the place of ops: one call of a Queue or a Log
	failed  error // why nothing of the job was done
	probe   bool  // take SQLite's write lock even if there is nothing to write
	err     error // why nothing of it was done

	done chan struct{} // of capacity 1: the results are there

	next, prev *request // guarded by queue.mu, like:
	queued     bool
}

// A job is carried out in the transaction of a group. It holds copies of all it
// needs.
type job interface {
	// do carries it out. It is called again if the transaction was rolled
	// back for the sake of others. An error of SQLite is returned as it is.
	do(tx *transaction) error

	// tell tells others of it, before the caller is answered.
	tell()

	// weight is how many operations it is as good as, and of how many bytes.
	weight() (ops, bytes int)
}

// decided is the kind of an operation whose result is final before the
// transaction begins.
const decided driver.OpKind = 0

// keepValues is how large a request's buffer may be to be used again.
const keepValues = 64 << 10

var requests = sync.Pool{New: func() any { return &request{done: make(chan struct{}, 1)} }}

func newRequest(s *space, ops []driver.Op) *request {
	r, _ := requests.Get().(*request)
	r.space = s
	total, onces := 0, 0
	for i := range ops {
		total += len(ops[i].Value)
		if ops[i].Once != nil {
			onces++
		}
	}
	if cap(r.values) < total {
		r.values = make([]byte, 0, total)
	}
	if cap(r.onces) < onces {
		r.onces = make([]driver.Once, 0, onces)
	}
	for i := range ops {
		r.add(ops[i])
	}
	return r
}

// add appends a copy; values and onces have room for it.
func (r *request) add(op driver.Op) {
	res := driver.Result{Err: r.space.refuse(&op)}
	if res.Err != nil {
		op = driver.Op{Kind: decided}
	}
	from := len(r.values)
	r.values = append(r.values, op.Value...)
	op.Value = r.values[from:]
	if op.Once != nil {
		r.onces = append(r.onces, *op.Once)
		op.Once = &r.onces[len(r.onces)-1]
	}
	r.ops = append(r.ops, op)
	r.results = append(r.results, res)
}

// recycle is for the caller that has received done.
func (r *request) recycle() {
	clear(r.ops)
	clear(r.results)
	if cap(r.values) > keepValues {
		r.values = nil
	}
	*r = request{ops: r.ops[:0], onces: r.onces[:0], values: r.values[:0], results: r.results[:0], done: r.done}
	requests.Put(r)
}

// answer hands the request back to its caller, if that is still there.
func (r *request) answer(err error) {
	if r.err = err; err == nil {
		r.err = r.failed
	}
	r.done <- struct{}{}
}

// queue holds the requests that no transaction has begun with.
type queue struct {
	wake chan struct{} // of capacity 1: there may be something to take

	mu          sync.Mutex // guards what follows
	first, last *request
	closed      bool
}

var errClosed = errs.New(errs.BackendUnavailable, "the connection to the SQLite file was closed")

// submit queues r and waits for its answer. When the context ends first, r is
// taken back if no transaction has begun with it; else it is left behind. In
// both cases the caller must not touch r again.
func (q *queue) submit(ctx context.Context, r *request) error {
	if err := q.push(r); err != nil {
		return err
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-r.done:
		return nil
	default:
	}
	q.remove(r)
	return ended(ctx)
}

func (q *queue) push(r *request) error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return errClosed
	}
	r.queued = true
	r.prev, r.next = q.last, nil
	if q.last == nil {
		q.first = r
	} else {
		q.last.next = r
	}
	q.last = r
	q.mu.Unlock()
	q.signal()
	return nil
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) remove(r *request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.queued {
		q.unlink(r)
	}
}

func (q *queue) unlink(r *request) {
	if r.prev == nil {
		q.first = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		q.last = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.next, r.prev, r.queued = nil, nil, false
}

func (q *queue) empty() (empty, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.first == nil, q.closed
}

// A group ends with the request that reaches one of these, so that a caller
// waits for few others, and the log stays small.
const (
	maxGroupOps   = 4096
	maxGroupBytes = 16 << 20
)

// take appends to group the requests that go into one transaction.
func (q *queue) take(group []*request) []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	ops, bytes := 0, 0
	for q.first != nil && ops < maxGroupOps && bytes < maxGroupBytes {
		r := q.first
		q.unlink(r)
		group = append(group, r)
		ops += len(r.ops)
		bytes += len(r.values)
		if r.job != nil {
			n, size := r.job.weight()
			ops, bytes = ops+n, bytes+size
		}
	}
	return group
}

// takeOpeners takes those requests that only want the file to be open.
func (q *queue) takeOpeners(group []*request) []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	for r := q.first; r != nil; {
		next := r.next
		if len(r.ops) == 0 && r.job == nil && !r.probe {
			q.unlink(r)
			group = append(group, r)
		}
		r = next
	}
	return group
}

// close refuses later requests and reports whether it is the first to do so.
func (q *queue) close() bool {
	q.mu.Lock()
	first := !q.closed
	q.closed = true
	q.mu.Unlock()
	q.signal()
	return first
}
