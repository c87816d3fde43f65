package brokers

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prismgw/prism/internal/testutil/servers"
)

// kafkaMetadataMax is the default of a real broker's offset.metadata.max.bytes,
// which counts characters.
const kafkaMetadataMax = 4096

// kafkaCommit commits as franz-go's users do, with a text beside the offset.
func kafkaCommit(ctx context.Context, cl *kgo.Client, topic string, partition int32, offset int64, metadata string) error {
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		req.Topics[0].Partitions[0].Metadata = &metadata
		return nil
	})
	var failed error
	cl.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{topic: {partition: {Epoch: -1, Offset: offset}}},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			if failed = err; err == nil {
				failed = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
			}
		})
	return failed
}

// kafkaRawCommit commits with the member id and generation that it is told.
func kafkaRawCommit(t *testing.T, cl *kgo.Client, group, member string, generation int32, topic string, partition int32, offset int64) error {
	t.Helper()
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset = partition, offset
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.Partitions = topic, append(rt.Partitions, p)
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation, req.Topics = group, member, generation, append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
}

// TestKafkaSettlementsSurviveATakeover: what was settled above the committed
// offset is kept as the commit's metadata, and the member that takes over
// reads it before its first record.
func TestKafkaSettlementsSurviveATakeover(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 1)
	kafkaFill(t, admin, topic, 1, 10)
	first := kafkaClient(t, k, kafkaMemberOpts(topic, topic)...)
	a := kafkaRead(t, first)
	kafkaWait(t, "first 10 records", func() bool { return a.count() == 10 })
	state := kafkaState{base: 3, settled: map[int64]bool{5: true, 7: true}, attempts: map[int64]int{4: 3}}
	if err := kafkaCommit(t.Context(), first, topic, 0, 3, state.encode()); err != nil {
		t.Fatal(err)
	}
	first.CloseAllowingRebalance()

	var metadata atomic.Pointer[string]
	var before atomic.Bool
	var b *kafkaReader
	read := func(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
		p := resp.Groups[0].Topics[0].Partitions[0]
		before.Store(p.Offset == 3)
		metadata.Store(p.Metadata)
		return nil
	}
	b = kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic, kgo.OnOffsetsFetched(read))...))
	kafkaWait(t, "rest", func() bool { return b.count() >= 7 })
	if !before.Load() || metadata.Load() == nil {
		t.Fatal("the committed offset and its metadata were not told before the first record")
	}
	got := decodeKafkaState(t, 3, *metadata.Load())
	if !maps.Equal(got.settled, state.settled) || !maps.Equal(got.attempts, state.attempts) {
		t.Errorf("read back %+v; want %+v", got, state)
	}
	var offsets []int64
	for _, r := range b.records() {
		offsets = append(offsets, r.Offset)
	}
	if want := []int64{3, 4, 5, 6, 7, 8, 9}; !slices.Equal(offsets, want) {
		t.Errorf("got offsets %v; the broker sends all from the commit on, settled or not: want %v", offsets, want)
	}
}

