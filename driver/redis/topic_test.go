package redis_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// patience is how long a test waits for what has to happen.
const patience = time.Minute

// startLog starts a server with a connection to it and another program's
// client.
func startLog(tb testing.TB) (driver.Conn, *goredis.Client) {
	tb.Helper()
	s := servers.RedisWith(tb)
	return open(tb, driver.Config{URL: s.URL}), plain(tb, s.Addr)
}

func appendAll(tb testing.TB, topic driver.Topic, records ...driver.Record) []driver.AppendResult {
	tb.Helper()
	results := make([]driver.AppendResult, len(records))
	topic.Append(tb.Context(), records, results)
	for _, r := range results {
		must(tb, r.Err)
	}
	return results
}

// readAll reads a partition to its end.
func readAll(tb testing.TB, topic driver.Topic, partition int) (all []driver.Stored) {
	tb.Helper()
	for from := driver.Position(1); ; {
		found, err := topic.Read(tb.Context(), driver.ReadRequest{Partition: partition, From: from, Limit: 1000})
		must(tb, err)
		if len(found.Records) == 0 {
			return all
		}
		all, from = append(all, found.Records...), found.Next
	}
}

func valuesOf(all []driver.Stored) (values []string) {
	for _, s := range all {
		values = append(values, string(s.Value))
	}
	return values
}

// arrivals takes events of a member until n records have come.
func arrivals(tb testing.TB, m driver.Member, n int) (came []driver.LogEvent) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	for len(came) < n {
		events := make([]driver.LogEvent, 16)
		k, err := m.Next(ctx, events)
		if err != nil {
			tb.Fatalf("%d of %d records came: %v", len(came), n, err)
		}
		for _, e := range events[:k] {
			if e.Kind == driver.Arrived {
				came = append(came, e)
			}
		}
	}
	return came
}

// gains takes events of a member until it has a partition.
func gains(tb testing.TB, m driver.Member) driver.LogEvent {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	for {
		events := make([]driver.LogEvent, 1)
		if _, err := m.Next(ctx, events); err != nil {
			tb.Fatal(err)
		}
		if events[0].Kind == driver.Gained {
			return events[0]
		}
	}
}

func joins(tb testing.TB, topic driver.Topic, r driver.JoinRequest) driver.Member {
	tb.Helper()
	m, err := topic.Join(tb.Context(), r)
	must(tb, err)
	tb.Cleanup(func() { must(tb, m.Close(context.Background())) })
	return m
}

func commits(tb testing.TB, m driver.Member, c driver.Commit) {
	tb.Helper()
	results := make([]error, 1)
	m.Commit(tb.Context(), []driver.Commit{c}, results)
	must(tb, results[0])
}

// TestTopicBesideOtherPrograms reads with another program what Prism has
// appended and committed, and the other way round.
func TestTopicBesideOtherPrograms(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	ctx := t.Context()
	topic := topicOf(t, conn, driver.TopicSpec{Name: "order.placed", Partitions: 4, Dedup: time.Minute, MaxAge: time.Hour})
	first := appendAll(t, topic, driver.Record{Partition: 3, ID: "id-1", Key: []byte("k 1"), Headers: []driver.Header{{Name: "type", Value: "x"}}, Value: []byte("ours")})[0]
	const stream = "{orders.order.placed.3}"
	said, err := other.XRange(ctx, stream, "-", "+").Result()
	must(t, err)
	if want := map[string]any{"value": "ours", "key": "k 1", "id": "id-1", "h:type": "x"}; len(said) != 1 || fmt.Sprint(said[0].Values) != fmt.Sprint(want) {
		t.Fatalf("another program reads %v", said)
	}
	ms, _, _ := strings.Cut(said[0].ID, "-")
	if n, err := strconv.ParseInt(ms, 10, 64); err != nil || int64(first.Position>>20) != n {
		t.Errorf("position %d of entry %s", first.Position, said[0].ID)
	}
	kept, err := other.HGetAll(ctx, "prism!log:{orders.order.placed}").Result()
	must(t, err)
	if kept["partitions"] != "4" || kept["max_age"] != "1h0m0s" || kept["dedup"] != "1m0s" {
		t.Errorf("of the topic is kept %v", kept)
	}
	must(t, other.XAdd(ctx, &goredis.XAddArgs{Stream: stream, Values: []any{"value", "theirs", "key", "k\x00", "h:type", "y"}}).Err())
	m := joins(t, topic, driver.JoinRequest{Group: "billing", Name: "proxy-1"})
	came := arrivals(t, m, 2)
	if r := came[1].Stored; string(r.Value) != "theirs" || string(r.Key) != "k\x00" || !slices.Equal(r.Headers, []driver.Header{{Name: "type", Value: "y"}}) {
		t.Errorf("another program's record is %+v", r)
	}
	info, err := other.XInfoStream(ctx, stream).Result()
	must(t, err)
	if info.Length != 2 || info.EntriesAdded != 2 {
		t.Errorf("another program is told %+v", info)
	}
	rows := other.HGetAll(ctx, "prism!log:{orders.order.placed}:group:billing").Val()
	if row := strings.Fields(rows["3"]); len(row) != 4 || row[0] != "1" || !strings.HasSuffix(rows["m:"+row[3]], " proxy-1") {
		t.Errorf("the group is kept as %v", rows)
	}
}

