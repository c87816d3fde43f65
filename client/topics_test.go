package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/client/prismtest"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/internal/testutil/faultproxy"
)

// consumer is a Consume that runs until the test has seen enough.
type consumer struct {
	t    *testing.T
	stop context.CancelFunc
	end  chan error
}

func consume(t *testing.T, topics *client.Topics, handle func(context.Context, *client.Delivery) error, opts ...client.ConsumeOption) *consumer {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &consumer{t, stop, make(chan error, 1)}
	go func() { c.end <- topics.Consume(ctx, "orders", "billing", handle, opts...) }()
	return c
}

// finish ends the consumer and expects that it ends well.
func (c *consumer) finish() {
	c.t.Helper()
	c.stop()
	select {
	case err := <-c.end:
		if err != nil {
			c.t.Errorf("consume ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		c.t.Error("consume does not end")
	}
}

func publishAll(t *testing.T, topics *client.Topics, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := topics.Publish(t.Context(), "orders", []byte(text), envelope.WithPartitionKey([]byte(text[:1]))); err != nil {
			t.Fatal(err)
		}
	}
}

// until waits until it is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for start := time.Now(); !so(); time.Sleep(2 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func browsed(t *testing.T, topics *client.Topics, topic string, what client.Browsing) (texts []string) {
	t.Helper()
	for m, err := range topics.Browse(t.Context(), topic, what) {
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(m.Envelope.GetPayload()))
	}
	return texts
}

func TestTopics(t *testing.T) {
	t.Parallel()
	topics := prismtest.New(t).Topics("test")
	first, err := topics.Publish(t.Context(), "orders", []byte("a1"), envelope.WithPartitionKey([]byte("a")))
	if err != nil || first.ID == "" || first.Position < 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := topics.Publish(t.Context(), "orders", []byte("a1"), envelope.WithPartitionKey([]byte("a")), envelope.WithMessageID(first.ID))
	if err != nil || !again.Duplicate {
		t.Errorf("the same id once more: %+v, %v", again, err)
	}
	results, err := topics.PublishBatch(t.Context(), "orders", []*envelopev1.PrismEnvelope{
		topics.Message("orders", []byte("a2"), envelope.WithPartitionKey([]byte("a"))), topics.Message("elsewhere", []byte("x")),
	})
	if err != nil || results[0].Err != nil || !errors.Is(results[1].Err, errs.InvalidField) {
		t.Errorf("%+v, %v", results, err)
	}

	var mu sync.Mutex
	var got []string
	c := consume(t, topics, func(_ context.Context, d *client.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprintf("%s.%d", d.Payload(), d.Attempt))
		switch {
		case string(d.Payload()) == "a1" && d.Attempt == 1:
			return client.RejectAfter(time.Millisecond, errors.New("once more"))
		case string(d.Payload()) == "a2":
			return client.Refuse(errors.New("never"))
		}
		return nil
	})
	until(t, "all handled", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 3 })
	var dead client.Kept
	for m, err := range topics.Browse(t.Context(), "orders.dlq", client.Browsing{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		dead = m
		break
	}
	c.finish()
	if fmt.Sprint(got) != "[a1.1 a1.2 a2.1]" {
		t.Errorf("handled %v", got)
	}
	if string(dead.Envelope.GetPayload()) != "a2" || dead.Headers["prism-dead-reason"] != "never" {
		t.Errorf("dead letter: %v", dead)
	}
	if got := browsed(t, topics, "orders", client.Browsing{}); fmt.Sprint(got) != "[a1 a2]" {
		t.Errorf("browsed %v", got)
	}
	if got := browsed(t, topics, "orders", client.Browsing{From: client.At(map[int]int64{first.Partition: first.Position + 1}), Partitions: []int{first.Partition}, Limit: 1}); fmt.Sprint(got) != "[a2]" {
		t.Errorf("browsed from the second: %v", got)
	}
	if err := topics.Seek(t.Context(), "orders", "nobody", client.Latest()); !errors.Is(err, errs.GroupNotFound) {
		t.Errorf("seek of an unknown group: %v", err)
	}
}

// What is handled when the program ends is settled; what is not begun goes back.
func TestConsumeEndsWell(t *testing.T) {
	t.Parallel()
	topics := prismtest.New(t).Topics("test")
	publishAll(t, topics, "a1", "b1")
	started, goOn := make(chan string, 2), make(chan struct{})
	c := consume(t, topics, func(ctx context.Context, d *client.Delivery) error {
		started <- string(d.Payload())
		<-goOn
		return ctx.Err() // it has not ended
	}, client.Concurrency(1))
	one := <-started
	c.stop()
	time.AfterFunc(50*time.Millisecond, func() { close(goOn) })
	c.finish()
	var left []string
	other := make(chan string, 2)
	c = consume(t, topics, func(_ context.Context, d *client.Delivery) error {
		if d.Attempt != 1 {
			t.Errorf("%s: attempt %d", d.Payload(), d.Attempt)
		}
		other <- string(d.Payload())
		return nil
	})
	left = append(left, <-other)
	c.finish()
	if len(left) != 1 || left[0] == one {
		t.Errorf("%s was settled, and %v comes then", one, left)
	}
}

