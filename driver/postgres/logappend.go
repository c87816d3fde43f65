package postgres

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// insertTries is how often an append is repeated that met rows which others
// inserted without its lock.
const insertTries = 3

// An appendJob is a part of a call of Append.
type appendJob struct {
	topic   *topic
	rows    []row
	results []driver.AppendResult
}

// A row is a record as it is written.
type row struct {
	partition  int
	size       int
	id         string
	key, value []byte // a key that is nil: none
	headers    string
}

// Append implements driver.Topic.
func (t *topic) Append(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
	for from := 0; from < len(records); {
		job, weight := t.newAppendJob(records[from:])
		n := len(job.rows)
		err := error(nil)
		if ctx.Err() != nil || !t.log.appends.do(ctx, job, weight) {
			err = contextError(ctx)
		}
		for i := range n {
			if results[from+i] = (driver.AppendResult{Err: err}); err == nil {
				results[from+i] = job.results[i]
			}
		}
		from += n
	}
}

// newAppendJob copies as many records as one flight takes.
func (t *topic) newAppendJob(records []driver.Record) (*appendJob, int) {
	n, size, weight := 0, 0, 0
	for ; n < len(records) && weight < writeWeight; n++ {
		r := &records[n]
		size += len(r.Key) + len(r.Value)
		weight += taskWeight + groups.Size(r)
	}
	job := &appendJob{topic: t, rows: make([]row, n), results: make([]driver.AppendResult, n)}
	own := make([]byte, 0, size)
	for i := range n {
		if job.results[i].Err = t.refuse(&records[i]); job.results[i].Err == nil {
			own = job.rows[i].fill(&records[i], own)
		}
	}
	return job, weight
}

// fill makes a row of a record, whose bytes are copied behind own.
func (r *row) fill(from *driver.Record, own []byte) []byte {
	r.partition, r.id, r.size = from.Partition, strings.Clone(from.ID), groups.Size(from)
	if from.Key != nil {
		own = append(own, from.Key...)
		r.key = own[len(own)-len(from.Key):]
	}
	own = append(own, from.Value...)
	r.value = own[len(own)-len(from.Value):]
	r.headers = headerText(from.Headers)
	return own
}

// refuse returns why a record cannot be appended. What the server could not hold
// is refused here, so that it never fails a statement that others share.
func (t *topic) refuse(r *driver.Record) error {
	size := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += len(h.Name) + len(h.Value)
		if !driver.ValidHeader(h) {
			return errs.Invalid(errs.Field{Path: "headers", Text: "have a name or a value that a record cannot have"})
		}
	}
	if size > maxValue {
		return errs.TooLarge("record", size, maxValue)
	}
	return cmp.Or(t.check(r.Partition), checkID(r.ID))
}

// headerText returns headers as lines such as "name: value".
func headerText(headers []driver.Header) string {
	var b strings.Builder
	for _, h := range headers {
		b.WriteString(h.Name)
		b.WriteString(": ")
		b.WriteString(h.Value)
		b.WriteByte('\n')
	}
	return b.String()
}

// readHeaderText reads what headerText wrote.
func readHeaderText(text string) []driver.Header {
	if text == "" {
		return nil
	}
	headers := make([]driver.Header, 0, strings.Count(text, "\n"))
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		headers = append(headers, driver.Header{Name: name, Value: value})
	}
	return headers
}

// A place is a partition of a topic.
type place struct {
	topic     int64
	partition int
}

// An added record is one that a flight of appends sends.
type added struct {
	job *appendJob
	i   int
}

func (a added) row() *row                    { return &a.job.rows[a.i] }
func (a added) result() *driver.AppendResult { return &a.job.results[a.i] }
func (a added) place() place                 { return place{a.job.topic.number, a.row().partition} }

// remembered reports whether the topic knows duplicates of the record.
func (a added) remembered() bool { return a.job.topic.spec.Dedup > 0 && a.row().id != "" }

type recordID struct {
	place
	id string
}

