package brokers

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/prismgw/prism/internal/testutil/servers"
)

// kafkaValues reads a topic's first n records of partition 0 without a group.
func kafkaValues(t *testing.T, k *servers.KafkaCluster, topic string, n int, opts ...kgo.Opt) []string {
	t.Helper()
	r := kafkaBrowse(t, k, topic, kgo.NewOffset().AtStart(), opts...)
	kafkaWait(t, fmt.Sprintf("%d records", n), func() bool { return r.count() >= n })
	var values []string
	for _, rec := range r.records() {
		values = append(values, string(rec.Value))
	}
	return values
}

func kafkaBrowse(t *testing.T, k *servers.KafkaCluster, topic string, from kgo.Offset, opts ...kgo.Opt) *kafkaReader {
	t.Helper()
	return kafkaRead(t, kafkaClient(t, k, append([]kgo.Opt{
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: from}}), kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	}, opts...)...))
}

// kafkaProducers are the one that Prism uses and its twin without protection.
var kafkaProducers = map[string][]kgo.Opt{
	"idempotent": nil,
	"bare":       {kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(5)},
}

// TestKafkaProducerAcrossARestart: with many in flight while the broker ends
// and comes back, an idempotent producer's records are each there once, in
// their order; those of another one are there twice, or out of order.
func TestKafkaProducerAcrossARestart(t *testing.T) {
	t.Parallel()
	for name, opts := range kafkaProducers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := servers.KafkaWith(t)
			topic := kafkaTopic(t, kafkaAdmin(t, k), 1)
			link := kafkaLink{delay: time.Millisecond}
			cl := kafkaClient(t, k, append([]kgo.Opt{kgo.MaxBufferedRecords(256), kgo.ProducerBatchMaxBytes(1 << 10), kgo.Dialer(link.dial)}, opts...)...)
			const n, restarts = 4000, 3
			failed, turns, done := make(chan error, n), make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				for i := range n {
					if i%(n/(restarts+1)) == n/8 {
						turns <- struct{}{}
					}
					cl.Produce(t.Context(), &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d", i)}, func(_ *kgo.Record, err error) { failed <- err })
				}
			}()
			for range restarts {
				<-turns
				link.cut()
				k.Stop()
				k.Start()
				link.mend()
			}
			for range restarts + 1 {
				select {
				case <-turns:
				case <-done:
				}
			}
			if err := cl.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range n {
				if err := <-failed; err != nil {
					t.Fatal(err)
				}
			}
			kafkaInOrder(t, k, topic, n, len(opts) == 0)
		})
	}
}

// kafkaInOrder fails unless the log is 0 to n-1, each once: or, where no order
// is wanted, if it is, for then the test cannot see.
func kafkaInOrder(t *testing.T, k *servers.KafkaCluster, topic string, n int, want bool) {
	t.Helper()
	kafkaProduce(t, kafkaClient(t, k), &kgo.Record{Topic: topic, Value: []byte("end")})
	r := kafkaBrowse(t, k, topic, kgo.NewOffset().AtStart())
	kafkaWait(t, "end of the log", func() bool {
		all := r.records()
		return len(all) > 0 && string(all[len(all)-1].Value) == "end"
	})
	all := r.records()
	wrong := 0
	for i, rec := range all[:len(all)-1] {
		if string(rec.Value) != fmt.Sprint(i) {
			wrong++
		}
	}
	t.Logf("%d records for %d acknowledged ones, %d not in their place", len(all)-1, n, wrong)
	if right := len(all)-1 == n && wrong == 0; right != want {
		t.Errorf("each once and in order: %v; want %v", right, want)
	}
}

// TestKafkaLostAcknowledgement: a produce that the broker carried out and did
// not confirm is sent again; an idempotent producer's stands once, another's
// twice.
func TestKafkaLostAcknowledgement(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		opts []kgo.Opt
		want []string
	}{
		"idempotent":     {nil, []string{"a", "b", "c"}},
		"not idempotent": {[]kgo.Opt{kgo.DisableIdempotentWrite()}, []string{"a", "b", "b", "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := servers.KafkaWith(t)
			topic := "t"
			if err := k.Fake.CreateTopic(topic, 1, nil); err != nil {
				t.Fatal(err)
			}
			cl := kafkaClient(t, k, c.opts...)
			kafkaProduce(t, cl, &kgo.Record{Topic: topic, Value: []byte("a")})
			fault := k.Fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.RequestTimedOut})
			kafkaProduce(t, cl, &kgo.Record{Topic: topic, Value: []byte("b")})
			kafkaProduce(t, cl, &kgo.Record{Topic: topic, Value: []byte("c")})
			if fault.Hits() != 1 {
				t.Fatalf("%d acknowledgements were lost; want 1", fault.Hits())
			}
			if got := kafkaValues(t, k, topic, len(c.want)); !slices.Equal(got, c.want) {
				t.Errorf("the log is %v; want %v", got, c.want)
			}
		})
	}
}

