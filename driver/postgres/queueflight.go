package postgres

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
)

// A fresh task is one that a flight of enqueues sends.
type fresh struct {
	job *enqueueJob
	i   int
}

func (f fresh) task() *driver.Task            { return &f.job.tasks[f.i] }
func (f fresh) result() *driver.EnqueueResult { return &f.job.results[f.i] }

type queueID struct{ queue, id string }

// enqueueAll enqueues the tasks of all jobs in one statement. Of those with one
// ID in one queue the first is sent; the others are its duplicates.
func (q *queues) enqueueAll(ctx context.Context, pc *pgx.Conn, jobs []*enqueueJob) error {
	var all, again []fresh
	first := map[queueID]bool{}
	for _, job := range jobs {
		for i := range job.tasks {
			f := fresh{job, i}
			name := queueID{job.queue, f.task().ID}
			switch {
			case f.result().Err != nil: // it was refused
			case first[name]:
				again = append(again, f)
			default:
				all = append(all, f)
				first[name] = name.id != ""
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	ids := slices.ContainsFunc(all, func(f fresh) bool { return f.task().ID != "" })
	if err := q.sendTasks(ctx, pc, all, ids); err != nil {
		return err
	}
	for _, f := range again {
		f.result().Duplicate = true
	}
	q.tellOf(all)
	return nil
}

func failEnqueue(job *enqueueJob, err error) {
	for i := range job.results {
		if job.results[i].Err == nil {
			job.results[i] = driver.EnqueueResult{Err: err}
		}
	}
}

func (q *queues) sendTasks(ctx context.Context, pc *pgx.Conn, all []fresh, ids bool) error {
	args := q.taskValues(all)
	if !ids {
		return q.c.run(ctx, pc, &q.c.queueTables, query{q.st.enqueue, args, nil})
	}
	isNew := map[queueID]bool{}
	err := q.c.run(ctx, pc, &q.c.queueTables, query{q.st.enqueueID, args, func(columns [][]byte) error {
		isNew[queueID{string(columns[0]), string(columns[1])}] = true
		return nil
	}})
	for _, f := range all {
		id := f.task().ID
		f.result().Duplicate = err == nil && id != "" && !isNew[queueID{f.job.queue, id}]
	}
	return err
}

func (q *queues) taskValues(all []fresh) *values {
	n := len(all)
	queues, ids, size := make([]string, n), make([]string, n), 0
	priorities, delays := make([]int64, n), make([]int64, n)
	for i, f := range all {
		t := f.task()
		queues[i], ids[i], priorities[i], delays[i] = f.job.queue, t.ID, int64(t.Priority), micros(t.Delay)
		size += len(t.Value)
	}
	v := &values{pNamespace: q.scope, pQueues: textArray(queues), pIDs: textArray(ids), pPriorities: int8Array(priorities), pDelays: int8Array(delays)}
	v[pHeaders] = arrayValue(oidBytea, n, 0, func(to []byte, i int) []byte { return append(to, all[i].job.headers[all[i].i]...) })
	v[pValues] = arrayValue(oidBytea, n, size, func(to []byte, i int) []byte { return append(to, all[i].task().Value...) })
	return v
}

// micros rounds up: nothing comes too early.
func micros(d time.Duration) int64 { return (d + time.Microsecond - 1).Microseconds() }

func int8Array(all []int64) []byte {
	return arrayValue(oidInt8, len(all), 8*len(all), func(to []byte, i int) []byte { return append(to, int8Value(all[i])...) })
}

// tellOf wakes those who wait for these tasks.
func (q *queues) tellOf(all []fresh) {
	ready := map[string]int{}
	for _, f := range all {
		switch {
		case f.result().Duplicate:
		case f.task().Delay > 0:
			q.c.wakes.bell.After(keyOf(q.namespace, f.job.queue), f.task().Delay)
		default:
			ready[f.job.queue]++
		}
	}
	for queue, n := range ready {
		q.c.wakes.ring(keyOf(q.namespace, queue), n)
	}
}

// A lease is what one statement leases, for those who have asked for the same.
type lease struct {
	jobs   []*receiveJob
	limit  int
	leased []driver.Leased
	more   bool
}

// receiveAll leases for all jobs in one transaction.
func (q *queues) receiveAll(ctx context.Context, pc *pgx.Conn, jobs []*receiveJob) error {
	leases := leasesOf(jobs)
	queries := make([]query, len(leases))
	for i, l := range leases {
		queries[i] = q.leaseQuery(l)
	}
	if err := q.c.run(ctx, pc, &q.c.queueTables, queries...); err != nil {
		return err
	}
	for _, l := range leases {
		l.share()
	}
	return nil
}

func failReceive(job *receiveJob, err error) { job.err = err }

// leasesOf brings together those who wait at one queue with one length of lease.
// Who has a bound of bytes is served alone.
func leasesOf(jobs []*receiveJob) []*lease {
	type kind struct {
		queue  string
		length time.Duration
	}
	var all []*lease
	known := map[kind]*lease{}
	for _, job := range jobs {
		k := kind{job.r.Queue, job.r.Lease}
		l := known[k]
		if l == nil || job.r.MaxBytes > 0 {
			l = &lease{}
			all = append(all, l)
		}
		if job.r.MaxBytes == 0 {
			known[k] = l
		}
		l.jobs = append(l.jobs, job)
		l.limit += job.r.Limit
	}
	return all
}

// share gives what was leased to those who have asked, one after the other.
func (l *lease) share() {
	for _, job := range l.jobs {
		n := min(job.r.Limit, len(l.leased))
		job.leased, l.leased = l.leased[:n:n], l.leased[n:]
		job.more = l.more
	}
}

func (q *queues) leaseQuery(l *lease) query {
	var token [16]byte
	rand.Read(token[:])
	r, bytes := l.jobs[0].r, int64(1)<<62
	if r.MaxBytes > 0 {
		bytes = int64(r.MaxBytes)
	}
	args := &values{
		pNamespace: q.scope, pQueue: []byte(r.Queue), pToken: token[:],
		pLimit: int8Value(int64(l.limit)), pBytes: int8Value(bytes), pLease: int8Value(micros(r.Lease)),
	}
	return query{q.st.lease, args, l.took}
}

// took reads a row of the lease statement.
func (l *lease) took(columns [][]byte) error {
	due, err := readInt8(columns[0])
	if err != nil {
		return err
	}
	if l.more = due == promoteRows; columns[1] == nil {
		return nil
	}
	var one driver.Leased
	if one.Waiting, err = readTask(columns[1:]); err != nil {
		return err
	}
	receipt := wrap.Receipt{Position: one.Position}
	copy(receipt.Token[:], columns[9])
	one.Receipt = receipt.String()
	one.Until, err = readTime(columns[10])
	l.leased = append(l.leased, one)
	return err
}
