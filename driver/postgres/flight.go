package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A carrier carries out jobs of one kind, which need the same tables.
type carrier[J any] struct {
	c *conn
	t *tables

	// carry carries jobs out together. If it fails, nothing was done for any
	// of them, unless the error says that this is not known.
	carry func(ctx context.Context, pc *pgx.Conn, jobs []J) error

	// fail answers a job that was not carried out.
	fail func(job J, err error)
}

// fly is one flight of a lane.
func (r *carrier[J]) fly(take func() []*order[J]) {
	err := error(errClosed)
	var ctx context.Context
	var pc *pgxpool.Conn
	if r.c.enter() {
		defer r.c.leave()
		var cancel context.CancelFunc
		ctx, cancel, pc, err = r.c.flight()
		defer cancel()
	}
	orders := take()
	jobs := make([]J, len(orders))
	for i, o := range orders {
		jobs[i] = o.job
		defer close(o.done)
	}
	if pc != nil {
		defer pc.Release()
		err = r.c.ensure(ctx, pc.Conn(), r.t)
	}
	if err == nil {
		err = r.carry(ctx, pc.Conn(), jobs)
		if err != nil && len(jobs) > 1 && apart(err) {
			r.carryApart(ctx, pc.Conn(), jobs)
			return
		}
	}
	if err != nil {
		for _, job := range jobs {
			r.fail(job, err)
		}
	}
}

// carryApart is for jobs of which perhaps one keeps the others from happening.
func (r *carrier[J]) carryApart(ctx context.Context, pc *pgx.Conn, jobs []J) {
	for _, job := range jobs {
		if err := r.carry(ctx, pc, []J{job}); err != nil {
			r.fail(job, err)
		}
	}
}

// run carries out queries in one transaction. Where the tables are not what they
// were, they are looked at again before the next one.
func (c *conn) run(ctx context.Context, pc *pgx.Conn, t *tables, queries ...query) error {
	tx := &transaction{queries: queries}
	fly(ctx, pc, []*transaction{tx})
	if tx.err == nil {
		return nil
	}
	if isOutdated(tx.err) {
		t.ready.Store(false)
		_ = pc.Close(ctx) // its prepared statements are of no use any more
	}
	return c.failure(tx.err, tx.sent)
}

// ask1 asks one question, on a second connection if the first is lost, and reads
// each row into the answer.
func ask1[T any](ctx context.Context, c *conn, t *tables, q query, row func(*T, [][]byte) error) (T, error) {
	return apartFrom(ctx, func() (answer T, err error) {
		for range 2 {
			var got T
			var lost bool
			q.row = func(columns [][]byte) error { return row(&got, columns) }
			if lost, err = c.once(ctx, t, true, q); !lost {
				return got, err
			}
		}
		return answer, err
	})
}

// change carries out queries in one transaction, once, and returns what they
// have set of the answer.
func change[T any](ctx context.Context, c *conn, t *tables, queries func(*T) []query) (T, error) {
	return apartFrom(ctx, func() (answer T, err error) {
		_, err = c.once(ctx, t, false, queries(&answer)...)
		return answer, err
	})
}

// apartFrom makes a call that runs on when the caller leaves: ending it would
// cost the connection.
func apartFrom[T any](ctx context.Context, call func() (T, error)) (none T, err error) {
	if ctx.Err() != nil {
		return none, contextError(ctx)
	}
	type outcome struct {
		answer T
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		answer, err := call()
		done <- outcome{answer, err}
	}()
	select {
	case o := <-done:
		return o.answer, o.err
	case <-ctx.Done():
		return none, contextError(ctx)
	}
}

// once reports, beside an error, whether a connection that was open was lost.
func (c *conn) once(caller context.Context, t *tables, reads bool, queries ...query) (lost bool, err error) {
	if !c.enter() {
		return false, errClosed
	}
	defer c.leave()
	ctx, cancel := context.WithTimeout(c.base, c.flightTime())
	defer cancel()
	waiting, unhook := context.WithCancel(ctx)
	defer unhook()
	defer context.AfterFunc(caller, unhook)()
	pc, err := c.acquire(waiting) //nolint:contextcheck // its end is the caller's or our own
	if err != nil {
		return false, err
	}
	defer pc.Release()
	if err := c.ensure(ctx, pc.Conn(), t); err != nil { //nolint:contextcheck // the queries outlive their caller
		return false, c.failure(err, false)
	}
	tx := &transaction{queries: queries}
	fly(ctx, pc.Conn(), []*transaction{tx}) //nolint:contextcheck // the queries outlive their caller
	if tx.err == nil {
		return false, nil
	}
	if isOutdated(tx.err) {
		t.ready.Store(false)
		_ = pc.Conn().Close(ctx) //nolint:contextcheck // its prepared statements are of no use any more
	}
	return pc.Conn().IsClosed() && ctx.Err() == nil, c.failure(tx.err, tx.sent && !reads)
}