// TestKafkaKnowsNoMessageID: the producer's sequence is all that the broker
// knows; the same message published again, by the same producer or by one that
// was started anew, stands twice.
func TestKafkaKnowsNoMessageID(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	topic := kafkaTopic(t, kafkaAdmin(t, k), 1)
	message := func() *kgo.Record {
		return &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("m"), Headers: []kgo.RecordHeader{{Key: "prism-message-id", Value: []byte("1")}}}
	}
	first := kafkaClient(t, k)
	kafkaProduce(t, first, message())
	kafkaProduce(t, first, message())
	kafkaProduce(t, kafkaClient(t, k), message())
	if got := kafkaValues(t, k, topic, 3); len(got) != 3 {
		t.Errorf("the log is %v; want the message 3 times", got)
	}
}

// TestKafkaOrderUnderRetries: with several requests in flight of which many
// are refused for a while, an idempotent producer's records keep their order.
func TestKafkaOrderUnderRetries(t *testing.T) {
	t.Parallel()
	for name, opts := range kafkaProducers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := servers.KafkaWith(t)
			topic := kafkaTopic(t, kafkaAdmin(t, k), 1)
			link := kafkaLink{delay: 2 * time.Millisecond}
			cl := kafkaClient(t, k, append([]kgo.Opt{kgo.ProducerBatchMaxBytes(1 << 10), kgo.Dialer(link.dial)}, opts...)...)
			kafkaProduce(t, cl, &kgo.Record{Topic: topic, Value: []byte("0")})
			turn := 0
			var last kmsg.Request // a request is asked about more than once
			fault := k.Fake.Fault(kfake.Fault{
				Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.NotEnoughReplicas, Count: -1,
				When: func(req kmsg.Request) bool {
					if req != last {
						last, turn = req, turn+1
					}
					return turn <= 60 && turn%3 == 1
				},
			})
			const n = 2000
			for i := 1; i < n; i++ {
				cl.Produce(t.Context(), &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d", i)}, nil)
			}
			if err := cl.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if fault.Hits() < 10 {
				t.Fatalf("only %d requests were refused", fault.Hits())
			}
			kafkaInOrder(t, k, topic, n, len(opts) == 0)
		})
	}
}

// TestKafkaPositions: offsets are given in the order in which records become
// visible; an open transaction holds back who reads committed records only,
// and its end takes an offset that no reader ever sees.
func TestKafkaPositions(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 1)
	tx := kafkaClient(t, k, kgo.TransactionalID(topic))
	end := func(try kgo.TransactionEndTry) {
		t.Helper()
		if err := tx.EndTransaction(t.Context(), try); err != nil {
			t.Fatal(err)
		}
	}
	begin := func(value string) {
		t.Helper()
		if err := tx.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		kafkaProduce(t, tx, &kgo.Record{Topic: topic, Value: []byte(value)})
	}
	begin("in a transaction") // 0
	kafkaProduce(t, admin, &kgo.Record{Topic: topic, Value: []byte("plain")})
	committed := kafkaBrowse(t, k, topic, kgo.NewOffset().AtStart(), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	all := kafkaBrowse(t, k, topic, kgo.NewOffset().AtStart())
	kafkaWait(t, "2 uncommitted records", func() bool { return all.count() == 2 })
	if n := committed.count(); n != 0 {
		t.Errorf("%d records are visible behind an open transaction", n)
	}
	end(kgo.TryCommit) // 2
	begin("given up")  // 3
	end(kgo.TryAbort)  // 4
	kafkaProduce(t, admin, &kgo.Record{Topic: topic, Value: []byte("last")})
	kafkaWait(t, "3 committed and 4 of all records", func() bool { return committed.count() == 3 && all.count() == 4 })
	offsets := func(r *kafkaReader) (list []int64) {
		for _, rec := range r.records() {
			list = append(list, rec.Offset)
		}
		return list
	}
	if got := offsets(committed); !slices.Equal(got, []int64{0, 1, 5}) {
		t.Errorf("committed records are at %v; want 0, 1, 5", got)
	}
	if got := offsets(all); !slices.Equal(got, []int64{0, 1, 3, 5}) {
		t.Errorf("all records are at %v; want 0, 1, 3, 5", got)
	}
}

// kafkaOffsetAt asks for the first offset at or after a time; -1 if there is none.
func kafkaOffsetAt(t *testing.T, cl *kgo.Client, topic string, at int64) int64 {
	t.Helper()
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Timestamp = at
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic, rt.Partitions = topic, append(rt.Partitions, p)
	req := kmsg.NewPtrListOffsetsRequest()
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode); err != nil {
		t.Fatal(err)
	}
	return resp.Topics[0].Partitions[0].Offset
}

