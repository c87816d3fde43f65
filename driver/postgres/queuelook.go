package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// readTask reads the columns of taskRow.
func readTask(columns [][]byte) (w driver.Waiting, err error) {
	position, err := readInt8(columns[0])
	if err != nil {
		return w, err
	}
	if len(columns[1]) != 2 || len(columns[2]) != 4 {
		return w, fmt.Errorf("a priority of %d bytes and an attempt of %d", len(columns[1]), len(columns[2]))
	}
	w.Position = driver.Position(position)
	w.Priority = int(int16(binary.BigEndian.Uint16(columns[1])))
	w.Attempt = int(int32(binary.BigEndian.Uint32(columns[2])))
	first, wrongFirst := readTime(columns[3])
	enqueued, wrongTime := readTime(columns[4])
	headers, wrongHeaders := wrap.ReadHeaders(columns[6])
	w.First, w.Enqueued, w.ID, w.Headers = first, enqueued, string(columns[5]), headers
	w.Value = append([]byte{}, columns[7]...)
	return w, errors.Join(wrongFirst, wrongTime, wrongHeaders)
}

// Browse implements driver.Queue.
func (q *queues) Browse(ctx context.Context, r driver.BrowseRequest) ([]driver.Waiting, error) {
	if r.Limit < 1 {
		return nil, errs.Invalid(errs.Field{Path: "limit", Text: "is less than 1"})
	}
	args := &values{pNamespace: q.scope, pQueue: []byte(r.Queue), pFrom: int8Value(int64(r.From)), pLimit: int8Value(int64(r.Limit))}
	return ask1(ctx, q, r.Queue, q.st.browse, args, func(found *[]driver.Waiting, columns [][]byte) error {
		w, err := readTask(columns)
		if err != nil {
			return err
		}
		if left := columns[8]; left != nil {
			n, err := readInt8(left)
			if err != nil {
				return err
			}
			w.Delay = max(0, time.Duration(n)*time.Microsecond)
		}
		*found = append(*found, w)
		return nil
	})
}

// Stat implements driver.Queue.
func (q *queues) Stat(ctx context.Context, queue string) (driver.QueueStat, error) {
	args := &values{pNamespace: q.scope, pQueue: []byte(queue)}
	return ask1(ctx, q, queue, q.st.stat, args, func(s *driver.QueueStat, columns [][]byte) (err error) {
		for i, to := range []*int64{&s.Ready, &s.Delayed, &s.Leased} {
			if *to, err = readInt8(columns[i]); err != nil {
				return err
			}
		}
		s.Oldest, err = readTime(columns[3])
		return err
	})
}

// ask1 asks one question, on a second connection if the first is lost. It runs
// on when the caller leaves: ending it would cost the connection.
func ask1[T any](ctx context.Context, q *queues, queue string, st *statement, args *values, row func(*T, [][]byte) error) (answer T, err error) {
	if err := q.usable(ctx, queue); err != nil {
		return answer, err
	}
	type outcome struct {
		answer T
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		for tries := 0; tries < 2; tries++ {
			var got T
			var lost bool
			lost, o.err = q.ask(ctx, query{st, args, func(columns [][]byte) error { return row(&got, columns) }})
			if o.answer = got; !lost {
				break
			}
		}
		done <- o
	}()
	select {
	case o := <-done:
		return o.answer, o.err
	case <-ctx.Done():
		return answer, contextError(ctx)
	}
}

// ask reports, beside an error, whether a connection that was open was lost.
func (q *queues) ask(caller context.Context, question query) (lost bool, err error) {
	if !q.c.enter() {
		return false, errClosed
	}
	defer q.c.leave()
	ctx, cancel := context.WithTimeout(q.c.base, q.c.flightTime())
	defer cancel()
	waiting, unhook := context.WithCancel(ctx)
	defer unhook()
	defer context.AfterFunc(caller, unhook)()
	pc, err := q.c.acquire(waiting) //nolint:contextcheck // its end is the caller's or our own
	if err != nil {
		return false, err
	}
	defer pc.Release()
	if err := q.c.ensure(ctx, pc.Conn(), &q.c.queueTables); err != nil { //nolint:contextcheck // the query outlives its caller
		return false, q.c.failure(err, false)
	}
	tx := &transaction{queries: []query{question}}
	fly(ctx, pc.Conn(), []*transaction{tx}) //nolint:contextcheck // the query outlives its caller
	if tx.err == nil {
		return false, nil
	}
	if isOutdated(tx.err) {
		q.c.queueTables.ready.Store(false)
		_ = pc.Conn().Close(ctx) //nolint:contextcheck // its prepared statements are of no use any more
	}
	return pc.Conn().IsClosed() && ctx.Err() == nil, q.c.failure(tx.err, false)
}
