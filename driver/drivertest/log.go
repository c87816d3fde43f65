package drivertest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// A LogHarness says how the suite of Log reaches one technology. It is a
// Harness in everything but what it is handed to.
type LogHarness Harness

// A ForeignTopic is a topic of another program, reached as that program would.
type ForeignTopic struct {
	Physical   string
	Partitions int             // fewer than was asked for where such topics cannot have so many
	Headers    []driver.Header // as odd as other programs can write them there
	Append     func(records ...driver.Record)
	Delete     func()
}

// RunLog is Run for the primitive Log.
func RunLog(t *testing.T, log LogHarness) {
	t.Helper()
	h := Harness(log)
	runChild(t, &h, logWriter)
	s := newLogSuite(t, &h)
	t.Run("checks", func(t *testing.T) {
		for _, c := range logChecks() {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				s.run(t, c)
			})
		}
	})
	for _, c := range logAloneChecks {
		t.Run(c.name, func(t *testing.T) { s.run(t, c) })
	}
	s.close(t)
	s.write(t, matrix{Suite: "log", Driver: h.Name, Log: &s.log})
}

func newLogSuite(tb testing.TB, h *Harness) *suite {
	tb.Helper()
	s, b := openSuite(tb, h, append(logChecks(), logAloneChecks...))
	s.log = b.Log.Guarantees()
	s.due = 2 * driver.TakeOver
	return s
}

func logChecks() []check {
	return slices.Concat(
		logTopicChecks(), logAppendChecks(), dedupChecks(), logReadChecks(), logGroupChecks(), logMoveChecks(),
		logCommitChecks(), logReaderChecks(), logStatChecks(), retentionChecks(), logConnChecks(), logFaultChecks(),
	)
}

// logPatience is patience for checks of what takes its time: leases that run
// out, one after the other, and records that are deleted a minute later.
const logPatience = 5 * time.Minute

// logs is the Log of one space.
type logs struct {
	*env
	driver.Log
	g     driver.LogGuarantees
	space driver.Space
}

func (e *env) logs() *logs {
	e.Helper()
	return e.logsOn(e.s.anchor, e.space())
}

func (e *env) logsOn(conn driver.Conn, space driver.Space) *logs {
	e.Helper()
	b, err := conn.Space(space)
	if err != nil {
		e.Fatalf("space %q %q: %v", space.Namespace, space.Pattern, err)
	}
	if b.Log == nil {
		e.Fatalf("space %q %q has no Log", space.Namespace, space.Pattern)
	}
	patient := *e
	ctx, cancel := context.WithTimeout(context.Background(), logPatience)
	e.Cleanup(cancel)
	patient.ctx = ctx
	return &logs{&patient, b.Log, e.s.log, space}
}

// journal is one topic with the short forms that checks are written in.
type journal struct {
	*logs
	driver.Topic
	spec   driver.TopicSpec
	claims *sync.Map // of each group and partition: those that were given
}

// journal returns a topic of its own on the shared connection.
func (e *env) journal(partitions int) *journal {
	e.Helper()
	return e.logs().topic(driver.TopicSpec{Name: "t", Partitions: partitions})
}

func (l *logs) topic(spec driver.TopicSpec) *journal {
	l.Helper()
	t, err := l.Topic(l.ctx, spec)
	if err != nil {
		l.Fatalf("topic %s: %s", brief(spec.Name), describe(err))
	}
	return &journal{l, t, spec, &sync.Map{}}
}

// again is the same topic through another connection.
func (j *journal) again(conn driver.Conn) *journal {
	j.Helper()
	other := j.logsOn(conn, j.space).topic(j.spec)
	other.claims = j.claims
	return other
}

// outcomes appends records. The results begin with what was never there, so
// that one that is left out shows.
func (j *journal) outcomes(records ...driver.Record) []driver.AppendResult {
	results := slices.Repeat([]driver.AppendResult{{Position: -7, Duplicate: true, Err: errs.Internal}}, len(records))
	j.Append(j.ctx, records, results)
	return results
}

// put appends records in a call that has to succeed without a duplicate.
func (j *journal) put(records ...driver.Record) []driver.Position {
	j.Helper()
	places := make([]driver.Position, len(records))
	for i, r := range j.outcomes(records...) {
		if r.Err != nil || r.Duplicate || r.Position < 1 {
			j.Fatalf("append %d of %d: position %d, duplicate %v, %s", i, len(records), r.Position, r.Duplicate, describe(r.Err))
		}
		places[i] = r.Position
	}
	return places
}

// append appends texts to a partition, all at once.
func (j *journal) append(partition int, texts ...string) []driver.Position {
	j.Helper()
	records := make([]driver.Record, len(texts))
	for i, text := range texts {
		records[i] = driver.Record{Partition: partition, Value: []byte(text)}
	}
	return j.put(records...)
}

