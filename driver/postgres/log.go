package postgres

import (
	"cmp"
	"context"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

const (
	// maxNote bounds the note of a checkpoint, which is written with each commit.
	maxNote = 64 << 10

	commitWeight = 4096 // commits of one flight
)

// log is the topics of one namespace. Appends share flights whatever topics and
// partitions they are for, as the tasks of queues do, and so do commits of
// groups.
type log struct {
	c         *conn
	namespace string
	st        *logStatements

	appends lane[*appendJob]
	commits lane[*commitJob]
}

var (
	_ driver.Log    = (*log)(nil)
	_ driver.Topic  = (*topic)(nil)
	_ groups.Source = (*topic)(nil)
	_ groups.Table  = (*group)(nil)
)

func newLog(c *conn, namespace string) *log {
	l := &log{c: c, namespace: namespace, st: c.logs}
	l.appends.max, l.appends.weight, l.appends.fly = c.opts.Flights, writeWeight, (&carrier[*appendJob]{c, &c.logTables, l.appendAll, failAppend}).fly
	l.commits.max, l.commits.weight, l.commits.fly = c.opts.Flights, commitWeight, (&carrier[*commitJob]{c, &c.logTables, l.commitAll, failCommit}).fly
	return l
}

// Guarantees implements driver.Log.
func (l *log) Guarantees() driver.LogGuarantees {
	return driver.LogGuarantees{
		Dedup:         true,
		UntilConsumed: true,
		SeekLive:      true,
		MaxRecord:     maxValue,
		MaxNote:       maxNote,
		Shared:        true,
		Ack:           l.c.assert.ack(),
	}
}

// Topic implements driver.Log. Other programs make no topics, so a physical one
// can only be one of Prism's own.
func (l *log) Topic(ctx context.Context, spec driver.TopicSpec) (driver.Topic, error) {
	name := cmp.Or(spec.Physical, spec.Name)
	if !driver.ValidTopic(name) {
		if spec.Physical != "" {
			return nil, errs.TopicNotFound
		}
		return nil, errs.Invalid(errs.Field{Path: "topic", Text: "is no name of a topic"})
	}
	for {
		t, err := l.find(ctx, name)
		if err != nil {
			return nil, err
		}
		if t != nil {
			return t, wrap.TopicFits(&t.spec, &spec)
		}
		if spec.Physical != "" {
			return nil, errs.TopicNotFound
		}
		if err := l.create(ctx, &spec); err != nil {
			return nil, err
		}
	}
}

// find returns a topic as it stands in the database, nil if it does not.
func (l *log) find(ctx context.Context, name string) (*topic, error) {
	args := &values{pNamespace: []byte(l.namespace), pName: []byte(name)}
	return ask1(ctx, l.c, &l.c.logTables, query{l.st.find, args, nil}, func(t **topic, columns [][]byte) error {
		n, err := readNumbers(columns)
		if err != nil {
			return err
		}
		*t = &topic{log: l, number: n[0], appended: l.c.wakes.logBell(topicKey(l.namespace, name)), spec: driver.TopicSpec{
			Name: name, Partitions: int(n[1]), MaxAge: time.Duration(n[2]) * time.Microsecond, MaxBytes: n[3],
			UntilConsumed: n[4] != 0, Dedup: time.Duration(n[5]) * time.Microsecond,
		}}
		return nil
	})
}

// readNumbers reads whole numbers, of which NULL is 0.
func readNumbers(columns [][]byte) ([]int64, error) {
	all := make([]int64, len(columns))
	for i, c := range columns {
		if c == nil {
			continue
		}
		var err error
		if all[i], err = readInt8(c); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// create makes a topic unless there is one.
func (l *log) create(ctx context.Context, spec *driver.TopicSpec) error {
	consumed := int64(0)
	if spec.UntilConsumed {
		consumed = 1
	}
	args := &values{
		pNamespace: []byte(l.namespace), pName: []byte(spec.Name), pPartition: int8Value(int64(max(spec.Partitions, 1))),
		pAge: int8Value(micros(spec.MaxAge)), pBytes: int8Value(spec.MaxBytes), pConsumed: int8Value(consumed), pDedup: int8Value(micros(spec.Dedup)),
	}
	return l.change(ctx, query{l.st.create, args, nil})
}

// change carries out queries in one transaction.
func (l *log) change(ctx context.Context, queries ...query) error {
	_, err := change(ctx, l.c, &l.c.logTables, func(*struct{}) []query { return queries })
	return err
}
