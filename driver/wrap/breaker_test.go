package wrap_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// Five failures in a row open the circuit for five seconds; then one call
// tries, and its outcome decides.
func TestBreakerOpensAndCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ill atomic.Bool
		ill.Store(true)
		b := newBroken(t, func(context.Context, int64, string) error {
			if ill.Load() {
				return errs.BackendUnavailable
			}
			return nil
		})
		var changes []bool
		kv := wrap.NewBreaker("b", func(open bool) { changes = append(changes, open) }).KV(b)
		for range 5 {
			if err := put(t.Context(), kv, "k"); !errors.Is(err, errs.BackendUnavailable) {
				t.Fatal(err)
			}
		}
		for name, err := range each(t.Context(), kv, "k") {
			e := errs.From(err)
			if e.Reason != errs.CircuitOpen || e.Delay() < 5*time.Second || e.Delay() > 5*time.Second+time.Millisecond {
				t.Errorf("%s: %v, retry after %v", name, err, e.Delay())
			}
		}
		if n := b.calls.Load(); n != 5 {
			t.Errorf("the backend was called %d times", n)
		}
		time.Sleep(5*time.Second - time.Millisecond)
		if err := put(t.Context(), kv, "k"); !errors.Is(err, errs.CircuitOpen) {
			t.Errorf("just before its time: %v", err)
		}
		time.Sleep(2 * time.Millisecond)
		if err := put(t.Context(), kv, "k"); !errors.Is(err, errs.BackendUnavailable) {
			t.Errorf("the probe: %v", err)
		}
		if err := put(t.Context(), kv, "k"); !errors.Is(err, errs.CircuitOpen) {
			t.Errorf("after a probe that failed: %v", err)
		}
		ill.Store(false)
		time.Sleep(5*time.Second + time.Millisecond)
		for range 10 {
			if err := put(t.Context(), kv, "k"); err != nil {
				t.Errorf("a backend that is well again: %v", err)
			}
		}
		if n := b.calls.Load(); n != 5+1+10 {
			t.Errorf("the backend was called %d times", n)
		}
		if len(changes) != 3 || !changes[0] || !changes[1] || changes[2] {
			t.Errorf("told %v", changes)
		}
	})
}

// Only one call tries at a time; the others are told at once.
func TestBreakerProbesOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		let := make(chan struct{})
		b := newBroken(t, func(_ context.Context, n int64, _ string) error {
			if n > 5 {
				<-let
				return nil
			}
			return errs.BackendUnavailable
		})
		kv := wrap.NewBreaker("b", nil).KV(b)
		for range 5 {
			_ = put(t.Context(), kv, "k")
		}
		time.Sleep(6 * time.Second)
		probe := make(chan error)
		go func() { probe <- put(t.Context(), kv, "k") }()
		synctest.Wait()
		for range 20 {
			if err := put(t.Context(), kv, "k"); !errors.Is(err, errs.CircuitOpen) {
				t.Errorf("beside the probe: %v", err)
			}
		}
		close(let)
		if err := <-probe; err != nil || b.calls.Load() != 6 {
			t.Errorf("%v after %d calls", err, b.calls.Load())
		}
	})
}

// A call that is refused is told when the backend is tried again: whoever
// comes then is let through, and beside a probe it is soon.
func TestBreakerAdvice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		let := make(chan struct{})
		b := newBroken(t, func(_ context.Context, n int64, _ string) error {
			if n > 5 {
				<-let
			}
			return errs.BackendUnavailable
		})
		kv := wrap.NewBreaker("b", nil).KV(b)
		for range 5 {
			_ = put(t.Context(), kv, "k")
		}
		time.Sleep(3700 * time.Millisecond)
		wait := errs.From(put(t.Context(), kv, "k")).Delay()
		if wait < 1300*time.Millisecond || wait > 1310*time.Millisecond {
			t.Errorf("told to wait %v 1.3 s before the rest ends", wait)
		}
		time.Sleep(wait)
		probe := make(chan error)
		go func() { probe <- put(t.Context(), kv, "k") }()
		synctest.Wait()
		if n := b.calls.Load(); n != 6 {
			t.Errorf("the backend was called %d times: nobody was let through after %v", n, wait)
		}
		err := put(t.Context(), kv, "k")
		if wait := errs.From(err).Delay(); !errors.Is(err, errs.CircuitOpen) || wait <= 0 || wait > 200*time.Millisecond {
			t.Errorf("beside the probe: %v, retry after %v", err, wait)
		}
		close(let)
		<-probe
		if wait := errs.From(put(t.Context(), kv, "k")).Delay(); wait < 5*time.Second || wait > 5*time.Second+time.Millisecond {
			t.Errorf("told to wait %v after a probe that failed", wait)
		}
	})
}