// TestAppendsOfOthersComeSoon has another program append where Prism is told of
// nothing.
func TestAppendsOfOthersComeSoon(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	must(t, other.XGroupCreateMkStream(t.Context(), "theirs", "g", "$").Err())
	for stream, spec := range map[string]driver.TopicSpec{"{orders.own.0}": {Name: "own", Partitions: 1}, "theirs": {Name: "t", Physical: "theirs"}} {
		m := joins(t, topicOf(t, conn, spec), driver.JoinRequest{Group: "g"})
		gains(t, m)
		for range 3 {
			must(t, other.XAdd(t.Context(), &goredis.XAddArgs{Stream: stream, Values: []any{"value", "v"}}).Err())
			arrivals(t, m, 1)
		}
	}
}

// TestAdoptedStream uses a stream of a program that knows nothing of Prism.
func TestAdoptedStream(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	ctx := t.Context()
	for _, entry := range []goredis.XAddArgs{
		{ID: "5-0", Values: []any{"payload", "\x00\xff"}},
		{ID: "5-1", Values: []any{"type", "order", "amount", "7"}},
		{ID: "7-0", Values: []any{"value", "v", "value", "again", "id", "no id"}},
	} {
		entry.Stream = "shop"
		must(t, other.XAdd(ctx, &entry).Err())
	}
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Physical: "shop"})
	appendAll(t, topic, driver.Record{ID: "ours", Value: []byte("ours")})
	want := []driver.Record{
		{Value: []byte("\x00\xff")},
		{Headers: []driver.Header{{Name: "type", Value: "order"}, {Name: "amount", Value: "7"}}},
		{Value: []byte("v"), Headers: []driver.Header{{Name: "value", Value: "again"}, {Name: "id", Value: "no id"}}},
		{ID: "ours", Value: []byte("ours")},
	}
	m := joins(t, topic, driver.JoinRequest{Group: "g"})
	var came []driver.Stored
	for _, e := range arrivals(t, m, len(want)) {
		came = append(came, e.Stored)
	}
	for how, found := range map[string][]driver.Stored{"read": readAll(t, topic, 0), "consumed": came} {
		for i, w := range want {
			if got := found[i]; got.ID != w.ID || !slices.Equal(got.Headers, w.Headers) || string(got.Value) != string(w.Value) {
				t.Errorf("%s: %+v, want %+v", how, got, w)
			}
		}
	}
	if at := came[1].Position; at != 5<<20|1 {
		t.Errorf("entry 5-1 has the position %d", at)
	}
	must(t, other.XTrimMaxLen(ctx, "shop", 0).Err())
	reader := joins(t, topic, driver.JoinRequest{At: []driver.Target{{Next: 1}}})
	appendAll(t, topic, driver.Record{Value: []byte("after")})
	if e := arrivals(t, reader, 1)[0]; e.Skipped != driver.SkippedUnknown || string(e.Stored.Value) != "after" {
		t.Errorf("after entries were removed came %+v", e)
	}
	if kept := other.HGetAll(ctx, "prism!log:{orders=shop}").Val(); kept["physical"] != "shop" {
		t.Errorf("of the topic is kept %v", kept)
	}
}

