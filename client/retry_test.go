package client

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prismgw/prism/errs"
)

// bothWays runs a test over streams and with unary calls.
func bothWays(t *testing.T, test func(t *testing.T, opts ...Option)) {
	t.Helper()
	t.Run("shared", func(t *testing.T) { t.Parallel(); test(t) })
	t.Run("unary", func(t *testing.T) { t.Parallel(); test(t, WithUnary()) })
}

// failing makes the first n operations fail, and counts all.
func failing(s *server, n int64, err error) *atomic.Int64 {
	var tries atomic.Int64
	s.setHook(func(_ context.Context, key string) error {
		if key != "(open)" && tries.Add(1) <= n {
			return err
		}
		return nil
	})
	return &tries
}

func TestRetriesWhatWasNotDone(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, opts ...Option) {
		for _, reason := range []errs.Reason{errs.BackendUnavailable, errs.CircuitOpen, errs.Draining, errs.RateLimited, errs.Overloaded} {
			if reason == errs.Draining && len(opts) == 0 {
				continue // is no reason to wait where there may be another proxy: TestDrainingIsNotNoticed
			}
			s := newServer(t)
			tries := failing(s, 2, errs.New(reason, "not now").WithRetry(30*time.Millisecond))
			begin := time.Now()
			if _, err := s.dial(t, opts...).KeyValue("").Store(t.Context(), "k", nil); err != nil {
				t.Error(reason, err)
			}
			if took := time.Since(begin); tries.Load() != 3 || took < 60*time.Millisecond {
				t.Errorf("%v: %d tries in %v, want 3 in at least 60 ms", reason, tries.Load(), took)
			}
		}
	})
}

func TestGivesUpAfterThreeTries(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, opts ...Option) {
		s := newServer(t)
		tries := failing(s, 1000, errs.New(errs.Overloaded, "never").WithRetry(time.Millisecond))
		_, err := s.dial(t, opts...).KeyValue("").Retrieve(t.Context(), "k")
		wantReason(t, err, errs.Overloaded)
		if tries.Load() != 3 {
			t.Errorf("%d tries, want 3", tries.Load())
		}
	})
}

func TestDoesNotRetryAnswers(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, opts ...Option) {
		for _, reason := range errs.All() {
			switch reason { //nolint:exhaustive // the others are tested here
			case errs.BackendUnavailable, errs.CircuitOpen, errs.Draining, errs.RateLimited, errs.Overloaded:
				continue
			}
			s := newServer(t)
			tries := failing(s, 1000, reason)
			_, err := s.dial(t, opts...).KeyValue("").Store(t.Context(), "k", nil)
			wantReason(t, err, reason)
			if tries.Load() != 1 {
				t.Errorf("%v: %d tries, want 1", reason, tries.Load())
			}
		}
	})
}

func TestRetriesUnknownOutcomeUnderAKey(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, opts ...Option) {
		s := newServer(t)
		tries := failing(s, 1, errs.OutcomeUnknown)
		n, err := s.dial(t, opts...).KeyValue("").Increment(t.Context(), "n", 5, IdempotencyKey("key"))
		if n != 5 || err != nil || tries.Load() != 2 {
			t.Errorf("got %d, %v after %d tries", n, err, tries.Load())
		}
	})
}

func TestDoesNotWaitBeyondDeadline(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	tries := failing(s, 1000, errs.New(errs.RateLimited, "later").WithRetry(3*time.Second))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	begin := time.Now()
	_, err := s.dial(t).KeyValue("").Retrieve(ctx, "k")
	wantReason(t, err, errs.RateLimited)
	if took := time.Since(begin); took > time.Second || tries.Load() != 1 {
		t.Errorf("%d tries in %v", tries.Load(), took)
	}
}

// Under total failure the server sees at most 1.2 times the calls.
func TestRetriesHaveABudget(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, opts ...Option) {
		s := newServer(t)
		tries := failing(s, 1<<40, errs.New(errs.BackendUnavailable, "down").WithRetry(time.Nanosecond))
		kv := s.dial(t, opts...).KeyValue("")
		const calls = 500
		for range calls {
			if _, err := kv.Retrieve(t.Context(), "k"); err == nil {
				t.Fatal("it succeeded")
			}
		}
		if n := tries.Load(); n > calls*12/10 || n <= calls {
			t.Errorf("%d tries for %d calls", n, calls)
		}
	})
}

func TestUnaryConnectionBreaks(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var cut atomic.Int64
	s.setHook(func(_ context.Context, key string) error {
		if cut.Add(-1) >= 0 {
			s.lis.cut()
			return errAfter
		}
		return nil
	})
	kv := s.dial(t, WithUnary()).KeyValue("")
	cut.Store(1)
	_, err := kv.Store(t.Context(), "write", nil)
	wantReason(t, err, errs.OutcomeUnknown)
	cut.Store(1)
	if _, err := kv.Exists(t.Context(), "read"); err != nil {
		t.Error("read:", err)
	}
	cut.Store(1)
	if n, err := kv.Increment(t.Context(), "keyed", 1, IdempotencyKey("key")); n != 1 || err != nil {
		t.Errorf("keyed write: %d, %v", n, err)
	}
	if w, r, k := s.ran("write"), s.ran("read"), s.ran("keyed"); w != 1 || r != 2 || k != 1 {
		t.Errorf("write ran %d times, read %d, keyed write %d; want 1, 2, 1", w, r, k)
	}
}

// A write to a server that is not there was not sent, and the error says so.
func TestNobodyThere(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, opts ...Option) {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = lis.Close()
		c, err := Dial(lis.Addr().String(), append(opts, WithNamespace("test"))...)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 20 {
			_, err = c.KeyValue("").Store(t.Context(), "k", nil)
			wantReason(t, err, errs.BackendUnavailable)
		}
	})
}

func TestBudget(t *testing.T) {
	t.Parallel()
	var b budget
	b.init(2)
	for i, want := range []bool{true, true, false} {
		if b.spend() != want {
			t.Errorf("spending repeat %d of a reserve of 2: not %v", i, want)
		}
	}
	for range 10 {
		b.earn()
	}
	if !b.spend() || b.spend() {
		t.Error("ten successes do not earn one repeat")
	}
	for range 1000 {
		b.earn()
	}
	if have := b.tenths.Load(); have != 20 {
		t.Errorf("%d tenths saved, want at most 20", have)
	}
}

func TestDelay(t *testing.T) {
	t.Parallel()
	r := retrier{policy: RetryPolicy{Tries: 9, BaseDelay: 100 * time.Millisecond, MaxDelay: time.Second}}
	for _, test := range []struct {
		try    int
		advice time.Duration
		least  time.Duration
	}{{1, 0, 100e6}, {2, 0, 200e6}, {3, 0, 400e6}, {8, 0, 1e9}, {1, 7e6, 7e6}, {3, 7e6, 28e6}, {9, 7e6, 1e9}, {99, 0, 1e9}, {2, 3e9, 3e9}} {
		t.Run(fmt.Sprint(test.try, "/", test.advice), func(t *testing.T) {
			t.Parallel()
			for range 100 {
				if d := r.delay(test.try, test.advice); d < test.least || d > test.least*5/4 {
					t.Fatalf("got %v, want %v to a quarter more", d, test.least)
				}
			}
		})
	}
}
