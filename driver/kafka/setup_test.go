package kafka_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"go.uber.org/goleak"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/driver/kafka"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/kvtest"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// The words that the tests of several drivers share.
var (
	wants = kvtest.Wants
	must  = kvtest.Must
	await = kvtest.Await
)

func TestMain(m *testing.M) {
	if servers.ServeKafka() {
		return
	}
	goleak.VerifyTestMain(m)
}

// brokerProcess is a broker that can be killed, and that clients reach through
// whatever stands before it.
func brokerProcess(tb testing.TB) drivertest.Server {
	tb.Helper()
	broker := servers.KafkaProcess(tb)
	relay := servers.RelayKafka(tb, broker.Addr)
	return drivertest.Server{
		Process: broker, Addr: relay.Addr,
		Config: func(addr string) driver.Config {
			if addr == relay.Addr {
				return driver.Config{Name: "test", URL: url(broker.Addr)}
			}
			relay.Advertise(addr)
			return driver.Config{Name: "test", URL: url(addr)}
		},
	}
}

func url(brokers ...string) string { return "kafka://" + strings.Join(brokers, ",") }

// open returns a connection that is closed at the end of the test.
func open(t testing.TB, c driver.Config) driver.Conn {
	t.Helper()
	return kvtest.Open(t, kafka.Driver(), c)
}

// unique returns a name that no other run uses.
func unique() string { return fmt.Sprint("t", time.Now().UnixNano()) }

func logOf(t testing.TB, conn driver.Conn) driver.Log {
	t.Helper()
	b, err := conn.Space(driver.Space{Namespace: "orders", Pattern: "p"})
	must(t, err)
	return b.Log
}

func topicOf(t testing.TB, conn driver.Conn, spec driver.TopicSpec) driver.Topic {
	t.Helper()
	topic, err := logOf(t, conn).Topic(t.Context(), spec)
	must(t, err)
	return topic
}

func put(t testing.TB, topic driver.Topic, records ...driver.Record) []driver.AppendResult {
	t.Helper()
	results := make([]driver.AppendResult, len(records))
	topic.Append(t.Context(), records, results)
	for _, r := range results {
		must(t, r.Err)
	}
	return results
}

// text is a record of partition 0.
func text(s string) driver.Record { return driver.Record{Value: []byte(s)} }

// numbered are n records for each of some partitions.
func numbered(partitions, n int) (all []driver.Record) {
	for i := range n {
		for p := range partitions {
			all = append(all, driver.Record{Partition: p, Value: fmt.Appendf(nil, "%d", i)})
		}
	}
	return all
}

func read(t testing.TB, topic driver.Topic, partition int) []driver.Stored {
	t.Helper()
	found, err := topic.Read(t.Context(), driver.ReadRequest{Partition: partition, Limit: 100_000})
	must(t, err)
	return found.Records
}

func values(all []driver.Stored) (texts []string) {
	for _, s := range all {
		texts = append(texts, string(s.Value))
	}
	return texts
}

// consumer is a member with what it has and what came.
type consumer struct {
	t testing.TB
	driver.Member
	has   map[int]*claim
	lost  int
	stays bool // it does not answer when it should leave
}

type claim struct {
	id      int64
	from    driver.Checkpoint
	got     []driver.Stored
	skipped int64
}

func join(t testing.TB, topic driver.Topic, r driver.JoinRequest) *consumer {
	t.Helper()
	m, err := topic.Join(t.Context(), r)
	must(t, err)
	t.Cleanup(func() { must(t, m.Close(context.Background())) })
	return &consumer{t: t, Member: m, has: map[int]*claim{}}
}

// poll takes what comes within a moment.
func (c *consumer) poll() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Millisecond)
	defer cancel()
	events := make([]driver.LogEvent, 100)
	n, err := c.Next(ctx, events)
	if err != nil && errs.ReasonOf(err) != errs.Deadline {
		c.t.Fatal(err)
	}
	for _, ev := range events[:n] {
		switch ev.Kind {
		case driver.Gained:
			c.has[ev.Partition] = &claim{id: ev.Claim, from: ev.Checkpoint}
		case driver.Arrived:
			got := c.has[ev.Partition]
			got.got, got.skipped = append(got.got, ev.Stored), got.skipped+ev.Skipped
		case driver.Leaving:
			if !c.stays {
				c.commit(ev.Partition, c.has[ev.Partition].from, true)
			}
		case driver.Lost:
			c.lost++
			delete(c.has, ev.Partition)
		}
	}
}

