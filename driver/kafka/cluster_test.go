package kafka_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// cluster starts three brokers. They share a process, as kfake's do.
func cluster(t *testing.T) *servers.KafkaCluster {
	t.Helper()
	return servers.KafkaBrokers(t, 3)
}

// TestReplicas: topics are made as the options say, and those that are there
// with less are refused.
func TestReplicas(t *testing.T) {
	t.Parallel()
	k := cluster(t)
	with := func(options string) driver.Log {
		return logOf(t, open(t, driver.Config{URL: url(k.Brokers...), Options: json.RawMessage(options)}))
	}
	three, one := with(`{"replicas": 3, "min_insync_replicas": 2}`), with(`{"replicas": 1}`)
	for name, refused := range map[string][]string{"strong": nil, "weak": {"options.replicas", "options.min_insync_replicas"}} {
		first, second := three, one
		if name == "weak" {
			first, second = one, three
		}
		topic, err := first.Topic(t.Context(), driver.TopicSpec{Name: name, Partitions: 2})
		must(t, err)
		put(t, topic, text("a"))
		_, err = second.Topic(t.Context(), driver.TopicSpec{Name: name, Partitions: 2})
		if refused == nil {
			must(t, err)
			continue
		}
		var paths []string
		for _, f := range wants(t, name, err, errs.InvalidConfiguration).Fields {
			paths = append(paths, f.Path)
		}
		if !slices.Equal(paths, refused) {
			t.Errorf("%s: refused for %v, want %v", name, paths, refused)
		}
	}
	_, err := with(`{"replicas": 4}`).Topic(t.Context(), driver.TopicSpec{Name: "more", Partitions: 1})
	if e := wants(t, "more replicas than brokers", err, errs.InvalidConfiguration); !strings.Contains(e.Message, "fewer brokers") {
		t.Errorf("the error is %v", e)
	}
	_, err = with(`{"max_record": 2000000}`).Topic(t.Context(), driver.TopicSpec{Name: "strong", Partitions: 1})
	wants(t, "larger records than the topic takes", err, errs.InvalidConfiguration)
}

// TestPingLooksAtTheBrokers: a cluster that would lose commits, or is too old, or
// keeps no notes, is told before anybody relies on it.
func TestPingLooksAtTheBrokers(t *testing.T) {
	t.Parallel()
	k := cluster(t)
	conn := open(t, driver.Config{URL: url(k.Brokers...), Options: json.RawMessage(`{"replicas": 3, "min_insync_replicas": 2}`)})
	must(t, conn.Ping(t.Context()))
	makeNamed(t, plainClient(t, k.Brokers), "__consumer_offsets", 1, map[string]string{"min.insync.replicas": "1"})
	if e := wants(t, "commits on one broker", conn.Ping(t.Context()), errs.InvalidConfiguration); !strings.Contains(e.Message, "__consumer_offsets") {
		t.Errorf("the error is %v", e)
	}
	must(t, open(t, driver.Config{URL: url(k.Brokers...)}).Ping(t.Context())) // which promises no more

	old := servers.KafkaWith(t, kfake.MaxVersions(kversion.V2_3_0()))
	if e := wants(t, "an old broker", open(t, driver.Config{URL: url(old.Brokers...)}).Ping(t.Context()), errs.InvalidConfiguration); !strings.Contains(e.Message, "2.4") {
		t.Errorf("the error is %v", e)
	}
	for _, v := range []*kversion.Versions{kversion.V2_4_0(), kversion.V2_8_0(), kversion.V3_0_0()} {
		must(t, roundTrip(t, driver.Config{URL: url(servers.KafkaWith(t, kfake.MaxVersions(v)).Brokers...)}))
	}

	short := servers.KafkaWith(t)
	short.Fake.ControlKey(int16(kmsg.DescribeConfigs), func(r kmsg.Request) (kmsg.Response, error, bool) {
		short.Fake.KeepControl()
		resp := r.ResponseKind().(*kmsg.DescribeConfigsResponse)
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.Value = "offset.metadata.max.bytes", kmsg.StringPtr("1000")
		resp.Resources = append(resp.Resources, kmsg.DescribeConfigsResponseResource{Configs: []kmsg.DescribeConfigsResponseResourceConfig{c}})
		return resp, nil, true
	})
	wants(t, "short notes", open(t, driver.Config{URL: url(short.Brokers...)}).Ping(t.Context()), errs.InvalidConfiguration)
}

