package memory

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

var (
	_ driver.Log   = (*log)(nil)
	_ driver.Topic = (*openTopic)(nil)
)

// maxNote bounds the note of a checkpoint. Memory has no bound of its own.
const maxNote = 64 << 10

// topics are those of a namespace.
type topics struct {
	mu     sync.Mutex // guards byName
	byName map[string]*topic
}

// log is the topics of one namespace seen through one connection.
type log struct {
	conn   *conn
	topics *topics
	name   string // of the namespace
}

// Guarantees implements driver.Log.
func (l *log) Guarantees() driver.LogGuarantees {
	return driver.LogGuarantees{
		Dedup:         true,
		UntilConsumed: true,
		SeekLive:      true,
		MaxRecord:     l.conn.settings.maxValue,
		MaxNote:       maxNote,
		Ack:           ack,
	}
}

// Topic implements driver.Log.
func (l *log) Topic(ctx context.Context, spec driver.TopicSpec) (driver.Topic, error) {
	if err := l.conn.usable(ctx); err != nil {
		return nil, err
	}
	t, err := l.topics.topic(&spec, l.conn.data.now)
	if err != nil {
		return nil, err
	}
	return &openTopic{conn: l.conn, topic: t, name: l.name + "/" + t.spec.Name}, nil
}

// topic finds the topic or makes it. One that other programs made, which memory
// has none of, can only be one of its own.
func (s *topics) topic(spec *driver.TopicSpec, now func() time.Time) (*topic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.byName[cmp.Or(spec.Physical, spec.Name)]
	switch {
	case t != nil:
		return t, wrap.TopicFits(&t.spec, spec)
	case spec.Physical != "":
		return nil, errs.TopicNotFound
	}
	t = newTopic(*spec, now)
	s.byName[t.spec.Name] = t
	return t, nil
}

func (s *topics) all() []*topic {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*topic, 0, len(s.byName))
	for _, t := range s.byName {
		all = append(all, t)
	}
	return all
}

// openTopic is a topic seen through one connection.
type openTopic struct {
	*topic
	conn *conn
	name string // with its namespace
}

// Partitions implements driver.Topic.
func (t *openTopic) Partitions() int { return t.spec.Partitions }

// Append implements driver.Topic.
func (t *openTopic) Append(ctx context.Context, records []driver.Record, results []driver.AppendResult) {
	if err := t.conn.usable(ctx); err != nil {
		for i := range results {
			results[i] = driver.AppendResult{Err: err}
		}
		return
	}
	t.append(records, results, t.conn.settings.maxValue)
}

// Read implements driver.Topic.
func (t *openTopic) Read(ctx context.Context, r driver.ReadRequest) (driver.Records, error) {
	if err := cmp.Or(t.conn.usable(ctx), t.check(r.Partition)); err != nil {
		return driver.Records{}, err
	}
	from := r.From
	if !r.Time.IsZero() {
		from = t.since(r.Partition, r.Time)
	}
	x := t.read(r.Partition, from, r.Limit, r.MaxBytes, payload)
	return driver.Records{Records: x.records, Next: min(x.next, x.end)}, nil
}

// Join implements driver.Topic.
func (t *openTopic) Join(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
	if err := t.conn.usable(ctx); err != nil {
		return nil, err
	}
	reads := groups.Topic{Source: source{t.topic}, Name: t.name, Partitions: t.spec.Partitions, Buffer: r.Buffer, Log: t.conn.log}
	if r.Group == "" {
		from := t.begin(r.Start)
		for _, at := range r.At {
			if err := t.check(at.Partition); err != nil {
				return nil, err
			}
			from[at.Partition] = at.Next
		}
		return t.conn.members.Read(reads, from)
	}
	g := t.know(r.Group, r.Start)
	return t.conn.members.Join(reads, groups.Group{Table: g, Name: r.Group, Member: r.Name, MaxNote: maxNote, Changed: &g.changed})
}

// Stat implements driver.Topic.
func (t *openTopic) Stat(ctx context.Context, group string) ([]driver.PartitionStat, error) {
	if err := t.conn.usable(ctx); err != nil {
		return nil, err
	}
	return t.stat(group), nil
}

// Seek implements driver.Topic.
func (t *openTopic) Seek(ctx context.Context, group string, to []driver.Target) error {
	if err := t.conn.usable(ctx); err != nil {
		return err
	}
	for _, target := range to {
		if err := t.check(target.Partition); err != nil {
			return err
		}
	}
	return t.seek(group, to)
}

// check returns what is wrong with the number of a partition.
func (t *topic) check(partition int) error {
	if partition < 0 || partition >= t.spec.Partitions {
		return errs.Invalid(errs.Field{Path: "partition", Text: fmt.Sprintf("%d is not below %d, which is how many there are", partition, t.spec.Partitions)})
	}
	return nil
}
