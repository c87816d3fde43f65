package sqlite

import (
	"context"

	"github.com/prismgw/prism/driver"
)

// Commits returns how many transactions of writes c has committed.
func Commits(c driver.Conn) int64 { return c.(*conn).file.writer.commits.Load() }

// Queued returns how many requests wait for a transaction.
func Queued(c driver.Conn) int {
	q := &c.(*conn).file.writer.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for r := q.first; r != nil; r = r.next {
		n++
	}
	return n
}

// Pragma returns a setting of the link that writes, from an operation of its
// goroutine.
func Pragma(c driver.Conn, name string) int64 {
	table := &pragma{query: query{"PRAGMA " + name}}
	sp := &space{conn: c.(*conn), table: table}
	sp.Apply(context.Background(), []driver.Op{{Kind: driver.Delete, Key: name}}, make([]driver.Result, 1))
	return table.value
}

// pragma is a table whose remove asks for a setting.
type pragma struct {
	native
	query query
	value int64
}

func (p *pragma) remove(tx *transaction, _ string) (err error) {
	p.value, err = tx.link.number(&p.query)
	return err
}

// Readers returns how many links for reading are open.
func Readers(c driver.Conn) int { return c.(*conn).file.writer.store.Load().readers }

// PickTasks is the statement that finds the tasks to lease.
var PickTasks = pickTasks.sql

// Looks returns how often the writer has looked for what topics need not keep.
func Looks(c driver.Conn) int64 { return c.(*conn).file.writer.looks.Load() }

// LogStatements are those that find records, and what need not be kept.
var LogStatements = []string{loadRecords.sql, findOld.sql, findConsumed.sql, findLarge.sql, removeRecords.sql}
