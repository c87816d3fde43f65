package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The names of these tests follow contracts 1.4.

func withStreams(n int) Option           { return func(o *options) { o.streams = n } }
func withIdle(d time.Duration) Option    { return func(o *options) { o.idle = d } }
func withHelloIn(d time.Duration) Option { return func(o *options) { o.hello = d } }

// within fails the test if the condition does not come true.
func within(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for: " + what)
		}
	}
}

func wantReason(t *testing.T, err error, want errs.Reason) {
	t.Helper()
	var e *errs.Error
	if !errors.As(err, &e) || e.Reason != want {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func scale(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

// gate blocks the operations on keys with a prefix until it is opened.
func gate(s *server, prefix string) (open func()) {
	opened := make(chan struct{})
	s.setHook(func(ctx context.Context, key string) error {
		if key != "(open)" && strings.HasPrefix(key, prefix) {
			select {
			case <-opened:
			case <-ctx.Done():
			}
		}
		return nil
	})
	return sync.OnceFunc(func() { close(opened) })
}

func TestConcurrentCallsShareMessages(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kv := s.dial(t).KeyValue("")
	var group sync.WaitGroup
	each := scale(2000)
	for g := range 64 {
		group.Go(func() {
			for i := range each {
				key := fmt.Sprint(g, "/", i%10)
				if _, err := kv.Store(t.Context(), key, []byte(key)); err != nil {
					t.Error(err)
					return
				}
				if e, err := kv.Retrieve(t.Context(), key); err != nil || string(e.Value) != key {
					t.Errorf("got %q, %v for %q", e.Value, err, key)
					return
				}
			}
		})
	}
	group.Wait()
	ops, messages := s.pipelined.Load(), s.messages.Load()
	if ops != int64(64*2*each) || s.unary.Load() != 0 {
		t.Errorf("%d operations on streams, %d unary, want %d and 0", ops, s.unary.Load(), 64*2*each)
	}
	if messages*2 > ops {
		t.Errorf("%d messages for %d operations: nothing was shared", messages, ops)
	}
}

func TestMessageTakesWhatIsQueued(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]int64{0: 128, 1000: 60} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			opened := make(chan struct{})
			s.setHook(func(_ context.Context, key string) error {
				if key == "(open)" {
					<-opened
				}
				return nil
			})
			kv := s.dial(t, withStreams(1)).KeyValue("")
			var group sync.WaitGroup
			for i := range 200 {
				group.Go(func() {
					if _, err := kv.Store(t.Context(), fmt.Sprint(i), make([]byte, size)); err != nil {
						t.Error(err)
					}
				})
			}
			within(t, "all to queue", func() bool { return kv.last.Load() != nil && queued(kv) == 200 })
			close(opened)
			group.Wait()
			if n := s.largest.Load(); n < want { // the server notes messages that are too large
				t.Errorf("the largest message took %d operations, want at least %d", n, want)
			}
		})
	}
}

func queued(kv *KeyValue) int {
	m := kv.last.Load()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.queue.size
}