// TestKafkaOtherMembersEraseTheMetadata: a member that knows nothing of the
// metadata gets settled records again, and its commit replaces the text.
func TestKafkaOtherMembersEraseTheMetadata(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 1)
	kafkaFill(t, admin, topic, 1, 10)
	cl := kafkaClient(t, k, kafkaMemberOpts(topic, topic)...)
	r := kafkaRead(t, cl)
	kafkaWait(t, "first 10 records", func() bool { return r.count() == 10 })
	if err := kafkaCommit(t.Context(), cl, topic, 0, 3, "settled 5 and 7"); err != nil {
		t.Fatal(err)
	}
	if offset, text := kafkaCommitted(t, admin, topic, topic, 0); offset != 3 || text != "settled 5 and 7" {
		t.Fatalf("committed %d %q", offset, text)
	}
	cl.CloseAllowingRebalance()

	out, _ := kafkaCat(t, "-b", k.Brokers[0], "-u", "-e", "-f", "%o\n", "-X", "auto.commit.interval.ms=100", "-G", topic, topic)
	kafkaWait(t, "rest", func() bool { return len(out.lines()) == 7 })
	if got := strings.Join(out.lines(), " "); got != "3 4 5 6 7 8 9" {
		t.Errorf("kcat got %s", got)
	}
	kafkaWait(t, "commit by kcat", func() bool { offset, _ := kafkaCommitted(t, admin, topic, topic, 0); return offset == 10 })
	if _, text := kafkaCommitted(t, admin, topic, topic, 0); text != "" {
		t.Errorf("the metadata is %q after a commit by kcat; want none", text)
	}
	// franz-go itself writes its member id there, unless it is told otherwise.
	plain := kafkaClient(t, k, kafkaMemberOpts(topic, topic)...)
	kafkaFill(t, admin, topic, 1, 1)
	p := kafkaRead(t, plain)
	kafkaWait(t, "one more record", func() bool { return p.count() == 1 })
	if err := plain.CommitUncommittedOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	if member, _ := plain.GroupMetadata(); member == "" {
		t.Error("no member id")
	} else if _, text := kafkaCommitted(t, admin, topic, topic, 0); text != member {
		t.Errorf("the metadata is %q; want the member id", text)
	}
}

// TestKafkaMetadataLimit: kfake knows no limit. A broker that has one refuses
// the partition's commit, offset included, keeps the one before, and commits
// the request's other partitions; franz-go does not try again.
func TestKafkaMetadataLimit(t *testing.T) {
	t.Parallel()
	k := servers.KafkaWith(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 2)
	kafkaFill(t, admin, topic, 2, 10)
	cl := kafkaClient(t, k, kafkaMemberOpts(topic, topic)...)
	r := kafkaRead(t, cl)
	kafkaWait(t, "20 records", func() bool { return r.count() == 20 })
	for _, n := range []int{kafkaMetadataMax, kafkaMetadataMax + 1, 32 << 10, 1 << 20} {
		if err := kafkaCommit(t.Context(), cl, topic, 0, 1, strings.Repeat("m", n)); err != nil {
			t.Fatalf("kfake refuses %d bytes now: %v; assert its limit here", n, err)
		}
	}
	if limit := kafkaBrokerConfig(t, admin, "offset.metadata.max.bytes"); limit != "" {
		t.Errorf("kfake tells a limit of %s now; assert it here", limit)
	}

	handle := k.Fake.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.OffsetCommit}, Topic: topic, Partitions: []int32{0}, Err: kerr.OffsetMetadataTooLarge, Count: -1,
	})
	refused, taken := kafkaCommitTwo(t, cl, topic, 5)
	if !errors.Is(refused, kerr.OffsetMetadataTooLarge) || taken != nil {
		t.Errorf("partition 0: %v, partition 1: %v; want only the first one refused", refused, taken)
	}
	if kerr.IsRetriable(kerr.OffsetMetadataTooLarge) || handle.Hits() != 1 {
		t.Errorf("the refused commit was sent %d times; want 1", handle.Hits())
	}
	if offset, _ := kafkaCommitted(t, admin, topic, topic, 0); offset != 1 {
		t.Errorf("partition 0 is committed at %d; want the 1 from before", offset)
	}
	if offset, _ := kafkaCommitted(t, admin, topic, topic, 1); offset != 5 {
		t.Errorf("partition 1 is committed at %d; want 5", offset)
	}
}

// kafkaCommitTwo commits the same offset on both partitions and returns what
// became of each.
func kafkaCommitTwo(t *testing.T, cl *kgo.Client, topic string, offset int64) (first, second error) {
	t.Helper()
	at := kgo.EpochOffset{Epoch: -1, Offset: offset}
	results := map[int32]error{0: errors.New("no answer"), 1: errors.New("no answer")}
	cl.CommitOffsetsSync(t.Context(), map[string]map[int32]kgo.EpochOffset{topic: {0: at, 1: at}},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			if err != nil {
				t.Error(err)
				return
			}
			for _, p := range resp.Topics[0].Partitions {
				results[p.Partition] = kerr.ErrorForCode(p.ErrorCode)
			}
		})
	return results[0], results[1]
}

