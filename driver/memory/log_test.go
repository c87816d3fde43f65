package memory_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/errs"
)

func logOf(tb testing.TB, c driver.Conn) driver.Log {
	tb.Helper()
	b, err := c.Space(driver.Space{Namespace: "ns", Pattern: "messages"})
	if err != nil {
		tb.Fatal(err)
	}
	return b.Log
}

func topicOf(tb testing.TB, l driver.Log, spec driver.TopicSpec) driver.Topic {
	tb.Helper()
	topic, err := l.Topic(tb.Context(), spec)
	if err != nil {
		tb.Fatal(err)
	}
	return topic
}

func appendTo(tb testing.TB, topic driver.Topic, records ...driver.Record) []driver.AppendResult {
	tb.Helper()
	results := make([]driver.AppendResult, len(records))
	topic.Append(tb.Context(), records, results)
	for i, r := range results {
		if r.Err != nil {
			tb.Fatalf("record %d: %v", i, r.Err)
		}
	}
	return results
}

func join(tb testing.TB, topic driver.Topic, r driver.JoinRequest) driver.Member {
	tb.Helper()
	m, err := topic.Join(tb.Context(), r)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// until takes events until one of them is the last that is wanted.
func until(tb testing.TB, m driver.Member, last func(e driver.LogEvent) bool) (all []driver.LogEvent) {
	tb.Helper()
	for {
		events := make([]driver.LogEvent, 16)
		n, err := m.Next(tb.Context(), events)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, events[:n]...)
		for _, e := range events[:n] {
			if last(e) {
				return all
			}
		}
	}
}

func TestGroupGoesOnAtItsCheckpoint(t *testing.T) {
	t.Parallel()
	topic := topicOf(t, logOf(t, open(t, memory.Driver(), driver.Config{URL: "memory:"})), driver.TopicSpec{Name: "t", Partitions: 1})
	for i := range 10 {
		appendTo(t, topic, driver.Record{Value: fmt.Append(nil, i)})
	}
	first := join(t, topic, driver.JoinRequest{Group: "g", Name: "one"})
	events := until(t, first, func(e driver.LogEvent) bool { return e.Stored.Position == 10 })
	if len(events) != 11 || events[0].Kind != driver.Gained || events[0].Checkpoint.Next != 1 {
		t.Fatalf("%d events, the first %+v", len(events), events[0])
	}
	results := make([]error, 1)
	first.Commit(t.Context(), []driver.Commit{{Claim: events[0].Claim, Checkpoint: driver.Checkpoint{Next: 6, Note: "n"}}}, results)
	if results[0] != nil {
		t.Fatal(results[0])
	}
	began := time.Now()
	second := join(t, topic, driver.JoinRequest{Group: "g", Name: "two"})
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	events = until(t, second, func(e driver.LogEvent) bool { return e.Stored.Position == 10 })
	if c := events[0].Checkpoint; c.Next != 6 || c.Note != "n" || len(events) != 6 {
		t.Errorf("gained %+v and %d events", c, len(events))
	}
	if d := time.Since(began); d > time.Second {
		t.Errorf("took over after %v, not at once", d)
	}
	first.Commit(t.Context(), []driver.Commit{{Claim: 1, Checkpoint: driver.Checkpoint{Next: 8}}}, results)
	if !errors.Is(results[0], errs.StaleReceipt) {
		t.Errorf("a commit after close: %v", results[0])
	}
}
