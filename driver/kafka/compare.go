package kafka

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// config is what brokers tell of a topic's configuration, or of their own.
type config map[string]string

// number returns a value; told is whether there is one.
func (c config) number(name string) (n int64, told bool) {
	n, err := strconv.ParseInt(c[name], 10, 64)
	return n, err == nil
}

// configOf asks for values of a topic, or of a broker by its number.
func (c *conn) configOf(ctx context.Context, kind kmsg.ConfigResourceType, name string, keys ...string) (config, error) {
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.ConfigNames = kind, name, keys
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(ctx, prompt{c.client})
	if err != nil {
		return nil, err
	}
	found := config{}
	for i := range resp.Resources {
		if err := kerr.ErrorForCode(resp.Resources[i].ErrorCode); err != nil {
			return nil, err
		}
		for _, v := range resp.Resources[i].Configs {
			if v.Value != nil {
				found[v.Name] = *v.Value
			}
		}
	}
	return found, nil
}

// differences collects what a topic promises less than it should.
type differences []errs.Field

func (d *differences) add(bad bool, path, format string, args ...any) {
	if bad {
		*d = append(*d, errs.Field{Path: path, Text: fmt.Sprintf(format, args...)})
	}
}

func (d differences) err() error {
	if len(d) == 0 {
		return nil
	}
	return &errs.Error{Reason: errs.InvalidConfiguration, Message: "the topic that is there promises less than is asked for", Fields: d}
}

// compare returns what a topic that is there promises less than the spec, or the
// Backend document, asks for.
func (t *topic) compare(ctx context.Context, spec *driver.TopicSpec, found *kmsg.MetadataResponseTopic) error {
	c, err := t.conn.configOf(ctx, kmsg.ConfigResourceTypeTopic, t.topic, "cleanup.policy", "retention.ms", "retention.bytes",
		"max.message.bytes", "min.insync.replicas", "unclean.leader.election.enable", "flush.messages")
	if err != nil {
		return err
	}
	t.compacted = strings.Contains(c["cleanup.policy"], "compact")
	var bad differences
	bad.add(t.partitions < spec.Partitions, "partitions", "the topic has %d", t.partitions)
	bad.add(t.compacted && !t.adopted, "retention", "the topic is compacted: records with newer ones of their key go")
	t.compareRetention(&bad, c, spec)
	t.conn.set.compareSafety(&bad, c, found)
	return bad.err()
}

func (t *topic) compareRetention(bad *differences, c config, spec *driver.TopicSpec) {
	if t.adopted && spec.MaxAge == 0 && spec.MaxBytes == 0 {
		return // as it is
	}
	if ms, told := c.number("retention.ms"); told && ms >= 0 {
		age := time.Duration(ms) * time.Millisecond
		bad.add(spec.MaxAge == 0 || age < spec.MaxAge.Truncate(time.Millisecond), "retention.age", "the topic deletes after %s (retention.ms)", age)
	}
	if bytes, told := c.number("retention.bytes"); told && bytes >= 0 {
		less := spec.MaxBytes == 0 || bytes < perPartition(spec.MaxBytes, t.partitions)
		bad.add(less, "retention.bytes", "the topic deletes above %d bytes in each of its %d partitions (retention.bytes)", bytes, t.partitions)
	}
}

// compareSafety compares a topic with what this Backend says that an OK
// survives, and with its largest records.
func (s *settings) compareSafety(bad *differences, c config, found *kmsg.MetadataResponseTopic) {
	largest, told := c.number("max.message.bytes")
	bad.add(told && largest < int64(s.MaxRecord+framing), "options.max_record", "the topic takes messages of %d bytes (max.message.bytes), of which %d are for the framing", largest, framing)
	for _, p := range found.Partitions {
		if len(p.Replicas) < s.Replicas {
			bad.add(true, "options.replicas", "the topic has %d", len(p.Replicas))
			break
		}
	}
	least, told := c.number("min.insync.replicas")
	bad.add(told && least < int64(s.MinInsyncReplicas), "options.min_insync_replicas", "the topic has %d (min.insync.replicas)", least)
	bad.add(s.replicated() && c["unclean.leader.election.enable"] == "true", "options.min_insync_replicas",
		"the topic lets replicas lead that lack records (unclean.leader.election.enable)")
	each, told := c.number("flush.messages")
	bad.add(s.flushed && told && each > 1, "asserts.flush", "the topic is synced every %d messages (flush.messages)", each)
}

// commitsTopic is where brokers keep what groups commit.
const commitsTopic = "__consumer_offsets"

// inspect looks at what brokers tell of themselves and of the topic in which
// they keep commits, which an OK of a commit relies on. What they do not tell is
// not looked at.
func (c *conn) inspect(ctx context.Context, broker int32) error {
	own, err := c.configOf(ctx, kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(broker)), "offset.metadata.max.bytes")
	if most, told := own.number("offset.metadata.max.bytes"); err == nil && told && most < maxNote {
		return errs.New(errs.InvalidConfiguration, "the backend keeps notes of %d bytes (offset.metadata.max.bytes); Prism needs %d", most, maxNote)
	}
	if !c.set.replicated() {
		return nil
	}
	meta, err := c.metadata(ctx, c.client, commitsTopic)
	if err != nil {
		return err
	}
	if meta.Topics[0].ErrorCode != 0 {
		return nil // it is made with the first group, or not for us to see
	}
	s := settings{options: options{Replicas: c.set.MinInsyncReplicas, MinInsyncReplicas: c.set.MinInsyncReplicas}}
	commits, err := c.configOf(ctx, kmsg.ConfigResourceTypeTopic, commitsTopic, "min.insync.replicas", "unclean.leader.election.enable")
	if err != nil {
		commits = nil
	}
	var bad differences
	s.compareSafety(&bad, commits, &meta.Topics[0])
	if err := bad.err(); err != nil {
		return errs.Wrap(err, errs.InvalidConfiguration, "commits of groups would be lost with a broker: %s has fewer replicas, or fewer in sync, than the option min_insync_replicas", commitsTopic)
	}
	return nil
}