func kafkaBrokerConfig(t *testing.T, cl *kgo.Client, name string) string {
	t.Helper()
	res := kmsg.NewDescribeConfigsRequestResource()
	res.ResourceType, res.ResourceName, res.ConfigNames = kmsg.ConfigResourceTypeBroker, "0", []string{name}
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Resources = append(req.Resources, res)
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range resp.Resources {
		for _, c := range r.Configs {
			if c.Name == name && c.Value != nil {
				return *c.Value
			}
		}
	}
	return ""
}

// TestKafkaMetadataCapacity: how much out-of-order settling fits into 4,096
// characters, with runs or bits, whichever is shorter, in base64: a broker's
// strings are UTF-8.
func TestKafkaMetadataCapacity(t *testing.T) {
	t.Parallel()
	every := func(n, nth int64) kafkaState {
		s := kafkaState{settled: map[int64]bool{}, attempts: map[int64]int{}}
		for i := range n {
			s.settled[i] = i%nth != 0
		}
		return s
	}
	for _, c := range []struct {
		name string
		make func(n int64) kafkaState
		fits int64 // offsets above the commit
		not  int64 // 0: not looked for
	}{
		{"one stuck, all above settled", func(n int64) kafkaState { return every(n, n) }, 1 << 17, 0},
		{"every hundredth unsettled", func(n int64) kafkaState { return every(n, 100) }, 153_500, 153_600},
		{"every second unsettled, the worst", func(n int64) kafkaState { return every(n, 2) }, 24_560, 24_562},
		{"every second unsettled and tried before", func(n int64) kafkaState {
			s := every(n, 2)
			for i := int64(0); i < n; i += 2 {
				s.attempts[i] = 2 + int(i)%18
			}
			return s
		}, 2_728, 2_730},
		{"every second unsettled, every sixteenth tried before", func(n int64) kafkaState {
			s := every(n, 2)
			for i := int64(0); i < n; i += 16 {
				s.attempts[i] = 2 + int(i)%18
			}
			return s
		}, 8_192, 0},
	} {
		s := c.make(c.fits)
		text := s.encode()
		t.Logf("%s: %d offsets above the commit take %d characters", c.name, c.fits, len(text))
		if len(text) > kafkaMetadataMax {
			t.Errorf("%s: %d do not fit", c.name, c.fits)
		}
		if over := c.make(c.not); c.not > 0 && len(over.encode()) <= kafkaMetadataMax {
			t.Errorf("%s: even %d fit", c.name, c.not)
		}
		maps.DeleteFunc(s.settled, func(_ int64, is bool) bool { return !is })
		if got := decodeKafkaState(t, 0, text); !maps.Equal(got.settled, s.settled) || !maps.Equal(got.attempts, s.attempts) {
			t.Errorf("%s: not the same after decoding", c.name)
		}
	}
}

// kafkaState is what a member of a group knows above the committed offset.
type kafkaState struct {
	base     int64          // the committed offset
	settled  map[int64]bool // offsets
	attempts map[int64]int  // of offsets that are not settled; 1 is left out
}

// encode writes a letter for the form, then base64 of: the attempts as a count
// and pairs of distance and number, then runs of unsettled and settled, or bits.
func (s *kafkaState) encode() string {
	var head []byte
	head = binary.AppendUvarint(head, uint64(len(s.attempts)))
	last := s.base
	for _, at := range slices.Sorted(maps.Keys(s.attempts)) {
		head = binary.AppendUvarint(head, uint64(at-last))
		head = append(head, byte(s.attempts[at]))
		last = at
	}
	end := s.base
	for at, is := range s.settled {
		if is && at >= end {
			end = at + 1
		}
	}
	var runs []byte
	bits := make([]byte, (end-s.base+7)/8)
	run, is := uint64(0), false
	for at := s.base; at < end; at++ {
		if s.settled[at] != is {
			runs, run, is = binary.AppendUvarint(runs, run), 0, !is
		}
		run++
		if s.settled[at] {
			bits[(at-s.base)/8] |= 1 << ((at - s.base) % 8)
		}
	}
	runs = binary.AppendUvarint(runs, run)
	if len(bits) < len(runs) {
		return "b" + base64.RawURLEncoding.EncodeToString(append(head, bits...))
	}
	return "r" + base64.RawURLEncoding.EncodeToString(append(head, runs...))
}

