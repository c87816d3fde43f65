package sqlite

import (
	"context"
	sqldriver "database/sql/driver"
	"fmt"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// A place is a partition's number and a position in it. There is room for
// 131,071 partitions of a file, and in each for 100,000 records a second for 22
// years.
const (
	positionBits   = 46
	mostPositions  = 1 << positionBits
	mostPartitions = 1 << (63 - positionBits)
)

// placeOf returns a place. A position that no record can have becomes the
// nearest one.
func placeOf(number int64, p driver.Position) int64 {
	return number<<positionBits + int64(min(max(p, 0), mostPositions-1))
}

func positionOf(place int64) driver.Position { return driver.Position(place & (mostPositions - 1)) }

// head is what a partition has beside its records. Positions have no gaps, so
// that the records are those from first to below next.
type head struct {
	number      int64
	first, next driver.Position
	bytes       int64
	lastAt      int64 // of the last record; times do not go back
	changed     bool
}

var (
	loadHead = query{"SELECT number, first, next, bytes, last_at FROM prism_log_partition WHERE number = ?"}
	saveHead = query{"UPDATE prism_log_partition SET first = ?, next = ?, bytes = ?, last_at = ? WHERE number = ?"}
)

func readHead(cells []sqldriver.Value) head {
	var n [5]int64
	integers(cells, n[:])
	return head{number: n[0], first: driver.Position(n[1]), next: driver.Position(n[2]), bytes: n[3], lastAt: n[4]}
}

func (l *link) head(number int64) (head, error) {
	cells, err := l.first(&loadHead, number)
	if err != nil {
		return head{}, err
	}
	if cells == nil {
		return head{}, errs.TopicNotFound
	}
	return readHead(cells), nil
}

// head returns a partition's head, which is written once, at the end of the
// transaction. A job may change it when its statements have succeeded.
func (tx *transaction) head(number int64) (*head, error) {
	if h := tx.heads[number]; h != nil {
		return h, nil
	}
	h, err := tx.link.head(number)
	if err != nil {
		return nil, err
	}
	if tx.heads == nil {
		tx.heads = make(map[int64]*head)
	}
	tx.heads[number] = &h
	return &h, nil
}

func (tx *transaction) keepHeads() error {
	for _, h := range tx.heads {
		if !h.changed {
			continue
		}
		if _, err := tx.run(&saveHead, int64(h.first), int64(h.next), h.bytes, h.lastAt, h.number); err != nil {
			return err
		}
	}
	return nil
}

// appending is a call of Append.
type appending struct {
	*topic
	rows    []row
	results []driver.AppendResult
	bytes   int
}

// A row is a record as it is written. The value of one that is refused is nil.
type row struct {
	partition      int
	size           int64
	id             string
	key            sqldriver.Value // nil: none
	headers, value []byte
}

// Append implements driver.Topic.
func (t *topic) Append(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
	err := t.conn.usable(ctx)
	var j *appending
	if err == nil {
		j = t.prepare(records)
		err = t.conn.file.submit(ctx, j)
	}
	for i := range results {
		switch {
		case err == nil || j != nil && j.rows[i].value == nil:
			results[i] = j.results[i]
		default: // the writer may not be through with it
			results[i] = driver.AppendResult{Err: err}
		}
	}
}

// prepare copies the records, as the writer may need them when the caller has
// left.
func (t *topic) prepare(records []driver.Record) *appending {
	j := &appending{topic: t, rows: make([]row, len(records)), results: make([]driver.AppendResult, len(records))}
	for i := range records {
		if j.results[i].Err = t.refuse(&records[i]); j.results[i].Err == nil {
			j.bytes += payload(&records[i])
		}
	}
	own := make([]byte, 0, j.bytes)
	for i := range records {
		if j.results[i].Err == nil {
			own = j.rows[i].fill(&records[i], own)
		}
	}
	return j
}

func (t *topic) refuse(r *driver.Record) error {
	if size, most := payload(r), t.conn.settings.maxValue; size > most {
		return errs.TooLarge("record", size, most)
	}
	return t.check(r.Partition)
}

// check returns what is wrong with the number of a partition.
func (t *topic) check(partition int) error {
	if partition < 0 || partition >= t.spec.Partitions {
		return errs.Invalid(errs.Field{Path: "partition", Text: fmt.Sprintf("%d is not below %d, which is how many there are", partition, t.spec.Partitions)})
	}
	return nil
}

// payload is what counts for driver.LogGuarantees.MaxRecord.
func payload(r *driver.Record) int {
	size := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += len(h.Name) + len(h.Value)
	}
	return size
}

var noBytes = []byte{} // nil would be NULL

// fill makes a row of a record, whose bytes are copied behind own.
func (r *row) fill(from *driver.Record, own []byte) []byte {
	r.partition, r.id, r.size = from.Partition, from.ID, int64(groups.Size(from))
	if from.Key != nil {
		own = append(own, from.Key...)
		r.key = own[len(own)-len(from.Key):]
	}
	own = append(own, from.Value...)
	r.value = own[len(own)-len(from.Value):]
	r.headers = noBytes
	if len(from.Headers) > 0 {
		r.headers = wrap.AppendHeaders(nil, from.Headers)
	}
	return own
}

var (
	rememberRecord = query{"INSERT INTO prism_log_id (number, id, position, expires_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET position = excluded.position, expires_at = excluded.expires_at WHERE expires_at <= ?5"}
	recallRecord   = query{"SELECT position FROM prism_log_id WHERE number = ? AND id = ?"}
	insertRecord   = query{"INSERT INTO prism_log_record (place, at, size, id, key, headers, value) VALUES (?, ?, ?, ?, ?, ?, ?)"}
)

func (j *appending) do(tx *transaction) error {
	tx.now = j.conn.settings.now()
	base, err := j.base(tx.link)
	if err != nil {
		return err
	}
	for i := range j.rows {
		r := &j.rows[i]
		if r.value == nil {
			continue
		}
		h, err := tx.head(base + int64(r.partition))
		if err != nil {
			return err
		}
		if j.results[i], err = j.add(tx, h, r); err != nil {
			return err
		}
	}
	return nil
}

func (j *appending) add(tx *transaction, h *head, r *row) (driver.AppendResult, error) {
	now := tx.now.UnixMilli()
	if j.spec.Dedup > 0 && r.id != "" {
		changed, err := tx.run(&rememberRecord, h.number, r.id, int64(h.next), tx.after(j.spec.Dedup), now)
		if err == nil && changed == 0 {
			var first int64
			first, err = tx.link.number(&recallRecord, h.number, r.id)
			return driver.AppendResult{Position: driver.Position(first), Duplicate: true}, err
		}
		if err != nil {
			return driver.AppendResult{}, err
		}
	}
	at, p := max(now, h.lastAt), h.next
	if _, err := tx.run(&insertRecord, placeOf(h.number, p), at, r.size, r.id, r.key, r.headers, r.value); err != nil {
		return driver.AppendResult{}, err
	}
	h.next, h.bytes, h.lastAt, h.changed = p+1, h.bytes+r.size, at, true
	return driver.AppendResult{Position: p}, nil
}

func (j *appending) tell() { j.appended.Ring() }

func (j *appending) weight() (ops, bytes int) { return len(j.rows), j.bytes }
