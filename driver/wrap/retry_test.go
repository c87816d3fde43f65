package wrap_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// What the backend did not take is sent once more, and only that.
func TestRetryRepeatsWhatWasNotTaken(t *testing.T) {
	t.Parallel()
	first := map[string]bool{}
	b := newBroken(t, func(_ context.Context, _ int64, key string) error {
		if key == "twice" && !first[key] {
			first[key] = true
			return errs.BackendUnavailable
		}
		return nil
	})
	kv := wrap.NewRetrier().KV(b)
	res := make([]driver.Result, 3)
	kv.Apply(t.Context(), []driver.Op{{Kind: driver.Add, Key: "a", Delta: 1}, {Kind: driver.Add, Key: "twice", Delta: 1}, {Kind: driver.Add, Key: "b", Delta: 1}}, res)
	for i, r := range res {
		if r.Err != nil || r.Number != 1 {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if b.operations.Load() != 4 {
		t.Errorf("%d operations sent", b.operations.Load())
	}
	first["twice"] = false
	many := make([]driver.GetResult, 3)
	kv.GetMany(t.Context(), []string{"nobody", "twice", "a"}, driver.ValueOnly, many)
	if !errors.Is(many[0].Err, errs.KeyNotFound) || string(many[1].Value) != "1" || string(many[2].Value) != "1" || b.operations.Load() != 8 {
		t.Errorf("%v after %d operations", many, b.operations.Load())
	}
	first["twice"] = false
	if e, err := kv.Get(t.Context(), "twice", driver.ValueOnly); err != nil || string(e.Value) != "1" {
		t.Errorf("%v %v", e, err)
	}
	first["twice"] = false
	if p, err := kv.Scan(t.Context(), driver.ScanRequest{Prefix: "twice", Limit: 1}); err != nil || len(p.Items) != 1 {
		t.Errorf("%v %v", p, err)
	}
}

// Nothing is repeated of which something may have happened, or which fails
// again anyway.
func TestRetryNever(t *testing.T) {
	t.Parallel()
	for _, reason := range errs.All() {
		if reason == errs.BackendUnavailable {
			continue
		}
		b := newBroken(t, always(reason))
		for name, err := range each(t.Context(), wrap.NewRetrier().KV(b), "k") {
			if !errors.Is(err, reason) {
				t.Errorf("%s: %s became %v", name, reason.String(), err)
			}
		}
		if n := b.calls.Load(); n != 4 {
			t.Errorf("%s: four calls became %d", reason.String(), n)
		}
	}
	b := newBroken(t, always(fmt.Errorf("broken pipe: %w", errs.OutcomeUnknown)))
	if _ = put(t.Context(), wrap.NewRetrier().KV(b), "k"); b.calls.Load() != 1 {
		t.Errorf("a write of unknown outcome was sent %d times", b.calls.Load())
	}
}

// A backend that is down gets at most 1.2 calls for each one of a caller's,
// and when it has come back the retries do, too.
func TestRetryAmplification(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down := true
		b := newBroken(t, func(_ context.Context, n int64, _ string) error {
			if down || n%1000 == 0 {
				return errs.BackendUnavailable
			}
			return nil
		})
		kv := wrap.NewRetrier().KV(b)
		const calls = 100 // few, so that what was saved up counts
		for range calls {
			if err := put(t.Context(), kv, "k"); !errors.Is(err, errs.BackendUnavailable) {
				t.Fatal(err)
			}
		}
		if n := b.calls.Load(); n > calls*12/10 {
			t.Errorf("%d calls became %d", calls, n)
		}
		// Batches count as one call.
		before := b.calls.Load()
		keys, res := make([]string, 100), make([]driver.GetResult, 100)
		for range 100 {
			kv.GetMany(t.Context(), keys, driver.ValueOnly, res)
		}
		if n := b.calls.Load() - before; n > 120 {
			t.Errorf("100 batches became %d", n)
		}
		down = false
		for range 5000 { // what goes well pays for the rare failure
			if err := put(t.Context(), kv, "k"); err != nil && b.operations.Load() > 12_000 {
				t.Errorf("a rare failure was not repeated: %v", err)
			}
		}
	})
}

// A caller's deadline is not waited beyond.
func TestRetryKeepsTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBroken(t, always(errs.BackendUnavailable))
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := put(ctx, wrap.NewRetrier().KV(b), "k"); err == nil || time.Since(began) > time.Millisecond || b.calls.Load() != 1 {
			t.Errorf("%v after %v and %d calls", err, time.Since(began), b.calls.Load())
		}
	})
}