// TestKafkaBrowse: reading from an offset or a time needs no group and leaves
// none behind. A record's time is its producer's, so that times may go back.
func TestKafkaBrowse(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 1)
	base := time.Now().Add(-time.Hour).Truncate(time.Second)
	for _, s := range []int{1, 3, 2, 4} {
		kafkaProduce(t, admin, &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d", s), Timestamp: base.Add(time.Duration(s) * time.Second)})
	}
	from := base.Add(2 * time.Second).UnixMilli()
	if got := kafkaOffsetAt(t, admin, topic, from); got != 1 {
		t.Errorf("the first offset from second 2 on is %d; want 1, whose time is 3", got)
	}
	if got := kafkaOffsetAt(t, admin, topic, base.Add(5*time.Second).UnixMilli()); got != -1 {
		t.Errorf("the first offset after all records is %d; want -1", got)
	}
	for name, c := range map[string]struct {
		from kgo.Offset
		want string
	}{
		"offset": {kgo.NewOffset().At(2), "2 4"},
		"time":   {kgo.NewOffset().AfterMilli(from), "3 2 4"},
	} {
		r := kafkaBrowse(t, k, topic, c.from)
		kafkaWait(t, "the last record", func() bool { return r.count() > 0 && string(r.records()[r.count()-1].Value) == "4" })
		var got []string
		for _, rec := range r.records() {
			got = append(got, string(rec.Value))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("browsing by %s gave %v; want %s", name, got, c.want)
		}
	}
	groups, err := kmsg.NewPtrListGroupsRequest().RequestWith(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups.Groups {
		if strings.Contains(g.Group, topic) {
			t.Errorf("browsing left the group %s", g.Group)
		}
	}
	kafkaDeleteRecords(t, admin, topic, 3)
	gone := kafkaBrowse(t, k, topic, kgo.NewOffset().At(1))
	kafkaWait(t, "refusal of a deleted offset, again at each poll", func() bool { return gone.failures() > 10 && gone.failed(kerr.OffsetOutOfRange) })
	if n := gone.count(); n != 0 {
		t.Errorf("%d records came from a deleted offset on; want none", n)
	}
}

// TestKafkaRecordsReadByKcat: key, headers and value are the record's own, in
// both directions.
func TestKafkaRecordsReadByKcat(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 1)
	kafkaProduce(t, admin, &kgo.Record{
		Topic: topic, Key: []byte("a/b"), Value: []byte("payload"),
		Headers: []kgo.RecordHeader{{Key: "prism-message-id", Value: []byte("1")}, {Key: "twice", Value: []byte("x")}, {Key: "twice", Value: []byte("y")}},
	})
	out, err := exec.CommandContext(t.Context(), kcat(t), "-b", k.Brokers[0], "-C", "-t", topic, "-e", "-q", "-J").Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Key, Payload string
		Headers      []string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got.Key != "a/b" || got.Payload != "payload" || !slices.Equal(got.Headers, []string{"prism-message-id", "1", "twice", "x", "twice", "y"}) {
		t.Errorf("kcat reads %s", out)
	}
	cmd := exec.CommandContext(t.Context(), kcat(t), "-b", k.Brokers[0], "-P", "-t", topic, "-k", "c", "-H", "h=v", "-X", "enable.idempotence=true")
	cmd.Stdin = strings.NewReader("from kcat\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := kafkaBrowse(t, k, topic, kgo.NewOffset().At(1))
	kafkaWait(t, "record of kcat", func() bool { return r.count() == 1 })
	rec := r.records()[0]
	if string(rec.Key) != "c" || string(rec.Value) != "from kcat" || len(rec.Headers) != 1 || rec.Headers[0].Key != "h" || string(rec.Headers[0].Value) != "v" {
		t.Errorf("kcat wrote key %q, value %q, headers %v", rec.Key, rec.Value, rec.Headers)
	}
}

// TestKafkaCommitsAndDataSurviveARestart: what was acknowledged and committed
// is there when the broker comes back, and its group goes on from there.
func TestKafkaCommitsAndDataSurviveARestart(t *testing.T) {
	t.Parallel()
	k := servers.KafkaWith(t)
	admin := kafkaAdmin(t, k)
	topic := kafkaTopic(t, admin, 1)
	kafkaFill(t, admin, topic, 1, 10)
	r := kafkaRead(t, kafkaClient(t, k, kafkaMemberOpts(topic, topic)...))
	kafkaWait(t, "10 records", func() bool { return r.count() == 10 })
	if err := kafkaCommit(t.Context(), r.cl, topic, 0, 4, "text"); err != nil {
		t.Fatal(err)
	}
	k.Stop()
	k.Start()
	kafkaFill(t, admin, topic, 1, 1)
	kafkaWait(t, "next record, by the member of before", func() bool { return r.count() >= 11 })
	if offset, text := kafkaCommitted(t, admin, topic, topic, 0); offset != 4 || text != "text" {
		t.Errorf("committed %d %q after the restart; want 4", offset, text)
	}
	if last := r.records()[10]; last.Offset != 10 {
		t.Errorf("the member went on at %d; want 10: it keeps its own place", last.Offset)
	}
}
