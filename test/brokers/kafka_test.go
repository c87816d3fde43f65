package brokers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/prismgw/prism/internal/testutil/servers"
)

// kafkaFast lets sessions end within a test; a real broker's least is 6 s.
func kafkaFast(t *testing.T, opts ...kfake.Opt) *servers.KafkaCluster {
	t.Helper()
	return servers.KafkaWith(t, append([]kfake.Opt{kfake.GroupMinSessionTimeout(100 * time.Millisecond)}, opts...)...)
}

func kafkaClient(t *testing.T, k *servers.KafkaCluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(k.Brokers...), kgo.FetchMaxWait(100 * time.Millisecond), kgo.MetadataMinAge(50 * time.Millisecond),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.CloseAllowingRebalance)
	return cl
}

// kafkaAdmin returns a client for requests by hand, which name topics: the
// newest versions of some want ids.
func kafkaAdmin(t *testing.T, k *servers.KafkaCluster) *kgo.Client {
	t.Helper()
	return kafkaClient(t, k, kgo.MaxVersions(kversion.V3_9_0()))
}

// kafkaName returns a name that no other run uses.
func kafkaName(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "-"), time.Now().UnixNano())
}

func kafkaTopic(t *testing.T, cl *kgo.Client, partitions int32) string {
	t.Helper()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = kafkaName(t), partitions, 1
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		t.Fatal(err)
	}
	return topic.Topic
}

// kafkaFill writes n records with the values "p/i" to each partition.
func kafkaFill(t *testing.T, cl *kgo.Client, topic string, partitions, n int) {
	t.Helper()
	var rs []*kgo.Record
	for p := range partitions {
		for i := range n {
			rs = append(rs, &kgo.Record{Topic: topic, Partition: int32(p), Value: fmt.Appendf(nil, "%d/%d", p, i)})
		}
	}
	kafkaProduce(t, cl, rs...)
}

func kafkaProduce(t *testing.T, cl *kgo.Client, rs ...*kgo.Record) {
	t.Helper()
	if err := cl.ProduceSync(t.Context(), rs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func kafkaWait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s within 30 s", what)
		}
	}
}

// kafkaReader polls a client all the time and keeps what came.
type kafkaReader struct {
	cl *kgo.Client

	mu   sync.Mutex // guards what follows
	got  []*kgo.Record
	errs []error
}

func kafkaRead(t *testing.T, cl *kgo.Client) *kafkaReader {
	t.Helper()
	r := &kafkaReader{cl: cl}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			fetches := cl.PollFetches(ctx)
			r.mu.Lock()
			r.got = append(r.got, fetches.Records()...)
			fetches.EachError(func(_ string, _ int32, err error) {
				if ctx.Err() == nil {
					r.errs = append(r.errs, err)
				}
			})
			r.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return r
}

func (r *kafkaReader) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

func (r *kafkaReader) records() []*kgo.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*kgo.Record(nil), r.got...)
}

func (r *kafkaReader) failures() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.errs)
}

func (r *kafkaReader) failed(target error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, err := range r.errs {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// kafkaOwned follows which partitions a member has.
type kafkaOwned struct {
	mu    sync.Mutex // guards what follows
	parts map[int32]bool
}

func (o *kafkaOwned) opts() []kgo.Opt {
	o.parts = map[int32]bool{}
	set := func(to bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, m map[string][]int32) {
			o.mu.Lock()
			defer o.mu.Unlock()
			for _, ps := range m {
				for _, p := range ps {
					if to {
						o.parts[p] = true
					} else {
						delete(o.parts, p)
					}
				}
			}
		}
	}
	return []kgo.Opt{kgo.OnPartitionsAssigned(set(true)), kgo.OnPartitionsRevoked(set(false)), kgo.OnPartitionsLost(set(false))}
}

func (o *kafkaOwned) has(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.parts) == n
}

// kafkaMemberOpts are those of a member of a group as Prism would make it.
func kafkaMemberOpts(group, topic string, more ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.SessionTimeout(6 * time.Second), kgo.HeartbeatInterval(100 * time.Millisecond),
	}, more...)
}

// kcat returns the path of the client by others.
func kcat(t *testing.T) string { return servers.Tool(t, "kcat", "kcat") }

// kafkaCat runs kcat until the test ends and returns what it prints.
func kafkaCat(t *testing.T, args ...string) (stdout, stderr *kafkaText) {
	t.Helper()
	path := kcat(t)
	stdout, stderr = &kafkaText{}, &kafkaText{}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return stdout, stderr
}

type kafkaText struct {
	mu sync.Mutex // guards what follows
	b  bytes.Buffer
}

func (k *kafkaText) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.b.Write(p)
}

