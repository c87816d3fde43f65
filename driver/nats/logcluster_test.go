package nats_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// leads returns the index of the node that leads a stream.
func leads(t testing.TB, nodes []*servers.Server, stream string) (index int) {
	t.Helper()
	await(t, "a leader of "+stream, func() bool {
		for _, n := range nodes {
			if !n.Running() {
				continue
			}
			js, err := jetstream.New(connect(t, n.URL))
			must(t, err)
			x, err := js.Stream(t.Context(), stream)
			if err != nil || x.CachedInfo().Cluster == nil {
				continue
			}
			index, err = strconv.Atoi(strings.TrimPrefix(x.CachedInfo().Cluster.Leader, "n"))
			return err == nil
		}
		return false
	})
	return index
}

// TestTopicOfAReplicaThatIsBehind reads through a node that has stood still
// while something was appended.
func TestTopicOfAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t)
	spec := driver.TopicSpec{Name: "t", Partitions: 2}
	topicOf(t, open(t, replicated(nodes...)), spec)
	leader := leads(t, nodes, "orders_t")
	behind := nodes[(leader+1)%3]
	reader := topicOf(t, open(t, replicated(behind)), spec)
	writer := topicOf(t, open(t, replicated(nodes[leader])), spec)
	m := joins(t, reader, driver.JoinRequest{})
	came := 0
	for round := range 5 {
		behind.Pause()
		for range 10 { // which takes a moment to catch up with
			records := make([]driver.Record, 500)
			for i := range records {
				records[i] = driver.Record{Partition: 1, Value: make([]byte, 500)}
			}
			appendAll(t, writer, records...)
		}
		at := appendAll(t, writer, driver.Record{Value: []byte(strconv.Itoa(round))})[0].Position
		var begun, reads sync.WaitGroup
		begun.Add(20)
		for range 20 { // before it goes on, so that they are there while it catches up
			reads.Go(func() {
				begun.Done()
				readsWhatIsThere(t, reader, at, strconv.Itoa(round))
			})
		}
		begun.Wait()
		behind.Resume()
		reads.Wait()
		stats, err := reader.Stat(t.Context(), "")
		must(t, err)
		if stats[0].End <= at {
			t.Fatalf("stat after an append at %d: %+v", at, stats[0])
		}
		came += 5001
	}
	next := map[int]int{}
	for _, e := range arrivals(t, m, came) {
		if e.Partition == 0 {
			if want := strconv.Itoa(next[0]); string(e.Stored.Value) != want {
				t.Errorf("%s came, want %s", e.Stored.Value, want)
			}
		}
		if e.Skipped != 0 {
			t.Errorf("%d were skipped before %d", e.Skipped, e.Stored.Position)
		}
		next[e.Partition]++
	}
	if next[0] != 5 || next[1] != 25_000 {
		t.Errorf("%v came", next)
	}
}

// readsWhatIsThere reads the record at a position, as soon as somebody answers.
func readsWhatIsThere(t *testing.T, topic driver.Topic, at driver.Position, want string) {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		found, err := topic.Read(t.Context(), driver.ReadRequest{From: at, Limit: 10})
		if errs.ReasonOf(err) == errs.BackendUnavailable {
			continue
		}
		if err != nil || len(found.Records) != 1 || string(found.Records[0].Value) != want {
			t.Errorf("read of what was appended at %d: %+v, %v", at, found, err)
		}
		return
	}
	t.Errorf("nobody answers")
}

// TestTopicsLeaderIsKilled kills the node that leads a topic's stream, and the
// one that leads the groups' bucket, while records are appended and consumed.
func TestTopicsLeaderIsKilled(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t)
	topic := topicOf(t, open(t, replicated(nodes...)), driver.TopicSpec{Name: "t", Partitions: 3, Dedup: 5 * time.Minute})
	a := &appender{topic: topic, acked: map[string]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var work sync.WaitGroup
	for w := range 3 {
		work.Go(func() { a.appends(ctx, t, w) })
	}
	members := []driver.Member{
		joins(t, topic, driver.JoinRequest{Group: "g", Name: "one"}),
		joins(t, topicOf(t, open(t, replicated(nodes...)), driver.TopicSpec{Name: "t", Partitions: 3}), driver.JoinRequest{Group: "g", Name: "two"}),
	}
	for _, m := range members {
		work.Go(func() { a.consumes(ctx, t, m) })
	}
	for _, stream := range []string{"orders_t", "KV_prism-groups-orders"} {
		a.progress(t, 100)
		leader := leads(t, nodes, stream)
		nodes[leader].Kill()
		a.progress(t, 100)
		nodes[leader].Start()
	}
	a.progress(t, 100)
	stop()
	work.Wait()
	a.check(t, topicOf(t, open(t, replicated(nodes...)), driver.TopicSpec{Name: "t", Partitions: 3}))
}

