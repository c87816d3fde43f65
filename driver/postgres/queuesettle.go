package postgres

import (
	"cmp"
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// A said settlement is one of a flight.
type said struct {
	job *settleJob
	i   int
}

func (s said) what() *driver.Settlement { return &s.job.settlements[s.i] }
func (s said) receipt() wrap.Receipt    { return s.job.receipts[s.i] }

// settleAll carries out the settlements of all jobs, in one transaction. Rows are
// written in the order of their positions, so that nobody waits for each other in
// a circle.
func (q *queues) settleAll(ctx context.Context, pc *pgx.Conn, jobs []*settleJob) error {
	var all []said
	for _, job := range jobs {
		for i := range job.settlements {
			if job.results[i] == nil { // it was not refused
				all = append(all, said{job, i})
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortStableFunc(all, func(a, b said) int { return cmp.Compare(a.receipt().Position, b.receipt().Position) })
	applied := map[said]bool{}
	if err := q.c.run(ctx, pc, &q.c.queueTables, q.settleQueries(all, applied)...); err != nil {
		return err
	}
	q.judge(ctx, pc, all, applied)
	q.tellOfSettled(all, applied)
	return nil
}

func failSettle(job *settleJob, err error) {
	for i := range job.results {
		if job.results[i] == nil {
			job.results[i] = err
		}
	}
}

// settleQueries puts what is said of different tasks into two statements. What
// is said of one task again goes into the next two.
func (q *queues) settleQueries(all []said, applied map[said]bool) (queries []query) {
	for len(all) > 0 {
		var done, change, later []said
		for i, s := range all {
			switch {
			case i > 0 && all[i-1].receipt().Position == s.receipt().Position:
				later = append(later, s)
			case s.what().Kind == driver.Done:
				done = append(done, s)
			default:
				change = append(change, s)
			}
		}
		for _, part := range []struct {
			of *statement
			in []said
		}{{q.st.done, done}, {q.st.change, change}} {
			if len(part.in) > 0 {
				queries = append(queries, query{part.of, q.settleValues(part.in), placed(part.in, func(s said) { applied[s] = true })})
			}
		}
		all = later
	}
	return queries
}

// placed reads rows that are a place in a list.
func placed(in []said, found func(said)) func(columns [][]byte) error {
	return func(columns [][]byte) error {
		n, err := readInt8(columns[0])
		if err == nil && n >= 1 && n <= int64(len(in)) {
			found(in[n-1])
		}
		return err
	}
}

func (q *queues) settleValues(in []said) *values {
	n := len(in)
	queues := make([]string, n)
	positions, extends, delays, counts := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i, s := range in {
		queues[i], positions[i], delays[i] = s.job.queue, int64(s.receipt().Position), micros(s.what().After)
		switch {
		case s.what().Kind == driver.Extend:
			extends[i] = 1
		case s.what().Uncounted:
			counts[i] = 1
		}
	}
	v := &values{pNamespace: q.scope, pQueues: textArray(queues), pPositions: int8Array(positions), pExtends: int8Array(extends), pDelays: int8Array(delays), pCounts: int8Array(counts)}
	v[pTokens] = arrayValue(oidBytea, n, 16*n, func(to []byte, i int) []byte {
		token := in[i].receipt().Token
		return append(to, token[:]...)
	})
	return v
}

// judge looks for the tasks of the settlements that had no effect: of those that
// are still there, the lease is over.
func (q *queues) judge(ctx context.Context, pc *pgx.Conn, all []said, applied map[said]bool) {
	rest := slices.DeleteFunc(slices.Clone(all), func(s said) bool { return applied[s] })
	if len(rest) == 0 {
		return
	}
	tx := &transaction{queries: []query{{q.st.look, q.settleValues(rest), placed(rest, func(s said) { s.job.results[s.i] = errs.StaleReceipt })}}}
	fly(ctx, pc, []*transaction{tx})
	if tx.err == nil {
		return
	}
	failed := q.c.failure(tx.err, false)
	for _, s := range rest {
		s.job.results[s.i] = failed
	}
}

// tellOfSettled wakes those who wait for what was returned.
func (q *queues) tellOfSettled(all []said, applied map[said]bool) {
	ready := map[string]int{}
	for _, s := range all {
		switch w := s.what(); {
		case !applied[s] || w.Kind == driver.Done:
		case w.Kind == driver.Return && w.After == 0:
			ready[s.job.queue]++
		default:
			q.c.wakes.bell.After(keyOf(q.namespace, s.job.queue), w.After)
		}
	}
	for queue, n := range ready {
		q.c.wakes.ring(keyOf(q.namespace, queue), n)
	}
}
