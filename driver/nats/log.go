package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// maxNote is how long the note of a checkpoint may be. Each beat of a member
// reads the notes of its whole group.
const maxNote = 4096

// Names in the metadata of a topic's stream: what its settings do not tell.
const (
	partitionsMeta = "prism-partitions"
	dedupMeta      = "prism-dedup" // the stream forgets ids after the window that it has at any rate, unless this is set
)

var (
	_ driver.Log   = (*log)(nil)
	_ driver.Topic = (*topic)(nil)
)

// log is the topics of one namespace.
type log struct {
	*conn
	namespace string
}

// journals are the topics that a connection has opened.
type journals struct {
	mu   sync.Mutex // guards open
	open map[journalName]*topic
}

type journalName struct{ namespace, stream string }

// Guarantees implements driver.Log.
func (l *log) Guarantees() driver.LogGuarantees {
	return driver.LogGuarantees{
		Dedup:     true,
		SeekLive:  true,
		Sparse:    true,
		MaxRecord: l.set.maxValue,
		MaxNote:   maxNote,
		Shared:    true,
		Ack:       l.set.ack(),
	}
}

// Topic implements driver.Log.
func (l *log) Topic(ctx context.Context, spec driver.TopicSpec) (driver.Topic, error) {
	if spec.UntilConsumed {
		return nil, errs.New(errs.Unsupported, "JetStream deletes by age and size only; leave retention.until_consumed out")
	}
	s, err := l.link.online(ctx)
	if err != nil {
		return nil, l.link.fail(ctx, err, false)
	}
	stream := cmp.Or(spec.Physical, streamName(l.namespace, spec.Name))
	info, err := s.streamOf(ctx, stream)
	for errors.Is(err, errs.TopicNotFound) && spec.Physical == "" {
		err = l.within(ctx, func(ctx context.Context) error { return l.makeStream(ctx, s, stream, &spec) })
		if err == nil {
			info, err = s.streamOf(ctx, stream)
		}
	}
	if err == nil {
		err = l.fits(s, info, &spec)
	}
	if err != nil {
		return nil, l.link.fail(ctx, err, false)
	}
	return l.opened(info), nil
}

// streamOf asks for a topic's stream; errs.TopicNotFound if there is none.
func (s *session) streamOf(ctx context.Context, stream string) (*jetstream.StreamInfo, error) {
	if !validStream(stream) {
		return nil, errs.TopicNotFound
	}
	info, err := s.info(ctx, stream)
	if errs.ReasonOf(err) == errs.KeyNotFound {
		err = errs.TopicNotFound
	}
	return info, err
}

// within makes a call whose effect is looked for afterwards: a cluster that is
// asked by several to make the same thing at once leaves some without an answer.
func (l *log) within(ctx context.Context, create func(context.Context) error) error {
	short, cancel := context.WithTimeout(ctx, l.set.connect)
	defer cancel()
	if err := create(short); short.Err() == nil || ctx.Err() != nil {
		return err
	}
	return nil
}

// validStream reports whether a stream can have the name.
func validStream(name string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' || strings.IndexByte(`.*>/\`, c) >= 0 {
			return false
		}
	}
	return name != "" && len(name) < 256
}

// makeStream makes the stream of a topic, unless somebody else just has.
func (l *log) makeStream(ctx context.Context, s *session, stream string, spec *driver.TopicSpec) error {
	if spec.MaxAge > 0 && spec.Dedup > spec.MaxAge {
		return &errs.Error{Reason: errs.InvalidConfiguration, Message: "JetStream remembers ids no longer than it keeps records", Fields: []errs.Field{
			{Path: "dedup", Text: fmt.Sprintf("is %v, but retention.age is %v; JetStream remembers ids no longer than it keeps records", spec.Dedup, spec.MaxAge)},
		}}
	}
	err := s.request(ctx, "STREAM.CREATE."+stream, l.streamConfig(stream, spec), nil)
	var refused *jetstream.APIError
	switch {
	case errors.As(err, &refused) && refused.ErrorCode == codeStreamExists:
		return nil
	case errors.As(err, &refused) && errs.ReasonOf(err) == errs.Internal:
		return errs.Wrap(err, errs.InvalidConfiguration, "the topic's stream %s does not exist, and the backend does not make it: %s", stream, refused.Description)
	}
	return err
}

func (l *log) streamConfig(stream string, spec *driver.TopicSpec) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name: stream, Subjects: []string{topicPrefix(l.namespace, spec.Name) + "*"}, Description: "made by Prism",
		Storage: jetstream.FileStorage, Replicas: l.set.replicas, Discard: jetstream.DiscardOld,
		MaxAge: spec.MaxAge, MaxBytes: -1, MaxMsgs: -1, MaxMsgSize: -1, MaxConsumers: -1, AllowDirect: true,
		Metadata: map[string]string{partitionsMeta: strconv.Itoa(max(spec.Partitions, 1))},
	}
	if spec.MaxBytes > 0 {
		c.MaxBytes = spec.MaxBytes
	}
	if spec.Dedup > 0 {
		c.Duplicates = max(spec.Dedup, leastDedup)
		c.Metadata[dedupMeta] = "on"
	}
	return c
}

