package wrap_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

func TestLimiter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		b := newBroken(t, func(ctx context.Context, _ int64, _ string) error {
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Second)
			return nil
		})
		l := wrap.NewLimiter(3)
		one, other := l.KV(b), l.KV(b) // two spaces of one backend
		began := time.Now()
		var all sync.WaitGroup
		for i := range 30 {
			kv := one
			if i%2 == 0 {
				kv = other
			}
			all.Go(func() {
				if err := put(t.Context(), kv, "k"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if most.Load() != 3 || time.Since(began) != 10*time.Second {
			t.Errorf("%d at once, done after %v", most.Load(), time.Since(began))
		}
	})
}

// Who waits in vain is told when its time is over, and takes no place.
func TestLimiterKeepsTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBroken(t, func(context.Context, int64, string) error { time.Sleep(time.Minute); return nil })
		kv := wrap.NewLimiter(1).KV(b)
		busy := make(chan error)
		go func() { busy <- put(t.Context(), kv, "k") }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		for name, err := range each(ctx, kv, "k") {
			if !errors.Is(err, errs.Overloaded) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("told after %v", took)
		}
		if err := <-busy; err != nil || b.calls.Load() != 1 {
			t.Errorf("%v after %d calls", err, b.calls.Load())
		}
		if err := put(t.Context(), kv, "k"); err != nil {
			t.Errorf("when there is a place: %v", err)
		}
	})
}

// A call that ends in a panic gives its place back.
func TestLimiterAndPanics(t *testing.T) {
	t.Parallel()
	kv := wrap.NewLimiter(1).KV(newBroken(t, func(context.Context, int64, string) error { panic("made up") }))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, call := range map[string]func(){
		"get":      func() { _, _ = kv.Get(ctx, "k", driver.ValueOnly) },
		"get many": func() { kv.GetMany(ctx, []string{"k"}, driver.ValueOnly, make([]driver.GetResult, 1)) },
		"apply":    func() { kv.Apply(ctx, []driver.Op{{Kind: driver.Put, Key: "k"}}, make([]driver.Result, 1)) },
		"scan":     func() { _, _ = kv.Scan(ctx, driver.ScanRequest{Limit: 1}) },
	} {
		for range 2 { // the second one would find no place
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s did not reach the backend", name)
					}
				}()
				call()
			}()
		}
	}
}
