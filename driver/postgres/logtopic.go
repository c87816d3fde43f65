package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// fetchRows bounds what one fetch looks at in one partition.
const fetchRows = 1000

// topic is one seen through one connection.
type topic struct {
	log      *log
	number   int64
	spec     driver.TopicSpec
	appended *groups.Bell
}

// Partitions implements driver.Topic.
func (t *topic) Partitions() int { return t.spec.Partitions }

// check returns what is wrong with the number of a partition.
func (t *topic) check(partition int) error {
	if partition < 0 || partition >= t.spec.Partitions {
		return errs.Invalid(errs.Field{Path: "partition", Text: fmt.Sprintf("%d is not below %d, which is how many there are", partition, t.spec.Partitions)})
	}
	return nil
}

// args are parameters with the topic's number.
func (t *topic) args() *values { return &values{pTopic: int8Value(t.number)} }

// askTopic asks about a topic. Where there is no row, the topic is gone.
func askTopic[T any](ctx context.Context, t *topic, q query, row func(*T, [][]byte) error) (answer T, err error) {
	type result struct {
		answer T
		there  bool
	}
	r, err := ask1(ctx, t.log.c, &t.log.c.logTables, q, func(r *result, columns [][]byte) error {
		r.there = true
		return row(&r.answer, columns)
	})
	if err == nil && !r.there {
		err = errs.TopicNotFound
	}
	return r.answer, err
}

// Read implements driver.Topic.
func (t *topic) Read(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
	if err := t.check(r.Partition); err != nil {
		return driver.Records{}, err
	}
	most := int64(math.MaxInt64)
	if r.MaxBytes > 0 {
		most = int64(r.MaxBytes)
	}
	args, st := t.args(), t.log.st.read
	args[pPartition], args[pFrom] = int8Value(int64(r.Partition)), int8Value(int64(r.From))
	args[pLimit], args[pBytes] = int8Value(int64(r.Limit)), int8Value(most)
	if !r.Time.IsZero() {
		st, args[pTime] = t.log.st.since, timeValue(r.Time)
	}
	return askTopic(ctx, t, query{st, args, nil}, func(found *driver.Records, columns [][]byte) error {
		places, err := readNumbers(columns[:2])
		if err != nil {
			return err
		}
		if found.Next = driver.Position(min(places[0], places[1])); columns[2] == nil {
			return nil
		}
		record, err := readRecord(columns[2:], r.Partition)
		found.Records = append(found.Records, record)
		found.Next = record.Position + 1
		return err
	})
}

// readRecord reads the columns of storedRow.
func readRecord(columns [][]byte, partition int) (s driver.Stored, err error) {
	position, err := readInt8(columns[0])
	if err != nil {
		return s, err
	}
	s.Position, s.Partition, s.ID, s.Headers = driver.Position(position), partition, string(columns[2]), readHeaderText(string(columns[4]))
	own := append(append(make([]byte, 0, len(columns[3])+len(columns[5])), columns[3]...), columns[5]...)
	if n := len(columns[3]); columns[3] != nil {
		s.Key = own[:n:n]
	}
	s.Value = own[len(columns[3]):]
	s.Time, err = readTime(columns[1])
	return s, err
}

// Fetch implements groups.Source.
func (t *topic) Fetch(ctx context.Context, cursors []groups.Cursor, found []groups.Found) (uint64, error) {
	mark, n := t.appended.Count(), len(cursors)
	partitions, froms, limits, mosts := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	smallest := groups.Size(&driver.Record{})
	for i, c := range cursors {
		partitions[i], froms[i], mosts[i] = int64(c.Partition), int64(max(c.From, 1)), int64(c.Bytes)
		limits[i] = int64(min(c.Bytes/smallest+1, fetchRows))
	}
	args := t.args()
	args[pPartitions], args[pFroms], args[pLimits], args[pMosts] = int8Array(partitions), int8Array(froms), int8Array(limits), int8Array(mosts)
	type answer struct {
		found []groups.Found
		gone  bool
	}
	a, err := ask1(ctx, t.log.c, &t.log.c.logTables, query{t.log.st.fetch, args, nil}, func(a *answer, columns [][]byte) error {
		if a.found == nil {
			a.found = make([]groups.Found, n)
		}
		place, err := readInt8(columns[0])
		if a.gone = a.gone || columns[1] == nil; err != nil || a.gone {
			return err
		}
		return arrive(&a.found[place-1], &cursors[place-1], columns[1:])
	})
	if err == nil && a.gone {
		return mark, errs.TopicNotFound
	}
	copy(found, a.found)
	return mark, err
}

// arrive adds a row (first, a record or NULLs) to what was found at a cursor.
func arrive(f *groups.Found, c *groups.Cursor, columns [][]byte) error {
	from := max(c.From, 1)
	if columns[1] == nil {
		first, err := readInt8(columns[0])
		f.Next, f.Skipped = driver.Position(first), first-int64(from)
		return err
	}
	r, err := readRecord(columns[1:], c.Partition)
	if len(f.Records) == 0 {
		f.Skipped = int64(r.Position - from)
	}
	f.Records = append(f.Records, r)
	return err
}

