package sqlite

import (
	"context"
	sqldriver "database/sql/driver"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// settling is a call of Settle.
type settling struct {
	*queues
	name        queueName
	settlements []driver.Settlement
	receipts    []wrap.Receipt
	results     []error
	known       []bool // the result is final whatever the queue holds
	ready       int
}

// Settle implements driver.Queue.
func (q *queues) Settle(ctx context.Context, queue string, settlements []driver.Settlement, results []error) {
	n := len(settlements)
	j := &settling{
		queues: q, name: queueName{q.namespace, queue}, settlements: append([]driver.Settlement(nil), settlements...),
		receipts: make([]wrap.Receipt, n), results: make([]error, n), known: make([]bool, n),
	}
	for i := range settlements {
		j.receipts[i], j.results[i] = wrap.CheckSettlement(&settlements[i])
		j.known[i] = j.results[i] != nil
	}
	err := q.submit(ctx, j)
	for i := range settlements {
		if results[i] = err; err == nil || j.known[i] {
			results[i] = j.results[i]
		}
	}
}

var (
	loadLease  = query{"SELECT leased_until, attempt, receipt FROM prism_queue WHERE position = ? AND namespace = ? AND queue = ?"}
	deleteTask = query{"DELETE FROM prism_queue WHERE position = ?"}
	deleteBody = query{"DELETE FROM prism_queue_body WHERE position = ?"}
	returnTask = query{"UPDATE prism_queue SET due_at = ?, leased_until = 0, receipt = NULL, attempt = ? WHERE position = ?"}
	extendTask = query{"UPDATE prism_queue SET leased_until = ? WHERE position = ?"}
)

func (j *settling) do(tx *transaction) (err error) {
	tx.now = j.conn.settings.now()
	j.ready = 0
	for i := range j.settlements {
		if j.known[i] {
			continue
		}
		if j.results[i], err = j.one(tx, &j.settlements[i], j.receipts[i]); err != nil {
			return err
		}
	}
	return nil
}

// one carries out a settlement. failed is an error of SQLite.
func (j *settling) one(tx *transaction, s *driver.Settlement, r wrap.Receipt) (outcome, failed error) {
	at := int64(r.Position)
	cells, err := tx.link.first(&loadLease, at, j.name.namespace, j.name.queue)
	if err != nil || cells == nil {
		return nil, err
	}
	until, _ := cells[0].(int64)
	attempt, _ := cells[1].(int64)
	if token, _ := cells[2].([]byte); until <= tx.now.UnixMilli() || string(token) != string(r.Token[:]) {
		return errs.StaleReceipt, nil
	}
	switch s.Kind {
	case driver.Done:
		if _, err := tx.run(&deleteTask, at); err != nil {
			return nil, err
		}
		_, err = tx.run(&deleteBody, at)
	case driver.Return:
		err = j.giveBack(tx, s, at, attempt)
	case driver.Extend:
		_, err = tx.run(&extendTask, tx.after(s.After), at)
	}
	return nil, err
}

func (j *settling) giveBack(tx *transaction, s *driver.Settlement, at, attempt int64) error {
	if s.Uncounted {
		attempt--
	}
	var due sqldriver.Value
	if s.After > 0 {
		due = tx.after(s.After)
	} else {
		j.ready++
	}
	_, err := tx.run(&returnTask, due, attempt, at)
	return err
}

func (j *settling) tell() {
	j.conn.file.bell.Ring(j.name, j.ready)
	j.conn.file.bell.After(j.name, wrap.Soonest(j.settlements))
}

func (j *settling) weight() (ops, bytes int) { return len(j.settlements), 0 }
