package nats_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/drivertest"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// foreignTopic makes a stream as a program does that has partitions like
// Prism's.
func foreignTopic(tb testing.TB, c driver.Config, partitions int) drivertest.ForeignTopic {
	tb.Helper()
	js, err := jetstream.New(connect(tb, c.URL))
	must(tb, err)
	name := "F" + strconv.FormatInt(time.Now().UnixNano(), 36)
	s := streamOf(tb, js, jetstream.StreamConfig{
		Name: name, Subjects: []string{"foreign." + name + ".*"}, AllowDirect: true,
		Metadata: map[string]string{"prism-partitions": strconv.Itoa(partitions)},
	})
	return drivertest.ForeignTopic{
		Physical: name,
		Append: func(records ...driver.Record) {
			for _, r := range records {
				publish(tb, js, &nats.Msg{Subject: fmt.Sprint("foreign.", name, ".", r.Partition), Data: r.Value})
			}
		},
		Delete: func() { must(tb, js.DeleteStream(tb.Context(), s.CachedInfo().Config.Name)) },
	}
}

func streamOf(tb testing.TB, js jetstream.JetStream, c jetstream.StreamConfig) jetstream.Stream {
	tb.Helper()
	s, err := js.CreateStream(tb.Context(), c)
	must(tb, err)
	return s
}

func publish(tb testing.TB, js jetstream.JetStream, m *nats.Msg) uint64 {
	tb.Helper()
	ack, err := js.PublishMsg(tb.Context(), m)
	must(tb, err)
	return ack.Sequence
}

// js starts a server and returns it with a client of another program.
func startJS(tb testing.TB) (*servers.Server, jetstream.JetStream) {
	tb.Helper()
	s := servers.NATS(tb)
	js, err := jetstream.New(connect(tb, s.URL))
	must(tb, err)
	return s, js
}

// adopt returns a stream of others as a topic.
func adopt(tb testing.TB, url, stream string) driver.Topic {
	tb.Helper()
	return topicOf(tb, open(tb, driver.Config{URL: url}), driver.TopicSpec{Name: "adopted-" + stream, Physical: stream})
}

