package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/client"
)

const queueDocuments = `
{kind: Backend, name: files, driver: sqlite, url: "sqlite:data.db"}
---
{kind: Namespace, name: shop, queues: [{name: mails, ack_wait: 2s, max_deliveries: 10}], auth: {anonymous: read_write}}
`

const workers = 4 // and as many who enqueue

// works is what is known of tasks.
type works struct {
	mu       sync.Mutex // guards what follows
	enqueued map[string]bool
	asked    map[string]bool // an acknowledgement was sent; perhaps nobody heard the answer
	done     map[string]bool // acknowledged
	received int
	again    []string // came although they were done
}

func (w *works) note(to map[string]bool, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	to[text] = true
}

// enqueue enqueues until it fails.
func (w *works) enqueue(ctx context.Context, q *client.Queues, name string) {
	for n := 0; ctx.Err() == nil; n++ {
		text := fmt.Sprintf("%s-%d", name, n)
		if _, err := q.Enqueue(ctx, "mails", []byte(text)); err != nil {
			return
		}
		w.note(w.enqueued, text)
	}
}

// work does tasks until it fails or done says that there is no more. Now and then
// it forgets one that it has in hand.
func (w *works) work(ctx context.Context, q *client.Queues, done func() bool) error {
	for ctx.Err() == nil && !done() {
		tasks, err := q.Receive(ctx, "mails", 5, time.Second)
		if err != nil {
			return err
		}
		for _, task := range tasks {
			text := string(task.Payload())
			w.mu.Lock()
			w.received++
			if w.done[text] {
				w.again = append(w.again, text)
			}
			w.mu.Unlock()
			if rand.N(50) == 0 {
				continue
			}
			w.note(w.asked, text)
			if err := q.Acknowledge(ctx, task); err != nil {
				return err
			}
			w.note(w.done, text)
		}
	}
	return nil
}

// A proxy that is killed while it holds tasks of many workers loses none that was
// enqueued, brings back none that was acknowledged, and makes none a dead letter.
func TestKilledWithTasksInHand(t *testing.T) {
	t.Parallel()
	rounds := 3
	if *long {
		rounds = 30
	}
	dir := t.TempDir()
	docs := filepath.Join(dir, "docs.yaml")
	if err := os.WriteFile(docs, []byte(queueDocuments), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &works{enqueued: map[string]bool{}, asked: map[string]bool{}, done: map[string]bool{}}
	start := func() *server {
		return startServer(t, dir, "proxy", docs, "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0")
	}
	for round := range rounds {
		w.killed(t, start(), round)
	}
	s := start()
	defer s.kill()
	q := dialQueues(t, s, 10)
	empty := func() bool {
		got, err := q.Stat(t.Context(), "mails")
		return err != nil || got.Ready+got.Delayed+got.Leased == 0
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := w.work(ctx, q, empty); err != nil {
		t.Errorf("the rest: %v", err)
	}
	for text := range w.enqueued {
		if !w.asked[text] {
			t.Errorf("%s is lost", text)
		}
	}
	if len(w.again) > 0 {
		t.Errorf("done, and came again: %v", w.again)
	}
	if got, err := q.Stat(t.Context(), "mails"); err != nil || got != (client.QueueStat{}) {
		t.Errorf("then: %+v, %v", got, err)
	}
	unsure := len(w.asked) - len(w.done)
	t.Logf("%d kills; %d tasks, received %d times, %d with an acknowledgement that nobody answered", rounds, len(w.enqueued), w.received, unsure)
	if unsure > rounds*workers {
		t.Errorf("%d acknowledgements were not answered, more than were under way", unsure)
	}
	if len(w.enqueued) < rounds*20 || w.received <= len(w.enqueued) {
		t.Errorf("%d tasks were received %d times; the test shows too little", len(w.enqueued), w.received)
	}
}

func dialQueues(t *testing.T, s *server, tries int) *client.Queues {
	t.Helper()
	c, err := client.Dial(s.GRPC, client.WithRetry(client.RetryPolicy{Tries: tries}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.Queues("shop")
}

// killed lets many enqueue and work, and kills the server at a random moment.
func (w *works) killed(t *testing.T, s *server, round int) {
	t.Helper()
	q := dialQueues(t, s, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() { w.enqueue(ctx, q, fmt.Sprintf("%d-%d", round, i)) })
		all.Go(func() { _ = w.work(ctx, q, func() bool { return false }) })
	}
	time.Sleep(time.Second + rand.N(400*time.Millisecond))
	s.kill()
	cancel()
	all.Wait()
}