// Half of twenty calls within ten seconds open it as well; what is older does
// not count.
func TestBreakerCountsHalf(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		what  string
		pause time.Duration
		opens bool
	}{{"at once", 0, true}, {"over twenty seconds", time.Second, false}} {
		t.Run(x.what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBroken(t, func(_ context.Context, n int64, _ string) error {
					if n%2 == 0 {
						return errs.BackendUnavailable
					}
					return nil
				})
				kv := wrap.NewBreaker("b", nil).KV(b)
				opened := false
				for range 40 {
					opened = opened || errors.Is(put(t.Context(), kv, "k"), errs.CircuitOpen)
					time.Sleep(x.pause)
				}
				if opened != x.opens {
					t.Errorf("opened: %v", opened)
				}
			})
		})
	}
}

// What says nothing about the backend does not open the circuit: a request
// that is wrong, a caller who is impatient or goes away.
func TestBreakerIgnoresCallers(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		what  string
		err   error
		after time.Duration
		opens bool
	}{
		{"no such key", errs.KeyNotFound, 0, false},
		{"a conflict", errs.VersionMismatch, 0, false},
		{"read only", errs.ReadOnly, 0, false},
		{"internal", errors.New("x"), 0, false},
		{"a caller who went away", errs.Cancelled, 0, false},
		{"a deadline of a millisecond", errs.Deadline, time.Millisecond, false},
		{"a deadline of a second", errs.Deadline, time.Second, true},
		{"no backend", errs.BackendUnavailable, 0, true},
		{"no credentials", errs.CredentialsUnavailable, 0, true},
		{"an unknown outcome", errs.OutcomeUnknown, 0, true},
	} {
		t.Run(x.what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBroken(t, func(context.Context, int64, string) error { time.Sleep(x.after); return x.err })
				kv := wrap.NewBreaker("b", nil).KV(b)
				var last error
				for range 30 {
					last = put(t.Context(), kv, "k")
				}
				if opened := errors.Is(last, errs.CircuitOpen); opened != x.opens {
					t.Errorf("opened: %v", opened)
				}
			})
		})
	}
}

// One failure in a batch is a failure of the call, and the other results stay
// as they are.
func TestBreakerBatches(t *testing.T) {
	t.Parallel()
	b := newBroken(t, func(_ context.Context, _ int64, key string) error {
		if key == "bad" {
			return errs.BackendUnavailable
		}
		return nil
	})
	kv := wrap.NewBreaker("b", nil).KV(b)
	for range 5 {
		res := make([]driver.Result, 2)
		kv.Apply(t.Context(), []driver.Op{{Kind: driver.Put, Key: "good"}, {Kind: driver.Put, Key: "bad"}}, res)
		if res[0].Err != nil || !errors.Is(res[1].Err, errs.BackendUnavailable) {
			t.Fatalf("%v", res)
		}
	}
	res := []driver.GetResult{{}, {}}
	kv.GetMany(t.Context(), []string{"good", "bad"}, driver.ValueOnly, res)
	if !errors.Is(res[0].Err, errs.CircuitOpen) || !errors.Is(res[1].Err, errs.CircuitOpen) {
		t.Errorf("%v", res)
	}
}

// All spaces of a backend share its breaker.
func TestBreakerIsShared(t *testing.T) {
	t.Parallel()
	b := wrap.NewBreaker("b", nil)
	one, other := b.KV(newBroken(t, always(errs.BackendUnavailable))), b.KV(newBroken(t, always(nil)))
	for range 5 {
		_ = put(t.Context(), one, "k")
	}
	if err := put(t.Context(), other, "k"); !errors.Is(err, errs.CircuitOpen) {
		t.Error(err)
	}
}
