package sqlite

import (
	"context"
	sqldriver "database/sql/driver"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// queues are the queues of one namespace seen through one connection. What
// changes them goes through the writer, with the operations of KV in one
// transaction; who waits is woken by the writer, as nobody else writes.
type queues struct {
	conn      *conn
	namespace string
	ack       driver.Ack
}

var _ driver.Queue = (*queues)(nil)

type queueName struct{ namespace, queue string }

// Guarantees implements driver.Queue.
func (q *queues) Guarantees() driver.QueueGuarantees {
	return driver.QueueGuarantees{MaxTask: q.conn.settings.maxValue, Ack: q.ack}
}

// submit is file.submit while the connection is open.
func (q *queues) submit(ctx context.Context, j job) error {
	if err := q.conn.usable(ctx); err != nil {
		return err
	}
	return q.conn.file.submit(ctx, j)
}

// submit hands a job to the writer and waits until it is done.
func (f *file) submit(ctx context.Context, j job) error {
	r := newRequest(nil, nil)
	r.job = j
	if err := f.writer.queue.submit(ctx, r); err != nil {
		return err
	}
	err := r.err
	r.recycle()
	return err
}

// enqueueing is a call of Enqueue.
type enqueueing struct {
	*queues
	name    queueName
	tasks   []driver.Task
	headers [][]byte
	results []driver.EnqueueResult
	size    int

	ready   int           // how many can be leased at once
	soonest time.Duration // in how long the next one can be; 0: never
}

// Enqueue implements driver.Queue.
func (q *queues) Enqueue(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
	j := &enqueueing{
		queues: q, name: queueName{q.namespace, queue},
		tasks: make([]driver.Task, len(tasks)), headers: make([][]byte, len(tasks)), results: make([]driver.EnqueueResult, len(tasks)),
	}
	for i := range tasks {
		if j.results[i].Err = wrap.CheckTask(&tasks[i], q.conn.settings.maxValue); j.results[i].Err != nil {
			continue
		}
		j.tasks[i] = tasks[i]
		j.tasks[i].Value = append([]byte{}, tasks[i].Value...) // nil would be NULL
		j.tasks[i].Headers = nil
		j.headers[i] = wrap.AppendHeaders([]byte{}, tasks[i].Headers)
		j.size += len(j.tasks[i].Value) + len(j.headers[i])
	}
	err := q.submit(ctx, j)
	for i := range tasks {
		if results[i] = j.result(i, err); err != nil && results[i].Err == nil {
			results[i] = driver.EnqueueResult{Err: err}
		}
	}
}

// result returns the outcome of a task. Where the call has failed, the writer
// may not be through with it, and only what was refused before is known.
func (j *enqueueing) result(i int, err error) driver.EnqueueResult {
	if err != nil && j.headers[i] != nil {
		return driver.EnqueueResult{}
	}
	return j.results[i]
}

var (
	rememberID = query{"INSERT INTO prism_queue_id (namespace, queue, id, expires_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET expires_at = excluded.expires_at WHERE expires_at <= ?5"}
	insertTask = query{"INSERT INTO prism_queue (namespace, queue, priority, due_at, leased_until, attempt, first_at, enqueued_at, id) VALUES (?, ?, ?, ?, 0, 0, 0, ?, ?)"}
	insertBody = query{"INSERT INTO prism_queue_body (position, headers, value) VALUES (last_insert_rowid(), ?, ?)"}
)

func (j *enqueueing) do(tx *transaction) error {
	tx.now = j.conn.settings.now()
	j.ready, j.soonest = 0, 0
	for i := range j.tasks {
		if j.headers[i] == nil {
			continue
		}
		known, err := j.known(tx, j.tasks[i].ID)
		if err == nil && !known {
			err = j.insert(tx, &j.tasks[i], j.headers[i])
		}
		if err != nil {
			return err
		}
		j.results[i].Duplicate = known
	}
	return nil
}

// known reports whether an ID is remembered, and remembers it.
func (j *enqueueing) known(tx *transaction, id string) (bool, error) {
	if id == "" {
		return false, nil
	}
	changed, err := tx.run(&rememberID, j.name.namespace, j.name.queue, id, tx.after(driver.DedupWindow), tx.now.UnixMilli())
	return changed == 0, err
}

func (j *enqueueing) insert(tx *transaction, t *driver.Task, headers []byte) error {
	var due sqldriver.Value
	if t.Delay > 0 {
		due = tx.after(t.Delay)
	}
	if _, err := tx.run(&insertTask, j.name.namespace, j.name.queue, int64(t.Priority), due, tx.now.UnixMilli(), t.ID); err != nil {
		return err
	}
	if _, err := tx.run(&insertBody, headers, t.Value); err != nil {
		return err
	}
	switch {
	case t.Delay == 0:
		j.ready++
	case j.soonest == 0 || t.Delay < j.soonest:
		j.soonest = t.Delay
	}
	return nil
}

func (j *enqueueing) tell() {
	j.conn.file.bell.Ring(j.name, j.ready)
	j.conn.file.bell.After(j.name, j.soonest)
}

func (j *enqueueing) weight() (ops, bytes int) { return len(j.tasks), j.size }

// receiving is one look of a call of Receive.
type receiving struct {
	*queues
	name queueName
	r    driver.ReceiveRequest

	leased []driver.Leased
	more   bool          // delayed tasks are due that were not looked at
	next   time.Duration // in how long something can be leased; 0: nobody knows of anything
}

// Receive implements driver.Queue.
func (q *queues) Receive(ctx context.Context, r driver.ReceiveRequest) (leased []driver.Leased, err error) {
	if err := q.conn.usable(ctx); err != nil {
		return nil, err
	}
	if err := wrap.CheckReceive(&r); err != nil {
		return nil, err
	}
	name := queueName{q.namespace, r.Queue}
	err = q.conn.file.bell.Wait(ctx, q.conn.ended, name, r.Wait, func() (found bool, next time.Duration, err error) {
		leased, next, err = q.lease(ctx, name, r)
		return len(leased) > 0, next, err
	})
	return leased, err
}

// lease leases what there is now.
func (q *queues) lease(ctx context.Context, name queueName, r driver.ReceiveRequest) ([]driver.Leased, time.Duration, error) {
	for {
		j := &receiving{queues: q, name: name, r: r}
		if err := q.submit(ctx, j); err != nil {
			return nil, 0, err
		}
		if !j.more {
			return j.leased, j.next, nil
		}
	}
}

// promoteRows is how many delayed tasks one transaction makes ready, as writers
// wait for it.
const promoteRows = 1000

var (
	promoteDue = query{"UPDATE prism_queue SET due_at = NULL WHERE position IN (SELECT position FROM prism_queue INDEXED BY prism_queue_due WHERE namespace = ? AND queue = ? AND due_at <= ? LIMIT ?)"}
	pickTasks  = query{`SELECT q.position, q.priority, q.attempt, q.first_at, q.enqueued_at, q.id, b.headers, b.value
		FROM prism_queue q INDEXED BY prism_queue_ready CROSS JOIN prism_queue_body b ON b.position = q.position
		WHERE q.namespace = ? AND q.queue = ? AND q.due_at IS NULL AND q.leased_until <= ? ORDER BY q.priority DESC, q.position LIMIT ?`}
	leaseTask = query{"UPDATE prism_queue SET leased_until = ?, attempt = ?, first_at = ?, receipt = ? WHERE position = ?"}
	nextDue   = query{"SELECT min(due_at) FROM prism_queue INDEXED BY prism_queue_due WHERE namespace = ? AND queue = ? AND due_at IS NOT NULL"}
	nextFree  = query{"SELECT min(leased_until) FROM prism_queue INDEXED BY prism_queue_ready WHERE namespace = ? AND queue = ? AND due_at IS NULL AND leased_until > ?"}
)

func (j *receiving) do(tx *transaction) error {
	j.leased, j.more, j.next = nil, false, 0
	tx.now = j.conn.settings.now()
	now := tx.now.UnixMilli()
	promoted, err := tx.run(&promoteDue, j.name.namespace, j.name.queue, now, int64(promoteRows))
	if j.more = promoted == promoteRows; err != nil || j.more {
		return err
	}
	if err := j.pick(tx.link, now); err != nil {
		return err
	}
	for i := range j.leased {
		if err := j.give(tx, &j.leased[i]); err != nil {
			return err
		}
	}
	if len(j.leased) == 0 && j.r.Wait > 0 {
		j.next, err = j.soonest(tx.link, now)
	}
	return err
}

func (j *receiving) pick(l *link, now int64) (damaged error) {
	bytes := 0
	err := l.each(&pickTasks, func(cells []sqldriver.Value) bool {
		w, err := readWaiting(cells)
		if damaged = err; err != nil {
			return false
		}
		j.leased = append(j.leased, driver.Leased{Waiting: w})
		bytes += wrap.TaskSize(&w.Task)
		return j.r.MaxBytes == 0 || bytes < j.r.MaxBytes
	}, j.name.namespace, j.name.queue, now, int64(j.r.Limit))
	if err != nil {
		return err
	}
	return damaged
}

// readWaiting reads position, priority, attempt, first_at, enqueued_at, id,
// headers and value.
func readWaiting(cells []sqldriver.Value) (w driver.Waiting, err error) {
	var numbers [5]int64
	for i := range numbers {
		numbers[i], _ = cells[i].(int64)
	}
	w.Position, w.Priority, w.Attempt = driver.Position(numbers[0]), int(numbers[1]), int(numbers[2])
	w.First, w.Enqueued = moment(numbers[3]), moment(numbers[4])
	w.ID, _ = cells[5].(string)
	headers, _ := cells[6].([]byte)
	w.Value, _ = cells[7].([]byte)
	if w.Headers, err = wrap.ReadHeaders(headers); err != nil {
		return w, errs.Wrap(err, errs.Internal, "a task in the SQLite file is damaged")
	}
	return w, nil
}

func (j *receiving) give(tx *transaction, l *driver.Leased) error {
	receipt := wrap.NewReceipt(l.Position)
	until := tx.after(j.r.Lease)
	l.Receipt, l.Until = receipt.String(), moment(until)
	if l.Attempt++; l.First.IsZero() {
		l.First = time.UnixMilli(tx.now.UnixMilli())
	}
	_, err := tx.run(&leaseTask, until, int64(l.Attempt), l.First.UnixMilli(), receipt.Token[:], int64(l.Position))
	return err
}

// soonest returns in how long a task may be there that is not there now.
func (j *receiving) soonest(l *link, now int64) (time.Duration, error) {
	due, err := l.number(&nextDue, j.name.namespace, j.name.queue)
	if err != nil {
		return 0, err
	}
	free, err := l.number(&nextFree, j.name.namespace, j.name.queue, now)
	if due == 0 || free > 0 && free < due {
		due = free
	}
	if due == 0 || err != nil {
		return 0, err
	}
	return time.Duration(due-now) * time.Millisecond, nil
}

func (j *receiving) tell() {
	if len(j.leased) > 0 {
		j.conn.file.bell.After(j.name, j.r.Lease)
	}
}

func (j *receiving) weight() (ops, bytes int) { return min(j.r.Limit, maxGroupOps), 0 }
