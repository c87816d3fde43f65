package redis

import (
	"context"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// How much one script appends, so that it holds up nobody for long.
const (
	portionRecords = 256
	portionBytes   = 1 << 20
)

// Append implements driver.Topic. Of each partition, one script appends as much
// as it may; those of all partitions, and of other callers, go together.
func (t *topic) Append(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
	c, err := t.client(ctx)
	left := make([]line, 0, 1)
	for i := range records {
		results[i] = driver.AppendResult{}
		if results[i].Err = t.refusal(&records[i]); results[i].Err != nil {
			continue
		}
		if err != nil {
			results[i].Err = t.link.fail(ctx, err, true)
			continue
		}
		left = queue(left, records[i].Partition, i)
	}
	for len(left) > 0 {
		left = t.appendSome(ctx, c, left, records, results)
	}
}

// A line is the records of one partition that are to be appended, by their
// indexes.
type line struct {
	partition int
	records   []int
}

func queue(lines []line, partition, i int) []line {
	for n := range lines {
		if lines[n].partition == partition {
			lines[n].records = append(lines[n].records, i)
			return lines
		}
	}
	return append(lines, line{partition, []int{i}})
}

// refusal returns why a record cannot be appended.
func (t *topic) refusal(r *driver.Record) error {
	if err := t.check(r.Partition); err != nil {
		return err
	}
	if size := payload(r); size > t.maxRecord {
		return errs.TooLarge("record", size, t.maxRecord)
	}
	return nil
}

// appendSome appends the first of each line and returns what is left.
func (t *topic) appendSome(ctx context.Context, c rueidis.Client, lines []line, records []driver.Record, results []driver.AppendResult) (left []line) {
	all, portions := make([]execution, len(lines)), make([]int, len(lines))
	for i, l := range lines {
		all[i], portions[i] = t.portion(l, records)
	}
	for i, answer := range t.link.execute(ctx, c, all...) {
		l := &lines[i]
		now, later := l.records[:portions[i]], l.records[portions[i]:]
		if err := t.appended(ctx, answer, now, results); err != nil {
			for _, n := range l.records { // also those behind it, which must not come to stand before it
				results[n].Err = err
			}
		} else if len(later) > 0 {
			left = append(left, line{l.partition, later})
		}
	}
	return left
}

// portion returns the script for the first n records of a line.
func (t *topic) portion(l line, records []driver.Record) (e execution, n int) {
	const perRecord = 8 // texts of one with a header
	args := make([]string, 0, 3+perRecord*min(len(l.records), portionRecords))
	args = append(args, t.channel, strconv.Itoa(l.partition), strconv.FormatInt(milliseconds(t.spec.Dedup), 10))
	for bytes := 0; n < len(l.records) && n < portionRecords; n++ {
		r := &records[l.records[n]]
		if bytes += payload(r); n > 0 && bytes > portionBytes {
			break
		}
		at := len(args)
		args = fieldsOf(append(args, r.ID, ""), r)
		args[at+1] = strconv.Itoa(len(args) - at - 2)
	}
	keys := []string{t.streams[l.partition]}
	if t.spec.MaxBytes > 0 {
		keys = append(keys, t.bytes[l.partition])
	}
	return execution{appendScript, keys, args}, n
}

// appended reads what the script has answered.
func (t *topic) appended(ctx context.Context, answer rueidis.RedisResult, records []int, results []driver.AppendResult) error {
	ids, err := answer.AsStrSlice()
	switch {
	case rueidis.IsRedisNil(err):
		return errs.TopicNotFound
	case err != nil:
		return t.link.fail(ctx, err, true)
	case len(ids) != len(records):
		return errs.New(errs.OutcomeUnknown, "the backend answered an append in an unknown form")
	}
	for n, i := range records {
		id, duplicate := strings.CutPrefix(ids[n], "=")
		at, err := positionOf(id)
		results[i] = driver.AppendResult{Position: at, Duplicate: duplicate, Err: err}
	}
	return nil
}