// readAll reads a partition to its end.
func readAll(tb testing.TB, topic driver.Topic, partition int) (all []driver.Stored) {
	tb.Helper()
	for from := driver.Position(1); ; {
		found, err := topic.Read(tb.Context(), driver.ReadRequest{Partition: partition, From: from, Limit: 100})
		must(tb, err)
		if len(found.Records) == 0 {
			return all
		}
		all, from = append(all, found.Records...), found.Next
	}
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

func joins(tb testing.TB, topic driver.Topic, r driver.JoinRequest) driver.Member {
	tb.Helper()
	m, err := topic.Join(tb.Context(), r)
	must(tb, err)
	tb.Cleanup(func() { must(tb, m.Close(context.Background())) })
	return m
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

// TestAdoptedStream uses a stream of a program that knows nothing of Prism: all
// its subjects are one partition, and headers come as they are.
func TestAdoptedStream(t *testing.T) {
	t.Parallel()
	s, js := startJS(t)
	stream := streamOf(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"shop.>", "till.*"}, AllowDirect: true})
	messages := []*nats.Msg{
		{Subject: "shop.eu.1", Data: []byte("plain")},
		{Subject: "till.7", Data: []byte{0, 0xff}, Header: nats.Header{"X_y": {"é", "", "b:c"}, "Status": {"503"}, "prism-envelope": {"not one"}}},
		{Subject: "shop.us", Header: nats.Header{"Nats-Msg-Id": {"one of theirs"}, "Nats-Sequence": {"9"}, "Status": {"204"}, "Prism-Key": {"100%"}}},
	}
	for _, m := range messages {
		publish(t, js, m)
	}
	topic := adopt(t, s.URL, "ORDERS")
	if n := topic.Partitions(); n != 1 {
		t.Fatalf("%d partitions", n)
	}
	ours := driver.Record{ID: "ours", Key: []byte(" k\x00\n"), Headers: []driver.Header{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}}, Value: []byte("v")}
	appendAll(t, topic, ours)
	want := []driver.Record{
		{Value: []byte("plain")},
		{Value: []byte{0, 0xff}, Headers: []driver.Header{{Name: "Status", Value: "503"}, {Name: "X_y", Value: "é"}, {Name: "X_y"}, {Name: "X_y", Value: "b:c"}, {Name: "prism-envelope", Value: "not one"}}},
		{ID: "one of theirs", Key: []byte("100%"), Headers: []driver.Header{{Name: "Nats-Sequence", Value: "9"}, {Name: "Status", Value: "204"}}},
		ours,
	}
	var came []driver.Stored
	for _, e := range arrivals(t, joins(t, topic, driver.JoinRequest{Group: "g"}), len(want)) {
		came = append(came, e.Stored)
	}
	for how, found := range map[string][]driver.Stored{"read": readAll(t, topic, 0), "consumed": came} {
		if len(found) != len(want) {
			t.Fatalf("%s: %d records, want %d", how, len(found), len(want))
		}
		for i, got := range found {
			slices.SortStableFunc(got.Headers, func(a, b driver.Header) int { return cmp.Compare(a.Name, b.Name) })
			if w := want[i]; got.Position != driver.Position(i+1) || got.ID != w.ID || string(got.Key) != string(w.Key) || !slices.Equal(got.Headers, w.Headers) || string(got.Value) != string(w.Value) {
				t.Errorf("%s: %+v, want %+v", how, got, w)
			}
		}
	}
	m, err := stream.GetMsg(t.Context(), 4)
	must(t, err)
	if m.Subject != "shop.prism" || m.Header.Get("Nats-Msg-Id") != "ours" || m.Header["Prism-Key"][0] != "%20k%00%0A" || !slices.Equal(m.Header["a"], []string{"1", "2"}) || string(m.Data) != "v" {
		t.Errorf("another program reads %+v", m)
	}
}

// TestMessageWithBrokenHeaders has one that the client library cannot read in
// the way of readers.
func TestMessageWithBrokenHeaders(t *testing.T) {
	t.Parallel()
	s, js := startJS(t)
	streamOf(t, js, jetstream.StreamConfig{Name: "RAW", Subjects: []string{"raw"}, AllowDirect: true})
	topic := adopt(t, s.URL, "RAW")
	publish(t, js, &nats.Msg{Subject: "raw", Data: []byte("before")})
	c, err := net.Dial("tcp", s.Addr)
	must(t, err)
	defer func() { _ = c.Close() }()
	header := "NATS/1.0\r\nno header at all\r\nA: b\r\n\r\n"
	_, err = fmt.Fprintf(c, "CONNECT {\"headers\":true,\"verbose\":false}\r\nHPUB raw %d %d\r\n%sbroken\r\nPING\r\n", len(header), len(header)+6, header)
	must(t, err)
	r := bufio.NewReader(c)
	for line := ""; line != "PONG\r\n"; {
		line, err = r.ReadString('\n')
		must(t, err)
	}
	publish(t, js, &nats.Msg{Subject: "raw", Data: []byte("after")})
	found := readAll(t, topic, 0)
	if len(found) != 3 || string(found[1].Value) != "broken" || !slices.Equal(found[1].Headers, []driver.Header{{Name: "A", Value: "b"}}) || string(found[2].Value) != "after" {
		t.Errorf("read: %+v", found)
	}
	if came := arrivals(t, joins(t, topic, driver.JoinRequest{}), 3); string(came[1].Stored.Value) != "broken" || string(came[2].Stored.Value) != "after" {
		t.Errorf("consumed: %+v", came)
	}
}