// appendAll appends the records of all jobs in one statement. Of those with one
// ID in one partition the first is sent; the others are its duplicates.
func (l *log) appendAll(ctx context.Context, pc *pgx.Conn, jobs []*appendJob) error {
	var all, again []added
	first := map[recordID]added{}
	for _, job := range jobs {
		for i := range job.rows {
			a := added{job, i}
			if a.result().Err != nil {
				continue // it was refused
			}
			if a.remembered() {
				id := recordID{a.place(), a.row().id}
				if _, known := first[id]; known {
					again = append(again, a)
					continue
				}
				first[id] = a
			}
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if err := l.sendRecords(ctx, pc, all); err != nil {
		return err
	}
	for _, a := range again {
		if *a.result() = *first[recordID{a.place(), a.row().id}].result(); a.result().Err == nil {
			a.result().Duplicate = true
		}
	}
	l.tellOfAppended(all)
	return nil
}

func failAppend(job *appendJob, err error) {
	for i := range job.results {
		if job.results[i].Err == nil {
			job.results[i] = driver.AppendResult{Err: err}
		}
	}
}

func (l *log) sendRecords(ctx context.Context, pc *pgx.Conn, all []added) error {
	var places []int64
	send := query{l.st.append, recordValues(all), func(columns [][]byte) (err error) {
		places, err = readInt8s(columns[0])
		return err
	}}
	err := l.c.run(ctx, pc, &l.c.logTables, send)
	for range insertTries {
		if !hasCode(err, "23505") { // somebody has inserted a row there by hand
			break
		}
		err = l.c.run(ctx, pc, &l.c.logTables, send)
	}
	if err != nil {
		return err
	}
	if len(places) != len(all) {
		return errs.New(errs.Internal, "backend %q answered %d positions for %d records", l.c.name, len(places), len(all))
	}
	for i, a := range all {
		switch r, at := a.result(), driver.Position(places[i]); {
		case at > 0:
			r.Position = at
		case at < 0:
			r.Position, r.Duplicate = -at, true
		default:
			r.Err = errs.TopicNotFound
		}
	}
	return nil
}

// A head is a partition as a flight of appends sends it.
type head struct {
	number, window int64 // the number from 1
	records, bytes int64
}

// recordValues are the parameters of the append statement: the partitions in
// their order, and the records with the number of each one's partition.
func recordValues(all []added) *values {
	n, size := len(all), 0
	heads, order := headsOf(all)
	numbers, nths, sums, sizes := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	ids, texts := make([]string, n), make([]string, n)
	for i, a := range all {
		h, r := heads[a.place()], a.row()
		h.records++
		h.bytes += int64(r.size)
		numbers[i], nths[i], sums[i], sizes[i] = h.number, h.records, h.bytes, int64(r.size)
		ids[i], texts[i] = r.id, r.headers
		size += len(r.value)
	}
	topics, partitions, windows := make([]int64, len(order)), make([]int64, len(order)), make([]int64, len(order))
	for i, at := range order {
		topics[i], partitions[i], windows[i] = at.topic, int64(at.partition), heads[at].window
	}
	v := &values{
		pTopics: int8Array(topics), pPartitions: int8Array(partitions), pWindows: int8Array(windows),
		pHeads: int8Array(numbers), pNths: int8Array(nths), pSums: int8Array(sums), pSizes: int8Array(sizes), pIDs: textArray(ids), pTexts: textArray(texts),
	}
	v[pRecordKeys] = arrayValue(oidBytea, n, 0, func(to []byte, i int) []byte {
		if key := all[i].row().key; key != nil {
			return append(to, key...)
		}
		return nil
	})
	v[pValues] = arrayValue(oidBytea, n, size, func(to []byte, i int) []byte { return append(to, all[i].row().value...) })
	return v
}

// headsOf returns the partitions of records, and their order.
func headsOf(all []added) (heads map[place]*head, order []place) {
	heads = make(map[place]*head, 1)
	for _, a := range all {
		if at := a.place(); heads[at] == nil {
			heads[at] = &head{window: micros(a.job.topic.spec.Dedup)}
			order = append(order, at)
		}
	}
	slices.SortFunc(order, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
	})
	for i, at := range order {
		heads[at].number = int64(i + 1)
	}
	return heads, order
}

// tellOfAppended wakes those who wait for records of these topics.
func (l *log) tellOfAppended(all []added) {
	come := map[string]int{}
	for _, a := range all {
		if r := a.result(); r.Err == nil && !r.Duplicate {
			come[a.job.topic.spec.Name]++
		}
	}
	for name, n := range come {
		l.c.wakes.ring(topicKey(l.namespace, name), n)
	}
}
