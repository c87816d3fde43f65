package kafka_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// kcat is a client that nobody here wrote.
func kcat(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), servers.Tool(t, "kcat", "kcat"), args...)
}

// TestRecordsOfKcat: key, headers and value are the record's own, in both
// directions.
func TestRecordsOfKcat(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	conn := open(t, driver.Config{URL: url(k.Brokers...)})
	name := unique()
	topic := topicOf(t, conn, driver.TopicSpec{Name: name, Partitions: 1})
	put(t, topic, driver.Record{ID: "id-1", Key: []byte("a/b"), Value: []byte("payload"), Headers: []driver.Header{{Name: "twice", Value: "x"}, {Name: "twice", Value: "y"}}})
	out, err := kcat(t, "-b", k.Brokers[0], "-C", "-t", "orders."+name, "-e", "-q", "-J").Output()
	must(t, err)
	var got struct {
		Key, Payload string
		Headers      []string
	}
	must(t, json.Unmarshal(out, &got))
	if got.Key != "a/b" || got.Payload != "payload" || !slices.Equal(got.Headers, []string{"prism-id", "id-1", "twice", "x", "twice", "y"}) {
		t.Errorf("kcat reads %s", out)
	}
	write := kcat(t, "-b", k.Brokers[0], "-P", "-t", "orders."+name, "-k", "c", "-H", "h=v", "-X", "enable.idempotence=true")
	write.Stdin = strings.NewReader("from kcat\n")
	if out, err := write.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	found := read(t, topic, 0)
	if len(found) != 2 {
		t.Fatalf("%d records, want 2", len(found))
	}
	s := found[1]
	if string(s.Key) != "c" || string(s.Value) != "from kcat" || !slices.Equal(s.Headers, []driver.Header{{Name: "h", Value: "v"}}) || s.Position != 2 {
		t.Errorf("kcat's record is read as %+v", s)
	}
}

// TestStrangeRecords: what other programs write is read as it is.
func TestStrangeRecords(t *testing.T) {
	t.Parallel()
	k := servers.KafkaWith(t)
	cl := plainClient(t, k.Brokers)
	name := makeTopic(t, cl, 1, nil)
	header := func(name, value string) kgo.RecordHeader { return kgo.RecordHeader{Key: name, Value: []byte(value)} }
	for _, r := range []*kgo.Record{
		{Value: nil},
		{Headers: []kgo.RecordHeader{header("prism-id", "a"), header("prism-id", "b")}},
		{Headers: []kgo.RecordHeader{header("prism-id", "not one")}},
		{Headers: []kgo.RecordHeader{header("x", "1"), header("prism-id", "late")}},
		{Headers: []kgo.RecordHeader{header("prism-id", strings.Repeat("x", driver.MaxRecordID+1))}},
	} {
		r.Topic = name
		must(t, cl.ProduceSync(t.Context(), r).FirstErr())
	}
	conn := open(t, driver.Config{URL: url(k.Brokers...)})
	topic := topicOf(t, conn, driver.TopicSpec{Physical: name})
	put(t, topic, driver.Record{Headers: []driver.Header{{Name: "prism-id", Value: "no id"}}})
	found := read(t, topic, 0)
	for i, want := range []struct {
		id      string
		headers string
	}{{"", ""}, {"a", "prism-id=b"}, {"", "prism-id=not one"}, {"", "x=1 prism-id=late"}, {"", "prism-id=" + strings.Repeat("x", 65)}, {"", "prism-id=no id"}} {
		var headers []string
		for _, h := range found[i].Headers {
			headers = append(headers, h.Name+"="+h.Value)
		}
		if found[i].ID != want.id || strings.Join(headers, " ") != want.headers {
			t.Errorf("record %d: id %q, headers %q; want %q, %q", i, found[i].ID, headers, want.id, want.headers)
		}
	}
}

