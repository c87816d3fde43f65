package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// log is the topics of one namespace.
type log struct {
	conn      *conn
	namespace string
}

var _ driver.Log = (*log)(nil)

// topic is one topic.
type topic struct {
	*route     // over the connection's own client
	conn       *conn
	namespace  string
	adopted    bool
	partitions int
	compacted  bool // records between others may have been removed
	lanes      []*lane
}

var _ driver.Topic = (*topic)(nil)

const (
	maxNote     = 4096            // the brokers' default offset.metadata.max.bytes
	makeWithin  = 5 * time.Second // how long brokers are waited for that make a topic or elect leaders
	partsOfKept = 4               // segments of what a topic keeps
	leastKept   = 1 << 20         // bytes of a segment: brokers take no smaller ones
)

// Guarantees implements driver.Log.
func (l *log) Guarantees() driver.LogGuarantees {
	return driver.LogGuarantees{
		Foreign:   true,
		Sparse:    true, // transactions and compaction leave gaps
		MaxRecord: l.conn.set.MaxRecord,
		MaxNote:   maxNote,
		Shared:    true,
		Ack:       l.conn.set.ack(),
	}
}

// Topic implements driver.Log.
func (l *log) Topic(ctx context.Context, spec driver.TopicSpec) (driver.Topic, error) {
	switch {
	case spec.UntilConsumed:
		return nil, errs.New(errs.Unsupported, "Kafka deletes by age and size only; leave retention.until_consumed out")
	case spec.Dedup > 0:
		return nil, errs.New(errs.Unsupported, "Kafka knows no duplicates; leave dedup out")
	}
	if err := l.conn.ready(ctx); err != nil {
		return nil, err
	}
	t := &topic{conn: l.conn, namespace: l.namespace, adopted: spec.Physical != ""}
	t.route = &route{conn: l.conn, client: l.conn.client, topic: spec.Physical}
	if !t.adopted {
		t.topic = topicName(l.namespace, spec.Name)
	}
	if err := t.open(ctx, &spec); err != nil {
		return nil, l.conn.fail(ctx, err, false)
	}
	return t, nil
}

// Partitions implements driver.Topic.
func (t *topic) Partitions() int { return t.partitions }

// group returns Kafka's name of a group.
func (t *topic) group(name string) string { return groupName(t.namespace, t.topic, t.adopted, name) }

// all are the numbers of the partitions.
func (t *topic) all() []int32 {
	all := make([]int32, t.partitions)
	for p := range all {
		all[p] = int32(p)
	}
	return all
}

// open finds the topic or makes it, and compares it with the spec.
func (t *topic) open(ctx context.Context, spec *driver.TopicSpec) error {
	if !legalTopic(t.topic) {
		return errs.New(errs.TopicNotFound, "Kafka has no topic of this name: it may have 249 of A-Z a-z 0-9 . _ -")
	}
	found, err := t.find(ctx)
	if err != nil {
		return err
	}
	if found == nil && t.adopted {
		return errs.TopicNotFound
	}
	if found == nil {
		if err := t.create(ctx, spec); err != nil {
			return err
		}
	}
	if found, err = t.elected(ctx); err != nil {
		return err
	}
	t.partitions = len(found.Partitions)
	t.lanes = t.conn.lanesOf(t.topic, t.partitions)
	return t.compare(ctx, spec, found)
}

// find returns the topic as it is; nil: there is none.
func (t *topic) find(ctx context.Context) (*kmsg.MetadataResponseTopic, error) {
	resp, err := t.conn.metadata(ctx, t.client, t.topic)
	if err != nil {
		return nil, err
	}
	found := &resp.Topics[0]
	switch err := kerr.ErrorForCode(found.ErrorCode); {
	case err == nil, errors.Is(err, kerr.LeaderNotAvailable):
		return found, nil
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return nil, nil
	default:
		return nil, err
	}
}

// elected waits until the topic is there with a leader for each partition: a
// broker may hear of a new one late. It does not wait for ever: what is without
// a leader for longer is so for other reasons.
func (t *topic) elected(ctx context.Context) (*kmsg.MetadataResponseTopic, error) {
	for end, tries := time.Now().Add(makeWithin), 1; ; tries++ {
		found, err := t.find(ctx)
		if err != nil {
			return nil, err
		}
		leaderless := found == nil || len(found.Partitions) == 0 || slices.ContainsFunc(found.Partitions, func(p kmsg.MetadataResponseTopicPartition) bool {
			return p.Leader < 0
		})
		if !leaderless {
			return found, nil
		}
		if time.Now().After(end) {
			return nil, kerr.LeaderNotAvailable
		}
		if err := pause(ctx, rest(tries)); err != nil {
			return nil, err
		}
	}
}

// pause waits, unless the context ends before.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// create makes the topic. Somebody else may be quicker, whose topic is compared.
func (t *topic) create(ctx context.Context, spec *driver.TopicSpec) error {
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.topic, int32(spec.Partitions), -1
	if n := t.conn.set.Replicas; n > 0 {
		rt.ReplicationFactor = int16(n)
	}
	for name, value := range t.conn.set.topicConfig(spec) {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = name, kmsg.StringPtr(value)
		rt.Configs = append(rt.Configs, c)
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = int32(makeWithin.Milliseconds())
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, prompt{t.client})
	if err != nil {
		return err
	}
	if len(resp.Topics) != 1 {
		return errs.New(errs.Internal, "the backend answered for other topics")
	}
	switch err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); {
	case err == nil, errors.Is(err, kerr.TopicAlreadyExists), errors.Is(err, kerr.RequestTimedOut):
		return nil
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return kerr.ClusterAuthorizationFailed
	default:
		return err
	}
}

// topicConfig is the configuration of a topic that is made.
func (s *settings) topicConfig(spec *driver.TopicSpec) map[string]string {
	c := map[string]string{
		"cleanup.policy":    "delete",
		"retention.ms":      "-1",
		"retention.bytes":   "-1",
		"max.message.bytes": fmt.Sprint(s.MaxRecord + framing),
	}
	if s.MinInsyncReplicas > 0 {
		c["min.insync.replicas"] = fmt.Sprint(s.MinInsyncReplicas)
	}
	if s.flushed {
		c["flush.messages"] = "1"
	}
	if spec.MaxAge > 0 {
		c["retention.ms"] = fmt.Sprint(spec.MaxAge.Milliseconds())
		c["segment.ms"] = fmt.Sprint(min(max(spec.MaxAge/partsOfKept, time.Second), 7*24*time.Hour).Milliseconds())
	}
	if spec.MaxBytes > 0 {
		each := perPartition(spec.MaxBytes, spec.Partitions)
		c["retention.bytes"] = fmt.Sprint(each)
		c["segment.bytes"] = fmt.Sprint(min(max(each/partsOfKept, leastKept, int64(s.MaxRecord+framing)), 1<<30))
	}
	return c
}

// perPartition divides a topic's bytes, rounding up: nothing goes too early.
func perPartition(bytes int64, partitions int) int64 {
	n := int64(max(partitions, 1))
	return (bytes + n - 1) / n
}
