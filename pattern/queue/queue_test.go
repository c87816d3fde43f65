package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	queuev1 "github.com/prismgw/prism/api/prism/queue/v1"
	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/memory"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// hooked is the Queue of memory, with something that happens after a Receive,
// and failures in the place of what is done.
type hooked struct {
	driver.Queue
	received func()
	enqueue  func(queue string) error
	settle   func(s *driver.Settlement) error
}

func (h *hooked) Receive(ctx context.Context, r driver.ReceiveRequest) ([]driver.Leased, error) {
	leased, err := h.Queue.Receive(ctx, r)
	if h.received != nil {
		h.received()
		if ctx.Err() != nil { // as a driver may: what it has leased is nobody's
			return nil, ctx.Err()
		}
	}
	return leased, err
}

func (h *hooked) Enqueue(ctx context.Context, queue string, tasks []driver.Task, results []driver.EnqueueResult) {
	if h.enqueue != nil {
		if err := h.enqueue(queue); err != nil {
			for i := range results {
				results[i].Err = err
			}
			return
		}
	}
	h.Queue.Enqueue(ctx, queue, tasks, results)
}

func (h *hooked) Settle(ctx context.Context, queue string, all []driver.Settlement, results []error) {
	for i := range all {
		if h.settle != nil {
			if results[i] = h.settle(&all[i]); results[i] != nil {
				continue
			}
		}
		h.Queue.Settle(ctx, queue, all[i:i+1], results[i:i+1])
	}
}

// bench is a Queue on memory, with a clock and with hooks.
type bench struct {
	*testing.T
	*queues
	clock *clock
	hooks *hooked
}

func newBench(t *testing.T, settings string) *bench {
	t.Helper()
	return newBenchOn(t, driver.Config{URL: "memory:"}, settings)
}

func newBenchOn(t *testing.T, config driver.Config, settings string) *bench {
	t.Helper()
	c := &clock{at: time.Now()}
	config.Now = c.now
	conn, err := memory.Driver().Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	b, err := conn.Space(driver.Space{Namespace: "n", Pattern: "queue"})
	if err != nil {
		t.Fatal(err)
	}
	h := &hooked{Queue: b.Queue}
	b.Queue = h
	q, err := open(pattern.Config{Namespace: "n", Name: "queue", Settings: json.RawMessage(settings), Slots: map[string]pattern.Filled{slot: {Backend: b}}, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close(context.Background()) })
	return &bench{T: t, queues: q, clock: c, hooks: h}
}

