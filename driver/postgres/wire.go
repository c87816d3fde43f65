package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A query is one execution of a statement.
type query struct {
	stmt *statement
	args *values
	row  func(columns [][]byte) error // called for each row; the columns are valid during the call only
}

// A transaction is one or more queries that take effect together. Its outcome
// is known when the server has answered its end, not before: in a pipeline the
// commit follows the results.
type transaction struct {
	queries []query
	err     error
	sent    bool // whether the server may have seen it
}

var binaryFormat = []int16{1} // of every parameter and every column

// fly sends the transactions in one round trip and sets the outcome of each.
// Statements that the connection does not know yet are prepared on the way.
// When the context ends the connection is given up.
func fly(ctx context.Context, pc *pgx.Conn, txs []*transaction) {
	// pgx would start a goroutine to watch the context.
	unhook := context.AfterFunc(ctx, func() { _ = pc.PgConn().Conn().SetDeadline(time.Unix(1, 0)) })
	exchange(pc, txs) //nolint:contextcheck // see above
	if !unhook() {
		_ = pc.Close(ctx) // its deadline is of no use to the next one
	}
}

func exchange(pc *pgx.Conn, txs []*transaction) {
	known := prepared(pc)
	pipe := pc.PgConn().StartPipeline(context.Background())
	unknown := sendParses(pipe, known, txs)
	for _, tx := range txs {
		tx.send(pipe, known)
	}
	if err := pipe.Flush(); err != nil {
		abandon(txs, err)
		return
	}
	defer func() { _ = pipe.Close() }() // what it says, the transactions have said already
	refused, lost := receiveParses(pipe, known, unknown)
	for i, tx := range txs {
		if lost == nil {
			lost = tx.receive(pipe)
		}
		if lost != nil {
			abandon(txs[i:], lost)
			return
		}
		if refused != nil && hasCode(tx.err, "26000") { // unknown statement: this is why
			tx.err = refused
		}
	}
}

func abandon(txs []*transaction, err error) {
	for _, tx := range txs {
		tx.err = err
		tx.sent = !pgconn.SafeToRetry(err)
	}
}

// preparedKey is where a connection keeps what it has prepared.
const preparedKey = "prism"

type descriptions map[string]*pgconn.StatementDescription // by name

func prepared(pc *pgx.Conn) descriptions {
	data := pc.PgConn().CustomData()
	known, ok := data[preparedKey].(descriptions)
	if !ok {
		known = descriptions{}
		data[preparedKey] = known
	}
	return known
}

// sendParses prepares what is not known, up to a sync of its own.
func sendParses(pipe *pgconn.Pipeline, known descriptions, txs []*transaction) []*statement {
	var unknown []*statement
	for _, tx := range txs {
		for _, q := range tx.queries {
			if known[q.stmt.name] == nil && !slices.Contains(unknown, q.stmt) {
				unknown = append(unknown, q.stmt)
				pipe.SendPrepare(q.stmt.name, q.stmt.sql, nil)
			}
		}
	}
	if len(unknown) > 0 {
		pipe.SendPipelineSync()
	}
	return unknown
}

func receiveParses(pipe *pgconn.Pipeline, known descriptions, unknown []*statement) (refused, gone error) {
	if len(unknown) == 0 {
		return nil, nil
	}
	for next := 0; ; next++ {
		got, err := pipe.GetResults()
		if err != nil && lost(err) {
			return nil, err
		}
		if err != nil {
			refused = err
			continue // the server skips to the sync
		}
		switch r := got.(type) {
		case *pgconn.PipelineSync:
			return refused, nil
		case *pgconn.StatementDescription:
			r.Name = unknown[next].name
			known[r.Name] = r
		default:
			return nil, fmt.Errorf("an answer of type %T was not asked for", got)
		}
	}
}

func (tx *transaction) send(pipe *pgconn.Pipeline, known descriptions) {
	for _, q := range tx.queries {
		args := q.stmt.bind(q.args)
		if d := known[q.stmt.name]; d != nil && len(tx.queries) == 1 {
			pipe.SendQueryStatement(d, args, binaryFormat, binaryFormat)
			continue
		}
		// This one makes the server describe the answer. After an error in
		// the middle of a transaction pgx 5.12 would take the descriptions of
		// the skipped statements for those of later ones.
		pipe.SendQueryPrepared(q.stmt.name, args, binaryFormat, binaryFormat)
	}
	pipe.SendPipelineSync()
	tx.sent = true
}

