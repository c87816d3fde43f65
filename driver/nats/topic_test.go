package nats_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// TestTopicBesideOtherPrograms reads with another program what Prism has
// appended and committed, and the other way round.
func TestTopicBesideOtherPrograms(t *testing.T) {
	t.Parallel()
	s, js := startJS(t)
	topic := topicOf(t, open(t, driver.Config{URL: s.URL}), driver.TopicSpec{Name: "order.placed", Partitions: 4, Dedup: time.Minute})
	appendAll(t, topic, driver.Record{Partition: 3, ID: "id-1", Key: []byte("k 1"), Headers: []driver.Header{{Name: "type", Value: "x"}}, Value: []byte("ours")})
	stream, err := js.Stream(t.Context(), "orders_order=2Eplaced")
	must(t, err)
	m, err := stream.GetLastMsgForSubject(t.Context(), "orders.order.placed.3")
	must(t, err)
	if m.Header.Get("Nats-Msg-Id") != "id-1" || m.Header.Get("Prism-Key") != "k 1" || m.Header.Get("type") != "x" || string(m.Data) != "ours" {
		t.Errorf("another program reads %+v", m)
	}
	theirs := &nats.Msg{Subject: "orders.order.placed.3", Header: nats.Header{"Nats-Msg-Id": {"id-2"}, "Prism-Key": {"%00"}}, Data: []byte("theirs")}
	publish(t, js, theirs)
	publish(t, js, &nats.Msg{Subject: "orders.order.placed.4", Data: []byte("of no partition")})
	publish(t, js, &nats.Msg{Subject: "orders.order.placed.03", Data: []byte("of no partition")})
	if r := appendAll(t, topic, driver.Record{Partition: 3, ID: "id-2"})[0]; !r.Duplicate || r.Position != 2 {
		t.Errorf("a duplicate of another program's message: %+v", r)
	}
	group := joins(t, topic, driver.JoinRequest{Group: "billing", Name: "proxy-1"})
	came := arrivals(t, group, 2)
	if r := came[1].Stored; string(r.Value) != "theirs" || string(r.Key) != "\x00" || r.ID != "id-2" {
		t.Errorf("another program's record is %+v", r)
	}
	kv, err := js.KeyValue(t.Context(), "prism-groups-orders")
	must(t, err)
	keys, err := kv.Keys(t.Context())
	must(t, err)
	if !slices.ContainsFunc(keys, func(key string) bool {
		e, err := kv.Get(t.Context(), key)
		return err == nil && key[len(key)-2:] == ".3" && string(e.Value()[:8]) == `{"owner"`
	}) {
		t.Errorf("the bucket has no row of partition 3: %v", keys)
	}
}

// TestTopicMadeAnew deletes a stream in use and makes the topic again: groups
// begin anew with it.
func TestTopicMadeAnew(t *testing.T) {
	t.Parallel()
	s, js := startJS(t)
	conn := open(t, driver.Config{URL: s.URL})
	spec := driver.TopicSpec{Name: "t", Partitions: 2}
	topic := topicOf(t, conn, spec)
	for range 5 {
		appendAll(t, topic, driver.Record{Value: []byte("old")})
	}
	m, err := topic.Join(t.Context(), driver.JoinRequest{Group: "g", Start: driver.Start{From: driver.StartLatest}})
	must(t, err)
	must(t, js.DeleteStream(t.Context(), "orders_t"))
	again := topicOf(t, conn, spec)
	appendAll(t, again, driver.Record{Value: []byte("new")})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for err = nil; err == nil; {
		_, err = m.Next(ctx, make([]driver.LogEvent, 4))
	}
	if !errors.Is(err, errs.TopicNotFound) {
		t.Errorf("a member of the deleted topic: %v", err)
	}
	must(t, m.Close(t.Context()))
	_, err = topic.Stat(t.Context(), "")
	wants(t, "stat of the deleted topic", err, errs.TopicNotFound)
	stats, err := again.Stat(t.Context(), "g")
	must(t, err)
	if stats[0].Known {
		t.Errorf("the group of the deleted topic is known: %+v", stats[0])
	}
	if came := arrivals(t, joins(t, again, driver.JoinRequest{Group: "g"}), 1); string(came[0].Stored.Value) != "new" {
		t.Errorf("came %+v", came)
	}
}