func (b *bench) put(texts ...string) {
	b.Helper()
	for _, text := range texts {
		r := &queuev1.EnqueueRequest{Queue: "mails", Task: &queuev1.NewTask{Envelope: &envelopev1.PrismEnvelope{Payload: []byte(text)}}}
		if _, err := b.Enqueue(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

func (b *bench) take(ctx context.Context) []*queuev1.Delivery {
	b.Helper()
	r, err := b.Receive(ctx, &queuev1.ReceiveRequest{Queue: "mails"})
	if err != nil && ctx.Err() == nil {
		b.Fatal(err)
	}
	return r.GetDeliveries()
}

func (b *bench) holds(ready, delayed, leased, dead int64) {
	b.Helper()
	s, err := b.Stat(b.Context(), &queuev1.StatRequest{Queue: "mails"})
	if err != nil || s.GetReady() != ready || s.GetDelayed() != delayed || s.GetLeased() != leased || s.GetDeadLetters() != dead {
		b.Errorf("it holds %v, %v; want %d ready, %d delayed, %d leased, %d dead", s, err, ready, delayed, leased, dead)
	}
}

const plain = `{"queues": [{"name": "mails", "max_backoff": "1m"}]}`

// A caller that goes away while tasks are being leased for it gets none of them,
// and they are there for others as if nothing had been.
func TestCallerGoesWhileTasksAreLeased(t *testing.T) {
	t.Parallel()
	b := newBench(t, plain)
	b.put("1", "2")
	ctx, leave := context.WithCancel(t.Context())
	b.hooks.received = leave
	if got := b.take(ctx); len(got) > 0 {
		t.Errorf("it got %v", got)
	}
	b.hooks.received = nil
	b.holds(2, 0, 0, 0)
	for _, d := range b.take(t.Context()) {
		if d.GetAttempt() != 1 {
			t.Errorf("attempt %d", d.GetAttempt())
		}
	}
}

// Between the dead letters and the end of a task nothing is lost, and what is
// done again because of that is known.
func TestBurialIsBrokenOff(t *testing.T) {
	t.Parallel()
	b := newBench(t, plain)
	b.put("1")
	b.hooks.settle = func(s *driver.Settlement) error {
		if s.Kind == driver.Done {
			return errs.BackendUnavailable
		}
		return nil
	}
	refuse := func(want errs.Reason) {
		t.Helper()
		d := b.take(t.Context())
		if len(d) != 1 {
			t.Fatalf("received %v", d)
		}
		r, err := b.Reject(t.Context(), &queuev1.RejectRequest{Queue: "mails", Receipts: []string{d[0].GetReceipt()}, How: &consumerv1.Reject{DeadLetter: true}})
		got := errs.Unknown
		if st := r.GetResults()[0].GetError(); err == nil && st != nil {
			got = errs.BackendUnavailable
		}
		if err != nil || got != want {
			t.Fatalf("reject: %v, %v", r, err)
		}
	}
	refuse(errs.BackendUnavailable)
	b.holds(0, 0, 1, 1) // in both
	b.hooks.settle = nil
	b.clock.move(burialLease + time.Second)
	refuse(errs.Unknown)
	b.holds(0, 0, 0, 1)
}

// A task that is enqueued again after it died is another one when it dies again.
func TestTheSameMessageDiesTwice(t *testing.T) {
	t.Parallel()
	b := newBench(t, plain)
	id := ""
	for n := range int64(2) {
		m := &envelopev1.Metadata{MessageId: id}
		r, err := b.Enqueue(t.Context(), &queuev1.EnqueueRequest{Queue: "mails", Task: &queuev1.NewTask{Envelope: &envelopev1.PrismEnvelope{Metadata: m, Payload: []byte("1")}}})
		if err != nil || r.GetDuplicate() {
			t.Fatalf("%v, %v", r, err)
		}
		id = r.GetMessageId()
		if n == 0 { // it dies late, and the other one early
			b.clock.move(driver.DedupWindow - time.Second)
		}
		d := b.take(t.Context())
		if _, err := b.Reject(t.Context(), &queuev1.RejectRequest{Queue: "mails", Receipts: []string{d[0].GetReceipt()}, How: &consumerv1.Reject{DeadLetter: true}}); err != nil {
			t.Fatal(err)
		}
		b.holds(0, 0, 0, n+1)
		b.clock.move(2 * time.Second)
	}
}

// What cannot be buried now rests, and is neither lost nor counted.
func TestNoPlaceForDeadLetters(t *testing.T) {
	t.Parallel()
	b := newBench(t, plain)
	result := make([]driver.EnqueueResult, 1)
	b.hooks.Queue.Enqueue(t.Context(), "mails", []driver.Task{{Priority: 5, Value: []byte("\xff")}}, result)
	b.put("1")
	b.hooks.enqueue = func(queue string) error {
		if strings.HasSuffix(queue, deadSuffix) {
			return errs.BackendUnavailable
		}
		return nil
	}
	if got := b.take(t.Context()); len(got) != 1 || string(got[0].GetEnvelope().GetPayload()) != "1" {
		t.Errorf("received %v", got)
	}
	b.holds(0, 1, 1, 0)
	if page, err := b.Browse(t.Context(), &queuev1.BrowseRequest{Queue: "mails"}); err != nil || page.GetMessages()[0].GetAttempts() != 0 || page.GetMessages()[0].GetUnreadable() == "" {
		t.Errorf("browsed %v, %v", page, err)
	}
	b.hooks.enqueue = nil
	b.clock.move(time.Minute)
	_ = b.take(t.Context())
	b.holds(0, 0, 1, 1)
}

// What is taken from a publisher fits the dead letters too, with its story.
func TestTheLargestTaskCanDie(t *testing.T) {
	t.Parallel()
	const most = 10_000
	b := newBenchOn(t, driver.Config{URL: "memory:", Options: json.RawMessage(fmt.Sprintf(`{"max_value": %d}`, most))}, plain)
	size := most
	for ; ; size-- {
		r := &queuev1.EnqueueRequest{Queue: "mails", Task: &queuev1.NewTask{Envelope: &envelopev1.PrismEnvelope{Payload: make([]byte, size)}}}
		if _, err := b.Enqueue(t.Context(), r); err == nil {
			break
		} else if !errors.Is(err, errs.PayloadTooLarge) || size < most/2 {
			t.Fatalf("%d bytes: %v", size, err)
		}
	}
	d := b.take(t.Context())
	reason := strings.Repeat("x", maxWhy)
	r, err := b.Reject(t.Context(), &queuev1.RejectRequest{Queue: "mails", Receipts: []string{d[0].GetReceipt()}, How: &consumerv1.Reject{DeadLetter: true, Reason: reason}})
	if err != nil || r.GetResults()[0].GetError() != nil {
		t.Errorf("a task of %d bytes: %v, %v", size, r, err)
	}
	b.holds(0, 0, 0, 1)
}

func TestSettings(t *testing.T) {
	t.Parallel()
	_, err := decode(json.RawMessage(`{"queues": [{"name": "a b"}, {"name": "x.dlq"}, {"name": "y", "ack_wait": "1ms", "max_deliveries": -1, "backoff": "25h", "max_backoff": "25h"}, {"name": "z"}, {"name": "z", "max_deliveries": 1001}]}`))
	var paths []string
	for _, f := range errs.From(err).Fields {
		paths = append(paths, strings.TrimPrefix(f.Path, "settings.queues"))
	}
	const want = "[0].name [1].name [2].ack_wait [2].max_deliveries [2].backoff [2].max_backoff [4].max_deliveries [4].name"
	if got := strings.Join(paths, " "); got != want {
		t.Errorf("mistakes at %s; want %s", got, want)
	}
	for _, wrong := range []string{``, `{}`, `{"queues": []}`, `{"queues": [{"name": "a", "size": 1}]}`, `{"topics": []}`} {
		if _, err := decode(json.RawMessage(wrong)); err == nil {
			t.Errorf("%q was taken", wrong)
		}
	}
	s, err := decode(json.RawMessage(`{"queues": [{"name": "*", "ack_wait": "1m"}, {"name": "a", "max_deliveries": 3}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]policy{
		"a":     {"a", false, defaultAckWait, 3, defaultBackoff, defaultMaxBackoff},
		"a.dlq": {"a.dlq", true, defaultAckWait, 3, defaultBackoff, defaultMaxBackoff},
		"b":     {"b", false, time.Minute, defaultMaxDeliveries, defaultBackoff, defaultMaxBackoff},
	} {
		if got, err := s.policy(name); err != nil || *got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	for _, r := range []receipt{{1, 1, "a"}, {1000, 1 << 62, "a.b.c"}, {2, 35, strings.Repeat("x", 64)}} {
		if got, ok := parseReceipt(r.String()); !ok || got != r {
			t.Errorf("%s is read as %+v, %v", r, got, ok)
		}
	}
	for _, text := range []string{"", ".", "..", "1.1", "1.1.", "0.1.a", "-1.1.a", "1.?.a", "x.1.a"} {
		if r, ok := parseReceipt(text); ok {
			t.Errorf("%q is read as %+v", text, r)
		}
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	p := &policy{backoff: time.Second, maxBackoff: time.Minute}
	seen := map[time.Duration]bool{}
	for failures, full := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 6: 32 * time.Second, 7: time.Minute, 100: time.Minute} {
		for range 50 {
			got := p.pause(nil, failures)
			if got > full || got < full*4/5 {
				t.Errorf("after %d failures: %s, want %s less up to a fifth", failures, got, full)
			}
			seen[got] = true
		}
	}
	if len(seen) < 100 {
		t.Errorf("there are only %d pauses: they do not scatter", len(seen))
	}
}

// measured reads one metric of one queue.
func (b *bench) measured(name, queue string) (float64, bool) {
	value, found := 0.0, false
	b.Measure(func(i int, v float64, labels ...string) {
		if metrics[i].Name == name && labels[0] == queue {
			value, found = v, true
		}
	})
	return value, found
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	b := newBench(t, plain)
	b.put("1", "2", "3")
	first := b.take(t.Context())
	b.clock.move(defaultAckWait + time.Second)
	second := b.take(t.Context())
	if len(first) != 3 || len(second) != 3 {
		t.Fatalf("received %d and %d", len(first), len(second))
	}
	if _, err := b.Reject(t.Context(), &queuev1.RejectRequest{Queue: "mails", Receipts: []string{second[0].GetReceipt()}, How: &consumerv1.Reject{DeadLetter: true}}); err != nil {
		t.Fatal(err)
	}
	b.put("4")
	b.clock.move(time.Second)
	b.meters.sample("mails", b.meters.of("mails"))
	for name, want := range map[string]float64{
		"prism_queue_waiting_tasks": 1, "prism_queue_delayed_tasks": 0, "prism_queue_leased_tasks": 2, "prism_queue_dead_letter_tasks": 1,
		"prism_queue_delivered_tasks_total": 6, "prism_queue_redelivered_tasks_total": 3, "prism_queue_dead_letters_total": 1,
	} {
		if got, ok := b.measured(name, "mails"); !ok || got != want {
			t.Errorf("%s is %v, %v; want %v", name, got, ok, want)
		}
	}
	if got, ok := b.measured("prism_queue_oldest_waiting_seconds", "mails"); !ok || got < 1 || got > 2 {
		t.Errorf("the oldest is %v, %v", got, ok)
	}
}

// What a client makes up does not become a label without end.
func TestMetricsAreBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, `{"queues": [{"name": "*"}]}`)
	const names = maxMeters + 50
	for i := range names {
		r := &queuev1.EnqueueRequest{Queue: fmt.Sprintf("q%d", i), Task: &queuev1.NewTask{Envelope: &envelopev1.PrismEnvelope{Payload: []byte("x")}}}
		if _, err := b.Enqueue(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Receive(t.Context(), &queuev1.ReceiveRequest{Queue: r.GetQueue()}); err != nil || len(got.GetDeliveries()) != 1 {
			t.Fatal(got, err)
		}
	}
	if got, _ := b.measured("prism_queue_delivered_tasks_total", anyName); got != 50 || len(b.meters.all) != maxMeters+1 {
		t.Errorf("%v tasks are counted together, of %d queues", got, len(b.meters.all))
	}
}

// A Close that is cut short returns, and what still waits ends by itself.
func TestCloseIsCutShort(t *testing.T) {
	t.Parallel()
	b := newBench(t, plain)
	inside, leave := make(chan struct{}), make(chan struct{})
	b.hooks.received = func() {
		close(inside)
		<-leave
	}
	ended := make(chan error, 1)
	go func() {
		_, err := b.Receive(t.Context(), &queuev1.ReceiveRequest{Queue: "mails"})
		ended <- err
	}()
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.Close(ctx)
	select {
	case err := <-ended:
		t.Errorf("the receive ended with %v before it could", err)
	default:
	}
	close(leave)
	if err := <-ended; !errors.Is(err, errs.Draining) {
		t.Errorf("it ended with %v", err)
	}
}