// TestStreamsThatAreNoTopics are those that cannot be read by position, and
// what is no stream.
func TestStreamsThatAreNoTopics(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	ctx := t.Context()
	b, err := conn.Space(orders)
	must(t, err)
	must(t, other.Set(ctx, "text", "x", 0).Err())
	_, err = b.Log.Topic(ctx, driver.TopicSpec{Name: "t", Physical: "text"})
	wants(t, "a string", err, errs.InvalidConfiguration)
	_, err = b.Log.Topic(ctx, driver.TopicSpec{Name: "t", Physical: "absent.*"})
	wants(t, "no stream", err, errs.TopicNotFound)
	for i, id := range []string{"9223372036854775807-1", "5-1048576", "18446744073709551615-0"} {
		stream := fmt.Sprint("odd", i)
		must(t, other.XAdd(ctx, &goredis.XAddArgs{Stream: stream, ID: id, Values: []any{"a", "b"}}).Err())
		topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Physical: stream})
		_, err = topic.Read(ctx, driver.ReadRequest{From: 1, Limit: 1})
		wants(t, "read "+id, err, errs.Unsupported)
		_, err = topic.Join(ctx, driver.JoinRequest{Group: "g"})
		wants(t, "join "+id, err, errs.Unsupported)
	}
}

// TestClockGoesBack has the ids of a stream be an hour ahead of the server's
// clock, with all numbers of their millisecond used: positions go on.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 1})
	ahead := time.Now().Add(time.Hour).UnixMilli()
	id := fmt.Sprintf("%d-%d", ahead, 1<<20-2)
	must(t, other.XAdd(t.Context(), &goredis.XAddArgs{Stream: "{orders.t.0}", ID: id, Values: []any{"value", "ahead"}}).Err())
	last := driver.Position(ahead<<20 | (1<<20 - 2))
	want := []string{"ahead"}
	for i := range 5 {
		text := strconv.Itoa(i)
		want = append(want, text)
		at := appendAll(t, topic, driver.Record{Value: []byte(text)})[0].Position
		if at <= last {
			t.Fatalf("position %d after %d", at, last)
		}
		last = at
	}
	if got := valuesOf(readAll(t, topic, 0)); !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
	for i, e := range arrivals(t, joins(t, topic, driver.JoinRequest{Group: "g"}), len(want)) {
		if string(e.Stored.Value) != want[i] || e.Skipped != 0 {
			t.Errorf("came %+v, want %s", e, want[i])
		}
	}
}

// TestLogScriptsAreSentAgain lets the server forget its scripts again and again.
func TestLogScriptsAreSentAgain(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	forget := func() { must(t, other.ScriptFlush(t.Context()).Err()) }
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 3, Dedup: time.Minute})
	m := joins(t, topic, driver.JoinRequest{Group: "g"})
	for i := range 20 {
		forget()
		text := strconv.Itoa(i)
		appendAll(t, topic, driver.Record{ID: text, Value: []byte(text)}, driver.Record{Partition: 1, Value: []byte(text)}, driver.Record{Value: []byte(text + "b")})
		forget()
		_, err := topic.Stat(t.Context(), "g")
		must(t, err)
	}
	arrivals(t, m, 60)
	if got := len(readAll(t, topic, 0)); got != 40 {
		t.Errorf("%d records", got)
	}
}