func decodeKafkaState(t *testing.T, base int64, text string) kafkaState {
	t.Helper()
	s := kafkaState{base: base, settled: map[int64]bool{}, attempts: map[int64]int{}}
	b, err := base64.RawURLEncoding.DecodeString(text[1:])
	if err != nil {
		t.Fatal(err)
	}
	next := func() int64 {
		v, n := binary.Uvarint(b)
		b = b[n:]
		return int64(v)
	}
	at := base
	for range next() {
		at += next()
		s.attempts[at] = int(b[0])
		b = b[1:]
	}
	if text[0] == 'b' {
		for i := range int64(len(b) * 8) {
			if b[i/8]&(1<<(i%8)) != 0 {
				s.settled[base+i] = true
			}
		}
		return s
	}
	at = base
	for is := false; len(b) > 0; is = !is {
		for range next() {
			if is {
				s.settled[at] = true
			}
			at++
		}
	}
	return s
}

// kafkaRawMember is a member that heartbeats only when it is told to.
type kafkaRawMember struct {
	cl         *kgo.Client
	group      string
	id         string
	session    time.Duration
	generation int32
}

func (m *kafkaRawMember) join(ctx context.Context) error {
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Topics = []string{m.group}
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name, protocol.Metadata = "range", meta.AppendTo(nil)
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.ProtocolType, req.Protocols = m.group, "consumer", append(req.Protocols, protocol)
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(m.session.Milliseconds()), 5000
	for {
		req.MemberID = m.id
		resp, err := req.RequestWith(ctx, m.cl)
		if err != nil {
			return err
		}
		m.id, m.generation = resp.MemberID, resp.Generation
		if err := kerr.ErrorForCode(resp.ErrorCode); !errors.Is(err, kerr.MemberIDRequired) {
			return err
		}
	}
}

