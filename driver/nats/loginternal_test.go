package nats

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/internal/testutil/servers"
)

func openTopic(t testing.TB, c driver.Config, spec driver.TopicSpec) *topic {
	t.Helper()
	opened, err := open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	b, err := opened.Space(driver.Space{Namespace: "orders", Pattern: "p"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := b.Log.Topic(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return made.(*topic)
}

func TestKeysInHeaders(t *testing.T) {
	t.Parallel()
	keys := []string{"", "a", " ", "  ", " a b ", "100%", "%41", "%", "\x00\r\n", "é", strings.Repeat("\xff", driver.MaxRecordKey)}
	for range 1000 {
		key := make([]byte, rand.IntN(20))
		for i := range key {
			key[i] = byte(rand.IntN(256))
		}
		keys = append(keys, string(key))
	}
	for _, key := range keys {
		text := escapeKey([]byte(key))
		if got := string(unescapeKey(text)); got != key {
			t.Errorf("%q becomes %q and then %q", key, text, got)
		}
		if strings.TrimSpace(text) != text || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q becomes %q", key, text)
		}
	}
	for text, want := range map[string]string{"a%": "a%", "%4": "%4", "%zz": "%zz", "%41": "A", "%4%41": "%4A"} {
		if got := string(unescapeKey(text)); got != want {
			t.Errorf("%q of another program is read as %q, want %q", text, got, want)
		}
	}
}

// TestNamesOfTopics joins all kinds of names: no two topics share a stream, a
// subject or a key of a group.
func TestNamesOfTopics(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 300)
	namespaces := []string{"a", "A", "a.b", "a_b", "a-b", "_", "a_", "_5F", "=5F", "a/b", "a b", "é", "*", ">", "$JS", long, long + "m", strings.Repeat("_", 99)}
	names := []string{"b", "B", "b.0", "b_0", "b-0", "b.", "b..", "b..c", "b.c", "0", strings.Repeat("x", driver.MaxTopic), strings.Repeat("x.", driver.MaxTopic/2), "x" + strings.Repeat(".", driver.MaxTopic-1), "x" + strings.Repeat(".", driver.MaxTopic-2)}
	streams, subjects, groups, buckets := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, ns := range namespaces {
		bucket := groupBucket(ns)
		if buckets[bucket] || !validBucket(bucket) && len(bucket) <= maxBucket {
			t.Errorf("the bucket of %q is %q", ns, bucket)
		}
		buckets[bucket] = true
		for _, name := range names {
			stream, prefix := streamName(ns, name), topicPrefix(ns, name)
			if streams[stream] || subjects[prefix] || !validStream(stream) || len(stream) > maxStreamName {
				t.Errorf("%q %q: stream %q, subjects %q", ns, name, stream, prefix)
			}
			for token := range strings.SplitSeq(prefix+"0", ".") {
				if token == "" || strings.ContainsAny(token, "*> ") {
					t.Errorf("%q %q: subjects %q", ns, name, prefix)
				}
			}
			if key := groupPrefix(bucket, stream, 1, name) + "1023"; groups[key] || len(key) > 1000 {
				t.Errorf("%q %q: key %q of a group", ns, name, key)
			} else {
				groups[key] = true
			}
			streams[stream], subjects[prefix] = true, true
		}
	}
}

// TestServersHeadersAreLast has a message with headers like those that a server
// adds.
func TestServersHeadersAreLast(t *testing.T) {
	t.Parallel()
	r, err := directStored(&nats.Msg{Header: nats.Header{
		jetstream.SequenceHeader: {"7", "42"}, jetstream.TimeStampHeaer: {"2026-01-02T03:04:05.123456789Z"},
		jetstream.StreamHeader: {"S"}, jetstream.SubjectHeader: {"theirs", "s"}, "h": {"2", "1"},
	}}, 3)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(r.Headers, func(a, b driver.Header) int { return strings.Compare(a.Name, b.Name) })
	want := []driver.Header{{Name: "Nats-Sequence", Value: "7"}, {Name: "Nats-Subject", Value: "theirs"}, {Name: "h", Value: "2"}, {Name: "h", Value: "1"}}
	if r.Position != 42 || r.Partition != 3 || r.Time.Nanosecond() != 123456789 || !slices.Equal(r.Headers, want) {
		t.Errorf("%+v", r)
	}
}

// TestOlderRowsAreNotLearned has a replica tell what was.
func TestOlderRowsAreNotLearned(t *testing.T) {
	t.Parallel()
	x := &topic{log: &log{conn: &conn{}, namespace: "n"}, subjects: []string{"s"}}
	g := newGroup(x, "g")
	told := func(rev uint64, text string) { g.learnRow(0, &record{seq: rev, value: []byte(text)}) }
	told(5, `{"owner":"new","claim":3,"next":30}`+"\nnote")
	told(4, `{"owner":"old","claim":2,"next":20}`)
	if r := g.row(0); r.Owner != "new" || r.Claim != 3 || r.Next != 30 || r.note != "note" || r.rev != 5 {
		t.Errorf("the row is %+v", r)
	}
	told(6, "not a row")
	if r := g.row(0); r.Owner != "" || r.Claim != 3 || r.rev != 6 {
		t.Errorf("the row that somebody has spoiled is %+v", r)
	}
}

// TestReplicasAreNotTrusted has a stream of which any replica answers.
func TestReplicasAreNotTrusted(t *testing.T) {
	t.Parallel()
	info := &jetstream.StreamInfo{Config: jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: 3}}
	if x := newTopic(&log{conn: &conn{}}, info); !x.leading.Load() {
		t.Error("any replica of a stream is taken to have everything")
	}
}

