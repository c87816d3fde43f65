package sqlite

import (
	"cmp"
	"context"
	sqldriver "database/sql/driver"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

var (
	_ driver.Log   = (*log)(nil)
	_ driver.Topic = (*topic)(nil)
)

// maxNote bounds the note of a checkpoint, which is written with each commit.
const maxNote = 64 << 10

// log is the topics of one namespace seen through one connection. What changes
// them goes through the writer, with everything else in one transaction. Nobody
// else writes, so who waits for records is told by the writer, and who lives in
// a group is known in memory alone.
type log struct {
	conn      *conn
	namespace string
	ack       driver.Ack
}

// Guarantees implements driver.Log.
func (l *log) Guarantees() driver.LogGuarantees {
	return driver.LogGuarantees{
		Dedup:         true,
		UntilConsumed: true,
		SeekLive:      true,
		MaxRecord:     l.conn.settings.maxValue,
		MaxNote:       maxNote,
		Ack:           l.ack,
	}
}

// Topic implements driver.Log. Other programs make no topics, so a physical one
// can only be one of Prism's own.
func (l *log) Topic(ctx context.Context, spec driver.TopicSpec) (driver.Topic, error) {
	if err := l.conn.usable(ctx); err != nil {
		return nil, err
	}
	name := topicName{l.namespace, cmp.Or(spec.Physical, spec.Name)}
	for {
		t, err := read(ctx, l.conn, func(k *link) (*topic, error) { return l.conn.find(k, name) })
		if err != nil {
			return nil, err
		}
		if t != nil {
			return t, wrap.TopicFits(&t.spec, &spec)
		}
		if spec.Physical != "" {
			return nil, errs.TopicNotFound
		}
		if err := l.conn.file.submit(ctx, &making{name: name, spec: spec}); err != nil {
			return nil, err
		}
	}
}

type topicName struct{ namespace, topic string }

// topics are what a process knows of the topics of a file beside it.
type topics struct {
	mu     sync.Mutex // guards what follows
	bells  map[topicName]*groups.Bell
	groups map[groupName]*living
}

// bell returns the bell that rings when something was appended to a topic.
func (s *topics) bell(name topicName) *groups.Bell {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bells == nil {
		s.bells = make(map[topicName]*groups.Bell)
	}
	if s.bells[name] == nil {
		s.bells[name] = new(groups.Bell)
	}
	return s.bells[name]
}

// topic is one seen through one connection.
type topic struct {
	conn     *conn
	name     topicName
	spec     driver.TopicSpec
	appended *groups.Bell
	found    atomic.Pointer[numbered]
}

// numbered is a number that a name has in the file while it is open. The file
// may be replaced when it is not, and the number be another one's.
type numbered struct {
	store  *store
	number int64
}

// in returns the number if it is known in a link's file. Only what was read
// outside of a transaction is kept: the writer's may come to nothing.
func (n *numbered) in(l *link) (number int64, known bool) {
	if n == nil || n.store != l.store {
		return 0, false
	}
	return n.number, true
}

var loadTopic = query{"SELECT base, partitions, max_age, max_bytes, until_consumed, dedup FROM prism_log_topic WHERE namespace = ? AND topic = ?"}

// find returns a topic as it stands in the file, nil if it does not.
func (c *conn) find(l *link, name topicName) (*topic, error) {
	cells, err := l.first(&loadTopic, name.namespace, name.topic)
	if err != nil || cells == nil {
		return nil, err
	}
	var n [6]int64
	integers(cells, n[:])
	t := &topic{conn: c, name: name, appended: c.file.topics.bell(name), spec: driver.TopicSpec{
		Name: name.topic, Partitions: int(n[1]), MaxAge: time.Duration(n[2]), MaxBytes: n[3], UntilConsumed: n[4] != 0, Dedup: time.Duration(n[5]),
	}}
	t.found.Store(&numbered{l.store, n[0]})
	return t, nil
}

// integers reads whole numbers from the first cells.
func integers(cells []sqldriver.Value, numbers []int64) {
	for i := range numbers {
		numbers[i], _ = cells[i].(int64)
	}
}

// base returns the number of the topic's first partition; the others follow.
func (t *topic) base(l *link) (int64, error) {
	if base, known := t.found.Load().in(l); known {
		return base, nil
	}
	there, err := t.conn.find(l, t.name)
	if err != nil {
		return 0, err
	}
	if there == nil || there.spec.Partitions < t.spec.Partitions {
		return 0, errs.TopicNotFound
	}
	n := there.found.Load()
	if l != l.store.writer {
		t.found.Store(n)
	}
	return n.number, nil
}

// making makes a topic unless there is one.
type making struct {
	name topicName
	spec driver.TopicSpec
}

var (
	topicExists     = query{"SELECT count(*) FROM prism_log_topic WHERE namespace = ? AND topic = ?"}
	insertPartition = query{"INSERT INTO prism_log_partition (first, next, bytes, last_at) VALUES (1, 1, 0, 0)"}
	lastPartition   = query{"SELECT last_insert_rowid()"}
	insertTopic     = query{"INSERT INTO prism_log_topic (namespace, topic, base, partitions, max_age, max_bytes, until_consumed, dedup) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"}
)

func (j *making) do(tx *transaction) error {
	if there, err := tx.link.number(&topicExists, j.name.namespace, j.name.topic); err != nil || there > 0 {
		return err
	}
	n := int64(max(j.spec.Partitions, 1))
	for range n {
		if _, err := tx.run(&insertPartition); err != nil {
			return err
		}
	}
	last, err := tx.link.number(&lastPartition)
	if err != nil {
		return err
	}
	if last >= mostPartitions {
		return errs.New(errs.InvalidConfiguration, "the SQLite file has no number left for a partition; begin a new file")
	}
	var consumed int64
	if j.spec.UntilConsumed {
		consumed = 1
	}
	_, err = tx.run(&insertTopic, j.name.namespace, j.name.topic, last-n+1, n, int64(j.spec.MaxAge), j.spec.MaxBytes, consumed, int64(j.spec.Dedup))
	return err
}

func (j *making) tell() {}

func (j *making) weight() (ops, bytes int) { return max(j.spec.Partitions, 1), 0 }