// appender has records appended, each until it is acknowledged, and consumed.
type appender struct {
	topic driver.Topic

	mu        sync.Mutex // guards what follows
	acked     map[string]bool
	consumed  int
	committed [3]driver.Position
}

// appends appends numbered records to one partition.
func (a *appender) appends(ctx context.Context, t *testing.T, w int) {
	for n := 0; ctx.Err() == nil; {
		text := fmt.Sprintf("%d-%06d", w, n)
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		results := make([]driver.AppendResult, 1)
		a.topic.Append(short, []driver.Record{{Partition: w, ID: text, Value: []byte(text)}}, results)
		cancel()
		switch err := results[0].Err; errs.ReasonOf(err) {
		case errs.Unknown:
			a.mu.Lock()
			a.acked[text] = true
			a.mu.Unlock()
			n++
		case errs.BackendUnavailable, errs.OutcomeUnknown, errs.Deadline, errs.Cancelled:
		default:
			t.Errorf("append: %v", err)
			return
		}
	}
}

func (a *appender) consumes(ctx context.Context, t *testing.T, m driver.Member) {
	claims := map[int]int64{}
	events := make([]driver.LogEvent, 50)
	for ctx.Err() == nil {
		n, err := m.Next(ctx, events)
		if err != nil && ctx.Err() == nil {
			t.Errorf("next: %v", err)
		}
		for _, e := range events[:n] {
			switch e.Kind {
			case driver.Gained:
				claims[e.Partition] = e.Claim
				a.mu.Lock()
				if e.Checkpoint.Next < a.committed[e.Partition] {
					t.Errorf("%d was gained at %d, the commit of %d was acknowledged", e.Partition, e.Checkpoint.Next, a.committed[e.Partition])
				}
				a.mu.Unlock()
			case driver.Arrived:
				a.commit(ctx, m, driver.Commit{Partition: e.Partition, Claim: claims[e.Partition], Checkpoint: driver.Checkpoint{Next: e.Stored.Position + 1}})
			case driver.Leaving:
				c := driver.Commit{Partition: e.Partition, Claim: claims[e.Partition], Release: true}
				a.mu.Lock()
				c.Next = max(a.committed[e.Partition], 1)
				a.mu.Unlock()
				m.Commit(ctx, []driver.Commit{c}, make([]error, 1))
			case driver.Lost:
			}
		}
	}
}

func (a *appender) commit(ctx context.Context, m driver.Member, c driver.Commit) {
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	results := make([]error, 1)
	m.Commit(short, []driver.Commit{c}, results)
	if results[0] == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.consumed++
		a.committed[c.Partition] = max(a.committed[c.Partition], c.Next)
	}
}

// progress waits until so many more records were acknowledged and committed.
func (a *appender) progress(t *testing.T, more int) {
	t.Helper()
	counts := func() (int, int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.acked), a.consumed
	}
	acked, consumed := counts()
	await(t, "progress", func() bool {
		nowAcked, nowConsumed := counts()
		return nowAcked >= acked+more && nowConsumed >= consumed+more
	})
}

// check compares what stands in the topic with what was acknowledged.
func (a *appender) check(t *testing.T, topic driver.Topic) {
	t.Helper()
	there := map[string]bool{}
	for p := range 3 {
		last := ""
		for _, s := range readAll(t, topic, p) {
			text := string(s.Value)
			if there[text] || text < last {
				t.Errorf("partition %d: %s stands behind %s", p, text, last)
			}
			there[text], last = true, text
		}
	}
	for text := range a.acked {
		if !there[text] {
			t.Errorf("%s was acknowledged and is not there", text)
		}
	}
}
