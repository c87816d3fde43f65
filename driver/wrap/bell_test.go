package wrap_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

// pile is something that is taken from, one at a time.
type pile struct {
	bell  wrap.Bell[string]
	n     atomic.Int64
	tries atomic.Int64
}

func (p *pile) take() (found bool, next time.Duration, err error) {
	p.tries.Add(1)
	for n := p.n.Load(); n > 0; n = p.n.Load() {
		if p.n.CompareAndSwap(n, n-1) {
			return true, 0, nil
		}
	}
	return false, 0, nil
}

// wait waits in the background and adds to one of the counters.
func (p *pile) wait(ctx context.Context, wg *sync.WaitGroup, limit time.Duration, found, left *atomic.Int64) {
	wg.Go(func() {
		had := false
		err := p.bell.Wait(ctx, nil, "a", limit, func() (bool, time.Duration, error) {
			var next time.Duration
			var err error
			had, next, err = p.take()
			return had, next, err
		})
		if had && err == nil {
			found.Add(1)
		} else {
			left.Add(1)
		}
	})
}

func TestBellWakesAsManyAsItIsRungFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p pile
		var found, left atomic.Int64
		var wg sync.WaitGroup
		for range 10 {
			p.wait(t.Context(), &wg, time.Minute, &found, &left)
		}
		synctest.Wait()
		before := p.tries.Load()
		p.n.Add(3)
		p.bell.Ring("b", 5)
		p.bell.Ring("a", 3)
		synctest.Wait()
		if found.Load() != 3 || p.tries.Load() != before+3 {
			t.Errorf("%d have found something in %d tries, want 3", found.Load(), p.tries.Load()-before)
		}
		p.n.Add(2)
		p.bell.RingAll() // which wakes one, who wakes the next
		synctest.Wait()
		if found.Load() != 5 {
			t.Errorf("%d have found something, want 5", found.Load())
		}
		begin := time.Now()
		wg.Wait()
		if took := time.Since(begin); left.Load() != 5 || took > time.Minute {
			t.Errorf("%d have given up after %s", left.Load(), took)
		}
	})
}

// TestBellRingsInTime has timers: the earliest counts, and what comes at once
// comes to all.
func TestBellRingsInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p pile
		var found, left atomic.Int64
		var wg sync.WaitGroup
		p.bell.After("a", time.Second) // nobody waits: of no effect
		for range 4 {
			p.wait(t.Context(), &wg, time.Minute, &found, &left)
		}
		synctest.Wait()
		p.bell.After("a", 10*time.Second)
		p.bell.After("a", 2*time.Second)
		p.bell.After("a", 5*time.Second)
		p.bell.After("a", 0)
		p.n.Add(3)
		time.Sleep(2*time.Second - 1)
		synctest.Wait()
		if found.Load() != 0 {
			t.Errorf("%d have found something too early", found.Load())
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if found.Load() != 3 {
			t.Errorf("%d have found something, want 3", found.Load())
		}
		wg.Wait()
	})
}

// TestBellPassesOn has somebody leave, or fail, with a ring that is meant for
// whoever can use it.
func TestBellPassesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p pile
		var found, left atomic.Int64
		var wg sync.WaitGroup
		failing := false
		wg.Go(func() {
			err := p.bell.Wait(t.Context(), nil, "a", time.Minute, func() (bool, time.Duration, error) {
				if failing {
					return false, 0, errs.BackendUnavailable
				}
				return false, 0, nil
			})
			if !errors.Is(err, errs.BackendUnavailable) {
				t.Errorf("the one that fails: %v", err)
			}
		})
		synctest.Wait() // it is the first in turn
		p.wait(t.Context(), &wg, time.Minute, &found, &left)
		synctest.Wait()
		failing = true
		p.n.Add(1)
		p.bell.Ring("a", 1)
		wg.Wait()
		if found.Load() != 1 {
			t.Error("the ring that the first could not use was lost")
		}
	})
}

func TestBellEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p pile
		ctx, cancel := context.WithCancel(t.Context())
		closed := make(chan struct{})
		time.AfterFunc(time.Second, cancel)
		if err := p.bell.Wait(ctx, closed, "a", time.Minute, p.take); !errors.Is(err, errs.Cancelled) {
			t.Errorf("given up: %v", err)
		}
		time.AfterFunc(time.Second, func() { close(closed) })
		if err := p.bell.Wait(t.Context(), closed, "a", time.Minute, p.take); !errors.Is(err, errs.BackendUnavailable) {
			t.Errorf("closed: %v", err)
		}
		begin := time.Now()
		if err := p.bell.Wait(t.Context(), nil, "a", 0, p.take); err != nil || time.Since(begin) > 0 {
			t.Errorf("no wait: %v after %s", err, time.Since(begin))
		}
	})
}

// TestBellUnderLoad has many that come, give up and find at once: what is there
// at the end is there because nobody waits.
func TestBellUnderLoad(t *testing.T) {
	t.Parallel()
	var p pile
	const all = 2000
	var found, left atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for k := 0; found.Load() < all; k++ {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((i*7+k)%20)*50*time.Microsecond)
				if i < 4 {
					cancel()
					ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
				}
				var one sync.WaitGroup
				p.wait(ctx, &one, time.Second, &found, &left)
				one.Wait()
				cancel()
			}
		})
	}
	for range all {
		p.n.Add(1)
		p.bell.Ring("a", 1)
	}
	wg.Wait()
	if p.n.Load() != 0 {
		t.Errorf("%d are left", p.n.Load())
	}
}
