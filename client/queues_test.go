package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/client/prismtest"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
)

// work is a Work that runs until the test has seen enough.
func work(t *testing.T, queues *client.Queues, handle func(context.Context, *client.Task) error, opts ...client.WorkOption) *consumer {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &consumer{t, stop, make(chan error, 1)}
	go func() { c.end <- queues.Work(ctx, "mails", handle, opts...) }()
	return c
}

func enqueueAll(t *testing.T, queues *client.Queues, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := queues.Enqueue(t.Context(), "mails", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}

// holds expects what a queue holds.
func queueHolds(t *testing.T, queues *client.Queues, ready, delayed, leased, dead int64) {
	t.Helper()
	s, err := queues.Stat(t.Context(), "mails")
	if err != nil || s.Ready != ready || s.Delayed != delayed || s.Leased != leased || s.DeadLetters != dead {
		t.Errorf("it holds %+v, %v; want %d ready, %d delayed, %d leased, %d dead", s, err, ready, delayed, leased, dead)
	}
}

func TestQueues(t *testing.T) {
	t.Parallel()
	queues := prismtest.New(t).Queues("test")
	first, err := queues.Enqueue(t.Context(), "mails", []byte("1"))
	if err != nil || first.ID == "" || first.Duplicate {
		t.Fatalf("%+v, %v", first, err)
	}
	if again, err := queues.Enqueue(t.Context(), "mails", []byte("1"), envelope.WithMessageID(first.ID)); err != nil || !again.Duplicate {
		t.Errorf("the same id once more: %+v, %v", again, err)
	}
	results, err := queues.EnqueueBatch(t.Context(), "mails", []client.NewTask{
		{Message: queues.Message("mails", []byte("2"), envelope.WithPriority(9))},
		{Message: queues.Message("elsewhere", []byte("x"))},
		{Message: queues.Message("mails", []byte("later")), Delay: time.Hour},
	})
	if err != nil || results[0].Err != nil || !errors.Is(results[1].Err, errs.InvalidField) || results[2].Err != nil {
		t.Errorf("%+v, %v", results, err)
	}
	queueHolds(t, queues, 2, 1, 0, 0)
	tasks, err := queues.Receive(t.Context(), "mails", 10, time.Second)
	if err != nil || len(tasks) != 2 || string(tasks[0].Payload()) != "2" || tasks[0].Attempt != 1 || time.Until(tasks[0].Until) < 20*time.Second {
		t.Fatalf("%+v, %v", tasks, err)
	}
	if err := errors.Join(queues.Extend(t.Context(), tasks[0], time.Minute), queues.Acknowledge(t.Context(), tasks[0]), queues.Acknowledge(t.Context(), tasks[0])); err != nil {
		t.Error(err)
	}
	if err := queues.Return(t.Context(), tasks[1]); err != nil {
		t.Error(err)
	}
	old := tasks[1]
	if tasks, err = queues.Receive(t.Context(), "mails", 1, 0); err != nil || len(tasks) != 1 || tasks[0].Attempt != 1 {
		t.Fatalf("%+v, %v", tasks, err)
	}
	for what, err := range map[string]error{"acknowledged": queues.Acknowledge(t.Context(), old), "rejected": queues.Reject(t.Context(), old, errors.New("x")), "extended": queues.Extend(t.Context(), old, time.Minute)} {
		if !errors.Is(err, errs.StaleReceipt) {
			t.Errorf("%s with an old receipt: %v", what, err)
		}
	}
	if err := queues.Reject(t.Context(), tasks[0], client.Refuse(errors.New("never"))); err != nil {
		t.Error(err)
	}
	queueHolds(t, queues, 0, 1, 0, 1)
	for task, err := range queues.Browse(t.Context(), "mails.dlq") {
		if err != nil || string(task.Envelope.GetPayload()) != "1" || task.Headers["prism-dead-reason"] != "never" || task.Position == 0 {
			t.Errorf("dead letter: %+v, %v", task, err)
		}
	}
	if tasks, err := queues.Receive(t.Context(), "mails", 1, 0); err != nil || len(tasks) > 0 {
		t.Errorf("received %v, %v", tasks, err)
	}
	if _, err := queues.Receive(t.Context(), "a b", 1, 0); !errors.Is(err, errs.InvalidField) {
		t.Errorf("a queue that cannot be: %v", err)
	}
}

func TestWork(t *testing.T) {
	t.Parallel()
	queues := prismtest.New(t).Queues("test")
	enqueueAll(t, queues, "done", "again", "never")
	var mu sync.Mutex
	var got []string
	w := work(t, queues, func(_ context.Context, task *client.Task) error {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprintf("%s.%d", task.Payload(), task.Attempt))
		switch {
		case string(task.Payload()) == "again" && task.Attempt == 1:
			return client.RejectAfter(time.Millisecond, errors.New("once more"))
		case string(task.Payload()) == "never":
			return client.Refuse(errors.New("never"))
		}
		return nil
	})
	until(t, "all done", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 4 })
	w.finish()
	slices.Sort(got)
	if all := strings.Join(got, " "); all != "again.1 again.2 done.1 never.1" {
		t.Errorf("done: %s", all)
	}
	queueHolds(t, queues, 0, 0, 0, 1)
	if err := queues.Work(t.Context(), "a b", func(context.Context, *client.Task) error { return nil }); !errors.Is(err, errs.InvalidField) {
		t.Errorf("a queue that cannot be: %v", err)
	}
}

