package redis

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// Bounds of Log.
const (
	maxNote    = 4096
	mostRecord = 64 << 20
)

// partitionMark stands for the number of a partition in the name of adopted
// streams.
const partitionMark = "*"

var (
	_ driver.Log   = (*log)(nil)
	_ driver.Topic = (*topic)(nil)
)

// log is the topics of one namespace.
type log struct {
	*conn
	namespace string // as it stands in keys
}

// journals are the topics that a connection has opened, by their keys.
type journals struct {
	mu   sync.Mutex // guards open
	open map[string]*topic
}

// namespaceName returns a namespace as it stands in the keys of topics: with no
// dot, so that the first one ends it.
func namespaceName(namespace string) string {
	escaped := strings.TrimSuffix(wrap.KeyPrefix(driver.Space{Namespace: namespace}), "::")
	return strings.ReplaceAll(escaped, ".", "%2E")
}

// Guarantees implements driver.Log.
func (l *log) Guarantees() driver.LogGuarantees {
	return driver.LogGuarantees{
		Dedup:         true,
		UntilConsumed: true,
		SeekLive:      true,
		Sparse:        true,
		MaxRecord:     l.maxRecord(),
		MaxNote:       maxNote,
		Shared:        true,
		Ack:           l.set.ack(),
	}
}

func (c *conn) maxRecord() int { return min(c.set.maxValue, mostRecord) }

// Topic implements driver.Log.
func (l *log) Topic(ctx context.Context, spec driver.TopicSpec) (driver.Topic, error) {
	c, err := l.link.ready(ctx)
	if err != nil {
		return nil, l.link.fail(ctx, err, true)
	}
	var t *topic
	if spec.Physical != "" {
		t, err = l.adopt(ctx, c, &spec)
	} else {
		t, err = l.own(ctx, c, &spec)
	}
	if err != nil {
		return nil, err
	}
	return l.opened(t), nil
}

// own returns a topic of Prism's own, having made it if there was none.
func (l *log) own(ctx context.Context, c rueidis.Client, spec *driver.TopicSpec) (*topic, error) {
	name := l.namespace + "." + spec.Name
	t := newTopic(l.conn, name)
	kept, err := t.keep(ctx, c,
		"partitions", strconv.Itoa(max(spec.Partitions, 1)), "max_age", spec.MaxAge.String(), "max_bytes", strconv.FormatInt(spec.MaxBytes, 10),
		"until_consumed", strconv.FormatBool(spec.UntilConsumed), "dedup", spec.Dedup.String())
	if err != nil {
		return nil, err
	}
	if t.spec, err = readSpec(kept); err != nil {
		return nil, err
	}
	if err := wrap.TopicFits(&t.spec, spec); err != nil {
		return nil, err
	}
	for i := range t.spec.Partitions {
		t.addStream("{" + name + "." + strconv.Itoa(i) + "}")
	}
	return t, t.makeStreams(ctx, c)
}

// keep keeps what is to be known of a topic and returns what is.
func (t *topic) keep(ctx context.Context, c rueidis.Client, fields ...string) (map[string]string, error) {
	kept, err := t.link.execute(ctx, c, execution{topicScript, []string{t.key}, fields})[0].AsStrMap()
	if err != nil {
		return nil, t.link.fail(ctx, err, true)
	}
	return kept, nil
}

// readSpec reads what is kept of a topic.
func readSpec(kept map[string]string) (s driver.TopicSpec, err error) {
	read := func(failed error) {
		if failed != nil {
			err = errs.Wrap(failed, errs.Internal, "what is kept of the topic is not what Prism has written")
		}
	}
	var failed error
	s.Partitions, failed = strconv.Atoi(kept["partitions"])
	read(failed)
	s.MaxAge, failed = time.ParseDuration(kept["max_age"])
	read(failed)
	s.MaxBytes, failed = strconv.ParseInt(kept["max_bytes"], 10, 64)
	read(failed)
	s.UntilConsumed, failed = strconv.ParseBool(kept["until_consumed"])
	read(failed)
	s.Dedup, failed = time.ParseDuration(kept["dedup"])
	read(failed)
	if err == nil && (s.Partitions < 1 || s.Partitions > driver.MaxPartitions) {
		err = errs.New(errs.Internal, "what is kept of the topic says %d partitions", s.Partitions)
	}
	return s, err
}

// adopt returns a topic whose streams other programs have made.
func (l *log) adopt(ctx context.Context, c rueidis.Client, spec *driver.TopicSpec) (*topic, error) {
	t := newTopic(l.conn, l.namespace+"="+spec.Physical)
	t.adopted = true
	if err := t.findStreams(ctx, c, spec.Physical); err != nil {
		return nil, err
	}
	t.spec.Partitions = len(t.streams)
	asked := driver.TopicSpec{Partitions: spec.Partitions}
	if err := wrap.TopicFits(&t.spec, &asked); err != nil {
		return nil, err
	}
	_, err := t.keep(ctx, c, "physical", spec.Physical)
	return t, err
}

// findStreams finds the streams of a name: one, or as many as there are with
// numbers from 0 on in the place of partitionMark.
func (t *topic) findStreams(ctx context.Context, c rueidis.Client, physical string) error {
	before, after, numbered := strings.Cut(physical, partitionMark)
	const step = 16
	for from := 0; from < driver.MaxPartitions; from += step {
		var names []string
		if !numbered {
			names = []string{physical}
		}
		for i := from; numbered && i < from+step; i++ {
			names = append(names, before+strconv.Itoa(i)+after)
		}
		types, err := t.types(ctx, c, names)
		if err != nil {
			return err
		}
		for i, kind := range types {
			switch {
			case kind == "none" && len(t.streams) == 0:
				return errs.TopicNotFound
			case kind == "none":
				return nil
			case kind != "stream":
				return errs.New(errs.InvalidConfiguration, "what lies under the topic's physical name is a %s, not a stream", kind)
			}
			t.addStream(names[i])
		}
		if !numbered {
			return nil
		}
	}
	return nil
}

func (t *topic) types(ctx context.Context, c rueidis.Client, names []string) ([]string, error) {
	cmds := make([]rueidis.Completed, len(names))
	for i, name := range names {
		cmds[i] = c.B().Type().Key(name).Build()
	}
	types := make([]string, len(names))
	for i, answer := range t.link.many(ctx, c, cmds) {
		var err error
		if types[i], err = answer.ToString(); err != nil {
			return nil, t.link.fail(ctx, err, false)
		}
	}
	return types, nil
}

// opened returns the same topic as before if it has not changed.
func (l *log) opened(t *topic) *topic {
	j := &l.journals
	j.mu.Lock()
	defer j.mu.Unlock()
	if old := j.open[t.key]; old != nil && old.spec == t.spec {
		return old
	}
	if j.open == nil {
		j.open = make(map[string]*topic)
	}
	j.open[t.key] = t
	l.sweeper.add(t)
	return t
}

// ready returns the client for a call whose context has not ended.
func (l *link) ready(ctx context.Context) (rueidis.Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return l.get(ctx)
}