// numbered appends records with the texts from to to-1 to a partition.
func (j *journal) numbered(partition, from, to int) []driver.Position {
	j.Helper()
	var texts []string
	for i := from; i < to; i++ {
		texts = append(texts, fmt.Sprint(i))
	}
	return j.append(partition, texts...)
}

// page reads once, and checks what is true of every read.
func (j *journal) page(r driver.ReadRequest) driver.Records {
	j.Helper()
	found, err := j.Read(j.ctx, r)
	if err != nil {
		j.Fatalf("read %d from %d: %s", r.Partition, r.From, describe(err))
	}
	last, size := driver.Position(0), 0
	for i, s := range found.Records {
		if s.Partition != r.Partition || s.Position < 1 || s.Position <= last || r.Time.IsZero() && s.Position < r.From {
			j.Errorf("read %d from %d: a record of %d at %d after %d", r.Partition, r.From, s.Partition, s.Position, last)
		}
		if s.Time.IsZero() {
			j.Errorf("read %d: the record at %d has no time", r.Partition, s.Position)
		}
		if r.MaxBytes > 0 && size >= r.MaxBytes {
			j.Errorf("read %d: record %d comes after %d bytes, of at most %d", r.Partition, i, size, r.MaxBytes)
		}
		last = s.Position
		size += sizeOf(s.Record)
	}
	if len(found.Records) > r.Limit {
		j.Errorf("read %d: %d records, of at most %d", r.Partition, len(found.Records), r.Limit)
	}
	if len(found.Records) > 0 && found.Next <= last {
		j.Errorf("read %d: goes on from %d after %d", r.Partition, found.Next, last)
	}
	return found
}

// all reads everything from a position on, in pages of a size.
func (j *journal) all(partition int, from driver.Position, limit int) (found []driver.Stored) {
	j.Helper()
	for {
		p := j.page(driver.ReadRequest{Partition: partition, From: from, Limit: limit})
		if len(p.Records) == 0 {
			return found
		}
		found = append(found, p.Records...)
		from = p.Next
	}
}

// at returns the record that stands at a position.
func (j *journal) at(partition int, place driver.Position) driver.Stored {
	j.Helper()
	found := j.page(driver.ReadRequest{Partition: partition, From: place, Limit: 1}).Records
	if len(found) == 0 || found[0].Position != place {
		j.Fatalf("partition %d: the record at %d is not there", partition, place)
	}
	return found[0]
}

// holds checks that a partition has exactly these texts, in this order.
func (j *journal) holds(partition int, want ...string) {
	j.Helper()
	if got := textsOf(j.all(partition, 0, 100)); !slices.Equal(got, want) {
		j.Errorf("partition %d: has %s, want %s", partition, briefAll(got), briefAll(want))
	}
}

// stats returns what is known of all partitions, and checks what is always so.
func (j *journal) stats(group string) []driver.PartitionStat {
	j.Helper()
	all, err := j.Stat(j.ctx, group)
	if err != nil {
		j.Fatalf("stat of %s: %s", brief(group), describe(err))
	}
	if len(all) != j.Partitions() {
		j.Fatalf("stat: %d of %d partitions", len(all), j.Partitions())
	}
	for p, s := range all {
		if s.First > s.End || s.First < 0 {
			j.Errorf("stat of %d: first %d, end %d", p, s.First, s.End)
		}
		if !s.Known && (s.Next != 0 || s.Waiting != 0 || !s.Oldest.IsZero() || s.Owner != "") {
			j.Errorf("stat of %d: %+v of a group that is not known", p, s)
		}
		if s.Waiting < 0 {
			j.Errorf("stat of %d: %d are waiting", p, s.Waiting)
		}
	}
	return all
}

// group returns what is known of a group in one partition, in which it has to
// be known.
func (j *journal) group(name string, partition int) driver.PartitionStat {
	j.Helper()
	s := j.stats(name)[partition]
	if !s.Known {
		j.Fatalf("stat of %d: group %s is not known", partition, brief(name))
	}
	return s
}

// waits reports whether a number of waiting records is the right one, or too
// high where it may be.
func (j *journal) waits(told int64, want int) bool {
	return told == int64(want) || j.g.Sparse && told > int64(want)
}

func textsOf(found []driver.Stored) []string {
	texts := make([]string, len(found))
	for i, s := range found {
		texts[i] = string(s.Value)
	}
	return texts
}

func sizeOf(r driver.Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Name) + len(h.Value)
	}
	return n
}

// sameRecord reports whether one record is the other, with the values of each
// header's name in order.
func sameRecord(a, b driver.Record) bool {
	byName := func(h, other driver.Header) int { return cmp.Compare(h.Name, other.Name) }
	return a.Partition == b.Partition && a.ID == b.ID && bytes.Equal(a.Key, b.Key) && (a.Key == nil) == (b.Key == nil) &&
		slices.Equal(slices.SortedStableFunc(slices.Values(a.Headers), byName), slices.SortedStableFunc(slices.Values(b.Headers), byName)) &&
		bytes.Equal(a.Value, b.Value)
}
