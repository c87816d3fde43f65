package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

func TestGoingAwayIsNotNoticed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kv := s.dial(t).KeyValue("")
	var done atomic.Int64
	stop := make(chan struct{})
	var group sync.WaitGroup
	for g := range 64 {
		group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := kv.Increment(t.Context(), fmt.Sprint("n", g), 1); err != nil {
					t.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	for range scale(200) {
		before := done.Load()
		within(t, "calls to go on", func() bool { return done.Load() > before+100 || t.Failed() })
		s.goAway()
	}
	close(stop)
	group.Wait()
	var sum int64
	for g := range 64 {
		n, err := kv.Increment(t.Context(), fmt.Sprint("n", g), 0)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	if sum != done.Load() {
		t.Errorf("%d increments were acknowledged, %d happened", done.Load(), sum)
	}
	if s.opened.Load() < 3 {
		t.Errorf("only %d streams were opened", s.opened.Load())
	}
}

// Operations that a server refuses because it drains are made on another
// stream at once, writes too.
func TestDrainingIsNotNoticed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kv := s.dial(t, withStreams(1), WithRetry(RetryPolicy{Tries: 2, BaseDelay: time.Hour, MaxDelay: time.Hour})).KeyValue("")
	const callers = 32
	for round := range scale(100) {
		var group sync.WaitGroup
		for g := range callers {
			group.Go(func() {
				if n, err := kv.Increment(t.Context(), fmt.Sprint("n", g), 1); err != nil || n != int64(round+1) {
					t.Errorf("%d: %d %v", round, n, err)
				}
			})
		}
		group.Wait()
		s.drain()
	}
	if n := s.refused.Load(); n < int64(scale(100)-1) {
		t.Errorf("only %d operations were refused", n)
	}
}

// A call is moved once without a pause, and is known not to have happened when
// its tries are used up.
func TestDrainingEverywhere(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	tries := failing(s, 1000, errs.New(errs.Draining, "never").WithRetry(50*time.Millisecond))
	begin := time.Now()
	_, err := s.dial(t).KeyValue("").Store(t.Context(), "k", nil)
	wantReason(t, err, errs.Draining)
	if took := time.Since(begin); tries.Load() != 3 || s.opened.Load() != 3 || took < 50*time.Millisecond {
		t.Errorf("%d tries on %d streams in %v, want 3 on 3 with a pause of 50 ms", tries.Load(), s.opened.Load(), took)
	}
}

// What a stream that breaks leaves unanswered: reads are repeated, writes only
// under an idempotency key.
func TestBrokenStream(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const each = 40
	var first atomic.Int64
	s.setHook(func(_ context.Context, key string) error {
		if key != "(open)" && first.Add(1) <= 3*each {
			return errAfter
		}
		return nil
	})
	kv := s.dial(t, withStreams(1)).KeyValue("")
	var group sync.WaitGroup
	for i := range each {
		group.Go(func() {
			if _, err := kv.Exists(t.Context(), fmt.Sprint("read", i)); err != nil {
				t.Error("read:", err)
			}
		})
		group.Go(func() {
			_, err := kv.Store(t.Context(), fmt.Sprint("write", i), nil)
			wantReason(t, err, errs.OutcomeUnknown)
		})
		group.Go(func() {
			n, err := kv.Increment(t.Context(), fmt.Sprint("keyed", i), 1, IdempotencyKey(fmt.Sprint("key", i)))
			if err != nil || n != 1 {
				t.Errorf("keyed write: %d, %v", n, err)
			}
		})
	}
	within(t, "everything to arrive", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.executed) == 3*each
	})
	s.lis.cut()
	group.Wait()
	for i := range each {
		r, w, k := s.ran(fmt.Sprint("read", i)), s.ran(fmt.Sprint("write", i)), s.ran(fmt.Sprint("keyed", i))
		if r != 2 || w != 1 || k != 1 {
			t.Errorf("%d: reads ran %d times, writes %d, keyed writes %d; want 2, 1, 1", i, r, w, k)
		}
	}
}