// receive reads the answers up to the end of the transaction. It returns an
// error only if the connection is lost.
func (tx *transaction) receive(pipe *pgconn.Pipeline) error {
	for next := 0; ; {
		got, err := pipe.GetResults()
		if err != nil {
			if lost(err) {
				return err
			}
			tx.err = err
			continue // the server skips to the end of the transaction
		}
		switch r := got.(type) {
		case *pgconn.PipelineSync:
			return nil
		case *pgconn.ResultReader:
			if err := tx.read(r, tx.queries[next]); err != nil {
				return err
			}
			next++
		default:
			return fmt.Errorf("an answer of type %T was not asked for", got)
		}
	}
}

func (tx *transaction) read(r *pgconn.ResultReader, q query) error {
	for r.NextRow() {
		if q.row == nil || tx.err != nil {
			continue
		}
		tx.err = q.row(r.Values())
	}
	_, err := r.Close()
	if err != nil && lost(err) {
		return err
	}
	if err != nil {
		tx.err = err
	}
	return nil
}

// hasCode reports whether the server answered this SQLSTATE.
func hasCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}

// lost reports whether an error ended the connection, so that what it was told
// last has no known outcome.
func lost(err error) bool {
	var pg *pgconn.PgError
	return !errors.As(err, &pg) || pg.SeverityUnlocalized == "FATAL" || pg.SeverityUnlocalized == "PANIC" || pg.Severity == "FATAL"
}

// The binary forms of PostgreSQL's types.

const (
	oidBytea = 17
	oidInt8  = 20
	oidText  = 25
)

// epoch is where PostgreSQL's timestamps begin.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func int8Value(n int64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(n))
}

func readInt8(b []byte) (int64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("a number of %d bytes", len(b))
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

// readTime reads a timestamp; NULL is the zero time, that is: never.
func readTime(b []byte) (time.Time, error) {
	if b == nil {
		return time.Time{}, nil
	}
	n, err := readInt8(b)
	if err != nil {
		return time.Time{}, err
	}
	return epoch.Add(time.Duration(n) * time.Microsecond), nil
}

// timeValue rounds up: what is not older than a time is not older than this.
func timeValue(t time.Time) []byte {
	d := t.Sub(epoch)
	n := d.Microseconds()
	if d%time.Microsecond > 0 {
		n++
	}
	return int8Value(n)
}

// readInt8s reads an array of one dimension without NULLs.
func readInt8s(b []byte) ([]int64, error) {
	const head, each = 20, 12
	if len(b) < head {
		return nil, fmt.Errorf("an array of %d bytes", len(b))
	}
	n := (len(b) - head) / each
	all := make([]int64, n)
	for i := range all {
		all[i] = int64(binary.BigEndian.Uint64(b[head+i*each+4:]))
	}
	if len(b) != head+n*each {
		return nil, fmt.Errorf("an array of %d bytes has %d numbers", len(b), n)
	}
	return all, nil
}

// arrayValue encodes n elements of one dimension; element appends the i-th, or
// returns nil for a NULL.
func arrayValue(oid uint32, n, size int, element func(to []byte, i int) []byte) []byte {
	b := make([]byte, 0, 20+4*n+size)
	for _, v := range []uint32{1, 0, oid, uint32(n), 1} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	for i := range n {
		at := len(b)
		with := element(append(b, 0, 0, 0, 0), i)
		if with == nil {
			b = binary.BigEndian.AppendUint32(b, 1<<32-1)
			b[7] = 1 // there are NULLs
			continue
		}
		b = with
		binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	}
	return b
}

func textArray(keys []string) []byte {
	size := 0
	for _, k := range keys {
		size += len(k)
	}
	return arrayValue(oidText, len(keys), size, func(to []byte, i int) []byte { return append(to, keys[i]...) })
}