// No more handlers run at once than are asked for, and nothing is taken in hand
// that waits for one.
func TestWorkConcurrency(t *testing.T) {
	t.Parallel()
	queues := prismtest.New(t).Queues("test")
	for i := range 20 {
		enqueueAll(t, queues, fmt.Sprint(i))
	}
	var running, most, done atomic.Int64
	w := work(t, queues, func(context.Context, *client.Task) error {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		if s, err := queues.Stat(t.Context(), "mails"); err != nil || s.Leased > 3 {
			t.Errorf("%d are in hand, %v", s.Leased, err)
		}
		done.Add(1)
		return nil
	}, client.Concurrency(3))
	until(t, "all done", func() bool { return done.Load() == 20 })
	w.finish()
	if most.Load() > 3 {
		t.Errorf("%d ran at once", most.Load())
	}
	queueHolds(t, queues, 0, 0, 0, 0)
}

// A handler that takes longer than ack_wait keeps its task.
func TestWorkExtends(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, memoryQueues)
	queues := s.Client(t, "test").Queues("")
	enqueueAll(t, queues, "slow")
	var begun, done atomic.Int64
	w := work(t, queues, func(ctx context.Context, task *client.Task) error {
		begun.Add(1)
		select {
		case <-time.After(2500 * time.Millisecond):
		case <-ctx.Done():
			t.Error("its context ended")
		}
		done.Add(int64(task.Attempt))
		return nil
	})
	until(t, "it is done", func() bool { return done.Load() > 0 })
	w.finish()
	if begun.Load() != 1 || done.Load() != 1 {
		t.Errorf("begun %d times, done at attempt %d", begun.Load(), done.Load())
	}
	queueHolds(t, queues, 0, 0, 0, 0)
}

// memoryQueues has a short ack_wait.
const memoryQueues = `
{kind: Backend, name: memory, driver: memory, url: "memory:"}
---
{kind: Namespace, name: test, queues: [{name: "*", ack_wait: 1s, max_deliveries: 2}], needs: {durability: none}, auth: {anonymous: read_write}}`

// A task that went to somebody else is worked on no more, which is told.
func TestWorkLosesATask(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, memoryQueues)
	queues := s.Client(t, "test").Queues("")
	thief := s.Client(t, "test").Queues("")
	enqueueAll(t, queues, "1")
	lost, told := make(chan struct{}), make(chan error, 1)
	w := work(t, queues, func(ctx context.Context, task *client.Task) error {
		// The lease is given up behind the worker's back.
		if err := thief.Return(t.Context(), task); err != nil {
			t.Error(err)
		}
		if got, err := thief.Receive(t.Context(), "mails", 1, time.Second); err != nil || len(got) != 1 {
			t.Error(got, err)
		} else if err := thief.Extend(t.Context(), got[0], time.Minute); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		close(lost)
		return nil
	}, client.OnTaskError(func(_ *client.Task, err error) { told <- err }), client.Concurrency(1))
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		t.Fatal("the handler goes on")
	}
	if err := <-told; !errors.Is(err, errs.StaleReceipt) {
		t.Errorf("told %v", err)
	}
	w.finish()
	queueHolds(t, queues, 0, 0, 1, 0)
}

// When a worker is ended, what it works on is finished, and what it has not begun
// comes to others at once, uncounted: whatever it had received at that moment.
func TestWorkEnds(t *testing.T) {
	t.Parallel()
	queues := prismtest.New(t).Queues("test")
	begun, finish := make(chan struct{}, 100), make(chan struct{})
	w := work(t, queues, func(context.Context, *client.Task) error {
		begun <- struct{}{}
		<-finish
		return nil
	}, client.Concurrency(4))
	enqueueAll(t, queues, "1")
	<-begun
	w.stop() // while it waits for more
	enqueueAll(t, queues, "2", "3")
	close(finish)
	w.finish()
	tasks, err := queues.Receive(t.Context(), "mails", 10, 0)
	if err != nil || len(tasks) != 2 || len(begun) != 0 {
		t.Fatalf("left: %v, %v; %d were begun", tasks, err, len(begun))
	}
	for _, task := range tasks {
		if task.Attempt != 1 {
			t.Errorf("%s: attempt %d", task.Payload(), task.Attempt)
		}
	}
}

// Workers survive connections that break again and again: every task is done, and
// none is a dead letter.
func TestWorkSurvivesBrokenConnections(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, strings.Replace(memoryQueues, "max_deliveries: 2", "max_deliveries: 100", 1))
	faults := faultproxy.Listen(t, s.GRPC)
	c, err := client.Dial(faults.Addr, client.WithNamespace("test"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const tasks = 200
	queues := c.Queues("")
	var mu sync.Mutex
	done := map[string]bool{}
	w := work(t, queues, func(_ context.Context, task *client.Task) error {
		mu.Lock()
		defer mu.Unlock()
		done[string(task.Payload())] = true
		return nil
	})
	direct := s.Client(t, "test").Queues("")
	for i := range tasks {
		enqueueAll(t, direct, fmt.Sprint(i))
		if i%40 == 20 {
			faults.Set(faultproxy.Refuse)
			faults.Set(faultproxy.Pass)
		}
	}
	until(t, "all done", func() bool { mu.Lock(); defer mu.Unlock(); return len(done) == tasks })
	until(t, "nothing is left", func() bool {
		s, err := direct.Stat(t.Context(), "mails")
		return err == nil && s.Ready+s.Delayed+s.Leased == 0
	})
	w.finish()
	queueHolds(t, direct, 0, 0, 0, 0)
}