func (k *kafkaText) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.b.String()
}

func (k *kafkaText) lines() []string { return strings.Fields(k.String()) }

// kafkaCommitted returns a group's commit; the offset is -1 if there is none.
func kafkaCommitted(t *testing.T, cl *kgo.Client, group, topic string, partition int32) (offset int64, metadata string) {
	t.Helper()
	rt := kmsg.NewOffsetFetchRequestTopic()
	rt.Topic, rt.Partitions = topic, []int32{partition}
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group, req.Topics = group, append(req.Topics, rt)
	rg := kmsg.NewOffsetFetchRequestGroup()
	rgt := kmsg.NewOffsetFetchRequestGroupTopic()
	rgt.Topic, rgt.Partitions = topic, []int32{partition}
	rg.Group, rg.Topics = group, append(rg.Topics, rgt)
	req.Groups = append(req.Groups, rg)
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.Groups[0].ErrorCode); errors.Is(err, kerr.GroupIDNotFound) || err == nil && len(resp.Groups[0].Topics) == 0 {
		return -1, "" // kfake's answers for an unknown group; a real broker may as well name the partitions and -1
	} else if err != nil {
		t.Fatal(err)
	}
	p := resp.Groups[0].Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
		t.Fatal(err)
	}
	if p.Metadata != nil {
		metadata = *p.Metadata
	}
	return p.Offset, metadata
}

// TestKafkaCooperativeRebalance: a member that joins gets what was delivered
// and not committed of the partitions that move; those that stay are not
// delivered again.
func TestKafkaCooperativeRebalance(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 4)
	kafkaFill(t, admin, topic, 4, 10)
	var aOwns, bOwns kafkaOwned
	a := kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic, aOwns.opts()...)...))
	kafkaWait(t, "first 40 records", func() bool { return a.count() == 40 })

	b := kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic, bOwns.opts()...)...))
	kafkaWait(t, "even share", func() bool { return aOwns.has(2) && bOwns.has(2) })
	kafkaWait(t, "redelivery", func() bool { return b.count() >= 20 })
	kafkaFill(t, admin, topic, 4, 1) // what comes after is behind all that is delivered again
	kafkaWait(t, "later records", func() bool { return a.count()+b.count() >= 64 })
	if a.count() != 42 || b.count() != 22 {
		t.Errorf("the old member got %d records and the new one %d; want 42 and 22", a.count(), b.count())
	}
}

// TestKafkaCommitBeforeLeaving: what is committed while partitions are revoked
// is not delivered again.
func TestKafkaCommitBeforeLeaving(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 4)
	kafkaFill(t, admin, topic, 4, 10)
	commit := func(ctx context.Context, cl *kgo.Client, _ map[string][]int32) {
		if err := cl.CommitUncommittedOffsets(ctx); err != nil {
			t.Errorf("a commit while partitions are revoked: %v", err)
		}
	}
	a := kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic, kgo.OnPartitionsRevoked(commit))...))
	kafkaWait(t, "first 40 records", func() bool { return a.count() == 40 })
	var bOwns kafkaOwned
	b := kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic, bOwns.opts()...)...))
	kafkaWait(t, "share of the new member", func() bool { return bOwns.has(2) })
	kafkaFill(t, admin, topic, 4, 1)
	kafkaWait(t, "later records", func() bool { return a.count()+b.count() >= 44 })
	if a.count() != 42 || b.count() != 2 {
		t.Errorf("the old member got %d records and the new one %d; want 42 and 2", a.count(), b.count())
	}
}

// TestKafkaGroupSharedWithKcat: librdkafka's default balancers cannot join a
// group that is only cooperative; they can where the members offer an eager
// one too, and then every partition is delivered again from its commit.
func TestKafkaGroupSharedWithKcat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		balancers []kgo.GroupBalancer
		kcat      string
		refused   bool
		again     int // records that are delivered again when kcat joins
	}{
		{"cooperative-kcat-eager", []kgo.GroupBalancer{kgo.CooperativeStickyBalancer()}, "range,roundrobin", true, 0},
		{"cooperative-kcat-cooperative", []kgo.GroupBalancer{kgo.CooperativeStickyBalancer()}, "cooperative-sticky", false, 20},
		{"both-kcat-eager", []kgo.GroupBalancer{kgo.CooperativeStickyBalancer(), kgo.RangeBalancer()}, "range,roundrobin", false, 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			kafkaShare(t, c.balancers, c.kcat, c.refused, c.again)
		})
	}
}