// TestTailWithoutConsumer deletes the consumer that tells a member of new
// messages behind its back.
func TestTailWithoutConsumer(t *testing.T) {
	t.Parallel()
	s, js := startJS(t)
	topic := topicOf(t, open(t, driver.Config{URL: s.URL}), driver.TopicSpec{Name: "t", Partitions: 2})
	m := joins(t, topic, driver.JoinRequest{})
	appendAll(t, topic, driver.Record{Value: []byte("told")})
	arrivals(t, m, 1)
	stream, err := js.Stream(t.Context(), "orders_t")
	must(t, err)
	await(t, "a consumer", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Consumers == 1
	})
	for range 2 {
		for name := range stream.ConsumerNames(t.Context()).Name() {
			must(t, stream.DeleteConsumer(t.Context(), name))
		}
		appendAll(t, topic, driver.Record{Partition: 1, Value: []byte("untold")})
		arrivals(t, m, 1)
	}
	must(t, m.Close(t.Context()))
}

// TestOthersRecordsAreNotSkipped has retention delete records of one partition
// while another one is empty: to its reader nothing was skipped.
func TestOthersRecordsAreNotSkipped(t *testing.T) {
	t.Parallel()
	s, js := startJS(t)
	topic := topicOf(t, open(t, driver.Config{URL: s.URL}), driver.TopicSpec{Name: "t", Partitions: 2, MaxBytes: 64 << 10})
	m := joins(t, topic, driver.JoinRequest{Group: "g"})
	appendAll(t, topic, driver.Record{Value: []byte("0")})
	arrivals(t, m, 1)
	for i := range 100 {
		appendAll(t, topic, driver.Record{Partition: 1, Value: make([]byte, 4<<10)})
		if i%10 == 0 {
			arrivals(t, m, 10-9*btoi(i == 0))
		}
	}
	stream, err := js.Stream(t.Context(), "orders_t")
	must(t, err)
	if first := stream.CachedInfo().State.FirstSeq; first < 50 {
		t.Fatalf("the first sequence is %d", first)
	}
	appendAll(t, topic, driver.Record{Value: []byte("1")})
	for {
		for _, e := range arrivals(t, m, 1) {
			if e.Partition != 0 {
				continue
			}
			if e.Skipped != 0 {
				t.Errorf("skipped %d before %s", e.Skipped, e.Stored.Value)
			}
			return
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestManyTopics has names that JetStream does not take as they are.
func TestManyTopics(t *testing.T) {
	t.Parallel()
	s, js := startJS(t)
	conn := open(t, driver.Config{URL: s.URL})
	for topic, stream := range map[string]string{"a": "orders_a", "a.b": "orders_a=2Eb", "a_b": "orders_a_b", "a.b.": "orders_a=2Eb=2E"} {
		appendAll(t, topicOf(t, conn, driver.TopicSpec{Name: topic, Partitions: 1}), driver.Record{Value: []byte(topic)})
		x, err := js.Stream(t.Context(), stream)
		must(t, err)
		m, err := x.GetMsg(t.Context(), 1)
		must(t, err)
		if string(m.Data) != topic || x.CachedInfo().State.Msgs != 1 {
			t.Errorf("stream %s of topic %s: %s", stream, topic, m.Data)
		}
	}
}

// TestSubjectOfAnotherStream has a stream of others listen to what a topic
// needs.
func TestSubjectOfAnotherStream(t *testing.T) {
	t.Parallel()
	s, js := startJS(t)
	streamOf(t, js, jetstream.StreamConfig{Name: "ALL", Subjects: []string{"orders.>"}})
	b, err := open(t, driver.Config{URL: s.URL}).Space(orders)
	must(t, err)
	_, err = b.Log.Topic(t.Context(), driver.TopicSpec{Name: "t", Partitions: 1})
	if e := wants(t, "topic", err, errs.InvalidConfiguration); !strings.Contains(e.Error(), "overlap") {
		t.Errorf("message: %v", e)
	}
}
