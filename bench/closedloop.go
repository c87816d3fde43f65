package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// phases of a closed loop.
const (
	warming int32 = iota
	measuring
	stopping
)

// lateStop is how long calls may still take when a window is over.
const lateStop = 10 * time.Second

// A caller is one of those who call again as soon as they are answered.
type caller struct {
	all   int // calls, warm ones included
	took  []time.Duration
	err   error
	guard [64]byte //nolint:unused // keeps two callers out of one cache line
}

// closedLoop lets a number of callers call for a while: throughput, and the
// latency that so many see. ctx must be the one that the session was opened
// with: it ends calls that hang.
func closedLoop(ctx context.Context, c *contender, do call, callers int, warm, window time.Duration) (sample, error) {
	m := meter{process: c.server, noAllocs: c.noAllocs}
	if err := m.before(ctx); err != nil {
		return sample{}, err
	}
	all := make([]caller, callers)
	var phase atomic.Int32
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { all[i].run(do, i, c.spans(), &phase) })
	}
	wait(ctx, warm)
	m.start()
	phase.Store(measuring)
	wait(ctx, window)
	phase.Store(stopping)
	m.stop()
	if err := within(&wg, lateStop); err != nil {
		return sample{}, err
	}
	total := 0
	var took []time.Duration
	for i := range all {
		if all[i].err != nil {
			return sample{}, all[i].err
		}
		total += all[i].all
		took = append(took, all[i].took...)
	}
	if err := ctx.Err(); err != nil {
		return sample{}, err
	}
	if len(took) == 0 {
		return sample{}, fmt.Errorf("no call ended within %v; use a longer -window", window)
	}
	if err := m.after(ctx, total); err != nil {
		return sample{}, err
	}
	return m.sample(took), nil
}

func (c *caller) run(do call, number, span int, phase *atomic.Int32) {
	r := rand.New(rand.NewPCG(uint64(number), 7))
	begin := time.Now()
	for phase.Load() != stopping {
		if c.err = do(number, r.IntN(span)); c.err != nil {
			return
		}
		c.all++
		end := time.Now()
		if phase.Load() == measuring {
			c.took = append(c.took, end.Sub(begin))
		}
		begin = end
	}
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
