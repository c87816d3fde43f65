package drivertest

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
)

func needsEmbeddedLog(e *env) string {
	switch {
	case e.s.h.Server != nil:
		return "the data lies in a server; faults/killed-and-restarted kills that"
	case e.s.log.Shared:
		return "the data lies in servers; the driver's own tests kill them"
	case !e.s.h.Persistent || !e.s.log.Ack.Process:
		return "an acknowledged append does not survive the process"
	}
	return ""
}

// consumerKilled kills a process that appends to three partitions and consumes
// them, and looks for what it was acknowledged.
func consumerKilled(e *env) {
	c := e.s.h.Config
	if c.Dir != "" {
		c.Dir = e.TempDir()
	}
	space := e.spaceIn(c)
	o := orders{Test: testName(e.Name()), URL: c.URL, Dir: c.Dir, Options: c.Options, Asserts: c.Asserts, Namespace: space.Namespace, Layout: space.Layout}
	for i := range o.First {
		o.First[i] = 1
	}
	for range 2 {
		acked := e.killChild(o)
		conn := e.openConfig(c)
		j := e.logsOn(conn, space).topic(driver.TopicSpec{Name: "t", Partitions: writers - 1})
		for w := range writers - 1 {
			found := textsOf(j.all(w, 0, 1000))
			if n := len(found); n < acked[w] || n > acked[w]+1 {
				e.Fatalf("partition %d: %d appends were acknowledged, %d records are there", w, acked[w], n)
			}
			for i, text := range found {
				if text != fmt.Sprint(i+1) {
					e.Fatalf("partition %d: record %d is %s", w, i+1, text)
				}
			}
			o.First[w] = len(found) + 1
		}
		start := time.Now()
		m := j.join("g")
		e.comes("the partitions of the process that was killed", func() bool { return m.owns(0, 1, 2) }, m)
		if took := time.Since(start); took > driver.TakeOver+grace {
			e.Errorf("the partitions were taken over after %s, want %s", took, driver.TakeOver)
		}
		if acked[writers-1] < o.First[writers-1] {
			e.Fatal("the child has committed nothing")
		}
		if from := m.has[0].from; int(from.Next) < acked[writers-1] || from.Note != "kept" {
			e.Errorf("the group stands at %d with note %q; the commit of %d was acknowledged", from.Next, from.Note, acked[writers-1])
		}
		o.First[writers-1] = acked[writers-1] + 1
		if err := conn.Close(); err != nil {
			e.Fatalf("close: %v", err)
		}
	}
}

// logWriter is the child. All of it is the work of the last writer: it consumes,
// and appends to a partition as soon as it has gained it.
func logWriter(t *testing.T, b driver.Backend, o *orders, w int) {
	if w != writers-1 {
		return
	}
	ctx := context.Background()
	topic, err := b.Log.Topic(ctx, driver.TopicSpec{Name: "t", Partitions: writers - 1})
	if err != nil {
		t.Error(err)
		return
	}
	m, err := topic.Join(ctx, driver.JoinRequest{Group: "g", Name: "child"})
	if err != nil {
		t.Error(err)
		return
	}
	t.Error(childConsumes(ctx, m, func(p int) { go childAppends(t, topic, p, o.First[p]) }))
}

func childAppends(t *testing.T, topic driver.Topic, p, first int) {
	results := make([]driver.AppendResult, 1)
	for i := first; ; i++ {
		topic.Append(context.Background(), []driver.Record{{Partition: p, Value: fmt.Append(nil, i)}}, results)
		if results[0].Err != nil {
			t.Errorf("append %d to %d: %v", i, p, results[0].Err)
			return
		}
		_, _ = fmt.Fprintf(os.Stdout, "acked %d %d\n", p, i)
	}
}

// childConsumes commits each record, and tells of those of partition 0.
func childConsumes(ctx context.Context, m driver.Member, gained func(partition int)) error {
	claims := map[int]int64{}
	events := make([]driver.LogEvent, 1)
	for {
		if _, err := m.Next(ctx, events); err != nil {
			return err
		}
		ev := events[0]
		if ev.Kind == driver.Gained {
			claims[ev.Partition] = ev.Claim
			gained(ev.Partition)
		}
		if ev.Kind != driver.Arrived {
			continue
		}
		results := make([]error, 1)
		next := ev.Stored.Position + 1
		m.Commit(ctx, []driver.Commit{{Partition: ev.Partition, Claim: claims[ev.Partition], Checkpoint: driver.Checkpoint{Next: next, Note: "kept"}}}, results)
		if results[0] != nil {
			return results[0]
		}
		if ev.Partition == 0 {
			_, _ = fmt.Fprintf(os.Stdout, "acked %d %d\n", writers-1, next)
		}
	}
}