func (m *kafkaRawMember) sync(ctx context.Context, everyone ...*kafkaRawMember) error {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.Generation = m.group, m.id, m.generation
	protocol, kind := "range", "consumer"
	req.Protocol, req.ProtocolType = &protocol, &kind
	for i, other := range everyone { // partition i to member i
		part := kmsg.NewConsumerMemberAssignmentTopic()
		part.Topic, part.Partitions = m.group, []int32{int32(i)}
		all := kmsg.NewConsumerMemberAssignment()
		all.Topics = append(all.Topics, part)
		one := kmsg.NewSyncGroupRequestGroupAssignment()
		one.MemberID, one.MemberAssignment = other.id, all.AppendTo(nil)
		req.GroupAssignment = append(req.GroupAssignment, one)
	}
	resp, err := req.RequestWith(ctx, m.cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

func (m *kafkaRawMember) commit(t *testing.T, partition int32, offset int64) error {
	t.Helper()
	return kafkaRawCommit(t, m.cl, m.group, m.id, m.generation, m.group, partition, offset)
}

// TestKafkaCommitsAreFencedByGroupNotByPartition follows two members through a
// rebalance and asks, at each step, whose commit the broker takes.
func TestKafkaCommitsAreFencedByGroupNotByPartition(t *testing.T) {
	t.Parallel()
	k := kafkaFast(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 2)
	member := func(session time.Duration) *kafkaRawMember {
		return &kafkaRawMember{cl: kafkaAdmin(t, k), group: topic, session: session}
	}
	want := func(what string, got error, want *kerr.Error) {
		t.Helper()
		if want == nil && got != nil || want != nil && !errors.Is(got, want) {
			t.Errorf("%s: got %v; want %v", what, got, want)
		}
	}
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	want("no member, the group is unknown", kafkaRawCommit(t, admin, topic, "", -1, topic, 0, 1), nil)
	a, b := member(10*time.Second), member(10*time.Second)
	must(a.join(t.Context()), a.sync(t.Context(), a))
	want("no member, the group has one", kafkaRawCommit(t, admin, topic, "", -1, topic, 0, 2), kerr.UnknownMemberID)
	want("a member", a.commit(t, 0, 2), nil)

	joined := make(chan error, 1)
	go func() { joined <- b.join(t.Context()) }()
	kafkaWait(t, "rebalance", func() bool { return k.Fake.GroupInfo(topic).State == "PreparingRebalance" })
	want("a member of before, while others join", a.commit(t, 0, 3), nil)
	old := *a
	must(a.join(t.Context()), <-joined)
	want("an old generation, before assignments are told", old.commit(t, 0, 4), kerr.IllegalGeneration)
	want("a member, before assignments are told", a.commit(t, 0, 4), kerr.RebalanceInProgress)
	go func() { joined <- b.sync(t.Context()) }()
	must(a.sync(t.Context(), a, b), <-joined)
	want("an old generation", old.commit(t, 0, 4), kerr.IllegalGeneration)
	want("a member, on its partition", b.commit(t, 1, 5), nil)
	want("a member, on a partition of the other one", b.commit(t, 0, 6), nil)
	want("a member, backwards on a partition of the other one", b.commit(t, 0, 1), nil)
	if offset, _ := kafkaCommitted(t, admin, topic, topic, 0); offset != 1 {
		t.Errorf("committed %d; want 1: the last writer wins", offset)
	}
}

// TestKafkaZombieCommit: a member whose session has ended is unknown; when it
// was the last one, commits without any membership are taken again.
func TestKafkaZombieCommit(t *testing.T) {
	t.Parallel()
	k := kafkaFast(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 2)
	a := &kafkaRawMember{cl: kafkaAdmin(t, k), group: topic, session: 200 * time.Millisecond}
	b := &kafkaRawMember{cl: kafkaAdmin(t, k), group: topic, session: 10 * time.Second}
	if err := errors.Join(a.join(t.Context()), a.sync(t.Context(), a), b.join(t.Context()), b.sync(t.Context(), b)); err != nil {
		t.Fatal(err)
	}
	if err := a.commit(t, 0, 7); !errors.Is(err, kerr.UnknownMemberID) {
		t.Errorf("a member that was taken over commits: %v; want %v", err, kerr.UnknownMemberID)
	}
	c := &kafkaRawMember{cl: kafkaAdmin(t, k), group: topic + "-2", session: 200 * time.Millisecond}
	if err := errors.Join(c.join(t.Context()), c.sync(t.Context(), c)); err != nil {
		t.Fatal(err)
	}
	kafkaWait(t, "empty group", func() bool { return k.Fake.GroupInfo(c.group).State == "Empty" })
	if err := kafkaRawCommit(t, admin, c.group, c.id, c.generation, topic, 0, 7); !errors.Is(err, kerr.IllegalGeneration) {
		t.Errorf("the last member's late commit: %v; want %v", err, kerr.IllegalGeneration)
	}
	if err := kafkaRawCommit(t, admin, c.group, "", -1, topic, 0, 8); err != nil {
		t.Errorf("a commit without membership to an empty group: %v; want none", err)
	}
}

// TestKafkaSessionTimeoutHasAFloor: takeover is no faster than the broker's
// group.min.session.timeout.ms, 6 s unless it is set.
func TestKafkaSessionTimeoutHasAFloor(t *testing.T) {
	t.Parallel()
	k := servers.KafkaWith(t)
	topic := kafkaTopic(t, kafkaAdmin(t, k), 1)
	for session, want := range map[time.Duration]*kerr.Error{5999 * time.Millisecond: kerr.InvalidSessionTimeout, 6 * time.Second: nil} {
		m := &kafkaRawMember{cl: kafkaAdmin(t, k), group: topic, session: session}
		if err := m.join(t.Context()); want == nil && err != nil || want != nil && !errors.Is(err, want) {
			t.Errorf("a session of %v: %v; want %v", session, err, want)
		}
	}
}

// TestKafkaUnknownGroup: a group without a commit starts where its members say,
// one with a commit never does, and a commit that retention has overtaken is an
// error if the member asked for one.
func TestKafkaUnknownGroup(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 1)
	kafkaFill(t, admin, topic, 1, 10)
	if offset, _ := kafkaCommitted(t, admin, topic, topic, 0); offset != -1 {
		t.Errorf("an unknown group is committed at %d; want -1 and no error", offset)
	}
	read := func(group string, more ...kgo.Opt) *kafkaReader {
		return kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(group, topic, more...)...))
	}
	early := read(topic)
	kafkaWait(t, "10 records", func() bool { return early.count() == 10 })
	late := read(topic+"-late", kgo.ConsumeStartOffset(kgo.NewOffset().AtEnd()))
	kafkaWait(t, "first record after the start", func() bool { kafkaFill(t, admin, topic, 1, 1); return late.count() > 0 })
	if got := late.records()[0].Offset; got < 10 {
		t.Errorf("a group that starts at the end got offset %d", got)
	}
	if err := kafkaCommit(t.Context(), early.cl, topic, 0, 2, ""); err != nil {
		t.Fatal(err)
	}
	early.cl.CloseAllowingRebalance()
	kafkaDeleteRecords(t, admin, topic, 5)
	strict := read(topic)
	kafkaWait(t, "refusal of the deleted offset", func() bool { return strict.failed(kerr.OffsetOutOfRange) })
	if n := strict.count(); n != 0 {
		t.Errorf("%d records came although the committed one is gone", n)
	}
	strict.cl.CloseAllowingRebalance()
	mild := read(topic, kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	kafkaWait(t, "records without a word", func() bool { return mild.count() > 0 })
	if got := mild.records()[0].Offset; got != 5 {
		t.Errorf("with a reset to the start it goes on at %d; want 5, without an error", got)
	}
}