// TestGroupDeletedByOthers ends its members.
func TestGroupDeletedByOthers(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 1})
	m := joins(t, topic, driver.JoinRequest{Group: "g"})
	claim := gains(t, m).Claim
	must(t, other.Del(t.Context(), "prism!log:{orders.t}:group:g").Err())
	results := make([]error, 1)
	m.Commit(t.Context(), []driver.Commit{{Claim: claim, Checkpoint: driver.Checkpoint{Next: 5}}}, results)
	wants(t, "commit", results[0], errs.GroupNotFound)
	_, err := m.Next(t.Context(), make([]driver.LogEvent, 1))
	wants(t, "next", err, errs.GroupNotFound)
	if s, err := topic.Stat(t.Context(), "g"); err != nil || s[0].Known {
		t.Errorf("stat: %+v, %v", s, err)
	}
}

// TestTopicDeletedByOthers has its streams and what is known of it deleted, and
// makes it anew.
func TestTopicDeletedByOthers(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	ctx := t.Context()
	spec := driver.TopicSpec{Name: "t", Partitions: 2}
	topic := topicOf(t, conn, spec)
	before := appendAll(t, topic, driver.Record{Value: []byte("old")})[0].Position
	m, err := topic.Join(ctx, driver.JoinRequest{Group: "g"})
	must(t, err)
	arrivals(t, m, 1)
	must(t, other.Del(ctx, other.Keys(ctx, "*").Val()...).Err())
	results := make([]driver.AppendResult, 2)
	topic.Append(ctx, []driver.Record{{}, {Partition: 1}}, results)
	wants(t, "append", results[0].Err, errs.TopicNotFound)
	wants(t, "append", results[1].Err, errs.TopicNotFound)
	for err = nil; err == nil; {
		_, err = m.Next(ctx, make([]driver.LogEvent, 4))
	}
	wants(t, "next", err, errs.TopicNotFound)
	must(t, m.Close(ctx))
	again := topicOf(t, conn, spec)
	if at := appendAll(t, again, driver.Record{Value: []byte("new")})[0].Position; at <= before {
		t.Errorf("position %d after %d", at, before)
	}
	if got := valuesOf(readAll(t, again, 0)); !slices.Equal(got, []string{"new"}) {
		t.Errorf("read %q", got)
	}
}

// TestLogLeavesNothing looks at what is left in memory when records and ids are
// gone.
func TestLogLeavesNothing(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	ctx := t.Context()
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 2, MaxAge: time.Second, MaxBytes: 64 << 20, Dedup: time.Second})
	keys, memory := other.DBSize(ctx).Val(), other.MemoryUsage(ctx, "{orders.t.0}").Val()
	for i := range 40 {
		records := make([]driver.Record, 50)
		for j := range records {
			records[j] = driver.Record{Partition: j % 2, ID: fmt.Sprint(i, ".", j), Value: make([]byte, 1000)}
		}
		appendAll(t, topic, records...)
	}
	if n := other.DBSize(ctx).Val(); n < keys+2000 {
		t.Fatalf("%d keys with 2000 ids", n)
	}
	await(t, "records and ids go", func() bool {
		return other.XLen(ctx, "{orders.t.0}").Val()+other.XLen(ctx, "{orders.t.1}").Val() == 0 && other.DBSize(ctx).Val() <= keys+2*2+1
	})
	if left := other.MemoryUsage(ctx, "{orders.t.0}").Val(); left > 2*memory {
		t.Errorf("an emptied stream takes %d bytes, it took %d", left, memory)
	}
	if n, err := other.Get(ctx, "prism!bytes:{orders.t.0}").Int(); !errors.Is(err, goredis.Nil) {
		t.Errorf("%d bytes of no records (%v)", n, err)
	}
}

// TestOldestGoFirst fills three partitions one after the other beyond what the
// topic keeps, with two connections that sweep.
func TestOldestGoFirst(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t)
	const most = 100 << 10
	spec := driver.TopicSpec{Name: "t", Partitions: 3, MaxBytes: most}
	topic := topicOf(t, open(t, driver.Config{URL: s.URL}), spec)
	topicOf(t, open(t, driver.Config{URL: s.URL}), spec)
	for p := range 3 {
		for range 8 {
			appendAll(t, topic, driver.Record{Partition: p, Value: make([]byte, 10<<10)})
		}
		if p < 2 {
			begin := time.Now()
			await(t, "the next partition is younger", func() bool { return time.Since(begin) > 1100*time.Millisecond })
		}
	}
	count := func(p int) int { return len(readAll(t, topic, p)) }
	await(t, "the oldest go", func() bool { return count(0)+count(1)+count(2) <= 9 })
	if a, b, c := count(0), count(1), count(2); a != 0 || b != 1 || c != 8 {
		t.Errorf("%d, %d and %d records are left", a, b, c)
	}
}