// oneTopic is a namespace whose messages come again soon.
const oneTopic = `
kind: Backend
name: mem
driver: memory
url: "memory:"
---
kind: Namespace
name: test
topics: [{name: orders, partitions: 1}]
consumers: [{name: billing, ack_wait: 1s}]
needs: {durability: none}
auth: {anonymous: read_write}
`

// A handler that takes longer than ack_wait keeps its message.
func TestConsumeKeepsInHand(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, oneTopic)
	topics := s.Client(t, "test").Topics("test")
	publishAll(t, topics, "a1")
	var times, done atomic.Int32
	c := consume(t, topics, func(context.Context, *client.Delivery) error {
		times.Add(1)
		time.Sleep(2500 * time.Millisecond) // of work, twice ack_wait and more
		done.Add(1)
		return nil
	}, client.OnSettleError(func(_ *client.Delivery, err error) { t.Errorf("settle: %v", err) }))
	until(t, "handled", func() bool { return done.Load() > 0 })
	c.finish()
	if times.Load() != 1 {
		t.Errorf("it was handled %d times", times.Load())
	}
}

// Connections that break are replaced; what was acknowledged does not come again.
func TestConsumeThroughBrokenConnections(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, oneTopic)
	cut := faultproxy.Listen(t, s.GRPC)
	topics := s.Client(t, prismtest.Namespace).Topics("")
	broken, err := client.Dial(cut.Addr, client.WithNamespace(prismtest.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broken.Close() })
	var mu sync.Mutex
	handled := map[string]int{}
	c := consume(t, broken.Topics(""), func(_ context.Context, d *client.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		handled[string(d.Payload())]++
		return nil
	})
	const rounds = 5
	for i := range rounds {
		publishAll(t, topics, fmt.Sprintf("%c%d", 'a'+i, i))
		until(t, "handled", func() bool { mu.Lock(); defer mu.Unlock(); return len(handled) == i+1 })
		cut.Set(faultproxy.Refuse)
		cut.Set(faultproxy.Pass)
	}
	c.finish()
	mu.Lock()
	defer mu.Unlock()
	if len(handled) != rounds {
		t.Errorf("handled: %v", handled)
	}
}

func TestConsumeRefused(t *testing.T) {
	t.Parallel()
	topics := prismtest.New(t).Topics("test")
	nothing := func(context.Context, *client.Delivery) error { return nil }
	if err := topics.Consume(t.Context(), "a b", "g", nothing); !errors.Is(err, errs.InvalidField) {
		t.Errorf("a bad topic: %v", err)
	}
	if err := prismtest.New(t).Topics("a/b/c").Consume(t.Context(), "orders", "g", nothing); err == nil {
		t.Error("a bad path is taken")
	}
}

// What is given back comes again, and has not failed.
func TestGiveBack(t *testing.T) {
	t.Parallel()
	topics := prismtest.New(t).Topics("test")
	publishAll(t, topics, "a1")
	attempts := make(chan int, 100)
	var times atomic.Int32
	c := consume(t, topics, func(_ context.Context, d *client.Delivery) error {
		attempts <- d.Attempt
		if times.Add(1) <= 3 {
			return client.GiveBack(errors.New("not now"))
		}
		return nil
	})
	for range 4 {
		if attempt := <-attempts; attempt != 1 {
			t.Errorf("attempt %d", attempt)
		}
	}
	c.finish()
	if n := times.Load(); n != 4 {
		t.Errorf("it came %d times", n)
	}
}

// Consume tells of its subscriptions, Browse where it begins.
func TestToldWhenItStands(t *testing.T) {
	t.Parallel()
	s := prismtest.Start(t, oneTopic)
	cut := faultproxy.Listen(t, s.GRPC)
	broken, err := client.Dial(cut.Addr, client.WithNamespace(prismtest.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broken.Close() })
	sessions := make(chan error, 1000)
	inHand, goOn := make(chan struct{}, 2), make(chan struct{})
	unknown := make(chan error, 1)
	c := consume(t, broken.Topics(""), func(context.Context, *client.Delivery) error {
		inHand <- struct{}{}
		<-goOn
		return nil
	}, client.OnSession(func(err error) { sessions <- err }), client.OnSettleError(func(_ *client.Delivery, err error) { unknown <- err }))
	if err := <-sessions; err != nil {
		t.Fatalf("the first subscription: %v", err)
	}
	topics := s.Client(t, "test").Topics("test")
	publishAll(t, topics, "a1")
	<-inHand
	cut.Set(faultproxy.Refuse)
	close(goOn)
	if err := <-unknown; !errors.Is(err, errs.OutcomeUnknown) {
		t.Errorf("the connection broke before a message was settled: %v", err)
	}
	if err := <-sessions; err == nil {
		t.Error("the connection broke, and nobody was told")
	}
	cut.Set(faultproxy.Pass)
	for <-sessions != nil { // those that could not be had
	}
	<-inHand // it came again
	c.finish()

	publishAll(t, topics, "a2")
	begun := 0
	browsed(t, topics, "orders", client.Browsing{From: client.Latest(), Begun: func(at map[int]int64) {
		begun++
		if at[0] != 3 {
			t.Errorf("it begins at %v", at)
		}
	}})
	if begun != 1 {
		t.Errorf("it began %d times", begun)
	}
}