// leastDedup is the shortest window that a server takes.
const leastDedup = 100 * time.Millisecond

// fits returns what the stream promises less than the spec asks for, or what
// makes it no place for a topic.
func (l *log) fits(s *session, info *jetstream.StreamInfo, spec *driver.TopicSpec) error {
	c := &info.Config
	if wrong := l.unfit(c); len(wrong) > 0 {
		return errs.New(errs.InvalidConfiguration, "the topic's stream %s is not as it has to be: %s; change it (nats stream edit)", c.Name, strings.Join(wrong, ", "))
	}
	if most := s.nc.MaxPayload(); most < int64(l.set.maxValue)+headroom {
		return errs.New(errs.InvalidConfiguration, "options.max_value is %d bytes, but the backend's max_payload is %d, %d of which headers may need; raise that or lower the option", l.set.maxValue, most, headroom)
	}
	var bad []errs.Field
	report := func(path string, less bool, has, wanted any) {
		if less {
			bad = append(bad, errs.Field{Path: path, Text: fmt.Sprintf("the topic that is there has %v, not %v", has, wanted)})
		}
	}
	report("partitions", partitionsOf(c) < spec.Partitions, partitionsOf(c), spec.Partitions)
	report("retention.age", shorter(c.MaxAge, spec.MaxAge), c.MaxAge, spec.MaxAge)
	report("retention.bytes", shorter(max(c.MaxBytes, 0), spec.MaxBytes), max(c.MaxBytes, 0), spec.MaxBytes)
	report("retention.until_consumed", c.Retention != jetstream.LimitsPolicy, c.Retention, jetstream.LimitsPolicy)
	report("dedup", dedupOf(c) < spec.Dedup, dedupOf(c), spec.Dedup)
	if bad == nil {
		return nil
	}
	return &errs.Error{Reason: errs.InvalidConfiguration, Message: "the topic that is there promises less than is asked for", Fields: bad}
}

// unfit are the settings of a stream with which no topic can keep its promises.
func (l *log) unfit(c *jetstream.StreamConfig) (wrong []string) {
	for _, rule := range []struct {
		bad  bool
		text string
	}{
		{!c.AllowDirect, "allow_direct is off, without which nothing reads many messages at once"},
		{c.Storage != jetstream.FileStorage, "storage is memory, not file"},
		{c.Replicas < l.set.replicas, fmt.Sprintf("replicas are %d, not %d", c.Replicas, l.set.replicas)},
		{c.NoAck, "no_ack is on"},
		{c.PersistMode != jetstream.DefaultPersistMode, "persist_mode is async, not default"},
		{c.MaxMsgs > 0 && c.Discard == jetstream.DiscardOld, "max_msgs deletes by number"},
		{c.MaxMsgsPerSubject > 0 && !c.DiscardNewPerSubject, "max_msgs_per_subject deletes by number"},
	} {
		if rule.bad {
			wrong = append(wrong, rule.text)
		}
	}
	return wrong
}

// shorter reports whether a bound is lower than another one, where 0 is none.
func shorter[T ~int64](a, b T) bool { return a != 0 && (b == 0 || a < b) }

// partitionsOf returns how many partitions a stream has. One that does not say
// is a single one, whatever its subjects are.
func partitionsOf(c *jetstream.StreamConfig) int {
	n, err := strconv.Atoi(c.Metadata[partitionsMeta])
	if err != nil || n < 1 || n > driver.MaxPartitions || !partitioned(c) {
		return 1
	}
	return n
}

// partitioned reports whether the last token of a stream's subjects is the
// number of a partition.
func partitioned(c *jetstream.StreamConfig) bool {
	if c.Metadata[partitionsMeta] == "" || len(c.Subjects) != 1 {
		return false
	}
	prefix, ok := strings.CutSuffix(c.Subjects[0], ".*")
	return ok && !strings.ContainsAny(prefix, "*>")
}

// dedupOf returns how long a stream remembers ids. One of Prism's that was not
// asked to is given none.
func dedupOf(c *jetstream.StreamConfig) time.Duration {
	if c.Metadata[partitionsMeta] != "" && c.Metadata[dedupMeta] == "" {
		return 0
	}
	return c.Duplicates
}

// opened returns the topic of a stream, the same one as before if the stream
// has not changed.
func (l *log) opened(info *jetstream.StreamInfo) *topic {
	t := newTopic(l, info)
	j := &l.journals
	j.mu.Lock()
	defer j.mu.Unlock()
	name := journalName{l.namespace, t.stream}
	if old := j.open[name]; old != nil && old.same(t) {
		return old
	}
	if j.open == nil {
		j.open = make(map[journalName]*topic)
	}
	j.open[name] = t
	return t
}