// TestTopicMadeAnewKeepsItsRecords has a topic be deleted and made again to keep
// everything, while a connection still knows the old one.
func TestTopicMadeAnewKeepsItsRecords(t *testing.T) {
	t.Parallel()
	s := servers.RedisWith(t)
	other := plain(t, s.Addr)
	conn := open(t, driver.Config{URL: s.URL})
	old := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 1, MaxAge: time.Second})
	sweep := func(topic driver.Topic) {
		appendAll(t, topic, driver.Record{Value: []byte("old")})
		await(t, "an old record goes", func() bool { return len(readAll(t, topic, 0)) == 0 })
	}
	sweep(old)
	must(t, other.Del(t.Context(), other.Keys(t.Context(), "*").Val()...).Err())
	topic := topicOf(t, open(t, driver.Config{URL: s.URL}), driver.TopicSpec{Name: "t", Partitions: 1})
	appendAll(t, topic, driver.Record{Value: []byte("new")})
	clock := topicOf(t, conn, driver.TopicSpec{Name: "clock", Partitions: 1, MaxAge: time.Second})
	for range 2 {
		sweep(clock)
	}
	if n := len(readAll(t, topic, 0)); n != 1 {
		t.Errorf("%d records are left", n)
	}
}

// awaitPass waits until a pass over the topic t begins.
func awaitPass(tb testing.TB, other *goredis.Client) {
	tb.Helper()
	const swept = "prism!log:{orders.t}:swept"
	must(tb, other.Del(tb.Context(), swept).Err())
	await(tb, "a pass", func() bool { return other.Exists(tb.Context(), swept).Val() == 1 })
}

// TestForeignEntriesCount has another program fill a topic that Prism keeps
// small, and empty one that Prism has filled.
func TestForeignEntriesCount(t *testing.T) {
	t.Parallel()
	conn, other := startLog(t)
	ctx := t.Context()
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 1, MaxBytes: 1 << 20})
	for range 100 {
		must(t, other.XAdd(ctx, &goredis.XAddArgs{Stream: "{orders.t.0}", Values: []any{"value", make([]byte, 50<<10)}}).Err())
	}
	await(t, "what is too much goes", func() bool { return other.XLen(ctx, "{orders.t.0}").Val() <= 42 })
	for range 15 {
		appendAll(t, topic, driver.Record{Value: make([]byte, 50<<10)})
	}
	must(t, other.XTrimMaxLen(ctx, "{orders.t.0}", 0).Err())
	last := appendAll(t, topic, driver.Record{Value: make([]byte, 50<<10)})[0].Position
	for range 2 { // the first one has ended when the second one begins
		awaitPass(t, other)
	}
	if all := readAll(t, topic, 0); len(all) != 1 || all[0].Position != last {
		t.Errorf("%d records are left", len(all))
	}
}

// TestAdoptedKeysHideTopics has a layout that covers all keys.
func TestAdoptedKeysHideTopics(t *testing.T) {
	t.Parallel()
	conn, _ := startLog(t)
	topic := topicOf(t, conn, driver.TopicSpec{Name: "t", Partitions: 1, Dedup: time.Minute, MaxBytes: 1 << 20})
	appendAll(t, topic, driver.Record{ID: "a"})
	b, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p", Layout: json.RawMessage(`{"keys": "{key}"}`)})
	must(t, err)
	if items := scanAll(t, b.KV, driver.ScanRequest{Limit: 10}); len(items) != 0 {
		t.Errorf("a scan finds %+v", items)
	}
	_, err = b.KV.Get(t.Context(), "prism!id:{orders.t.0}:a", driver.ValueOnly)
	wants(t, "get of what is Prism's", err, errs.KeyNotFound)
}