func kafkaDeleteRecords(t *testing.T, cl *kgo.Client, topic string, before int64) {
	t.Helper()
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Offset = before
	rt := kmsg.NewDeleteRecordsRequestTopic()
	rt.Topic, rt.Partitions = topic, append(rt.Partitions, p)
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode); err != nil {
		t.Fatal(err)
	}
}

// TestKafkaCommitsOfAnEmptyGroupExpire: without members a group's commits are
// removed after the broker's offsets.retention.minutes (7 days unless set), and
// then it is a group that nobody knows.
func TestKafkaCommitsOfAnEmptyGroupExpire(t *testing.T) {
	t.Parallel()
	// A real broker takes no less than a minute; kfake takes none at all.
	k := kafkaFast(t, kfake.BrokerConfigs(map[string]string{
		"offsets.retention.minutes": "0", "offsets.retention.check.interval.ms": "100",
	}))
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 1)
	kafkaFill(t, admin, topic, 1, 10)
	a := kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic)...))
	kafkaWait(t, "10 records", func() bool { return a.count() == 10 })
	if err := kafkaCommit(t.Context(), a.cl, topic, 0, 10, ""); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	kafkaWait(t, "five checks", func() bool { return time.Since(start) > 500*time.Millisecond })
	if offset, _ := kafkaCommitted(t, admin, topic, topic, 0); offset != 10 {
		t.Fatalf("committed %d while the group has a member; want 10", offset)
	}
	a.cl.CloseAllowingRebalance()
	kafkaWait(t, "expiry", func() bool { offset, _ := kafkaCommitted(t, admin, topic, topic, 0); return offset == -1 })
	b := kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic)...))
	kafkaWait(t, "everything again", func() bool { return b.count() == 10 })
}