func kafkaShare(t *testing.T, balancers []kgo.GroupBalancer, kcat string, refused bool, again int) {
	t.Helper()
	k := servers.Kafka(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 6)
	kafkaFill(t, admin, topic, 6, 10)
	var aOwns, bOwns kafkaOwned
	a := kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic, append(aOwns.opts(), kgo.Balancers(balancers...))...)...))
	kafkaWait(t, "first 60 records", func() bool { return a.count() == 60 })
	b := kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic, append(bOwns.opts(), kgo.Balancers(balancers...))...)...))
	kafkaWait(t, "second member's 30 records", func() bool { return aOwns.has(3) && bOwns.has(3) && b.count() == 30 })

	out, errs := kafkaCat(t, "-b", k.Brokers[0], "-u", "-f", "%p/%o\n",
		"-X", "auto.offset.reset=earliest", "-X", "heartbeat.interval.ms=100", "-X", "session.timeout.ms=6000", "-X", "enable.auto.commit=false",
		"-X", "partition.assignment.strategy="+kcat, "-G", topic, topic)
	if refused {
		kafkaWait(t, "refusal", func() bool {
			return strings.Contains(errs.String(), "Inconsistent group protocol") || strings.Contains(errs.String(), "INCONSISTENT_GROUP_PROTOCOL")
		})
		if a.count() != 60 || b.count() != 30 {
			t.Errorf("members were disturbed: %d and %d records", a.count(), b.count())
		}
		return
	}
	kafkaWait(t, "three even shares", func() bool { return aOwns.has(2) && bOwns.has(2) && len(out.lines()) >= 20 })
	want := 90 + again + 6
	kafkaFill(t, admin, topic, 6, 1)
	total := func() int { return a.count() + b.count() + len(out.lines()) }
	kafkaWait(t, "later records", func() bool { return total() >= want })
	if len(out.lines()) != 22 || total() != want {
		t.Errorf("kcat got %d records, all members together %d; want 22 and %d", len(out.lines()), total(), want)
	}
}

// TestKafkaDeadMemberIsTakenOver: the partitions of a member that is cut off
// go to another one after its session timeout, and its late commit is refused.
func TestKafkaDeadMemberIsTakenOver(t *testing.T) {
	t.Parallel()
	const session = 1500 * time.Millisecond
	k := kafkaFast(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 2)
	kafkaFill(t, admin, topic, 2, 10)
	var aOwns, bOwns kafkaOwned
	var link kafkaLink
	aClient := kafkaClient(t, k, kafkaMemberOpts(topic, topic, append(aOwns.opts(), kgo.SessionTimeout(session), kgo.Dialer(link.dial), kgo.RequestRetries(1))...)...)
	a := kafkaRead(t, aClient)
	kafkaWait(t, "first 20 records", func() bool { return a.count() == 20 })
	b := kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic, append(bOwns.opts(), kgo.SessionTimeout(session))...)...))
	kafkaWait(t, "even share", func() bool { return aOwns.has(1) && bOwns.has(1) && b.count() == 10 })

	link.cut()
	start := time.Now()
	kafkaWait(t, "takeover", func() bool { return b.count() == 20 })
	took := time.Since(start)
	t.Logf("taken over after %v; the session timeout is %v", took, session)
	if took < session-200*time.Millisecond || took > session+3*time.Second {
		t.Errorf("taken over after %v; want the session timeout of %v and a rebalance", took, session)
	}
	last := a.records()[19]
	aClient.CommitOffsetsSync(t.Context(), map[string]map[int32]kgo.EpochOffset{topic: {last.Partition: {Epoch: -1, Offset: 10}}}, nil)
	link.mend()
	kafkaWait(t, "return of the lost member", func() bool { return aOwns.has(1) && bOwns.has(1) })
	if offset, _ := kafkaCommitted(t, admin, topic, topic, last.Partition); offset != -1 {
		t.Errorf("committed at %d by a member that had lost the partition", offset)
	}
}

// kafkaLink is a network that can be cut, and whose answers take a while.
type kafkaLink struct {
	delay time.Duration

	mu    sync.Mutex // guards what follows
	down  bool
	conns []net.Conn
}

func (l *kafkaLink) dial(ctx context.Context, network, host string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED} // which clients repeat
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	l.conns = append(l.conns, c)
	return &kafkaFar{Conn: c, delay: l.delay}, nil
}

// kafkaFar is a connection to a distant broker, so that requests overtake the
// answers to those before them.
type kafkaFar struct {
	net.Conn
	delay time.Duration
}

func (c *kafkaFar) Read(b []byte) (int, error) {
	time.Sleep(c.delay)
	return c.Conn.Read(b)
}

func (l *kafkaLink) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

func (l *kafkaLink) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