// TestIdlePartitionsCostNothing has a member wait for a thousand partitions, of
// which records come in one.
func TestIdlePartitionsCostNothing(t *testing.T) {
	t.Parallel()
	x := openTopic(t, driver.Config{URL: servers.NATS(t).URL}, driver.TopicSpec{Name: "t", Partitions: driver.MaxPartitions})
	m, err := x.Join(t.Context(), driver.JoinRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close(context.Background()) }()
	sent := func() uint64 { return x.link.session.Load().nc.Stats().OutMsgs }
	events, results := make([]driver.LogEvent, driver.MaxPartitions), make([]driver.AppendResult, 1)
	takes := func(until driver.LogEventKind) {
		for {
			n, err := m.Next(t.Context(), events)
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(events[:n], func(e driver.LogEvent) bool { return e.Kind == until }) {
				return
			}
		}
	}
	takes(driver.Gained)
	for live := false; !live; time.Sleep(time.Millisecond) {
		x.tail.mu.Lock()
		live = x.tail.live
		x.tail.mu.Unlock()
	}
	adds := func() {
		x.Append(t.Context(), []driver.Record{{Partition: 7, Value: []byte("v")}}, results)
		if results[0].Err != nil {
			t.Fatal(results[0].Err)
		}
		takes(driver.Arrived)
	}
	adds()
	adds() // by now the member has looked at all partitions since the tail is live
	before := sent()
	const records = 100
	for range records {
		adds()
	}
	if n := sent() - before; n > 6*records {
		t.Errorf("%d messages were sent to append and read %d records of one partition of %d", n, records, driver.MaxPartitions)
	}
}

// TestSightsOfMembers has a member beat while others look seldom.
func TestSightsOfMembers(t *testing.T) {
	t.Parallel()
	g := newGroup(&topic{log: &log{conn: &conn{}}, subjects: []string{"s"}}, "g")
	alive := func(rev uint64) bool { return len(g.sighted(map[string]uint64{"m": rev})) == 1 }
	grow := func() {
		g.members["m"] = sight{g.members["m"].rev, g.members["m"].since.Add(-groups.TTL)}
	}
	if !alive(1) {
		t.Error("one that is seen for the first time is dead")
	}
	grow()
	if alive(1) {
		t.Error("one that is silent for so long is alive")
	}
	if !alive(2) {
		t.Error("one that beats again is dead")
	}
	grow()
	if alive(1) {
		t.Error("an old beat, told by a replica, is a new one")
	}
	if g.sighted(nil); len(g.members) != 0 {
		t.Error("one that has left is remembered")
	}
}