func TestOneCallerWaitsForNobody(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kv := s.dial(t).KeyValue("")
	for range 100 {
		if _, err := kv.Exists(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
	}
	if s.messages.Load() != 100 || s.opened.Load() != 1 {
		t.Errorf("%d messages on %d streams, want 100 on 1", s.messages.Load(), s.opened.Load())
	}
}

func TestEndedBeforeItWasSentIsNotSent(t *testing.T) {
	t.Parallel()
	s := newServer(t, withHello(&keyvaluev1.Hello{MaxInFlight: 1, MaxInFlightBytes: 4 << 20, MaxOperationBytes: 256 << 10}))
	open := gate(s, "first")
	kv := s.dial(t, withStreams(1)).KeyValue("")
	var group sync.WaitGroup
	group.Go(func() { _, _ = kv.Store(t.Context(), "first", nil) })
	within(t, "the first to arrive", func() bool { return s.pipelined.Load() == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	group.Go(func() {
		_, err := kv.Store(ctx, "second", nil)
		wantReason(t, err, errs.Cancelled)
	})
	within(t, "the second to queue", func() bool { return queued(kv) == 1 })
	cancel()
	within(t, "the second to leave", func() bool { return queued(kv) == 0 })
	_, err := kv.Store(ctx, "third", nil)
	wantReason(t, err, errs.Cancelled)
	open()
	group.Wait()
	if _, err := kv.Store(t.Context(), "fourth", nil); err != nil {
		t.Error(err)
	}
	if s.ran("second")+s.ran("third") != 0 || s.ran("fourth") != 1 {
		t.Error("a call was sent though its context had ended")
	}
}

// Who takes the queue along looks whether a call is still wanted, even if its
// caller has not come round to leaving.
func TestEndedWhileItIsTaken(t *testing.T) {
	t.Parallel()
	s := newServer(t, withHello(&keyvaluev1.Hello{MaxInFlight: 1, MaxInFlightBytes: 4 << 20, MaxOperationBytes: 256 << 10}))
	open := gate(s, "first")
	kv := s.dial(t, withStreams(1)).KeyValue("")
	var group sync.WaitGroup
	group.Go(func() { _, _ = kv.Store(t.Context(), "first", nil) })
	within(t, "the first to arrive", func() bool { return s.pipelined.Load() == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	group.Go(func() {
		_, err := kv.Store(ctx, "second", nil)
		wantReason(t, err, errs.Cancelled)
	})
	within(t, "the second to queue", func() bool { return queued(kv) == 1 })
	m := kv.last.Load()
	m.mu.Lock()
	cancel()
	m.streams[0].maxInFlight = 2
	taken := m.streams[0].take()
	m.mu.Unlock()
	if taken {
		t.Error("a call was taken though its context had ended")
	}
	open()
	group.Wait()
}

func TestEndAfterSendingCancels(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	open := gate(s, "slow")
	defer open()
	kv := s.dial(t).KeyValue("")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := kv.Store(ctx, "slow", nil)
	wantReason(t, err, errs.Cancelled)
	within(t, "the cancel", func() bool { return s.cancels.Load() == 1 })
	if _, err := kv.Exists(t.Context(), "other"); err != nil { // the stream goes on
		t.Error(err)
	}
	if s.opened.Load() != 1 {
		t.Error("the stream did not survive a cancel")
	}
}

func TestDeadlineTravels(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	defer gate(s, "slow")()
	kv := s.dial(t).KeyValue("")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := kv.Retrieve(ctx, "slow")
	wantReason(t, err, errs.Deadline)
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ms := s.last[0].GetTimeoutMs(); ms == 0 || ms > 300 {
		t.Errorf("the server was given %d ms", ms)
	}
}

func TestIdleStreamsClose(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.dial(t, withIdle(100*time.Millisecond))
	kv := c.KeyValue("")
	for range 3 {
		if _, err := kv.Store(t.Context(), "k", nil); err != nil {
			t.Fatal(err)
		}
		within(t, "the stream to close", func() bool { return s.openStreams() == 0 })
		within(t, "the mux to be forgotten", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.muxes) == 0
		})
	}
	if s.opened.Load() != 3 {
		t.Errorf("%d streams were opened, want 3", s.opened.Load())
	}
}

func TestStreamsAreFew(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	open := gate(s, "")
	kv := s.dial(t, withStreams(3)).KeyValue("")
	var group sync.WaitGroup
	for i := range 2000 {
		group.Go(func() {
			if _, err := kv.Store(t.Context(), fmt.Sprint(i), nil); err != nil {
				t.Error(err)
			}
		})
	}
	within(t, "all streams to be full", func() bool { return s.pipelined.Load() == 3*256 })
	if s.opened.Load() != 3 {
		t.Errorf("%d streams, want 3", s.opened.Load())
	}
	open()
	group.Wait()
	s.lis.mu.Lock()
	defer s.lis.mu.Unlock()
	if len(s.lis.conns) != 3 {
		t.Errorf("%d connections, want one for each stream", len(s.lis.conns))
	}
}

func TestStreamsBelongToOneKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	type token struct{}
	c := s.dial(t, WithCredentials(func(ctx context.Context) (string, error) {
		header, _ := ctx.Value(token{}).(string)
		return header, nil
	}))
	for _, path := range []string{"a", "b", "a/p"} {
		for _, header := range []string{"", "Bearer x"} {
			for range 2 {
				if _, err := c.KeyValue(path).Exists(context.WithValue(t.Context(), token{}, header), "k"); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if s.opened.Load() != 6 {
		t.Errorf("%d streams for 6 keys", s.opened.Load())
	}
}

func TestLargeValuesAreUnary(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kv := s.dial(t).KeyValue("")
	large := make([]byte, 300<<10)
	if _, err := kv.Store(t.Context(), "large", large); err != nil {
		t.Fatal(err)
	}
	if s.unary.Load() != 1 || s.pipelined.Load() != 0 {
		t.Errorf("the large store: %d unary, %d on a stream", s.unary.Load(), s.pipelined.Load())
	}
	e, err := kv.Retrieve(t.Context(), "large")
	if err != nil || len(e.Value) != len(large) {
		t.Fatalf("got %d bytes, %v", len(e.Value), err)
	}
	if s.unary.Load() != 2 || s.pipelined.Load() != 1 {
		t.Errorf("the large retrieve: %d unary, %d on a stream", s.unary.Load(), s.pipelined.Load())
	}
}

// A server may allow less than the client assumes.
func TestSmallerOperationLimit(t *testing.T) {
	t.Parallel()
	s := newServer(t, withHello(&keyvaluev1.Hello{MaxInFlight: 8, MaxInFlightBytes: 4096, MaxOperationBytes: 1024}))
	kv := s.dial(t).KeyValue("")
	if _, err := kv.Store(t.Context(), "k", make([]byte, 2048)); err != nil {
		t.Fatal(err)
	}
	if s.unary.Load() != 1 {
		t.Error("an operation above the server's limit was not unary")
	}
}

func TestRoomIsRespected(t *testing.T) {
	t.Parallel()
	s := newServer(t, withHello(&keyvaluev1.Hello{MaxInFlight: 4, MaxInFlightBytes: 8 << 10, MaxOperationBytes: 256 << 10}))
	s.setHook(func(context.Context, string) error { return nil }) // makes the server count what is in flight
	kv := s.dial(t).KeyValue("")
	var group sync.WaitGroup
	for i := range 500 {
		group.Go(func() {
			size := i % 10 * 500
			if i%100 == 0 {
				size = 100 << 10 // more than may be in flight: goes alone
			}
			if _, err := kv.Store(t.Context(), fmt.Sprint(i), make([]byte, size)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if s.pipelined.Load() != 500 {
		t.Errorf("%d operations arrived", s.pipelined.Load())
	}
}

func TestQueueIsFair(t *testing.T) {
	t.Parallel()
	s := newServer(t, withHello(&keyvaluev1.Hello{MaxInFlight: 1, MaxInFlightBytes: 4 << 20, MaxOperationBytes: 256 << 10}))
	opened := make(chan struct{})
	var mu sync.Mutex
	var order []string
	s.setHook(func(_ context.Context, key string) error {
		if key == "(open)" {
			return nil
		}
		<-opened
		mu.Lock()
		defer mu.Unlock()
		order = append(order, key)
		return nil
	})
	kv := s.dial(t, withStreams(1)).KeyValue("")
	var group sync.WaitGroup
	group.Go(func() { _, _ = kv.Exists(t.Context(), "0") })
	within(t, "the first to arrive", func() bool { return s.pipelined.Load() == 1 })
	for i := 1; i < 50; i++ {
		group.Go(func() { _, _ = kv.Exists(t.Context(), fmt.Sprint(i)) })
		within(t, "it to queue", func() bool { return queued(kv) == i })
	}
	close(opened)
	group.Wait()
	for i, key := range order {
		if key != fmt.Sprint(i) {
			t.Fatalf("call %s came in place %d", key, i)
		}
	}
}

func TestTenThousandCallers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kv := s.dial(t).KeyValue("")
	var group sync.WaitGroup
	for i := range 10_000 {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := kv.Increment(ctx, fmt.Sprint(i%100), 1); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for i := range 100 {
		if n, err := kv.Increment(t.Context(), fmt.Sprint(i), 0); n != 100 || err != nil {
			t.Errorf("key %d: %d, %v", i, n, err)
		}
	}
}

// Calls that give up at random leave nothing behind.
func TestManyCancels(t *testing.T) {
	t.Parallel()
	s := newServer(t, withHello(&keyvaluev1.Hello{MaxInFlight: 16, MaxInFlightBytes: 4 << 20, MaxOperationBytes: 256 << 10}))
	s.setHook(func(ctx context.Context, _ string) error {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
		return nil
	})
	kv := s.dial(t).KeyValue("")
	var group sync.WaitGroup
	for g := range 64 {
		group.Go(func() {
			for i := range scale(300) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((g*7+i*13)%40)*100*time.Microsecond)
				_, err := kv.Store(ctx, fmt.Sprint(g), nil)
				cancel()
				if err != nil && !errors.Is(err, errs.Deadline) && !errors.Is(err, errs.Cancelled) {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	m := kv.last.Load()
	within(t, "nothing to be in flight", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		total := m.queue.size
		for st := range m.live {
			total += st.inFlight + st.bytes
		}
		return total == 0
	})
	if _, err := kv.Store(t.Context(), "after", nil); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsCalls(t *testing.T) {
	t.Parallel()
	s := newServer(t, withHello(&keyvaluev1.Hello{MaxInFlight: 1, MaxInFlightBytes: 4 << 20, MaxOperationBytes: 256 << 10}))
	defer gate(s, "")()
	c := s.dial(t, withStreams(1))
	kv := c.KeyValue("")
	var group sync.WaitGroup
	group.Go(func() {
		_, err := kv.Store(t.Context(), "sent", nil)
		wantReason(t, err, errs.OutcomeUnknown)
	})
	within(t, "the first to arrive", func() bool { return s.pipelined.Load() == 1 })
	group.Go(func() {
		_, err := kv.Store(t.Context(), "queued", nil)
		wantReason(t, err, errs.Cancelled)
	})
	within(t, "the second to queue", func() bool { return queued(kv) == 1 })
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	group.Wait()
	_, err := kv.Exists(t.Context(), "late")
	wantReason(t, err, errs.Cancelled)
}
