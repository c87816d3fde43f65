package sqlite

import (
	sqldriver "database/sql/driver"
	"time"

	"github.com/prismgw/prism/driver"
)

// retaining is the job that removes what topics need not keep, as much as one
// transaction may.
type retaining struct {
	due   []overdue
	rows  int // that may still be removed
	bytes int64
}

// overdue says what may go of a partition, or of all those of a topic.
type overdue struct {
	number     int64
	before     int64           // records of times before
	below      driver.Position // records of positions below
	excess     int64           // the oldest ones, so many bytes of
	partitions int64           // of the topic, for excess
}

var (
	findOld = query{`SELECT p.number, (?1 - t.max_age) / 1000000, 0, 0, 1 FROM prism_log_topic t
		CROSS JOIN prism_log_partition p ON p.number >= t.base AND p.number < t.base + t.partitions AND p.first < p.next
		CROSS JOIN prism_log_record r ON r.place = (p.number << 46) + p.first
		WHERE t.max_age > 0 AND r.at < (?1 - t.max_age) / 1000000 LIMIT ?2`}
	findConsumed = query{`SELECT p.number, 0, min(c.next), 0, 1 FROM prism_log_topic t
		CROSS JOIN prism_log_group g ON g.base = t.base
		CROSS JOIN prism_log_claim c ON c.place >= g.number << 10 AND c.place < (g.number + 1) << 10
		CROSS JOIN prism_log_partition p ON p.number = t.base + (c.place & 1023)
		WHERE t.until_consumed <> 0 AND p.first < p.next GROUP BY p.number HAVING min(c.next) > p.first LIMIT ?2 + 0 * ?1`}
	findLarge = query{`SELECT t.base, 0, 0, sum(p.bytes) - t.max_bytes, t.partitions FROM prism_log_topic t
		CROSS JOIN prism_log_partition p ON p.number >= t.base AND p.number < t.base + t.partitions
		WHERE t.max_bytes > 0 GROUP BY t.base HAVING sum(p.bytes) > t.max_bytes LIMIT ?2 + 0 * ?1`}
)

// lookShare is how many times as long as a look at all topics took nothing looks
// at them again.
const lookShare = 20

// retain removes some of what topics need not keep.
func (w *writer) retain(s *store) (more bool, err error) {
	began := time.Now()
	if began.Before(w.retained) {
		return false, nil
	}
	j := &retaining{}
	if err := j.find(s.writer, w.now()); err != nil {
		return false, err
	}
	w.looks.Add(1)
	if len(j.due) == 0 {
		w.retained = began.Add(lookShare * time.Since(began))
		return false, nil
	}
	err = w.alone(j)
	return err == nil, err
}

func (j *retaining) find(l *link, now time.Time) error {
	for _, q := range []*query{&findOld, &findConsumed, &findLarge} {
		err := l.each(q, func(cells []sqldriver.Value) bool {
			var n [5]int64
			integers(cells, n[:])
			j.due = append(j.due, overdue{number: n[0], before: n[1], below: driver.Position(n[2]), excess: n[3], partitions: n[4]})
			return true
		}, now.UnixNano(), int64(maxGroupOps))
		if err != nil {
			return err
		}
	}
	return nil
}

// alone carries out a job of the writer itself.
func (w *writer) alone(j job) error {
	r := newRequest(nil, nil)
	r.job = j
	w.group = append(w.group[:0], r)
	if tx, err := w.begin(); err != nil {
		w.answer(err)
	} else {
		w.carryOut(tx)
	}
	<-r.done
	err := r.err
	r.recycle()
	return err
}

func (j *retaining) do(tx *transaction) error {
	j.rows, j.bytes = maxGroupOps, maxGroupBytes
	for i := range j.due {
		var err error
		if d := &j.due[i]; d.excess > 0 {
			err = j.shrink(tx, d)
		} else {
			err = j.clear(tx, d)
		}
		if err != nil || j.spent() {
			return err
		}
	}
	return nil
}

func (j *retaining) spent() bool { return j.rows <= 0 || j.bytes <= 0 }

// clear removes what is too old, or consumed, of one partition.
func (j *retaining) clear(tx *transaction, d *overdue) error {
	c, err := tx.cut(d.number)
	for err == nil && !j.spent() && c.first < c.next && (c.at < d.before || c.first < d.below) {
		err = j.drop(tx, c)
	}
	if err != nil {
		return err
	}
	return c.remove(tx)
}

// shrink removes the oldest records of a topic, whatever partitions they are in.
func (j *retaining) shrink(tx *transaction, d *overdue) error {
	var cuts []*cut
	for i := range d.partitions {
		c, err := tx.cut(d.number + i)
		if err != nil {
			return err
		}
		cuts = append(cuts, c)
	}
	for excess := d.excess; excess > 0 && !j.spent(); {
		var oldest *cut
		for _, c := range cuts {
			if c.first < c.next && (oldest == nil || c.at < oldest.at) {
				oldest = c
			}
		}
		if oldest == nil {
			break
		}
		excess -= oldest.size
		if err := j.drop(tx, oldest); err != nil {
			return err
		}
	}
	for _, c := range cuts {
		if err := c.remove(tx); err != nil {
			return err
		}
	}
	return nil
}

// A cut is where a partition is to begin.
type cut struct {
	*head
	from     driver.Position // where it begins now
	at, size int64           // of the record at first
}

var (
	loadSize      = query{"SELECT at, size FROM prism_log_record WHERE place = ?"}
	removeRecords = query{"DELETE FROM prism_log_record WHERE place >= ? AND place < ?"}
)

func (tx *transaction) cut(number int64) (*cut, error) {
	h, err := tx.head(number)
	if err != nil {
		return nil, err
	}
	c := &cut{head: h, from: h.first}
	return c, c.look(tx.link)
}

// look reads about the first record.
func (c *cut) look(l *link) error {
	if c.first == c.next {
		return nil
	}
	cells, err := l.first(&loadSize, placeOf(c.number, c.first))
	if err != nil {
		return err
	}
	c.at, c.size = 0, 0 // somebody has deleted it
	if cells != nil {
		c.at, _ = cells[0].(int64)
		c.size, _ = cells[1].(int64)
	}
	return nil
}

func (j *retaining) drop(tx *transaction, c *cut) error {
	j.rows--
	j.bytes -= c.size
	c.first++
	c.bytes -= c.size
	c.changed = true
	return c.look(tx.link)
}

// remove deletes what is before the cut.
func (c *cut) remove(tx *transaction) error {
	if c.from == c.first {
		return nil
	}
	_, err := tx.run(&removeRecords, placeOf(c.number, c.from), placeOf(c.number, c.first))
	return err
}

func (j *retaining) tell() {}

func (j *retaining) weight() (ops, bytes int) { return 0, 0 }
