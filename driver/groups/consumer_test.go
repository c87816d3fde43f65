package groups_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/groups"
	"github.com/prismgw/prism/errs"
)

var long = flag.Bool("long", os.Getenv("PRISM_TEST_LONG") != "", "try a hundred times as many seeds")

// A world is a store, the members that one process has in its group, and what
// they were handed.
type world struct {
	*testing.T
	*store
	members groups.Members
	log     *slog.Logger

	mu     sync.Mutex // guards what follows
	handed []map[driver.Position]int
}

func newWorld(t *testing.T, partitions int) *world {
	t.Helper()
	w := &world{T: t, store: newStore(partitions), log: slog.New(slog.DiscardHandler), handed: make([]map[driver.Position]int, partitions)}
	for i := range w.handed {
		w.handed[i] = make(map[driver.Position]int)
	}
	return w
}

func (w *world) topic() groups.Topic {
	return groups.Topic{Source: w.store, Name: "topic", Partitions: len(w.rows), Log: w.log}
}

func (w *world) join(name string) driver.Member { return w.joinOf(&w.members, name) }

func (w *world) joinOf(process *groups.Members, name string) driver.Member {
	w.Helper()
	return w.joinBy(process, w.store, name)
}

func (w *world) joinBy(process *groups.Members, table groups.Table, name string) driver.Member {
	w.Helper()
	m, err := process.Join(w.topic(), groups.Group{Table: table, Name: "group", Member: name, MaxNote: 100})
	if err != nil {
		w.Fatal(err)
	}
	return m
}

// next takes one event.
func (w *world) next(m driver.Member) driver.LogEvent {
	w.Helper()
	events := make([]driver.LogEvent, 1)
	if n, err := m.Next(w.Context(), events); n != 1 || err != nil {
		w.Fatalf("next: %d, %v", n, err)
	}
	return events[0]
}

// want takes one event, which has to be of a kind.
func (w *world) want(m driver.Member, kind driver.LogEventKind) driver.LogEvent {
	w.Helper()
	e := w.next(m)
	if e.Kind != kind {
		w.Fatalf("event %+v, not of kind %d", e, kind)
	}
	return e
}

// quiet reports that nothing comes for a while.
func (w *world) quiet(m driver.Member, d time.Duration) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), d)
	defer cancel()
	events := make([]driver.LogEvent, 1)
	if n, err := m.Next(ctx, events); !errors.Is(err, errs.Deadline) {
		w.Errorf("%d events (%+v) and %v, where nothing should come", n, events[0], err)
	}
}

func (w *world) commit(m driver.Member, c driver.Commit) error {
	results := make([]error, 1)
	m.Commit(w.Context(), []driver.Commit{c}, results)
	return results[0]
}

// wrongs fails the test for what the judge has seen.
func (w *world) wrongs() []string {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	return w.wrong
}

// A consumer takes what comes, commits it and gives back what it is asked for.
// It checks the order of events.
type consumer struct {
	*world
	member driver.Member
	name   string
	done   chan struct{}

	gained int // how often, which is read when the world stands still
	has    map[int]*holding
}

// A holding is a partition between Gained and its end.
type holding struct {
	claim   int64
	next    driver.Position // the lowest that may come
	leaving bool
	dirty   bool // next is not committed
}

func (w *world) consume(name string) *consumer { return w.consumeIn(&w.members, name) }

func (w *world) consumeIn(process *groups.Members, name string) *consumer {
	c := &consumer{world: w, member: w.joinOf(process, name), name: name, done: make(chan struct{}), has: make(map[int]*holding)}
	go c.run()
	return c
}

func (c *consumer) run() {
	defer close(c.done)
	events := make([]driver.LogEvent, 16)
	for {
		n, err := c.member.Next(context.Background(), events)
		if err != nil {
			return
		}
		for i := range events[:n] {
			if wrong := c.see(&events[i]); wrong != "" {
				c.Errorf("%s, partition %d: %s", c.name, events[i].Partition, wrong)
			}
		}
		c.settle()
	}
}

func (c *consumer) see(e *driver.LogEvent) (wrong string) {
	h := c.has[e.Partition]
	switch {
	case e.Kind == driver.Gained && h != nil:
		return "gained twice"
	case e.Kind == driver.Gained:
		c.gained++
		c.has[e.Partition] = &holding{claim: e.Claim, next: e.Checkpoint.Next}
	case h == nil:
		return fmt.Sprintf("event %d of what it does not have", e.Kind)
	case e.Kind == driver.Lost:
		delete(c.has, e.Partition)
	case h.leaving:
		return fmt.Sprintf("event %d after leaving", e.Kind)
	case e.Kind == driver.Leaving:
		h.leaving = true
	case e.Kind == driver.Arrived && e.Stored.Position-driver.Position(e.Skipped) != h.next:
		return fmt.Sprintf("position %d (%d skipped) after %d", e.Stored.Position, e.Skipped, h.next-1)
	default:
		h.next, h.dirty = e.Stored.Position+1, true
		c.mu.Lock()
		c.handed[e.Partition][e.Stored.Position]++
		c.mu.Unlock()
	}
	return ""
}

// settle commits what is new and gives back what should go. What fails is
// tried again with the next event, or comes to somebody else.
func (c *consumer) settle() {
	var commits []driver.Commit
	for i, h := range c.has {
		if h.dirty || h.leaving {
			commits = append(commits, driver.Commit{Partition: i, Claim: h.claim, Checkpoint: driver.Checkpoint{Next: h.next}, Release: h.leaving})
		}
	}
	results := make([]error, len(commits))
	c.member.Commit(context.Background(), commits, results)
	for i, err := range results {
		h := c.has[commits[i].Partition]
		if err == nil {
			h.dirty = false
		}
		if err == nil && commits[i].Release {
			delete(c.has, commits[i].Partition)
		}
	}
}

func (c *consumer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c.member.Close(ctx)
	<-c.done
}