// output collects what a program prints.
type output struct {
	mu sync.Mutex // guards what follows
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// joinWithKcat has kcat join a group with an assignment strategy.
func joinWithKcat(t *testing.T, k *servers.KafkaCluster, topic, group, strategy string) (stdout, stderr *output) {
	t.Helper()
	stdout, stderr = &output{}, &output{}
	cmd := kcat(t, "-b", k.Brokers[0], "-u", "-f", "%p/%o\n", "-X", "auto.offset.reset=earliest", "-X", "heartbeat.interval.ms=100",
		"-X", "session.timeout.ms=6000", "-X", "enable.auto.commit=false", "-X", "partition.assignment.strategy="+strategy, "-G", group, topic)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	must(t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	return stdout, stderr
}

// TestKcatSharesAGroup: a consumer of another program takes its share, and gets
// what was not committed; our members go on with theirs.
func TestKcatSharesAGroup(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ name, options, strategy string }{
		{"cooperative", ``, "cooperative-sticky"},
		{"shared-with-others", `{"shared_with_others": true}`, "range,roundrobin"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			k := servers.Kafka(t)
			conn := open(t, driver.Config{URL: url(k.Brokers...), Options: json.RawMessage(x.options)})
			name := unique()
			topic := topicOf(t, conn, driver.TopicSpec{Name: name, Partitions: 6})
			put(t, topic, numbered(6, 10)...)
			one, two := join(t, topic, driver.JoinRequest{Group: "g", Name: "one"}), join(t, topic, driver.JoinRequest{Group: "g", Name: "two"})
			until(t, "each has three", func() bool { return len(one.has) == 3 && len(two.has) == 3 && one.records()+two.records() == 60 }, one, two)
			out, _ := joinWithKcat(t, k, "orders."+name, "orders."+name+":g", x.strategy)
			until(t, "each has two", func() bool {
				return len(one.has) == 2 && len(two.has) == 2 && strings.Count(out.String(), "\n") >= 20
			}, one, two)
			stats, err := topic.Stat(t.Context(), "g")
			must(t, err)
			others := 0
			for p, s := range stats {
				switch {
				case one.has[p] != nil && s.Owner != "one", two.has[p] != nil && s.Owner != "two":
					t.Errorf("partition %d is told to be %q's", p, s.Owner)
				case s.Owner != "one" && s.Owner != "two":
					others++
				}
			}
			if others != 2 {
				t.Errorf("%d partitions are told to be kcat's, want 2", others)
			}
			wants(t, "a seek of a group with members elsewhere", topic.Seek(t.Context(), "g", []driver.Target{{Next: 1}}), errs.Unsupported)
			put(t, topic, numbered(6, 1)...)
			until(t, "records that come later", func() bool {
				return strings.Count(out.String(), "\n") >= 22 && one.records()+two.records() >= 2*11*2
			}, one, two)
			for _, c := range []*consumer{one, two} {
				for p, got := range c.has {
					c.commit(p, driver.Checkpoint{Next: got.got[len(got.got)-1].Position + 1, Note: "all"}, false)
				}
			}
		})
	}
}

// TestKcatWithAnotherStrategy: it is refused, and disturbs nobody.
func TestKcatWithAnotherStrategy(t *testing.T) {
	t.Parallel()
	k := servers.Kafka(t)
	conn := open(t, driver.Config{URL: url(k.Brokers...)})
	name := unique()
	topic := topicOf(t, conn, driver.TopicSpec{Name: name, Partitions: 2})
	put(t, topic, numbered(2, 5)...)
	m := join(t, topic, driver.JoinRequest{Group: "g", Name: "m"})
	until(t, "all records", func() bool { return m.records() == 10 }, m)
	_, stderr := joinWithKcat(t, k, "orders."+name, "orders."+name+":g", "range,roundrobin")
	until(t, "the refusal", func() bool {
		return strings.Contains(strings.ToLower(strings.ReplaceAll(stderr.String(), "_", " ")), "inconsistent group protocol")
	}, m)
	if m.lost > 0 || m.records() != 10 {
		t.Errorf("%d partitions were lost, %d records came", m.lost, m.records())
	}
}