// TestKafkaStaticMemberReturns: a member with an instance id that ends and
// comes back within its session gets its partitions without a rebalance. (It
// must say of itself what it said before: a first join, with an eager
// balancer. A real broker compares only the balancers' names.)
func TestKafkaStaticMemberReturns(t *testing.T) {
	t.Parallel()
	k := kafkaFast(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 2)
	kafkaFill(t, admin, topic, 2, 10)
	member := func(id string) (*kafkaOwned, *kafkaReader) {
		owns := &kafkaOwned{}
		opts := append(owns.opts(), kgo.InstanceID(id), kgo.Balancers(kgo.RangeBalancer()))
		return owns, kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic, opts...)...))
	}
	aOwns, a := member("a")
	kafkaWait(t, "first 20 records", func() bool { return aOwns.has(2) && a.count() == 20 })
	bOwns, b := member("b")
	kafkaWait(t, "even share", func() bool { return aOwns.has(1) && bOwns.has(1) && a.count() == 30 && b.count() == 10 })
	before := k.Fake.GroupInfo(topic).Epoch

	b.cl.CloseAllowingRebalance()
	_, again := member("b")
	kafkaWait(t, "its 10 records again", func() bool { return again.count() == 10 })
	if after := k.Fake.GroupInfo(topic).Epoch; after != before || a.count() != 30 {
		t.Errorf("generation %d became %d, the other member got %d records; want no rebalance and 30", before, after, a.count())
	}
	// A second one with the same id fences the first.
	_, third := member("b")
	kafkaWait(t, "its 10 records once more", func() bool { return third.count() == 10 })
	kafkaWait(t, "fencing of the one before", func() bool { return again.failed(kerr.FencedInstanceID) })
}

// TestKafkaPausedPartition: a paused partition stays with its member for many
// sessions, the others go on, and nothing is lost when it goes on.
func TestKafkaPausedPartition(t *testing.T) {
	t.Parallel()
	const session = 300 * time.Millisecond
	k := kafkaFast(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 2)
	cl := kafkaClient(t, k, kafkaMemberOpts(topic, topic, kgo.SessionTimeout(session), kgo.HeartbeatInterval(50*time.Millisecond))...)
	r := kafkaRead(t, cl)
	kafkaFill(t, admin, topic, 2, 1)
	kafkaWait(t, "first records", func() bool { return r.count() == 2 })
	generation := k.Fake.GroupInfo(topic).Epoch

	cl.PauseFetchPartitions(map[string][]int32{topic: {0}})
	start, n := time.Now(), 1
	for ; time.Since(start) < 4*session; n++ {
		kafkaFill(t, admin, topic, 2, 1)
		kafkaWait(t, "the other partition", func() bool { return r.count() >= n+2 })
	}
	for _, rec := range r.records()[2:] {
		if rec.Partition == 0 {
			t.Fatal("a paused partition delivered a record")
		}
	}
	if now := k.Fake.GroupInfo(topic).Epoch; now != generation {
		t.Errorf("the group rebalanced from generation %d to %d", generation, now)
	}
	cl.ResumeFetchPartitions(map[string][]int32{topic: {0}})
	kafkaWait(t, "all records", func() bool { return r.count() == 2*n })
}

// TestKafkaUnsettledRecordHoldsNobody: the broker sends on whatever is left
// uncommitted, so that what is held for one key is bounded by the client alone.
func TestKafkaUnsettledRecordHoldsNobody(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 1)
	kafkaFill(t, admin, topic, 1, 5000)
	r := kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic)...))
	kafkaWait(t, "5,000 records", func() bool { return r.count() == 5000 })
	if offset, _ := kafkaCommitted(t, admin, topic, topic, 0); offset != -1 {
		t.Errorf("committed %d; want nothing", offset)
	}
}

// TestKafkaSilentApplicationKeepsItsPartitions: franz-go's heartbeats do not
// depend on polls, so that a stuck program is never taken over.
func TestKafkaSilentApplicationKeepsItsPartitions(t *testing.T) {
	t.Parallel()
	const session = 300 * time.Millisecond
	k := kafkaFast(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 2)
	kafkaFill(t, admin, topic, 2, 1)
	var owns kafkaOwned
	kafkaClient(t, k, kafkaMemberOpts(topic, topic, append(owns.opts(), kgo.SessionTimeout(session), kgo.HeartbeatInterval(50*time.Millisecond))...)...)
	kafkaWait(t, "its partitions", func() bool { return owns.has(2) })
	start, generation := time.Now(), k.Fake.GroupInfo(topic).Epoch
	kafkaWait(t, "five sessions", func() bool { return time.Since(start) > 5*session })
	if now := k.Fake.GroupInfo(topic).Epoch; now != generation || !owns.has(2) {
		t.Errorf("a member that never polls was taken over: generation %d became %d", generation, now)
	}
}