// TestCompactedTopicOfOurOwn: records of it go although nobody asked for that.
func TestCompactedTopicOfOurOwn(t *testing.T) {
	t.Parallel()
	k := servers.KafkaWith(t)
	conn := open(t, driver.Config{URL: url(k.Brokers...)})
	cl := plainClient(t, k.Brokers)
	name := makeTopic(t, cl, 1, map[string]string{"cleanup.policy": "compact", "retention.ms": "-1"})
	_, err := logOf(t, conn).Topic(t.Context(), driver.TopicSpec{Physical: name})
	must(t, err)
	makeNamed(t, cl, "orders.t", 1, map[string]string{"cleanup.policy": "compact,delete", "retention.ms": "1000"})
	_, err = logOf(t, conn).Topic(t.Context(), driver.TopicSpec{Name: "t", Partitions: 2})
	var paths []string
	for _, f := range wants(t, "a compacted topic", err, errs.InvalidConfiguration).Fields {
		paths = append(paths, f.Path)
	}
	if !slices.Equal(paths, []string{"partitions", "retention", "retention.age"}) {
		t.Errorf("refused for %v", paths)
	}
}

// TestLeadersMove: while partitions go from broker to broker, what is appended
// is there once and in order, is consumed so, and every read finds its place.
func TestLeadersMove(t *testing.T) {
	t.Parallel()
	const partitions, each = 3, 150
	k := cluster(t)
	conn := open(t, driver.Config{URL: url(k.Brokers...)})
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: partitions})
	m := join(t, topic, driver.JoinRequest{Group: "g", Name: "m"})
	var done atomic.Int64
	var work sync.WaitGroup
	for p := range partitions {
		work.Go(func() {
			for i := range each {
				put(t, topic, driver.Record{Partition: p, Value: fmt.Append(nil, i)})
				done.Add(1)
			}
		})
	}
	moves := 0
	for done.Load() < partitions*each {
		k.Fake.ShufflePartitionLeaders()
		moves++
		before := done.Load()
		until(t, "progress", func() bool { return done.Load() > before || done.Load() == partitions*each }, m)
		for p := range partitions {
			read(t, topic, p)
		}
	}
	work.Wait()
	until(t, "all records", func() bool { return m.records() == partitions*each }, m)
	var want []string
	for i := range each {
		want = append(want, fmt.Sprint(i))
	}
	for p := range partitions {
		if got := values(m.has[p].got); !slices.Equal(got, want) {
			t.Errorf("partition %d: consumed %v", p, got)
		}
		if got := values(read(t, topic, p)); !slices.Equal(got, want) {
			t.Errorf("partition %d: read %v", p, got)
		}
	}
	if stats, err := topic.Stat(t.Context(), "g"); err != nil || stats[0].Waiting != each {
		t.Errorf("after %d moves: %+v, %v", moves, stats, err)
	}
	t.Logf("%d moves", moves)
}

// TestServerComesLater: calls fail soon, until it comes.
func TestServerComesLater(t *testing.T) {
	t.Parallel()
	k := servers.KafkaWith(t)
	conn := open(t, driver.Config{URL: url(k.Brokers...)})
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 1})
	put(t, topic, text("a"))
	k.Stop()
	later := open(t, driver.Config{URL: url(k.Brokers...)})
	begin := time.Now()
	_, err := logOf(t, later).Topic(t.Context(), driver.TopicSpec{Name: "t", Partitions: 1})
	wants(t, "a topic", err, errs.BackendUnavailable)
	wants(t, "ping", later.Ping(t.Context()), errs.BackendUnavailable)
	_, err = topic.Read(t.Context(), driver.ReadRequest{Limit: 1})
	wants(t, "read", err, errs.BackendUnavailable)
	_, err = topic.Stat(t.Context(), "g")
	wants(t, "stat", err, errs.BackendUnavailable)
	_, err = topic.Join(t.Context(), driver.JoinRequest{Group: "g"})
	wants(t, "join", err, errs.BackendUnavailable)
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("five calls took %v", took)
	}
	// The client finds out that its connection is closed when it has written to it.
	wants(t, "append", tryPut(topic, "lost"), errs.OutcomeUnknown)
	begin = time.Now()
	wants(t, "append behind it", tryPut(topic, "refused"), errs.BackendUnavailable)
	if took := time.Since(begin); took > time.Second {
		t.Errorf("an append that is not sent took %v", took)
	}
	k.Start()
	await(t, "ping after the start", func() bool { return later.Ping(t.Context()) == nil })
	await(t, "append after the start", func() bool { return tryPut(topic, "b") == nil })
	if got := values(read(t, topic, 0)); !slices.Equal(got, []string{"a", "lost", "b"}) {
		t.Errorf("the topic has %v; what was sent may be there, once, and what was refused must not", got)
	}
}

func tryPut(topic driver.Topic, s string) error {
	results := make([]driver.AppendResult, 1)
	topic.Append(context.Background(), []driver.Record{text(s)}, results)
	return results[0].Err
}
