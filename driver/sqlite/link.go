package sqlite

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"

	"modernc.org/sqlite"
)

// query is one SQL statement. Its address is what a link knows it by.
type query struct{ sql string }

type statement interface {
	sqldriver.Stmt
	sqldriver.StmtExecContext
	sqldriver.StmtQueryContext
}

// link is one SQLite connection with its prepared statements, for one goroutine
// at a time. It speaks to the library below database/sql, whose pool would take
// a lock and several allocations per call to hand out what is here pinned
// anyway. Errors are the library's; explain turns them into ours.
//
// Statements run without the caller's context: the library would start a
// goroutine for each, and none of ours takes long.
type link struct {
	conn  sqldriver.Conn
	store *store // that it belongs to
	stmts map[*query]statement
	args  []sqldriver.NamedValue
	cells []sqldriver.Value // of the row being read
}

func newLink(path string, s *store) (*link, error) {
	name := "file:" + (&url.URL{Path: path}).EscapedPath()
	c, err := new(sqlite.Driver).Open(name)
	if err != nil {
		return nil, err
	}
	return &link{conn: c, store: s, stmts: make(map[*query]statement)}, nil
}

func (l *link) close() error {
	var all error
	for _, st := range l.stmts {
		all = errors.Join(all, st.Close())
	}
	return errors.Join(all, l.conn.Close())
}

func (l *link) prepare(q *query) (statement, error) {
	if st := l.stmts[q]; st != nil {
		return st, nil
	}
	prepared, err := l.conn.Prepare(q.sql)
	if err != nil && q != &schemaExists {
		// Another program may have changed the tables. SQLite sees that when
		// a statement runs, and not always when one is prepared.
		if _, seen := l.number(&schemaExists); seen != nil {
			return nil, err
		}
		prepared, err = l.conn.Prepare(q.sql)
	}
	if err != nil {
		return nil, err
	}
	st, ok := prepared.(statement)
	if !ok {
		return nil, fmt.Errorf("the library's statement is a %T", prepared)
	}
	l.stmts[q] = st
	return st, nil
}

func (l *link) bind(args []sqldriver.Value) []sqldriver.NamedValue {
	l.args = l.args[:0]
	for i, a := range args {
		l.args = append(l.args, sqldriver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return l.args
}

// script runs statements that are not worth keeping.
func (l *link) script(sql string) error {
	st, err := l.conn.Prepare(sql)
	if err != nil {
		return err
	}
	_, err = st.Exec(nil) //nolint:staticcheck // ExecContext would say the same
	return errors.Join(err, st.Close())
}

// run carries out a statement and returns how many rows it changed.
func (l *link) run(q *query, args ...sqldriver.Value) (changed int64, err error) {
	st, err := l.prepare(q)
	if err != nil {
		return 0, err
	}
	result, err := st.ExecContext(context.Background(), l.bind(args))
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// each calls f for every row until f returns false. The cells are f's until it
// returns, their bytes for good.
func (l *link) each(q *query, f func(cells []sqldriver.Value) bool, args ...sqldriver.Value) error {
	st, err := l.prepare(q)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(context.Background(), l.bind(args))
	if err != nil {
		return err
	}
	cells := l.row(len(rows.Columns()))
	for {
		if err = rows.Next(cells); err != nil || !f(cells) {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if closed := rows.Close(); err == nil {
		err = closed
	}
	return err
}

// first returns the cells of the first row, nil if there is none. They are the
// caller's until the next call of the link, their bytes for good.
func (l *link) first(q *query, args ...sqldriver.Value) ([]sqldriver.Value, error) {
	st, err := l.prepare(q)
	if err != nil {
		return nil, err
	}
	rows, err := st.QueryContext(context.Background(), l.bind(args))
	if err != nil {
		return nil, err
	}
	cells := l.row(len(rows.Columns()))
	err = rows.Next(cells)
	if closed := rows.Close(); err == nil {
		err = closed
	}
	switch {
	case err == nil:
		return cells, nil
	case errors.Is(err, io.EOF):
		return nil, nil
	}
	return nil, err
}

func (l *link) row(columns int) []sqldriver.Value {
	if cap(l.cells) < columns {
		l.cells = make([]sqldriver.Value, columns)
	}
	return l.cells[:columns]
}

// number returns the whole number in the first cell of the first row, 0 if
// there is none.
func (l *link) number(q *query, args ...sqldriver.Value) (int64, error) {
	cells, err := l.first(q, args...)
	if err != nil || cells == nil {
		return 0, err
	}
	n, _ := cells[0].(int64)
	return n, nil
}
