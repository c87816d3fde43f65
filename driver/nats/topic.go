package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

// topic is a stream as one connection uses it.
type topic struct {
	*log
	stream   string
	created  int64    // when the stream was made
	subjects []string // of each partition, to append
	filters  []string // of each partition, to read
	prefix   string   // of the subjects, before the number; empty: all of them are one partition
	dedup    bool

	// leading says that only the stream's leader is known to have everything: it
	// has replicas, or a mirror answers for it.
	leading atomic.Bool

	tail tail

	mu     sync.Mutex // guards what follows
	groups map[string]*group
}

func newTopic(l *log, info *jetstream.StreamInfo) *topic {
	c := &info.Config
	t := &topic{log: l, stream: c.Name, created: info.Created.UnixNano(), dedup: dedupOf(c) > 0, groups: make(map[string]*group)}
	t.leading.Store(c.Replicas > 1)
	if partitioned(c) {
		t.prefix = strings.TrimSuffix(c.Subjects[0], "*")
		for i := range partitionsOf(c) {
			t.subjects = append(t.subjects, t.prefix+strconv.Itoa(i))
		}
		t.filters = t.subjects
	} else {
		t.subjects, t.filters = []string{ownSubject(c.Subjects)}, []string{">"}
	}
	t.tail.init(t)
	return t
}

// ownSubject returns a subject that a stream listens to: its first one, with
// "prism" for a wildcard. A stream that is filled from others has none.
func ownSubject(subjects []string) string {
	if len(subjects) == 0 {
		return ""
	}
	return strings.NewReplacer("*", "prism", ">", "prism").Replace(subjects[0])
}

// same reports whether two topics are the same stream with the same settings.
func (t *topic) same(other *topic) bool {
	return t.created == other.created && t.dedup == other.dedup && slices.Equal(t.subjects, other.subjects)
}

// partitionOf returns the partition of a subject, -1 if it is of none.
func (t *topic) partitionOf(subject string) int {
	if t.prefix == "" {
		return 0
	}
	number, ok := strings.CutPrefix(subject, t.prefix)
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 0 || n >= len(t.subjects) || t.subjects[n] != subject {
		return -1
	}
	return n
}

// Partitions implements driver.Topic.
func (t *topic) Partitions() int { return len(t.subjects) }

// check returns what is wrong with the number of a partition.
func (t *topic) check(partition int) error {
	if partition < 0 || partition >= len(t.subjects) {
		return errs.Invalid(errs.Field{Path: "partition", Text: fmt.Sprintf("%d is not below %d, which is how many there are", partition, len(t.subjects))})
	}
	return nil
}

// state asks for the stream as it is; errs.TopicNotFound if it is another one.
func (t *topic) state(ctx context.Context, s *session) (*jetstream.StreamInfo, error) {
	info, err := s.streamOf(ctx, t.stream)
	if err == nil && info.Created.UnixNano() != t.created {
		err = errs.TopicNotFound
	}
	return info, err
}

// fail turns the failure of a call into an error of errs. A stream that nobody
// answers for is perhaps not there any more.
func (t *topic) fail(ctx context.Context, s *session, err error, write bool) error {
	if err == nil {
		return nil
	}
	if s != nil && (errors.Is(err, errNoStream) || errors.Is(err, errNoLeader)) {
		if _, gone := t.state(ctx, s); errors.Is(gone, errs.TopicNotFound) {
			return errs.TopicNotFound
		}
	}
	return t.link.fail(ctx, err, write)
}

// errNoLeader is errNoStream of a topic.
var errNoLeader = errs.New(errs.BackendUnavailable, "the topic's stream does not answer; it may be without a leader at the moment")

// Join implements driver.Topic.
func (t *topic) Join(ctx context.Context, r driver.JoinRequest) (driver.Member, error) {
	reads := groups.Topic{
		Source: &source{topic: t, memos: make([]memo, len(t.subjects))},
		Name:   t.namespace + "/" + t.stream, Partitions: len(t.subjects), Log: t.slog,
	}
	if r.Group == "" {
		from, err := t.begin(ctx, &r)
		if err != nil {
			return nil, err
		}
		return t.members.Read(reads, from)
	}
	g := t.group(r.Group)
	if err := g.know(ctx, r.Start); err != nil {
		return nil, err
	}
	return t.members.Join(reads, groups.Group{Table: g, Name: r.Group, Member: r.Name, MaxNote: maxNote})
}

// begin returns where a member without a group begins.
func (t *topic) begin(ctx context.Context, r *driver.JoinRequest) ([]driver.Position, error) {
	s, err := t.link.online(ctx)
	var start driver.Position
	if err == nil {
		start, err = t.startOf(ctx, s, r.Start)
	}
	if err != nil {
		return nil, t.fail(ctx, s, err, false)
	}
	from := slices.Repeat([]driver.Position{start}, len(t.subjects))
	for _, at := range r.At {
		if err := t.check(at.Partition); err != nil {
			return nil, err
		}
		from[at.Partition] = at.Next
	}
	return from, nil
}

// startOf returns where a start is, which is one position in all partitions:
// they share those of the stream.
func (t *topic) startOf(ctx context.Context, s *session, start driver.Start) (driver.Position, error) {
	earliest, end, err := t.ends(ctx, s)
	if err != nil {
		return 0, err
	}
	switch start.From {
	case driver.StartLatest:
		return end, nil
	case driver.StartTime:
		first, err := t.leader(ctx, s, 0, messageGet{Time: &start.Time, NextFor: ">"})
		if errs.ReasonOf(err) == errs.KeyNotFound {
			return end, nil
		}
		return first.Position, err
	default:
		return earliest, nil
	}
}

// leader asks the stream's leader for one message.
func (t *topic) leader(ctx context.Context, s *session, partition int, get messageGet) (driver.Stored, error) {
	body, err := get.encode()
	if err != nil {
		return driver.Stored{}, err
	}
	m, err := s.ask(ctx, &call{subject: api + "STREAM.MSG.GET." + t.stream, data: body})
	if err != nil {
		return driver.Stored{}, err
	}
	if err := topicStatus(m); err != nil {
		return driver.Stored{}, err
	}
	found, err := leaderStored(m, partition)
	return found, notFound(err)
}

// notFound tells that a stream is gone by the name of a topic.
func notFound(err error) error {
	if errors.Is(err, errGone) {
		return errs.TopicNotFound
	}
	return err
}

// Stat implements driver.Topic.
func (t *topic) Stat(ctx context.Context, name string) ([]driver.PartitionStat, error) {
	s, err := t.link.online(ctx)
	if err != nil {
		return nil, t.link.fail(ctx, err, false)
	}
	stats, err := t.stat(ctx, s, name)
	return stats, t.fail(ctx, s, err, false)
}

// Seek implements driver.Topic.
func (t *topic) Seek(ctx context.Context, name string, to []driver.Target) error {
	for _, target := range to {
		if err := t.check(target.Partition); err != nil {
			return err
		}
	}
	err := t.group(name).seek(ctx, to)
	t.members.Ring(t.namespace+"/"+t.stream, name)
	return err
}

// group returns what this connection knows of a group.
func (t *topic) group(name string) *group {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.groups[name]
	if g == nil {
		g = newGroup(t, name)
		t.groups[name] = g
	}
	return g
}