// Wait implements groups.Source. Appends through this connection are told at
// once, those of others as soon as they are heard of, and at the latest when
// somebody looks.
func (t *topic) Wait(ctx context.Context, _ []groups.Cursor, mark uint64) error {
	timer := time.NewTimer(t.log.c.wakes.poll)
	defer timer.Stop()
	select {
	case <-t.appended.After(mark):
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Join implements driver.Topic.
func (t *topic) Join(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
	c := t.log.c
	for _, at := range r.At {
		if err := t.check(at.Partition); err != nil {
			return nil, err
		}
	}
	reads := groups.Topic{
		Source: t, Name: t.log.namespace + "/" + t.spec.Name, Partitions: t.spec.Partitions, Buffer: r.Buffer,
		Log: c.cfg.Logger().With(slog.String("backend", c.name), slog.String("topic", t.spec.Name)),
	}
	if r.Group == "" {
		from, err := t.begin(ctx, r.Start)
		if err != nil {
			return nil, err
		}
		for _, at := range r.At {
			from[at.Partition] = at.Next
		}
		c.wakes.hear()
		return c.members.Read(reads, from)
	}
	g, err := t.know(ctx, r.Group, r.Start)
	if err != nil {
		return nil, err
	}
	c.wakes.hear()
	return c.members.Join(reads, groups.Group{Table: g, Name: r.Group, Member: r.Name, MaxNote: maxNote, Changed: g.changed})
}

// start adds where to begin to parameters.
func start(args *values, s driver.Start) {
	args[pStart], args[pTime] = int8Value(int64(s.From)), int8Value(0)
	if s.From == driver.StartTime {
		args[pTime] = timeValue(s.Time)
	}
}

// begin returns where a start is in each partition.
func (t *topic) begin(ctx context.Context, s driver.Start) ([]driver.Position, error) {
	args := t.args()
	start(args, s)
	return askTopic(ctx, t, query{t.log.st.begin, args, nil}, func(from *[]driver.Position, columns [][]byte) error {
		p, err := readInt8(columns[0])
		*from = append(*from, driver.Position(p))
		return err
	})
}

// know makes a group known and returns its table.
func (t *topic) know(ctx context.Context, name string, s driver.Start) (*group, error) {
	if !driver.ValidTopic(name) {
		return nil, errs.Invalid(errs.Field{Path: "group", Text: "is no name of a group"})
	}
	args := t.args()
	args[pName] = []byte(name)
	start(args, s)
	number, err := change(ctx, t.log.c, &t.log.c.logTables, func(number *int64) []query {
		return []query{{t.log.st.know, args, nil}, {t.log.st.group, args, readNumber(number)}}
	})
	if err == nil && number == 0 {
		err = errs.TopicNotFound
	}
	if err != nil {
		return nil, err
	}
	key := groupKey(t.log.namespace, t.spec.Name, name)
	return &group{topic: t, number: number, key: key, changed: t.log.c.wakes.logBell(key)}, nil
}

// readNumber reads a row of one number, of which NULL is -1.
func readNumber(n *int64) func([][]byte) error {
	return func(columns [][]byte) (err error) {
		if *n = -1; columns[0] != nil {
			*n, err = readInt8(columns[0])
		}
		return err
	}
}

// Seek implements driver.Topic.
func (t *topic) Seek(ctx context.Context, name string, to []driver.Target) error {
	next := map[int]int64{}
	for _, target := range to {
		if err := t.check(target.Partition); err != nil {
			return err
		}
		next[target.Partition] = int64(target.Next)
	}
	var partitions, nexts []int64
	for p := range t.spec.Partitions { // in order, so that nobody waits for each other in a circle
		if at, sought := next[p]; sought {
			partitions, nexts = append(partitions, int64(p)), append(nexts, at)
		}
	}
	args := t.args()
	args[pName], args[pPartitions], args[pNexts] = []byte(name), int8Array(partitions), int8Array(nexts)
	number, err := change(ctx, t.log.c, &t.log.c.logTables, func(number *int64) []query {
		return []query{{t.log.st.group, args, readNumber(number)}, {t.log.st.seek, args, nil}}
	})
	switch {
	case err != nil:
		return err
	case number == 0:
		return errs.TopicNotFound
	case number < 0:
		return errs.GroupNotFound
	}
	t.log.c.wakes.ring(groupKey(t.log.namespace, t.spec.Name, name), 1)
	return nil
}

// Stat implements driver.Topic.
func (t *topic) Stat(ctx context.Context, name string) ([]driver.PartitionStat, error) {
	args := t.args()
	args[pName] = []byte(name)
	return askTopic(ctx, t, query{t.log.st.stat, args, nil}, func(all *[]driver.PartitionStat, columns [][]byte) error {
		n, err := readNumbers(columns[:3])
		if err != nil {
			return err
		}
		s := driver.PartitionStat{First: driver.Position(n[0]), End: driver.Position(n[1])}
		if columns[2] != nil {
			s.Known, s.Next, s.Owner = true, driver.Position(n[2]), string(columns[4])
			s.Waiting = int64(max(0, s.End-max(s.Next, s.First)))
			s.Oldest, err = readTime(columns[3])
		}
		*all = append(*all, s)
		return err
	})
}

// sorted returns a sorted copy.
func sorted(all []int) []int64 {
	own := make([]int64, len(all))
	for i, n := range all {
		own[i] = int64(n)
	}
	slices.Sort(own)
	return own
}