// commit commits for a partition, and fails the test if it cannot.
func (c *consumer) commit(partition int, at driver.Checkpoint, release bool) {
	c.t.Helper()
	if err := c.tryCommit(partition, at, release); err != nil && !release {
		c.t.Fatal(err)
	}
	if release {
		delete(c.has, partition)
	}
}

func (c *consumer) tryCommit(partition int, at driver.Checkpoint, release bool) error {
	results := make([]error, 1)
	c.Commit(c.t.Context(), []driver.Commit{{Partition: partition, Claim: c.has[partition].id, Checkpoint: at, Release: release}}, results)
	return results[0]
}

// records is how many have come of what it has.
func (c *consumer) records() (n int) {
	for _, got := range c.has {
		n += len(got.got)
	}
	return n
}

// until takes what comes to consumers until something holds.
func until(t testing.TB, what string, holds func() bool, all ...*consumer) {
	t.Helper()
	for end := time.Now().Add(2 * driver.TakeOver); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, 2*driver.TakeOver)
		}
		for _, c := range all {
			c.poll()
		}
	}
}

// plainClient is another program's client.
func plainClient(tb testing.TB, brokers []string, opts ...kgo.Opt) *kgo.Client {
	tb.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxVersions(kversion.V3_9_0()), kgo.DisableClientMetrics(),
	}, opts...)...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(cl.CloseAllowingRebalance)
	return cl
}

// foreignTopic makes a topic as another program would.
func foreignTopic(tb testing.TB, c driver.Config, partitions int) drivertest.ForeignTopic {
	tb.Helper()
	_, hosts, _ := strings.Cut(c.URL, "://")
	cl := plainClient(tb, strings.Split(hosts, ","))
	name := makeTopic(tb, cl, partitions, map[string]string{"max.message.bytes": fmt.Sprint(1 << 20)})
	return drivertest.ForeignTopic{
		Physical:   name,
		Partitions: partitions,
		Headers:    []driver.Header{{Name: "A b:é", Value: " \x00\xff "}, {Name: "A b:é", Value: ""}},
		Append: func(records ...driver.Record) {
			for _, r := range records {
				k := &kgo.Record{Topic: name, Partition: int32(r.Partition), Key: r.Key, Value: r.Value}
				for _, h := range r.Headers {
					k.Headers = append(k.Headers, kgo.RecordHeader{Key: h.Name, Value: []byte(h.Value)})
				}
				if err := cl.ProduceSync(context.Background(), k).FirstErr(); err != nil {
					tb.Fatal(err)
				}
			}
		},
		Delete: func() { deleteTopic(tb, cl, name) },
	}
}

func makeTopic(tb testing.TB, cl *kgo.Client, partitions int, config map[string]string) string {
	tb.Helper()
	name := "theirs-" + unique()
	makeNamed(tb, cl, name, partitions, config)
	return name
}

func makeNamed(tb testing.TB, cl *kgo.Client, name string, partitions int, config map[string]string) {
	tb.Helper()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, int32(partitions), -1
	for name, value := range config {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = name, kmsg.StringPtr(value)
		rt.Configs = append(rt.Configs, c)
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(context.Background(), cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func deleteTopic(tb testing.TB, cl *kgo.Client, name string) {
	tb.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	rt := kmsg.NewDeleteTopicsRequestTopic()
	rt.Topic = kmsg.StringPtr(name)
	req.TopicNames, req.Topics = []string{name}, append(req.Topics, rt)
	resp, err := req.RequestWith(context.Background(), cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// serverTLS is what a server with the certificate of a folder needs.
func serverTLS(t testing.TB, dir string) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(dir+"/cert.pem", dir+"/key.pem")
	must(t, err)
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}
