package wrap_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// lame is the Queue of memory, which fails as the test wants: every call asks
// outcome with the name of its queue.
type lame struct {
	driver.Queue
	calls   int
	outcome func(queue string) error
}

func newLame(t *testing.T, outcome func(queue string) error) *lame {
	t.Helper()
	conn, err := memory.Driver().Open(driver.Config{URL: "memory:"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	b, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p"})
	if err != nil {
		t.Fatal(err)
	}
	return &lame{Queue: b.Queue, outcome: outcome}
}

func (l *lame) Enqueue(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
	l.calls++
	l.Queue.Enqueue(ctx, queue, tasks, results)
	if err := l.outcome(queue); err != nil {
		results[0].Err = err
	}
}

func (l *lame) Receive(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
	l.calls++
	if err := l.outcome(r.Queue); err != nil {
		return nil, err
	}
	return l.Queue.Receive(ctx, r)
}

func (l *lame) Settle(ctx context.Context, queue string, all []driver.Settlement, results []error) {
	l.calls++
	l.Queue.Settle(ctx, queue, all, results)
	if err := l.outcome(queue); err != nil {
		results[0] = err
	}
}

func (l *lame) Browse(ctx context.Context, r driver.BrowseRequest) ([]driver.Waiting, error) {
	l.calls++
	if err := l.outcome(r.Queue); err != nil {
		return nil, err
	}
	return l.Queue.Browse(ctx, r)
}

func (l *lame) Stat(ctx context.Context, queue string) (driver.QueueStat, error) {
	l.calls++
	if err := l.outcome(queue); err != nil {
		return driver.QueueStat{}, err
	}
	return l.Queue.Stat(ctx, queue)
}

// everything makes one call of each method and returns their outcomes, that of
// the Receive that waits last.
func everything(ctx context.Context, q driver.Queue, name string) []error {
	enqueued := make([]driver.EnqueueResult, 2)
	task := driver.Task{Priority: driver.DefaultPriority, Value: []byte("x")}
	q.Enqueue(ctx, name, []driver.Task{task, task}, enqueued)
	r := driver.ReceiveRequest{Queue: name, Limit: 1, Lease: time.Minute}
	_, received := q.Receive(ctx, r)
	settled := make([]error, 1)
	q.Settle(ctx, name, []driver.Settlement{{Receipt: "none", Kind: driver.Done}}, settled)
	_, browsed := q.Browse(ctx, driver.BrowseRequest{Queue: name, Limit: 1})
	_, counted := q.Stat(ctx, name)
	r.Wait = time.Millisecond
	_, waited := q.Receive(ctx, r)
	return []error{enqueued[0].Err, received, settled[0], browsed, counted, waited}
}

func TestObserveQueue(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	var s seen
	q := wrap.ObserveQueue(newLame(t, func(queue string) error {
		if queue == "boom" {
			return boom
		}
		return nil
	}), "shelf", &s)
	everything(t.Context(), q, "well")
	const well = "enqueue 2 0; receive 1 0; settle 1 0; browse 1 0; stat 1 0; wait 1 0"
	if got := strings.Join(s, "; "); got != well { // a stale receipt is no failure
		t.Errorf("told %q, want %q", got, well)
	}
	s = nil
	for i, err := range everything(t.Context(), q, "boom") {
		if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "backend shelf: ") {
			t.Errorf("call %d: %v", i, err)
		}
	}
	const ill = "enqueue 2 1; receive 1 1; settle 1 1; browse 1 1; stat 1 1; wait 1 1"
	if got := strings.Join(s, "; "); got != ill {
		t.Errorf("told %q, want %q", got, ill)
	}
}

// A backend that fails opens the circuit for every method but a Receive that
// waits.
func TestBreakerOfQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLame(t, func(queue string) error {
			if queue == "away" {
				return errs.BackendUnavailable
			}
			return nil
		})
		q := wrap.NewBreaker("b", nil).Queue(l)
		for i, err := range everything(t.Context(), q, "away") { // five of them count
			if !errors.Is(err, errs.BackendUnavailable) {
				t.Errorf("call %d: %v", i, err)
			}
		}
		l.calls = 0
		outcomes := everything(t.Context(), q, "well")
		for i, err := range outcomes[:5] {
			if !errors.Is(err, errs.CircuitOpen) {
				t.Errorf("call %d: %v, want an open circuit", i, err)
			}
		}
		if l.calls != 1 || outcomes[5] != nil {
			t.Errorf("%d calls reached the backend, and who waits got %v; want that one alone", l.calls, outcomes[5])
		}
		time.Sleep(6 * time.Second)
		if err := everything(t.Context(), q, "well")[0]; err != nil {
			t.Errorf("after the rest: %v", err)
		}
	})
}

// Who waits for tasks takes no place.
func TestLimiterOfQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hold, held := make(chan struct{}), make(chan struct{})
		l := newLame(t, func(queue string) error {
			if queue == "slow" {
				close(held)
				<-hold
			}
			return nil
		})
		q := wrap.NewLimiter(1).Queue(l)
		waiting := make(chan error)
		go func() {
			_, err := q.Receive(t.Context(), driver.ReceiveRequest{Queue: "empty", Limit: 1, Lease: time.Minute, Wait: time.Hour})
			waiting <- err
		}()
		synctest.Wait()
		if _, err := q.Stat(t.Context(), "well"); err != nil {
			t.Errorf("beside one who waits: %v", err)
		}
		go q.Stat(t.Context(), "slow")
		<-held
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for i, err := range everything(ctx, q, "well")[:5] {
			if !errors.Is(err, errs.Overloaded) {
				t.Errorf("call %d over the limit: %v", i, err)
			}
		}
		close(hold)
		if err := <-waiting; err != nil {
			t.Errorf("who waited: %v", err)
		}
	})
}