func TestQueuedCallsSurviveBrokenStream(t *testing.T) {
	t.Parallel()
	s := newServer(t, withHello(&keyvaluev1.Hello{MaxInFlight: 1, MaxInFlightBytes: 4 << 20, MaxOperationBytes: 256 << 10}))
	defer gate(s, "sent")()
	kv := s.dial(t, withStreams(1)).KeyValue("")
	var group sync.WaitGroup
	group.Go(func() {
		_, err := kv.Store(t.Context(), "sent", nil)
		wantReason(t, err, errs.OutcomeUnknown)
	})
	within(t, "the first to arrive", func() bool { return s.pipelined.Load() == 1 })
	for i := range 20 {
		group.Go(func() {
			if _, err := kv.Store(t.Context(), fmt.Sprint("queued", i), nil); err != nil {
				t.Error(err)
			}
		})
	}
	within(t, "the others to queue", func() bool { return queued(kv) == 20 })
	s.lis.cut()
	group.Wait()
	for i := range 20 {
		if n := s.ran(fmt.Sprint("queued", i)); n != 1 {
			t.Errorf("a queued write ran %d times", n)
		}
	}
}

// A read that breaks every stream is not repeated for ever.
func TestBreakingCallEnds(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var tries atomic.Int64
	s.setHook(func(_ context.Context, key string) error {
		if key == "poison" {
			tries.Add(1)
			s.lis.cut()
		}
		return nil
	})
	kv := s.dial(t).KeyValue("")
	_, err := kv.Retrieve(t.Context(), "poison")
	wantReason(t, err, errs.BackendUnavailable)
	if n := tries.Load(); n < 2 || n > 3 {
		t.Errorf("it ran %d times, want 2 or 3", n)
	}
}

func TestServerWithoutPipeline(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.setHook(func(_ context.Context, key string) error {
		if key == "(open)" {
			return grpcstatus.Error(codes.Unimplemented, "unknown method Pipeline")
		}
		return nil
	})
	kv := s.dial(t).KeyValue("")
	for range 20 {
		if _, err := kv.Store(t.Context(), "k", nil); err != nil {
			t.Fatal(err)
		}
	}
	if s.opened.Load() != 1 || s.unary.Load() != 20 {
		t.Errorf("%d streams tried, %d unary calls; want 1 and 20", s.opened.Load(), s.unary.Load())
	}
}

func TestRefusedStream(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.setHook(func(_ context.Context, key string) error { return errs.NamespaceNotFound })
	kv := s.dial(t).KeyValue("")
	for range 10 {
		_, err := kv.Retrieve(t.Context(), "k")
		wantReason(t, err, errs.NamespaceNotFound)
	}
	if s.opened.Load() > 5 {
		t.Errorf("%d streams were tried for 10 calls", s.opened.Load())
	}
}

func TestServerComesBack(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kv := s.dial(t).KeyValue("")
	if _, err := kv.Store(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	s.grpc.Stop()
	_, err := kv.Store(t.Context(), "k", nil)
	if !errors.Is(err, errs.BackendUnavailable) && !errors.Is(err, errs.OutcomeUnknown) {
		t.Errorf("got %v from a server that is down", err)
	}
	s.listen(t, s.addr)
	within(t, "calls to succeed again", func() bool {
		_, err := kv.Exists(t.Context(), "k")
		return err == nil
	})
}

func TestServerThatDoesNotGreet(t *testing.T) {
	t.Parallel()
	s := newServer(t, withHello(nil))
	kv := s.dial(t, withHelloIn(50*time.Millisecond), WithRetry(RetryPolicy{Tries: 1})).KeyValue("")
	_, err := kv.Store(t.Context(), "k", nil)
	wantReason(t, err, errs.BackendUnavailable)
}

// A server that reads nothing holds no caller beyond its deadline.
func TestServerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(s *server) { s.deaf = true })
	kv := s.dial(t).KeyValue("")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	begin := time.Now()
	var group sync.WaitGroup
	for i := range 100 {
		group.Go(func() {
			_, err := kv.Store(ctx, fmt.Sprint(i), make([]byte, 60<<10))
			wantReason(t, err, errs.Deadline)
		})
	}
	group.Wait()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("callers were held for %v", took)
	}
}