// TestStreamsThatAreNoTopics are those with which promises would break.
func TestStreamsThatAreNoTopics(t *testing.T) {
	t.Parallel()
	s, js := startJS(t)
	b, err := open(t, driver.Config{URL: s.URL}).Space(orders)
	must(t, err)
	for name, c := range map[string]jetstream.StreamConfig{
		"in memory":      {AllowDirect: true, Storage: jetstream.MemoryStorage},
		"not direct":     {},
		"by number":      {AllowDirect: true, MaxMsgs: 10},
		"by subject":     {AllowDirect: true, MaxMsgsPerSubject: 10},
		"unacknowledged": {AllowDirect: true, NoAck: true},
		"work queue":     {AllowDirect: true, Retention: jetstream.WorkQueuePolicy},
		"old ones go":    {AllowDirect: true, MaxAge: time.Hour, Duplicates: time.Minute},
	} {
		c.Name = fmt.Sprintf("S%x", name)
		c.Subjects = []string{c.Name}
		streamOf(t, js, c)
		_, err := b.Log.Topic(t.Context(), driver.TopicSpec{Name: "t", Physical: c.Name})
		wants(t, name, err, errs.InvalidConfiguration)
	}
	_, err = b.Log.Topic(t.Context(), driver.TopicSpec{Name: "t", MaxAge: time.Minute, Dedup: time.Hour})
	wants(t, "ids remembered for longer than records", err, errs.InvalidConfiguration)
	for _, name := range []string{"KV.x", "a b", "a>", "ümlaut", ""} {
		if name != "" {
			_, err = b.Log.Topic(t.Context(), driver.TopicSpec{Name: "t", Physical: name})
			wants(t, name, err, errs.TopicNotFound)
		}
	}
}

// TestStreamFilledFromOthers can be read, and not be appended to.
func TestStreamFilledFromOthers(t *testing.T) {
	t.Parallel()
	s, js := startJS(t)
	streamOf(t, js, jetstream.StreamConfig{Name: "FROM", Subjects: []string{"from"}, AllowDirect: true})
	streamOf(t, js, jetstream.StreamConfig{Name: "TO", Mirror: &jetstream.StreamSource{Name: "FROM"}, AllowDirect: true})
	publish(t, js, &nats.Msg{Subject: "from", Data: []byte("v")})
	topic := adopt(t, s.URL, "TO")
	await(t, "the record", func() bool { return len(readAll(t, topic, 0)) == 1 })
	results := make([]driver.AppendResult, 1)
	topic.Append(t.Context(), []driver.Record{{Value: []byte("v")}}, results)
	wants(t, "append", results[0].Err, errs.ReadOnly)
}

// TestMirrorThatAnswers has a mirror of a topic's stream answer its readers: it
// is behind now and then.
func TestMirrorThatAnswers(t *testing.T) {
	t.Parallel()
	s, js := startJS(t)
	topic := topicOf(t, open(t, driver.Config{URL: s.URL}), driver.TopicSpec{Name: "t", Partitions: 1})
	streamOf(t, js, jetstream.StreamConfig{Name: "MIRROR", Mirror: &jetstream.StreamSource{Name: "orders_t"}, AllowDirect: true, MirrorDirect: true})
	appendAll(t, topic, driver.Record{Value: []byte("first")})
	await(t, "the mirror to answer", func() bool {
		m, err := connect(t, s.URL).Request("$JS.API.DIRECT.GET.orders_t", []byte(`{"seq":1}`), time.Second)
		return err == nil && m.Header.Get("Nats-Stream") == "MIRROR"
	})
	for i := range 500 {
		at := appendAll(t, topic, driver.Record{Value: strconv.AppendInt(nil, int64(i), 10)})[0].Position
		found, err := topic.Read(t.Context(), driver.ReadRequest{From: at, Limit: 1})
		must(t, err)
		if i > 20 && len(found.Records) == 0 {
			t.Fatalf("the record at %d is not there after its append", at)
		}
	}
}
